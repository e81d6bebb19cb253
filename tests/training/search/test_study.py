"""The study outlives kill -9, belongs to one process at a time, and what is wrong with its file is told."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace import Candidate, Real, TorchCandidate
from millrace.errors import BusyError, TrainingError
from training.search import Found
from training.search.space import SearchSpace
from training.search.study import open_study, study_digest

Find = Callable[..., Found]

MODELS = """
import os, sys, time
import numpy as np

fits = 0

class Curve:
    def __init__(self, slope):
        self.slope = slope

    def fit(self, X, y):
        global fits
        fits += 1
        if fits == int(os.environ.get("STOP_AT", 0)):
            print("stopping", flush=True)
            time.sleep(600)
        return self

    def predict_proba(self, X):
        positive = 1 / (1 + np.exp(-self.slope * X[:, 0].astype(np.float64)))
        return np.column_stack([1 - positive, positive])

def build(inputs, slope, flat):
    return Curve(0.0 if flat else slope)

def find(storage):
    from millrace import Candidate, ModelInput, Real
    from training.search import search

    random = np.random.default_rng(7)
    x = random.normal(size=1_200)
    y = (random.random(1_200) < 1 / (1 + np.exp(-2 * x))).astype(np.int8)
    times = np.datetime64("2013-01-01", "us") + np.arange(1_200) * np.timedelta64(3_600_000_000, "us")
    space = {"slope": Real(0.01, 10, log=True), "flat": (False, True)}
    candidate = Candidate("curve", build, search=space)
    matrix, inputs = x[:, None].astype(np.float32), [ModelInput("x", "numeric")]
    return search(candidate, inputs, matrix, y, times=times, known=times, trials=18, storage=storage, name="curve")
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module above, from a file that a child process imports too."""
    (tmp_path / "curve_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    import curve_models  # type: ignore[import-not-found]  # it is written above

    yield curve_models
    del sys.modules["curve_models"]


def test_killed_in_mid_fold_it_goes_on_and_finds_what_it_would_have(models: Any, tmp_path: Path, storage: str) -> None:
    command = [sys.executable, "-c", f"import curve_models; curve_models.find({storage!r})"]
    # The fit of a fold of the thirteenth trial or so: by then TPE proposes, and the first trials were ended early.
    environment = os.environ | {"STOP_AT": "32", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stopping\n"
        child.send_signal(signal.SIGKILL)
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as database:
        left = database.execute("SELECT number FROM trials WHERE state = 'RUNNING'").fetchall()
        done = database.execute("SELECT count(*) FROM trials WHERE state != 'RUNNING'").fetchone()[0]
    assert len(left) == 1
    assert done >= 10
    resumed, fits = models.find(storage), models.fits
    through = models.find(f"sqlite:///{tmp_path}/other.db")
    assert told(resumed) == told(through)
    assert fits < sum(len(one.losses) for one in through.trials)  # what was done was not done again
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT state FROM trials WHERE number = ?", left[0]).fetchone() == ("FAIL",)


def told(found: Found) -> list[Any]:
    """All of a search but the times that its fits took."""
    return [found.params, found.log_loss, [(one.params, one.state, one.losses, one.reason) for one in found.trials]]


def test_killed_between_writing_an_outcome_and_closing_the_trial_it_counts(storage: str) -> None:
    outcome = {"state": "complete", "losses": [0.5, 0.7], "reason": "", "seconds": 1.0}
    with open_study(storage, "a", "1", resume=True) as study:
        study.ask().set_user_attr("outcome", outcome)
    with open_study(storage, "a", "1", resume=True) as study:
        assert study.best_value == pytest.approx(0.6)


def test_two_processes_do_not_search_the_same(find: Find, candidate: Candidate, tmp_path: Path) -> None:
    with (tmp_path / "search.db.case-curve.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="searching the parameters of case/curve"):
            find(candidate, 1)
        assert len(find(candidate, 1, name="case/other").trials) == 1
    assert len(find(candidate, 1).trials) == 1


def test_a_damaged_file_is_told_and_left_as_it_is(find: Find, candidate: Candidate, tmp_path: Path) -> None:
    (tmp_path / "search.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(TrainingError, match=r"file is not a database.*search\.db.*move it away"):
        find(candidate)
    assert (tmp_path / "search.db").read_bytes() == b"no database" * 1_000


def test_a_file_that_breaks_in_mid_search_is_told(find: Find, slope: Any, tmp_path: Path) -> None:
    def heard(model: Any) -> None:
        (tmp_path / "search.db").write_bytes(b"no database" * 100_000)

    broken = Candidate("curve", lambda inputs, s: slope(s, heard), search={"s": Real(1, 2)})
    with pytest.raises(TrainingError, match="storage of searches cannot be used"):
        find(broken)


def test_a_file_that_another_program_has_locked_is_told(
    find: Find, candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.search.study.BUSY_SECONDS", 0.05)
    other = sqlite3.connect(tmp_path / "search.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TrainingError, match="database is locked"):
        find(candidate)
    other.close()


def test_a_place_that_cannot_be_written_is_told(find: Find, candidate: Candidate, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"NotADirectoryError|FileExistsError"):
        find(candidate, storage=f"sqlite:///{tmp_path}/file/search.db")


def test_the_folder_of_the_storage_is_made(find: Find, candidate: Candidate, tmp_path: Path) -> None:
    find(candidate, 1, storage=f"sqlite:///{tmp_path}/new/folder/search.db")
    assert (tmp_path / "new/folder/search.db").exists()


@pytest.mark.parametrize("storage", ["postgresql://db/search", "sqlite:///:memory:", "search.db"])
def test_a_storage_that_is_no_sqlite_file_is_refused(find: Find, candidate: Candidate, storage: str) -> None:
    with pytest.raises(ValueError, match=r"must be sqlite:/// and the path"):
        find(candidate, storage=storage)


def digest(candidate: Candidate | TorchCandidate) -> str:
    """The digest on no data to speak of."""
    return study_digest(candidate, SearchSpace(candidate.search), {"seed": 0}, [np.zeros(3)])


def test_another_text_of_the_builders_module_is_another_study(models: Any, tmp_path: Path) -> None:
    import importlib
    import linecache

    space = {"slope": (1.0, 2.0)}
    before = digest(Candidate("a", models.build, search=space))
    assert digest(Candidate("renamed", models.build, search=space)) == before
    (tmp_path / "curve_models.py").write_text(MODELS.replace("0.0 if flat", "0.1 if flat"))
    linecache.checkcache()
    assert digest(Candidate("a", importlib.reload(models).build, search=space)) != before


def test_what_a_builder_is_given_in_advance_is_part_of_it(models: Any) -> None:
    digests = [digest(Candidate("a", partial(models.build, flat=flat))) for flat in (True, False, True)]
    assert digests[0] == digests[2] != digests[1]


def test_the_declared_training_of_a_network_is_part_of_it(models: Any) -> None:
    short, long, other = (
        TorchCandidate("net", models.build, max_epochs=epochs, patience=patience)
        for epochs, patience in ((1, 2), (9, 2), (1, 3))
    )
    assert len({digest(short), digest(long), digest(other)}) == 3


def test_a_builder_without_a_source_has_its_name() -> None:
    space: dict[str, Any] = {}
    exec("def build(inputs): ...", space)
    assert digest(Candidate("a", space["build"])) != digest(Candidate("a", print))
