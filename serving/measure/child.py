"""In a fresh process: open a bundle, weigh it, time it, and answer what it costs. Started by `serving.measure.process`.

The model is asked through `serving.online.scorer.Scorer`, the server's own, with rows that give all their features, so
no store is read, and without a prediction log. The garbage collector runs as it does in a server.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from millrace.errors import BundleError, MillraceError
from millrace.settings import quiet_vendors
from serving.measure.cost import Cost
from serving.measure.energy import energy_of, open_meter
from serving.measure.machine import resident_bytes
from serving.measure.messages import Opened, Order, Refused
from serving.measure.timing import Stopwatch, Timing, stopwatch, timed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from millrace.bundle import Bundle
    from serving.online.request import PredictRequest

Score = Callable[[Sequence["PredictRequest"]], Sequence[Any]]

BATCH = 100
_BUSY = 0.1
"""Share of the time that other processes held the core, from which on a timing is remarked on. Not the waiting itself
counts then, which is taken off, but the caches that it leaves cold."""
_WARM_UP_ROWS = 64
"""What a server predicts at once before it lets a model answer (`serving.online.model`)."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that answered once, and the milliseconds until then."""

    bundle: Bundle
    score: Score
    cold_start_ms: float


def carry_out(order: Order) -> Opened:
    """Open the bundle and, unless `order.calls` is 0, measure it. Raises `MillraceError` when it cannot be done."""
    key = _import_what_every_server_has(order.public_key)
    before = resident_bytes()
    model = _open(order, key)
    seconds = time.process_time()
    cost = _measured(order, model, before) if order.calls else None
    return Opened(cold_start_ms=model.cold_start_ms, seconds=seconds, cost=cost)


def _open(order: Order, key: Ed25519PublicKey) -> _Opened:
    """From the folder to the first answer; the time that the thread had no core is taken off."""
    from millrace.bundle import open_bundle

    with stopwatch() as watch:
        started = watch.net()
        bundle = open_bundle(Path(order.folder), public_key=key)
        score = _scorer(bundle, order.threads)
        for count in (_WARM_UP_ROWS, 1):
            score([_request(_checked(bundle, order.rows[:count]), count)])
        return _Opened(bundle, score, 1e3 * (watch.net() - started))


def _measured(order: Order, model: _Opened, before: int) -> Cost:
    """Time one row, then 100 rows with what is left of the limit; weigh, less what the requests themselves take."""
    opened = resident_bytes()
    rows = _checked(model.bundle, order.rows)
    singles = [[_request([row], 1)] for row in rows]
    hundreds = [[_request(rows[start:] + rows[:start], BATCH)] for start in range(0, len(rows), BATCH)]
    requests = resident_bytes() - opened
    scores = _scores(model, rows)
    with stopwatch() as watch:
        end = watch.now() + order.limit_s
        one = timed(model.score, singles, calls=order.calls, limit_s=order.limit_s / 2, stopwatch=watch)
        left = max(end - watch.now(), order.limit_s / 2)
        hundred, joules, why = _metered(order, model.score, hundreds, left, watch)
    return Cost(
        p50_ms=one.p50_ms,
        p99_ms=one.p99_ms,
        p50_ms_100=hundred.p50_ms,
        p99_ms_100=hundred.p99_ms,
        memory_mb=max(resident_bytes() - before - requests, 0) / 1e6,
        bundle_mb=model.bundle.size_mb,
        cold_start_ms=model.cold_start_ms,
        joules_per_1000=joules,
        calls=one.calls,
        calls_100=hundred.calls,
        remarks=_remarks(one, hundred, order.calls) | ({"joules_per_1000": f"unmeasured: {why}"} if why else {}),
        scores=scores,
    )


def _scores(model: _Opened, rows: list[list[Any]]) -> list[list[float]]:
    """What all rows are answered at once: the score of each, of a model of classes those of all classes."""
    from serving.online.request import PredictRequest, ScoresRequest

    classes = model.bundle.contract.classes
    asked = ScoresRequest if classes else PredictRequest
    (answer,) = model.score([asked(len(rows), (), values=rows)])
    return [[row.scores[name] for name in classes] if classes else [row.score] for row in answer.predictions]


def _metered(
    order: Order, score: Score, hundreds: list[list[PredictRequest]], limit_s: float, watch: Stopwatch
) -> tuple[Timing, float | None, str]:
    """The timing of 100 rows; the joules of 1,000 predictions, or None and why there is no figure."""
    found: list[Timing] = []

    def work() -> None:
        found.append(timed(score, hundreds, calls=order.calls, limit_s=limit_s, stopwatch=watch))

    meter, why = open_meter(Path(order.powercap))
    if meter is None:
        work()
        return found[0], None, why
    energy = energy_of(work, meter)
    return found[0], energy.per_1000(found[0].made * BATCH), energy.why


def _remarks(one: Timing, hundred: Timing, asked: int) -> dict[str, str]:
    """What weakens the timings, in words, by metric."""
    found = {}
    for name, timing in (("p99_ms", one), ("p99_ms_100", hundred)):
        few = f"of {timing.calls:,} calls, since {asked:,} would take too long" if timing.calls < asked else ""
        busy = f"the machine was busy: for {timing.waited:.0%} of the time there was no core"
        texts = [few, busy if timing.waited > _BUSY else ""]
        if any(texts):
            found[name] = "; ".join(filter(None, texts))
    return found


def _import_what_every_server_has(public_key: bytes) -> Ed25519PublicKey:
    """Load what is not the model's to pay for, and make the key with it."""
    import onnxruntime  # noqa: F401  # a server has it, whatever it serves
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    import serving.online.scorer  # noqa: F401  # with it come numpy, polars, msgspec and the contract

    return Ed25519PublicKey.from_public_bytes(public_key)


def _scorer(bundle: Bundle, threads: int) -> Score:
    """The server's scorer of this bundle, without a store and without a log."""
    from millrace.engine import open_engine
    from millrace.telemetry import Metrics
    from serving.online.scorer import Scorer

    engine = open_engine(bundle, threads=threads)
    score = Scorer(
        contract=bundle.contract, engine=engine, reader=None, order=None, version=0, key=(), log=None,
        metrics=Metrics(), clock=lambda: datetime.now(UTC),
    )  # fmt: skip

    def checked(requests: Sequence[PredictRequest]) -> Sequence[Any]:
        for answer in (answers := score(requests)):
            if isinstance(answer, MillraceError):
                raise answer
        return answers

    return checked


def _checked(bundle: Bundle, rows: list[list[Any]]) -> list[list[Any]]:
    """The rows; `BundleError` when one has not as many values as the contract has inputs."""
    width = len(bundle.contract.inputs)
    for row in rows:
        if len(row) != width:
            raise BundleError(f"A row to measure with has {len(row)} values; the model takes {width}.")
    return rows


def _request(rows: Sequence[list[Any]], count: int) -> PredictRequest:
    """A request of so many of the rows, from the first again when they run out, as the decoder gives it."""
    from serving.online.request import PredictRequest

    return PredictRequest(count, (), values=list(islice(cycle(rows), count)))


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the answer
    quiet_vendors()
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    answer: Opened | Refused
    try:
        answer = carry_out(order)
    except MillraceError as error:
        answer = Refused(error.what, error.looked, error.todo)
    with answers:
        answers.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    _main()
