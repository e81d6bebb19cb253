"""A lake table's files as bytes: which are there, how large, and whether they are still what was written.

Delta's log names a table's files and not their bytes, and Parquet notices few flipped bits by itself. So each commit is
followed by its seal, `_seals/<version>.json` beside the log: the SHA-256 of every file that the commit added. A writer
that dies between the two leaves files without a seal, which are then known by their batch's digest alone. Readers of
Delta and its vacuum leave folders with an underscore alone. This module knows nothing of rows, commits or versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

_SEALS = "_seals"


class TableFiles:
    """The files below one table: a local folder, or an object-store URL with its storage options."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self.uri = uri
        self._options = dict(options)
        self._folder = None if "://" in uri else Path(uri)

    def sizes(self) -> dict[str, int]:
        """The data files that are there, by their path below the table, and their sizes in bytes."""
        return {path: size for path, size in self._list("") if path.endswith(".parquet") and path[0] not in "_."}

    def sha256(self, path: str) -> str:
        """The digest of a file's bytes, in hexadecimal; `OSError` when it cannot be read."""
        if self._folder is not None:
            with (self._folder / path).open("rb") as local:
                return file_digest(local, "sha256").hexdigest()
        with self._remote.open_input_file(path) as stream:
            return file_digest(stream, "sha256").hexdigest()

    def seal(self, version: int, paths: Iterable[str]) -> None:
        """Write down what these files' bytes are, as those that the version added."""
        sealed = json.dumps({path: self.sha256(path) for path in sorted(paths)}, indent=0).encode()
        name = f"{_SEALS}/{version:020}.json"
        if self._folder is None:
            # pyarrow 25 hands deltalake 1.6.6 buffers where it takes bytes: only its own stream can be written to.
            stream = self._remote_handler._handler.open_output_stream(name, None)
            stream.write(sealed)
            stream.close()
            return
        (self._folder / _SEALS).mkdir(exist_ok=True)
        (self._folder / name).write_bytes(sealed)

    def seals(self) -> dict[str, str]:
        """Every sealed file's digest, vacuumed ones included. A seal that cannot be read seals nothing."""
        found: dict[str, str] = {}
        for path, _ in self._list(_SEALS):
            try:
                found |= json.loads(self._read(path))
            except (ValueError, TypeError):  # its writer was killed, or it is itself damaged
                continue
        return found

    def _read(self, path: str) -> bytes:
        if self._folder is not None:
            return (self._folder / path).read_bytes()
        with self._remote.open_input_file(path) as stream:
            return cast(bytes, stream.read())

    def _list(self, below: str) -> list[tuple[str, int]]:
        if self._folder is not None:
            files = (file for file in (self._folder / below).rglob("*") if file.is_file())
            return [(file.relative_to(self._folder).as_posix(), file.stat().st_size) for file in files]
        from pyarrow.fs import FileSelector, FileType

        infos = self._remote.get_file_info(FileSelector(below, recursive=True, allow_not_found=True))
        return [(info.path, info.size) for info in infos if info.type == FileType.File]

    @cached_property
    def _remote_handler(self) -> Any:
        from deltalake.fs import DeltaStorageHandler

        return DeltaStorageHandler(self.uri, self._options)

    @cached_property
    def _remote(self) -> Any:
        from pyarrow.fs import PyFileSystem

        return PyFileSystem(self._remote_handler)
