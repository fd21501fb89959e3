"""Charts of latency, capacity and service time: columns in, plotly figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from tailrank.reporting.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    add_band,
    color,
    dash,
    empty_figure,
    hatch,
    marker,
    one_two_five,
)
from tailrank.reporting.live_rows import BusyBatch, PromiseRow
from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    QueryTime,
    ServiceTime,
    SLALimit,
)

_PERCENTILE_TICKS = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
_NUM_CURVE_POINTS = 400  # twice the pixels of a phone; a curve of 60,000 points looks the same


def latency_cdf(curves: Sequence[LatencyCurve], sla: SLALimit | None) -> go.Figure:
    """Share of queries answered within a time, stretched towards the tail, and the SLA's corner.

    Args:
        curves: one per run, at least one with an answered query.
        sla: a curve keeps it when it passes left of the corner.
    """
    figure = empty_figure()
    deepest = max(curve.num_queries for curve in curves)
    for position, curve in enumerate(curves):
        latency_ms, share = _thinned(curve)
        figure.add_scatter(
            x=latency_ms,
            y=_stretched(share),
            customdata=100.0 * share,
            name=curve.name,
            mode="lines",
            line={"color": color(position), "dash": dash(position), "width": 2.5},
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
        title_text="share of queries",
        tickvals=_stretched(np.array(ticks) / 100).tolist(),
        ticktext=[f"{tick:g} %" for tick in ticks],
        rangemode="tozero",
    )
    low, high = _latency_range(curves, sla)
    figure.update_xaxes(
        title_text="latency, ms",
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=one_two_five(low, high),
    )
    return figure


def capacity_by_batch(points: Sequence[CapacityPoint], sla: SLALimit | None) -> go.Figure:
    """Largest queries/s inside the SLA by batch size: simulated with its interval, and live.

    Args:
        points: one per policy and batch size.
        sla: names the bound on the axis.
    """
    figure = empty_figure()
    policies = list(dict.fromkeys(point.policy for point in points))
    for position, policy in enumerate(policies):
        own = sorted((p for p in points if p.policy == policy), key=lambda point: point.batch_items)
        label = f"{policy}, " if len(policies) > 1 else ""
        # A capacity without an upper bound gets no upper whisker rather than an endless one.
        up = [p.simulated_high if math.isfinite(p.simulated_high) else p.simulated_qps for p in own]
        figure.add_scatter(
            x=[p.batch_items for p in own],
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
            line={"color": color(position), "dash": dash(position), "width": 2},
            marker={"size": 6},
            hovertemplate="batch %{x}: %{y:,.0f} queries/s simulated<extra></extra>",
        )
        best = max(own, key=lambda point: point.simulated_qps)
        figure.add_scatter(
            x=[best.batch_items],
            y=[best.simulated_qps],
            mode="markers",
            marker={"color": color(position), "size": 15, "symbol": "star"},
            showlegend=False,
            hovertemplate=f"best of {label}simulated: batch %{{x}}<extra></extra>",
        )
        live = [(p.batch_items, p.live_qps) for p in own if p.live_qps is not None]
        if live:
            figure.add_scatter(
                x=[size for size, _ in live],
                y=[qps for _, qps in live],
                name=f"{label}live",
                mode="markers",
                marker={
                    "color": color(position),
                    "size": 13,
                    "symbol": "diamond-open",
                    "line": {"width": 2.5},
                },
                hovertemplate="batch %{x}: %{y:,.0f} queries/s live<extra></extra>",
            )
    bound = f" at {sla}" if sla is not None else ""
    _items_axis(figure, [point.batch_items for point in points], "largest batch, items")
    figure.update_yaxes(title_text=f"queries/s{bound}", rangemode="tozero", tickformat=",~f")
    return figure


def query_time(bins: Sequence[QueryTime]) -> go.Figure:
    """Where a query's time goes, by its number of items: stacked means add up to the latency."""
    figure = empty_figure()
    # On two lines, or a phone would turn them.
    sizes = [f"{row.size_low:,}–<br>{row.size_high:,}" for row in bins]
    parts = (
        ("service", "service_ms", BLUE, ""),
        ("queueing", "queueing_ms", ORANGE, "/"),
    )
    for name, column, fill, pattern in parts:
        figure.add_bar(
            x=sizes,
            y=[getattr(row, column) for row in bins],
            name=name,
            marker={"color": fill, "line": {"width": 0}, "pattern": hatch(pattern)},
            hovertemplate=f"{name}: %{{y:.3g}} ms",
        )
    figure.update_layout(barmode="stack", bargap=0.25, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="items in the query", type="category", tickangle=0)
    figure.update_yaxes(title_text="mean time, ms", rangemode="tozero")
    return figure


def promises(rows: Sequence[PromiseRow]) -> go.Figure:
    """Simulated and measured capacity of each policy, one below the other, with their brackets.

    Args:
        rows: one per policy, at least one.
    """
    figure = empty_figure()
    for position, (kind, symbol) in enumerate((("simulated", "circle"), ("live", "diamond-open"))):
        own = [(at, row) for at, row in enumerate(rows) if getattr(row, f"{kind}_qps") is not None]
        if not own:
            continue
        value, low, high = (
            np.array([getattr(row, f"{kind}_{name}") for _, row in own], dtype=np.float64)
            for name in ("qps", "low", "high")
        )
        high = np.where(np.isfinite(high), high, value)  # without an end there is no whisker
        figure.add_scatter(
            x=value.tolist(),
            y=[at + 0.16 * (2 * position - 1) for at, _ in own],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (high - value).tolist(),
                "arrayminus": (value - low).tolist(),
                "thickness": 2,
                "width": 5,
            },
            name=kind,
            mode="markers",
            marker={
                "color": color(position),
                "size": 11,
                "symbol": symbol,
                "line": {"width": 2.5, "color": color(position)},
            },
            customdata=[row.policy for _, row in own],
            hovertemplate=f"%{{customdata}}: %{{x:,.0f}} queries/s {kind}<extra></extra>",
        )
    figure.update_xaxes(title_text="queries/s", rangemode="tozero", tickformat=",~f", nticks=6)
    figure.update_yaxes(
        range=[len(rows) - 0.5, -0.5],
        tickvals=list(range(len(rows))),
        # On two lines, or a phone would have no room for the marks.
        ticktext=[row.policy.replace(" ", "<br>", 1) for row in rows],
        showgrid=False,
    )
    return figure


def busy_batches(rows: Sequence[BusyBatch]) -> go.Figure:
    """Which worker ran what when, coloured by the items of each batch; several queries hatched.

    Args:
        rows: at least one.
    """
    figure = empty_figure()
    workers = sorted({row.worker for row in rows})
    most = max(row.num_items for row in rows)
    for name, shape, own in (
        ("a part of one query", "", [row for row in rows if row.num_parts == 1]),
        ("parts of several", "/", [row for row in rows if row.num_parts > 1]),
    ):
        if own:
            figure.add_bar(
                base=[row.start_ms for row in own],
                x=[row.end_ms - row.start_ms for row in own],
                y=[workers.index(row.worker) for row in own],
                orientation="h",
                width=0.7,
                name=name,
                marker={
                    "color": [row.num_items for row in own],
                    "cmin": 0,
                    "cmax": most,
                    "colorscale": "Viridis",
                    "showscale": not figure.data,
                    "colorbar": {"title": {"text": "items"}, "thickness": 12, "outlinewidth": 0},
                    "line": {"color": GREY, "width": 0.5},
                    "pattern": hatch(shape),
                },
                customdata=[(row.num_items, row.num_parts) for row in own],
                hovertemplate="%{base:.2f} ms, %{x:.2f} ms long: %{customdata[0]:,} items of "
                "%{customdata[1]} queries<extra></extra>",
            )
    figure.update_layout(barmode="overlay", bargap=0.1)
    figure.update_xaxes(title_text="ms", range=[0, max(row.end_ms for row in rows)])
    figure.update_yaxes(
        title_text="worker",
        tickvals=list(range(len(workers))),
        ticktext=[str(worker) for worker in workers],
        range=[len(workers) - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def service_time(rows: Sequence[ServiceTime]) -> go.Figure:
    """Service time by batch size on two logarithmic axes, with the band of nine batches in ten.

    Args:
        rows: at least one per number of busy workers.
    """
    figure = empty_figure()
    for position, (busy, own) in enumerate(_by_busy_workers(rows)):
        sizes = [row.num_items for row in own]
        add_band(figure, sizes, [r.low_ms for r in own], [r.high_ms for r in own], position)
        figure.add_scatter(
            x=sizes,
            y=[row.median_ms for row in own],
            name=_busy(busy),
            mode="lines+markers",
            line={"color": color(position), "dash": dash(position), "width": 2},
            marker=marker(position),
            hovertemplate="%{x:,} items: %{y:.3g} ms",
        )
    _items_axis(figure, [row.num_items for row in rows], "batch size, items")
    low, high = min(row.low_ms for row in rows), max(row.high_ms for row in rows)
    figure.update_yaxes(
        title_text="service time, ms",
        type="log",
        range=[math.log10(low / 1.2), math.log10(high * 1.2)],
        tickvals=one_two_five(low / 1.2, high * 1.2, sparse=high / low > 1000),
    )
    return figure


def throughput_by_batch(rows: Sequence[ServiceTime]) -> go.Figure:
    """Items per second of all busy workers together by batch size: what larger batches buy."""
    figure = empty_figure()
    for position, (busy, own) in enumerate(_by_busy_workers(rows)):
        figure.add_scatter(
            x=[row.num_items for row in own],
            y=[busy * row.num_items / row.median_ms * 1e3 for row in own],
            name=_busy(busy),
            mode="lines+markers",
            line={"color": color(position), "dash": dash(position), "width": 2},
            marker=marker(position),
            hovertemplate="%{x:,} items: %{y:,.0f} items/s",
        )
    _items_axis(figure, [row.num_items for row in rows], "batch size, items")
    figure.update_yaxes(title_text="items/s, all busy workers", rangemode="tozero", tickformat="~s")
    return figure


def _by_busy_workers(rows: Sequence[ServiceTime]) -> list[tuple[int, list[ServiceTime]]]:
    """Rows of each number of busy workers, by rising items."""
    return [
        (busy, sorted((r for r in rows if r.busy_workers == busy), key=lambda r: r.num_items))
        for busy in sorted({row.busy_workers for row in rows})
    ]


def _busy(workers: int) -> str:
    """Legend of a number of busy workers."""
    return "1 worker busy" if workers == 1 else f"{workers} workers busy"


def _items_axis(figure: go.Figure, sizes: Sequence[int], title: str) -> None:
    """Batch sizes on a logarithmic axis, with room for the outermost marks."""
    low, high = min(sizes) / 1.12, max(sizes) * 1.12
    figure.update_xaxes(
        title_text=title,
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=one_two_five(low, high, sparse=high / low > 100),
        tickformat=",d",
    )


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
