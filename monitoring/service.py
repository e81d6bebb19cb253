"""How a window's predictions were served: by whom, how fresh, with what flags, at what cost; and whether clocks agree.

All of it is read from the prediction log, and the cost from what was measured of each version before its gate. How long
requests took and which ones failed is not in the log, so it is not told here: the servers' metrics have it, by time
and not by window. This module knows nothing of HTTP, of models or of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from millrace.source import EVENT_TIME

ONLINE = "online"
"""The channel of what a server answered, in the prediction log."""
CLOCK_MINUTES = 10.0
"""Half the online predictions lie at least so far, in the same direction, from the instant predicted at …"""
CLOCK_SPREAD = 0.1
"""… and the middle half of them within this share of it: that is a clock, not a client that asks about the past."""
_CLOCK_ROWS = 20
_GIVEN = 1.0  # seconds: a server's own instant is the one it serves at


@dataclass(frozen=True, slots=True)
class Service:
    """The serving of a window. `channels` and `versions` are rows by name; `flags` is the share of rows that have a
    flag of this kind (`missing`, `stale`, `default`, `unlogged`), of any view.

    `lag_p50_s` and `lag_p99_s` are seconds from the instant predicted at to the answer, online, None without such
    rows: how late a request's instant was when it was answered, with clocks that agree. `cost_per_1000` is in the
    currency of `price` (of a core hour), `joules_per_1000` energy; None where it was not measured or has no price.
    """

    rows: int
    channels: Mapping[str, int]
    versions: Mapping[str, int]
    flags: Mapping[str, float]
    lag_p50_s: float | None
    lag_p99_s: float | None
    core_seconds_per_1000: float | None
    cost_per_1000: float | None
    joules_per_1000: float | None
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"problems": list(self.problems)}


def service(
    predictions: pl.DataFrame, *, costs: Mapping[int, Mapping[str, float]] | None = None, price: float | None = None
) -> Service:
    """How the rows of the prediction log were served; columns that they lack are not told of.

    `costs`: of each version the figures of its gate (`p50_ms`, `joules_per_1000`); `price`: of one hour of a core.
    """
    core, joules = _per_1000(predictions, costs or {})
    lags = _lags(predictions)
    p50, p99 = (float(lags.quantile(share) or 0.0) if len(lags) else None for share in (0.5, 0.99))
    return Service(
        rows=predictions.height,
        channels=_counts(predictions, "channel"),
        versions=_counts(predictions, "version"),
        flags=_flags(predictions),
        lag_p50_s=p50,
        lag_p99_s=p99,
        core_seconds_per_1000=core,
        cost_per_1000=core / 3600 * price if core is not None and price else None,
        joules_per_1000=joules,
        problems=tuple(_clock_problem(lags)),
    )


def _lags(predictions: pl.DataFrame) -> pl.Series:
    """Seconds from the instant predicted at to the answer, of the rows that a server answered."""
    if not {"channel", "served_at", EVENT_TIME} <= set(predictions.columns):
        return pl.Series(dtype=pl.Float64)
    lag = (pl.col("served_at") - pl.col(EVENT_TIME)).dt.total_microseconds() / 1e6
    return predictions.lazy().filter(pl.col("channel") == ONLINE).select(lag.alias("lag")).collect()["lag"].drop_nulls()


def _clock_problem(lags: pl.Series) -> list[str]:
    """The sentence that a client's clock and the server's disagree, if they do.

    Looked at are the rows whose instant the client gave; a backlog that is worked off, or questions about the past,
    lie apart from one another. An instant well after its answer cannot be right in any case.
    """
    given = lags.filter(lags.abs() > _GIVEN)
    if len(given) < _CLOCK_ROWS:
        return []
    low, middle, high = (float(given.quantile(share) or 0.0) for share in (0.25, 0.5, 0.75))
    if abs(middle) < 60 * CLOCK_MINUTES:
        return []
    if middle < 0 or high - low <= CLOCK_SPREAD * abs(middle):
        side, minutes = ("before" if middle < 0 else "after"), f"{abs(middle) / 60:.0f}"
        what = f"{len(given):,} predictions were answered about {minutes} minutes {side} the instant they are for"
        return [f"the clocks disagree: {what}"]
    return []


def _flags(predictions: pl.DataFrame) -> dict[str, float]:
    """The share of all rows that has a flag of each kind: what stands before the colon."""
    if "flags" not in predictions.columns or predictions.is_empty():
        return {}
    flagged = predictions.lazy().select("flags").filter(pl.col("flags") != "").with_row_index("_row")
    kinds = flagged.select("_row", pl.col("flags").str.split(",")).explode("flags")
    kinds = kinds.select("_row", pl.col("flags").str.split(":").list.first()).unique()
    counts = kinds.group_by("flags").len().sort("flags").collect()
    return {str(kind): rows / predictions.height for kind, rows in counts.iter_rows()}


def _counts(predictions: pl.DataFrame, column: str) -> dict[str, int]:
    if column not in predictions.columns:
        return {}
    return {str(name): rows for name, rows in predictions[column].value_counts().sort(column).iter_rows()}


def _per_1000(predictions: pl.DataFrame, costs: Mapping[int, Mapping[str, float]]) -> tuple[float | None, float | None]:
    """Core seconds and joules of 1,000 of these predictions, each version by what was measured of it.

    A row alone occupies one core for its median latency: what a full batch costs less.
    """
    known = {version: rows for version, rows in _counts(predictions, "version").items() if int(version) in costs}
    total = sum(known.values())
    if not total or total < predictions.height:
        return None, None
    found = []
    for name in ("p50_ms", "joules_per_1000"):
        figures = [(rows, costs[int(version)].get(name)) for version, rows in known.items()]
        complete = all(figure is not None for _, figure in figures)
        found.append(sum(rows * (figure or 0.0) for rows, figure in figures) / total if complete else None)
    return found[0], found[1]  # a thousand predictions of so many milliseconds each are as many seconds
