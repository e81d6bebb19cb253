"""Which label holds: of everything that was said of a row, whoever said it and in whatever order it arrived.

The newest known label wins; of two known at one instant, the larger; and it is known since the first of the statements
that have said the same without another between them, so that saying it again changes nothing. A use case may let its
source hold over what is posted (`Label.holds`). Monitoring and training sets both ask here. This module knows nothing
of models, windows or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from millrace.lake import Lake
from millrace.outcome_log import TABLE
from millrace.prediction_log import TABLE as PREDICTIONS
from millrace.prediction_log import row_keys
from millrace.source import EVENT_TIME, KNOWN_AT
from millrace.usecase import LABEL, Label

LABEL_KNOWN_AT = "label_known_at"
"""Column: since when the label is known (UTC)."""
ROW_KEY = "row_key"
"""Column: the population's key columns of a row, as `prediction_log.row_key` writes them."""
PREDICTION_ID = "prediction_id"
"""Column: the prediction's name in the answer and in the prediction log."""
NAMES = ((ROW_KEY,), (ROW_KEY, EVENT_TIME), (PREDICTION_ID,))
"""How posted statements name their rows: by key, by key and the instant predicted at, or by prediction."""
_ROW = "_row"


@dataclass(frozen=True, slots=True)
class Attached:
    """Rows with the label that holds for each, and what was odd about the labels.

    `frame` has the rows' columns in their order, and `label` (Int8) and `label_known_at` beside them, null where
    nothing is known.
    """

    frame: pl.DataFrame
    unmatched: int
    """Rows or predictions that labels name and that are not there."""
    corrected: int
    """Rows whose label a later one replaced by another."""
    contradictory: int
    """Rows with different labels known at one instant; the larger was taken."""


def posted(label: Label, lake: Lake, *, as_of: datetime) -> tuple[pl.DataFrame, ...]:
    """The statements of the outcome log that were known at `as_of`, a frame for each of `NAMES` that has any.

    Each has the naming columns, `label` (Int8) and `label_known_at`. A prediction that was logged with its row's key
    stands for the row: what is said of it is said of the row, however often that was predicted. A class that
    the label has no more says nothing.
    """
    if not lake.exists(TABLE):
        return ()
    codes = {name: code for code, name in enumerate(label.classes or ("0", "1"))}
    code = pl.col(LABEL).replace_strict(codes, default=None, return_dtype=pl.Int8)
    columns = [PREDICTION_ID, ROW_KEY, EVENT_TIME, code, pl.col(KNOWN_AT).alias(LABEL_KNOWN_AT)]
    rows = lake.scan(TABLE).filter(pl.col(KNOWN_AT) <= as_of).select(columns).drop_nulls(LABEL).collect()
    rows = _with_row_keys(rows, lake)
    by_key, by_instant = pl.col(ROW_KEY) != "", pl.col(EVENT_TIME).is_not_null()
    parts = zip(NAMES, (by_key & ~by_instant, by_key & by_instant, ~by_key), strict=True)
    found = [rows.filter(part).select(*names, LABEL, LABEL_KNOWN_AT) for names, part in parts]
    return tuple(frame for frame in found if frame.height)


def unknown(lake: Lake, *, as_of: datetime) -> int:
    """How many predictions, and rows by key, the statements known at `as_of` name that the prediction log lacks."""
    if not lake.exists(TABLE):
        return 0
    named = lake.scan(TABLE).filter(pl.col(KNOWN_AT) <= as_of).select(PREDICTION_ID, ROW_KEY).unique()
    if not lake.exists(PREDICTIONS):
        return named.collect().height
    logged, by_id = lake.scan(PREDICTIONS), pl.col(PREDICTION_ID) != ""
    parts = ((PREDICTION_ID, by_id), (ROW_KEY, ~by_id))
    return sum(named.filter(part).join(logged, on=name, how="anti").collect().height for name, part in parts)


def standing(label: Label, own: pl.DataFrame, said: Sequence[pl.DataFrame]) -> tuple[pl.DataFrame, ...]:
    """What clients `said` (the frames of `posted`) as far as the use case lets it count beside its own source.

    `own` is what that knows: its key columns or `row_key`, `label` and `label_known_at`. Where the source holds, what
    is said of rows that it knows is left out.
    """
    if label.holds != "source":
        return tuple(said)
    ours = by_row_key(label, own)
    kept = [frame.join(ours, on=ROW_KEY, how="anti") if ROW_KEY in frame.columns else frame for frame in said]
    return tuple(frame for frame in kept if frame.height)


def disputed(label: Label, own: pl.DataFrame, said: Sequence[pl.DataFrame]) -> int:
    """Of how many rows the label's source and the clients say different things, each by what it said last.

    `own` and `said` as in `standing`. What is said of a row at one instant only is not asked: the source knows none.
    """
    of_rows = [frame for frame in said if frame.columns[:-2] == [ROW_KEY]]
    if not of_rows:
        return 0
    theirs = holding(of_rows[0], [ROW_KEY])[0]
    ours = holding(by_row_key(label, own).join(theirs, on=ROW_KEY, how="semi"), [ROW_KEY])[0]
    return theirs.join(ours, on=ROW_KEY).filter(pl.col(LABEL) != pl.col(f"{LABEL}_right")).height


def by_row_key(label: Label, own: pl.DataFrame) -> pl.DataFrame:
    """What the label's source knows, with `row_key` in the place of its key columns."""
    key = label.source.key
    keyed = own if ROW_KEY in own.columns else own.with_columns(row_keys(key, own.schema))
    return keyed.select(ROW_KEY, pl.col(LABEL).cast(pl.Int8), LABEL_KNOWN_AT)


def attach(rows: pl.DataFrame, statements: Iterable[pl.DataFrame], *, since: datetime | None = None) -> Attached:
    """Give each row the label that holds for it.

    A frame of statements has `label` and `label_known_at` and names its rows by all its other columns, of which none is
    null or empty. `unmatched` counts those known from `since` on.
    """
    numbered = rows.drop(LABEL, LABEL_KNOWN_AT, strict=False).with_row_index(_ROW)
    found, unmatched = [numbered.select(_ROW).clear().with_columns(_nothing())], 0
    for frame in statements:
        names = [name for name in frame.columns if name not in (LABEL, LABEL_KNOWN_AT)]
        fresh = frame if since is None else frame.filter(pl.col(LABEL_KNOWN_AT) >= since)
        if not set(names) <= set(numbered.columns):
            unmatched += fresh.select(names).n_unique()
            continue
        named = numbered.select(_ROW, *names)
        found.append(named.join(frame, on=names, how="inner").select(_ROW, LABEL, LABEL_KNOWN_AT))
        unmatched += fresh.select(names).unique().join(named, on=names, how="anti").height
    held, corrected, contradictory = holding(pl.concat(found), [_ROW])
    labelled = numbered.join(held, on=_ROW, how="left", maintain_order="left").drop(_ROW)
    return Attached(labelled, unmatched, corrected, contradictory)


def holding(statements: pl.DataFrame, names: Sequence[str]) -> tuple[pl.DataFrame, int, int]:
    """The one label that holds for each of what `names` tell apart and since when it is known; how many of them a later
    label corrected, and how many have different ones of one instant. In whatever order the statements are."""
    by_instant = statements.group_by([*names, LABEL_KNOWN_AT]).agg(
        pl.col(LABEL).max(), contradictory=pl.col(LABEL).n_unique() > 1
    )
    begins = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in [*names, LABEL])
    ordered = by_instant.sort([*names, LABEL_KNOWN_AT]).with_columns(
        pl.when(begins).then(LABEL_KNOWN_AT).forward_fill().alias(LABEL_KNOWN_AT)
    )
    held = ordered.unique(names, keep="last", maintain_order=True).select(*names, LABEL, LABEL_KNOWN_AT)
    corrected = ordered.group_by(names).agg(pl.col(LABEL).n_unique()).filter(pl.col(LABEL) > 1).height
    return held, corrected, ordered.filter("contradictory").select(names).n_unique()


def _with_row_keys(rows: pl.DataFrame, lake: Lake) -> pl.DataFrame:
    """The statements, those by prediction with the row key that the prediction log has for it, if it has one."""
    asked = rows.filter(pl.col(PREDICTION_ID) != "").select(PREDICTION_ID).unique()
    if asked.is_empty() or not lake.exists(PREDICTIONS):
        return rows
    keyed = lake.scan(PREDICTIONS).select(PREDICTION_ID, pl.col(ROW_KEY).alias("logged")).filter(pl.col("logged") != "")
    logged = keyed.join(asked.lazy(), on=PREDICTION_ID, how="semi").unique(PREDICTION_ID).collect()
    joined = rows.join(logged, on=PREDICTION_ID, how="left")
    return joined.with_columns(pl.coalesce("logged", ROW_KEY).alias(ROW_KEY)).drop("logged")


def _nothing() -> list[pl.Expr]:
    instant = pl.Datetime("us", "UTC")
    return [pl.lit(None, pl.Int8).alias(LABEL), pl.lit(None, instant).alias(LABEL_KNOWN_AT)]
