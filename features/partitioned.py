"""The point-in-time join where neither the rows nor the feature tables fit one machine: partitioned by entity, on Ray.

Two exchanges, however many views there are. First the rows' keys and instants and the feature rows meet by (view, hash
of the view's keys), and each such place is joined by `features.asof`, the very code of one machine. Then the answers
meet again by the block of rows that asked. Frames travel as Arrow IPC in one column of bytes, so that no schema of ours
is Ray's to unify. This module knows Ray Data; it does not know where rows come from or what becomes of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import polars as pl
import pyarrow as pa

from features.asof import FeatureRows, join_asof

Read = Callable[[int, Sequence[str] | None], pl.DataFrame]
"""The rows of a block by its number, all columns or some; the same rows in the same order whenever it is called."""

SLICE_ROWS = 1_000_000
"""Feature rows that one task reads and partitions."""
_ROW, _BLOCK, _PLACE = "__row", "__block", "__place"
_NO_VIEW = -1


@dataclass(frozen=True, slots=True)
class PartitionedJoin:
    """What every task of one join knows: how a block is read, its column of instants (UTC), the views, the places."""

    read: Read
    at: str
    views: tuple[FeatureRows, ...]
    partitions: int

    def blocks(self, numbers: Sequence[int]) -> Any:
        """A Ray dataset with one record a block: its number and, as IPC bytes, its frame with the features joined.

        The frames equal `join_asof(read(number), at, views)`: ties, expiry and order included. Open one with `opened`.
        """
        import ray

        with _by_tasks():
            return self._exchanged(ray, numbers)

    def _exchanged(self, ray: Any, numbers: Sequence[int]) -> Any:
        rows = _tasks([{"block": number} for number in numbers]).map_batches(_each(self._asked), **_ONE)
        features = _tasks(self._slices()).map_batches(_each(self._offered), **_ONE)
        met = rows.union(features).groupby("place", num_partitions=self.partitions)
        answers = met.map_groups(self._answered, batch_format="pyarrow")
        asked = ray.data.from_arrow(markers(numbers))
        home = answers.union(asked).groupby("block", num_partitions=min(self.partitions, max(len(numbers), 1)))
        return home.map_groups(self._home, batch_format="pyarrow")

    def _slices(self) -> list[dict[str, int]]:
        counts = [int(view.rows.select(pl.len()).collect().item()) for view in self.views]
        return [
            {"view": number, "start": start}
            for number, count in enumerate(counts)
            for start in range(0, max(count, 1), SLICE_ROWS)
        ]

    def _asked(self, task: dict[str, int]) -> Iterator[_Record]:
        """A block's keys and instants, cut by the place of each view."""
        keys = {key for view in self.views for key in view.keys.values()}
        rows = self.read(task["block"], sorted({self.at, *keys})).with_row_index(_ROW)
        for number, view in enumerate(self.views):
            asked = rows.select(_ROW, self.at, *dict.fromkeys(view.keys.values()))
            schema = view.rows.collect_schema()
            place = _place([pl.col(ours).cast(schema[theirs]) for theirs, ours in view.keys.items()], self.partitions)
            for at, part in _cut(asked, place):
                yield number * self.partitions + at, number, task["block"], -1, _packed(part)

    def _offered(self, task: dict[str, int]) -> Iterator[_Record]:
        """A slice of a view's rows, cut by place; the first slice reaches every place, with its columns if no row."""
        number, start = task["view"], task["start"]
        view = self.views[number]
        columns = dict.fromkeys([*view.keys, *view.columns, view.event, *([view.created] if view.created else [])])
        rows = view.rows.select(*columns).slice(start, SLICE_ROWS).collect()
        parts = dict(_cut(rows, _place([pl.col(key) for key in view.keys], self.partitions)))
        if start == 0:
            parts = dict.fromkeys(range(self.partitions), rows.clear()) | parts
        for at, part in parts.items():
            yield number * self.partitions + at, number, -1, start // SLICE_ROWS, _packed(part)

    def _answered(self, place: pa.Table) -> pa.Table:
        """The join of one place: every row that asked there, with the view's features, cut by block again."""
        number = place["view"][0].as_py()
        view = self.views[number]
        records = place.sort_by([("slice", "ascending"), ("block", "ascending")]).to_pylist()
        asked = [
            opened(record["frame"]).with_columns(pl.lit(record["block"]).alias(_BLOCK))
            for record in records
            if record["slice"] < 0
        ]
        if not asked:
            return _records([])
        offered = pl.concat([opened(record["frame"]) for record in records if record["slice"] >= 0])
        found = join_asof(pl.concat(asked), self.at, [replace(view, rows=offered.lazy())])
        wanted = found.select(_BLOCK, _ROW, *dict.fromkeys(view.columns.values()))
        parts = wanted.partition_by(_BLOCK, as_dict=True, include_key=False)
        return _records([(0, number, block, 0, _packed(part)) for (block,), part in parts.items()])

    def _home(self, pieces: pa.Table) -> pa.Table:
        """A block whole again, in its order."""
        block = pieces["block"][0].as_py()
        frame = self.read(block, None)
        found: dict[int, list[pl.DataFrame]] = {}
        for record in pieces.to_pylist():
            if record["view"] != _NO_VIEW:
                found.setdefault(record["view"], []).append(opened(record["frame"]))
        for number, view in enumerate(self.views):
            frame = frame.with_columns(self._columns(view, found.get(number, [])))
        return _records([(0, _NO_VIEW, block, 0, _packed(frame))])

    def _columns(self, view: FeatureRows, parts: list[pl.DataFrame]) -> list[pl.Series]:
        if parts:
            return pl.concat(parts).sort(_ROW).drop(_ROW).get_columns()
        schema = view.rows.collect_schema()  # a block without rows
        return [pl.Series(ours, [], schema[name]) for name, ours in view.columns.items()]


_Record = tuple[int, int, int, int, bytes]
_ONE: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}


def markers(blocks: Sequence[int]) -> pa.Table:
    """A record a block, by which one without rows comes home too."""
    return _records([(0, _NO_VIEW, number, 0, b"") for number in blocks])


@contextmanager
def _by_tasks() -> Iterator[None]:
    """Datasets made in the body exchange rows by tasks, which Ray does again when a process dies. Its newer way holds
    cores for actors from the start, and on a cluster of two cores waits for them for ever (2.60)."""
    from ray.data.context import DataContext, ShuffleStrategy

    context = DataContext.get_current()
    before, context.shuffle_strategy = context.shuffle_strategy, ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    try:
        yield
    finally:
        context.shuffle_strategy = before


def opened(packed: bytes) -> pl.DataFrame:
    """A frame that travelled as bytes."""
    return pl.read_ipc(BytesIO(packed))


def _packed(frame: pl.DataFrame) -> bytes:
    into = BytesIO()
    frame.write_ipc(into)
    return into.getvalue()


def _place(keys: Sequence[pl.Expr], partitions: int) -> pl.Expr:
    """Where a key belongs. The hash is the same in every process with one version of polars, which a cluster has."""
    return (pl.struct(key.alias(str(number)) for number, key in enumerate(keys)).hash() % partitions).alias(_PLACE)


def _cut(frame: pl.DataFrame, place: pl.Expr) -> Iterator[tuple[int, pl.DataFrame]]:
    """The parts of a frame by place, each in the frame's order."""
    parts = frame.with_columns(place).partition_by(_PLACE, as_dict=True, maintain_order=True, include_key=False)
    return ((int(at), part) for (at,), part in parts.items())


def _tasks(tasks: list[dict[str, int]]) -> Any:
    """A Ray dataset of small tasks, a block of Ray's each."""
    import ray

    return ray.data.from_items(tasks, override_num_blocks=max(len(tasks), 1))


def _each(act: Callable[[dict[str, int]], Iterator[_Record]]) -> Callable[[pa.Table], pa.Table]:
    """`act` on a batch of one task."""
    return lambda batch: _records(list(act(batch.to_pylist()[0])))


def _records(records: Sequence[_Record]) -> pa.Table:
    names = ("place", "view", "block", "slice")
    numbers = {name: pa.array([record[at] for record in records], pa.int64()) for at, name in enumerate(names)}
    return pa.table(numbers | {"frame": pa.array([record[4] for record in records], pa.large_binary())})
