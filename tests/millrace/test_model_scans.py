"""Native models' files hold data and nothing else, or they are refused before anything loads them."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.errors import BundleError
from millrace.safetensors_scan import check_safetensors
from millrace.skops_scan import check_skops


class Exploding:
    """Unpickling it creates a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def tensors(**changed: Any) -> bytes:
    """A file of two float tensors, w (2, 3) and b (3), its header changed as told."""
    header: dict[str, Any] = {
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [3], "data_offsets": [24, 36]},
        "__metadata__": {"format": "pt"},
    } | changed
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(36)


def test_what_the_safetensors_package_writes_passes() -> None:
    from safetensors.numpy import save

    check_safetensors(save({"w": np.ones((2, 3), np.float32), "n": np.array(3), "none": np.empty((0, 4), np.int8)}))


def test_the_hand_made_file_passes() -> None:
    check_safetensors(tensors())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "shorter than a header"),
        (b"\xff" * 40, "header is longer"),
        (tensors()[:-1], "'b' does not lie|belong to no tensor"),
        (tensors() + b"x", "bytes that belong to no tensor"),
        (tensors(b={"dtype": "F32", "shape": [3], "data_offsets": [20, 32]}), "'b' does not lie"),
        (tensors(b={"dtype": "F32", "shape": [4], "data_offsets": [24, 36]}), "'b' does not lie"),
        (tensors(b={"dtype": "F32", "shape": [-1, -3], "data_offsets": [24, 36]}), "'b' does not lie"),
        (tensors(b={"dtype": "F33", "shape": [3], "data_offsets": [24, 36]}), "unknown type 'F33'"),
        (tensors(b={"dtype": "F32", "shape": [3], "data_offsets": [24, 36], "file": "x"}), "header cannot be read"),
        (tensors(b=None), "header cannot be read"),
        ((2).to_bytes(8, "little") + b"{}", "no tensor"),
        ((4).to_bytes(8, "little") + b"[1]]", "header cannot be read"),
        (pickle.dumps({"w": 1}), "safetensors file"),
    ],
)
def test_what_is_no_whole_safetensors_file_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        check_safetensors(content)


def archive(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in entries.items():
            zipped.writestr(name, content)
    return file.getvalue()


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=True)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture(scope="module")
def estimators() -> list[bytes]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder
    from skops.io import dumps

    X, y = np.arange(60, dtype=np.float32).reshape(20, 3) % 7, np.arange(20) % 2
    made = (
        HistGradientBoostingClassifier(max_iter=2),
        make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
    )
    return [dumps(one.fit(X, y)) for one in made]


def test_what_skops_writes_passes(estimators: list[bytes]) -> None:
    for content in estimators:
        check_skops(content)


def test_arrays_sparse_matrices_and_bytes_are_parts_of_a_model() -> None:
    check_skops(archive({"schema.json": b"{}", "12.npy": array([1.0]), "3.npz": npz(a=[1]), "0-f.bin": b"\x80"}))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda bomb: pickle.dumps(bomb), "not a zip file"),
        (lambda bomb: b"", "not a zip file"),
        (lambda bomb: archive({"1.npy": array([1.0])}), "no schema"),
        (lambda bomb: archive({"schema.json": b"{"}), "cannot be read"),
        (lambda bomb: archive({"schema.json": b"{}", "1.pkl": pickle.dumps(bomb)}), "'1.pkl', which is no part"),
        (lambda bomb: archive({"schema.json": b"{}", "../1.npy": array([1.0])}), "'../1.npy', which is no part"),
        (lambda bomb: archive({"schema.json": b"{}", "1.npy": array([bomb])}), "1.npy holds Python objects"),
        (lambda bomb: archive({"schema.json": b"{}", "1.npy": pickle.dumps(bomb)}), "cannot be read"),
        (lambda bomb: archive({"schema.json": b"{}", "1.npz": npz(a=np.array([bomb]))}), "1.npz holds Python objects"),
    ],
)
def test_a_native_model_with_more_than_plain_arrays_is_refused_and_not_loaded(
    tmp_path: Path, build: Callable[[Any], bytes], says: str
) -> None:
    with pytest.raises(BundleError, match=says):
        check_skops(build(Exploding(tmp_path / "exploded")))
    assert not (tmp_path / "exploded").exists()


def test_an_archive_that_unpacks_to_gigabytes_is_refused_unread() -> None:
    content = archive({"schema.json": b"{}", "1.npy": array([1.0])})
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"1.npy")) + 24  # the size that its directory tells
    content = content[:place] + (3_000_000_000).to_bytes(4, "little") + content[place + 4 :]
    with pytest.raises(BundleError, match="more than 2 GB"):
        check_skops(content)


def test_one_flipped_bit_in_an_archive_never_ends_in_anything_but_a_bundle_error(estimators: list[bytes]) -> None:
    content = estimators[0]
    for bit in range(0, len(content) * 8, len(content) * 8 // 400):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            check_skops(bytes(damaged))
        except BundleError:
            continue
