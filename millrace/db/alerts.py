"""What people are told of, and the outbox of what they have not been told yet.

An alert is one cause of trouble from when it is raised until it is resolved. A post is one message about it to one
destination; it waits here until the destination has taken it, so that a webhook that is down loses nothing. A
destination is known by a digest of its URL: URLs hold secrets, and none of them is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, ForeignKey, Index, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from millrace.db.models import Base, Reason
from millrace.db.session import reading, writing


class AlertRow(Base):
    """One cause of trouble: open until `resolved_at`, seen `count` times, the last time at `seen_at`.

    `told_at` is when people were last told that it is there, `resolved_told_at` that it is over.
    """

    __tablename__ = "alerts"
    __table_args__ = (Index("alerts_by_cause", "use_case", "cause"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    use_case: Mapped[str]
    cause: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str] = mapped_column(Reason())
    raised_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    told_at: Mapped[datetime]
    count: Mapped[int] = mapped_column(default=1)
    resolved_at: Mapped[datetime | None] = mapped_column(default=None)
    resolved_told_at: Mapped[datetime | None] = mapped_column(default=None)


class PostRow(Base):
    """One message to one destination; `state` is waiting, sent or dropped, and `next_at` when it is due."""

    __tablename__ = "alert_posts"
    __table_args__ = (Index("alert_posts_by_state", "state", "next_at"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    alert: Mapped[int] = mapped_column(ForeignKey("alerts.id"), init=False)
    destination: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str] = mapped_column(Reason())
    created_at: Mapped[datetime]
    next_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    error: Mapped[str] = mapped_column(default="")


@dataclass(frozen=True, slots=True)
class Noted:
    """What becomes of a cause: its row, new or changed, and the messages about it."""

    row: AlertRow
    posts: Sequence[PostRow] = ()


class Alerts:
    """The alerts and the outbox of one database. Every method is one transaction; times are timezone-aware UTC."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def note(self, use_case: str, cause: str, change: Callable[[AlertRow | None], Noted | None]) -> AlertRow | None:
        """Let `change` say what becomes of this cause, given its newest row or None; None from it changes nothing."""
        with writing(self._engine) as session:
            newest = session.scalar(
                select(AlertRow)
                .where(AlertRow.use_case == use_case, AlertRow.cause == cause)
                .order_by(AlertRow.id.desc())
                .limit(1)
                .with_for_update()
            )
            noted = change(newest)
            if noted is None:
                return None
            session.add(noted.row)
            session.flush()
            for post in noted.posts:
                post.alert = noted.row.id
            session.add_all(noted.posts)
            return noted.row

    def newest(self, *, use_case: str | None = None, limit: int = 50) -> Sequence[AlertRow]:
        """The latest alerts (of a use case): the open ones first, then by when they were last seen."""
        with reading(self._engine) as session:
            query = select(AlertRow).order_by(AlertRow.resolved_at.is_not(None), AlertRow.seen_at.desc()).limit(limit)
            return session.scalars(query.where(AlertRow.use_case == use_case) if use_case else query).all()

    def waiting(self, due: datetime | None = None) -> Sequence[PostRow]:
        """The messages that no destination has taken yet, the oldest first; with `due`, those due by then."""
        with reading(self._engine) as session:
            query = select(PostRow).where(PostRow.state == "waiting").order_by(PostRow.id)
            return session.scalars(query.where(PostRow.next_at <= due) if due else query).all()

    def unsent(self) -> dict[int, int]:
        """Of each alert that has any, how many of its messages are waiting."""
        with reading(self._engine) as session:
            query = select(PostRow.alert, func.count()).where(PostRow.state == "waiting").group_by(PostRow.alert)
            return {row[0]: row[1] for row in session.execute(query)}

    def change_post(self, post: int, **values: Any) -> None:
        """Record what became of a message."""
        with writing(self._engine) as session:
            session.execute(update(PostRow).where(PostRow.id == post).values(**values))
