"""Several runs side by side: differences with their intervals, curves that can be told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.reporting.report_samples import samples

from tailrank.reporting import figures


def test_each_difference_has_its_interval_and_zero_is_in_the_middle() -> None:
    _, columns = samples()["compare"]
    own = [row for row in columns.comparison if row.metric == "auc"]
    figure = figures.forest(own)
    assert [trace.x for trace in figure.data] == [(0.0123,), (-0.0123,)]
    assert figure.data[0].error_x.array[0] == pytest.approx(0.003)
    low, high = figure.layout.xaxis.range
    assert low == -high
    assert high > 0.0153
    assert figure.layout.yaxis.ticktext == ("dlrm", "matrix_fac…long-name")


def test_two_names_that_shorten_alike_keep_their_own_lines() -> None:
    _, columns = samples()["compare"]
    names = ("matrix_factorization-a-long-name", "matrix_factorization-b-long-name")
    own = [replace(columns.comparison[0], run=name) for name in names]
    assert [trace.y for trace in figures.forest(own).data] == [(0,), (1,)]


def test_every_run_has_a_colour_and_a_dash_of_its_own_and_one_legend_entry() -> None:
    _, columns = samples()["compare"]
    traces = figures.learning_curves(columns.learning_curves).data
    looks = {(trace.name, trace.line.color, trace.line.dash) for trace in traces}
    assert len(looks) == 3
    assert sum(trace.showlegend for trace in traces) == 3
