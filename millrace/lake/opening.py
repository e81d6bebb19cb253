"""Opening Delta tables: one at a version, or an error that says what there is instead. It reads no rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from millrace.errors import LakeError, first_line

if TYPE_CHECKING:
    from deltalake import DeltaTable


def open_table(
    uri: str, options: Mapping[str, str], name: str, version: int | None, *, there_are: Callable[[], Sequence[str]]
) -> DeltaTable:
    """The table at `uri`, at its newest version or a given one. `LakeError`, with the tables that there are, else."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(uri, version=version, storage_options=dict(options))
    except TableNotFoundError as error:
        raise LakeError(
            f"The lake has no table {name!r}.",
            looked=f"It would lie at {uri}; the lake holds {', '.join(there_are()) or 'no table'}.",
            todo="Fill it first: `millrace ingest NAME` writes raw tables, `millrace materialize NAME` features.",
        ) from error
    except DeltaError as error:
        wanted = "" if version is None else f" at version {version}"
        raise LakeError(
            f"The table {name!r} cannot be read{wanted}: {first_line(error)}.",
            looked=f"It lies at {uri}.",
            todo="Ask for a version that exists; the newest is the default.",
        ) from error


def paths_of(table: DeltaTable) -> frozenset[str]:
    """The data files of an opened version, by their path below the table; they may have been vacuumed."""
    return frozenset(pl.DataFrame(table.get_add_actions(flatten=True))["path"].to_list())
