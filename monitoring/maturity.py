"""Whether a window's labels have come: enough of them to judge by, and all that are due.

Two questions, for two uses. *Enough*: labels are known for `Retrain.min_coverage` of the rows, so the figures speak for
the window and may be acted upon, though early labels need not be like late ones. *Settled*: enough, and
`Label.arrives_after` has passed since the window's end, so the figures are not expected to change any more. Until then
every figure is provisional and is measured again when later labels are known. A window whose labels do not come is
never settled, however old: the labels that are overdue are counted. This module knows nothing of quality or decisions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from millrace.source import EVENT_TIME
from millrace.usecase import LABEL


@dataclass(frozen=True, slots=True)
class Maturity:
    """How far the labels of `rows` predictions have come by the instant that the window is seen at.

    `due` are the rows whose event lies at least `Label.arrives_after` back, `overdue` those of them without a label.
    """

    rows: int
    labelled: int
    due: int
    overdue: int
    enough: bool
    settled: bool

    @property
    def coverage(self) -> float:
        """Share of the rows with a label; 0 for an empty window."""
        return self.labelled / self.rows if self.rows else 0.0

    @property
    def sentence(self) -> str:
        """The maturity in words; empty for an empty window."""
        if not self.rows:
            return ""
        known = f"Labels are known for {self.coverage:.0%} of {self.rows:,} rows"
        if self.settled:
            return f"{known}: the figures are settled."
        late = f", {self.overdue:,} are overdue" if self.overdue else ""
        use = "provisional" if self.enough else "provisional and too few to judge by"
        return f"{known}{late}: the figures are {use}."

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"coverage": self.coverage, "sentence": self.sentence}


def maturity(
    labelled: pl.DataFrame, *, end: datetime, as_of: datetime, arrives_after: timedelta, min_coverage: float
) -> Maturity:
    """The maturity of a window that ends at `end`, seen at `as_of` (aware instants).

    `labelled`: its predictions with `label`, null where it is not known, and their `event_time`; rows without that
    column, or with a null in it, are taken to have happened at `end`.
    """
    open_rows = labelled[LABEL].is_null()
    times = labelled[EVENT_TIME] if EVENT_TIME in labelled.columns else pl.Series([None] * labelled.height)
    instants = times.cast(pl.Datetime("us", "UTC")).fill_null(end)
    due = instants + arrives_after <= as_of
    known = labelled.height - int(open_rows.sum())
    enough = bool(labelled.height) and known >= min_coverage * labelled.height
    return Maturity(
        rows=labelled.height,
        labelled=known,
        due=int(due.sum()),
        overdue=int((due & open_rows).sum()),
        enough=enough,
        settled=enough and as_of >= end + arrives_after,
    )
