"""Files and folders that are whole or absent, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailrank.core.errors import ConfigError


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`: readers see the old file or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files private; results are meant to be read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that already holds something, before hours of work go into it.

    Raises:
        ConfigError: `path` is a file, or a folder with content and `overwrite` is False.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not overwrite):
        raise ConfigError("--out", str(path), "a folder that is new or empty, or --overwrite")


@contextmanager
def replace_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a fresh folder beside `path` that takes its place when the block ends well.

    After an exception the fresh folder is gone and whatever stood at `path` still stands.

    Raises:
        ConfigError: see `check_output`.
    """
    check_output(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield fresh
        fresh.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.rename(path, old / "replaced")
            os.rename(fresh, path)
            shutil.rmtree(old)
        else:
            os.rename(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
