"""The flight model in MLServer: a custom runtime, encoded rows or one input a column in, probabilities out."""

import numpy as np
import onnxruntime as ort
from encoding import Encoder
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Flight(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(self.settings.parameters.uri, options)
        self.encoder = Encoder(self.settings.parameters.uri)
        self.name_in, self.name_out = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]) if len(payload.inputs) == 1 else self.named(payload)
        scores = self.session.run([self.name_out], {self.name_in: rows})[0]
        scores = scores[:, 1] if scores.ndim == 2 else scores
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)])

    def named(self, payload: InferenceRequest) -> np.ndarray:
        """The matrix of one input a column."""
        columns = {one.name: one.data.root for one in payload.inputs}
        encoded = [[self.encoder.value(name, value) for value in columns[name]] for name in self.encoder.names]
        return np.asarray(encoded, dtype=np.float32).T.copy()
