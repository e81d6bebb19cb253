"""Batch jobs over HTTP: recorded once, run by a process of its own, confined to what a request may reach."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from millrace.db import Database, ScoreJobRow
from millrace.settings import Settings
from millrace.usecase import UseCase
from pipelines.job_work import work
from pipelines.score_jobs import JobSummary
from serving.app import create_app
from serving.jobs import MAX_WAITING, exchange

from .conftest import NAME, NOW, Promote, client_of

PATH = "/v1/late/jobs"
BODY = {"input": "trips.parquet", "output": "scores"}
ROWS = pl.DataFrame({"carrier": ["UA", "DL"], "trip": [1, 2], "delay": [0.5, -0.25], "far": [0.1, 0.2]})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Jobs are run when a test says so; the use case is found by its name."""
    return settings.model_copy(update={"use_cases": Path(__file__).parent / "cases", "job_worker": "elsewhere"})


@pytest.fixture
def trips(settings: Settings) -> Path:
    """The exchange folder, with a file of two rows."""
    folder = exchange(settings)
    folder.mkdir(parents=True)
    ROWS.write_parquet(folder / "trips.parquet")
    return folder


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[JobSummary]]:
    """Run what waits, as `millrace jobs work --until-idle` does, in this process."""
    for name, value in (("HOME", settings.home), ("USE_CASES", settings.use_cases)):
        monkeypatch.setenv(f"MILLRACE_{name}", str(value))

    def act() -> list[JobSummary]:
        told: list[JobSummary] = []
        work(settings, [NAME], until_idle=True, tell=told.append)
        return told

    return act


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and field, after a look that it is the one shape."""
    error = answer.json()["error"]
    assert set(error) == {"status", "what", "field", "todo"}
    return answer.status_code, error["field"]


def test_a_job_waits_is_run_and_followed(
    client: httpx.Client, trips: Path, run: Callable[[], list[JobSummary]]
) -> None:
    asked = client.post(PATH, json=BODY)
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    assert len(run()) == 1
    told = client.get(asked.headers["location"]).json()
    assert (told["state"], told["scored"], told["rejected"], told["output"]) == ("done", 2, 0, "scores")
    assert pl.read_parquet(trips / "scores" / "**" / "*.parquet").height == 2


def test_the_same_job_is_not_done_twice(client: httpx.Client, trips: Path, run: Callable[[], list[JobSummary]]) -> None:
    first = client.post(PATH, json=BODY).json()["job"]
    run()
    second = client.post(PATH, json=BODY)
    assert (second.status_code, second.json()["job"], second.json()["state"]) == (200, first, "done")
    again = client.post(PATH, json=BODY | {"again": True})
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    assert again.json()["job"] != first


def test_a_job_that_failed_is_queued_when_it_is_asked_for_again(
    client: httpx.Client, trips: Path, db: Database
) -> None:
    job = client.post(PATH, json=BODY).json()["job"]
    db.score_jobs.change(job, state="failed", error="The disk was full.")
    assert client.get(f"{PATH}/{job}").json()["error"] == "The disk was full."
    assert client.post(PATH, json=BODY).json() | {"url": ""} == client.get(f"{PATH}/{job}").json() | {"url": ""}
    assert db.score_jobs.state(job) == "queued"


def test_jobs_are_listed_by_state_and_cancelled_once(client: httpx.Client, trips: Path) -> None:
    job = client.post(PATH, json=BODY).json()["job"]
    assert [one["job"] for one in client.get(PATH, params={"state": "queued"}).json()["jobs"]] == [job]
    assert client.post(f"{PATH}/{job}/cancel").json()["state"] == "cancelled"
    assert refused(client.post(f"{PATH}/{job}/cancel")) == (409, "job")
    assert client.get(PATH, params={"state": "queued"}).json() == {"jobs": []}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": "../millrace.db"}, "input"),
        ({"input": "/etc/passwd"}, "input"),
        ({"input": "link/passwd"}, "input"),
        ({"input": "nothing.parquet"}, "input"),
        ({"input": "lake:no_such_table"}, "input"),
        ({"input": "sql:warehouse:SELECT 1"}, "input"),
        ({"input": "s3://bucket/file.parquet"}, "input"),
        ({"input": "a\0b"}, "input"),
        ({"output": "."}, "output"),
        ({"output": "../bundles"}, "output"),
        ({"output": "lake:raw/trips"}, "output"),
        ({"output": "sql:warehouse:scores"}, "output"),
        ({"output": ""}, "output"),
        ({"join": "sideways"}, "join"),
        ({"as_of": "2013-04-01T00:00:00"}, "as_of"),
        ({"as_of": "yesterday"}, "as_of"),
        ({"log": 1}, "log"),
        ({"engine": "ray"}, "body"),
    ],
)
def test_what_a_job_may_not_be_is_refused_with_its_field(
    client: httpx.Client, trips: Path, db: Database, change: dict[str, Any], field: str
) -> None:
    (trips / "link").symlink_to("/etc")
    assert refused(client.post(PATH, json=BODY | change)) == (422, field)
    assert db.score_jobs.list(NAME) == []


@pytest.mark.parametrize("body", [b"", b"[", b'{"input": "a", "input": "b", "output": "c"}', b"\xff", b"null"])
def test_a_body_that_is_no_job_is_refused(client: httpx.Client, body: bytes) -> None:
    assert refused(client.post(PATH, content=body, headers={"content-type": "application/json"}))[0] in (400, 422)


def test_an_error_names_no_folder_of_the_server(client: httpx.Client, settings: Settings) -> None:
    assert str(settings.home) not in client.post(PATH, json=BODY).text


def test_another_use_case_and_another_job_are_not_there(client: httpx.Client, trips: Path) -> None:
    assert refused(client.post("/v1/other/jobs", json=BODY)) == (404, "use_case")
    assert refused(client.get(f"{PATH}/0123")) == (404, "job")


def test_too_many_waiting_jobs_are_refused_for_a_minute(client: httpx.Client, trips: Path, db: Database) -> None:
    for number in range(MAX_WAITING):
        db.score_jobs.add(ScoreJobRow(f"j{number}", f"i{number}", 1, NAME, 1, {}, NOW, NOW))
    answer = client.post(PATH, json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")


def test_without_a_champion_there_is_no_job(settings: Settings, use_case: UseCase, db: Database, trips: Path) -> None:
    with client_of(create_app(settings, [use_case], clock=lambda: NOW), settings) as client:
        assert client.post(PATH, json=BODY).status_code == 503


def test_a_job_needs_the_scope_of_predictions(client: httpx.Client, stranger: httpx.Client) -> None:
    assert stranger.post(PATH, json=BODY).status_code == 401
    assert stranger.get(PATH).status_code == 401


def test_too_large_a_request_is_told_of_jobs(client: httpx.Client) -> None:
    answer = client.post("/v1/late/predict", json={"rows": [{"carrier": "UA", "distance": 1}] * 2_000})
    assert (answer.status_code, "/v1/{use_case}/jobs" in answer.json()["error"]["todo"]) == (413, True)


@pytest.fixture
def own_worker(settings: Settings, use_case: UseCase, promote: Promote, trips: Path) -> Iterator[httpx.Client]:
    """A client of a server that starts its worker itself."""
    promote()
    own = settings.model_copy(update={"job_worker": "here"})
    with client_of(create_app(own, [use_case], clock=lambda: datetime.now(UTC)), own) as client:
        yield client


def test_the_server_starts_a_process_that_runs_the_job_and_ends(own_worker: httpx.Client, settings: Settings) -> None:
    url = own_worker.post(PATH, json=BODY).headers["location"]
    deadline = time.monotonic() + 120
    while (told := own_worker.get(url).json())["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (told["state"], told["scored"], told["error"]) == ("done", 2, "")
    assert f"process {os.getpid()}" not in told.get("said", "")
