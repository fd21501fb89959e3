"""Figures as functions: columns in, plotly figures out. Knows no files and no page.

Colours come from the palette of Okabe and Ito, which colour-blind readers tell apart, in an order
whose members also stand out from white and from near-black; every series has a dash or a marker of
its own besides. Ink and grid are set by the page's style sheet, which knows light from dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    LearningPoint,
    QueryTime,
    SLALimit,
)

BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
_SERIES = (BLUE, ORANGE, GREEN, PINK, SKY)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_PERCENTILE_TICKS = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
_HEIGHT = 380  # pixels; the same for all, so that cards side by side end on one line
_NUM_CURVE_POINTS = 400  # twice the pixels of a phone; a curve of 60,000 points looks the same


def latency_cdf(curves: Sequence[LatencyCurve], sla: SLALimit | None) -> go.Figure:
    """Share of queries answered within a time, stretched towards the tail, and the SLA's corner.

    Args:
        curves: one per run, at least one with an answered query.
        sla: a curve keeps it when it passes left of the corner.
    """
    figure = _figure()
    deepest = max(curve.num_queries for curve in curves)
    for position, curve in enumerate(curves):
        latency_ms, share = _thinned(curve)
        figure.add_scatter(
            x=latency_ms,
            y=_stretched(share),
            customdata=100.0 * share,
            name=curve.name,
            mode="lines",
            line={"color": _color(position), "dash": _dash(position), "width": 2.5},
            hovertemplate="%{customdata:.4g} % within %{x:.3g} ms",
        )
    if sla is not None:
        corner = float(_stretched(np.array([sla.percentile / 100.0]))[0])
        top = float(_stretched(np.array([1.0 - 0.5 / deepest]))[0])
        figure.add_scatter(
            x=[sla.latency_ms, sla.latency_ms, None, 1e-6, sla.latency_ms],
            y=[corner, max(top, corner), None, corner, corner],
            name=f"SLA: {sla}",
            mode="lines",
            line={"color": PINK, "width": 2},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[sla.latency_ms],
            y=[corner],
            mode="markers",
            marker={"color": PINK, "size": 9, "symbol": "square"},
            showlegend=False,
            hovertemplate=f"SLA: {sla}",
        )
    # Beyond a percentile lie at least five queries, or the axis claims what the sample cannot show.
    ticks = [p for p in _PERCENTILE_TICKS if (1 - p / 100) * deepest >= 5]
    figure.update_yaxes(
        title="share of queries",
        tickvals=_stretched(np.array(ticks) / 100).tolist(),
        ticktext=[f"{tick:g} %" for tick in ticks],
        rangemode="tozero",
    )
    low, high = _latency_range(curves, sla)
    figure.update_xaxes(
        title="latency, ms",
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=_one_two_five(low, high),
    )
    return figure


def capacity_by_batch(points: Sequence[CapacityPoint], sla: SLALimit | None) -> go.Figure:
    """Largest queries/s inside the SLA by batch size: simulated with its interval, and live.

    Args:
        points: one per policy and batch size.
        sla: names the bound on the axis.
    """
    figure = _figure()
    sizes = sorted({point.batch_items for point in points})
    policies = list(dict.fromkeys(point.policy for point in points))
    for position, policy in enumerate(policies):
        own = sorted((p for p in points if p.policy == policy), key=lambda point: point.batch_items)
        label = f"{policy}, " if len(policies) > 1 else ""
        # A capacity without an upper bound gets no upper whisker rather than an endless one.
        up = [p.simulated_high if math.isfinite(p.simulated_high) else p.simulated_qps for p in own]
        figure.add_scatter(
            x=[str(p.batch_items) for p in own],
            y=[p.simulated_qps for p in own],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - p.simulated_qps for high, p in zip(up, own, strict=True)],
                "arrayminus": [p.simulated_qps - p.simulated_low for p in own],
                "thickness": 1.5,
                "width": 4,
            },
            name=f"{label}simulated",
            mode="lines+markers",
            line={"color": _color(position), "dash": _dash(position), "width": 2},
            marker={"size": 6},
            hovertemplate="batch %{x}: %{y:,.0f} queries/s simulated<extra></extra>",
        )
        live = [(str(p.batch_items), p.live_qps) for p in own if p.live_qps is not None]
        if live:
            figure.add_scatter(
                x=[size for size, _ in live],
                y=[qps for _, qps in live],
                name=f"{label}live",
                mode="markers",
                marker={
                    "color": _color(position),
                    "size": 13,
                    "symbol": "diamond-open",
                    "line": {"width": 2.5},
                },
                hovertemplate="batch %{x}: %{y:,.0f} queries/s live<extra></extra>",
            )
    bound = f" at {sla}" if sla is not None else ""
    figure.update_xaxes(
        title="largest batch, items",
        type="category",
        categoryorder="array",
        categoryarray=[str(size) for size in sizes],
    )
    figure.update_yaxes(title=f"queries/s{bound}", rangemode="tozero", tickformat=",d")
    return figure


def learning_curve(
    points: Sequence[LearningPoint], auc_attainable: float | None = None
) -> go.Figure:
    """Logloss of training and validation over steps, and below it the AUC on validation.

    Args:
        points: in order of steps.
        auc_attainable: the best AUC that the data allow, where it is known.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    _style(figure)
    series = (
        ("training logloss", "train_logloss", 1, BLUE, "solid"),
        ("validation logloss", "validation_logloss", 1, ORANGE, "dash"),
        ("validation AUC", "validation_auc", 2, GREEN, "solid"),
    )
    for name, column, row, color, dash in series:
        known = [(p.step, value) for p in points if (value := getattr(p, column)) is not None]
        if known:
            figure.add_scatter(
                x=[step for step, _ in known],
                y=[value for _, value in known],
                name=name,
                mode="lines+markers" if len(known) <= 40 else "lines",
                line={"color": color, "dash": dash, "width": 2},
                marker={"size": 5},
                hovertemplate="step %{x:,}: %{y:.4f}",
                row=row,
                col=1,
            )
    if auc_attainable is not None:
        last = points[-1].step
        figure.add_scatter(
            x=[0, last],
            y=[auc_attainable, auc_attainable],
            name="attainable AUC",
            mode="lines",
            line={"color": PINK, "dash": "dot", "width": 2},
            hovertemplate="attainable: %{y:.4f}",
            row=2,
            col=1,
        )
    figure.update_yaxes(title="logloss", row=1, col=1)
    figure.update_yaxes(title="AUC", row=2, col=1)
    figure.update_xaxes(title="training step", tickformat="~s", row=2, col=1)
    return figure


def query_time(bins: Sequence[QueryTime]) -> go.Figure:
    """Where a query's time goes, by its number of items: stacked means add up to the latency."""
    figure = _figure()
    sizes = [f"{row.size_low:,}-{row.size_high:,}" for row in bins]
    parts = (
        ("service", "service_ms", BLUE, ""),
        ("queueing", "queueing_ms", ORANGE, "/"),
    )
    for name, column, color, pattern in parts:
        figure.add_bar(
            x=sizes,
            y=[getattr(row, column) for row in bins],
            name=name,
            marker={"color": color, "line": {"width": 0}, "pattern": _hatch(pattern)},
            hovertemplate=f"{name}: %{{y:.3g}} ms",
        )
    figure.update_layout(barmode="stack", bargap=0.25, legend={"traceorder": "normal"})
    figure.update_xaxes(title="items in the query", type="category")
    figure.update_yaxes(title="mean time, ms", rangemode="tozero")
    return figure


def _figure() -> go.Figure:
    """An empty figure in the house's style."""
    figure = go.Figure()
    _style(figure)
    return figure


def _style(figure: go.Figure) -> None:
    """Room for a phone: legend above, no title (the page has one), margins that fit the labels."""
    figure.update_layout(
        template="none",
        height=_HEIGHT,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        hovermode="closest",
        dragmode=False,
        showlegend=True,
    )
    figure.update_xaxes(automargin=True, fixedrange=True, zeroline=False, showgrid=False)
    figure.update_yaxes(automargin=True, fixedrange=True, zeroline=False, showgrid=True)


def _thinned(curve: LatencyCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latencies in ms and shares of all queries: as many points as the eye sees, down the tail."""
    latency_ms = np.asarray(curve.latencies_ms, dtype=np.float64)
    # The i-th of n answers bounds a share between (i-1)/n and i/n: the middle keeps 100 % finite.
    share = (np.arange(len(latency_ms)) + 0.5) / curve.num_queries
    if len(latency_ms) <= _NUM_CURVE_POINTS:
        return latency_ms, share
    depth = _stretched(share)
    wanted = np.linspace(depth[0], depth[-1], _NUM_CURVE_POINTS)
    keep = np.unique(np.searchsorted(depth, wanted).clip(0, len(depth) - 1))
    return latency_ms[keep], share[keep]


def _stretched(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number of nines: 0.9 -> 1, 0.99 -> 2, so that the tail has the room it deserves."""
    return -np.log10(1.0 - share)


def _latency_range(curves: Sequence[LatencyCurve], sla: SLALimit | None) -> tuple[float, float]:
    """Range of the latency axis in ms: all but the fastest hundredth of the queries."""
    seen = [_thinned(curve)[0] for curve in curves if curve.latencies_ms]
    lows = [float(np.percentile(latencies, 1, method="nearest")) for latencies in seen]
    highs = [float(latencies[-1]) for latencies in seen]
    if sla is not None:
        lows.append(sla.latency_ms)
        highs.append(sla.latency_ms)
    return max(min(lows), 1e-3) / 1.2, max(highs) * 1.2


def _one_two_five(low: float, high: float) -> list[float]:
    """Ticks 1, 2, 5, 10, 20, 50 ... from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _hatch(shape: str) -> dict[str, object]:
    """A pattern over the bar's own colour, for eyes that colours do not help."""
    return {"shape": shape, "size": 7, "solidity": 0.15, "fillmode": "overlay", "fgcolor": "#fff"}


def _color(position: int) -> str:
    """Colour of the series at that position."""
    return _SERIES[position % len(_SERIES)]


def _dash(position: int) -> str:
    """Dash of the series at that position."""
    return _DASHES[position % len(_DASHES)]
