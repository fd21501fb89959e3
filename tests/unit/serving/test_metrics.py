"""Metrics are what was done, in Prometheus' own format."""

import mmap
import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.serving.served import PlainRanker, engine_of, served
from tests.unit.serving.test_stages import candidates, light, started

from tailrank.features import FeatureBatch
from tailrank.serving.metrics import EngineMetrics
from tailrank.serving.stages import Filter


def samples(metrics: EngineMetrics) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            label = "".join(f"{{{value}}}" for value in list(sample.labels.values())[:1])
            found[sample.name + label] = sample.value
    return found


def test_what_was_served_is_counted() -> None:
    model = served(PlainRanker())
    engine = engine_of(model)
    engine.start()
    metrics = EngineMetrics(engine)
    assert samples(metrics)["tailrank_ready"] == 1.0
    for num_items in (3, 20, 40):
        engine.submit(model.random_query(num_items, 0)).result(30)
    engine.stats.shed["too_late"] += 2
    engine.drain()
    found = samples(metrics)
    assert found["tailrank_queries_total"] == 3.0
    assert found["tailrank_items_total"] == 63.0
    assert found["tailrank_batches_total"] == 1 + 2 + 3
    assert found["tailrank_splits_total"] == 2.0
    assert found["tailrank_shed_total{too_late}"] == 2.0
    assert found["tailrank_slo_violations_total"] == 0.0
    assert found["tailrank_embedding_bytes"] == 4096.0
    assert found["tailrank_ready"] == found["tailrank_queue_depth"] == 0.0
    for name in ("queue", "compute", "total"):
        histogram = f"tailrank_query_{name}_seconds"
        assert found[f"{histogram}_count"] == found[f"{histogram}_bucket{{+Inf}}"] == 3.0
    assert found["tailrank_query_total_seconds_sum"] > 0.0
    assert any(name.startswith("tailrank_build_info") for name in found)
    assert found["tailrank_batch_items_sum"] == 63.0
    assert [found[f"tailrank_batch_items_bucket{{{n}.0}}"] for n in (2, 4, 8, 16)] == [0, 1, 1, 6]
    assert found["tailrank_worker_busy_seconds_total"] > 0.0
    # Known from the start, so that the first one is a change.
    assert found["tailrank_shed_total{lost}"] == found["tailrank_worker_deaths_total"] == 0.0


def test_each_stage_has_its_times() -> None:
    with started(Filter(model=light(), keep=5)) as engine:
        for _ in range(3):
            engine.rank(candidates(range(40))).result(30)
    found = samples(EngineMetrics(engine))
    assert found["tailrank_items_total"] == 120.0
    assert found["tailrank_stage_items_total{light}"] == 120.0
    assert found["tailrank_stage_items_total{heavy}"] == 15.0
    assert found["tailrank_embedding_bytes"] == 2 * 4096.0
    for stage in ("light", "heavy"):
        for part in ("queue", "compute", "total"):
            assert found[f"tailrank_stage_{part}_seconds_count{{{stage}}}"] == 3.0
    computed = [found[f"tailrank_stage_compute_seconds_sum{{{s}}}"] for s in ("light", "heavy")]
    in_all = found["tailrank_query_compute_seconds_sum"]
    assert sum(computed) == pytest.approx(in_all, rel=1e-12)  # seconds are rounded


def test_dead_and_new_worker_processes_are_counted() -> None:
    ranker, has_died = PlainRanker(), mmap.mmap(-1, 1)

    def die_once(batch: FeatureBatch) -> None:
        if not has_died[0]:
            has_died[0] = 1
            os.kill(os.getpid(), signal.SIGKILL)

    engine = engine_of(served(ranker), executor="processes")
    ranker.fails = die_once
    engine.start()
    try:
        engine.submit(engine.model.random_query(3, 0)).result(30)
        found = samples(EngineMetrics(engine))
        other = engine.lineup.with_models([served(PlainRanker())])
        engine.serve_with(other.place(engine.config, "processes")).close()
        later = samples(EngineMetrics(engine))
    finally:
        engine.drain()
    for then in (found, later):
        assert then["tailrank_worker_deaths_total"] == 1.0
        assert then["tailrank_worker_restarts_total"] == 1.0
