"""Loads the native extension and says what of it runs on this CPU.

The only module that imports the extension. Knows tensors only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from tailrank.core.errors import BackendUnavailable, ConfigError

if TYPE_CHECKING:
    from tailrank.kernels._native import Isa

_INTERFACE = Path(__file__).with_name("_native.pyi")


def _mismatch(module: ModuleType) -> str | None:
    """Why an extension does not fit this package; None when it does.

    Memory goes to it as addresses: one built before its interface changed would crash.
    """
    built_for = getattr(module, "INTERFACE", None)
    if built_for == hashlib.sha256(_INTERFACE.read_bytes()).hexdigest():
        return None
    return f"the native kernels here were built for another {_INTERFACE.name}"


try:
    from tailrank.kernels import _native
except ImportError as error:
    _REASON: str | None = f"the native kernels are not installed here ({error})"
else:
    _REASON = _mismatch(_native)

# Instruction sets that the kernels are compiled for, widest first.
IsaName = Literal["avx512", "avx2", "portable"]
ISAS: tuple[IsaName, ...] = get_args(IsaName)
Name = TypeVar("Name", bound=str)
FIX = (
    "install a C++20 compiler (sudo apt-get install g++), then `make kernels` in a checkout, or "
    "`pip install --force-reinstall --no-deps tailrank`"
)


def why_unavailable() -> str | None:
    """Why there are no native kernels here; None when there are."""
    return _REASON


def require() -> None:
    """Make sure that there are native kernels.

    Raises:
        BackendUnavailable: there are none; says why and what to do.
    """
    if _REASON is not None:
        raise BackendUnavailable(f"{_REASON}; {FIX}")


def extension() -> ModuleType:
    """The extension.

    Raises:
        BackendUnavailable: see `require`.
    """
    require()
    return _native


def runnable_isas() -> tuple[IsaName, ...]:
    """The instruction sets that this CPU and its operating system run, widest first.

    Raises:
        BackendUnavailable: there are no native kernels.
    """
    require()
    return tuple(name for name in ISAS if _native.can_run(_native.Isa[name]))


def choose_isa(name: IsaName | None = None) -> Isa:
    """The instruction set of that name; None: the widest that runs here.

    Raises:
        BackendUnavailable: there are no native kernels, or this CPU lacks that instruction set.
        ConfigError: no such instruction set.
    """
    return _native.Isa[named_or_widest(name, ISAS, runnable_isas)]


def named_or_widest(
    name: Name | None, known: Sequence[Name], runnable: Callable[[], Sequence[Name]]
) -> Name:
    """One of the instruction sets that a family of kernels is compiled for.

    Args:
        name: the one that is wanted; None: the widest that runs here.
        known: all of them.
        runnable: says those that run here, widest first; raises where there are no kernels.

    Raises:
        BackendUnavailable: there are no native kernels, or this CPU lacks that instruction set.
        ConfigError: no such instruction set.
    """
    if name is not None and name not in known:
        raise ConfigError("isa", name, " or ".join(known))
    here = runnable()
    if name is not None and name not in here:
        raise BackendUnavailable(f"this CPU does not run {name}; it runs {', '.join(here)}")
    return name or here[0]
