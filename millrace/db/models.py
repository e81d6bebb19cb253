"""The tables of the platform's own database.

Rows are what the platform did (runs, batches of decisions, windows) and what it serves (models); data itself is in the
lake. Times are timezone-aware UTC on every database, SQLite included.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKeyConstraint, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.types import TypeDecorator


class Reason(TypeDecorator[str]):
    """Sentences that say why, at most 4,096 characters: of longer ones the end gives way, since PostgreSQL would refuse
    the row and the decision with it."""

    impl = String(4096)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Cut to what the column holds."""
        return value if value is None or len(value) <= 4096 else f"{value[:4094]} …"


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware instant; SQLite keeps no zone, so it is stored there as UTC and read back as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a naive time is a bug of the caller and refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(MappedAsDataclass, DeclarativeBase):
    """Rows are dataclasses: what a query returns is detached and plain."""

    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON, list[str]: JSON, str: String(255)}  # noqa: RUF012  # SQLAlchemy reads it from the class


class ModelRow(Base):
    """One registered version of a use case's model; `status` is challenger, champion, retired or refused."""

    __tablename__ = "models"

    use_case: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    candidate: Mapped[str]
    run_id: Mapped[str]
    bundle: Mapped[str] = mapped_column(String(1024))
    digest: Mapped[str]
    as_of: Mapped[datetime]
    created_at: Mapped[datetime]
    status: Mapped[str]
    quality: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    cost: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    verdict: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)


class DecisionRow(Base):
    """Something the platform did by itself and why; one that concerns a model names its version.

    A monitoring pass's decision has its window and its severity; `outcome` is what came of it, empty until then.
    """

    __tablename__ = "decisions"
    __table_args__ = (
        ForeignKeyConstraint(["use_case", "version"], ["models.use_case", "models.version"]),
        Index("decisions_by_time", "use_case", "as_of"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    use_case: Mapped[str]
    as_of: Mapped[datetime]
    action: Mapped[str]
    reason: Mapped[str] = mapped_column(Reason())
    created_at: Mapped[datetime]
    version: Mapped[int | None] = mapped_column(default=None)
    evidence: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    severity: Mapped[str] = mapped_column(default="")
    window_start: Mapped[datetime | None] = mapped_column(default=None)
    window_end: Mapped[datetime | None] = mapped_column(default=None)
    outcome: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)


class WindowRow(Base):
    """One monitoring pass: what was seen in [start, end) and decided. Passing over it again replaces the row.

    `as_of` is the moment whose labels its figures are of; None in rows of before it was kept.
    """

    __tablename__ = "windows"

    use_case: Mapped[str] = mapped_column(primary_key=True)
    start: Mapped[datetime] = mapped_column(primary_key=True)
    end: Mapped[datetime] = mapped_column(primary_key=True)
    version: Mapped[int]
    rows: Mapped[int]
    labelled: Mapped[int]
    action: Mapped[str]
    reason: Mapped[str] = mapped_column(Reason())
    created_at: Mapped[datetime]
    metrics: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    drifted: Mapped[list[str]] = mapped_column(default_factory=list)
    as_of: Mapped[datetime | None] = mapped_column(default=None)


class RunRow(Base):
    """One piece of work of the platform; `state` is running, done, failed, or lost when its process died of it.

    While it runs, its process (`pid` on `host`) renews `heard_at`; see `millrace.db.runs`.
    """

    __tablename__ = "runs"
    __table_args__ = (Index("runs_by_kind", "use_case", "kind", "started_at"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    use_case: Mapped[str]
    kind: Mapped[str]
    as_of: Mapped[datetime]
    started_at: Mapped[datetime]
    state: Mapped[str]
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    detail: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    host: Mapped[str] = mapped_column(default="")
    pid: Mapped[int | None] = mapped_column(default=None)
    heard_at: Mapped[datetime | None] = mapped_column(default=None)


class LeaseRow(Base):
    """Who may do a piece of work that only one process may do; free once `expires_at` has passed."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    expires_at: Mapped[datetime]


class KeyRow(Base):
    """An issued API key: digests (sha256, hex) of its secrets, never a secret.

    After a rotation the secret before it holds until `old_until`. A quota that is None is the settings' default.
    """

    __tablename__ = "api_keys"
    __table_args__ = (Index("api_keys_by_name", "name", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    digest: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)
    old_digest: Mapped[str | None] = mapped_column(default=None)
    old_until: Mapped[datetime | None] = mapped_column(default=None)
    requests_per_second: Mapped[int | None] = mapped_column(default=None)
    rows_per_second: Mapped[int | None] = mapped_column(default=None)
    concurrency: Mapped[int | None] = mapped_column(default=None)


class AuditRow(Base):
    """A call or a command that changed the platform, and with which key.

    Of a call `remote` is the client's address and `status` the answer's; of a command `remote` is the operating
    system's user and `status` is None.
    """

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_time", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    at: Mapped[datetime]
    key_id: Mapped[str]
    key_name: Mapped[str]
    method: Mapped[str]
    route: Mapped[str]
    remote: Mapped[str]
    status: Mapped[int | None] = mapped_column(default=None)
    request_id: Mapped[str] = mapped_column(default="")
