"""Charts that set several runs side by side: columns in, plotly figures out."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from tailrank.reporting.figures.style import GREY, color, dash, empty_figure, marker, stacked_figure
from tailrank.reporting.report_data import ComparedMetric, NamedCurve
from tailrank.reporting.tables import metric_label

_ROW_PX, _AXIS_PX = 44, 60  # heights of a run and of the axis below
_NAME_LENGTH = 20  # letters of a run's name; more would leave no room for marks on a phone
_CURVE_ROWS = (("validation_logloss", "validation logloss"), ("validation_auc", "validation AUC"))


def forest(compared: Sequence[ComparedMetric]) -> go.Figure:
    """Differences of one metric to the first run, with their intervals.

    Args:
        compared: one per run, at least one.
    """
    figure = empty_figure()
    for position, row in enumerate(compared):
        figure.add_scatter(
            x=[row.value],
            y=[position],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row.high - row.value],
                "arrayminus": [row.value - row.low],
                "thickness": 2,
                "width": 6,
            },
            mode="markers",
            marker=marker(position) | {"size": 11},
            hovertemplate=f"{row.run}: %{{x:+.4f}} ({row.low:+.4f} to {row.high:+.4f})"
            "<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dot", "width": 2})
    # Zero in the middle: an interval that keeps clear of it is a finding.
    reach = 1.2 * max(max(abs(row.low), abs(row.high)) for row in compared)
    figure.update_xaxes(
        title_text=f"difference in {metric_label(compared[0].metric)}",
        range=[-reach, reach],
        tickformat="+.2~g",
        nticks=6,
        showgrid=True,
    )
    figure.update_yaxes(
        range=[len(compared) - 0.5, -0.5],
        tickvals=list(range(len(compared))),
        ticktext=[_short(row.run) for row in compared],
        showgrid=False,
    )
    figure.update_layout(height=_ROW_PX * len(compared) + _AXIS_PX, showlegend=False)
    return figure


def _short(name: str) -> str:
    """The name, without its middle where it is long."""
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[:half]}…{name[1 - half :]}"


def learning_curves(curves: Sequence[NamedCurve]) -> go.Figure:
    """Validation logloss and AUC of several runs over steps.

    Args:
        curves: at least one with a point that was evaluated.
    """
    figure = stacked_figure(len(_CURVE_ROWS), shared_x=True)
    for row, (column, title) in enumerate(_CURVE_ROWS, start=1):
        for position, curve in enumerate(curves):
            known = [
                (p.step, value) for p in curve.points if (value := getattr(p, column)) is not None
            ]
            figure.add_scatter(
                x=[step for step, _ in known],
                y=[value for _, value in known],
                name=curve.name,
                legendgroup=curve.name,
                showlegend=row == 1,
                mode="lines+markers" if len(known) <= 40 else "lines",
                line={"color": color(position), "dash": dash(position), "width": 2},
                marker=marker(position) | {"size": 5},
                hovertemplate="step %{x:,}: %{y:.4f}",
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=title, nticks=5, row=row, col=1)
    figure.update_xaxes(title_text="training step", tickformat="~s", row=len(_CURVE_ROWS), col=1)
    return figure
