"""The flight model in MLServer: a custom runtime of one method, encoded rows in, probabilities out."""

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Flight(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(self.settings.parameters.uri, options)
        self.name_in, self.name_out = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        scores = self.session.run([self.name_out], {self.name_in: rows})[0]
        scores = scores[:, 1] if scores.ndim == 2 else scores
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)])
