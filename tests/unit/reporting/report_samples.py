"""A run with made-up figures that fills every section of a report."""

from __future__ import annotations

import math

import numpy as np

from tailrank.core.latency import LatencySummary
from tailrank.core.sla import SLA
from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    LearningPoint,
    PolicyRow,
    QueryTime,
    ReportData,
    SLALimit,
)
from tailrank.reporting.result import Result

METRICS = {
    "auc_test": 0.7702,
    "auc_attainable": 0.7811,
    "logloss_test": 0.4791,
    "train_samples_per_s": 151_234.0,
    "baseline.capacity_qps": 1000.0,
    "tuned.capacity_qps": 1438.0,
    "tuned.capacity_items_per_s": 343_700.0,
    "tuned.latency_ms_p95": 9.64,
}


def full_result() -> Result:
    return Result(command="demo", config={"sla": "p95=10ms"}, seed=3, metrics=METRICS)


def full_columns() -> ReportData:
    latencies_ns = np.random.default_rng(0).lognormal(15.4, 0.4, 5000)
    latencies_ns[17] = np.inf
    baseline = PolicyRow(
        policy="static baseline",
        batch_items=500,
        capacity_qps=1000.0,
        capacity_items_per_s=239_000.0,
        latency_ms_p95=9.71,
        latency_ms_p99=14.8,
        latency_ms_max=math.inf,
    )
    return ReportData(
        sla=SLALimit.of(SLA.parse("p95=10ms")),
        latency_cdf=[LatencyCurve.of("tuned", LatencySummary.of(latencies_ns))],
        capacity_by_batch=[
            CapacityPoint(
                policy="static",
                batch_items=batch,
                simulated_qps=1000.0 + batch,
                simulated_low=900.0,
                simulated_high=high,
                live_qps=live,
            )
            for batch, high, live in ((256, math.inf, None), (64, 1100.0, 1050.0))
        ],
        learning_curve=[
            LearningPoint(step=100, train_logloss=0.6),
            LearningPoint(
                step=200, train_logloss=0.5, validation_auc=0.75, validation_logloss=0.52
            ),
        ],
        query_time=[QueryTime(size_low=1, size_high=99, queueing_ms=1.0, service_ms=0.5)],
        table=[baseline],
    )
