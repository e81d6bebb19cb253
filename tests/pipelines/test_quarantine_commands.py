"""`millrace quarantine …` and `millrace ingest --accept`: what a person types after a fault."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from millrace.cli import main

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def taxi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a taxi use case of this test's own, on an empty platform."""
    copytree(CASES, tmp_path / "cases", ignore=lambda *_: ["__pycache__"])
    monkeypatch.setenv("MILLRACE_USE_CASES", str(tmp_path / "cases"))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "cases" / "taxi" / "use_case.py"


def edit(file: Path, old: str, new: str) -> None:
    """Change the use case, as a person would between two commands."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    for name in [name for name in sys.modules if name.startswith("millrace_use_case_taxi")]:
        del sys.modules[name]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command printed as JSON, or its error."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json"])
    out, err = capsys.readouterr()
    return json.loads(err.splitlines()[-1] if end.value.code else out)


@pytest.fixture
def held(taxi: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Trips of the last two hours of each day are in quarantine, by a schema that is corrected later."""
    edit(taxi, "lambda: schema(trip=pl.String, zone=pl.String, hour=pl.Int64)", "lambda: early_hours()")
    edit(
        taxi,
        "planned = Source(",
        "def early_hours() -> Any:\n"
        "    import pandera.polars as pa\n\n"
        "    hour = pa.Column(pl.Int64, pa.Check.lt(22))\n"
        "    return schema(trip=pl.String, zone=pl.String).add_columns({'hour': hour})\n\n\n"
        "planned = Source(",
    )
    assert run(capsys, "ingest", "taxi", "--as-of", "2024-01-10")["sources"][0]["quarantined"] == 54
    return taxi


def test_list_shows_how_many_rows_and_why(held: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "quarantine", "list", "taxi")
    assert shown["rows"] == 54
    (line,) = shown["batches"]
    assert (line["source"], line["rows"], line["reasons"]) == ("planned", 54, ["hour: less_than(22) (54)"])


def test_show_prints_rows_with_their_reasons(held: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "quarantine", "show", "taxi", "--source", "planned", "--limit", "2")
    assert shown["shown"] == 2
    assert all(
        row["reasons"] == ["hour: less_than(22)"] and json.loads(row["row"])["hour"] >= 22 for row in shown["rows"]
    )


def test_people_see_it_too(held: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["quarantine", "list", "taxi"])
    out = capsys.readouterr().out
    assert (end.value.code or 0, "less_than(22)" in out) == (0, True)
    print(out)


def test_replay_brings_back_what_passes_after_the_schema_is_corrected(
    held: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(held, "pa.Check.lt(22)", "pa.Check.lt(23)")
    done = run(capsys, "quarantine", "replay", "taxi", "--as-of", "2024-01-10")
    assert (done["rows"], done["passed"], done["kept"]) == (54, 27, 27)
    assert run(capsys, "quarantine", "list", "taxi")["rows"] == 27


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("quarantine", "list", "taxi", "--source", "nowhere"), "taxi has no source 'nowhere'"),
        (("quarantine", "show", "taxi", "--batch", "nothing"), "No batch 'nothing' is in quarantine"),
        (("quarantine", "replay", "taxi", "--batch", "nothing"), "No batch 'nothing' is in quarantine"),
        (("ingest", "taxi", "--accept", "nowhere", "--as-of", "2024-01-10"), "taxi has no source 'nowhere'"),
    ],
)
def test_an_unknown_name_is_one_paragraph(
    taxi: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], says: str
) -> None:
    assert says in run(capsys, *command)["what"]


def test_a_changed_unit_stops_an_ingest_until_it_is_accepted(taxi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "ingest", "taxi", "--as-of", "2024-01-23")
    edit(taxi, '(pl.col("number") // 3 % 24)', '(pl.col("number") // 3 % 24 * 3600)')
    stopped = run(capsys, "ingest", "taxi", "--as-of", "2024-01-25")
    assert "the column hour changed its unit" in stopped["what"]
    assert "--accept planned" in stopped["todo"]
    taken = run(capsys, "ingest", "taxi", "--as-of", "2024-01-25", "--accept", "planned")
    assert [source["written"] for source in taken["sources"]] == [144, 144]


def test_the_instant_of_an_ingest_is_kept_with_its_rows(held: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = run(capsys, "quarantine", "list", "taxi")["batches"]
    assert datetime.fromisoformat(line["quarantined_at"]) == datetime(2024, 1, 10, tzinfo=UTC)
