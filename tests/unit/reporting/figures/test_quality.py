"""Charts of quality show what the columns hold: learning, calibration, classes, users."""

from __future__ import annotations

import pytest
from tests.unit.reporting.report_samples import full_columns, samples

from tailrank.reporting import figures


def test_the_learning_curve_leaves_out_steps_that_were_not_evaluated() -> None:
    figure = figures.learning_curve(full_columns().learning_curve, auc_attainable=0.8)
    steps = {trace.name: trace.x for trace in figure.data}
    assert steps == {
        "training logloss": (100, 200),
        "validation logloss": (200,),
        "validation AUC": (200,),
        "attainable AUC": (0, 200),
    }


def test_the_learning_curve_shows_ranking_in_groups_and_marks_the_step_that_was_kept() -> None:
    _, columns = samples()["train"]
    figure = figures.learning_curve(columns.learning_curve, step_chosen=4000)
    series = {trace.name: trace.y for trace in figure.data}
    curve = columns.learning_curve
    assert series["validation grouped AUC"] == tuple(p.validation_grouped_auc for p in curve)
    assert series["validation NDCG@10"] == tuple(p.validation_ndcg_at_10 for p in curve)
    assert series["validation HR@10"] == tuple(p.validation_hit_rate_at_10 for p in curve)
    assert {(line.x0, line.x1) for line in figure.layout.shapes} == {(4000, 4000)}
    assert figure.layout.yaxis2.title.text == "AUC, NDCG@10, HR@10"


def test_calibration_stands_beside_the_line_where_both_agree() -> None:
    _, columns = samples()["evaluate"]
    agreed, band, observed = figures.reliability(columns.reliability).data
    assert agreed.x == agreed.y
    assert len(observed.x) == 10
    assert band.y[: len(observed.y)] == tuple(row.rate_high for row in columns.reliability)
    assert all(
        low <= rate <= high
        for low, rate, high in zip(band.y[::-1], observed.y, band.y, strict=False)
    )


def test_the_shares_of_each_class_add_up_to_one() -> None:
    _, columns = samples()["evaluate"]
    for trace in figures.score_counts(columns.score_counts).data:
        assert sum(trace.y[1:-2]) == pytest.approx(1.0)
        assert len(trace.x) == len(trace.y)
        assert trace.y[0] == trace.y[-1] == 0.0


def test_the_grouped_auc_is_marked_among_the_groups() -> None:
    _, columns = samples()["evaluate"]
    bars, chance, mean = figures.group_auc(columns.group_auc, 0.7402).data
    assert sum(bars.y) == sum(row.num_groups for row in columns.group_auc)
    assert chance.x == (0.5, 0.5)
    assert mean.x == (0.7402, 0.7402)
    assert len(figures.group_auc(columns.group_auc).data) == 2
