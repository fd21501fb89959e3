"""The dashboard asks for metrics that a server has, and for all of them, on a screen that fits."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serving.test_stages import MovieRanker, candidates, light, started

from tailrank.serving.metrics import EngineMetrics
from tailrank.serving.stages import Filter

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "docs/grafana/tailrank.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@pytest.fixture(scope="module")
def metrics() -> dict[str, dict[str, set[str]]]:
    """Samples of a server by family: the names of their labels."""
    with started(Filter(model=light(MovieRanker()), keep=5)) as engine:
        engine.rank(candidates(range(20))).result(30)
        families = list(EngineMetrics(engine).collect())
    found: dict[str, dict[str, set[str]]] = {}
    for family in families:
        of = found.setdefault(family.name, {})
        for sample in family.samples:
            of.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_it_asks_for_exists_with_its_labels(metrics) -> None:
    samples = {name: labels for family in metrics.values() for name, labels in family.items()}
    for expression in EXPRESSIONS:
        asked = re.findall(r"tailrank_\w+", expression)
        assert asked, expression
        assert set(asked) <= set(samples), expression
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            # The server that scrapes adds these two.
            known = {"job", "instance"}.union(*(samples[name] for name in asked))
            assert set(labels.split(", ")) <= known, expression
    for variable in ("job", "instance"):
        name = re.findall(r"tailrank_\w+", VARIABLES[variable]["definition"])
        assert set(name) <= set(samples)


def test_every_metric_is_shown(metrics) -> None:
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"tailrank_\w+", expression)}
    unseen = {family for family, samples in metrics.items() if not asked & set(samples)}
    assert unseen == set()


def test_expressions_are_whole_and_of_the_chosen_servers() -> None:
    for expression in EXPRESSIONS:
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression
        selected = re.findall(r'tailrank_\w+(\{job=~"\$job",instance=~"\$instance"\})?', expression)
        assert all(selected), expression
        assert set(re.findall(r"\$(\w+)", expression)) <= {*VARIABLES, "__rate_interval"}
        # What only grows is looked at by its rate.
        for name in re.findall(r"(tailrank_\w+_(?:total|sum|count|bucket))\b", expression):
            assert re.search(rf"(rate|increase)\({name}\{{", expression), expression


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["w"] > 0
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            targets = panel["targets"]
            assert len({target["refId"] for target in targets}) == len(targets) > 0
            for asks in (panel, *targets):
                assert asks["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_it_can_be_imported_anywhere() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    # A number is given by the Grafana that imports it.
    assert "id" not in DASHBOARD
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert {panel["type"] for panel in PANELS} <= {"row", "stat", "timeseries", "heatmap", "table"}
