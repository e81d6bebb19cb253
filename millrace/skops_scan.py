"""Whether a skops file holds nothing but its schema and plain arrays: a look into the archive, without loading it.

A skops file is a zip of `schema.json`, arrays (`.npy`, `.npz`) and plain bytes (`.bin`). skops itself refuses pickled
arrays and unlisted types when it loads; this check does so before skops is even imported, and refuses what skops would
ignore: other files, names that point elsewhere, an archive that unpacks to more than it may. Which types the schema
names is the engine's business.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib

import msgspec
from numpy.lib import format as npy

from millrace.errors import BundleError

_PARTS = re.compile(r"[0-9]+\.(npy|npz)|[0-9a-f-]+\.bin")
_LARGEST = 2_000_000_000
"""Bytes that an archive may unpack to."""


def check_skops(content: bytes) -> None:
    """Raise `BundleError` when `content` is not a skops file of a schema and plain arrays."""
    try:
        problem = _problem(content)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        # what zipfile and numpy raise for damaged, encrypted or exotic archives
        problem = f"it cannot be read ({error})"
    if problem:
        raise BundleError(f"The bundle's model.skops is not a native model: {problem}. Nothing of it was loaded.")


def _problem(content: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        listed = [entry.filename for entry in entries]
        if sum(entry.file_size for entry in entries) > _LARGEST:
            return f"it unpacks to more than {_LARGEST // 10**9} GB"
        if "schema.json" not in listed or len(set(listed)) < len(listed):
            return "it has no schema, or a file twice"
        for name in listed:
            problem = _wrong_entry(name, archive)
            if problem:
                return problem
    return ""


def _wrong_entry(name: str, archive: zipfile.ZipFile) -> str:
    if name == "schema.json":
        msgspec.json.decode(archive.read(name))  # a MsgspecError is a ValueError
        return ""
    if not _PARTS.fullmatch(name):
        return f"it holds {name!r}, which is no part of one"
    if name.endswith(".bin"):
        return ""
    if name.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(archive.read(name))) as inner:
            return next((f"{name} holds Python objects" for part in inner.namelist() if _is_pickled(inner, part)), "")
    return f"{name} holds Python objects" if _is_pickled(archive, name) else ""


def _is_pickled(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether an array's file keeps its values as a pickle; ValueError when it is no array's file."""
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        _, _, dtype = read(file)
    return bool(dtype.hasobject)
