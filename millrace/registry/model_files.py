"""What makes a run's artifact an ordinary MLflow model: the files that MLflow wants beside the bundle.

    model/MLmodel            flavour `python_function`, loaded by `millrace.pyfunc`; signature; metadata
    model/requirements.txt   what it was made with: given by the caller, never inferred (inferring takes 8 to 20 s)
    model/python_env.yaml    the interpreter, for MLflow's other environment managers
    model/bundle/            the bundle as it was signed

The signature asks for every input by name. Texts are `string`; numbers, flags and arrays are `any`, since MLflow's own
types refuse or change good rows: `double` refuses a column of whole numbers (int64), `boolean` takes a request's null
for false, an array of `double` refuses whole numbers. The bundle's contract checks every value all the same, and
`metadata` tells what it was fitted on.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from millrace.bundle import Bundle
from millrace.contract import Contract
from millrace.inputs import FLAG, InputSpec

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MODEL_FOLDER = "model"
"""The run's artifact that is the model."""
_BUNDLE = "bundle"


class Run(Protocol):
    """A run that is open for artifacts."""

    @property
    def id(self) -> str:
        """MLflow's id."""

    def log_folder(self, folder: Path, name: str) -> None:
        """Add a folder's files as the run's artifact `name`, a path relative to the run's artifacts."""


def log_model_files(run: Run, bundle: Bundle, requirements: Sequence[str]) -> None:
    """Log `bundle` as the run's MLflow model: `mlflow.pyfunc.load_model` and `mlflow models serve` take it.

    `requirements` are lines of a requirements file, like `numpy==2.4.6`. The weights are stored once, in the bundle.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text("\n".join([f"millrace=={version('millrace')}", *requirements]) + "\n")
        env = {
            "python": ".".join(map(str, sys.version_info[:3])),
            "build_dependencies": ["pip"],
            "dependencies": ["-r requirements.txt"],
        }
        (folder / "python_env.yaml").write_text(yaml.safe_dump(env, sort_keys=False))
        (folder / "MLmodel").write_text(_mlmodel(bundle, run.id))
        run.log_folder(folder, MODEL_FOLDER)
    run.log_folder(bundle.folder, f"{MODEL_FOLDER}/{_BUNDLE}")


def _mlmodel(bundle: Bundle, run_id: str) -> str:
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    model = Model(
        artifact_path=MODEL_FOLDER,
        run_id=run_id,
        signature=_signature(bundle.contract),
        metadata=_metadata(bundle),
        model_size_bytes=sum(file.size for file in bundle.files.values()),
    )
    add_to_model(model, loader_module="millrace.pyfunc", data=_BUNDLE, python_env="python_env.yaml")
    return str(model.to_yaml())


def _signature(contract: Contract) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = [ColSpec(DataType.string if _is_text(spec) else AnyType(), spec.name) for spec in contract.inputs]
    outputs = [ColSpec(DataType.double, name) for name in contract.classes or ("score",)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _is_text(spec: InputSpec) -> bool:
    return spec.kind == "categorical" and spec.categories != FLAG


def _metadata(bundle: Bundle) -> dict[str, Any]:
    contract = bundle.contract
    return {
        "millrace_digest": bundle.digest,
        "question": contract.question,
        "candidate": contract.candidate,
        "engine": contract.engine,
        "trained_as_of": contract.trained_as_of.isoformat(),
        "inputs": {spec.name: _told(spec) for spec in contract.inputs},
    }


def _told(spec: InputSpec) -> dict[str, Any]:
    if spec.kind == "categorical":
        return {"kind": "category", "values": len(spec.categories)}
    told: dict[str, Any] = {"kind": "number", "low": spec.low, "high": spec.high}
    return told | {"size": spec.size} if spec.size > 1 else told
