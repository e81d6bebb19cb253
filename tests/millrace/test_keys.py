"""The platform's keys are made once, kept private, and named when they are damaged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from millrace.errors import BundleError
from millrace.keys import public_key, signing_key
from millrace.settings import Settings


def test_the_signing_key_is_made_once_and_only_its_owner_may_read_it(settings: Settings) -> None:
    first = signing_key(settings)
    path = settings.folder("keys") / "signing.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing_key(settings).private_bytes_raw() == first.private_bytes_raw()
    assert public_key(settings).public_bytes_raw() == first.public_key().public_bytes_raw()


@pytest.mark.parametrize("name", ["signing.pem", "signing.pub"])
def test_a_damaged_key_is_named(settings: Settings, name: str) -> None:
    signing_key(settings)
    (settings.folder("keys") / name).write_text("nothing")
    with pytest.raises(BundleError, match=name):
        public_key(settings) if name.endswith("pub") else signing_key(settings)


def test_two_that_start_together_use_one_key(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: signing_key(settings).private_bytes_raw(), range(16)))
    assert len(set(found)) == 1
    assert sorted(path.name for path in settings.folder("keys").iterdir()) == ["signing.pem", "signing.pub"]


def test_another_kind_of_key_is_refused(settings: Settings) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    pem = X25519PrivateKey.generate().private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    (settings.folder("keys") / "signing.pem").write_bytes(pem)
    with pytest.raises(BundleError, match="not an Ed25519 key"):
        signing_key(settings)


def test_what_only_verifies_makes_no_key_and_says_where_one_belongs(settings: Settings) -> None:
    with pytest.raises(BundleError, match="no key here") as caught:
        public_key(settings)
    assert str(settings.home / "keys" / "signing.pub") in caught.value.looked
    assert not settings.home.exists()
