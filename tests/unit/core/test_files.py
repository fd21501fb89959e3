"""Files are whole or absent, readable by others, and leave nothing behind."""

import errno
import fcntl
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tailrank.core.errors import RequestError
from tailrank.core.files import (
    locked_directory,
    remove_leftovers,
    replace_file,
    replace_text,
    temporary_folder_beside,
)


def test_a_file_appears_whole_and_readable(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replace_file(target) as fresh:
        fresh.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o644
    replace_text(target, "newer ü")
    assert target.read_text(encoding="utf-8") == "newer ü"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_after_an_exception_the_old_file_stands(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    replace_text(target, "old")

    def fail() -> None:
        with replace_file(target) as fresh:
            fresh.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_killed_processes_go_and_nothing_else(tmp_path: Path) -> None:
    kept = ["a.txt", "b", ".a.txt", ".b.json.abcdefgh", ".a.txt.notes", ".c.txt"]
    for name in [*kept, ".a.txt.abcdefgh", ".b.txt.01234567"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tmp-of-a-writer").touch()
    remove_leftovers(tmp_path, "*.txt")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)


def test_a_temporary_folder_is_on_the_same_disk_and_goes_however_its_block_ends(
    tmp_path: Path,
) -> None:
    def interrupted() -> None:
        with temporary_folder_beside(tmp_path / "not" / "made" / "yet") as folder:
            assert folder.parent == tmp_path
            (folder / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_one_processes_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "deep/run"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with locked_directory(folder, "--out"):
            (folder / "kept").touch()
            os.write(writer, b"!")
            signal.pause()
    os.read(reader, 1)
    said = rf"--out: process {child} on {socket.gethostname()} is at work in {folder}; wait"
    with pytest.raises(RequestError, match=said), locked_directory(folder, "--out"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / "lock").exists(), "a killed process cannot clean up"
    with locked_directory(folder, "--out"):
        assert (folder / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert [file.name for file in folder.iterdir()] == ["kept"]
    (folder / "kept").unlink()
    with locked_directory(folder, "--out"):
        pass
    assert not folder.exists()


def test_a_disk_without_locks_is_named_and_nothing_stays_on_it(tmp_path: Path, monkeypatch) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    said = rf"--out: {tmp_path}/run cannot be locked \(No locks available\); name one on another"
    with pytest.raises(RequestError, match=said), locked_directory(tmp_path / "run", "--out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_its_owner_removes_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch
) -> None:
    folder, flock, locked = tmp_path / "run", fcntl.flock, []

    def removed_before_the_first(handle: int, operation: int) -> None:
        if not locked:
            shutil.rmtree(folder)
        locked.append(handle)
        flock(handle, operation)

    monkeypatch.setattr("fcntl.flock", removed_before_the_first)
    with locked_directory(folder, "--out"):
        assert (folder / "lock").exists()
    assert len(locked) == 2
    assert not folder.exists()
