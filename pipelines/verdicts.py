"""What a registered version's gate found: the verdict that its training left in the database, as it is shown.

It judges nothing: the rules are `training.gate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.registry import champion, registered
from pipelines.workspace import Workspace


def verdict(ws: Workspace, version: int | None = None) -> dict[str, Any]:
    """The verdict of a version, of the champion by default: `passed`, `reasons`, `limits`, and what else was looked at.

    Each limit has its `metric`, `sense`, `bound`, what was `measured` (None: it was not) and its `margin`, which is
    negative when the limit is missed. Raises `NoChampionError` when nothing serves or there is no such version.
    """
    row = champion(ws.db, ws.use_case.name) if version is None else registered(ws.db, ws.use_case.name, version)
    stored = dict(row.verdict)
    about = {"use_case": row.use_case, "version": row.version, "candidate": row.candidate, "status": row.status}
    return {
        "passed": bool(stored.pop("passed", False)),
        **about,
        "as_of": row.as_of,
        "reasons": list(stored.pop("reasons", [])),
        "limits": [_limit(line) for line in stored.pop("limits", [])],
        **stored,
    }


def _limit(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A limit with its margin: verdicts of earlier days and of other makers may lack it."""
    measured, bound = stored.get("measured"), stored["bound"]
    margin = None
    if measured is not None:
        margin = measured - bound if stored["sense"] == ">=" else bound - measured
    return dict(stored) | {"margin": stored.get("margin", margin)}
