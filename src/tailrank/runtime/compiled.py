"""Whether the event loop runs compiled, as from a wheel, or as the Python of a source tree."""

from __future__ import annotations

from tailrank.runtime import loop


def is_compiled() -> bool:
    """Whether `kernels/csrc/compile_python.py` compiled it and its policies for this install."""
    return not loop.__file__.endswith(".py")
