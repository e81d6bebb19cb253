"""Making a recorded model again and comparing: the same lake versions, moment, seed and parameters, in a folder aside.

The lake's tables are copied there as they were at the recorded versions, so that features are joined from exactly what
the training saw; the training is the one that made the model. The platform's own state is only read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from millrace.candidates import Integer, Real, Space
from millrace.engine import open_engine
from millrace.errors import TrainingError
from millrace.lake import Lake, open_lake
from millrace.registry import registered
from millrace.settings import Settings
from millrace.usecase import UseCase
from pipelines.aside import platform_aside, rows_aside
from pipelines.workspace import Workspace
from training.job import Trained, TrainedModel, train
from training.options import TrainOptions
from training.provenance import provenance, rows_digest
from training.runs import RecordedRun, read_run
from training.tracking import Untracked
from training.warm_start import Parent, open_parent

Tell = Callable[[str], None]
_MACHINE = ("cpu", "cores", "gpus", "system", "python")
"""What of a machine may change a model; its memory does not."""


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What making a run's model again came to.

    `rows_equal`: the training set has the recorded rows (None: the run recorded no digest of them). `model_equal`: the
    models' bytes are the same. `max_score_difference` is over the hold-out, whose scores come from the recorded bundle.
    `changed` names what is not as it was: code, libraries, machine.
    """

    run: str
    model: str
    equal: bool
    rows: int
    rows_equal: bool | None
    model_equal: bool
    max_score_difference: float
    sha256: str
    changed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"changed": list(self.changed)}


def reproduce(ws: Workspace, run: str, *, tell: Tell | None = None) -> Reproduced:
    """Make the model of a run again: a run's id, or the number of a registered version.

    Raises `TrainingError` when there is no such run or the use case has no such candidate any more, `LakeError` when a
    recorded version of a table has been vacuumed.
    """
    with TemporaryDirectory(prefix="millrace-reproduce-") as name:
        aside = Path(name)
        recorded = read_run(ws.settings, ws.use_case.name, _run_id(ws, run), aside / "recorded")
        settings, as_of = platform_aside(aside / "home", ws.settings), recorded.bundle.contract.trained_as_of
        _say(tell, f"Run {recorded.id}: {recorded.model}, as of {as_of:%Y-%m-%d %H:%M} UTC.")
        lake = copy_lake(ws, settings, recorded.lineage["lake_versions"])
        rows, plan = rows_aside(ws.use_case, settings, lake, as_of=as_of)
        _say(tell, f"{rows.frame.height:,} rows as they were.")
        options = _options(recorded)
        narrow = narrowed(ws.use_case, recorded)
        again = partial(train, narrow, settings, rows, plan, tracking=Untracked(), parent=_parent(ws, recorded))
        trained = again(as_of=as_of, options=options, progress=tell)
        changed = _changed(recorded.lineage, provenance(ws.use_case, settings, rows, options).to_dict())
        return _compared(recorded, trained, rows_digest(ws.use_case, rows.frame), changed)


def copy_lake(ws: Workspace, settings: Settings, versions: Mapping[str, int]) -> Lake:
    """The tables at these versions, as version 0 of a lake of their own."""
    copy = open_lake(settings, ws.use_case.name)
    for table, version in versions.items():
        copy.append(table, ws.lake.scan(table, version=version).collect())
    return copy


def narrowed(use_case: UseCase, recorded: RecordedRun) -> UseCase:
    """The use case with the run's candidate alone, beside the baseline, and its parameters as they were."""
    root = recorded.lineage.get("root", recorded.model.split("+")[0])
    found = next((one for one in use_case.all_candidates if one.name == root), None)
    if found is None:
        raise TrainingError(
            f"{use_case.name} has no candidate {root!r} any more.",
            looked=f"It has {', '.join(one.name for one in use_case.all_candidates)}.",
            todo="Go back to the code that the run was made from; its tags name the commit.",
        )
    params = recorded.lineage.get("root_params", recorded.lineage["params"])
    space = fixed_space(found.search, params)
    if found is not use_case.baseline or use_case.baseline is None:
        return replace(use_case, candidates=(replace(found, search=space),))
    baseline = replace(use_case.baseline, search=space)
    again = replace(baseline, name=f"{baseline.name}_again")  # a use case has a candidate beside its baseline
    return replace(use_case, baseline=baseline, candidates=(again,))


def fixed_space(space: Space, params: Mapping[str, Any]) -> dict[str, Sequence[Any] | Real | Integer]:
    """The space with one value a parameter: the recorded one, as the space has it (what JSON has none of was recorded
    as text). A parameter that was not recorded is new since then and stays as it is."""
    return {name: [_value(values, params[name])] if name in params else values for name, values in space.items()}


def _value(values: Sequence[Any] | Real | Integer, recorded: Any) -> Any:
    if isinstance(values, Real | Integer):
        return recorded
    same = [value for value in values if value == recorded and type(value) is type(recorded)]
    return next(iter(same or [value for value in values if str(value) == str(recorded)]), recorded)


def _run_id(ws: Workspace, run: str) -> str:
    """The run of a registered version; anything that is no number is a run's id already."""
    row = ws.db.model(ws.use_case.name, int(run)) if run.isdecimal() and len(run) < 10 else None
    return run if row is None else row.run_id


def _options(recorded: RecordedRun) -> TrainOptions:
    """Those of the run, without what chooses or judges: its parameters are fixed already."""
    told = recorded.lineage.get("provenance", {}).get("options")
    options = TrainOptions.from_dict(told) if told else TrainOptions(seed=recorded.lineage["seed"])
    return replace(options, trials=0, timeout=None, resume=False, parent=None, budget={})


def _parent(ws: Workspace, recorded: RecordedRun) -> Parent | None:
    """The version whose weights the model began with."""
    version = recorded.lineage.get("parent")
    return (
        None if version is None else open_parent(ws.settings, ws.use_case, registered(ws.db, ws.use_case.name, version))
    )


def _compared(recorded: RecordedRun, trained: Trained, digest: str, changed: tuple[str, ...]) -> Reproduced:
    made = _of_name(trained, recorded.model)
    bytes_then, bytes_now = recorded.bundle.model(), made.bundle.model()
    then = open_engine(recorded.bundle).predict(recorded.bundle.contract.encode_frame(trained.holdout))
    difference = float(np.max(np.abs(then - made.scores))) if then.shape == made.scores.shape else float("inf")
    was = recorded.lineage.get("provenance", {}).get("rows")
    rows_equal = None if was is None else was == digest
    return Reproduced(
        run=recorded.id,
        model=recorded.model,
        equal=bytes_then == bytes_now and difference == 0 and rows_equal is not False,
        rows=trained.holdout.height,
        rows_equal=rows_equal,
        model_equal=bytes_then == bytes_now,
        max_score_difference=difference,
        sha256=hashlib.sha256(bytes_now).hexdigest(),
        changed=changed,
    )


def _of_name(trained: Trained, name: str) -> TrainedModel:
    found = next((model for model in trained.models if model.candidate == name), None)
    if found is None:
        raise TrainingError(
            f"The model {name!r} is not made any more.",
            looked=f"This training made {', '.join(model.candidate for model in trained.models)}.",
            todo="Go back to the code that the run was made from; its tags name the commit.",
        )
    return found


def _changed(lineage: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What is not as it was, in words; nothing is said of what was not recorded."""
    was = lineage.get("provenance")
    if was is None:
        return ("the run recorded neither code nor machine",)
    said = [
        f"{what}: {_code(was[part])}, now {_code(now[part])}"
        for part, what in (("use_case", "the use case's code"), ("platform", "the platform's code"))
        if was[part]["digest"] != now[part]["digest"]
    ]
    said += [f"{now['locked']}: other versions of libraries"] if was["lock"] != now["lock"] else []
    machine = [name for name in _MACHINE if was["machine"].get(name, "") != now["machine"].get(name, "")]
    return tuple(said + ([f"the machine: {', '.join(machine)}"] if machine else []))


def _code(told: Mapping[str, Any]) -> str:
    commit = str(told["commit"])[:10] or "no commit"
    return f"{commit}{' with changes' if told['dirty'] else ''}"


def _say(tell: Tell | None, line: str) -> None:
    if tell is not None:
        tell(line)
