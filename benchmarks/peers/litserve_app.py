"""The flight model in LitServe: `python litserve_app.py MODEL.onnx PORT`."""

import sys

import litserve
import numpy as np
import onnxruntime as ort
from encoding import Encoder


class Flight(litserve.LitAPI):
    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(sys.argv[1], options)
        self.encoder = Encoder(sys.argv[1])
        self.name_in, self.name_out = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    def decode_request(self, request):
        rows = request["rows"]
        if isinstance(rows[0], dict):
            rows = [self.encoder.row(row) for row in rows]
        return np.asarray(rows, dtype=np.float32)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, batch):
        flat = batch.reshape(-1, batch.shape[-1])
        scores = self.session.run([self.name_out], {self.name_in: flat})[0]
        scores = scores[:, 1] if scores.ndim == 2 else scores
        return scores.reshape(batch.shape[0], -1)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"scores": output.tolist()}


if __name__ == "__main__":
    # Of (16, 1 ms), (64, 1 ms), (64, 5 ms), (64, 50 ms) the fastest here by a multiple.
    api = Flight(max_batch_size=64, batch_timeout=0.05)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=30)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
