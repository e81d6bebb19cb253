"""Who may ask: the API keys that clients send and the signed cookie that the web pages give for one.

The server's own key is `settings.api_key`, or one made at first use in the home folder (readable by its owner only); it
has every scope. Issued keys come from the platform's database, which is asked again every second. This module knows
nothing of HTTP beyond the text of a cookie; the clock is passed in.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from millrace.api_keys import OWN, SCOPES, Quota
from millrace.db import Database, KeyRow
from millrace.errors import SettingsError, first_line
from millrace.settings import Settings

SESSION = timedelta(hours=12)
"""How long a sign-in lasts."""
WATCH_SECONDS = 1.0
"""How often the issued keys are read again: a server knows of a change within two seconds."""
_logger = logging.getLogger(__name__)


def api_key(settings: Settings) -> str:
    """The key that clients send as `X-API-Key`: the setting, or the home folder's, made at first use (mode 0600).

    Raises `SettingsError` when the setting is shorter than 16 characters or the key's file cannot be read.
    """
    if settings.api_key is not None:
        key = settings.api_key.get_secret_value()
        if len(key) < 16:
            raise SettingsError(
                "MILLRACE_API_KEY is shorter than 16 characters.",
                todo="Take a longer one, or unset it: one is made then.",
            )
        return key
    path = settings.folder("keys") / "api_key"
    try:
        return _stored(path)
    except OSError as error:
        raise SettingsError(
            "The server's API key cannot be read or made.", looked=f"Looked at {path}: {error.strerror}."
        ) from error


def _stored(path: Path) -> str:
    """The key in the file; two processes that start together agree on one (a link never replaces a file)."""
    if not path.exists():
        aside = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("mr_" + secrets.token_urlsafe(24))
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_text().strip()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a request came with: what it may do, `admin` meaning all scopes, and its quota, None without any.

    `guessable` is a key whose text somebody thought up; the lock-out holds for its right text too.
    """

    id: str
    name: str
    scopes: frozenset[str]
    quota: Quota | None = None
    guessable: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: Caller
    until: datetime | None
    newest: bytes
    """The digest that the key has now: `digest`, unless this is a secret in its grace."""


class KeyRing:
    """Checks keys and sessions: the server's own key, and those issued. The clock is passed in.

    A key is looked up by its digest: how long that takes says nothing of the key, since nobody can choose digests.
    A new secret ends every session of its key.
    """

    def __init__(self, key: str, *, guessable: bool = False, quota: Quota | None = None) -> None:
        """`quota` is for keys that have none of their own; `guessable` says that `key` was not made at random."""
        self._quota, digest = quota, _digest(key.encode())
        caller = Caller(OWN, OWN, frozenset(SCOPES), _limited(quota), guessable)
        self._own = _Known(digest, caller, None, digest)
        self._secret = hmac.digest(key.encode(), b"millrace web session", "sha256")
        self.load(())

    @property
    def own(self) -> Caller:
        """Who comes with the server's own key."""
        return self._own.caller

    def load(self, rows: Iterable[KeyRow]) -> None:
        """Know exactly these issued keys from now on."""
        issued = [known for row in rows for known in self._issued(row)]
        self._by_digest = {known.digest: known for known in (*issued, self._own)}
        self._by_id = {known.caller.id: known for known in (*issued, self._own) if known.digest == known.newest}

    def caller(self, key: bytes, clock: Callable[[], datetime]) -> Caller | None:
        """Whose key this is; None for a wrong, an expired and a revoked one."""
        digest = _digest(key)
        known = self._by_digest.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            return None
        return known.caller if known.until is None or clock() < known.until else None

    def meant(self, key: bytes) -> str:
        """The id in the text of a key that is not right, if we know it, else nothing."""
        key_id = key[3:11].decode("latin-1")
        return key_id if key.startswith(b"mr_") and key_id in self._by_id else ""

    def session(self, caller: Caller, now: datetime) -> str:
        """The text of a cookie that is good for `SESSION` from `now`, as long as the caller's key is."""
        text = f"{int((now + SESSION).timestamp())}.{caller.id}.{secrets.token_hex(8)}"
        return f"{text}.{self._signature(text, self._by_id[caller.id])}"

    def accepts(self, session: str, now: datetime) -> Caller | None:
        """Whose session this is; None unless we signed it, it has not expired and its key still opens everything."""
        text, _, signature = session.rpartition(".")
        known = self._by_id.get(text.partition(".")[2].partition(".")[0])
        if known is None or not hmac.compare_digest(signature.encode(), self._signature(text, known).encode()):
            return None
        ends = int(text.partition(".")[0])
        if ends <= now.timestamp() or (known.until is not None and now >= known.until):
            return None
        return known.caller if "admin" in known.caller.scopes else None

    def _issued(self, row: KeyRow) -> Iterator[_Known]:
        """The secrets of a row that open something: its own, and in a rotation's grace the one before."""
        if row.revoked_at is not None:
            return
        scopes = frozenset(SCOPES if "admin" in row.scopes else row.scopes)
        caller = Caller(row.id, row.name, scopes, _limited(self._quota_of(row)))
        newest = bytes.fromhex(row.digest)
        yield _Known(newest, caller, row.expires_at, newest)
        if row.old_digest is not None and row.old_until is not None:
            ends = row.old_until if row.expires_at is None else min(row.old_until, row.expires_at)
            yield _Known(bytes.fromhex(row.old_digest), caller, ends, newest)

    def _quota_of(self, row: KeyRow) -> Quota:
        default = self._quota or Quota()
        return Quota(
            row.requests_per_second or default.requests_per_second,
            row.rows_per_second or default.rows_per_second,
            row.concurrency or default.concurrency,
        )

    def _signature(self, text: str, known: _Known) -> str:
        return hmac.digest(self._secret, known.newest + text.encode(), "sha256").hex()


def open_ring(settings: Settings, db: Database) -> KeyRing:
    """The keys of these settings and this database; `SettingsError` when the server's own cannot be had."""
    quota = Quota(settings.quota_requests_per_second, settings.quota_rows_per_second, settings.quota_concurrency)
    ring = KeyRing(api_key(settings), guessable=settings.api_key is not None, quota=quota)
    ring.load(db.api_keys())
    return ring


async def watch_keys(ring: KeyRing, db: Database, *, seconds: float = WATCH_SECONDS) -> None:
    """Learn of issued, rotated and revoked keys for ever; a database that does not answer leaves them as they are."""
    told = False
    while True:
        try:
            ring.load(await asyncio.to_thread(db.api_keys))
            told = False
        except Exception as error:  # whatever a database can raise: the keys we have go on working
            if not told:
                _logger.warning("The API keys cannot be read; those known go on working: %s", first_line(error))
            told = True
        await asyncio.sleep(seconds)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _limited(quota: Quota | None) -> Quota | None:
    """None for a quota that limits nothing: callers without one cost nothing."""
    return None if quota is None or quota == Quota() else quota
