"""Charts of what one core of a host does: figures in, plotly figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from tailrank.reporting.figures.style import BLUE, empty_figure

_READS = (
    ("huge pages", "gather_ns_per_row_huge_pages"),
    ("4 KiB pages", "gather_ns_per_row_small_pages"),
)
_LAYERS = (
    ("nn.Linear, fp32", "linear_fp32_gflops"),
    ("packed, fp32", "linear_fp32_packed_gflops"),
    ("packed, bf16", "linear_bf16_packed_gflops"),
)
_BAR_PX, _AXIS_PX = 56, 60  # heights of a bar with its gap, and of the axis below


def random_reads(metrics: Mapping[str, float]) -> go.Figure:
    """Time of a random read of a row by the size of memory's pages; `metrics` of `HostFigures`."""
    return _bars(metrics, _READS, "ns per row", "%{x:.1f}")


def dense_layers(metrics: Mapping[str, float]) -> go.Figure:
    """Speed of a dense layer by how it is run; what does not run here has no bar."""
    return _bars(metrics, _LAYERS, "GFLOP/s", "%{x:,.0f}")


def _bars(
    metrics: Mapping[str, float], bars: Sequence[tuple[str, str]], title: str, text: str
) -> go.Figure:
    """Horizontal bars with their values, of the metrics that there are."""
    known = [(label, metrics[name]) for label, name in bars if name in metrics]
    figure = empty_figure()
    figure.add_bar(
        x=[value for _, value in known],
        y=[label for label, _ in known],
        orientation="h",
        marker={"color": BLUE, "line": {"width": 0}},
        texttemplate=text,
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    top = 1.2 * max((value for _, value in known), default=1.0)
    figure.update_xaxes(title_text=title, range=[0, top], nticks=5, showgrid=True)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(height=_BAR_PX * len(known) + _AXIS_PX, showlegend=False, bargap=0.4)
    return figure
