"""`millrace train`, `promote`, `rollback`, `verdict` and `reproduce`: how a model is made, judged and made again."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, now

if TYPE_CHECKING:
    from pipelines.launch import Job

app = typer.Typer()


class Where(StrEnum):
    """Where a training runs."""

    HERE = "here"
    SUBPROCESS = "subprocess"
    PREFECT = "prefect"
    RAY = "ray"


class Device(StrEnum):
    """What networks are fitted on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration(text: str) -> timedelta:
    """`90s`, `15m`, `2h`, `1d`; a bare number is seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is not a duration; write 90s, 15m, 2h or 1d.")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])


def bounds(text: str) -> dict[str, float]:
    """`memory_mb=50,p99_ms=5` as numbers by metric."""
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        found = {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} are no bounds; write METRIC=NUMBER,… such as p99_ms=5.") from error
    if not found or any(value != value for value in found.values()):
        raise typer.BadParameter(f"{text!r} are no bounds; write METRIC=NUMBER,… such as p99_ms=5.")
    return found


Bounds = Annotated[
    Any,
    typer.Option("--budget", parser=bounds, metavar="METRIC=BOUND,…", help="Other bounds of the budget, this once."),
]
Timeout = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="DURATION", help="End each candidate's search after 90s, 15m, 2h, …"),
]
Limit = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="DURATION", help="End the whole training after this (not with here)."),
]


@app.command()
def train(
    use_case: Name,
    as_of: AsOf = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    trials: Annotated[int, typer.Option(min=0, help="Sets of parameters that a search tries; 0: the defaults.")] = 0,
    timeout: Timeout = None,
    budget: Bounds = None,
    device: Annotated[Device, typer.Option(help="What networks are fitted on.")] = Device.AUTO,
    processes: Annotated[int, typer.Option(min=1, help="Processes that fit one network together.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed training of these rows was.")] = False,
    parent: Annotated[int | None, typer.Option("--from", metavar="VERSION", help="Fit this version further.")] = None,
    launch: Annotated[
        Where,
        typer.Option(help="In this process, one of its own, on a Prefect worker or on a Ray cluster."),
    ] = Where.HERE,
    limit: Limit = None,
    lines: Annotated[bool, typer.Option("--lines", hidden=True)] = False,
    torchrun: Annotated[str, typer.Option("--torchrun", envvar="TORCHELASTIC_RUN_ID", hidden=True)] = "",
    rank: Annotated[int, typer.Option("--rank", envvar="RANK", hidden=True)] = 0,
    world: Annotated[int, typer.Option("--world", envvar="WORLD_SIZE", hidden=True)] = 1,
    json: Json = False,
) -> None:
    """Train, measure, gate and promote.

    Every candidate is measured on the artefact that would serve; the best that passes its gate serves. Under torchrun
    (`torchrun --nproc-per-node 2 -m millrace.cli train …`) its processes fit each network together.
    """
    from millrace.settings import read_settings
    from pipelines.launch import Job
    from training.hardware import Hardware
    from training.options import TrainOptions

    if torchrun:
        _check_together(as_of, trials, launch)
        processes = world
    if launch is Where.RAY:
        _check_cluster(device, processes, trials)
    hardware = Hardware(device.value, processes, read_settings().threads)
    options = TrainOptions(seed, trials, timeout, resume, parent, hardware, budget or {})
    job = Job(use_case, now(as_of), options)
    if torchrun and rank > 0:
        from pipelines.following import follow

        follow(job)
        return
    tell = _line if lines or not json else None
    console.show(_launched(launch, job, limit, tell), json)


@app.command()
def promote(
    use_case: Name,
    version: Annotated[int, typer.Argument(help="The registered version that shall serve.")],
    override: Annotated[str, typer.Option(help="Why a version that failed its gate shall serve; recorded.")] = "",
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Let a registered version serve.

    One that failed its gate needs a reason, which is recorded.
    """
    from pipelines.models import promote as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, version, as_of=now(as_of), override=override), json)


@app.command()
def rollback(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Let the champion before this one serve."""
    from pipelines.models import rollback as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, as_of=now(as_of)), json)


@app.command()
def verdict(
    use_case: Name,
    version: Annotated[int | None, typer.Option(help="A registered version; default: the champion.")] = None,
    json: Json = False,
) -> None:
    """Show what a model's gate found.

    Every limit of its budget with what was measured and by how much it is kept or missed.
    """
    from pipelines.verdicts import verdict as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        found = act(workspace, version)
    console.show(found if json else _for_people(found), json)


def _for_people(found: dict[str, Any]) -> dict[str, Any]:
    """A verdict as two tables; the figures behind each check are for machines."""
    told = {name: value for name, value in found.items() if name not in ("reasons", "against", "limits", "checks")}
    if found.get("against"):
        told["against"] = " ".join(found["against"])
    limits = [
        {
            "limit": f"{one['metric']} {one['sense']} {one['bound']:g}",
            "measured": one["measured"],
            "margin": one["margin"],
            "kept": "waived" if one.get("waived") else one["passed"],
            "note": one.get("note", ""),
        }
        for one in found["limits"]
    ]
    checks = [{"check": one["name"], "passed": one["passed"], "why": one["reason"]} for one in found.get("checks", [])]
    return told | {"limits": limits, "checks": checks}


@app.command()
def reproduce(
    use_case: Name,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id in MLflow, or a registered version's number.")],
    json: Json = False,
) -> None:
    """Make a model again and compare.

    From the lake's versions that it was made from; exits with 1 when the new one differs.
    """
    from pipelines.reproduce import reproduce as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        found = act(workspace, run, tell=None if json else _line)
    console.show(found.as_dict(), json)
    if not found.equal:
        raise typer.Exit(1)


def _check_together(as_of: datetime | None, trials: int, launch: Where) -> None:
    """Under torchrun all processes must do the same without asking each other."""
    if as_of is None:
        raise typer.BadParameter("under torchrun all processes need one moment; give it.", param_hint="--as-of")
    if trials:
        raise typer.BadParameter("a search does not run under torchrun; search first.", param_hint="--trials")
    if launch is not Where.HERE:
        raise typer.BadParameter("torchrun is a launcher already.", param_hint="--launch")


def _check_cluster(device: Device, processes: int, trials: int) -> None:
    """What a training on a cluster cannot do is said before it is sent there."""
    if device is Device.CUDA:
        raise typer.BadParameter("on a Ray cluster networks are fitted on CPUs; use torchrun.", param_hint="--device")
    if trials and processes > 1:
        raise typer.BadParameter("a search runs in one process; search first.", param_hint="--trials")


def _launched(where: Where, job: Job, limit: timedelta | None, tell: Callable[[str], None] | None) -> dict[str, Any]:
    from pipelines.launch import here, in_subprocess

    if where is Where.SUBPROCESS:
        return in_subprocess(job, tell, limit=limit)
    if where is Where.PREFECT:
        from pipelines.deployment import on_worker

        return on_worker(job, tell, limit=limit)
    if where is Where.RAY:
        from pipelines.cluster import on_cluster

        return on_cluster(job, tell, limit=limit)
    if limit is not None:
        raise typer.BadParameter("a training here has no limit; add --launch subprocess.", param_hint="--limit")
    return here(job, tell)


def _line(text: str) -> None:
    """A line of progress for people, on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # the command line's own output
