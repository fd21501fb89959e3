"""Files and folders that are whole or absent, whenever the process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tailrank.core.errors import ConfigError, DataError, RequestError

_LOCK_FILE = "lock"


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`: readers see the old file or the new one, never a part."""
    with replace_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield where to write a fresh file, which takes the place of `path` when the block ends well.

    Its content reaches the disk before its name does, so a reader after a crash or a power cut
    finds the old file or the whole new one. It is made in a folder of its own, as writers may have
    temporary files too; a killed process leaves that folder behind, see `remove_leftovers`.
    """
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    fresh = folder / path.name
    try:
        yield fresh
        fresh.chmod(0o644)  # some writers make files private; results are meant to be read
        _sync(fresh)
        os.replace(fresh, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync(path.parent)  # a new name lasts once its folder is on the disk too


def remove_leftovers(folder: Path, names: str) -> None:
    """Delete what killed processes left of files that `replace_file` was to make.

    Args:
        folder: nobody else is writing there now.
        names: pattern of the files that were to be made, as in `*.safetensors`.
    """
    for leftover in folder.glob(f".{names}.????????"):  # eight letters, by mkdtemp
        shutil.rmtree(leftover)


@contextmanager
def locked_directory(folder: Path, field: str) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if absent and goes if it is left empty.

    The system holds the lock and lets go of it when the process ends, however it ends; what a dead
    one leaves in the folder locks nobody out.

    Args:
        folder: of files that one process at a time may write.
        field: the setting that names it, for the error.

    Raises:
        RequestError: another process is at work there, says which; or its file system has no locks.
    """
    file = folder / _LOCK_FILE
    handle = _locked_handle(folder, field)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        _remove_lock(file)
        os.close(handle)


def _locked_handle(folder: Path, field: str) -> int:
    """An open lock file that is ours; see `locked_directory`."""
    file = folder / _LOCK_FILE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the process before us has just removed the folder
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Unless the process before us removed it between our opening and locking it.
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace") or "another process"
            reason = f"{owner} is at work in {folder}; wait for it, or stop it first"
            os.close(handle)
            raise RequestError(field, reason) from None
        except OSError as error:
            os.close(handle)
            _remove_lock(file)
            reason = f"{folder} cannot be locked ({error.strerror}); name one on another disk"
            raise RequestError(field, reason) from None
        os.close(handle)


def _remove_lock(file: Path) -> None:
    """Delete a lock file, and its folder unless that holds something else."""
    file.unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or gone: as it should be
        file.parent.rmdir()


def missing_file(path: Path, verbs: str) -> DataError:
    """The error of a file that a run's folder should hold.

    Args:
        path: of the file.
        verbs: that write such folders, as in `train or export`.
    """
    if not path.parent.is_dir():
        reason = "a file" if path.parent.exists() else "no such folder"
        return DataError(path.parent, f"{reason}; expected one that tailrank {verbs} wrote")
    reason = f"no {path.name} in it; expected a folder that tailrank {verbs} wrote"
    return DataError(path.parent, reason)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that already holds something, before hours of work go into it.

    Raises:
        ConfigError: `path` is the folder that we are in, or no folder can be made there.
        RequestError: `path` is a file, or a folder with content and `overwrite` is False.
    """
    resolved, here = path.resolve(), Path.cwd()
    if resolved == here or resolved in here.parents:
        raise ConfigError("--out", str(path), "a folder below or beside this one, as in runs/first")
    check_writable(resolved.parent)
    if path.exists() and not path.is_dir():
        raise RequestError("--out", f"{path} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        reason = f"{path} is not empty; name another folder, or --overwrite it"
        raise RequestError("--out", reason)


def check_output_file(path: Path, suffix: str, *, overwrite: bool) -> None:
    """Refuse a name for an output file before the work that goes into it.

    Raises:
        ConfigError: it has another suffix, or no file can be made there.
        RequestError: there is a folder, or a file and `overwrite` is False.
    """
    if path.suffix != suffix:
        raise ConfigError("--out", str(path), f"the name of a file that ends in {suffix}")
    check_writable(path.resolve().parent)
    if path.is_dir():
        raise RequestError("--out", f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise RequestError("--out", f"{path} exists; name another file, or --overwrite it")


def check_writable(folder: Path) -> None:
    """Refuse a folder that neither exists with permission to write nor can be made.

    Raises:
        ConfigError: the nearest existing ancestor is a file, or may not be written to.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError("--out", str(folder), f"a place to write to, which {existing} is not")


@contextmanager
def temporary_folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of `path`, gone when the block ends, however it ends."""
    parent = next(parent for parent in path.resolve().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{path.name}.") as folder:
        yield Path(folder)


@contextmanager
def replace_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a fresh folder beside `path` that takes its place when the block ends well.

    After an exception the fresh folder is gone and whatever stood at `path` still stands.

    Raises:
        ConfigError: see `check_output`, as for RequestError.
    """
    check_output(path, overwrite=overwrite)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old: Path | None = None
    try:
        yield fresh
        fresh.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.rename(path, old / "replaced")
            os.rename(fresh, path)
        else:
            os.rename(fresh, path)
    except BaseException:
        if old is not None and not path.exists():
            os.rename(old / "replaced", path)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
