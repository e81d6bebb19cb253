"""The flight model in BentoML: `bentoml serve bentoml_service:Flight`, its model named by BENCH_MODEL."""

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Flight:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)
        self.name_in, self.name_out = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    # Rows, not requests: as many as 64 connections bring at most.
    @bentoml.api(batchable=True, max_batch_size=6_400)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        scores = self.session.run([self.name_out], {self.name_in: rows.astype(np.float32)})[0]
        return scores[:, 1] if scores.ndim == 2 else scores
