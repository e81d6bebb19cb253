import polars as pl
import pytest

from millrace.usecase import Monitor
from monitoring.arrays import without_arrays
from monitoring.data_quality import check
from monitoring.drift import drift


def test_an_array_is_watched_by_its_mean_and_its_spread() -> None:
    frame = pl.DataFrame({"a": [1], "image": [[1.0, 3.0]], "b": ["x"]})
    found = without_arrays(frame)
    assert found.columns == ["a", "image mean", "image spread", "b"]
    assert found.row(0) == (1, 2.0, 1.0, "x")


def test_a_frame_without_arrays_stays_itself() -> None:
    frame = pl.DataFrame({"a": [1], "texts": [["x"]]})
    assert without_arrays(frame) is frame


@pytest.mark.parametrize("dtype", [pl.List(pl.Float32), pl.List(pl.Int64), pl.Array(pl.Float64, 2)])
def test_every_type_of_numbers_gives_the_same(dtype: pl.DataType) -> None:
    frame = pl.DataFrame({"image": pl.Series([[1, 3], None], dtype=dtype)})
    assert without_arrays(frame).rows() == [(2.0, 1.0), (None, None)]


def test_missing_numbers_are_left_out_and_an_empty_array_has_none() -> None:
    frame = pl.DataFrame({"image": pl.Series([[1.0, None, 3.0], [], [None]], dtype=pl.List(pl.Float64))})
    assert without_arrays(frame).rows() == [(2.0, 1.0), (None, None), (None, None)]


def test_an_empty_frame_keeps_the_columns() -> None:
    frame = pl.DataFrame(schema={"image": pl.List(pl.Float32)})
    assert without_arrays(frame).columns == ["image mean", "image spread"]


def _images(count: int, *, brighter: float = 0.0, contrast: float = 1.0) -> pl.DataFrame:
    values = [[((i * p) % 101) / 101 * contrast + brighter for p in (7, 13, 29, 31)] for i in range(count)]
    return without_arrays(pl.DataFrame({"image": values, "score": [0.5] * count}))


def test_darker_and_flatter_images_drift_each_in_their_own_column() -> None:
    monitor = Monitor(min_rows=100)
    assert drift(_images(500), _images(400), monitor).drifted == ()
    assert drift(_images(500), _images(400, brighter=0.5), monitor).drifted == ("image mean",)
    assert "image spread" in drift(_images(500), _images(400, contrast=0.3), monitor).drifted


def test_a_flood_of_missing_images_cannot_be_trusted() -> None:
    gone = without_arrays(pl.DataFrame({"image": pl.Series([None] * 5, dtype=pl.List(pl.Float32)), "score": [0.5] * 5}))
    problems = check(_images(100), gone).problems
    assert problems == (
        "image mean is 100% missing, in the reference 0%",
        "image spread is 100% missing, in the reference 0%",
    )


def test_what_the_log_rounds_is_no_difference() -> None:
    exact = pl.DataFrame({"image": [[0.1, 700_000.1]]})
    logged = exact.with_columns(pl.col("image").cast(pl.List(pl.Float32)))
    assert without_arrays(exact).rows() == without_arrays(logged).rows()
