"""Where the rows come from: scikit-learn's bundled digits, 1,797 images of 8 × 8 grey values from 0 to 16.

They are the test set of Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), by 13 writers, and
have no times of their own. They keep their order in the file, one a minute: the last 450 are harder than 450 chosen at
random (the baseline is right on 93 % of them, and on 96 % of those).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from millrace import Source

CLASSES = tuple("0123456789")
FIRST, MINUTE = datetime(1998, 7, 1, tzinfo=UTC), timedelta(minutes=1)
READ_AFTER = 10 * MINUTE
"""How long after an image was taken somebody has read it."""
IMAGE = {"image_id": pl.String, "image": pl.List(pl.Float64)}
DIGIT = {"image_id": pl.String, "digit": pl.Int64}


def source(name: str, after: timedelta, **columns: Any) -> Source:
    """The source of these columns of the images, known so long `after` they were taken."""

    def read(since: datetime, until: datetime) -> pl.DataFrame:
        from sklearn.datasets import load_digits

        bundled = load_digits()
        count = len(bundled.target)
        names, taken = [f"{number:04}" for number in range(count)], [FIRST + number * MINUTE for number in range(count)]
        values = {"image_id": names, "image": bundled.data.tolist(), "digit": bundled.target, "event_time": taken}
        rows = pl.DataFrame(values).with_columns(known_at=pl.col("event_time") + after)
        rows = rows.filter(pl.col("known_at") > since, pl.col("known_at") <= until)
        return rows.select(*columns, "event_time", "known_at")

    def schema() -> Any:
        import pandera.polars as pa

        whole = pa.Check(lambda data: data.lazyframe.select(pl.col("image").list.len() == 64), name="64 grey values")
        types = columns | dict.fromkeys(("event_time", "known_at"), pl.Datetime("us", "UTC"))
        checks = {"image": [whole]}
        return pa.DataFrameSchema({name: pa.Column(kind, checks.get(name)) for name, kind in types.items()})

    return Source(name, read, schema, key=("image_id",))


images = source("images", timedelta(0), **IMAGE)
"""What the camera took, known at once."""
digits = source("digits", READ_AFTER, **DIGIT)
"""What somebody read from it, known ten minutes later."""
