"""`millrace score` and `millrace jobs …`: many rows scored at once, and the jobs that do it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, instant, now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from millrace.db import ScoreJobRow

app = typer.Typer(no_args_is_help=True, help="Batch scoring jobs: see them, and cancel one.")
top = typer.Typer()
"""The command that starts them."""

REJECTED_ROWS = 10
"""Exit code of a job that is done and could not score every row."""

Job = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or how it begins.")]


@top.command()
def score(
    use_case: Name,
    source: Annotated[
        str,
        typer.Option(
            "--input", help="lake:TABLE[@VERSION], a file, folder or pattern of .parquet or .csv, or sql:PLACE:SELECT …"
        ),
    ] = "",
    output: Annotated[
        str, typer.Option(help="A folder, lake:TABLE or sql:PLACE:TABLE; without --input one Parquet file.")
    ] = "",
    join: Annotated[
        str, typer.Option(help="Features: given, point-in-time or latest; auto: as the input's columns allow.")
    ] = "auto",
    start: Annotated[
        datetime | None, typer.Option("--from", parser=instant, metavar="TIME", help="First prediction instant.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", parser=instant, metavar="TIME", help="End of the stretch.")
    ] = None,
    as_of: AsOf = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local, or ray (a cluster).")] = "local",
    again: Annotated[bool, typer.Option("--again", help="Do it again though it is done.")] = False,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Scores go to the prediction log too.")] = True,
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows that are done, and redone, at once.")] = 131_072,
    json: Json = False,
) -> None:
    """Score many rows with the champion.

    With --input it is a job: cut into chunks, resumed when it is started again, done once. A PLACE is a database's name
    in MILLRACE_PLACES. Exit code 10: done, and rows were rejected (lake table rejected_scores); 9: another process runs
    it. Without --input: the population's rows from --from until --until, each by the champion of its instant.
    """
    from pipelines.flows import run_flow, score_flow, score_job_flow

    if not source:
        if start is None or until is None:
            raise typer.BadParameter("Give --input and --output, or --from and --until.")
        path = Path(output) if output else None
        done = run_flow(score_flow, use_case=use_case, start=start, until=until, as_of=now(as_of), output=path)
        console.show(done, json)
        return
    if not output:
        raise typer.BadParameter("Give --output: a folder, lake:TABLE or sql:PLACE:TABLE.")
    spec: dict[str, Any] = {"use_case": use_case, "input": source, "output": output, "join": join, "engine": engine}
    spec |= {"as_of": as_of, "start": start, "until": until, "log": log, "chunk_rows": chunk_rows}
    progress = console.progress(json)
    done = run_flow(score_job_flow, use_case=use_case, spec=spec, at=now(None), again=again, progress=progress)
    _show(done, json)
    if done["rejected"]:
        raise typer.Exit(REJECTED_ROWS)


@app.command("list")
def list_(
    use_case: Name,
    state: Annotated[str, typer.Option(help="Only queued, running, done, failed or cancelled ones.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """Show the jobs, the newest first."""
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        rows = workspace.db.score_jobs.list(workspace.use_case.name, state=state, limit=limit)
    console.show({"jobs": [_line(row) for row in rows]}, json)


@app.command()
def show(use_case: Name, job: Job, json: Json = False) -> None:
    """Show one job: what was asked for, how far it is, what was rejected and why."""
    from pipelines.score_jobs import found, summary
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        row = found(workspace, job)
        told = summary(workspace, row).as_dict()
        done = workspace.db.score_jobs.done(row.id)
    del told["repeated"], told["resumed"], told["rows_per_second"], told["seconds"]
    times = {"created_at": row.created_at, "started_at": row.started_at, "error": row.error or None}
    console.show(told | {"chunks_done": done, "input_rows": row.total} | times, json)


@app.command("cancel")
def cancel_(use_case: Name, job: Job, json: Json = False) -> None:
    """Cancel a job.

    A queued one at once, a running one after the chunks it is at. Started again, it goes on.
    """
    from pipelines.score_jobs import cancel
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(_line(cancel(workspace, job)), json)


@app.command("work")
def work_(
    use_cases: Annotated[list[str] | None, typer.Argument(metavar="[USE_CASE…]", help="Only theirs; all.")] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when nothing waits.")] = False,
    json: Json = False,
) -> None:
    """Run the jobs that wait, those asked for over HTTP among them.

    One after the other until stopped; a job whose process died is taken over. One worker a host works at a time.
    """
    from millrace.logging import configure_logging
    from millrace.settings import read_settings
    from pipelines.job_work import work

    settings = read_settings()
    configure_logging(settings)
    work(settings, use_cases or (), until_idle=until_idle, tell=lambda done: _show(done.as_dict(), json))


def _line(row: ScoreJobRow) -> dict[str, Any]:
    return {
        "job": row.id,
        "state": row.state,
        "version": row.version,
        "input": row.spec["input"],
        "output": row.spec["output"],
        "rows": row.rows,
        "of": row.total,
        "rejected": row.rejected,
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }


def _show(done: Mapping[str, Any], json: bool) -> None:
    if json:
        console.show_json(done)
        return
    if done["repeated"]:
        console.show({"already done": done["ended_at"], "where": done["output"]}, json)
    console.show({name: value for name, value in done.items() if name != "repeated" and value not in ({}, None)}, json)
