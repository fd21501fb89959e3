"""The house's style of charts: colours, dashes, markers, bands, and room for a phone.

Colours come from the palette of Okabe and Ito, which colour-blind readers tell apart, in an order
whose members also stand out from white and from near-black; every series has a dash or a marker of
its own besides. Ink and grid are set by the page's style sheet, which knows light from dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
GREY = "#8A8F98"  # of reference lines; as far from white as from near-black
_SERIES = (BLUE, ORANGE, GREEN, PINK, SKY)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x")
_BAND_OPACITY = 0.15
_FONT_SIZE = 13
_HEIGHT = 380  # pixels; the same for all, so that cards side by side end on one line


def empty_figure() -> go.Figure:
    """A figure without data in the house's style."""
    figure = go.Figure()
    _style(figure)
    return figure


def stacked_figure(num_rows: int, *, shared_x: bool = False) -> go.Figure:
    """A figure of several charts, one below the other, in the house's style."""
    figure = make_subplots(
        rows=num_rows,
        cols=1,
        shared_xaxes=shared_x,
        vertical_spacing=0.09 if shared_x else 0.5 / num_rows,
    )
    _style(figure)
    return figure


def color(position: int) -> str:
    """Colour of the series at that position."""
    return _SERIES[position % len(_SERIES)]


def dash(position: int) -> str:
    """Dash of the series at that position."""
    return _DASHES[position % len(_DASHES)]


def marker(position: int) -> dict[str, object]:
    """Marker of the series at that position."""
    return {"symbol": _MARKERS[position % len(_MARKERS)], "size": 7, "color": color(position)}


def hatch(shape: str) -> dict[str, object]:
    """A pattern over the bar's own colour, for eyes that colours do not help."""
    return {"shape": shape, "size": 7, "solidity": 0.15, "fillmode": "overlay", "fgcolor": "#fff"}


def add_band(
    figure: go.Figure,
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    position: int,
) -> None:
    """Shade between two lines in the colour of the series at that position."""
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        mode="lines",
        line={"color": color(position), "width": 0},
        fill="toself",
        fillcolor=translucent(color(position)),
        hoverinfo="skip",
        showlegend=False,
    )


def translucent(hex_color: str) -> str:
    """The colour as a band shows it."""
    red, green, blue = (int(hex_color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND_OPACITY})"


def one_two_five(low: float, high: float, *, sparse: bool = False) -> list[float]:
    """Ticks 1, 2, 5, 10, 20, 50 … from `low` to `high`; powers of ten only where `sparse`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1,) if sparse else (1, 2, 5)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def _style(figure: go.Figure) -> None:
    """Room for a phone: legend above, no title (the page has one), margins that fit the labels."""
    figure.update_layout(
        template="none",
        height=_HEIGHT,
        margin={"l": 8, "r": 22, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": _FONT_SIZE},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        hovermode="closest",
        dragmode=False,
        showlegend=True,
    )
    # Invisible ticks hold the labels off the axes, so that the two zeros do not touch.
    axis = {
        "automargin": True,
        "fixedrange": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": "rgba(0,0,0,0)",
        "title": {"font": {"size": _FONT_SIZE}, "standoff": 8},
        "tickfont": {"size": _FONT_SIZE - 1},
    }
    figure.update_xaxes(**axis, showgrid=False)
    figure.update_yaxes(**axis, showgrid=True)
