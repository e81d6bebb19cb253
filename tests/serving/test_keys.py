"""Keys and sessions: one key a home, sessions that nobody else can sign."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from millrace.errors import SettingsError
from millrace.settings import Settings
from serving.keys import SESSION, KeyRing, api_key

NOW = datetime(2013, 4, 1, tzinfo=UTC)
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
    assert ring.knows(KEY.encode())
    assert not any(ring.knows(key) for key in (b"", KEY[:-1].encode(), KEY.encode() + b" ", b"\xff\xfe"))


def test_a_session_lasts_twelve_hours() -> None:
    ring = KeyRing(KEY)
    session = ring.session(NOW)
    assert ring.accepts(session, NOW + SESSION - timedelta(seconds=1))
    assert not ring.accepts(session, NOW + SESSION)


@pytest.mark.parametrize("change", ["9{}", "{}0", "x", "", "..", "9999999999.aa.bb", "{}é"])
def test_a_changed_session_is_refused(change: str) -> None:
    ring = KeyRing(KEY)
    assert not ring.accepts(change.format(ring.session(NOW)), NOW)


def test_a_new_key_ends_all_sessions() -> None:
    assert not KeyRing("another key altogether").accepts(KeyRing(KEY).session(NOW), NOW)
