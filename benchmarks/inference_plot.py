"""The figure of `bench_inference.py`: speed-up over eager modules by batch, and rooflines.

Plain SVG, for a page that loads nothing. Colours and markers as the package's reports have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from inference_cases import formats
from inference_workers import slug
from tailrank.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, one_two_five
from tailrank.reporting.result import Result

_WIDTH, _HEIGHT, _MARGIN = 340, 250, 46
_EAGER = "eager_modules_fp32"
_ROOF_BATCH, _COLUMNS = 64, 3
SERIES = {
    "tailrank fp32": BLUE,
    "tailrank bf16": SKY,
    "tailrank int8": GREEN,
    "best peer as shipped": ORANGE,
    "best tuned peer, fp32": PINK,
}


@dataclass(slots=True)
class Panel:
    """One chart on logarithmic axes.

    Args:
        title: above it.
        axes: words for x and y.
        x: least and largest.
        y: least and largest.
        marks: SVG elements in drawing order.
        width: in pixels.
    """

    title: str
    axes: tuple[str, str]
    x: tuple[float, float]
    y: tuple[float, float]
    marks: list[str] = field(default_factory=list)
    width: float = _WIDTH

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels."""
        across = math.log(x / self.x[0]) / math.log(self.x[1] / self.x[0])
        up = math.log(y / self.y[0]) / math.log(self.y[1] / self.y[0])
        inner_w, inner_h = self.width - _MARGIN - 14, _HEIGHT - 2 * _MARGIN
        return _MARGIN + across * inner_w, _HEIGHT - _MARGIN - up * inner_h

    def line(self, points: Sequence[tuple[float, float]], color: str, dash: str = "") -> None:
        """A line through points."""
        where = " ".join("{:.1f},{:.1f}".format(*self.place(*point)) for point in points)
        self.marks.append(
            f'<polyline points="{where}" fill="none" stroke="{color}" stroke-width="1.6" '
            f'stroke-dasharray="{dash}"/>'
        )

    def dot(self, point: tuple[float, float], color: str, words: str) -> None:
        """A point that says what it is when one points at it."""
        x, y = self.place(*point)
        self.marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{color}">'
            f"<title>{escape(words)}</title></circle>"
        )

    def words(self, point: tuple[float, float], text: str) -> None:
        """Text that ends above a point."""
        x, y = self.place(*point)
        self.marks.append(f'<text x="{x:.1f}" y="{y - 4:.1f}" text-anchor="end">{text}</text>')

    def svg(self, left: float, top: float) -> str:
        """The panel at that place."""
        parts = [f'<g transform="translate({left},{top})">']
        parts.append(f'<text x="{_MARGIN}" y="18" class="title">{escape(self.title)}</text>')
        bottom = _HEIGHT - _MARGIN
        for tick in one_two_five(*self.x, sparse=self.x[1] / self.x[0] > 200):
            x, _ = self.place(tick, self.y[0])
            parts.append(
                f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
            )
        for tick in one_two_five(*self.y, sparse=self.y[1] / self.y[0] > 200):
            _, y = self.place(self.x[0], tick)
            parts.append(
                f'<path d="M{_MARGIN} {y:.1f}H{self.width - 14}" stroke="{GREY}" opacity=".3"/>'
            )
            parts.append(
                f'<text x="{_MARGIN - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
            )
        middle = (_MARGIN + self.width) / 2
        where = f'x="{middle}" y="{bottom + 32}" text-anchor="middle"'
        parts.append(f"<text {where}>{escape(self.axes[0])}</text>")
        parts.append(f'<text x="4" y="{_MARGIN - 12}">{escape(self.axes[1])}</text>')
        return "\n".join([*parts, *self.marks, "</g>"])


def draw(result: Result) -> str:
    """The whole figure as SVG text."""
    models: Sequence[Mapping[str, Any]] = result.config["models"]
    shown = [label for label in SERIES if any(points_of(result, m["name"], label) for m in models)]
    body = []
    for at, model in enumerate(models):
        body.append(speedups(result, model["name"], shown).svg(_WIDTH * at, 0))
    body.append(roofline(result, models).svg(0, _HEIGHT + 44))
    for at, label in enumerate(shown):
        x, y = _MARGIN + at % _COLUMNS * _WIDTH, _HEIGHT + 14 + 20 * (at // _COLUMNS)
        body.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{SERIES[label]}"/>')
        body.append(f'<text x="{x + 9}" y="{y}">{escape(label)}</text>')
    size = f"{_WIDTH * max(_COLUMNS, len(models))} {2 * _HEIGHT + 44}"
    style = "text{font:11px system-ui,sans-serif;fill:#444}.title{font-size:13px;font-weight:600}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><style>{style}</style>\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def speedups(result: Result, model: str, shown: Sequence[str]) -> Panel:
    """Over eager modules, by batch."""
    lines = {label: points_of(result, model, label) for label in shown}
    ys = [y for points in lines.values() for _, y in points]
    batches = [x for points in lines.values() for x, _ in points]
    panel = Panel(
        title=f"{model}: times as fast as eager modules",
        axes=("items in a batch", ""),
        x=(min(batches), max(batches)),
        y=(min(0.5, *ys) * 0.9, max(2.0, *ys) * 1.1),
    )
    panel.line([(panel.x[0], 1.0), (panel.x[1], 1.0)], GREY, "4 3")
    for label, points in lines.items():
        panel.line(points, SERIES[label])
        for items, ratio in points:
            panel.dot((items, ratio), SERIES[label], f"{label}, {items:g} items: {ratio:.2f}x")
    return panel


def points_of(result: Result, model: str, label: str) -> list[tuple[float, float]]:
    """Batch and speed-up of a series; empty where it was not measured."""
    points = []
    prefix, suffix = f"us.{model}.b", f".{_EAGER}"
    for name, eager_us in result.metrics.items():
        if not (name.startswith(prefix) and name.endswith(suffix)):
            continue
        items = name.removeprefix(prefix).removesuffix(suffix)
        case, chosen = f"{model}.b{items}", result.config["chosen"]
        who = {
            "best peer as shipped": chosen.get(f"best_peer.stock_peer.{case}"),
            "best tuned peer, fp32": chosen.get(f"best_peer.tuned_peer.fp32.{case}"),
        }.get(label, f"tailrank_{slug(label.removeprefix('tailrank '))}")
        us = result.metrics.get(f"us.{case}.{who}")
        if us is not None:
            points.append((float(items), eager_us / us))
    return sorted(points)


def roofline(result: Result, models: Sequence[Mapping[str, Any]]) -> Panel:
    """What everyone reaches at one batch size, under the roofs of this run."""
    dots, bandwidth = [], 0.0
    for model in models:
        case = f"{model['name']}.b{_ROOF_BATCH}"
        floor_ns = result.metrics.get(f"ns_per_row.{case}.floor_fp32")
        if floor_ns is not None:
            bandwidth = max(bandwidth, model["row_bytes"]["fp32"] / floor_ns)
        for who, precision in result.config["candidates"].items():
            reached = result.metrics.get(f"gflop_per_s.{case}.{who}")
            if reached is not None:
                row_bytes = model["row_bytes"][formats(precision)[0]]
                intensity = model["flops"] / (row_bytes * model["rows"])
                dots.append(((intensity, reached), who, model["name"]))
    peaks = models[0]["peak_gflops"]
    xs, ys = [x for (x, _), *_ in dots], [y for (_, y), *_ in dots]
    panel = Panel(
        title=f"Roofline, {_ROOF_BATCH} items: ours in blue, peers in grey",
        axes=("FLOP of the layers per byte of embedding rows", "GFLOP/s"),
        x=(min(xs) / 2, max(xs) * 2),
        y=(min(ys) / 2, 2 * max(peaks.values())),
        width=_WIDTH * max(_COLUMNS, len(models)),
    )
    for number, peak in peaks.items():
        start = max(panel.x[0], min(panel.x[1], peak / bandwidth)) if bandwidth else panel.x[0]
        panel.line([(start, peak), (panel.x[1], peak)], GREY, "6 3")
        panel.words((panel.x[1], peak), f"products in {number}")
    if bandwidth:
        first, end = max(panel.x[0], panel.y[0] / bandwidth), panel.y[1] / bandwidth / 2
        end = min(end, panel.x[1])
        if first < end:
            panel.line([(first, first * bandwidth), (end, end * bandwidth)], GREY, "6 3")
    for point, who, model_name in dots:
        color = BLUE if who.startswith("tailrank") else GREY
        panel.dot(point, color, f"{model_name}, {who}: {point[1]:.0f} GFLOP/s")
    return panel
