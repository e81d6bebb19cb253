"""Rows of an SQL table or SELECT of a range of time, page by page, from any database that SQLAlchemy reaches.

Pages follow each other by (known_at, key): each starts after the last row of the one before, and rows that the database
calls equal in both are never split, so the result does not depend on the size of a page. Values keep the kind that the
driver gives them; what has none (NULL), or a lesser one, takes the schema's (`columns`). The only module of this room
that knows SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import dropwhile
from pathlib import Path
from typing import Any, Self

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import NullType

from millrace.errors import SourceError, first_line
from millrace.settings import Settings
from millrace.source import Query, Source
from pipelines.ingest.columns import declared_types, fitted, from_values, no_rows, stack, with_times
from pipelines.ingest.places import place_url, shown

_DAY = timedelta(days=1)
_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""On PostgreSQL all pages are read from one moment's rows, and nothing can be written."""


def read_query(source: Source, query: Query, settings: Settings, since: datetime, until: datetime) -> pl.DataFrame:
    """The query's rows known in (since, until], with their two times; an empty frame when there are none.

    Where the database keeps times as text, up to two days more on either side.

    Raises `SourceError` when the database cannot be reached, has no such table or column, or holds no times in
    `known_at`; `SettingsError` when the place is unknown. No message shows a password.
    """
    with _connected(source, place_url(source.name, query.place, settings)) as connection:
        table = _Table.of(connection, source, query)
        pages = [from_values(source.name, table.names, rows) for rows in table.pages(connection, since, until)]
    if not pages:
        return no_rows()
    rows = stack(source.name, [(f"page {number}", page) for number, page in enumerate(pages, 1)]).lazy()
    rows = query.prepare(rows) if query.prepare else rows
    return fitted(with_times(source.name, rows, query.event_time, query.known_at).collect(), declared_types(source))


@contextmanager
def _connected(source: Source, url: str) -> Iterator[sa.Connection]:
    """A connection for the length of one read; what the database says is told without its password."""
    engine = _engine(source, url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection = connection.execution_options(**_SNAPSHOT)
                connection.execute(sa.text("SET TIME ZONE 'UTC'"))
            yield connection
    except SQLAlchemyError as error:
        said = first_line(getattr(error, "orig", None) or error)
        raise SourceError(
            f"The source {source.name!r} cannot read its database: {_hidden(said, engine.url)}.",
            looked=f"Looked at {shown(url)}.",
            todo="Correct the source's Query, or its place in MILLRACE_PLACES; is the database running?",
        ) from error
    finally:
        engine.dispose()


def _engine(source: Source, url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except SQLAlchemyError as error:
        raise SourceError(
            f"The place of source {source.name!r} is no database's URL.",
            todo="Write it in MILLRACE_PLACES as postgresql+psycopg://user:password@host/name or sqlite:////path.db.",
        ) from error
    file = parsed.database if parsed.get_backend_name() == "sqlite" else None
    if file and not Path(file).is_file():  # else it would be made, empty
        raise SourceError(
            f"The database of source {source.name!r} does not exist.",
            looked=f"Looked for the file {file}.",
            todo="Correct its place in MILLRACE_PLACES (sqlite:////absolute/path.db).",
        )
    try:
        return sa.create_engine(parsed, poolclass=NullPool)
    except (ImportError, NoSuchModuleError) as error:
        raise SourceError(
            f"The source {source.name!r} cannot load its database's driver: {first_line(error)}.",
            looked=f"Its place says {parsed.drivername}://.",
            todo="Install the driver (pip install …), or name another in MILLRACE_PLACES (postgresql+psycopg://…).",
        ) from error


def _hidden(text: str, url: sa.URL) -> str:
    return shown(text.replace(str(url.password), "***") if url.password else text)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table or SELECT with its columns, the known_at first among those that its pages are ordered by."""

    source: str
    rows: Any
    names: Sequence[str]
    order: Sequence[sa.ColumnElement[Any]]
    page_rows: int

    @classmethod
    def of(cls, connection: sa.Connection, source: Source, query: Query) -> Self:
        """The table of a query; `SourceError` when it lacks `known_at`."""
        rows = _rows(query.sql)
        names = list(connection.execute(sa.select(sa.text("*")).select_from(rows).where(sa.false())).keys())
        if query.known_at not in names:
            raise SourceError(
                f"The rows of source {source.name!r} have no column {query.known_at}.",
                looked=f"Its query has the columns {', '.join(names)}.",
                todo="Name the column of the time in Query(…, known_at='…').",
            )
        order = [query.known_at, *(name for name in source.key if name in names and name != query.known_at)]
        return cls(source.name, rows, names, [sa.column(name) for name in order], query.page_rows)

    def pages(self, connection: sa.Connection, since: datetime, until: datetime) -> Iterator[Sequence[Sequence[Any]]]:
        """The rows known in (since, until], a page at a time; a few more where the database keeps times as text."""
        known = self.order[0]
        some = connection.execute(sa.select(known).select_from(self.rows).where(known.is_not(None)).limit(1)).scalar()
        if some is None:
            return
        within = self._within(some, since, until)
        where = [self.names.index(str(column.name)) for column in self.order]
        page = connection.execute(self._select(within).limit(self.page_rows)).all()
        while len(page) == self.page_rows:
            last = _at(page[-1], where)
            # All rows that the database calls equal to the last (it may not tell a from A) belong to this page.
            equal = connection.execute(self._select(within & self._same(last))).all()
            yield [*_without_tail(page, equal, where), *equal]
            page = connection.execute(self._select(within & self._after(last)).limit(self.page_rows)).all()
        if page:
            yield page

    def _select(self, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
        columns: list[sa.ColumnElement[Any]] = [sa.column(name) for name in self.names]
        known, *key = self.order
        nulls_last = [part for column in key for part in (sa.case((column.is_(None), 1), else_=0), column)]
        return sa.select(*columns).select_from(self.rows).where(condition).order_by(known, *nulls_last)

    def _same(self, at: Sequence[Any]) -> sa.ColumnElement[bool]:
        """Rows with these values in the columns of the order."""
        return sa.and_(*(_equals(column, value) for column, value in zip(self.order, at, strict=True)))

    def _after(self, at: Sequence[Any]) -> sa.ColumnElement[bool]:
        """Rows that come after the one with these values in the columns of the order, NULLs last."""
        later: sa.ColumnElement[bool] = sa.false()
        for column, value in reversed(list(zip(self.order, at, strict=True))):
            greater = sa.false() if value is None else (column > _bound(value)) | column.is_(None)
            later = greater | (_equals(column, value) & later)
        return (self.order[0] >= _bound(at[0])) & later  # the first part is what an index can use

    def _within(self, some: Any, since: datetime, until: datetime) -> sa.ColumnElement[bool]:
        """The rows of the range, for a `known_at` of the kind that this database has (`some` is one)."""
        known = self.order[0]
        if isinstance(some, str) and _is_iso(some):
            # Texts sort by their day; the day is that of the text's own zone, so one more on either side.
            days = (since.astimezone(UTC) - _DAY).date(), (until.astimezone(UTC) + 2 * _DAY).date()
            first, last = (day.isoformat() for day in days)
            return (known >= _bound(first)) & (known < _bound(last))
        if isinstance(some, datetime):
            zone = UTC if some.tzinfo else None
            since, until = (at.astimezone(UTC).replace(tzinfo=zone) for at in (since, until))
            return (known > _bound(since)) & (known <= _bound(until))
        if isinstance(some, date):
            days = since.astimezone(UTC).date(), until.astimezone(UTC).date()
            return (known > _bound(days[0])) & (known <= _bound(days[1]))
        raise SourceError(
            f"The column {known.name} of source {self.source!r} holds no times, but {type(some).__name__}.",
            todo="Make it a time or an ISO 8601 text in a SELECT; on SQLite: datetime(seconds, 'unixepoch') AS …",
        )


def _rows(sql: str) -> Any:
    """A table's name (`name` or `schema.name`) or a SELECT as what rows are selected from."""
    sql = sql.strip().rstrip(";").rstrip()
    if not any(sign.isspace() or sign == "(" for sign in sql):
        *schema, name = sql.split(".")
        return sa.table(name, schema=".".join(schema) or None)
    return sa.text(f"({sql.replace(':', chr(92) + ':')}\n) AS source_rows")  # a colon is no parameter


def _bound(value: Any) -> sa.BindParameter[Any]:
    """A value as the driver takes it: with a type, SQLAlchemy would cast it, and no index or enum compares to that."""
    return sa.literal(value, NullType())


def _equals(column: sa.ColumnElement[Any], value: Any) -> sa.ColumnElement[bool]:
    return column.is_(None) if value is None else column == _bound(value)


def _at(row: Sequence[Any], where: Sequence[int]) -> tuple[Any, ...]:
    return tuple(row[index] for index in where)


def _without_tail(page: Sequence[Any], tail: Sequence[Any], where: Sequence[int]) -> list[Any]:
    """The page up to its last rows, those that have the values of a row of `tail` in the columns of the order."""
    equal = [_at(row, where) for row in tail]
    return list(dropwhile(lambda row: _at(row, where) in equal, reversed(page)))[::-1]


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return text[4:5] == "-"
