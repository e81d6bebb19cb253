"""Which batches brought some rows of a lake table: exactly where the files of their commits are still there.

A batch's range says which rows it can have brought (`known_at` in it), its commit's files which it did. This module
knows nothing of what the rows are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from millrace.errors import LakeError
from millrace.lake import Lake
from millrace.lake.log import Version
from millrace.source import KNOWN_AT


@dataclass(frozen=True, slots=True)
class Origin:
    """A batch and how many of the rows it brought; not `exact`: how many of them it can have brought by its range."""

    commit: Version
    rows: int
    exact: bool


def origins(lake: Lake, table: str, rows: pl.DataFrame, *, version: int) -> list[Origin]:
    """The batches up to `version` that brought these rows, the oldest first.

    `rows` are columns that tell the table's rows apart, `known_at` (UTC) among them. A batch that read a row again
    which the table had already did not bring it. Rows of commits without a range are not found.
    """
    wanted, found = rows.unique(), list[Origin]()
    commits = [commit for commit in reversed(lake.history(table)) if commit.number <= version and _range(commit.about)]
    unsure: list[Version] = []
    for commit in commits:
        within = wanted.filter(_in_range(commit))
        if within.is_empty():
            continue
        try:
            brought = _brought(lake, table, commit.number, within)
        except LakeError:
            unsure.append(commit)
            continue
        if brought.height:
            found.append(Origin(commit, brought.height, True))
            wanted = wanted.join(brought, on=rows.columns, how="anti")
    by_range = [Origin(commit, wanted.filter(_in_range(commit)).height, False) for commit in unsure]
    return sorted([*found, *(one for one in by_range if one.rows)], key=lambda one: one.commit.number)


def _brought(lake: Lake, table: str, version: int, rows: pl.DataFrame) -> pl.DataFrame:
    """Those of the rows that the version has and the one before it did not."""
    before = lake.files(table, version=version - 1) if version else frozenset()
    files = lake.files(table, version=version)
    added = _among(lake.rows_of(table, files - before, version=version), rows)
    if before <= files or added.is_empty():
        return added
    removed = _among(lake.rows_of(table, before - files, version=version), rows)
    return added.join(removed, on=rows.columns, how="anti")


def _among(stored: pl.LazyFrame, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.lazy().join(stored.select(rows.columns), on=rows.columns, how="semi").collect()


def _range(about: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    try:
        return datetime.fromisoformat(about["since"]), datetime.fromisoformat(about["until"])
    except (KeyError, ValueError):
        return None


def _in_range(commit: Version) -> pl.Expr:
    ends = _range(commit.about)
    if ends is None:
        return pl.lit(False)
    return (pl.col(KNOWN_AT) > ends[0]) & (pl.col(KNOWN_AT) <= ends[1])
