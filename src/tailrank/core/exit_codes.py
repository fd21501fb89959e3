"""What the shell is told when a verb ends. Knows no verb."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Outcomes that a script can tell apart."""

    DONE = 0
    USER_ERROR = 2
    """Wrong input."""
    BOUND_MISSED = 3
    """The asked-for bound, an SLA or a quality gate, was missed: a result, not an error."""
    INVALID_MEASUREMENT = 4
    """Something was measured that must not be believed."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells have it."""
