"""The library `ray`, with Serve, told to send no one anything: whoever needs it takes it from here.

Where it is missing, importing this module says how to get it.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

from tailrank.core.errors import BackendUnavailable

try:
    _ray, _serve = import_module("ray"), import_module("ray.serve")
except ImportError as error:
    raise BackendUnavailable(
        f"--ray needs the package {error.name or 'ray'}; pip install 'tailrank[ray]'"
    ) from None

with contextlib.suppress(ImportError, AttributeError):
    # It reports its use to its makers unless an environment variable says otherwise.
    usage = import_module("ray._common.usage.usage_lib")
    usage.set_usage_stats_enabled_via_env_var(False)

ray: Any = _ray
serve: Any = _serve

__all__ = ["ray", "serve"]
