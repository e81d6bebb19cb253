"""Databases as input and output of a job, through SQLAlchemy: a query streamed once, scores upserted by their key.

A database is named by its place in MILLRACE_PLACES; no message shows its password. The only module of this room that
knows SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from millrace.errors import ScoreJobError, SettingsError, first_line
from millrace.settings import Settings
from serving.batch.sinks import AwayError
from serving.batch.spec import SqlRows

PAGE_ROWS = 50_000
"""Rows of a query's result that lie in memory at once."""
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def copy_query(rows: SqlRows, folder: Path, settings: Settings) -> None:
    """Copy what a table or SELECT answers into `folder`, a Parquet file a page; from one moment's rows.

    Raises `ScoreJobError` when the database does not answer or refuses the query.
    """
    engine = open_database(rows.place, settings, must_exist=True)
    try:
        with _telling(engine, f"The query of the place {rows.place!r} cannot be read"), engine.connect() as connection:
            options = {"stream_results": True, "yield_per": PAGE_ROWS}
            answer = connection.execution_options(**options).execute(sa.text(_select(rows.sql)))
            names, page = list(answer.keys()), -1
            for page, values in enumerate(answer.partitions()):
                _page(names, values).write_parquet(folder / f"{page:06}.parquet")
            if page < 0:
                _page(names, []).write_parquet(folder / "000000.parquet")
    finally:
        engine.dispose()


class SqlSink:
    """A table of SQLite or PostgreSQL, whose key is the population's and the model's version.

    A chunk is one transaction of upserts. Of two rows of a job with one key the one that is written last stays.
    """

    def __init__(self, place: str, table: str, key: Sequence[str], settings: Settings) -> None:
        self._engine = open_database(place, settings)
        *schema, name = table.split(".")
        self._what, self._name, self._schema = f"The table {table} of {place!r}", name, ".".join(schema) or None
        self._key = [*key, "model_version"]
        self._table: sa.Table | None = None

    def check(self, schema: pl.Schema) -> None:
        """See `Sink.check`."""
        columns = [sa.Column(n, _sql_type(d), primary_key=n in self._key) for n, d in schema.items()]
        table = sa.Table(self._name, sa.MetaData(schema=self._schema), *columns)
        with _telling(self._engine, f"{self._what} cannot be prepared"):
            inspector = sa.inspect(self._engine)
            if inspector.has_table(self._name, schema=self._schema):
                self._compare(inspector, table)
            else:
                table.create(self._engine)
        self._table = table

    def write(self, chunk: int, frame: pl.DataFrame) -> None:
        """See `Sink.write`; `AwayError` when the database does not answer."""
        table = self._table
        if table is None or frame.is_empty():
            return
        insert = _INSERTS[self._engine.dialect.name](table)
        others = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
        statement = insert.on_conflict_do_update(index_elements=self._key, set_=others)
        with _telling(self._engine, f"{self._what} cannot be written"), self._engine.begin() as connection:
            for part in frame.iter_slices(PAGE_ROWS):
                connection.execute(statement, part.to_dicts())

    def close(self) -> None:
        """See `Sink.close`."""
        self._engine.dispose()

    def _compare(self, inspector: Any, table: sa.Table) -> None:
        there = {column["name"] for column in inspector.get_columns(self._name, schema=self._schema)}
        ours = {column.name for column in table.c}
        key = set(inspector.get_pk_constraint(self._name, schema=self._schema)["constrained_columns"])
        if there == ours and key == set(self._key):
            return
        differ = ", ".join(sorted(there ^ ours)) or f"its key is {', '.join(sorted(key)) or 'none'}"
        raise ScoreJobError(
            f"{self._what} has other columns than these scores: {differ}.",
            looked=f"Its key must be {', '.join(self._key)}. Nothing was written.",
            todo="Choose another --output, or rename the old table.",
        )


def open_database(place: str, settings: Settings, *, must_exist: bool = False) -> sa.Engine:
    """The database of a place; `SettingsError` when the settings do not name it or its URL is none."""
    if place not in settings.places:
        raise SettingsError(
            f"The job names the place {place!r}, which MILLRACE_PLACES does not.",
            looked=f"It names {', '.join(sorted(settings.places)) or 'no place'}.",
            todo='Set MILLRACE_PLACES=\'{"NAME": "postgresql+psycopg://user:password@host/name"}\'.',
        )
    try:
        url = sa.make_url(settings.places[place])
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and must_exist and not Path(file).is_file():  # else it would be made, empty
            raise SettingsError(f"The database of the place {place!r} does not exist.", looked=f"Looked for {file}.")
        if url.get_backend_name() not in _INSERTS and not must_exist:
            raise SettingsError(f"Scores are written to SQLite and PostgreSQL, not to {url.get_backend_name()}.")
        return sa.create_engine(url, poolclass=NullPool)
    except (SQLAlchemyError, ImportError, NoSuchModuleError) as error:
        raise SettingsError(
            f"The place {place!r} is no database's URL, or its driver is not installed.",
            todo="Write it in MILLRACE_PLACES as postgresql+psycopg://user:password@host/name or sqlite:////path.db.",
        ) from error


@contextmanager
def _telling(engine: sa.Engine, what: str) -> Iterator[None]:
    """What the database says is told without its password."""
    try:
        yield
    except SQLAlchemyError as error:
        said = first_line(getattr(error, "orig", None) or error)
        said = said.replace(str(engine.url.password), "***") if engine.url.password else said
        kind = AwayError if isinstance(error, OperationalError | InterfaceError) else ScoreJobError
        raise kind(
            f"{what}: {said}.",
            looked=f"Looked at {engine.url.render_as_string(hide_password=True)}.",
            todo="Is the database running, and is the table's or column's name right?",
        ) from error


def _select(sql: str) -> str:
    """A table's name as a SELECT; a SELECT as it is. A colon is no parameter."""
    sql = sql.strip().rstrip(";").rstrip()
    whole = sql if any(sign.isspace() or sign == "(" for sign in sql) else f"SELECT * FROM {sql}"  # noqa: S608  # the operator's own words
    return whole.replace(":", "\\:")


def _page(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """A page's columns; one whose values are of several kinds becomes text, to be read cell by cell."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return pl.DataFrame([_column(name, list(values)) for name, values in zip(names, columns, strict=True)])


def _column(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return pl.Series(name, values, pl.Float64, strict=False)
    if len(kinds) <= 1:
        try:
            return pl.Series(name, values)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            pass
    return pl.Series(name, [None if value is None else str(value) for value in values], pl.String)


def _sql_type(dtype: pl.DataType) -> Any:
    if dtype.is_integer():
        return sa.BigInteger()
    if dtype.is_float():
        return sa.Double()
    if dtype == pl.Boolean:
        return sa.Boolean()
    return sa.DateTime(timezone=True) if isinstance(dtype, pl.Datetime) else sa.Text()
