"""The flight model in BentoML: `bentoml serve bentoml_service:Flight`, its model named by BENCH_MODEL."""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from encoding import Encoder


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Flight:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)
        self.encoder = Encoder(os.environ["BENCH_MODEL"])
        self.name_in, self.name_out = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    # Rows, not requests: as many as 64 connections bring at most.
    @bentoml.api(batchable=True, max_batch_size=6_400)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.scores(rows.astype(np.float32))

    def scores(self, matrix: np.ndarray) -> np.ndarray:
        scores = self.session.run([self.name_out], {self.name_in: matrix})[0]
        return scores[:, 1] if scores.ndim == 2 else scores

    @bentoml.api(batchable=True, max_batch_size=6_400)
    def predict_named(self, rows: list[dict]) -> np.ndarray:
        return self.scores(np.asarray([self.encoder.row(row) for row in rows], dtype=np.float32))
