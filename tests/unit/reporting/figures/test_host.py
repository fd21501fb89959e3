"""The chart of a host shows what was measured and leaves out what does not run there."""

from __future__ import annotations

from tests.unit.reporting.report_samples import samples

from tailrank.reporting import figures


def test_what_was_not_measured_has_no_bar() -> None:
    metrics = dict(samples()["doctor"][0].metrics)
    assert figures.random_reads(metrics).data[0].x == (9.8, 21.4)
    assert figures.dense_layers(metrics).data[0].x == (61.0, 118.0, 410.0)
    del metrics["linear_bf16_packed_gflops"]
    assert figures.dense_layers(metrics).data[0].y == ("nn.Linear, fp32", "packed, fp32")
