"""The ledger of batch scoring jobs: what was asked for, how it is cut, and which chunks are done.

A chunk is committed here after its scores have reached the output, so a job that died goes on behind its last committed
chunk. What a specification or a plan means is the batch room's business; here they are JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Engine, ForeignKey, Index, Text, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from millrace.db.models import Base, Reason
from millrace.db.session import reading, writing

UNFINISHED = ("queued", "running", "failed", "cancelled")
"""States from which a job can be started, again or for the first time; `done` is the only other."""


class ScoreJobRow(Base):
    """One job; `state` is queued, running, done, failed or cancelled.

    `identity` is the digest of what was asked for, equal for two runs of the same job; `attempt` counts those that were
    asked for `again`. `as_of` is the moment it acts as of, `created_at` the score time of its rows. A job whose process
    died stays running until it is started again. `plan` is set when it first starts, `engine` is how it runs.
    """

    __tablename__ = "score_jobs"
    __table_args__ = (
        Index("score_jobs_by_identity", "identity", "attempt", unique=True),
        Index("score_jobs_by_use_case", "use_case", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    identity: Mapped[str]
    attempt: Mapped[int]
    use_case: Mapped[str]
    version: Mapped[int]
    spec: Mapped[dict[str, Any]]
    as_of: Mapped[datetime]
    created_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(default="queued")
    plan: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    engine: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    total: Mapped[int] = mapped_column(BigInteger, default=0)
    """Rows of the input."""
    chunks: Mapped[int] = mapped_column(default=0)
    rows: Mapped[int] = mapped_column(BigInteger, default=0)
    scored: Mapped[int] = mapped_column(BigInteger, default=0)
    rejected: Mapped[int] = mapped_column(BigInteger, default=0)
    digest: Mapped[str] = mapped_column(default="")
    error: Mapped[str] = mapped_column(Reason(), default="")
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)


class ScoreChunkRow(Base):
    """One chunk that is done: `rows` were looked at, `scored` of them are in the output, `rejected` are not.

    `digest` is of the keys and scores that were written.
    """

    __tablename__ = "score_chunks"

    job: Mapped[str] = mapped_column(ForeignKey("score_jobs.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rows: Mapped[int]
    scored: Mapped[int]
    rejected: Mapped[int]
    digest: Mapped[str]
    seconds: Mapped[float]
    reasons: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    """How many rows were rejected for which reason, the commonest ones."""
    said: Mapped[str] = mapped_column(Text, default="")
    """Where it ran, for people."""


class ScoreJobs:
    """The ledger. Every method is one transaction; times are timezone-aware UTC."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, row: ScoreJobRow) -> bool:
        """Record a new job; False, and nothing is written, when another process just recorded it."""
        try:
            with writing(self._engine) as session:
                session.add(row)
        except IntegrityError:
            return False
        return True

    def get(self, job: str) -> ScoreJobRow | None:
        """The job of this id, or None."""
        with reading(self._engine) as session:
            return session.get(ScoreJobRow, job)

    def named(self, use_case: str, start: str) -> Sequence[str]:
        """The ids of a use case's jobs that begin so, at most two."""
        with reading(self._engine) as session:
            ids = select(ScoreJobRow.id).where(ScoreJobRow.use_case == use_case)
            return session.scalars(ids.where(ScoreJobRow.id.startswith(start, autoescape=True)).limit(2)).all()

    def last(self, identity: str) -> ScoreJobRow | None:
        """The last attempt at what was asked for, or None."""
        with reading(self._engine) as session:
            same = select(ScoreJobRow).where(ScoreJobRow.identity == identity)
            return session.scalar(same.order_by(ScoreJobRow.attempt.desc()).limit(1))

    def list(self, use_case: str, *, state: str = "", limit: int = 50) -> Sequence[ScoreJobRow]:
        """A use case's jobs (in this state), the newest first."""
        with reading(self._engine) as session:
            query = select(ScoreJobRow).where(ScoreJobRow.use_case == use_case)
            query = query.where(ScoreJobRow.state == state) if state else query
            return session.scalars(query.order_by(ScoreJobRow.created_at.desc()).limit(limit)).all()

    def waiting(self, use_cases: Sequence[str] = ()) -> Sequence[ScoreJobRow]:
        """What is queued, or said to be running (its process may have died), of these or all, the oldest first."""
        with reading(self._engine) as session:
            query = select(ScoreJobRow).where(ScoreJobRow.state.in_(("queued", "running")))
            query = query.where(ScoreJobRow.use_case.in_(use_cases)) if use_cases else query
            return session.scalars(query.order_by(ScoreJobRow.created_at)).all()

    def state(self, job: str) -> str:
        """The job's state; empty when there is none of this id."""
        with reading(self._engine) as session:
            return session.scalar(select(ScoreJobRow.state).where(ScoreJobRow.id == job)) or ""

    def change(self, job: str, **values: Any) -> None:
        """Set columns of a job."""
        with writing(self._engine) as session:
            session.execute(update(ScoreJobRow).where(ScoreJobRow.id == job).values(**values))

    def cancel(self, job: str) -> bool:
        """Cancel it unless it has ended: a running one stops after its current chunks. False when it had ended."""
        with writing(self._engine) as session:
            live = (ScoreJobRow.id == job, ScoreJobRow.state.in_(("queued", "running")))
            values = {"state": "cancelled", "ended_at": datetime.now(UTC)}
            return bool(session.execute(update(ScoreJobRow).where(*live).values(**values)).rowcount)  # type: ignore[attr-defined]  # an UPDATE's result always has it

    def commit(self, chunk: ScoreChunkRow) -> str:
        """Record that a chunk is done, add it to the job's counts, and say the job's state.

        A chunk that is recorded already changes nothing.
        """
        with writing(self._engine) as session:
            if session.get(ScoreChunkRow, (chunk.job, chunk.index)) is None:
                session.add(chunk)
                counts = {name: getattr(ScoreJobRow, name) + getattr(chunk, name) for name in _COUNTS}
                session.execute(update(ScoreJobRow).where(ScoreJobRow.id == chunk.job).values(counts))
            return session.scalar(select(ScoreJobRow.state).where(ScoreJobRow.id == chunk.job)) or ""

    def chunks(self, job: str) -> Sequence[ScoreChunkRow]:
        """The chunks that are done, in order."""
        with reading(self._engine) as session:
            of_job = select(ScoreChunkRow).where(ScoreChunkRow.job == job)
            return session.scalars(of_job.order_by(ScoreChunkRow.index)).all()

    def done(self, job: str) -> int:
        """How many chunks are done."""
        with reading(self._engine) as session:
            of_job = select(func.count()).select_from(ScoreChunkRow).where(ScoreChunkRow.job == job)
            return session.scalar(of_job) or 0

    def engine_of(self, use_case: str, version: int, machine: str) -> dict[str, Any]:
        """What a calibration chose for this version on this machine; empty when none has."""
        with reading(self._engine) as session:
            of_version = (ScoreJobRow.use_case == use_case, ScoreJobRow.version == version)
            chosen = select(ScoreJobRow.engine).where(*of_version).order_by(ScoreJobRow.created_at.desc())
            return next((one for one in session.scalars(chosen) if one.get("machine") == machine), {})


_COUNTS = ("rows", "scored", "rejected")
