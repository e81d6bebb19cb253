"""Calls that are kept come back as they were, in their order, to one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from training.journal import Journal


def left(folder: Path) -> list[Path]:
    """The journals that nobody holds, let go again."""
    found = list(Journal.left(folder))
    for journal in found:
        journal.close()
    return [journal.folder for journal in found]


def test_calls_come_back_in_their_order_with_their_files(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "model.bin").write_bytes(b"\x00\x01")
    journal = Journal.begin(tmp_path / "kept")
    journal.write({"call": "one", "text": "first\nsecond\u2028third"})
    journal.write({"call": "two", "folder": str(files)})
    (files / "model.bin").unlink()  # a staged bundle moves on
    one, two = journal.calls()
    assert one == {"call": "one", "text": "first\nsecond\u2028third"}
    assert (Path(two["folder"]) / "model.bin").read_bytes() == b"\x00\x01"
    journal.close()


def test_a_call_that_its_writer_did_not_finish_is_none(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path)
    journal.write({"call": "one"})
    with (journal.folder / "calls.jsonl").open("a") as file:
        file.write('{"call": "tw')
    assert list(journal.calls()) == [{"call": "one"}]
    journal.close()


def test_what_a_living_process_holds_is_not_taken(tmp_path: Path) -> None:
    held = Journal.begin(tmp_path)
    assert list(Journal.left(tmp_path)) == []
    held.close()
    assert left(tmp_path) == [held.folder]


def test_what_a_killed_process_held_is_taken(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from training.journal import Journal\n"
        "Journal.begin(Path(sys.argv[1])).write({'call': 'one'}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (journal,) = Journal.left(tmp_path)
    assert list(journal.calls()) == [{"call": "one"}]
    journal.close()


def test_what_was_made_is_gone(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path)
    journal.write({"call": "one"})
    journal.discard()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_left(tmp_path: Path) -> None:
    assert list(Journal.left(tmp_path / "none")) == []


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    folders = []
    for _ in range(3):
        journal = Journal.begin(tmp_path)
        folders.append(journal.folder)
        journal.close()
    assert left(tmp_path) == folders
