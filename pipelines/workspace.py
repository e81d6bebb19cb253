"""What every stage is handed: the use case, the settings, the lake and the database, opened once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from millrace.db import Database
from millrace.lake import Lake, open_lake
from millrace.loader import load_use_case
from millrace.settings import Settings, embedded_in, read_settings
from millrace.usecase import UseCase


@dataclass(frozen=True, slots=True)
class Workspace:
    """One use case on one platform."""

    use_case: UseCase
    settings: Settings
    lake: Lake
    db: Database

    @contextmanager
    def run(self, kind: str, as_of: datetime) -> Iterator[dict[str, object]]:
        """Record a piece of work in the platform's database; what the body puts into the yielded dict is its detail.

        Runs whose process died are marked as lost before.
        """
        detail: dict[str, object] = {}
        self.db.lose_dead_runs()
        run = self.db.start_run(self.use_case.name, kind, as_of)
        try:
            with self.db.heard_of(run):
                yield detail
        except BaseException as error:
            self.db.end_run(run, "failed", {"error": f"{type(error).__name__}: {error}"})
            raise
        self.db.end_run(run, "done", detail)


@contextmanager
def open_workspace(use_case: str, home: Path | None = None) -> Iterator[Workspace]:
    """Open the platform for the use case of this name or folder; with `home`, an embedded one in that folder."""
    settings = embedded_in(home) if home else read_settings()
    loaded = load_use_case(use_case, settings)
    db = Database.open(settings)
    try:
        yield Workspace(loaded, settings, open_lake(settings, loaded.name), db)
    finally:
        db.close()
