"""Charts of what a model learned and how well it predicts: columns in, plotly figures out."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from tailrank.reporting.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    add_band,
    empty_figure,
    marker,
    stacked_figure,
    translucent,
)
from tailrank.reporting.report_data import GroupBin, LearningPoint, ReliabilityBin, ScoreBin


def learning_curve(
    points: Sequence[LearningPoint],
    auc_attainable: float | None = None,
    step_chosen: float | None = None,
) -> go.Figure:
    """Logloss of training and validation over steps, and below it how well validation is ranked.

    Args:
        points: in order of steps.
        auc_attainable: the best AUC that the data allow, where it is known.
        step_chosen: the step whose weights were kept, to be marked.
    """
    figure = stacked_figure(2, shared_x=True)
    series = (
        ("training logloss", "train_logloss", 1, BLUE, "solid"),
        ("validation logloss", "validation_logloss", 1, ORANGE, "dash"),
        ("validation AUC", "validation_auc", 2, GREEN, "solid"),
        ("validation grouped AUC", "validation_grouped_auc", 2, BLUE, "dash"),
        ("validation NDCG@10", "validation_ndcg_at_10", 2, ORANGE, "dashdot"),
        ("validation HR@10", "validation_hit_rate_at_10", 2, PINK, "dash"),
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
    if step_chosen is not None:
        figure.add_vline(step_chosen, line={"color": GREY, "dash": "dot", "width": 2})
    in_groups = any(point.validation_ndcg_at_10 is not None for point in points)
    figure.update_yaxes(title_text="logloss", row=1, col=1)
    figure.update_yaxes(title_text="AUC, NDCG@10, HR@10" if in_groups else "AUC", row=2, col=1)
    figure.update_xaxes(title_text="training step", tickformat="~s", row=2, col=1)
    return figure


def reliability(bins: Sequence[ReliabilityBin]) -> go.Figure:
    """Observed rate by predicted probability with its interval, beside the line where both agree.

    Args:
        bins: in order of their scores, at least one.
    """
    figure = empty_figure()
    scores = [row.score for row in bins]
    top = 1.08 * max(*scores, *(row.rate_high for row in bins))
    figure.add_scatter(
        x=[0, top],
        y=[0, top],
        name="predicted = observed",
        mode="lines",
        line={"color": GREY, "dash": "dot", "width": 2},
        hoverinfo="skip",
    )
    add_band(figure, scores, [r.rate_low for r in bins], [r.rate_high for r in bins], 0)
    figure.add_scatter(
        x=scores,
        y=[row.rate for row in bins],
        customdata=[row.num_rows for row in bins],
        name="observed, with 95 % interval",
        mode="lines+markers",
        line={"color": BLUE, "width": 2},
        marker=marker(0),
        hovertemplate="predicted %{x:.2%}, observed %{y:.2%} of %{customdata:,} rows"
        "<extra></extra>",
    )
    axis = {"range": [0, top], "tickformat": ".0%" if top > 0.1 else ".1%", "nticks": 6}
    figure.update_xaxes(title_text="mean predicted probability, %", **axis)
    figure.update_yaxes(title_text="observed rate, %", **axis)
    return figure


def score_counts(bins: Sequence[ScoreBin]) -> go.Figure:
    """Share of either class by score: the further apart, the better the model ranks."""
    figure = empty_figure()
    edges = [bins[0].low, *(row.low for row in bins), bins[-1].high, bins[-1].high]
    for name, column, line_color, line_dash in (
        ("negative rows", "negative_fraction", ORANGE, "dash"),
        ("positive rows", "positive_fraction", BLUE, "solid"),
    ):
        shares = [getattr(row, column) for row in bins]
        figure.add_scatter(
            x=edges,
            y=[0.0, *shares, shares[-1], 0.0],
            name=name,
            mode="lines",
            line={"color": line_color, "dash": line_dash, "width": 2, "shape": "hv"},
            fill="tozeroy",
            fillcolor=translucent(line_color),
            hovertemplate=f"%{{y:.1%}} of the {name} from %{{x:.3f}} on<extra></extra>",
        )
    figure.update_xaxes(title_text="predicted probability", nticks=7)
    figure.update_yaxes(
        title_text="share of the class, %", tickformat=".0%", rangemode="tozero", nticks=6
    )
    return figure


def group_auc(bins: Sequence[GroupBin], mean: float | None = None) -> go.Figure:
    """How many groups (users or queries) are ranked how well.

    Args:
        bins: in rising order, at least one.
        mean: the grouped AUC, where it is known.
    """
    figure = empty_figure()
    figure.add_bar(
        x=[(row.low + row.high) / 2 for row in bins],
        y=[row.num_groups for row in bins],
        width=[0.92 * (row.high - row.low) for row in bins],
        customdata=[(row.low, row.high) for row in bins],
        name="groups",
        marker={"color": BLUE, "line": {"width": 0}},
        hovertemplate="AUC %{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,} groups"
        "<extra></extra>",
    )
    top = max(row.num_groups for row in bins)
    lines = [(0.5, "no better than chance", GREY, "dot")]
    if mean is not None:
        lines.append((mean, f"grouped AUC {mean:.4f}", PINK, "solid"))
    for place, name, line_color, line_dash in lines:
        figure.add_scatter(
            x=[place, place],
            y=[0, 1.05 * top],
            name=name,
            mode="lines",
            line={"color": line_color, "dash": line_dash, "width": 2.5},
            hoverinfo="skip",
        )
    figure.update_xaxes(title_text="AUC inside one group", range=[0, 1], tickformat=".1f")
    figure.update_yaxes(title_text="groups", rangemode="tozero", tickformat=",d", nticks=6)
    return figure
