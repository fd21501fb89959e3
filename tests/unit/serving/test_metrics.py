"""Metrics are what was done, in Prometheus' own format."""

from prometheus_client.parser import text_string_to_metric_families
from tests.unit.serving.served import PlainRanker, engine_of, served

from tailrank.serving.metrics import EngineMetrics


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
