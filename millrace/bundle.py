"""What is served: a folder with the model, its contract, a reference sample, and a signed list of their digests.

    model.onnx | model.skops   the model (the contract says which)
    contract.json              what it takes: `millrace.contract`
    reference.parquet          at most 5,000 hold-out rows: features, `score`, `label`
    manifest.json              sha256 and size of each file above, signed (Ed25519)

A bundle is written once and never changed. It is verified before anything in it is parsed: a flipped bit, a file too
many or too few, a link, a signature of another platform, or weights outside the file end in `BundleError`. Each read
checks the digest of the very bytes it returns. What runs the model is `millrace.engine`'s business.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millrace.contract import Contract, InputSpec, decode_contract, describe_inputs, encode_contract
from millrace.errors import BundleError
from millrace.onnx_scan import refuse_external_data

if TYPE_CHECKING:
    import polars as pl
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Bundle", "Contract", "InputSpec", "describe_inputs", "open_bundle", "write_bundle"]

MANIFEST, CONTRACT, REFERENCE = "manifest.json", "contract.json", "reference.parquet"
MODELS = {"onnx": "model.onnx", "skops": "model.skops"}
"""The model's file, by engine."""
MAX_REFERENCE_ROWS = 5_000
_FORMAT = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    size: int


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`signature` (hex) is over the compact JSON of the manifest with an empty signature, file names sorted."""

    format: int
    files: dict[str, _File]
    signature: str


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `digest` (sha256, hex) names its content; two bundles with one digest are the same."""

    folder: Path
    digest: str
    files: Mapping[str, _File]

    @cached_property
    def contract(self) -> Contract:
        """What the model takes and where it comes from."""
        return decode_contract(self.read(CONTRACT))

    @property
    def size_mb(self) -> float:
        """Size on disk in MB (10⁶ bytes), without the reference sample: what a server has to hold to predict."""
        return sum(file.size for name, file in self.files.items() if name != REFERENCE) / 1e6

    def model(self) -> bytes:
        """The model's bytes, checked; for ONNX, all weights are inside them."""
        return self.read(MODELS[self.contract.engine])

    def reference(self) -> pl.DataFrame:
        """The reference sample: the inputs as columns, `score` Float64, `label` Int8."""
        import polars as pl

        return pl.read_parquet(io.BytesIO(self.read(REFERENCE)))

    def read(self, name: str) -> bytes:
        """The bytes of one of the bundle's files; `BundleError` when they are not those that were signed."""
        path, expected = self.folder / name, self.files[name]
        content = _read_regular(path)
        if len(content) != expected.size or hashlib.sha256(content).hexdigest() != expected.sha256:
            raise BundleError(
                f"The bundle's file {path} is damaged: its content is not what was signed.",
                todo="Restore it from a copy (MLflow keeps one with the run), or roll back: millrace rollback NAME.",
            )
        return content


def write_bundle(
    folder: Path, *, contract: Contract, model: bytes, reference: pl.DataFrame, key: Ed25519PrivateKey
) -> Bundle:
    """Write and sign a bundle at `folder`, which must not exist yet; it appears there whole or not at all.

    `reference` holds the contract's inputs, `score` and `label`; at most 5,000 rows. Raises `BundleError` when the
    folder exists, the reference lacks a column, the ONNX model keeps weights outside, or the disk refuses.
    """
    _check_parts(folder, contract, model, reference)
    table = io.BytesIO()
    reference.select(*contract.names, "score", "label").write_parquet(table)
    contents = {MODELS[contract.engine]: model, CONTRACT: encode_contract(contract), REFERENCE: table.getvalue()}
    files = {name: _File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(contents.items())}
    unsigned = _Manifest(_FORMAT, files, "")
    signature = key.sign(msgspec.json.encode(unsigned)).hex()
    contents[MANIFEST] = msgspec.json.encode(msgspec.structs.replace(unsigned, signature=signature))
    try:
        with _aside(folder) as aside:
            for name, data in contents.items():
                _write_through(aside / name, data)
            aside.rename(folder)
    except OSError as error:
        raise BundleError(f"The bundle {folder} cannot be written: {error.strerror or error}.") from error
    return Bundle(folder, _digest(unsigned), files)


def open_bundle(folder: Path, *, public_key: Ed25519PublicKey) -> Bundle:
    """The bundle at `folder`, verified: signature, set of files, digests, and no weights outside the model's file.

    Raises `BundleError` saying what is wrong; nothing but the manifest and the contract has been parsed then.
    """
    manifest = _read_manifest(folder)
    unsigned = msgspec.structs.replace(manifest, signature="")
    _check_signature(folder, unsigned, manifest.signature, public_key)
    _check_listing(folder, manifest)
    bundle = Bundle(folder, _digest(unsigned), manifest.files)
    for name in manifest.files:
        content = bundle.read(name)
        if name == MODELS["onnx"]:
            refuse_external_data(content)
    if MODELS[bundle.contract.engine] not in manifest.files:
        raise BundleError(f"The bundle {folder} has no {MODELS[bundle.contract.engine]}, which its contract names.")
    return bundle


def _check_parts(folder: Path, contract: Contract, model: bytes, reference: pl.DataFrame) -> None:
    if folder.exists():
        raise BundleError(f"The bundle {folder} is there already; a bundle is written once.")
    missing = [name for name in (*contract.names, "score", "label") if name not in reference.columns]
    if missing:
        raise BundleError(f"The reference sample of {folder} lacks {', '.join(missing)}.")
    if reference.height > MAX_REFERENCE_ROWS:
        raise BundleError(f"The reference sample has {reference.height} rows; at most {MAX_REFERENCE_ROWS} are kept.")
    if contract.engine == "onnx":
        refuse_external_data(model)


def _read_manifest(folder: Path) -> _Manifest:
    if not folder.is_dir():
        raise BundleError(
            f"There is no bundle at {folder}.",
            looked=f"{folder.parent} holds {', '.join(sorted(_names(folder.parent))) or 'nothing'}.",
        )
    content = _read_regular(folder / MANIFEST)
    try:
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle {folder} has a damaged {MANIFEST}: {error}.") from error
    as_written = msgspec.json.encode(manifest) == content and manifest.signature == manifest.signature.lower()
    if not as_written:  # white space and the case of hexadecimal letters vary without changing the meaning
        raise BundleError(f"The bundle {folder} has a damaged {MANIFEST}: it is not as it was written.")
    if manifest.format != _FORMAT:
        raise BundleError(f"The bundle {folder} is of format {manifest.format}; this platform reads {_FORMAT}.")
    return manifest


def _check_signature(folder: Path, unsigned: _Manifest, signature: str, key: Ed25519PublicKey) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(signature), msgspec.json.encode(unsigned))
    except (InvalidSignature, ValueError) as error:
        raise BundleError(
            f"The bundle {folder} is not signed by this platform's key, or its {MANIFEST} was changed.",
            todo="Use the home folder whose keys/ signed it, or train the model here.",
        ) from error


def _check_listing(folder: Path, manifest: _Manifest) -> None:
    """The folder holds exactly the files that the manifest lists, and these are files that a bundle has."""
    unknown = sorted(set(manifest.files) - {CONTRACT, REFERENCE, *MODELS.values()})
    found = _names(folder)
    missing, extra = sorted(set(manifest.files) - found), sorted(found - set(manifest.files) - {MANIFEST})
    for names, problem in ((unknown, "lists files that no bundle has"), (missing, "lacks"), (extra, "holds unsigned")):
        if names:
            raise BundleError(
                f"The bundle {folder} {problem}: {', '.join(map(repr, names))}. Nothing of it was loaded."
            )
    if not {CONTRACT, REFERENCE} <= set(manifest.files):
        raise BundleError(f"The bundle {folder} has no {CONTRACT} or no {REFERENCE}.")


def _digest(unsigned: _Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(unsigned)).hexdigest()


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()


def _read_regular(path: Path) -> bytes:
    """The bytes of a regular file; a link, a folder or a device is refused without being opened through."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise BundleError(f"The bundle's file {path} cannot be read: {reason}.") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"The bundle's file {path} is not a regular file.")
        return file.read()


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, to be renamed to it; removed if the body does not get that far."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        aside.chmod(0o755)
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
