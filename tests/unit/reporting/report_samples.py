"""Runs with made-up figures: one that fills most sections, and one of every verb."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Validity
from tailrank.core.sla import SLA
from tailrank.metrics import BinaryMetrics
from tailrank.reporting.host_findings import Finding
from tailrank.reporting.live_rows import BusyBatch, PromiseRow
from tailrank.reporting.quality import quality_columns
from tailrank.reporting.report_data import (
    CapacityPoint,
    ComparedMetric,
    LatencyCurve,
    LearningPoint,
    NamedCurve,
    PolicyRow,
    PrecisionRow,
    QueryTime,
    ReportData,
    RunRow,
    ServiceTime,
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
TYPED = "tailrank demo --out runs/a_folder_with_a_long_name/demo --seed 3"


def full_result() -> Result:
    return Result(
        command="demo",
        command_line=TYPED,
        config={"sla": "p95=10ms"},
        seed=3,
        metrics=METRICS,
        intervals={"tuned.capacity_qps": (1400.0, math.inf)},
    )


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
        promises=[
            PromiseRow(
                policy="static baseline",
                simulated_qps=1010.0,
                simulated_low=1010.0,
                simulated_high=1030.0,
                live_qps=1000.0,
                live_low=1000.0,
            ),
            PromiseRow(
                policy="slack", simulated_qps=1450.0, simulated_low=1450.0, simulated_high=1470.0
            ),
        ],
        busy_batches=[
            BusyBatch(worker=0, start_ms=0.0, end_ms=4.0, num_items=500, num_parts=1),
            BusyBatch(worker=1, start_ms=1.0, end_ms=2.5, num_items=130, num_parts=2),
        ],
        table=[baseline],
    )


@cache
def samples() -> dict[str, tuple[Result, ReportData]]:
    """One run of every verb that writes a report, with awkward names and sizes."""
    return {
        "demo": (full_result(), _served()),
        "tune": (
            replace(
                full_result(),
                command="tune",
                validity=Validity(("generator_late: 4.1 ms at p99; allowed: 1 ms",)),
            ),
            replace(_served(), learning_curve=[]),
        ),
        "train": (_quality_result("train"), replace(_scored(), learning_curve=_curve(0.0))),
        "evaluate": (_quality_result("evaluate"), _scored()),
        "export": (
            replace(
                _quality_result("export"),
                config={"precision": "rows=bf16,dense=fp32", "max_auc_drop": 0.001},
                metrics={
                    "auc_test": 0.8013,
                    "logloss_test": 0.45,
                    "auc_drop_fraction": 1.2e-5,
                    "speedup_over_fp32": 1.3,
                },
                intervals={"speedup_over_fp32": [1.28, 1.31]},
            ),
            replace(_scored(), precisions=_tried()),
        ),
        "profile": (
            Result(
                command="profile",
                config={"target": {"target": "preset:dlrm-rmc1"}},
                metrics={
                    f"profile.service_time_ms_items_{items}": _service_ms(items)
                    for items in (1, 128, 1000)
                },
            ),
            ReportData(service_time=_service_times()),
        ),
        "doctor": _judged(),
        "compare": _compared(),
    }


def _tried() -> list[PrecisionRow]:
    """The precisions of a search."""
    fp32 = PrecisionRow(
        precision="fp32",
        chosen=False,
        table_bytes=4_096_000_000,
        auc=0.80131,
        auc_drop_fraction=0.0,
        passed=True,
        rank_us=417.2,
        items_per_s=306_807.0,
        speedup=1.0,
    )
    bf16 = replace(
        fp32,
        precision="rows=bf16,dense=fp32",
        chosen=True,
        auc=0.8013,
        auc_drop_fraction=1.2e-5,
        speedup=1.3,
    )
    int4 = replace(
        fp32, precision="rows=int4,dense=int8", passed=False, auc_drop_fraction=0.0123, speedup=1.94
    )
    return [fp32, bf16, int4]


def _served() -> ReportData:
    """A tuned operating point with as many rows as a real one."""
    rng = np.random.default_rng(1)
    names = ("static baseline, 1000 queries/s", "tuned, 1438 queries/s")
    tuned = replace(full_columns().table[0], policy="tuned", batch_items=192, ratio=1.44)
    return replace(
        full_columns(),
        latency_cdf=[
            LatencyCurve.of(name, LatencySummary.of(rng.lognormal(15.4, spread, 20_000)))
            for name, spread in zip(names, (0.5, 0.35), strict=True)
        ],
        capacity_by_batch=[
            CapacityPoint(
                policy="static",
                batch_items=batch,
                simulated_qps=1500.0 - abs(batch - 192),
                simulated_low=1450.0 - abs(batch - 192),
                simulated_high=1560.0 - abs(batch - 192),
                live_qps={192: 1438.0, 500: 1000.0}.get(batch),
            )
            for batch in (32, 48, 64, 96, 128, 192, 256, 384, 500, 768, 1000)
        ],
        promises=[
            PromiseRow(
                policy=policy,
                simulated_qps=1.02 * qps,
                simulated_low=1.02 * qps,
                simulated_high=1.04 * qps,
                live_qps=qps,
                live_low=qps,
                live_high=1.02 * qps,
            )
            for policy, qps in (
                ("static baseline", 1000.0),
                ("DeepRecSched", 1288.0),
                ("best static", 1310.0),
                ("slack", 1438.0),
            )
        ],
        busy_batches=[
            BusyBatch(
                worker=worker,
                start_ms=1.01 * at,
                end_ms=1.01 * at + 0.9,
                num_items=int(items),
                num_parts=1 + (at % 5 == 0),
            )
            for worker in (0, 1)
            for at, items in enumerate(rng.integers(20, 192, 99))
        ],
        query_time=[
            QueryTime(size_low=low, size_high=high, queueing_ms=1.3, service_ms=high / 120)
            for low, high in ((1, 64), (65, 128), (129, 192), (193, 256), (257, 512), (513, 1000))
        ],
        learning_curve=_curve(0.0),
        table=[full_columns().table[0], tuned],
    )


def _curve(shift: float) -> list[LearningPoint]:
    return [
        LearningPoint(
            step=step,
            train_logloss=0.46 + 0.2 / step**0.3,
            validation_auc=0.78 + shift - 0.2 / step**0.4,
            validation_logloss=0.47 - shift + 0.2 / step**0.3,
            validation_grouped_auc=0.76 + shift - 0.2 / step**0.4,
            validation_ndcg_at_10=0.87 + shift - 0.1 / step**0.4,
            validation_hit_rate_at_10=0.7 + shift - 0.1 / step**0.4,
        )
        for step in range(200, 6001, 200)
    ]


def _scored() -> ReportData:
    """Columns of made-up scores of 300 users."""
    rng = np.random.default_rng(2)
    users = rng.integers(0, 300, 12_000)
    logits = rng.normal(-1.2, 1.0, len(users))
    scored = BinaryMetrics()
    scores = 1 / (1 + np.exp(-logits))
    labels = rng.random(len(users)) < 1 / (1 + np.exp(-0.9 * logits - 0.1))
    scored.update(scores, labels, users)
    return quality_columns({"label": scored})


def _quality_result(command: str) -> Result:
    return Result(
        command=command,
        command_line=f"tailrank {command} dlrm --data movielens:../data/ml-1m --out runs/ml",
        config={"data": "movielens:../data/ml-1m", "recipe": {"training": {"lr": 0.01}}},
        seed=3,
        metrics={
            "num_rows_test": 12_000,
            "auc_test": 0.80123,
            "grouped_auc_test": 0.7402,
            "ndcg_at_10_test": 0.6631,
            "logloss_test": 0.4502,
            "calibration_test": 1.0123,
        },
    )


def _service_ms(items: int, busy: int = 1) -> float:
    return (0.05 + items * 0.0023) * (1 + 0.15 * (busy - 1))


def _service_times() -> list[ServiceTime]:
    return [
        ServiceTime(
            num_items=items,
            busy_workers=busy,
            median_ms=_service_ms(items, busy),
            low_ms=0.9 * _service_ms(items, busy),
            high_ms=1.3 * _service_ms(items, busy),
        )
        for busy in (1, 2, 4)
        for items in (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000)
    ]


def _judged() -> tuple[Result, ReportData]:
    metrics = {
        "gather_ns_per_row_huge_pages": 9.8,
        "gather_ns_per_row_small_pages": 21.4,
        "linear_fp32_gflops": 61.0,
        "linear_fp32_packed_gflops": 118.0,
        "linear_bf16_packed_gflops": 410.0,
        "stolen_fraction": 0.021,
        "num_findings": 2.0,
    }
    findings = [
        Finding(
            subject="huge pages",
            figure="mode madvise; 12% of 64 MiB obtained; random 128-byte row 9.8 ns",
            fix="memory is fragmented: echo 1 | sudo tee /proc/sys/vm/compact_memory",
        ),
        Finding(subject="C++ compiler", figure="/usr/lib/a/very/long/path/of/a/toolchain/bin/c++"),
        Finding(subject="stolen time", figure="2.1% of CPU time", fix="measure elsewhere"),
    ]
    return Result(command="doctor", config={}, metrics=metrics), ReportData(findings=findings)


def _compared() -> tuple[Result, ReportData]:
    runs = ("factorization_machine", "dlrm", "matrix_factorization-with-a-long-name")
    columns = ReportData(
        runs=[
            RunRow(run=run, metrics={"auc": 0.79 + 0.01 * i, "grouped_auc": 0.72, "logloss": 0.46})
            for i, run in enumerate(runs)
        ],
        comparison=[
            ComparedMetric(
                run=run, metric=metric, value=value, low=value - 0.003, high=value + 0.003
            )
            for run, sign in zip(runs[1:], (1, -1), strict=True)
            for metric, value in (
                ("auc", sign * 0.0123),
                ("grouped_auc", sign * 0.002),
                ("logloss", -sign * 0.004),
            )
        ],
        learning_curves=[
            NamedCurve(name=run, points=_curve(0.01 * i)) for i, run in enumerate(runs)
        ],
    )
    line = "tailrank compare " + " ".join(f"runs/{run}" for run in runs)
    return Result(command="compare", command_line=line, config={}, metrics={}), columns
