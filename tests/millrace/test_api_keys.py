"""Issued keys: made once, told once, rotated with a grace, revoked for good; every change leaves its row of audit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from millrace.api_keys import By, Quota, create_key, digest_of, revoke_key, rotate_key, state_of
from millrace.db import Database
from millrace.errors import ApiKeyError
from millrace.settings import Settings

NOW = datetime(2013, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
BY = By("ada", NOW)


@pytest.fixture(params=["sqlite", "postgres"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("needs_postgres")
    database = Database.open(Settings(home=tmp_path, database_url=url))
    yield database
    database.close()


def test_a_key_is_long_random_and_stored_as_its_digest_only(db: Database) -> None:
    made = create_key(db, "shop", by=BY, scopes=["admin", "predict"], expires=DAY, quota=Quota(5, 0, 2))
    row = db.api_keys()[0]
    prefix, key_id, secret = made.key.split("_", 2)
    assert (prefix, key_id, len(secret)) == ("mr", row.id, 43)
    assert row.digest == digest_of(made.key)
    assert secret not in repr(row)
    assert (row.scopes, row.created_at, row.expires_at) == (["predict", "admin"], NOW, NOW + DAY)
    assert (row.requests_per_second, row.rows_per_second, row.concurrency) == (5, None, 2)


def test_two_keys_of_one_name_are_refused_and_the_first_stays(db: Database) -> None:
    first = create_key(db, "shop", by=BY)
    with pytest.raises(ApiKeyError, match="millrace keys rotate shop"):
        create_key(db, "shop", by=BY)
    assert [row.digest for row in db.api_keys()] == [digest_of(first.key)]
    assert len(db.audit(10)) == 1


@pytest.mark.parametrize("name", ["", "a b", "../etc", "-x", "é", "x" * 64, "a\n", "a\0", "default"])
def test_an_odd_name_is_refused(db: Database, name: str) -> None:
    with pytest.raises(ApiKeyError, match="name"):
        create_key(db, name, by=BY)
    assert db.api_keys() == []


@pytest.mark.parametrize("scopes", [["root"], ["predict", ""], []])
def test_an_unknown_scope_is_refused(db: Database, scopes: list[str]) -> None:
    with pytest.raises(ApiKeyError, match="scope"):
        create_key(db, "shop", by=BY, scopes=scopes)


def test_a_key_that_ends_at_once_is_refused(db: Database) -> None:
    with pytest.raises(ApiKeyError, match="--expires"):
        create_key(db, "shop", by=BY, expires=timedelta(0))


def test_rotation_keeps_the_old_secret_for_the_grace(db: Database) -> None:
    first = create_key(db, "shop", by=BY)
    second = rotate_key(db, "shop", by=BY, grace=DAY)
    row = db.api_keys()[0]
    assert second.key != first.key
    assert second.key.startswith(f"mr_{row.id}_")
    assert (row.digest, row.old_digest, row.old_until) == (digest_of(second.key), digest_of(first.key), NOW + DAY)


def test_rotation_without_grace_ends_the_old_secret(db: Database) -> None:
    create_key(db, "shop", by=BY)
    rotate_key(db, "shop", by=BY, grace=DAY)
    rotate_key(db, "shop", by=BY, grace=timedelta(0))
    assert (db.api_keys()[0].old_digest, db.api_keys()[0].old_until) == (None, None)


@pytest.mark.parametrize("state", ["revoked", "expired"])
def test_what_has_ended_is_not_rotated(db: Database, state: str) -> None:
    create_key(db, "shop", by=BY, expires=DAY)
    if state == "revoked":
        revoke_key(db, "shop", by=BY)
    with pytest.raises(ApiKeyError, match=state):
        rotate_key(db, "shop", by=By("ada", NOW if state == "revoked" else NOW + DAY), grace=DAY)
    assert db.api_keys()[0].old_digest is None


def test_revoking_again_keeps_the_first_time(db: Database) -> None:
    create_key(db, "shop", by=BY)
    revoke_key(db, "shop", by=BY)
    revoke_key(db, "shop", by=By("ada", NOW + DAY))
    assert (db.api_keys()[0].revoked_at, state_of(db.api_keys()[0], NOW)) == (NOW, "revoked")


def test_an_unknown_name_lists_the_known_ones(db: Database) -> None:
    with pytest.raises(ApiKeyError, match="No key has been issued"):
        revoke_key(db, "shop", by=BY)
    create_key(db, "web", by=BY)
    create_key(db, "app", by=BY)
    with pytest.raises(ApiKeyError, match="The keys are app, web"):
        rotate_key(db, "shop", by=BY, grace=DAY)


def test_every_command_is_in_the_audit_with_its_user(db: Database) -> None:
    create_key(db, "shop", by=BY)
    rotate_key(db, "shop", by=By("bob", NOW + DAY), grace=DAY)
    revoke_key(db, "shop", by=By("eve", NOW + 2 * DAY))
    assert [(row.method, row.remote, row.key_name, row.at) for row in db.audit(10)] == [
        ("keys revoke", "eve", "shop", NOW + 2 * DAY),
        ("keys rotate", "bob", "shop", NOW + DAY),
        ("keys create", "ada", "shop", NOW),
    ]
