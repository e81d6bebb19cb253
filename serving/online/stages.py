"""Where the time of a prediction went: consecutive stages from the request's arrival to its answer.

A batch's part is measured once for all its requests, which costs six readings of a clock; each request adds what came
before and after its batch. This module knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stages:
    """What a batch spent on reading features, in the model, on the log and on its answers; seconds.

    `began` is when it began (`time.perf_counter`) and `rows` how many rows it had.
    """

    began: float
    rows: int
    features: float = 0.0
    model: float = 0.0
    log: float = 0.0
    answers: float = 0.0

    def of_request(self, arrived: float, started: float, submitted: float, ended: float) -> dict[str, float]:
        """Milliseconds by stage of one of its requests, which was whole at `started` and queued at `submitted`.

        `receive` (the body, the guard), `parse`, `queue`, the batch's own, `reply`: together they are all of its time.
        """
        batch = (self.features, self.model, self.log, self.answers)
        told = {
            "receive": started - arrived,
            "parse": submitted - started,
            "queue": self.began - submitted,
            **dict(zip(("features", "model", "log", "answers"), batch, strict=True)),
            "reply": ended - self.began - sum(batch),
        }
        return {name: 1e3 * seconds for name, seconds in told.items()}
