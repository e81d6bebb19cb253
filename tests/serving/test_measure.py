"""What a bundle costs, measured in processes of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import psutil
import pytest

from millrace.budget import COST_METRICS
from millrace.bundle import Contract, open_bundle, write_bundle
from millrace.engine import open_engine
from millrace.errors import BundleError, RequestError
from millrace.keys import public_key, signing_key
from millrace.settings import Settings, read_settings
from serving.measure import Cost, measure
from serving.measure.child import carry_out
from serving.measure.messages import Opened, Order
from serving.measure.process import CALLS

from .conftest import CONTRACT, onnx_model
from .test_classes import CONTRACT as OF_CLASSES
from .test_classes import softmax_model

ROWS: list[list[Any]] = [[0.5, 0.1], [None, 1.0]]
QUICK: dict[str, Any] = {"calls": 100, "limit_s": 0.2}


def bundle_at(folder: Path, settings: Settings, *, model: bytes | None = None, contract: Contract = CONTRACT) -> Path:
    """A signed bundle: of sigmoid(delay - far), if no other model is given."""
    sample = {spec.name: [0.0] if spec.size == 1 else [[0.0] * spec.size] for spec in contract.inputs}
    predicted = {"predicted": [0]} if contract.classes else {}
    reference = pl.DataFrame(sample | predicted | {"score": [0.5], "label": [1]})
    model = model or onnx_model((1.0, -1.0))
    write_bundle(folder, contract=contract, model=model, reference=reference, key=signing_key(settings))
    return folder


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    """A small model's bundle."""
    return bundle_at(tmp_path / "bundle", settings)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings, Cost]:
    """A small model's bundle and its cost, on a machine without energy counters."""
    home = tmp_path_factory.mktemp("measured")
    settings = read_settings(home=home)
    folder = bundle_at(home / "bundle", settings)
    return (
        folder,
        settings,
        measure(folder, settings, rows=[*ROWS, [np.float64(0.5), np.int64(1)]], powercap=home / "absent", **QUICK),
    )


def test_every_figure_is_there_but_energy_without_counters(small: tuple[Path, Settings, Cost]) -> None:
    assert set(small[2].figures()) == set(COST_METRICS) - {"joules_per_1000"}


def test_what_is_unmeasured_is_told_with_its_reason(small: tuple[Path, Settings, Cost]) -> None:
    assert "unmeasured: this machine shows no energy counters" in small[2].notes()["joules_per_1000"]


def test_what_each_row_was_answered_is_told(small: tuple[Path, Settings, Cost]) -> None:
    folder, settings, cost = small
    bundle = open_bundle(folder, public_key=public_key(settings))
    matrix = bundle.contract.encode_rows([*ROWS, [0.5, 1.0]])
    assert [score for (score,) in cost.scores] == open_engine(bundle).predict(matrix).tolist()


def test_latencies_are_ordered(small: tuple[Path, Settings, Cost]) -> None:
    cost = small[2]
    assert 0 < cost.p50_ms <= cost.p99_ms
    assert cost.p50_ms < cost.p50_ms_100 <= cost.p99_ms_100


def test_however_busy_the_machine_sixty_calls_stand_behind_a_figure(
    small: tuple[Path, Settings, Cost],
) -> None:
    assert small[2].calls >= 60
    assert small[2].calls_100 >= 60


def test_10000_calls_of_each_kind_stand_behind_a_figure_when_nobody_asks_for_fewer(
    folder: Path, settings: Settings
) -> None:
    assert CALLS == 10_000
    cost = measure(folder, settings, rows=ROWS)
    assert cost.calls >= CALLS
    assert cost.calls_100 >= CALLS
    assert not any("calls" in note for note in cost.notes().values())


def test_a_small_model_takes_little_memory(small: tuple[Path, Settings, Cost]) -> None:
    assert 0 < small[2].memory_mb < 50


def test_the_size_leaves_the_reference_sample_out(small: tuple[Path, Settings, Cost]) -> None:
    folder, settings, cost = small
    assert cost.bundle_mb == open_bundle(folder, public_key=public_key(settings)).size_mb
    assert cost.bundle_mb < sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def order_of(folder: Path, settings: Settings, rows: list[list[Any]] = ROWS, *, calls: int = 100) -> Order:
    """What the measuring process would be told."""
    return Order(
        folder=str(folder), public_key=public_key(settings).public_bytes_raw(), rows=rows, calls=calls, limit_s=0.2,
        threads=1, powercap="absent",
    )  # fmt: skip


def test_fewer_calls_than_asked_are_told(folder: Path, settings: Settings) -> None:
    cost = carry_out(order_of(folder, settings, calls=10_000_000)).cost
    assert cost is not None
    assert f"of {cost.calls:,} calls, since 10,000,000 would take too long" in cost.notes()["p99_ms"]


def test_without_calls_a_bundle_is_only_opened(folder: Path, settings: Settings) -> None:
    opened = carry_out(order_of(folder, settings, calls=0))
    assert opened.cost is None
    assert opened.cold_start_ms > 0


def test_energy_is_read_where_there_are_counters(folder: Path, settings: Settings, tmp_path: Path) -> None:
    counter = tmp_path / "powercap" / "intel-rapl:0"
    counter.mkdir(parents=True)
    for name, content in {"name": "package-0", "max_energy_range_uj": "1000", "energy_uj": "0"}.items():
        (counter / name).write_text(content)
    order = msgspec.structs.replace(order_of(folder, settings), powercap=str(counter.parent))
    cost = carry_out(order).cost
    assert cost is not None
    assert cost.joules_per_1000 is None
    assert "drew no more than idle ones" in cost.notes()["joules_per_1000"]  # a counter that stands still


def test_a_model_of_classes_and_of_arrays_is_measured(tmp_path: Path, settings: Settings) -> None:
    folder = bundle_at(tmp_path / "bundle", settings, model=softmax_model(), contract=OF_CLASSES)
    cost = carry_out(order_of(folder, settings, [[[0.5, 2.0, 0.0], True]])).cost
    assert cost is not None
    assert [len(scores) for scores in cost.scores] == [len(OF_CLASSES.classes)]
    assert sum(cost.scores[0]) == pytest.approx(1)


def test_what_no_request_can_hold_is_not_measured(folder: Path, settings: Settings) -> None:
    with pytest.raises(BundleError, match="holds a object, which no request can"):
        measure(folder, settings, rows=[[object(), 1.0]], **QUICK)


def test_a_damaged_bundle_is_not_measured(folder: Path, settings: Settings) -> None:
    (folder / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"could not be measured: .*model\.onnx is damaged"):
        measure(folder, settings, rows=ROWS, **QUICK)


def test_rows_of_the_wrong_width_are_told(folder: Path, settings: Settings) -> None:
    with pytest.raises(BundleError, match="takes 2"):
        carry_out(order_of(folder, settings, [[0.5]]))


def test_rows_of_the_wrong_type_are_told(folder: Path, settings: Settings) -> None:
    with pytest.raises(RequestError, match="delay must be a number"):
        carry_out(order_of(folder, settings, [["late", 0.1]]))


def test_a_model_that_gives_no_number_for_a_row_is_refused(tmp_path: Path, settings: Settings) -> None:
    folder = bundle_at(tmp_path / "bundle", settings, model=onnx_model((float("nan"), 1.0)))
    with pytest.raises(RequestError, match="gives no number"):
        carry_out(order_of(folder, settings))


def test_nothing_is_measured_without_rows(folder: Path, settings: Settings) -> None:
    with pytest.raises(BundleError, match="without rows"):
        measure(folder, settings, rows=[])


def test_a_process_that_takes_too_long_is_ended(folder: Path, settings: Settings) -> None:
    with pytest.raises(BundleError, match=r"took longer than 0\.05 s"):
        measure(folder, settings, rows=ROWS, timeout_s=0.05)
    assert not measuring()


def test_a_process_that_the_system_kills_is_told(folder: Path, settings: Settings) -> None:
    killer = threading.Thread(target=kill_when_there_is_one)
    killer.start()
    with pytest.raises(BundleError, match="ended by signal 9, which is how a system ends what takes its last memory"):
        measure(folder, settings, rows=ROWS)
    killer.join()


def test_what_a_library_prints_is_no_part_of_the_answer() -> None:
    noisy = (
        "import os; from serving.measure import child, messages\n"
        "def carry_out(order):\n"
        "    print('loading…', flush=True); os.write(1, b'from C')\n"
        "    return messages.Opened(cold_start_ms=order.limit_s, seconds=0)\n"
        "child.carry_out = carry_out; child._main()"
    )
    order = Order(folder="", public_key=b"", rows=[], calls=0, limit_s=5, threads=1, powercap="")
    done = subprocess.run([sys.executable, "-c", noisy], input=msgspec.msgpack.encode(order), capture_output=True)
    assert msgspec.msgpack.decode(done.stdout, type=Opened).cold_start_ms == 5
    assert b"from C" in done.stderr


def measuring() -> list[psutil.Process]:
    """The measuring processes that this one has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            found += [child] if "serving.measure.child" in child.cmdline() else []
    return found


def kill_when_there_is_one() -> None:
    """As the system does when memory runs out; it waits ten seconds for one to kill."""
    for _ in range(1_000):
        for child in measuring():
            child.send_signal(signal.SIGKILL)
            return
        time.sleep(0.01)
