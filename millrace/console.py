"""What the command line prints: one outcome as a table for people or as JSON for machines, progress, and errors.

Outcomes arrive as plain dicts (scalars, and lists of dicts for tables) and are shown generically, so that people and
machines see the same facts. Knows nothing of what the facts mean, but for the replay's table.
"""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from millrace.errors import MillraceError, error_to_dict

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

PIPED_WIDTH = 160
"""Columns that a table may take where no terminal folds it."""
FEW_ROWS = 3
"""Rows that are shown side by side when a line each would be too wide."""


def show(outcome: Mapping[str, Any], json: bool) -> None:
    """Print an outcome: scalars as a list of facts, each list of dicts as a table; or all of it as JSON."""
    if json:
        show_json(outcome)
        return
    facts = {name: value for name, value in outcome.items() if not _is_table(value)}
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(f"[dim]{_words(name)}[/dim]", _text(value))
    if not _out.is_terminal:
        _out.width = max(_out.width, PIPED_WIDTH)
    _out.print(grid)
    for name, value in outcome.items():
        if _is_table(value):
            _out.print(_table(_words(name), value))


def show_json(value: Any) -> None:
    """Print one JSON value; times are ISO 8601 in UTC."""
    _out.file.write(jsonlib.dumps(value, default=_plain, allow_nan=False) + "\n")


def show_error(error: MillraceError, json: bool) -> None:
    """Print what is wrong, where we looked and what to type next, on standard error."""
    if json:
        print(jsonlib.dumps(error_to_dict(error)), file=sys.stderr)  # noqa: T201  # the command line's own output
        return
    _err.print(f"[bold red]Error:[/bold red] {_escape(str(error))}", soft_wrap=True)


def show_findings(findings: Sequence[Any], json: bool) -> None:
    """Print the doctor's findings: what was looked at, what was found, what to type."""
    if json:
        show_json([finding.as_dict() for finding in findings])
        return
    for finding in findings:
        mark = "[green]ok[/green]     " if finding.ok else "[red]missing[/red]"
        _out.print(f"{mark} {_escape(finding.what)}: {_escape(finding.found)}", soft_wrap=True)
        if not finding.ok:
            _out.print(f"        [bold]{_escape(finding.todo)}[/bold]", soft_wrap=True)


def show_replay(summary: Mapping[str, Any], path: Path, json: bool) -> None:
    """Print a replay: the champion against its budget, then a line a week, live beside the first model left alone."""
    if json:
        show_json(summary)
        return
    _out.print(_budget_table(summary["champion"]))
    _out.print(_weeks_table(summary["windows"]))
    _show_reasons(summary["windows"])
    if summary.get("policies"):
        _out.print(_policies_table(summary["policies"]), _months_table(summary["policies"]))
    online = summary.get("online")
    if online:
        _out.print(
            f"Online: {online['requests']} requests, {online['errors']} errors, p50 {online['p50_ms']:.1f} ms, "
            f"p99 {online['p99_ms']:.1f} ms; largest difference to offline: features "
            f"{online['max_abs_feature_diff']:.1e}, scores {online['max_abs_score_diff']:.1e}."
        )
    promoted = sum(window["decision"] == "promoted" for window in summary["windows"])
    gain, beats = summary["mean_log_loss_gain"], ""
    if gain is not None:  # there is none where no label is known, nor of classes, which compare by accuracy
        beats = f"Live beats the first model left alone by {gain:.4f} log loss a week on average, with "
    _out.print(
        f"{beats}{promoted} new champions in {len(summary['windows'])} weeks, in {summary['seconds']['total']:.0f} s."
    )
    near = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    _out.print(f"The same as JSON: {near}", soft_wrap=True)


def read_rows(text: str) -> list[dict[str, Any]]:
    """Rows to predict: a JSON object or a list of them, given as text, as a file's path, or on standard input (`-`)."""
    try:
        raw = sys.stdin.read() if text == "-" else text if text.lstrip()[:1] in "[{" else Path(text).read_text()
        value = jsonlib.loads(raw)
    except (OSError, ValueError) as error:
        raise MillraceError(
            f"The rows cannot be read: {error}.",
            looked="Took the argument as JSON when it begins with { or [, otherwise as a file's path.",
            todo='Write \'{"carrier": "UA", …}\', a file\'s path, or - for standard input.',
        ) from error
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise MillraceError("Each row must be a JSON object.", todo='Write \'[{"carrier": "UA", …}, …]\'.')
    return rows


class ShownProgress:
    """Progress of long work on standard error: a bar on a terminal, a line for each finished stage elsewhere."""

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=_err,
            transient=True,
        )
        self._task: TaskID | None = None
        self._what, self._began = "", 0.0

    def start(self, what: str, total: int = 1) -> None:
        """A stage begins; it has `total` steps."""
        self._what, self._began = what, time.monotonic()
        self._bars.start()
        self._task = self._bars.add_task(what, total=total, note="")

    def advance(self, note: str = "") -> None:
        """One step of it is done."""
        if self._task is not None:
            self._bars.update(self._task, advance=1, note=note)

    def done(self, note: str = "", *, failed: bool = False) -> None:
        """It is over; `note` says with what result."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._bars.stop()
        seconds = time.monotonic() - self._began
        mark = "[red]✗[/red]" if failed else "[green]✓[/green]"
        _err.print(f"{mark} {self._what} [dim]{seconds:.1f} s[/dim] {_escape(note)}", soft_wrap=True)


class SilentProgress:
    """Progress that nobody watches."""

    def start(self, what: str, total: int = 1) -> None:
        """Nothing is shown."""

    def advance(self, note: str = "") -> None:
        """Nothing is shown."""

    def done(self, note: str = "", *, failed: bool = False) -> None:
        """Nothing is shown."""


def progress(json: bool) -> ShownProgress | SilentProgress:
    """Progress for people; silent when machines read."""
    return SilentProgress() if json else ShownProgress()


def _budget_table(champion: Mapping[str, Any]) -> Table:
    table = Table(title=f"First champion: version {champion['version']}, {champion['candidate']}", title_justify="left")
    for column in ("budget", "limit", "measured", ""):
        table.add_column(column, justify="left" if column in ("budget", "") else "right")
    for name, line in champion["budget"].items():
        verdict = "[green]passed[/green]" if line["passed"] else "[red]failed[/red]"
        table.add_row(name, _text(line["limit"]), _text(line["measured"]), verdict)
    return table


def _weeks_table(windows: Sequence[Mapping[str, Any]]) -> Table:
    title = "Week by week: the live loop beside the first champion left alone"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    classes = any("accuracy_live" in window for window in windows)
    first, metric = ("accuracy", "accuracy") if classes else ("ROC AUC", "roc_auc")
    for column in ("week from", "rows", first, "alone", "log loss", "alone", "drift"):
        table.add_column(column, justify="left" if column == "week from" else "right", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    for window in windows:
        figures = [window[f"{name}_{side}"] for name in (metric, "log_loss") for side in ("live", "static")]
        table.add_row(
            str(window["from"])[:10],
            str(window["rows"]),
            *("-" if figure is None else f"{figure:.4f}" for figure in figures),
            str(len(window["drifted"])),
            window["decision"].replace("_", " "),
        )
    return table


def _policies_table(policies: Sequence[Mapping[str, Any]]) -> Table:
    """The loop beside naive policies, on the same rows; `share` is of the weekly gain, `better` counts months."""
    title = f"Beside naive policies, on the same {policies[0]['rows']:,} rows"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    months = len(policies[0]["months"])
    for column in ("policy", "runs", "served", "log loss", "gain", "share", "a run", "better"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for one in policies:
        share, each = one["share"], one["gain_per_training"]
        table.add_row(
            one["policy"],
            str(one["trainings"]),
            str(one["models"]),
            f"{one['log_loss']:.4f}",
            f"{one['gain']:.4f}",
            "-" if share is None else f"{share:.0%}",
            "-" if each is None else f"{each:.5f}",
            f"{one['better_months']} of {months}",
        )
    return table


def _months_table(policies: Sequence[Mapping[str, Any]]) -> Table:
    """The log loss of each policy in each month."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("month", *(one["policy"] for one in policies)):
        table.add_column(column, justify="left" if column == "month" else "right", no_wrap=True)
    for month in policies[0]["months"]:
        table.add_row(month, *(f"{one['months'][month]:.4f}" for one in policies))
    return table


def _show_reasons(windows: Sequence[Mapping[str, Any]]) -> None:
    """Why, week by week; the drifted features are in the JSON."""
    _out.print("Why:")
    grid = Table.grid(padding=(0, 2))
    for window in windows:
        grid.add_row(f"[dim]{str(window['from'])[:10]}[/dim]", _escape(window["reason"]))
    _out.print(grid)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each row; where that is too wide and the rows are few, a column for each."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in columns if all(isinstance(row.get(name), int | float | None) for row in rows)}
    table = Table(title=title, title_justify="left")
    for name in columns:
        # A word too long for its column goes on in the next line: cut off, a batch's name is of no use.
        table.add_column(_words(name), justify="right" if name in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in columns))
    if len(rows) > FEW_ROWS or _out.measure(table, options=_out.options.update(width=1_000)).maximum <= _out.width:
        return table
    turned = Table(title=title, title_justify="left", show_header=False)
    turned.add_column(style="dim")
    for _ in rows:
        turned.add_column(overflow="fold")
    for name in columns:
        turned.add_row(_words(name), *(_text(row.get(name)) for row in rows))
    return turned


def _is_table(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)} {_text(item)}" for name, item in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value) or "-"
    return _escape(str(value))


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _escape(text: str) -> str:
    """Rich reads square brackets as markup; what we print is text."""
    return text.replace("[", "\\[")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
