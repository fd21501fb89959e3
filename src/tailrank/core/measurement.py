"""What one run at one offered load has shown, the same for simulation and for serving."""

from __future__ import annotations

from dataclasses import dataclass

from tailrank.core.latency import LatencySummary


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether a run may be believed.

    Args:
        reasons: why not, each `code: sentence`, with code one of `generator_late`, `client_busy`,
            `too_short`, `unstable`; empty means valid.
    """

    reasons: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """True when nothing speaks against the run."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run at one offered load.

    Args:
        offered_qps: queries per second that the schedule asked for.
        achieved_qps: queries answered per second, from first scheduled arrival to last answer.
        achieved_items_per_s: items of answered queries over the same time.
        num_rejected: queries the scheduler turned away.
        num_failed: queries lost to a failing batch.
        summary: latencies, unanswered queries included as infinite.
        validity: whether to believe it.
        queries_per_joule: queries answered per joule of all that computed, over the whole run; None
            where nothing was metered, as in a simulation.
    """

    offered_qps: float
    achieved_qps: float
    achieved_items_per_s: float
    num_rejected: int
    num_failed: int
    summary: LatencySummary
    validity: Validity
    queries_per_joule: float | None = None
