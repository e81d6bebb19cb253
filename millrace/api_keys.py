"""Issued API keys: how they are made, rotated and revoked, and what is kept of them.

A key is `mr_<id>_<secret>`, its secret 32 random bytes. What is stored is the key's plain sha256: slow, salted hashes
protect what people think up, which can be guessed. Nobody guesses 256 random bits, and a slow hash would cost each
request milliseconds instead of half a microsecond. Every change is one transaction with its audit row. The clock is
passed in. This module knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from millrace.db import AuditRow, Database, KeyRow
from millrace.errors import ApiKeyError

SCOPES = ("predict", "label", "admin")
"""What a key may do: ask for predictions, send labels and features, or everything."""
OWN = "default"
"""Id and name of the server's own key, which is not stored here."""
State = Literal["active", "expired", "revoked"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A key just made: its row, and its text for the only time."""

    row: KeyRow
    key: str


@dataclass(frozen=True, slots=True)
class Quota:
    """What one key may ask for; 0 is without limit."""

    requests_per_second: int = 0
    rows_per_second: int = 0
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class By:
    """Who changes a key and when: the operating system's user, and now."""

    user: str
    now: datetime


def create_key(
    db: Database,
    name: str,
    *,
    by: By,
    scopes: Collection[str] = ("predict",),
    expires: timedelta | None = None,
    quota: Quota = Quota(),
) -> Issued:
    """Make a key; a quota of 0 leaves that to the settings. Raises `ApiKeyError`."""
    _check(name, scopes)
    if expires is not None and not expires:
        raise ApiKeyError("A key cannot end as it begins.", todo="Write --expires 90d, or leave it out: no end.")
    key_id = secrets.token_hex(4)
    key = _new_key(key_id)
    row = KeyRow(
        key_id,
        name,
        digest_of(key),
        [scope for scope in SCOPES if scope in scopes],
        by.now,
        None if expires is None else by.now + expires,
        requests_per_second=quota.requests_per_second or None,
        rows_per_second=quota.rows_per_second or None,
        concurrency=quota.concurrency or None,
    )
    if not db.add_key(row, _audit(row, "create", by)):
        raise ApiKeyError(
            f"There is already a key named {name}.",
            todo=f"Take another name, or give it a new secret: millrace keys rotate {name}.",
        )
    return Issued(row, key)


def rotate_key(db: Database, name: str, *, by: By, grace: timedelta) -> Issued:
    """Give a key a new secret; the one before holds until `grace` is over, an older one no longer.

    Raises `ApiKeyError` for an unknown, an expired and a revoked key.
    """
    made: list[str] = []

    def change(row: KeyRow) -> AuditRow:
        if state_of(row, by.now) != "active":
            raise ApiKeyError(
                f"The key {name} is {state_of(row, by.now)}.", todo="Make another: millrace keys create NAME."
            )
        made.append(_new_key(row.id))
        row.old_digest, row.old_until = (row.digest, by.now + grace) if grace else (None, None)
        row.digest = digest_of(made[0])
        return _audit(row, "rotate", by)

    row = db.change_key(name, change)
    if row is None:
        raise _unknown(db, name)
    return Issued(row, made[0])


def revoke_key(db: Database, name: str, *, by: By) -> KeyRow:
    """End a key for good; again, it changes nothing. Raises `ApiKeyError` for an unknown one."""

    def change(row: KeyRow) -> AuditRow:
        row.revoked_at = row.revoked_at or by.now
        return _audit(row, "revoke", by)

    row = db.change_key(name, change)
    if row is None:
        raise _unknown(db, name)
    return row


def state_of(row: KeyRow, now: datetime) -> State:
    """Whether the key opens anything."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"


def digest_of(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _new_key(key_id: str) -> str:
    return f"mr_{key_id}_{secrets.token_urlsafe(32)}"


def _check(name: str, scopes: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ApiKeyError(
            "A key's name is at most 63 letters, digits, dots, dashes and underscores.",
            todo="Name it after its user: millrace keys create web-shop.",
        )
    if name == OWN:
        raise ApiKeyError(f"The name {OWN} is the server's own key's.", todo="Take another name.")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise ApiKeyError(
            f"There is no scope {unknown[0]!r}." if unknown else "A key needs a scope.",
            looked=f"The scopes are {', '.join(SCOPES)}.",
            todo="Write --scope predict, once for each scope.",
        )


def _unknown(db: Database, name: str) -> ApiKeyError:
    known = ", ".join(row.name for row in db.api_keys())
    return ApiKeyError(
        f"There is no key named {name}.",
        looked=f"The keys are {known}." if known else "No key has been issued yet.",
        todo="See them: millrace keys list.",
    )


def _audit(row: KeyRow, command: str, by: By) -> AuditRow:
    return AuditRow(by.now, row.id, row.name, f"keys {command}", "millrace", by.user)
