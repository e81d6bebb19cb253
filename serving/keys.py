"""Who may ask: the API key that clients send and the signed cookie that the web pages give for it.

The key is `settings.api_key`, or one made at first use in the home folder (readable by its owner only). This module
knows nothing of HTTP beyond the text of a cookie; the clock is passed in.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from millrace.errors import SettingsError
from millrace.settings import Settings

SESSION = timedelta(hours=12)
"""How long a sign-in lasts."""


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


class KeyRing:
    """Checks keys and sessions in constant time; a new key ends every session."""

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()
        self._secret = hmac.digest(key.encode(), b"millrace web session", "sha256")

    def knows(self, key: bytes) -> bool:
        """Whether this is the key."""
        return hmac.compare_digest(hashlib.sha256(key).digest(), self._digest)

    def session(self, now: datetime) -> str:
        """The text of a cookie that is good for `SESSION` from `now`."""
        text = f"{int((now + SESSION).timestamp())}.{secrets.token_hex(8)}"
        return f"{text}.{self._signature(text)}"

    def accepts(self, session: str, now: datetime) -> bool:
        """Whether we signed this cookie and it has not expired."""
        text, _, signature = session.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(text).encode()):
            return False
        return int(text.partition(".")[0]) > now.timestamp()

    def _signature(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(), "sha256").hex()
