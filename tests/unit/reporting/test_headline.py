"""The headline says what was found, in the order of what matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.reporting.report_samples import METRICS, full_columns, full_result, samples

from tailrank.reporting.headline import headline
from tailrank.reporting.report_data import ReportData
from tailrank.reporting.result import Result


def test_a_tuned_run_leads_with_capacity() -> None:
    said = headline(full_result(), full_columns())
    assert said.sentence.replace("\N{NO-BREAK SPACE}", " ") == (
        "This host ranks 1,438 queries/s (343,700 items/s) and keeps p95 ≤ 10 ms: "
        "1.44x the static baseline."
    )
    assert [(figure.value, figure.unit) for figure in said.figures] == [
        ("1,438", "queries/s"),
        ("9.64", "ms"),
        ("1.44", "x"),
    ]


def test_an_sla_that_nothing_meets_is_said_plainly() -> None:
    live = replace(full_result(), metrics=METRICS | {"tuned.capacity_qps": 0.0})
    simulated = replace(full_result(), metrics={"tuned.simulated_capacity_qps": 0.0}, intervals={})
    for missed in (live, simulated):
        assert "No policy keeps" in headline(missed, full_columns()).sentence


def test_a_simulated_capacity_is_not_passed_off_as_measured() -> None:
    simulated = replace(
        full_result(), metrics={"tuned.simulated_capacity_qps": 1460.0}, intervals={}
    )
    assert headline(simulated, full_columns()).sentence.endswith("not measured live.")


def test_a_training_run_leads_with_quality() -> None:
    trained = Result(command="train", config={}, metrics={"auc_test": 0.7, "logloss_test": 0.5})
    said = headline(trained, ReportData())
    assert said.sentence == "The model reaches AUC 0.7000 on the test part."
    assert [figure.unit for figure in said.figures] == ["AUC", "logloss"]


def test_ranking_inside_a_users_rows_goes_before_logloss() -> None:
    said = headline(*samples()["evaluate"])
    assert [(figure.value, figure.unit) for figure in said.figures] == [
        ("0.8012", "AUC"),
        ("0.7402", "AUC"),
        ("0.6631", "NDCG@10"),
    ]


def test_a_ranking_that_cannot_fail_is_no_headline() -> None:
    metrics = {"auc_test": 0.7, "ndcg_at_10_test": 1.0, "hit_rate_at_10_test": 1.0}
    judged = Result(command="evaluate", config={}, metrics=metrics | {"logloss_test": 0.5})
    said = headline(judged, ReportData())
    assert [figure.unit for figure in said.figures] == ["AUC", "logloss"]


def test_another_part_than_the_test_is_named() -> None:
    judged = Result(command="evaluate", config={}, metrics={"auc_validation": 0.7})
    assert "0.7000 on the validation part" in headline(judged, ReportData()).sentence


def test_an_export_says_what_the_precision_costs() -> None:
    said = headline(*samples()["export"])
    assert said.sentence == (
        "In rows=bf16,dense=fp32 the model keeps its quality: a drop of 0.0012% of the AUC, where "
        "0.1000% is allowed."
    )
    assert [figure.value for figure in said.figures] == ["0.8013", "1.30", "0.0012%"]
    assert said.figures[1].interval == "1.28 to 1.31"
    refused = replace(
        samples()["export"][0],
        metrics={"auc_test": 0.6, "auc_drop_fraction": 0.2},
        intervals={},
    )
    assert "loses too much" in headline(refused, ReportData()).sentence
    better = replace(refused, metrics={"auc_test": 0.6, "auc_drop_fraction": -0.001})
    assert "no drop" in headline(better, ReportData()).sentence


def test_a_profile_says_how_long_a_batch_takes() -> None:
    said = headline(*samples()["profile"])
    assert said.sentence == "One core ranks a batch of 128 items in 0.344 ms: 371,661 items/s."
    assert [figure.value for figure in said.figures] == ["0.0523", "0.344", "2.35"]


def test_a_host_is_judged_by_what_costs_speed() -> None:
    result, columns = samples()["doctor"]
    assert headline(result, columns).sentence == (
        "2 things cost speed on this host: huge pages, stolen time."
    )
    well = replace(columns, findings=[replace(f, fix=None) for f in columns.findings])
    assert headline(result, well).sentence == "Nothing found on this host costs speed."
    ill = replace(columns, findings=[replace(f, fix="mend it") for f in columns.findings * 2])
    assert "6 things" in headline(result, ill).sentence
    assert headline(result, ill).sentence.endswith(" and 3 more.")


@pytest.mark.parametrize(
    ("value", "metric", "words"),
    [
        (0.0123, "auc", "dlrm ranks better than factorization_machine: AUC +0.0123"),
        (-0.0123, "auc", "No run ranks as well as factorization_machine; dlrm comes nearest"),
        (0.001, "auc", "do not differ beyond chance"),
        (-0.02, "logloss", "dlrm ranks better than factorization_machine: logloss -0.0200"),
        (0.02, "logloss", "No run ranks as well as factorization_machine"),
    ],
)
def test_a_comparison_says_which_run_ranks_better(value: float, metric: str, words: str) -> None:
    result, columns = samples()["compare"]
    found = replace(
        columns.comparison[0], metric=metric, value=value, low=value - 0.003, high=value + 0.003
    )
    assert words in headline(result, replace(columns, comparison=[found])).sentence


def test_the_interval_stands_below_its_number() -> None:
    assert headline(full_result(), full_columns()).figures[0].interval == "1,400 to ∞"
    compared = headline(*samples()["compare"])
    assert compared.figures[0].interval == "+0.0093 to +0.0153"
    assert compared.figures[1].unit == "grouped AUC"


def test_a_result_without_known_metrics_still_has_a_headline() -> None:
    said = headline(Result(command="profile", config={}, metrics={}), ReportData())
    assert said.sentence == "Result of tailrank profile."
    assert said.figures == ()
