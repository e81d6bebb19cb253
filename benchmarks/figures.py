"""What every benchmark prints and keeps: figures beside their peer or limit, as a table and as JSON.

`make bench NAME=x` writes `.millrace/bench/x.json`: a list of {"name", "value", "unit", "target", "met"}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

FOLDER = Path(".millrace/bench")


@dataclass(frozen=True)
class Figure:
    """One measured number; `peer` is what it was measured against in the same run, `target` what it must reach."""

    name: str
    value: float
    unit: str
    target: float | None = None
    sense: Literal["<=", ">="] = "<="
    peer: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.sense == "<=" else self.value >= self.target


def seconds(call: Callable[[], Any], *, repeat: int) -> list[float]:
    """How long each of `repeat` calls took, sorted, after one call that is not counted."""
    call()
    took = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return sorted(took)


def typical(call: Callable[[], Any], *, repeat: int) -> float:
    """The median of `seconds`."""
    return median(seconds(call, repeat=repeat))


def report(name: str, figures: list[Figure]) -> None:
    """Print the table and write the JSON."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "ours", "peer", "target", "met", title=f"make bench NAME={name}", title_justify="left")
    for figure in figures:
        target = "" if figure.target is None else f"{figure.sense} {figure.target:,.4g}"
        peer = "" if figure.peer is None else f"{figure.peer:,.4g} {figure.unit}"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        table.add_row(figure.name, f"{figure.value:,.4g} {figure.unit}", peer, target, met)
    Console(width=120).print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    keep = ("name", "value", "unit", "target")
    rows = [{key: asdict(figure)[key] for key in keep} | {"met": figure.met} for figure in figures]
    (FOLDER / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
