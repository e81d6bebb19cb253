from collections.abc import Callable

import numpy as np
import polars as pl

from millrace.usecase import Monitor
from monitoring.drift import drift
from monitoring.slices import slice_drift

Window = Callable[..., pl.DataFrame]


def _with_carriers(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    names = np.random.default_rng(seed).choice(["AA", "B6", "UA", "YV"], frame.height, p=[0.12, 0.4, 0.46, 0.02])
    return frame.with_columns(pl.Series("carrier", names))


def test_a_fault_in_one_slice_is_found_there_though_the_whole_hides_it(window: Window) -> None:
    reference, current = (_with_carriers(window(5_000, seed=seed), seed) for seed in (0, 1))
    wrong = pl.when(pl.col("carrier") == "AA").then(pl.col("n0") + 0.8).otherwise("n0")
    broken = current.with_columns(wrong)
    assert drift(reference, broken, Monitor()).drifted == ()
    found = {one.value: one for one in slice_drift(reference, broken, ["carrier"], Monitor())}
    assert [column.name for column in found["AA"].columns] == ["n0"]
    assert found["AA"].sentence == "Where carrier is AA, 1 column drifted (n0)."
    assert found["B6"].columns == found["UA"].columns == ()


def test_slices_too_small_on_either_side_are_not_judged(window: Window) -> None:
    reference, current = (_with_carriers(window(5_000, seed=seed), seed) for seed in (0, 1))
    assert {one.value for one in slice_drift(reference, current, ["carrier"], Monitor())} == {"AA", "B6", "UA"}


def test_a_slice_column_that_a_frame_lacks_is_skipped(window: Window) -> None:
    assert slice_drift(window(600, seed=0), window(600, seed=1), ["carrier"], Monitor()) == ()


def test_values_missing_within_a_slice_are_told(window: Window) -> None:
    reference, current = (_with_carriers(window(5_000, seed=seed), seed) for seed in (0, 1))
    gone = current.with_columns(pl.when(pl.col("carrier") != "AA").then("n1"))
    found = {one.value: one.missing for one in slice_drift(reference, gone, ["carrier"], Monitor())}
    assert found == {"AA": 1.0, "B6": 0.0, "UA": 0.0}


def test_an_empty_window_has_no_slices(window: Window) -> None:
    reference = _with_carriers(window(2_000, seed=0), 0)
    assert slice_drift(reference, reference.clear(), ["carrier"], Monitor()) == ()
