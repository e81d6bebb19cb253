"""A bundle opens when it is whole and ours, and nothing of it is loaded when it is not."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from millrace.bundle import Bundle, Contract, open_bundle, write_bundle
from millrace.contract import encode_contract
from millrace.errors import BundleError
from millrace.keys import public_key, signing_key
from millrace.settings import Settings, read_settings


def resign(folder: Path, settings: Settings, **changed: Any) -> None:
    """Sign whatever the folder holds now, with the right key: what remains is not caught by the signature."""
    names = changed.pop("names", [path.name for path in folder.iterdir() if path.name != "manifest.json"])
    contents = {name: (folder / name).read_bytes() for name in names}
    files = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(contents.items())
    }
    unsigned = {"format": 2, "files": files, "signature": ""} | changed
    signature = signing_key(settings).sign(msgspec.json.encode(unsigned)).hex()
    (folder / "manifest.json").write_bytes(msgspec.json.encode(unsigned | {"signature": signature}))


def safetensors() -> bytes:
    """One small tensor."""
    from safetensors.numpy import save

    return save({"w": np.ones((2, 1), np.float32)})


def test_what_was_written_is_what_opens(
    bundle: Bundle, settings: Settings, contract: Contract, reference: pl.DataFrame
) -> None:
    opened = open_bundle(bundle.folder, public_key=public_key(settings))
    assert opened == bundle
    assert opened.contract == contract
    assert opened.reference().equals(reference.drop("other"))
    assert opened.model() == (bundle.folder / "model.onnx").read_bytes()
    assert opened.card() == (bundle.folder / "model_card.md").read_text()
    assert opened.size_mb == pytest.approx(
        sum((bundle.folder / n).stat().st_size for n in ("model.onnx", "contract.json")) / 1e6
    )


def test_the_same_content_has_the_same_digest(bundle: Bundle, tmp_path: Path, settings: Settings) -> None:
    again = write_bundle(
        tmp_path / "again",
        contract=bundle.contract,
        model=bundle.model(),
        reference=bundle.reference(),
        key=signing_key(settings),
    )
    assert again.digest == bundle.digest


def test_one_flipped_bit_in_any_file_is_refused_300_times_of_300(bundle: Bundle, settings: Settings) -> None:
    key, rng = public_key(settings), random.Random(5)
    files = sorted(bundle.folder.iterdir())
    for _ in range(300):
        path = rng.choice(files)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(BundleError):
            open_bundle(bundle.folder, public_key=key)
        path.write_bytes(whole)
    open_bundle(bundle.folder, public_key=key)


def test_bits_all_over_the_manifest_matter(bundle: Bundle, settings: Settings) -> None:
    key, path = public_key(settings), bundle.folder / "manifest.json"
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 13):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(BundleError):
            open_bundle(bundle.folder, public_key=key)


def test_a_file_that_changes_after_opening_is_refused_at_reading(bundle: Bundle, settings: Settings) -> None:
    opened = open_bundle(bundle.folder, public_key=public_key(settings))
    (bundle.folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="damaged"):
        opened.model()


def test_a_bundle_of_another_platform_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    stranger = read_settings(home=tmp_path / "stranger")
    signing_key(stranger)
    with pytest.raises(BundleError, match="not signed by this platform's key"):
        open_bundle(bundle.folder, public_key=public_key(stranger))


@pytest.mark.parametrize("name", ["model.onnx", "contract.json", "reference.parquet", "model_card.md", "manifest.json"])
def test_a_missing_file_is_refused(bundle: Bundle, settings: Settings, name: str) -> None:
    (bundle.folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle.folder, public_key=public_key(settings))


@pytest.mark.parametrize("name", ["extra.pkl", ".hidden", "model.onnx.data"])
def test_an_extra_file_is_refused(bundle: Bundle, settings: Settings, name: str) -> None:
    (bundle.folder / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle.folder, public_key=public_key(settings))


class Exploding:
    """Unpickling it creates a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("name", ["model.pkl", "model.onnx", "contract.json", "reference.parquet"])
def test_a_pickle_is_refused_and_not_loaded_even_when_signed(
    bundle: Bundle, settings: Settings, tmp_path: Path, name: str
) -> None:
    (bundle.folder / name).write_bytes(pickle.dumps(Exploding(tmp_path / "exploded")))
    resign(bundle.folder, settings)
    with pytest.raises((BundleError, pl.exceptions.ComputeError)):
        open_bundle(bundle.folder, public_key=public_key(settings)).reference()
    assert not (tmp_path / "exploded").exists()


def test_a_native_model_that_hides_a_pickle_is_neither_written_nor_opened(
    bundle: Bundle, settings: Settings, tmp_path: Path
) -> None:
    from millrace.engine import open_engine

    file, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Exploding(tmp_path / "exploded")]), allow_pickle=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", "{}")
        archive.writestr("1.npy", array.getvalue())
    contract, key = dataclasses.replace(bundle.contract, engine="skops"), signing_key(settings)
    given = {"contract": contract, "reference": bundle.reference(), "key": key}
    with pytest.raises(BundleError, match="Python objects"):
        write_bundle(tmp_path / "new", model=file.getvalue(), **given)
    (bundle.folder / "model.onnx").unlink()
    (bundle.folder / "contract.json").write_bytes(encode_contract(contract))
    (bundle.folder / "model.skops").write_bytes(file.getvalue())
    resign(bundle.folder, settings)
    with pytest.raises(BundleError, match="Python objects"):
        open_engine(open_bundle(bundle.folder, public_key=public_key(settings)))
    assert not (tmp_path / "exploded").exists()


def test_a_symbolic_link_is_refused_even_to_the_same_bytes(bundle: Bundle, settings: Settings, tmp_path: Path) -> None:
    path = bundle.folder / "model.onnx"
    path.rename(tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(bundle: Bundle, settings: Settings) -> None:
    path = bundle.folder / "model.onnx"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(bundle.folder, public_key=public_key(settings))


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "sub/model.onnx", "model.pkl"])
def test_a_manifest_that_names_another_place_is_refused_even_when_signed(
    bundle: Bundle, settings: Settings, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside.json").write_bytes(b"{}")
    files = {"contract.json", "reference.parquet", "model_card.md", "model.onnx"}
    files |= {name} if name.startswith(("..", "/")) else set()
    resign(bundle.folder, settings, names=sorted(files))
    if not name.startswith(("..", "/")):
        manifest = msgspec.json.decode((bundle.folder / "manifest.json").read_bytes())
        resign(bundle.folder, settings, files=manifest["files"] | {name: {"sha256": "0" * 64, "size": 0}})
    with pytest.raises(BundleError, match="lists files that no bundle has"):
        open_bundle(bundle.folder, public_key=public_key(settings))


@pytest.mark.parametrize("place", ["graph", "nested", "function", "attribute"])
def test_weights_outside_the_onnx_file_are_refused_even_when_signed(
    bundle: Bundle, settings: Settings, onnx_model: Callable[..., bytes], place: str
) -> None:
    (bundle.folder / "model.onnx").write_bytes(onnx_model([0.5, -1.0], external=place))
    resign(bundle.folder, settings)
    with pytest.raises(BundleError, match="external data"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_weights_outside_the_onnx_file_are_not_written_either(
    tmp_path: Path, settings: Settings, bundle: Bundle, onnx_model: Callable[..., bytes]
) -> None:
    with pytest.raises(BundleError, match="external data"):
        write_bundle(
            tmp_path / "new",
            contract=bundle.contract,
            model=onnx_model([0.5, -1.0], external="graph"),
            reference=bundle.reference(),
            key=signing_key(settings),
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, b"\x08\x0a", b"\x3a\x05\x0a", b"\x0b\x0c", b"\x3a\x00" * 1 + b"\x80"]
)
def test_what_is_no_onnx_model_is_refused_even_when_signed(bundle: Bundle, settings: Settings, content: bytes) -> None:
    (bundle.folder / "model.onnx").write_bytes(content)
    resign(bundle.folder, settings)
    with pytest.raises(BundleError, match="not an ONNX model"):
        open_bundle(bundle.folder, public_key=public_key(settings))


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"{}", b'{"format":1,"files":{},"signature":""}', b'{"format":1,"files":{},"signature":"zz"}'],
)
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, settings: Settings, content: bytes) -> None:
    (bundle.folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_bundle_of_a_later_format_is_refused_by_name(bundle: Bundle, settings: Settings) -> None:
    resign(bundle.folder, settings, format=3)
    with pytest.raises(BundleError, match="of format 3; this platform reads 1 and 2"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_contract_that_names_another_engine_than_the_file_is_refused(bundle: Bundle, settings: Settings) -> None:
    path = bundle.folder / "contract.json"
    path.write_bytes(path.read_bytes().replace(b'"engine": "onnx"', b'"engine": "skops"'))
    resign(bundle.folder, settings)
    with pytest.raises(BundleError, match=r"no model\.skops"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_folder_that_is_not_there_says_what_is(bundle: Bundle, settings: Settings) -> None:
    with pytest.raises(BundleError, match="There is no bundle") as caught:
        open_bundle(bundle.folder.parent / "absent", public_key=public_key(settings))
    assert "bundle" in caught.value.looked


def test_a_bundle_is_written_once(bundle: Bundle, settings: Settings) -> None:
    with pytest.raises(BundleError, match="there already"):
        write_bundle(
            bundle.folder,
            contract=bundle.contract,
            model=bundle.model(),
            reference=bundle.reference(),
            key=signing_key(settings),
        )


def test_a_reference_without_an_input_or_with_too_many_rows_is_refused(
    bundle: Bundle, tmp_path: Path, settings: Settings
) -> None:
    key, sample = signing_key(settings), bundle.reference()
    for reference, says in ((sample.drop("a"), "lacks a"), (pl.concat([sample] * 300), "at most 5000")):
        with pytest.raises(BundleError, match=says):
            write_bundle(tmp_path / "new", contract=bundle.contract, model=bundle.model(), reference=reference, key=key)


FULL_DISK = """
import pickle, resource, sys
from pathlib import Path
from millrace.bundle import write_bundle
from millrace.contract import encode_contract
from millrace.errors import BundleError
from millrace.keys import signing_key
from millrace.settings import read_settings

given = pickle.loads(sys.stdin.buffer.read())
resource.setrlimit(resource.RLIMIT_FSIZE, (given.pop("limit"), resource.RLIM_INFINITY))
try:
    write_bundle(given.pop("folder"), key=signing_key(read_settings(home=given.pop("home"))), **given)
except BundleError as error:
    print(error)
"""
"""Writes a bundle in a process whose files cannot grow: the kernel refuses, as on a full disk."""


def test_a_disk_that_refuses_leaves_no_bundle_behind(bundle: Bundle, tmp_path: Path, settings: Settings) -> None:
    place = tmp_path / "place"
    given = {
        "contract": bundle.contract,
        "model": bundle.model(),
        "reference": bundle.reference(),
        "folder": place / "new",
        "home": settings.home,
        "limit": 100,
    }
    told = subprocess.run([sys.executable, "-c", FULL_DISK], input=pickle.dumps(given), capture_output=True, check=True)
    assert "new cannot be written: File too large" in told.stdout.decode()
    assert list(place.iterdir()) == []


def test_a_machine_with_the_public_key_alone_verifies(bundle: Bundle, settings: Settings, tmp_path: Path) -> None:
    server = read_settings(home=tmp_path / "server")
    shutil.copy(settings.folder("keys") / "signing.pub", server.folder("keys"))
    open_bundle(bundle.folder, public_key=public_key(server))
    assert not (server.folder("keys") / "signing.pem").exists()


def test_a_bundle_is_frozen(bundle: Bundle) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.digest = ""  # type: ignore[misc]  # that is the point


def test_a_bundle_of_the_first_format_opens_without_a_card(bundle: Bundle, settings: Settings) -> None:
    (bundle.folder / "model_card.md").unlink()
    resign(bundle.folder, settings, format=1)
    opened = open_bundle(bundle.folder, public_key=public_key(settings))
    assert (opened.card(), opened.contract) == ("", bundle.contract)


@pytest.mark.parametrize(
    ("format_", "says"), [(1, "lists files that no bundle has: 'model_card.md'"), (2, "no model_")]
)
def test_a_card_belongs_to_the_second_format_alone(bundle: Bundle, settings: Settings, format_: int, says: str) -> None:
    if format_ == 2:
        (bundle.folder / "model_card.md").unlink()
    resign(bundle.folder, settings, format=format_)
    with pytest.raises(BundleError, match=says):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_card_that_was_given_is_kept_word_for_word(bundle: Bundle, settings: Settings, tmp_path: Path) -> None:
    written = write_bundle(
        tmp_path / "new",
        contract=bundle.contract,
        model=bundle.model(),
        reference=bundle.reference(),
        key=signing_key(settings),
        card="# Ünsere Karte",
    )
    assert open_bundle(written.folder, public_key=public_key(settings)).card() == "# Ünsere Karte"


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_file_longer_than_signed_is_refused_without_being_read(bundle: Bundle, settings: Settings, name: str) -> None:
    with (bundle.folder / name).open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte of nothing: it takes no room, and would not fit in memory
    with pytest.raises(BundleError, match="1099511627776 bytes long"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_two_models_in_one_bundle_are_refused_even_when_signed(bundle: Bundle, settings: Settings) -> None:
    (bundle.folder / "model.safetensors").write_bytes(safetensors())
    resign(bundle.folder, settings)
    with pytest.raises(BundleError, match="2 models instead of one"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_folder_in_place_of_a_file_is_refused(bundle: Bundle, settings: Settings) -> None:
    (bundle.folder / "model_card.md").unlink()
    (bundle.folder / "model_card.md").mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(bundle.folder, public_key=public_key(settings))


def test_a_reference_of_classes_must_tell_which_was_predicted(
    bundle: Bundle, settings: Settings, tmp_path: Path
) -> None:
    contract = dataclasses.replace(bundle.contract, classes=("x", "y", "z"))
    given = {"contract": contract, "model": bundle.model(), "key": signing_key(settings)}
    with pytest.raises(BundleError, match="lacks predicted"):
        write_bundle(tmp_path / "new", reference=bundle.reference(), **given)
    whole = bundle.reference().with_columns(predicted=pl.lit("x"))
    assert write_bundle(tmp_path / "new", reference=whole, **given).reference().columns[-1] == "predicted"
