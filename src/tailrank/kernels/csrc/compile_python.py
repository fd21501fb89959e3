"""Compiles the loop and the policies with mypyc: the same Python, in a third to half of its time.

They run at every event, of which a simulated search takes millions. Their source stays what people
read, edit and debug: `make setup` installs it as it is, only wheels hold it compiled as well.

    python compile_python.py SOURCE_ROOT OUTPUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

# What a step of the loop runs through. Modules that import scipy or start threads gain nothing.
MODULES = (
    "core/clock.py",
    "core/fleet.py",
    "core/query.py",
    "core/service_time.py",
    "runtime/events.py",
    "runtime/loop.py",
    "runtime/record.py",
    "runtime/virtual.py",
    "scheduling/coalescing.py",
    "scheduling/part_queue.py",
    "scheduling/prediction.py",
    "scheduling/slack.py",
    "scheduling/static.py",
    "scheduling/waiting.py",
)
# The other modules' types and those of dependencies need not be known: what has none is an object.
MYPY_CONFIG = "[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n"


def main() -> None:
    """Leave the extension modules in OUTPUT, as they lie in a wheel."""
    source, output = (Path(each).resolve() for each in sys.argv[1:])
    temporary = output.with_name(output.name + "-objects")
    temporary.mkdir(parents=True, exist_ok=True)
    config = temporary / "mypy.ini"
    config.write_text(MYPY_CONFIG)
    os.chdir(source)  # names of modules come from their paths
    options = [f"--config-file={config}", f"--cache-dir={temporary}"]
    extensions = mypycify(
        [*options, *(f"tailrank/{module}" for module in MODULES)],
        opt_level="3",
        debug_level="0",
        target_dir=str(temporary),
    )
    command = build_ext(Distribution({"name": "tailrank", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(output), str(temporary)
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    main()
