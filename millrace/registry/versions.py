"""What becomes of a model: it is registered, it serves, an earlier one serves again.

The database decides and records why; MLflow's alias moves with it or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from millrace.bundle import Bundle, open_bundle
from millrace.bundle_files import move_folder
from millrace.db import Database, ModelRow
from millrace.errors import BundleError, BusyError, GateError, MlflowError, NoChampionError
from millrace.keys import public_key
from millrace.registry.mirror import CHAMPION, VERSION_TAG, Mirror
from millrace.settings import Settings

PARENT = "parent"
"""Entry of a bundle's lineage: the version whose weights the fit went on from."""

_log = logging.getLogger(__name__)


def register(
    settings: Settings,
    db: Database,
    bundle: Bundle,
    *,
    run_id: str,
    as_of: datetime,
    status: Literal["challenger", "refused"],
    quality: Mapping[str, Any],
    cost: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> ModelRow:
    """Make a bundle of one of our runs a version: in MLflow, in the folder of bundles, and last in the database.

    The staged folder moves. `run_id` is MLflow's id of the run, or the one in its tag `millrace.run`. A parent that the
    bundle's lineage names becomes MLflow's tag `millrace.parent`. When it fails half-way, the database knows nothing of
    it and the next version takes another number; the staged bundle stays unless it has moved already.
    """
    contract = bundle.contract
    mirror = Mirror.open(settings, contract.use_case)
    with suppress(BusyError), _switching(db, contract.use_case):  # who holds it sets the alias
        mirror.mend(db.champion(contract.use_case))
    run_id = mirror.run(run_id)
    theirs = mirror.add(run_id)
    version = max(int(theirs), db.next_version(contract.use_case))
    mirror.tag(theirs, _tags(bundle, version, status))
    folder = settings.bundles / contract.use_case / str(version)
    move_folder(bundle.folder, folder)
    moved = open_bundle(folder, public_key=public_key(settings))
    row = ModelRow(
        use_case=contract.use_case,
        version=version,
        candidate=contract.candidate,
        run_id=run_id,
        bundle=str(folder),
        digest=moved.digest,
        as_of=as_of,
        created_at=datetime.now(UTC),
        status=status,
        quality=dict(quality),
        cost=dict(cost),
        verdict=dict(verdict),
    )
    db.add_model(row)
    return row


def _tags(bundle: Bundle, version: int, status: str) -> dict[str, str]:
    gate, parent = "passed" if status == "challenger" else "refused", bundle.contract.lineage.get(PARENT)
    tags = {VERSION_TAG: str(version), "millrace.digest": bundle.digest, "millrace.gate": gate}
    return tags if parent is None else tags | {"millrace.parent": str(parent)}


def promote(
    settings: Settings,
    db: Database,
    use_case: str,
    version: int,
    *,
    as_of: datetime,
    reason: str,
    override: str = "",
    action: str = "promoted",
) -> ModelRow:
    """Let `version` serve: its bundle is verified, MLflow's alias moves, the database switches in one transaction.

    All of it or nothing: without MLflow nothing changes, and the alias goes back when the database refuses. Only a
    process killed between the two leaves the alias ahead, until the next registration or promotion. Promoting the
    champion again only mends the alias. Raises `GateError` when the version failed its gate and no `override` says why
    it should serve all the same, `NoChampionError` when there is no such version, `BundleError` when its bundle is not
    whole, `MlflowError` when MLflow does not answer, `BusyError` when another process lets a version serve just now.
    """
    with _switching(db, use_case):
        return _promote(settings, db, use_case, version, as_of=as_of, reason=reason, override=override, action=action)


def _promote(
    settings: Settings,
    db: Database,
    use_case: str,
    version: int,
    *,
    as_of: datetime,
    reason: str,
    override: str = "",
    action: str = "promoted",
) -> ModelRow:
    row = registered(db, use_case, version)
    if row.status == "refused" and not override:
        failed = [str(one) for one in row.verdict.get("reasons", [])][:3]
        raise GateError(
            f"Version {version} of {use_case} did not pass its gate.",
            looked=" ".join(failed),
            todo='Promote another one, or say why it may serve all the same: --override "…".',
        )
    _check_bundle(row, settings)
    mirror = Mirror.open(settings, use_case)
    with mirror.pointing_at(mirror.version_of(row)):
        if row.status != "champion":
            why = f"{reason} Overridden: {override}" if override else reason
            db.set_champion(use_case, version, as_of=as_of, reason=why, action=action)
    return registered(db, use_case, version)


def rollback(
    settings: Settings, db: Database, use_case: str, *, as_of: datetime, reason: str, version: int | None = None
) -> ModelRow:
    """Let an earlier champion serve again: `version`, or the one that was promoted before today's champion.

    What was rolled back from is not gone back to by itself: a second rollback goes one further back. It does not need
    MLflow, whose alias follows with the next registration or promotion if it does not answer now. Raises as `promote`
    does, and `NoChampionError` when there is no earlier one.
    """
    with _switching(db, use_case):
        target = _target(db, use_case, version)
        try:
            return _promote(settings, db, use_case, target, as_of=as_of, reason=reason, action="rolled back")
        except MlflowError as error:  # nothing has changed, and a bad model must not serve on for MLflow's sake
            _log.warning("The alias %r of %s was not moved. %s", CHAMPION, use_case, error)
            why = f"{reason} MLflow did not answer: its alias follows later."
            db.set_champion(use_case, target, as_of=as_of, reason=why, action="rolled back")
            return registered(db, use_case, target)


def _target(db: Database, use_case: str, version: int | None) -> int:
    """The version to roll back to: the one asked for, if it has served, or the one before today's."""
    current = champion(db, use_case)
    served = [number for _, number in db.champions(use_case) if number != current.version]
    if version is not None and version not in served:
        raise NoChampionError(
            f"Version {version} of {use_case} has not served before.",
            looked=f"Before version {current.version} served: {', '.join(map(str, dict.fromkeys(served))) or 'none'}.",
        )
    target = _earlier(db, use_case) if version is None else version
    if target is None:
        raise NoChampionError(
            f"There is nothing to roll back to: version {current.version} of {use_case} is the first."
        )
    return target


def champion(db: Database, use_case: str) -> ModelRow:
    """The version that serves; `NoChampionError` when none does yet."""
    found = db.champion(use_case)
    if found is None:
        raise NoChampionError(
            f"No model of {use_case} serves yet.",
            looked=f"{len(db.models(use_case))} versions are registered.",
            todo=f"Train one: millrace train {use_case}.",
        )
    return found


def registered(db: Database, use_case: str, version: int) -> ModelRow:
    """The version of this number; `NoChampionError` names those that there are."""
    found = db.model(use_case, version)
    if found is None:
        known = [str(row.version) for row in db.models(use_case)]
        raise NoChampionError(
            f"{use_case} has no version {version}.", looked=f"It has {', '.join(known) if known else 'no version yet'}."
        )
    return found


def _switching(db: Database, use_case: str) -> AbstractContextManager[None]:
    """One process at a time changes who serves a use case, so that alias and database change as one."""
    return db.lease(f"champion of {use_case}")


def _earlier(db: Database, use_case: str) -> int | None:
    """The version that served before today's champion was promoted; None when that was the first."""
    line: list[int] = []
    switches = db.decisions(use_case, "promoted", "rolled back")
    as_decided = sorted(switches, key=lambda one: one.id)  # the as_of of a replay may lie anywhere
    for decision in as_decided:
        if decision.version is None:
            continue
        if decision.action == "rolled back" and decision.version in line:
            line = line[: line.index(decision.version) + 1]
        else:
            line = [*(number for number in line if number != decision.version), decision.version]
    return line[-2] if len(line) > 1 else None


def _check_bundle(row: ModelRow, settings: Settings) -> None:
    """The version's bundle is whole, and the one that was registered."""
    found = open_bundle(Path(row.bundle), public_key=public_key(settings))
    if found.digest != row.digest:
        raise BundleError(
            f"The bundle {row.bundle} is not the one that was registered as version {row.version}.",
            looked=f"Its digest is {found.digest[:12]}…, registered was {row.digest[:12]}….",
            todo="Restore it from the copy that MLflow keeps with the run.",
        )
