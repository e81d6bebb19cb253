"""Array-valued columns as two numbers each, so that a window of them can be watched like any other: mean and spread.

An image that got darker moves its mean, one that got blurred or lost its contrast its spread (the standard deviation
over its values). A change that leaves both alone is not seen here; the score and the predicted class may show it. This
module knows nothing of tests or of what follows.
"""

from __future__ import annotations

import polars as pl

from millrace.inputs import is_numeric_array


def without_arrays(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with `<name> mean` and `<name> spread` (Float64) in the place of each column of numeric arrays.

    Null where the array is, or has no value. Columns of other types, in their order, stay as they are.
    """
    arrays = {name for name, dtype in frame.schema.items() if is_numeric_array(dtype)}
    if not arrays:
        return frame
    return frame.select(part for name in frame.columns for part in (_parts(name) if name in arrays else [pl.col(name)]))


def _parts(name: str) -> list[pl.Expr]:
    # as the log keeps them, else a value that no float32 has would differ from itself
    values = pl.col(name).cast(pl.List(pl.Float32)).cast(pl.List(pl.Float64))
    return [values.list.mean().alias(f"{name} mean"), values.list.std(ddof=0).alias(f"{name} spread")]
