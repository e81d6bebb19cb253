"""`millrace keys …`: who may use the server. Servers learn of a change within two seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace import console
from millrace.cli.options import Json, now, span

if TYPE_CHECKING:
    from millrace.api_keys import By, Issued
    from millrace.db import Database, KeyRow

app = typer.Typer(no_args_is_help=True, help="Issue, rotate and revoke the server's API keys.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]
Most = Annotated[
    int, typer.Option(min=0, max=1_000_000_000, metavar="N", help="0 leaves it to the settings.", show_default=False)
]


@app.command()
def create(
    name: Name,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="predict (the default), label or admin; may be repeated.")
    ] = None,
    expires: Annotated[
        timedelta | None, typer.Option("--expires", parser=span, metavar="TIME", help="Ends after 90d, 24h, 30m, …")
    ] = None,
    requests_per_second: Most = 0,
    rows_per_second: Most = 0,
    concurrency: Most = 0,
    json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    from millrace.api_keys import Quota, create_key

    quota = Quota(requests_per_second, rows_per_second, concurrency)
    with _database() as db:
        made = create_key(db, name, by=_by(), scopes=scope or ("predict",), expires=expires, quota=quota)
    _show_issued(made, json)


@app.command("list")
def list_(json: Json = False) -> None:
    """Show every key, its scopes, state and quotas."""
    at = _by()
    with _database() as db:
        rows = db.api_keys()
    console.show({"keys": [_facts(row, at) for row in rows]}, json)


@app.command()
def rotate(
    name: Name,
    grace: Annotated[
        timedelta, typer.Option("--grace", parser=span, metavar="TIME", help="How long the old secret still works.")
    ] = "24h",  # type: ignore[assignment]  # typer parses the default as if it were typed
    json: Json = False,
) -> None:
    """Give a key a new secret and show it, this once."""
    from millrace.api_keys import rotate_key

    with _database() as db:
        made = rotate_key(db, name, by=_by(), grace=grace)
    _show_issued(made, json)


@app.command()
def revoke(name: Name, json: Json = False) -> None:
    """End a key for good."""
    from millrace.api_keys import revoke_key

    by = _by()
    with _database() as db:
        row = revoke_key(db, name, by=by)
    console.show(_facts(row, by), json)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many to show.")] = 50, json: Json = False
) -> None:
    """Show who changed what.

    Key commands with their user, and the calls that changed something with their key; the newest first.
    """
    with _database() as db:
        rows = db.audit(limit)
    names = ("at", "key_name", "key_id", "method", "route", "status", "remote", "request_id")
    console.show({"audit": [{name: getattr(row, name) for name in names} for row in rows]}, json)


@contextmanager
def _database() -> Iterator[Database]:
    from millrace.db import Database
    from millrace.settings import read_settings

    db = Database.open(read_settings())
    try:
        yield db
    finally:
        db.close()


def _by() -> By:
    """Who runs this command; the user's id where the system knows no name."""
    import os
    import pwd

    from millrace.api_keys import By

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return By(user, now(None))


def _show_issued(made: Issued, json: bool) -> None:
    facts = {name: value for name, value in _facts(made.row, _by()).items() if value is not None}
    shown = {"key": made.key} | facts
    console.show(shown if json else shown | {"note": "The key is shown this once; nobody can read it back."}, json)


def _facts(row: KeyRow, at: By) -> dict[str, Any]:
    from millrace.api_keys import state_of

    rotating = row.old_until is not None and row.old_until > at.now
    return {
        "name": row.name,
        "id": row.id,
        "scopes": row.scopes,
        "state": state_of(row, at.now),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "old_secret_until": row.old_until if rotating else None,
        "requests_per_second": row.requests_per_second,
        "rows_per_second": row.rows_per_second,
        "concurrency": row.concurrency,
    }
