"""Tables and a figure from a result of `bench_inference.py`, written beside it.

python benchmarks/inference_report.py RESULT.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from inference_plot import draw
from tailrank.core.files import replace_text
from tailrank.reporting.result import Result, read_result

# Metric, least value, words.
TARGETS = (
    ("speedup_vs_best_stock_peer.geomean", 2.5, "over the best peer as shipped, geometric mean"),
    ("speedup_vs_best_tuned_peer.geomean", 1.5, "over the best tuned peer, equal precision"),
    ("user_once_speedup.rmc1", 3.0, "user once, RMC1 with 6 of 8 tables the user's, 128 items"),
    ("user_once_speedup.movielens", 3.0, "user once, DLRM on MovieLens-1M, 128 items"),
    ("thread_scaling.w2", 0.95, "two threads over two processes, 64 items"),
    *(
        (f"speedup_vs_eager.{model}.b{items}.best", least, f"{model} over eager, {items} items")
        for model in ("rmc1", "rmc2")
        for items, least in ((1, 6.0), (16, 3.5), (64, 2.5), (256, 2.0))
    ),
    *(
        (
            f"speedup_vs_eager.rmc3.b{items}.{precision}",
            least,
            f"rmc3 over eager, {items} items, {precision}",
        )
        for precision, least in (("fp32", 2.2), ("bf16", 4.3), ("int8", 7.0))
        for items in (16, 64, 256)
    ),
)


def main() -> None:
    result, path = write_page(__doc__, lines_of)
    replace_text(path.with_suffix(".svg"), draw(result))


def write_page(
    description: str | None, lines_of: Callable[[Result, Path], list[str]]
) -> tuple[Result, Path]:
    """Write the page of the result that the command line names, beside it.

    Args:
        description: of the command.
        lines_of: (result, its path) -> the page.

    Returns:
        The result and its path.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("result", type=Path)
    path = parser.parse_args().result
    result = read_result(path)
    replace_text(path.with_suffix(".md"), "\n".join(lines_of(result, path)) + "\n")
    return result, path


def lines_of(result: Result, path: Path) -> list[str]:
    """The page."""
    host, config = result.host, result.config
    versions = (f"{name} {version}" for name, version in config["peer_versions"].items() if version)
    load, busy = config["load_average_before"][0], result.metrics["host_busy_fraction"]
    lines = [
        "# Whole batches beside every peer",
        "",
        f"`python benchmarks/bench_inference.py --json …` · {host['cpu_model']}, "
        f"{host['cores']['usable']} cores, {', '.join(versions)}. Intervals, settings, "
        f"host: [{path.name}]({path.name}); names: the head of the benchmark, "
        "[docs/results.md](../../docs/results.md).",
        f"Load average before: {load:.1f}; other work had {busy:.1%} of the core. "
        + " ".join(f"**Not valid**: {reason}." for reason in result.validity.reasons),
        "",
        f"![Speed-up by batch and roofline]({path.with_suffix('.svg').name})",
        "",
        "## Targets",
        "",
        *table(("what", "goal", "measured", ""), target_rows(result)),
    ]
    for setting, title in {
        "": "One core, uniform ids",
        "_zipf": "One core, Zipf ids",
        "_w2": "Two cores, uniform ids: microseconds a batch of both together",
    }.items():
        tables = [line for m in models_of(result) for line in case_table(result, m + setting)]
        lines += ["", f"## {title}", "", *tables] if tables else []
    lines += ["", "## What that is, 64 items, uniform ids", ""]
    for model in models_of(result):
        lines += rates_table(result, f"{model}.b64")
    lines += ["", "## The user's side once, 128 items", "", *user_once_table(result)]
    lines += ["", "## Missing", ""]
    lines += [f"- `{who}`: {why}" for who, why in config["missing"].items()] or ["Nothing."]
    return lines


def target_rows(result: Result) -> list[tuple[str, ...]]:
    """Every goal, met or not."""
    rows = []
    for metric, least, words in TARGETS:
        name = metric
        if metric.endswith(".best"):
            model = metric.split(".")[1]
            best = result.config["chosen"].get(f"best_of_ours.{model}", "tailrank_fp32")
            precision = best.removeprefix("tailrank_")
            name, words = metric.removesuffix("best") + precision, f"{words} ({precision})"
        if name in result.metrics:
            value, low_high = result.metrics[name], result.intervals[name]
            said = f"**{value:.2f}x** ({low_high[0]:.2f} to {low_high[1]:.2f})"
            rows.append((words, f"{least}x", said, "met" if value >= least else "missed"))
    return rows


def case_table(result: Result, model: str) -> list[str]:
    """Microseconds of each candidate by batch, and the part of them that the floor is."""
    prefix = f"us.{model}.b"
    found = [name.removeprefix(prefix) for name in result.metrics if name.startswith(prefix)]
    batches = list(dict.fromkeys(name.split(".")[0] for name in found))
    rows = []
    for who in dict.fromkeys(name.split(".")[1] for name in found):
        cells = [f"`{who}`"]
        for items in batches:
            cells.append(f"{result.metrics[f'us.{model}.b{items}.{who}']:,.1f}")
            fraction = result.metrics.get(f"floor_fraction.{model}.b{items}.{who}")
            if fraction is not None:
                cells[-1] += f" ({fraction:.2f})"
        rows.append(tuple(cells))
    if not rows:
        return []
    return [*table((f"{model}: µs (floor / time) by items", *batches), rows), ""]


def rates_table(result: Result, case: str) -> list[str]:
    """Items, rows, bytes and products per time."""
    names = ("items_per_s", "ns_per_row", "gb_per_s", "gflop_per_s", "floor_fraction")
    prefix = f"items_per_s.{case}."
    whose = [name.removeprefix(prefix) for name in result.metrics if name.startswith(prefix)]
    rows = []
    for who in whose:
        values = [result.metrics.get(f"{name}.{case}.{who}") for name in names]
        digits = (0, 1, 1, 0, 2)
        cells = ("" if v is None else f"{v:,.{d}f}" for v, d in zip(values, digits, strict=True))
        rows.append((f"`{who}`", *cells))
    head = (case, "items/s", "ns/row", "GB/s of rows", "GFLOP/s", "floor / time")
    return [*table(head, rows), ""] if rows else []


def user_once_table(result: Result) -> list[str]:
    """All features per item and user once side by side."""
    rows = []
    for name in result.metrics:
        parts = name.split(".")
        if parts[0] == "user_once_speedup" and len(parts) == 3:
            _, model, precision = parts
            ways = ("all_items", "copied", "once")
            times = (f"us.{model}_user_{way}.b128.tailrank_{precision}" for way in ways)
            low, high = result.intervals[name]
            speedup = f"{result.metrics[name]:.2f}x ({low:.2f} to {high:.2f})"
            cells = (f"{result.metrics[time]:,.1f}" for time in times)
            rows.append((f"{model} {precision}", *cells, speedup))
    head = ("µs a part", "a user for each item", "one user copied for each", "user once", "")
    return table(head, rows)


def models_of(result: Result) -> list[str]:
    """Names of the models."""
    models: Sequence[Mapping[str, str]] = result.config["models"]
    return [model["name"] for model in models]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    every = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in every]


if __name__ == "__main__":
    main()
