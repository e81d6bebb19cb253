"""What a machine needs for Millrace, looked at one by one: each finding says what was found and what to type."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from millrace.db import Database, RunRow
from millrace.errors import MillraceError
from millrace.loader import load_use_case, names
from millrace.settings import Settings, read_settings

_PARTS = (
    "prefect",
    "feast",
    "mlflow",
    "fastapi",
    "evidently",
    "scikit-learn",
    "torch",
    "sqlalchemy",
    "polars",
    "deltalake",
)
_MEMORY_GB = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `todo` is what to type when it is not `ok`."""

    what: str
    ok: bool
    found: str
    todo: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at the interpreter, the packages, the settings and every place they name, and the use cases."""
    try:
        settings = read_settings()
    except MillraceError as error:
        return [Finding("settings", False, error.what, error.todo)]
    checks: list[Callable[[Settings], Finding]] = [
        _python,
        _packages,
        _memory,
        _home,
        _database,
        _runs,
        _redis,
        _use_cases,
    ]
    return [check(settings) for check in checks]


def _python(_: Settings) -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python 3.11 or newer", sys.version_info >= (3, 11), found, "Install Python 3.11, then: make setup")


def _packages(_: Settings) -> Finding:
    found, missing = [], []
    for part in _PARTS:
        try:
            found.append(f"{part} {version(part)}")
        except PackageNotFoundError:
            missing.append(part)
    text = ", ".join(found) + (f"; missing: {', '.join(missing)}" if missing else "")
    return Finding("packages", not missing, text, "make setup")


def _memory(_: Settings) -> Finding:
    free = psutil.virtual_memory().available / 2**30
    todo = "Close something else: the demo's largest process needs a few gigabytes."
    return Finding(f"{_MEMORY_GB} GB of free memory", free >= _MEMORY_GB, f"{free:.1f} GB", todo)


def _home(settings: Settings) -> Finding:
    home = settings.home.absolute()
    try:
        probe = settings.folder("doctor") / "probe"
        probe.write_bytes(b"")
        probe.unlink()
        probe.parent.rmdir()
    except OSError as error:
        return Finding(
            "home folder", False, f"{home}: {error.strerror}", "Set MILLRACE_HOME to a folder you may write."
        )
    return Finding("home folder", True, f"{home} can be written")


def _database(settings: Settings) -> Finding:
    try:
        Database.open(settings).close()
    except MillraceError as error:
        return Finding("database", False, f"{error.what} {error.looked}", error.todo)
    return Finding("database", True, "SQLite in the home folder" if not settings.database_url else "answers")


def _runs(settings: Settings) -> Finding:
    """What runs now, and what was lost with its process and has not been done since."""
    try:
        db = Database.open(settings)
    except MillraceError:
        return Finding("runs", False, "not known: the database cannot be opened", "Mend the database first.")
    try:
        db.lose_dead_runs()
        running = [f"{run.kind} of {run.use_case} (run {run.id})" for run in db.running()]
        lost = [run for name in db.use_cases() for run in _newest_of_kind(db, name) if run.state == "lost"]
    finally:
        db.close()
    if lost:
        told = ", ".join(
            f"{run.kind} of {run.use_case} (run {run.id}, as of {run.as_of:%Y-%m-%d %H:%M})" for run in lost
        )
        return Finding(
            "runs", False, f"ended with their process: {told}", "Start each again; what it had done is kept."
        )
    return Finding("runs", True, f"running: {', '.join(running)}" if running else "none is running, none was lost")


def _newest_of_kind(db: Database, use_case: str) -> Sequence[RunRow]:
    newest: dict[str, RunRow] = {}
    for run in db.runs(use_case):
        newest.setdefault(run.kind, run)
    return list(newest.values())


def _redis(settings: Settings) -> Finding:
    if settings.online_store != "redis":
        return Finding("online store", True, "SQLite in the home folder")
    import redis

    try:
        redis.Redis.from_url(settings.redis_url).ping()
    except redis.RedisError as error:
        return Finding("online store", False, f"Redis: {error}", "Start Redis, or set MILLRACE_REDIS_URL.")
    return Finding("online store", True, "Redis answers")


def _use_cases(settings: Settings) -> Finding:
    known, broken = names(settings), []
    for name in known:
        try:
            load_use_case(name, settings)
        except MillraceError as error:
            broken.append(str(error))
    if broken or not known:
        found = "; ".join(broken) or f"none in {Path(settings.use_cases).absolute()}"
        return Finding("use cases", False, found, "See docs/your-use-case.md, or set MILLRACE_USE_CASES.")
    return Finding("use cases", True, ", ".join(known))
