"""A batch job's scores are those that the endpoint answers for the same rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl

from millrace.errors import RequestError
from millrace.telemetry import Metrics
from pipelines.score_jobs import score_job
from pipelines.workspace import Workspace
from serving.online.model import open_model

from .conftest import AT, asked, trips

ROWS = 100_000


def test_a_hundred_thousand_rows_have_the_same_scores_both_ways(ws: Workspace, tmp_path: Path) -> None:
    rows = trips(ROWS).drop("other", "event_time")
    rows = rows.with_columns(delay=pl.when(pl.int_range(ROWS) % 11 > 0).then("delay"))  # some are missing
    rows.write_parquet(tmp_path / "rows.parquet")
    score_job(ws, asked(tmp_path / "rows.parquet", tmp_path / "out", chunk_rows=30_000), at=AT)
    batch = pl.read_parquet(tmp_path / "out").sort("trip")["score"]

    champion = ws.db.champion("late")
    assert champion is not None
    model = open_model(
        champion, ws.use_case, ws.settings, clock=lambda: AT, metrics=Metrics(), reader_of=lambda *_: None
    )  # type: ignore[arg-type,return-value]  # rows bring every feature
    online: list[float] = []
    for part in rows.sort("trip").iter_slices(1_000):
        (answer,) = model.score([model.decoder.decode(msgspec.json.encode({"rows": part.to_dicts()}))])
        assert not isinstance(answer, RequestError)
        online += [row.score for row in answer.predictions]
    assert len(online) == ROWS
    assert (batch - pl.Series(online)).abs().max() <= 1e-6  # type: ignore[operator]  # of numbers
