"""Whether a run may be believed, and if not, why, in sentences with figures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tailrank.core.latency import LatencySummary, queries_needed
from tailrank.core.measurement import Validity
from tailrank.core.sla import SLA
from tailrank.runtime.record import RunResult

# A release may be this late at p99: 1 ms is what an idle thread needs to wake on a busy host, a
# tenth of the limit is what a verdict on that limit can bear.
_LATE_NS_MIN = 1_000_000
_LATE_FRACTION = 0.1
_NUM_TREND_BLOCKS = 10
_TREND_Z = 2.326  # one-sided 1 %
_IDLE_FRACTION_MIN = 0.01


def judge(result: RunResult, sla: SLA, num_warmup: int) -> Validity:
    """Collect what speaks against a run.

    Args:
        result: the run.
        sla: the question the run was to answer.
        num_warmup: queries at the start that are left out.
    """
    summary = LatencySummary.of(result.latency_ns[num_warmup:])
    unstable = _unstable(result, num_warmup)
    reasons = [_generator_late(result, sla), unstable]
    if unstable is None:
        # A growing queue correlates everything with everything; "too short" would blame the length.
        reasons.append(_too_short(summary, sla))
    return Validity(tuple(reason for reason in reasons if reason is not None))


def _generator_late(result: RunResult, sla: SLA) -> str | None:
    lateness = result.wake_lateness_ns
    if len(lateness) == 0:
        return None
    late_ns = LatencySummary.of(lateness.astype(np.float64)).percentile(99.0).value
    allowed_ns = max(_LATE_NS_MIN, _LATE_FRACTION * sla.latency_ns)
    if late_ns <= allowed_ns:
        return None
    return (
        f"generator_late: queries were released {late_ns / 1e6:.2f} ms late at p99; "
        f"at most {allowed_ns / 1e6:.2f} ms can be borne"
    )


def _too_short(summary: LatencySummary, sla: SLA) -> str | None:
    needed = queries_needed(sla.percentile)
    if summary.num_queries < needed:
        return (
            f"too_short: {summary.num_queries} queries after the warm-up; "
            f"p{sla.percentile:g} needs {needed}"
        )
    slow, allowed = summary.fraction_above(sla.latency_ns), 1.0 - sla.percentile / 100.0
    bounded = math.isfinite(summary.percentile(sla.percentile).high)
    if slow.low <= allowed < slow.high and not bounded:
        return (
            f"too_short: {summary.num_queries} queries after the warm-up follow each other so "
            f"closely that they do not decide whether {sla} is kept"
        )
    return None


def _unstable(result: RunResult, num_warmup: int) -> str | None:
    """The backlog grew: latency climbed block by block while the workers had no rest.

    Both signs are needed. A queue near its limit climbs by chance, but then it empties now and
    then; workers without rest alone may mean that the queue is bounded and rejects.
    """
    if not result.drained:
        num_open = int((result.queries.done_ns < 0).sum())
        return f"unstable: {num_open} queries had no answer when the run was cut off"
    latency_ns = result.latency_ns[num_warmup:]
    if len(latency_ns) < 2 * _NUM_TREND_BLOCKS:
        return None
    blocks = np.array([np.median(part) for part in np.array_split(latency_ns, _NUM_TREND_BLOCKS)])
    scheduled_ns = result.queries.scheduled_ns
    half_ns, last_ns = int(scheduled_ns[len(scheduled_ns) // 2]), int(scheduled_ns[-1])
    if half_ns == last_ns or _trend_z(blocks) < _TREND_Z:
        return None
    idle_fraction = 1.0 - result.busy_fraction(half_ns, last_ns)
    if idle_fraction >= _IDLE_FRACTION_MIN:
        return None
    return (
        f"unstable: the median latency climbed from {blocks[0] / 1e6:.2f} ms in the first tenth of "
        f"the run to {blocks[-1] / 1e6:.2f} ms in the last, and the workers were idle for only "
        f"{idle_fraction:.1%} of its second half"
    )


def _trend_z(values: NDArray[np.float64]) -> float:
    """How many standard deviations the values climb (Mann 1945, Kendall 1975).

    Only the order of the values counts, so infinite ones are welcome.
    """
    count = len(values)
    later, earlier = values[None, :], values[:, None]
    climbs = (later > earlier).astype(int) - (later < earlier).astype(int)
    score = int(np.triu(climbs, k=1).sum())
    return score / math.sqrt(count * (count - 1) * (2 * count + 5) / 18.0)
