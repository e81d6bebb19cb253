"""The rows of a job: what identifies them, which files they are, and the rows of one chunk.

Lake tables are pinned to a version, Parquet files are read where they lie and must not change under way. What has no
random access or no version, CSV and SQL, is copied once as Parquet into the job's folder, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any, Literal

import polars as pl

from millrace.errors import MillraceError, ScoreJobError, first_line
from millrace.lake import Lake
from serving.batch.plan import Chunk, InputFile, JobPlan
from serving.batch.spec import FilePath, LakeTable, Place, SqlRows

Kind = Literal["lake", "typed", "texts"]
ROW = "__row"
"""The column of a row's place in the whole input."""


def identify(place: Place, lake: Lake) -> tuple[Place, dict[str, Any]]:
    """The input pinned to what it is now, and what identifies it: a table's version, files with sizes and times.

    Raises `LakeError` for a table that is not there, `ScoreJobError` for files that are not.
    """
    if isinstance(place, LakeTable):
        version = int(lake.delta(place.table, place.version).version())
        return replace(place, version=version), {"table": place.table, "version": version}
    if isinstance(place, SqlRows):
        return place, {"place": place.place, "sql": place.sql}
    return place, {"files": [[str(path), *_stamp(path)] for path in list_files(place)]}


def list_files(place: FilePath) -> list[Path]:
    """The Parquet or CSV files at a path, in a folder or of a pattern, sorted; all of one kind."""
    path = Path(place.path)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix in (".parquet", ".csv") and file.is_file()]
    else:
        found = _matching(place.path)
    files = sorted(file for file in found if file.is_file() and file.suffix in (".parquet", ".csv"))
    if not files:
        raise ScoreJobError(
            "There is nothing to score: no Parquet or CSV file is there.",
            looked=f"Looked for {place.path}.",
            todo="Give --input a file, a folder or a pattern of .parquet or .csv files.",
        )
    if len({file.suffix for file in files}) > 1:
        raise ScoreJobError(
            f"Parquet and CSV files lie together: {files[0].name}, {files[-1].name}, …",
            looked=f"Looked for {place.path}.",
            todo="Name one kind with a pattern: 'FOLDER/*.parquet'.",
        )
    return files


def _matching(pattern: str) -> list[Path]:
    """The path itself, or what matches it: a pattern may be absolute, which `Path.glob` refuses."""
    return [Path(name) for name in glob(pattern, recursive=True)]  # noqa: PTH207  # as above


def gather(
    place: Place, lake: Lake, folder: Path, *, read_sql: Callable[[SqlRows, Path], None]
) -> tuple[Kind, list[InputFile]]:
    """How the input's files are read, and which they are; CSV and SQL rows are copied into `folder` first."""
    if isinstance(place, LakeTable):
        return "lake", _lake_files(place, lake)
    if isinstance(place, SqlRows):
        return "texts", _copies(folder, lambda: read_sql(place, folder))
    files = list_files(place)
    if files[0].suffix == ".csv":
        return "texts", _copies(folder, lambda: _copy_csv(files, folder))
    return "typed", [_parquet(path, *_stamp(path)) for path in files]


def schemas(plan: JobPlan, lake: Lake) -> Iterator[tuple[str, pl.Schema]]:
    """What each file is called and the columns it has; of a lake table, those of its version."""
    if plan.kind == "lake":
        yield f"The table {plan.table}", lake.scan(plan.table, version=plan.table_version).collect_schema()
        return
    for file in plan.files:
        yield f"The file {file.path}", pl.read_parquet_schema(file.path)  # type: ignore[misc]  # a dict of types


def read_chunk(
    plan: JobPlan, lake: Lake, chunk: Chunk, columns: Callable[[list[str]], list[str]]
) -> list[pl.DataFrame]:
    """The chunk's rows, a frame a piece, with the place of each in the whole input as `ROW`.

    `columns` picks, of the names that a file has, those to read. Raises `ScoreJobError` when a file is no longer what
    it was when the job was planned.
    """
    frames: list[pl.DataFrame] = []
    first = chunk.first
    for piece in chunk.pieces:
        file = plan.files[piece.file]
        rows = _scan(plan, lake, file)
        wanted = columns(rows.collect_schema().names())
        try:
            frame = rows.slice(piece.first, piece.rows).select(wanted).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unreadable(file.path, error) from error
        frames.append(frame.with_columns(pl.int_range(first, first + frame.height).alias(ROW)))
        if frame.height != piece.rows:
            raise _changed(file.path)
        first += piece.rows
    return frames


def _scan(plan: JobPlan, lake: Lake, file: InputFile) -> pl.LazyFrame:
    if plan.kind == "lake":
        return lake.rows_of(plan.table, [file.path], version=plan.table_version)
    if file.mtime_ns and _stamp(Path(file.path)) != (file.size, file.mtime_ns):
        raise _changed(file.path)
    return pl.scan_parquet(file.path)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return status.st_size, status.st_mtime_ns


def _parquet(path: Path, size: int = 0, mtime_ns: int = 0) -> InputFile:
    try:
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(str(path), error) from error
    return InputFile(str(path), rows, size, mtime_ns)


def _lake_files(place: LakeTable, lake: Lake) -> list[InputFile]:
    opened = lake.delta(place.table, place.version)
    actions = pl.DataFrame(opened.get_add_actions(flatten=True)).select("path", "num_records").sort("path")
    return [
        InputFile(path, _counted(place, lake, path) if rows is None else rows) for path, rows in actions.iter_rows()
    ]


def _counted(place: LakeTable, lake: Lake, path: str) -> int:
    """The rows of a file whose writer left no statistics."""
    rows = lake.rows_of(place.table, [path], version=lake.delta(place.table, place.version).version())
    return int(rows.select(pl.len()).collect().item())


def _copies(folder: Path, copy: Callable[[], None]) -> list[InputFile]:
    """The job's copies, made unless they all are: `done` is written behind the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "done").exists():
        for old in folder.glob("*.parquet"):
            old.unlink()
        copy()
        (folder / "done").touch()
    return [_parquet(path) for path in sorted(folder.glob("*.parquet"))]


def _copy_csv(files: list[Path], folder: Path) -> None:
    """Every column as text, so that a wrong cell spoils its row and nothing else."""
    for number, path in enumerate(files):
        before = _stamp(path)
        try:
            rows = pl.scan_csv(path, infer_schema=False, truncate_ragged_lines=True)
            rows.sink_parquet(folder / f"{number:06}.parquet")
        except pl.exceptions.NoDataError:
            raise ScoreJobError(f"The CSV file {path} is empty.", todo="Write its line of names at least.") from None
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unreadable(str(path), error) from error
        if _stamp(path) != before:
            raise _changed(str(path))


def _changed(path: str) -> MillraceError:
    return ScoreJobError(
        "A file of the input changed while the job ran.",
        looked=f"It is {path}: another size, or written later than when the job began.",
        todo="Type the same command again: it is another job now, which scores the file as it is.",
    )


def _unreadable(path: str, error: Exception) -> MillraceError:
    return ScoreJobError(
        f"The input cannot be read: {first_line(error)}.", looked=f"It was reading {path}.", todo="Write it again."
    )
