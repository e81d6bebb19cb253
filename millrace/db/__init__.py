"""The platform's own database: what runs, what serves, what was decided and why.

`Database` is all that the rooms see of it: methods that take and return plain rows. SQLAlchemy stays in this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError

from millrace.db.alerts import AlertRow, Alerts, Noted, PostRow
from millrace.db.jobs import ScoreChunkRow, ScoreJobRow, ScoreJobs
from millrace.db.leases import lease
from millrace.db.models import AuditRow, DecisionRow, KeyRow, ModelRow, RunRow, WindowRow
from millrace.db.runs import heard_of, lose_dead_runs, start_run
from millrace.db.session import open_engine, reading, writing
from millrace.errors import MillraceError
from millrace.settings import Settings

__all__ = [
    "AlertRow",
    "Alerts",
    "AuditRow",
    "Database",
    "DecisionRow",
    "KeyRow",
    "ModelRow",
    "Noted",
    "PostRow",
    "RunRow",
    "ScoreChunkRow",
    "ScoreJobRow",
    "ScoreJobs",
    "WindowRow",
]


class Database:
    """The platform's state. Every method is one transaction; times are timezone-aware UTC."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, settings: Settings) -> Database:
        """The database of these settings, created and migrated as needed; `SettingsError` when it cannot be opened."""
        return cls(open_engine(settings.database))

    def close(self) -> None:
        """Give its connections back."""
        self._engine.dispose()

    @property
    def alerts(self) -> Alerts:
        """What people are told of."""
        return Alerts(self._engine)

    # models

    def add_model(self, row: ModelRow) -> None:
        """Record a registered version."""
        with writing(self._engine) as session:
            session.add(row)

    def model(self, use_case: str, version: int) -> ModelRow | None:
        """One version, or None."""
        with reading(self._engine) as session:
            return session.get(ModelRow, (use_case, version))

    def models(self, use_case: str) -> Sequence[ModelRow]:
        """Every version, the newest first."""
        with reading(self._engine) as session:
            return session.scalars(
                select(ModelRow).where(ModelRow.use_case == use_case).order_by(ModelRow.version.desc())
            ).all()

    def champion(self, use_case: str) -> ModelRow | None:
        """The version that serves, or None."""
        with reading(self._engine) as session:
            return session.scalar(select(ModelRow).where(ModelRow.use_case == use_case, ModelRow.status == "champion"))

    def set_champion(
        self, use_case: str, version: int, *, as_of: datetime, reason: str, action: str = "promoted"
    ) -> None:
        """Let `version` serve from now on: the old champion retires and the decision is recorded in one transaction."""
        with writing(self._engine) as session:
            of_use_case = ModelRow.use_case == use_case
            session.execute(update(ModelRow).where(of_use_case, ModelRow.status == "champion").values(status="retired"))
            changed = session.execute(
                update(ModelRow).where(of_use_case, ModelRow.version == version).values(status="champion")
            )
            if changed.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE's result always has it
                raise MillraceError(
                    f"{use_case} has no version {version}.", todo=f"See them: millrace status {use_case}."
                )
            session.add(DecisionRow(use_case, as_of, action, reason, datetime.now(UTC), version))

    def champions(self, use_case: str) -> Sequence[tuple[datetime, int]]:
        """Who served since when: (as_of, version) of each promotion and rollback, the first one first."""
        with reading(self._engine) as session:
            rows = session.execute(
                select(DecisionRow.as_of, DecisionRow.version)
                .where(DecisionRow.use_case == use_case, DecisionRow.action.in_(("promoted", "rolled back")))
                .order_by(DecisionRow.as_of, DecisionRow.id)
            )
            return [(as_of, version) for as_of, version in rows if version is not None]

    # what was watched and decided

    def add_window(self, row: WindowRow) -> None:
        """Record a monitoring pass; a pass over the same stretch of time replaces the earlier one."""
        with writing(self._engine) as session:
            session.merge(row)

    def window(self, use_case: str, start: datetime, end: datetime) -> WindowRow | None:
        """The pass over this window, or None."""
        with reading(self._engine) as session:
            return session.get(WindowRow, (use_case, start, end))

    def windows(self, use_case: str) -> Sequence[WindowRow]:
        """Every window, in time order."""
        with reading(self._engine) as session:
            return session.scalars(
                select(WindowRow).where(WindowRow.use_case == use_case).order_by(WindowRow.start)
            ).all()

    def add_decision(
        self,
        use_case: str,
        *,
        as_of: datetime,
        action: str,
        reason: str,
        evidence: dict[str, Any] | None = None,
        version: int | None = None,
        severity: str = "",
        window: tuple[datetime, datetime] | None = None,
    ) -> int:
        """Record something the platform decided by itself, over this window if it was a monitoring pass; its id."""
        start, end = window or (None, None)
        row = DecisionRow(
            use_case, as_of, action, reason, datetime.now(UTC), version, evidence or {}, severity, start, end
        )
        with writing(self._engine) as session:
            session.add(row)
            session.flush()
            return row.id

    def decision(self, number: int) -> DecisionRow | None:
        """The decision of this id, whichever use case it is of, or None."""
        with reading(self._engine) as session:
            return session.get(DecisionRow, number)

    def settle_decision(self, number: int, outcome: dict[str, Any]) -> None:
        """Record what came of a decision, in place of what was recorded before."""
        with writing(self._engine) as session:
            session.execute(update(DecisionRow).where(DecisionRow.id == number).values(outcome=outcome))

    def decisions(self, use_case: str, *actions: str) -> Sequence[DecisionRow]:
        """Every decision (with one of these actions), in time order."""
        query = select(DecisionRow).where(DecisionRow.use_case == use_case)
        wanted = query.where(DecisionRow.action.in_(actions)) if actions else query
        with reading(self._engine) as session:
            return session.scalars(wanted.order_by(DecisionRow.as_of, DecisionRow.id)).all()

    def decided(self, use_case: str, start: datetime, end: datetime, as_of: datetime) -> DecisionRow | None:
        """The last decision that was taken over this window as of this moment, or None."""
        about = {"use_case": use_case, "window_start": start, "window_end": end, "as_of": as_of}
        with reading(self._engine) as session:
            return session.scalar(select(DecisionRow).filter_by(**about).order_by(DecisionRow.id.desc()).limit(1))

    # what ran

    def start_run(self, use_case: str, kind: str, as_of: datetime) -> int:
        """Record that a piece of work starts; returns its id for `end_run`."""
        return start_run(self._engine, use_case, kind, as_of)

    def heard_of(self, run: int) -> AbstractContextManager[None]:
        """Let a run be heard of while the body does its work: one that is not, `lose_dead_runs` takes for dead."""
        return heard_of(self._engine, run)

    def lose_dead_runs(self) -> Sequence[RunRow]:
        """Mark the runs whose process died without a word as `lost`, and return them."""
        return lose_dead_runs(self._engine)

    def end_run(self, run: int, state: str, detail: dict[str, Any] | None = None) -> None:
        """Record how it ended: `done` or `failed`, with what there is to say."""
        with writing(self._engine) as session:
            session.execute(
                update(RunRow)
                .where(RunRow.id == run)
                .values(state=state, ended_at=datetime.now(UTC), detail=detail or {})
            )

    def running(self) -> Sequence[RunRow]:
        """Every run of every use case that has not ended, the oldest first."""
        with reading(self._engine) as session:
            return session.scalars(select(RunRow).where(RunRow.state == "running").order_by(RunRow.id)).all()

    def runs(self, use_case: str, kind: str | None = None) -> Sequence[RunRow]:
        """Every run (of this kind), the newest first."""
        with reading(self._engine) as session:
            query = select(RunRow).where(RunRow.use_case == use_case).order_by(RunRow.id.desc())
            return session.scalars(query.where(RunRow.kind == kind) if kind else query).all()

    @property
    def score_jobs(self) -> ScoreJobs:
        """The ledger of batch scoring jobs."""
        return ScoreJobs(self._engine)

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Hold `name` while the body runs; `BusyError` when another living process does."""
        return lease(self._engine, name)

    def use_cases(self) -> Sequence[str]:
        """The names of all use cases that have a run or a model, sorted."""
        with reading(self._engine) as session:
            names = select(RunRow.use_case).union(select(ModelRow.use_case)).subquery()
            return session.scalars(select(names.c.use_case).order_by(names.c.use_case)).all()

    def next_version(self, use_case: str) -> int:
        """One more than the newest version."""
        with reading(self._engine) as session:
            newest = session.scalar(select(func.max(ModelRow.version)).where(ModelRow.use_case == use_case))
            return (newest or 0) + 1

    # who may ask, and who changed what

    def api_keys(self) -> Sequence[KeyRow]:
        """Every issued API key by name, the revoked ones too."""
        with reading(self._engine) as session:
            return session.scalars(select(KeyRow).order_by(KeyRow.name)).all()

    def add_key(self, row: KeyRow, audit: AuditRow) -> bool:
        """Record a new key together with who made it; False, and nothing is written, when its name is taken."""
        try:
            with writing(self._engine) as session:
                session.add_all([row, audit])
        except IntegrityError:
            return False
        return True

    def change_key(self, name: str, change: Callable[[KeyRow], AuditRow]) -> KeyRow | None:
        """Let `change` alter the key of this name and record what it returns, or None when there is no such key."""
        with writing(self._engine) as session:
            row = session.scalar(select(KeyRow).where(KeyRow.name == name).with_for_update())
            if row is not None:
                session.add(change(row))
            return row

    def add_audit(self, rows: Sequence[AuditRow]) -> None:
        """Record calls that changed something."""
        with writing(self._engine) as session:
            session.add_all(rows)

    def audit(self, limit: int) -> Sequence[AuditRow]:
        """The latest calls and commands, the newest first."""
        with reading(self._engine) as session:
            return session.scalars(select(AuditRow).order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit)).all()
