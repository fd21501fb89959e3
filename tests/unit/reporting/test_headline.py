"""The headline says what was found, in the order of what matters."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.reporting.report_samples import METRICS, full_columns, full_result

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
    simulated = replace(full_result(), metrics={"tuned.simulated_capacity_qps": 0.0})
    for missed in (live, simulated):
        assert "No batch size keeps" in headline(missed, full_columns()).sentence


def test_a_simulated_capacity_is_not_passed_off_as_measured() -> None:
    simulated = replace(full_result(), metrics={"tuned.simulated_capacity_qps": 1460.0})
    assert headline(simulated, full_columns()).sentence.endswith("not measured live.")


def test_a_training_run_leads_with_quality() -> None:
    trained = Result(command="train", config={}, metrics={"auc_test": 0.7, "logloss_test": 0.5})
    said = headline(trained, ReportData())
    assert said.sentence == "The model reaches AUC 0.7000 on the test part."
    assert [figure.unit for figure in said.figures] == ["AUC", "logloss"]


def test_a_result_without_known_metrics_still_has_a_headline() -> None:
    said = headline(Result(command="profile", config={}, metrics={}), ReportData())
    assert said.sentence == "Result of tailrank profile."
    assert said.figures == ()
