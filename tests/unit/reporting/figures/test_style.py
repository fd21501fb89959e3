"""The style that all charts share: labelled axes with units, ticks that people count in."""

from __future__ import annotations

import pytest
from tests.unit.reporting.report_samples import samples

from tailrank.reporting.figures.style import color, dash, marker, one_two_five, translucent
from tailrank.reporting.sections import sections

PANELS = [
    pytest.param(panel.figure, id=f"{verb}-{panel.key}")
    for verb, (result, columns) in samples().items()
    for section in sections(result, columns)
    for panel in section.panels
]


@pytest.mark.parametrize("figure", PANELS)
def test_every_axis_says_what_it_shows_or_names_what_stands_on_it(figure) -> None:
    axes = [axis for axis in figure.layout if axis.startswith(("xaxis", "yaxis"))]
    assert len(axes) >= 2
    for name in axes:
        axis = figure.layout[name]
        own = [
            t for t in figure.data if (t[name[0] + "axis"] or name[0]) == name.replace("axis", "")
        ]
        # Of two charts with one step axis only the lower one labels it.
        shared = axis.matches is not None and axis.showticklabels is False
        named = axis.ticktext or all(isinstance(t[name[0]][0], str) for t in own)
        assert axis.title.text or shared or named, name


@pytest.mark.parametrize("figure", PANELS)
def test_nothing_but_two_of_a_kind_looks_the_same(figure) -> None:
    looks = [
        (trace.line.color, trace.line.dash, trace.marker.symbol)
        for trace in figure.data
        if trace.type == "scatter" and trace.showlegend is not False and trace.mode != "markers"
    ]
    assert len(set(looks)) == len(looks)


def test_ticks_come_in_steps_of_1_2_5_or_of_ten() -> None:
    assert one_two_five(0.9, 25.0) == [1.0, 2.0, 5.0, 10.0, 20.0]
    assert one_two_five(0.9, 2000.0, sparse=True) == [1.0, 10.0, 100.0, 1000.0]


def test_five_series_differ_in_colour_dash_and_marker() -> None:
    for look in (color, dash, lambda i: marker(i)["symbol"]):
        assert len({look(position) for position in range(5)}) == 5
        assert look(5) == look(0)


def test_a_band_has_its_lines_colour() -> None:
    assert translucent("#0072B2") == "rgba(0,114,178,0.15)"
