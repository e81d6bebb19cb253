"""The platform's Ed25519 keys: one signs bundles where models are made, the other verifies them where they are served.

They lie in the home folder's `keys/`: `signing.pem` (readable by its owner only) and `signing.pub`, which is all that a
serving machine needs. Both are made when something is signed for the first time; what only verifies makes no key.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import BundleError
from millrace.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """The private key; `BundleError` when its file is damaged or another kind of key."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = settings.folder("keys") / "signing.pem"
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        _write_once(path, pem)
    key = _parsed(path, lambda pem: s.load_pem_private_key(pem, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"The signing key {path} is not an Ed25519 key.")
    pem = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    _write_once(path.with_suffix(".pub"), pem)
    return key


def public_key(settings: Settings) -> Ed25519PublicKey:
    """The public key; `BundleError` when there is none, or its file is damaged or another kind of key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = settings.home.absolute() / "keys" / "signing.pub"
    if not path.exists() and path.with_suffix(".pem").exists():
        signing_key(settings)
    if not path.exists():
        raise BundleError(
            "There is no key here to verify a model's bundle with.",
            looked=f"Looked for {path}.",
            todo="Set MILLRACE_HOME to the home folder whose models these are, or copy its keys/signing.pub there.",
        )
    key = _parsed(path, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"The public key {path} is not an Ed25519 key.")
    return key


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_bytes())
    except (ValueError, TypeError) as error:
        raise BundleError(f"The key {path} is damaged.", todo="Restore it from a copy.") from error


def _write_once(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 unless it is there; of two processes that start together the first one's stays."""
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()
