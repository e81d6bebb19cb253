"""Replay: the past, week by week, through the flows that production runs; beside it the first champion left alone, and
naive policies of retraining where they are asked for.

Every stage gets the week's end as its `as_of`, so it sees only what was known by then. The replay lives in a folder of
its own and never touches the platform's state.
"""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from millrace.db import Database, ModelRow
from millrace.errors import GateError, MillraceError
from millrace.loader import load_use_case
from millrace.registry import champion
from millrace.settings import Settings, read_settings
from pipelines.explaining import resume
from pipelines.orchestrator import Orchestrator, orchestrated
from pipelines.policies import as_rows
from pipelines.progress import Progress
from pipelines.rivals import Rivals, check_comparable
from pipelines.scoring import bundle_of
from pipelines.stopwatch import Stopwatch
from pipelines.watching import restate
from pipelines.workspace import Workspace, open_workspace

WEEK = timedelta(days=7)
_HEAVY = ("feast", "mlflow", "evidently.metrics", "torch", "sklearn.ensemble", "skl2onnx")
"""Imported (some 20 s) while Prefect's server starts in a process of its own."""

Summary = dict[str, Any]
Online = Callable[[Workspace, datetime], Summary]
"""Serves the first champion for a moment and says how the answers compare: the demo's part of a replay."""


def run_replay(
    use_case: str, *, start: datetime, until: datetime, progress: Progress, beside: Sequence[str] = ()
) -> tuple[Summary, Path]:
    """Replay a use case in a clean folder below the home folder; returns the summary and the path of its JSON."""
    settings = read_settings()
    home = settings.home.absolute() / "replay" / load_use_case(use_case, settings).name
    return replay(use_case, settings, home, start=start, until=until, progress=progress, beside=beside)


def replay(
    use_case: str,
    settings: Settings,
    home: Path,
    *,
    start: datetime,
    until: datetime,
    progress: Progress,
    online: Online | None = None,
    beside: Sequence[str] = (),
) -> tuple[Summary, Path]:
    """Ingest up to `start`, train a first champion, then replay the weeks until `until` (UTC instants) in `home`.

    `beside` names naive policies (`pipelines.policies`) that score the same rows. Raises `BusyError` when another one
    runs in this folder, `GateError` when no first model passes its budget, `MillraceError` when the policies cannot be
    compared.
    """
    weeks, watch = _weeks(start, until), Stopwatch()
    check_comparable(load_use_case(use_case, settings), beside)  # a mistake shall be told before anything starts
    platform = Database.open(settings)
    try:
        with platform.lease(f"replay {home}"), orchestrated() as orchestrator:
            shutil.rmtree(home, ignore_errors=True)
            run = _Replay(use_case, home, progress, watch)
            run.prepare(orchestrator)
            run.first_champion(start)
            with open_workspace(use_case, home) as ws:
                first = champion(ws.db, ws.use_case.name)
                answered = run.online(ws, start, online) if online else None
                rivals = Rivals(ws, tuple(beside), bundle_of(ws, first.version))
                run.weeks(ws, weeks, first.version, rivals)
                with watch.stage("restate"):
                    restate(ws, as_of=weeks[-1][1])
                stand = as_rows(rivals.standings(weeks[-1][1])) if beside else None
                summary = _summary(ws, first, answered, watch) | {"policies": stand}
    finally:
        platform.close()
    return summary, _write(summary, home / "summary.json")


@dataclass(frozen=True, slots=True)
class _Replay:
    use_case: str
    home: Path
    progress: Progress
    watch: Stopwatch

    def prepare(self, orchestrator: Orchestrator) -> None:
        """Import what is heavy while the orchestrator starts."""
        self.progress.start("Start Prefect and load the libraries", len(_HEAVY))
        with self.watch.stage("start"):
            imports = threading.Thread(target=self._import, daemon=True)
            imports.start()
            imports.join()
            orchestrator.ready()
        self.progress.done()

    def first_champion(self, start: datetime) -> None:
        """Ingest, materialize, train and gate as of `start`."""
        from pipelines.flows import first_champion_flow

        self.progress.start(f"Ingest, build features and train as of {start:%Y-%m-%d}", 5)
        with self.watch.stage("first champion"):
            done = first_champion_flow(self.use_case, as_of=start, home=self.home, step=self.progress.advance)
        self.progress.done(done["reason"])
        if not done["promoted"]:
            raise GateError(
                f"No first model of {self.use_case} passed its budget.",
                looked=done["reason"],
                todo="Loosen the budget in its use_case.py, or add a candidate that keeps it.",
            )

    def online(self, ws: Workspace, start: datetime, online: Online) -> Summary:
        """Serve the first champion and compare its answers."""
        self.progress.start("Serve predictions and compare with offline")
        with self.watch.stage("online"):
            answered = online(ws, start)
        self.progress.done(f"{answered['requests']} requests, {answered['errors']} errors")
        return answered

    def weeks(self, ws: Workspace, weeks: list[tuple[datetime, datetime]], shadow: int, rivals: Rivals) -> None:
        """Each week in one flow run; after it the rivals'. After the last week nobody trains: nothing would be scored
        with it. A page is answered a week later, as by a person who looked and found nothing to mend."""
        from pipelines.flows import week_flow

        self.progress.start(f"Replay {len(weeks)} weeks", len(weeks))
        called = False
        for number, (first, last) in enumerate(weeks, start=1):
            with self.watch.stage("weeks"):
                if called:
                    resume(ws.db, ws.use_case.name, as_of=first, why="The replay goes on: nobody is there to look.")
                seen = week_flow(self.use_case, start=first, end=last, shadow=shadow, home=self.home)
                called = seen["decision"] == "page"
            if rivals.policies:
                with self.watch.stage("policies beside"):
                    rivals.score(first, last)
                    if number < len(weeks):
                        rivals.train(number, last)
            self.progress.advance(f"{first:%Y-%m-%d}: {seen['decision']}")
        self.progress.done()

    def _import(self) -> None:
        for module in _HEAVY:
            with warnings.catch_warnings():  # one of them resets the filters, another deprecates loudly
                warnings.simplefilter("ignore")
                import_module(module)
            self.progress.advance(module.split(".")[0])


def _weeks(start: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """The stretch cut into weeks; a rest shorter than a week is the last one."""
    if until <= start:
        raise MillraceError(
            f"There is no week from {start:%Y-%m-%d} to {until:%Y-%m-%d}.", todo="Give a --from before --until."
        )
    cuts = [start]
    while cuts[-1] < until:
        cuts.append(min(cuts[-1] + WEEK, until))
    return list(pairwise(cuts))


def _summary(ws: Workspace, first: ModelRow, online: Summary | None, watch: Stopwatch) -> Summary:
    windows = [
        {
            "from": row.start.isoformat(),
            "to": row.end.isoformat(),
            "rows": row.rows,
            "labelled": row.labelled,
            "version": row.version,
            **{name: value for name, value in row.metrics.items() if name not in ("first_seen", "watched")},
            "drifted": row.drifted,
            "decision": row.action,
            "reason": row.reason,
        }
        for row in ws.db.windows(ws.use_case.name)
    ]
    gains = [w["log_loss_static"] - w["log_loss_live"] for w in windows if w["log_loss_live"] and w["log_loss_static"]]
    return {
        "use_case": ws.use_case.name,
        "seconds": watch.seconds(),
        "champion": {
            "version": first.version,
            "candidate": first.candidate,
            "metrics": first.quality | first.cost,
            "budget": {
                f"{line['metric']}": {"limit": line["bound"], "measured": line["measured"], "passed": line["passed"]}
                for line in first.verdict["limits"]
            },
        },
        "online": online,
        "windows": windows,
        "mean_log_loss_gain": sum(gains) / len(gains) if gains else None,
    }


def _write(summary: Summary, path: Path) -> Path:
    """Write the JSON aside and rename it."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    aside.rename(path)
    return path
