from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from monitoring.maturity import Maturity, maturity

END = datetime(2013, 4, 8, tzinfo=UTC)
SIX = timedelta(hours=6)


def _of(known: int, hours_before_end: list[int], as_of: datetime) -> Maturity:
    """The first `known` rows have a label."""
    times = pl.Series([END - timedelta(hours=hours) for hours in hours_before_end], dtype=pl.Datetime("us", "UTC"))
    labels = pl.Series([1 if i < known else None for i in range(len(times))], dtype=pl.Int8)
    frame = pl.DataFrame({"event_time": times, "label": labels})
    return maturity(frame, end=END, as_of=as_of, arrives_after=SIX, min_coverage=0.7)


def test_enough_labels_before_the_last_are_due_are_provisional() -> None:
    found = _of(8, [30] * 8 + [1, 1], END)
    assert (found.enough, found.settled, found.due, found.overdue) == (True, False, 8, 0)
    assert found.sentence == "Labels are known for 80% of 10 rows: the figures are provisional."


def test_enough_labels_after_the_last_are_due_are_settled() -> None:
    found = _of(8, [30] * 8 + [1, 1], END + SIX)
    assert (found.settled, found.due, found.overdue) == (True, 10, 2)


def test_a_window_whose_labels_do_not_come_is_never_settled() -> None:
    found = _of(0, [30] * 10, END + timedelta(days=300))
    assert (found.enough, found.settled, found.overdue) == (False, False, 10)
    assert "10 are overdue: the figures are provisional and too few to judge by" in found.sentence


def test_an_empty_window_is_not_mature_and_says_nothing() -> None:
    found = _of(0, [], END + timedelta(days=1))
    assert (found.enough, found.settled, found.coverage, found.sentence) == (False, False, 0.0, "")


@pytest.mark.parametrize(("as_of", "due"), [(END + SIX - timedelta(seconds=1), 0), (END + SIX, 3)])
def test_rows_without_times_are_due_with_the_window_s_end(as_of: datetime, due: int) -> None:
    frame = pl.DataFrame({"label": pl.Series([1, None, 0], dtype=pl.Int8)})
    assert maturity(frame, end=END, as_of=as_of, arrives_after=SIX, min_coverage=0.5).due == due
