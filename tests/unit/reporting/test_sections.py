"""Every verb's report shows its own charts, and no row of them has a hole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.reporting.report_samples import samples

from tailrank.reporting.report_data import ReportData
from tailrank.reporting.sections import sections, tables

CHARTS = {
    "demo": [
        "latency-cdf",
        "capacity-by-batch",
        "query-time",
        "promises",
        "busy-batches",
        "learning-curve",
    ],
    "tune": ["latency-cdf", "capacity-by-batch", "query-time", "promises", "busy-batches"],
    "train": ["reliability", "score-counts", "group-auc", "learning-curve"],
    "evaluate": ["reliability", "score-counts", "group-auc"],
    "export": ["reliability", "score-counts", "group-auc"],
    "profile": ["service-time", "throughput-by-batch"],
    "doctor": ["random-reads", "dense-layers"],
    "compare": [
        "comparison-auc",
        "comparison-grouped-auc",
        "comparison-logloss",
        "learning-curves",
    ],
}


@pytest.mark.parametrize("verb", sorted(CHARTS))
def test_a_verb_shows_its_charts(verb: str) -> None:
    found = sections(*samples()[verb])
    assert [panel.key for section in found for panel in section.panels] == CHARTS[verb]
    assert sum(not section.wide for section in found) % 2 == 0
    assert all(section.heading and section.caption for section in found)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (900, "ended after 900 steps, early, of 1,200 planned; step 600 was chosen"),
        (1200, "ended after 1,200 steps, as planned; step 600 was chosen"),
    ],
)
def test_the_learning_curve_says_how_the_run_ended(taken: int, said: str) -> None:
    result, columns = samples()["train"]
    steps = {"step_chosen": 600, "num_steps": taken, "num_steps_planned": 1200}
    found = sections(replace(result, metrics=result.metrics | steps), columns)
    assert said in next(s.caption for s in found if s.panels[0].key == "learning-curve")


def test_runs_are_tabled_with_the_names_that_people_use() -> None:
    table = tables(samples()["compare"][1])[0]
    assert table.headings == ("run", "AUC", "grouped AUC", "logloss")
    assert table.rows[0] == ["factorization_machine", "0.7900", "0.7200", "0.4600"]


def test_precisions_are_tabled_with_what_they_cost_and_which_was_chosen() -> None:
    table = tables(samples()["export"][1])[0]
    fp32, bf16, int4 = table.rows
    assert fp32[:6] == ("fp32", "4.1 GB", "0.80131", "0.0000%", "417", "306,807")
    assert [row[-1] for row in (fp32, bf16, int4)] == ["", "chosen", "refused"]
    assert int4[3] == "1.2300%"


def test_nothing_to_draw_draws_nothing() -> None:
    result, _ = samples()["train"]
    assert sections(result, ReportData()) == []
    assert tables(ReportData()) == []
