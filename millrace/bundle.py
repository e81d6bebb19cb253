"""What is served: a folder with the model, its contract, a reference sample, its card, and a signed list of digests.

    model.onnx | model.skops | model.safetensors   the model (the contract's engine says which)
    contract.json                                  what it takes: `millrace.contract`
    reference.parquet                              at most 5,000 hold-out rows: features, scores, outcomes
    model_card.md                                  what people read of it: `millrace.model_card`
    manifest.json                                  sha256 and size of each file above, signed (Ed25519)

A bundle is written once and never changed. It is verified before anything in it is parsed: a flipped bit, a file too
many or too few, a link, a signature of another platform, or a model file that could reach beyond itself (weights
outside an ONNX file, a pickle in a native one) ends in `BundleError`. Each read checks the digest of the very bytes it
returns. Bundles of format 1, which have no card, are read as well. What runs the model is `millrace.engine`'s business.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millrace.bundle_files import names, read_regular, write_folder
from millrace.contract import Contract, decode_contract, encode_contract
from millrace.errors import BundleError
from millrace.inputs import InputSpec, describe_inputs
from millrace.model_card import render_card
from millrace.onnx_scan import refuse_external_data
from millrace.prediction_log import PREDICTED
from millrace.safetensors_scan import check_safetensors
from millrace.skops_scan import check_skops

if TYPE_CHECKING:
    import polars as pl
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Bundle", "Contract", "InputSpec", "describe_inputs", "open_bundle", "write_bundle"]

MANIFEST, CONTRACT, REFERENCE, CARD = "manifest.json", "contract.json", "reference.parquet", "model_card.md"
MODELS = {"onnx": "model.onnx", "skops": "model.skops", "torch": "model.safetensors"}
"""The model's file, by engine."""
MAX_REFERENCE_ROWS = 5_000
_FORMAT = 2
_BESIDE_THE_MODEL: Mapping[int, frozenset[str]] = {
    1: frozenset({CONTRACT, REFERENCE}),
    _FORMAT: frozenset({CONTRACT, REFERENCE, CARD}),
}
"""What a bundle holds beside its model, by format."""
_CHECKS: Mapping[str, Callable[[bytes], None]] = {
    MODELS["onnx"]: refuse_external_data,
    MODELS["skops"]: check_skops,
    MODELS["torch"]: check_safetensors,
}
"""What is looked at in a model's file before anything loads it."""
_LONGEST_MANIFEST = 10_000


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
        """Size on disk in MB (10⁶ bytes) of what a server has to hold to predict: the model and its contract."""
        return sum(file.size for name, file in self.files.items() if name not in (REFERENCE, CARD)) / 1e6

    def model(self) -> bytes:
        """The model's bytes, checked; for ONNX, all weights are inside them."""
        return self.read(MODELS[self.contract.engine])

    def reference(self) -> pl.DataFrame:
        """The reference sample: the inputs as columns, `score`, `label`, and with classes `predicted`."""
        import polars as pl

        return pl.read_parquet(io.BytesIO(self.read(REFERENCE)))

    def card(self) -> str:
        """The model card as Markdown; empty for a bundle of format 1."""
        return self.read(CARD).decode() if CARD in self.files else ""

    def read(self, name: str) -> bytes:
        """The bytes of one of the bundle's files; `BundleError` when they are not those that were signed."""
        path, expected = self.folder / name, self.files[name]
        content = read_regular(path, most=expected.size)
        if len(content) != expected.size or hashlib.sha256(content).hexdigest() != expected.sha256:
            raise BundleError(
                f"The bundle's file {path} is damaged: its content is not what was signed.",
                todo="Restore it from a copy (MLflow keeps one with the run), or roll back: millrace rollback NAME.",
            )
        return content


def write_bundle(
    folder: Path,
    *,
    contract: Contract,
    model: bytes,
    reference: pl.DataFrame,
    key: Ed25519PrivateKey,
    card: str | None = None,
) -> Bundle:
    """Write and sign a bundle at `folder`, which must not exist yet; it appears there whole or not at all.

    `reference` holds the contract's inputs, `score`, `label` and, with classes, `predicted`; at most 5,000 rows. `card`
    is the model card (`millrace.model_card`); without one it tells what the contract knows. Raises `BundleError` when
    the folder exists, the reference lacks a column, the model's file is not what its engine takes, or the disk refuses.
    """
    _check_parts(folder, contract, model, reference)
    table = io.BytesIO()
    reference.select(_reference_columns(contract)).write_parquet(table)
    contents = {
        MODELS[contract.engine]: model,
        CONTRACT: encode_contract(contract),
        REFERENCE: table.getvalue(),
        CARD: (render_card(contract) if card is None else card).encode(),
    }
    files = {name: _File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(contents.items())}
    unsigned = _Manifest(_FORMAT, files, "")
    signature = key.sign(msgspec.json.encode(unsigned)).hex()
    contents[MANIFEST] = msgspec.json.encode(msgspec.structs.replace(unsigned, signature=signature))
    write_folder(folder, contents)
    return Bundle(folder, _digest(unsigned), files)


def open_bundle(folder: Path, *, public_key: Ed25519PublicKey) -> Bundle:
    """The bundle at `folder`, verified: signature, set of files, digests, and a model's file that holds data only.

    Raises `BundleError` saying what is wrong; nothing but the manifest and the contract has been parsed then.
    """
    manifest = _read_manifest(folder)
    unsigned = msgspec.structs.replace(manifest, signature="")
    _check_signature(folder, unsigned, manifest.signature, public_key)
    _check_listing(folder, manifest)
    bundle = Bundle(folder, _digest(unsigned), manifest.files)
    for name in manifest.files:
        content = bundle.read(name)
        if name in _CHECKS:
            _CHECKS[name](content)
    if MODELS[bundle.contract.engine] not in manifest.files:
        raise BundleError(f"The bundle {folder} has no {MODELS[bundle.contract.engine]}, which its contract names.")
    return bundle


def _check_parts(folder: Path, contract: Contract, model: bytes, reference: pl.DataFrame) -> None:
    if folder.exists():
        raise BundleError(f"The bundle {folder} is there already; a bundle is written once.")
    missing = [name for name in _reference_columns(contract) if name not in reference.columns]
    if missing:
        raise BundleError(f"The reference sample of {folder} lacks {', '.join(missing)}.")
    if reference.height > MAX_REFERENCE_ROWS:
        raise BundleError(f"The reference sample has {reference.height} rows; at most {MAX_REFERENCE_ROWS} are kept.")
    _CHECKS[MODELS[contract.engine]](model)


def _reference_columns(contract: Contract) -> list[str]:
    return [*contract.names, "score", "label", *([PREDICTED] if contract.classes else [])]


def _read_manifest(folder: Path) -> _Manifest:
    if not folder.is_dir():
        raise BundleError(
            f"There is no bundle at {folder}.",
            looked=f"{folder.parent} holds {', '.join(sorted(names(folder.parent))) or 'nothing'}.",
        )
    content = read_regular(folder / MANIFEST, most=_LONGEST_MANIFEST)
    try:
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle {folder} has a damaged {MANIFEST}: {error}.") from error
    as_written = msgspec.json.encode(manifest) == content and manifest.signature == manifest.signature.lower()
    if not as_written:  # white space and the case of hexadecimal letters vary without changing the meaning
        raise BundleError(f"The bundle {folder} has a damaged {MANIFEST}: it is not as it was written.")
    if manifest.format not in _BESIDE_THE_MODEL:
        known = " and ".join(map(str, _BESIDE_THE_MODEL))
        raise BundleError(f"The bundle {folder} is of format {manifest.format}; this platform reads {known}.")
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
    """The folder holds exactly the files that the manifest lists, and these are what a bundle of its format has."""
    listed, found, beside = set(manifest.files), names(folder), _BESIDE_THE_MODEL[manifest.format]
    unknown = sorted(listed - beside - set(MODELS.values()))
    missing, extra = sorted(listed - found), sorted(found - listed - {MANIFEST})
    for wrong, problem in ((unknown, "lists files that no bundle has"), (missing, "lacks"), (extra, "holds unsigned")):
        if wrong:
            raise BundleError(
                f"The bundle {folder} {problem}: {', '.join(map(repr, wrong))}. Nothing of it was loaded."
            )
    if not beside <= listed:
        raise BundleError(f"The bundle {folder} has no {' and no '.join(sorted(beside - listed))}.")
    models = sorted(listed & set(MODELS.values()))
    if len(models) != 1:
        raise BundleError(f"The bundle {folder} holds {len(models)} models instead of one.")


def _digest(unsigned: _Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(unsigned)).hexdigest()
