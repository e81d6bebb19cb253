"""Keys and sessions: who comes with which key, and sessions that nobody else can sign and that end with their key."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from pydantic import SecretStr

from millrace.api_keys import By, Quota, create_key, digest_of, revoke_key
from millrace.db import Database, KeyRow
from millrace.errors import SettingsError
from millrace.settings import Settings
from serving.keys import SESSION, Caller, KeyRing, api_key, open_ring, watch_keys

NOW = datetime(2013, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = "a key that is long enough"


def test_the_key_is_made_once_and_readable_by_its_owner_only(settings: Settings) -> None:
    key = api_key(settings)
    assert len(key) >= 32
    assert api_key(settings) == key
    files = list(settings.folder("keys").iterdir())
    assert [path.name for path in files] == ["api_key"]
    assert files[0].stat().st_mode & 0o077 == 0


def test_a_key_in_the_settings_comes_first(settings: Settings) -> None:
    assert api_key(settings.model_copy(update={"api_key": SecretStr(KEY)})) == KEY


def test_a_short_key_is_refused_without_being_shown(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="MILLRACE_API_KEY") as caught:
        api_key(settings.model_copy(update={"api_key": SecretStr("letmein")}))
    assert "letmein" not in str(caught.value)


def test_an_unreadable_key_file_says_where_it_lies(settings: Settings) -> None:
    (settings.folder("keys") / "api_key").mkdir()
    with pytest.raises(SettingsError, match="api_key"):
        api_key(settings)


def test_only_the_key_is_known() -> None:
    ring = KeyRing(KEY)
    assert ring.caller(KEY.encode(), clock) is ring.own
    wrong = (b"", KEY[:-1].encode(), KEY.encode() + b" ", b"\xff\xfe", bytes.fromhex(digest_of(KEY)))
    assert [ring.caller(key, clock) for key in wrong] == [None] * len(wrong)


def test_the_own_key_may_do_everything() -> None:
    assert KeyRing(KEY).own.scopes == {"predict", "label", "admin"}


def test_an_issued_key_may_do_what_its_scopes_say() -> None:
    ring, row = KeyRing(KEY), issued("shop", scopes=["predict"])
    ring.load([row])
    caller = ring.caller(b"text of shop", clock)
    assert caller == Caller(row.id, "shop", frozenset({"predict"}))
    assert ring.caller(KEY.encode(), clock) is ring.own


def test_admin_includes_the_other_scopes() -> None:
    ring = KeyRing(KEY)
    ring.load([issued("ops", scopes=["admin"])])
    assert known(ring, "ops").scopes == {"predict", "label", "admin"}


def test_a_revoked_key_is_not_known() -> None:
    ring, row = KeyRing(KEY), issued("shop")
    ring.load([row])
    row.revoked_at = NOW
    ring.load([row])
    assert ring.caller(b"text of shop", clock) is None


def test_a_key_ends_at_its_time_without_being_read_again() -> None:
    ring = KeyRing(KEY)
    ring.load([issued("shop", expires_at=NOW + HOUR)])
    assert known(ring, "shop").name == "shop"
    assert ring.caller(b"text of shop", lambda: NOW + HOUR) is None


def test_in_its_grace_the_old_secret_is_the_same_caller() -> None:
    ring = KeyRing(KEY)
    ring.load([issued("shop", old_digest=digest_of("old"), old_until=NOW + HOUR)])
    assert ring.caller(b"old", clock) == known(ring, "shop")
    assert ring.caller(b"old", lambda: NOW + HOUR) is None
    assert ring.caller(b"text of shop", lambda: NOW + HOUR) is not None


def test_no_grace_outlives_the_key() -> None:
    ring = KeyRing(KEY)
    row = issued("shop", expires_at=NOW + HOUR, old_digest=digest_of("old"), old_until=NOW + 2 * HOUR)
    ring.load([row])
    assert ring.caller(b"old", lambda: NOW + HOUR) is None


def test_a_quota_is_the_keys_own_and_otherwise_the_settings() -> None:
    ring = KeyRing(KEY, quota=Quota(5, 0, 2))
    ring.load([issued("shop", requests_per_second=9), issued("ops")])
    assert known(ring, "shop").quota == Quota(9, 0, 2)
    assert known(ring, "ops").quota == ring.own.quota == Quota(5, 0, 2)


def test_a_caller_without_limits_has_no_quota() -> None:
    ring = KeyRing(KEY, quota=Quota())
    ring.load([issued("shop")])
    assert known(ring, "shop").quota is ring.own.quota is None


def test_the_id_in_a_wrong_key_is_told_when_it_is_known() -> None:
    ring, row = KeyRing(KEY), issued("shop")
    ring.load([row])
    assert ring.meant(f"mr_{row.id}_wrong".encode()) == row.id
    assert [ring.meant(key) for key in (b"mr_00000000_wrong", b"mr_", b"", b"\xff" * 20)] == [""] * 4


def test_only_a_key_in_the_settings_is_guessable(settings: Settings, db: Database) -> None:
    assert not open_ring(settings, db).own.guessable
    assert open_ring(settings.model_copy(update={"api_key": SecretStr(KEY)}), db).own.guessable


def test_a_session_lasts_twelve_hours() -> None:
    ring = KeyRing(KEY)
    session = ring.session(ring.own, NOW)
    assert ring.accepts(session, NOW + SESSION - timedelta(seconds=1)) is ring.own
    assert not ring.accepts(session, NOW + SESSION)


@pytest.mark.parametrize(
    "change", ["9{}", "{}0", "x", "", "..", "...", "9999999999.aa.bb", "1.default.", "{}é", "{}\x00"]
)
def test_a_changed_session_is_refused(change: str) -> None:
    ring = KeyRing(KEY)
    assert not ring.accepts(change.format(ring.session(ring.own, NOW)), NOW)


def test_a_new_key_ends_all_sessions() -> None:
    before, after = KeyRing("another key altogether"), KeyRing(KEY)
    assert not after.accepts(before.session(before.own, NOW), NOW)


@pytest.mark.parametrize(
    "change", [{"revoked_at": NOW}, {"digest": digest_of("new")}, {"scopes": ["predict"]}, {"expires_at": NOW}]
)
def test_a_session_ends_with_its_key(change: dict[str, Any]) -> None:
    ring, row = KeyRing(KEY), issued("ops", scopes=["admin"])
    ring.load([row])
    session = ring.session(known(ring, "ops"), NOW)
    assert ring.accepts(session, NOW) == known(ring, "ops")
    for name, value in change.items():
        setattr(row, name, value)
    ring.load([row])
    assert ring.accepts(session, NOW) is None


def test_the_server_learns_of_keys_and_keeps_them_while_the_database_is_down(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    made = create_key(db, "shop", by=By("ada", NOW))
    ring, reading = KeyRing(KEY), Unsteady(db)

    async def run() -> None:
        watching = asyncio.create_task(watch_keys(ring, cast(Database, reading), seconds=0))
        await reached(lambda: ring.caller(made.key.encode(), clock) is not None)
        reading.broken = True
        failures = reading.failures
        await reached(lambda: reading.failures > failures + 2)
        assert ring.caller(made.key.encode(), clock) is not None
        revoke_key(db, "shop", by=By("ada", NOW))
        reading.broken = False
        await reached(lambda: ring.caller(made.key.encode(), clock) is None)
        watching.cancel()

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()] == [
        "The API keys cannot be read; those known go on working: OSError: the database is down"
    ]


class Unsteady:
    """A database that can be down."""

    def __init__(self, db: Database) -> None:
        self._db, self.broken, self.failures = db, False, 0

    def api_keys(self) -> Sequence[KeyRow]:
        if self.broken:
            self.failures += 1
            raise OSError("the database is down")
        return self._db.api_keys()


async def reached(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


def issued(name: str, **values: Any) -> KeyRow:
    """A row whose secret is `text of NAME`."""
    row = KeyRow(hashlib.sha256(name.encode()).hexdigest()[:8], name, digest_of(f"text of {name}"), ["predict"], NOW)
    for field, value in values.items():
        setattr(row, field, value)
    return row


def known(ring: KeyRing, name: str) -> Caller:
    caller = ring.caller(f"text of {name}".encode(), clock)
    assert caller is not None
    return caller


def clock() -> datetime:
    return NOW
