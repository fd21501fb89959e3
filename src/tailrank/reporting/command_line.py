"""A verb's call as the command line that repeats it. Knows no verb."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping

# These change what is shown, and nothing of what is found.
_NOT_OF_THE_RESULT = ("json", "quiet", "overwrite", "resume")


def command_line(verb: Callable[..., object], given: Mapping[str, object]) -> str:
    """The words that call `verb` with these values.

    What has its default is left out, as are flags that change only what is shown.

    Args:
        verb: function of a verb: words first, then flags.
        given: its arguments by name, such as `locals()` on its first line.
    """
    words = ["tailrank", verb.__name__]
    flags: list[str] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        value = given.get(name, parameter.default)
        if name in _NOT_OF_THE_RESULT or value == parameter.default:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            words += [str(word) for word in value]  # type: ignore[attr-defined]
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            words.append(str(value))
        elif isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            repeated = value if isinstance(value, list) else [value]
            flags += [w for each in repeated for w in (f"--{name.replace('_', '-')}", str(each))]
    return shlex.join(words + flags)
