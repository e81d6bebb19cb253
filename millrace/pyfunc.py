"""A bundle as MLflow's `pyfunc` model: what `mlflow.pyfunc.load_model` and `mlflow models serve` load.

The bundle is verified with this machine's own key before anything of it is parsed, as in Millrace's servers. `MLmodel`,
the file that names this loader, is MLflow's and not signed: who may write to MLflow's artifact store can make MLflow
load something else. Millrace's own servers never read it. Nothing of MLflow is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from millrace.bundle import open_bundle
from millrace.contract import Contract
from millrace.engine import Engine, open_engine
from millrace.errors import RequestError
from millrace.keys import public_key
from millrace.settings import read_settings

if TYPE_CHECKING:
    import pandas as pd


class Predictor:
    """What MLflow calls `predict` of."""

    def __init__(self, contract: Contract, engine: Engine) -> None:
        self._contract, self._engine = contract, engine

    def predict(self, data: pd.DataFrame) -> pd.DataFrame:
        """The probabilities of each row, its index kept: column `score`, or one column a class.

        `data` holds the model's inputs as columns, in any order, among others; missing values are None or NaN, an
        array-valued input is a list or an array a row. Raises `RequestError` for a column that is absent or a value of
        the wrong type, naming the input.
        """
        import pandas as pd

        missing = [name for name in self._contract.names if name not in data.columns]
        if missing:
            raise RequestError(
                422, f"The rows lack {', '.join(missing)}.", field=missing[0], looked="Every input must be a column."
            )
        columns = [_plain(data[name]) for name in self._contract.names]
        matrix = self._contract.encode_rows(list(zip(*columns, strict=True)))
        scores = self._engine.predict(matrix)
        names = self._contract.classes or ("score",)
        return pd.DataFrame(scores.reshape(len(matrix), len(names)), index=data.index, columns=list(names))


def _plain(column: pd.Series[object]) -> list[object]:
    """A column as plain values, missing ones as None or NaN: what a request holds."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        numbers: list[object] = column.tolist()
        return numbers
    values = column.astype(object).where(column.notna(), None).tolist()
    return [value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for value in values]


def _load_pyfunc(data_path: str) -> Predictor:
    """Called by MLflow with the path of the model's data: the bundle. Raises `BundleError` when it is not whole."""
    settings = read_settings()
    bundle = open_bundle(Path(data_path), public_key=public_key(settings))
    return Predictor(bundle.contract, open_engine(bundle, threads=settings.threads, settings=settings))
