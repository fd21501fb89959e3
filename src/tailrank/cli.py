"""The `tailrank` command: collects the verbs and turns outcomes into exit codes.

Verbs are imported when they are called, and import torch in their bodies, so that `--help` is
instant. This module must not know what any verb does.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cyclopts import App, CycloptsError, Parameter

from tailrank import __version__
from tailrank.core.errors import ConfigError, TailrankError
from tailrank.core.exit_codes import ExitCode

# In the order of a first walk through the package, which is also the order of `--help`.
VERBS = (
    "demo",
    "schema",
    "train",
    "evaluate",
    "compare",
    "export",
    "profile",
    "tune",
    "colocate",
    "simulate",
    "serve",
    "loadtest",
    "mlperf",
    "report",
    "doctor",
)


def build_app() -> App:
    """The command line: one verb per file of `tailrank.commands`, loaded on first use."""
    app = App(
        name="tailrank",
        help="Train, tune and serve deep recommendation ranking models inside a tail-latency SLA.",
        help_epilogue=(
            "Exit codes: 0 done, 2 wrong input, 3 the SLA or quality bound was missed, "
            "4 the measurement is invalid, 130 interrupted."
        ),
        version=__version__,
        # A flag that is off by default needs no second name that leaves it off.
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for position, verb in enumerate(VERBS):
        app.command(f"tailrank.commands.{verb}:{verb}", name=verb, sort_key=position)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 2, 3, 4 or 130.

    Args:
        arguments: the words after `tailrank`; None takes them from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    app = build_app()
    try:
        if not words or words[0] in app.help_flags:
            for verb in VERBS:
                app[verb]  # the overview shows the first line of each, so they have to be there
        code = app(words, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        known = words and words[0] in VERBS
        hint = f"tailrank {words[0]} --help" if known else "tailrank --help"
        return _fail(f"{error} See {hint}.")
    except ConfigError as error:
        flag = _flag_of(error.field, words[0])
        return _fail(str(error if flag is None else ConfigError(flag, error.value, error.allowed)))
    except (TailrankError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _leave_quietly()
        return _fail(str(error))
    except KeyboardInterrupt:
        print("tailrank: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if code is None else int(code)


def _flag_of(field: str, verb: str) -> str | None:
    """The flag that a setting was typed as, where it has one: who typed it knows no fields."""
    code = import_module(f"tailrank.commands.{verb}")
    flags = inspect.signature(getattr(code, verb)).parameters
    # A flag has no unit, for what is typed has one; and one seed is for all that is drawn.
    names = [field.removesuffix(end) for end in ("", "_max", "_max_ns", "_items")]
    for name in (*names, "seed") if field.endswith("_seed") else names:
        flag = flags.get(name)
        if flag is not None and flag.kind is flag.KEYWORD_ONLY:
            return f"--{flag.name.replace('_', '-')}"
    return None


def _fail(message: str) -> int:
    """Say in one line what was wrong."""
    print("tailrank: error:", " ".join(message.split()), file=sys.stderr)
    return ExitCode.USER_ERROR


def _leave_quietly() -> int:
    """The reader of our output (`| head`) has gone: that is no error of ours."""
    # Python flushes stdout once more at exit, which would print a second complaint.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.DONE
