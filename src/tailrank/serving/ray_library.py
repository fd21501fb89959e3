"""The library `ray`, with Serve, told to send no one anything: whoever needs it takes it from here.

Where it is missing, importing this module says how to get it.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from tailrank.core.errors import BackendUnavailable

# It reports its use to its makers unless this says otherwise.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    _ray, _serve = import_module("ray"), import_module("ray.serve")
except ImportError as error:
    raise BackendUnavailable(
        f"--ray needs the package {error.name or 'ray'}; pip install 'tailrank[ray]'"
    ) from None

ray: Any = _ray
serve: Any = _serve

__all__ = ["ray", "serve"]
