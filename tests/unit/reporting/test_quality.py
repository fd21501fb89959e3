"""Columns of quality against a slow statement of each."""

from __future__ import annotations

import numpy as np
import pytest

from tailrank.metrics import BinaryMetrics
from tailrank.reporting.quality import (
    certain_metrics,
    group_auc,
    quality_columns,
    reliability,
    score_counts,
)

SCORES = np.random.default_rng(0).random(1003)
LABELS = np.random.default_rng(1).random(1003) < SCORES


def test_bins_hold_equally_many_rows_of_neighbouring_scores() -> None:
    bins = reliability(SCORES, LABELS)
    assert sum(row.num_rows for row in bins) == 1003
    assert {row.num_rows for row in bins} == {100, 101}
    lowest = np.argsort(SCORES)[: bins[0].num_rows]
    assert bins[0].score == pytest.approx(SCORES[lowest].mean())
    assert bins[0].rate == pytest.approx(LABELS[lowest].mean())
    assert [row.score for row in bins] == sorted(row.score for row in bins)


def test_the_interval_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 1998, table I: 81 of 263 and 0 of 20.
    labels = np.arange(263) < 81
    row = reliability(np.full(263, 0.3), labels, num_bins=1)[0]
    assert (row.rate_low, row.rate_high) == (
        pytest.approx(0.2553, abs=5e-5),
        pytest.approx(0.3662, abs=5e-5),
    )
    none = reliability(np.full(20, 0.1), np.zeros(20, dtype=bool), num_bins=1)[0]
    assert none.rate_low == 0.0
    assert none.rate_high == pytest.approx(0.1611, abs=5e-5)


def test_fewer_rows_than_bins() -> None:
    assert len(reliability(SCORES[:3], LABELS[:3])) == 3


def test_score_counts_are_shares_of_each_class() -> None:
    bins = score_counts(SCORES, LABELS)
    assert sum(row.positive_fraction for row in bins) == pytest.approx(1.0)
    low, high = bins[3].low, bins[3].high
    inside = LABELS & (np.digitize(SCORES, [low, high]) == 1)
    assert bins[3].positive_fraction == pytest.approx(inside.sum() / LABELS.sum())


@pytest.mark.parametrize("spread", [0.0, 1e-17, 3e-17, 2e-15])
def test_one_class_or_one_score_can_be_drawn_too(spread: float) -> None:
    bins = score_counts(0.2 + spread * np.arange(5), np.zeros(5, dtype=bool))
    assert sum(row.negative_fraction for row in bins) == pytest.approx(1.0)
    assert all(row.positive_fraction == 0.0 for row in bins)


def test_groups_of_one_class_have_no_auc_and_are_left_out() -> None:
    bins = group_auc(np.array([np.nan, 1.0, 0.52, 0.54]))
    assert sum(row.num_groups for row in bins) == 3
    assert bins[-1].num_groups == 1
    assert next(row for row in bins if row.low <= 0.52 < row.high).num_groups == 2
    assert group_auc(np.array([np.nan])) == []


def test_rows_without_groups_have_no_column_of_groups() -> None:
    scored = BinaryMetrics()
    scored.update(SCORES, LABELS)
    columns = quality_columns({"label": scored})
    assert columns.group_auc == []
    assert columns.reliability
    grouped = BinaryMetrics()
    grouped.update(SCORES, LABELS, np.arange(1003) % 7)
    assert sum(row.num_groups for row in quality_columns({"label": grouped}).group_auc) == 7


def grouped(labels: list[int], groups: list[int]) -> BinaryMetrics:
    scored = BinaryMetrics()
    scored.update(np.linspace(0.1, 0.9, len(labels)), labels, groups)
    return scored


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([1, 0, 1], [0, 1, 2]),  # one candidate each
        ([1, 1, 1, 1], [0, 0, 1, 1]),
        ([1, 1, 0, 0], [0, 0, 1, 1]),  # nobody has both
    ],
)
def test_rankings_that_cannot_fail_are_said_to_be_one_whatever_the_scores(labels, groups) -> None:
    scored = grouped(labels, groups)
    assert scored.compute().ndcg_at_10 == pytest.approx(1.0)
    assert scored.compute().hit_rate_at_10 == 1.0
    (line,) = certain_metrics({"label": scored})
    assert line == (
        "NDCG@10 and HR@10 are 1 whatever the scores: no user or query with a positive row has a "
        "negative one"
    )
    lines = certain_metrics({"a": scored, "b": scored})
    assert lines[1].startswith("NDCG@10 and HR@10 of b are 1 whatever")


@pytest.mark.parametrize(("num_negatives", "said"), [(9, 1), (10, 0)])
def test_a_hit_among_ten_is_certain_with_fewer_than_ten_negatives(num_negatives, said) -> None:
    scored = grouped([1] + num_negatives * [0] + 12 * [0], (1 + num_negatives) * [4] + 12 * [7])
    found = certain_metrics({"label": scored})
    assert len(found) == said
    assert (scored.compute().hit_rate_at_10 == 1.0) == bool(said)  # the positive is the worst
    if said:
        assert found == [
            "HR@10 is 1 whatever the scores: no user or query with a positive row has ten negative "
            "ones"
        ]


def test_without_groups_or_without_a_positive_row_nothing_is_certain() -> None:
    scored = BinaryMetrics()
    scored.update(SCORES, LABELS)
    assert certain_metrics({"label": scored, "none": BinaryMetrics()}) == []
    assert certain_metrics({"label": grouped([0, 0], [0, 1])}) == []
