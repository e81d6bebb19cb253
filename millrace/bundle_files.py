"""How a bundle's files are read and written: regular files only, no more bytes than expected, whole folders or none.

Knows files only: nothing of what a bundle holds or what its content means.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from millrace.errors import BundleError


def read_regular(path: Path, *, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes; `BundleError` for anything else.

    A link, a folder or a device is refused without being opened through, and a longer file without being read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise BundleError(f"The bundle's file {path} cannot be read: {reason}.") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"The bundle's file {path} is not a regular file.")
        if found.st_size > most:
            raise BundleError(f"The bundle's file {path} is {found.st_size} bytes long, {most} at most are expected.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most + 1)
    except OSError as error:
        raise BundleError(f"The bundle's file {path} cannot be read: {error.strerror or error}.") from error
    finally:
        os.close(descriptor)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write `contents` (name → bytes) as the new `folder`, which appears whole or not at all, also after a power cut.

    Raises `BundleError` when the disk refuses (full, read-only, a quota); nothing of it stays then.
    """
    try:
        with _aside(folder) as aside:
            for name, content in contents.items():
                write_through(aside / name, content)
            _sync_folder(aside)
            aside.rename(folder)
            _sync_folder(folder.parent)
    except OSError as error:
        raise BundleError(
            f"The bundle {folder} cannot be written: {error.strerror or error}.",
            todo="Free space on that disk, or set MILLRACE_HOME to another one; nothing of the bundle was kept.",
        ) from error


def move_folder(source: Path, target: Path) -> None:
    """Move a folder so that `target` appears whole, also between file systems; what lay there before goes.

    Raises `BundleError` when the disk refuses; `source` is whole then.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with _aside(target) as aside:
                shutil.copytree(source, aside, dirs_exist_ok=True)
                aside.rename(target)
            shutil.rmtree(source, ignore_errors=True)
        _sync_folder(target.parent)
    except OSError as error:  # shutil.Error, of several files, is one
        raise BundleError(f"The bundle {source} cannot be moved to {target}: {error.strerror or error}.") from error


def write_through(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def names(folder: Path) -> set[str]:
    """What the folder holds; nothing when it is none."""
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
