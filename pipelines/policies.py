"""Naive policies of retraining, and how the loop stands beside them: losses on the same rows, trainings, gains.

Pure functions of a frame of scores and outcomes; this module knows nothing of models, stores or of how one trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from millrace.errors import MillraceError
from millrace.quality import row_log_losses
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL

LOOP = "loop"
"""The platform's own policy: the use case's `Retrain`, through the gate."""
NEVER = "never"
"""The first champion, left alone: what every gain is measured against."""
WEEKLY = "weekly"
CALENDARS: Mapping[str, int] = {NEVER: 0, "monthly": 4, WEEKLY: 1}
"""The naive policies: every how many weeks each trains (0: never). Each new model that keeps its budget serves at once:
no champion is asked, nothing is watched."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One policy at the end of a replay. Losses are mean row log losses in nats, over all rows and by month ("2013-04",
    UTC); `gain` is by how much lower the loss is than that of never training again.

    `share` is the gain as a share of the weekly policy's, `gain_per_training` that of one training; None where there is
    nothing to divide by. `better_months` are those with a lower loss than never training again.
    """

    policy: str
    trainings: int
    models: int
    rows: int
    log_loss: float
    gain: float
    share: float | None
    gain_per_training: float | None
    better_months: int
    months: Mapping[str, float]


def chosen(names: str) -> tuple[str, ...]:
    """The naive policies of a comma-separated list, in `CALENDARS`' order, `never` always among them; none of "none".

    Raises `MillraceError` naming one that there is not.
    """
    asked = {name.strip() for name in names.split(",") if name.strip()}
    if asked <= {"none"}:
        return ()
    unknown = sorted(asked - set(CALENDARS))
    if unknown:
        raise MillraceError(
            f"There is no naive policy {unknown[0]!r}.",
            looked=f"There are {', '.join(CALENDARS)}, and none for no comparison.",
            todo=f"Type: --beside {','.join(CALENDARS)}",
        )
    return tuple(name for name in CALENDARS if name in asked | {NEVER})


def due(policy: str, week: int) -> bool:
    """Whether a naive policy trains at the end of this week, the first of which is number 1."""
    every = CALENDARS[policy]
    return every > 0 and week % every == 0


def standings(
    scored: pl.DataFrame, policies: Sequence[str], trainings: Mapping[str, int], models: Mapping[str, int]
) -> list[Standing]:
    """How the policies stand, the loop first.

    `scored` has `event_time`, `label` (0 or 1) and a column of scores named as each of `policies`; `trainings` and
    `models` say how often each trained after the first champion, and how many of these models served. Rows that lack a
    label or a policy's score count for none. Without any row there is nothing to compare, and the list is empty.
    """
    names = [LOOP, *policies]
    rows = scored.drop_nulls([LABEL, *names])
    if rows.is_empty():
        return []
    y = rows[LABEL].to_numpy()
    losses = rows.select(
        pl.col(EVENT_TIME).dt.strftime("%Y-%m").alias("month"),
        *(pl.Series(name, row_log_losses(y, rows[name].to_numpy())) for name in names),
    )
    months = losses.group_by("month").mean().sort("month")
    means = {name: float(losses[name].mean()) for name in names}  # type: ignore[arg-type]  # of floats it is one
    weekly = means[NEVER] - means[WEEKLY] if WEEKLY in means else 0.0
    return [
        Standing(
            policy=name,
            trainings=trainings[name],
            models=models[name],
            rows=rows.height,
            log_loss=means[name],
            gain=means[NEVER] - means[name],
            share=(means[NEVER] - means[name]) / weekly if weekly > 0 else None,
            gain_per_training=(means[NEVER] - means[name]) / trainings[name] if trainings[name] else None,
            better_months=int((months[name] < months[NEVER]).sum()),
            months=dict(zip(months["month"], months[name], strict=True)),
        )
        for name in names
    ]


def as_rows(found: Sequence[Standing]) -> list[dict[str, Any]]:
    """For JSON and for the table that people read."""
    return [{name: getattr(one, name) for name in Standing.__slots__} for one in found]
