"""From a run to a `Measurement`: the warm-up left out, the validity judged."""

from __future__ import annotations

import numpy as np

from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement
from tailrank.core.sla import SLA
from tailrank.runtime.record import QueryOutcome, RunResult
from tailrank.runtime.validity import judge

WARMUP_FRACTION = 0.1


def to_measurement(
    result: RunResult,
    *,
    offered_qps: float,
    sla: SLA,
    warmup_fraction: float = WARMUP_FRACTION,
) -> Measurement:
    """Sum up a run.

    Args:
        result: the run.
        offered_qps: queries per second of its schedule.
        sla: what the run is to decide; its validity depends on it.
        warmup_fraction: share of the queries, the first to arrive, that is left out, in [0, 1).

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0.0 <= warmup_fraction < 1.0:
        raise ConfigError("warmup_fraction", warmup_fraction, "a number from 0 and below 1")
    num_warmup = int(warmup_fraction * len(result.queries.scheduled_ns))
    outcome = result.queries.outcome[num_warmup:]
    answered = outcome == QueryOutcome.ANSWERED
    elapsed_s = 0.0
    if answered.any():
        last_ns = int(result.queries.done_ns[num_warmup:][answered].max())
        elapsed_s = (last_ns - int(result.queries.scheduled_ns[num_warmup])) / 1e9
    items = int(result.queries.num_items[num_warmup:][answered].sum())
    return Measurement(
        offered_qps=offered_qps,
        achieved_qps=int(answered.sum()) / elapsed_s if elapsed_s else 0.0,
        achieved_items_per_s=items / elapsed_s if elapsed_s else 0.0,
        num_rejected=int(np.sum(outcome == QueryOutcome.REJECTED)),
        num_failed=int(np.sum(outcome == QueryOutcome.FAILED)),
        summary=LatencySummary.of(result.latency_ns[num_warmup:]),
        validity=judge(result, sla, num_warmup),
    )
