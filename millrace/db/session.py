"""Connections and transactions: how the platform's database is opened, brought up to date, read and written.

On SQLite every writing transaction begins IMMEDIATE: with a deferred BEGIN, 25-88 % of concurrent read-then-write
transactions fail at once instead of waiting for their turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session

from millrace.errors import SettingsError

MIGRATIONS = Path(__file__).parent / "migrations"


def open_engine(url: str) -> Engine:
    """An engine on `url`, its schema at the newest migration.

    Raises `SettingsError` when the URL is malformed or the database does not answer.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
        if engine.dialect.name == "sqlite":
            _configure_sqlite(engine)
        _migrate(engine)
    except (ArgumentError, OperationalError) as error:
        raise SettingsError(
            "The platform's database cannot be opened.",
            looked=f"Tried {_without_password(url)}: {str(error).splitlines()[0]}",
            todo="Check MILLRACE_DATABASE_URL (postgresql+psycopg://user:password@host/name) and that it is running.",
        ) from error
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session for queries; rows stay usable after it."""
    with Session(engine, expire_on_commit=False) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session in one transaction: committed at the end, rolled back if the body raises."""
    with Session(engine.execution_options(millrace_writes=True), expire_on_commit=False) as session, session.begin():
        yield session


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin by itself, and deferred
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("millrace_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    """Bring the schema to the newest migration; alembic (0.2 s to import) is needed only when it is not there yet."""
    if _revision(engine) == _newest_revision():
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.execution_options(millrace_writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":  # two processes that start together migrate one after the other
            connection.execute(text("SELECT pg_advisory_xact_lock(7316)"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@cache
def _newest_revision() -> str:
    """The newest migration's revision: files are numbered, so it is the last one's number."""
    return max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py")).split("_")[0]


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "a URL that SQLAlchemy cannot parse"
