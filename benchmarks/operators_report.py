"""Tables from a result of `bench_inference.py --operators`, written beside it.

python benchmarks/operators_report.py RESULT.json
"""

from __future__ import annotations

from pathlib import Path

from inference_report import table, write_page
from tailrank.reporting.result import Result

SHARES = ("lookup", "dense", "attention", "recurrent", "other")
OURS, EAGER = "tailrank_fp32", "eager_modules_fp32"


def lines_of(result: Result, path: Path) -> list[str]:
    """The page."""
    host, config = result.host, result.config
    load, busy = config["load_average_before"][0], result.metrics["host_busy_fraction"]
    cases = dict.fromkeys(name.split(".")[1] for name in result.metrics if name.startswith("us."))
    return [
        "# Where each of the eight models spends its time",
        "",
        f"`python benchmarks/bench_inference.py --operators --json …` · {host['cpu_model']}, one "
        f"core, torch {result.versions['torch']}. fp32, uniform ids; intervals, settings, host: "
        f"[{path.name}]({path.name}); names: [docs/results.md](../../docs/results.md).",
        f"Load average before: {load:.1f}; other work had {busy:.1%} of the core. "
        + " ".join(f"**Not valid**: {reason}." for reason in result.validity.reasons),
        "",
        "MODEL has all features of every item its own (the papers' setting); in MODEL`_user_once` "
        "one user's side is there once for all items. Published shares are those that DeepRecSys "
        "read off Caffe2 on its Intel host in the papers' setting. The cpu ranker's shares differ "
        "from them as far as it made one operator faster than another; eager modules are nearer to "
        "what the paper measured.",
        "",
        "## Items per second",
        "",
        *table(
            ("", "items", "µs a batch", "items/s", "eager µs", "over eager modules"),
            (speed_row(result, case, items) for case in cases for items in batches(result, case)),
        ),
        "",
        "## Shares of a batch's time",
        "",
        *table(
            ("", "items", "of", *SHARES, "published"),
            (
                share_row(result, case, items, who)
                for case in cases
                for items in batches(result, case)
                for who in (OURS, EAGER)
            ),
        ),
        "",
        "## What the cpu ranker chose",
        "",
        *table(("", "dense layers", "lookups", "score"), chosen_rows(result)),
    ]


def batches(result: Result, case: str) -> list[int]:
    """Items of the batches of a case."""
    prefix = f"us.{case}.b"
    names = (name for name in result.metrics if name.startswith(prefix))
    return list(dict.fromkeys(int(name.removeprefix(prefix).split(".")[0]) for name in names))


def speed_row(result: Result, case: str, items: int) -> tuple[str, ...]:
    """Times of both, and their ratio."""
    metrics, name = result.metrics, f"{case}.b{items}"
    speedup = f"speedup_vs_eager.{name}.fp32"
    low, high = result.intervals[speedup]
    return (
        case,
        f"{items:,}",
        f"{metrics[f'us.{name}.{OURS}']:,.1f}",
        f"{metrics[f'items_per_s.{name}.{OURS}']:,.0f}",
        f"{metrics[f'us.{name}.{EAGER}']:,.1f}",
        f"**{metrics[speedup]:.2f}x** ({low:.2f} to {high:.2f})",
    )


def share_row(result: Result, case: str, items: int, who: str) -> tuple[str, ...]:
    """Shares of one ranker, and what was published of that model and batch."""
    shares = (result.metrics[f"share.{case}.b{items}.{who}.{name}"] for name in SHARES)
    published = result.config["published_shares"].get(case, {})
    said = [f"{name} {of[str(items)]}" for name, of in published.items() if str(items) in of]
    cells = (f"{share:.0%}" if share >= 0.005 else "" for share in shares)
    whose = "cpu ranker" if who == OURS else "eager"
    return (case, f"{items:,}", whose, *cells, ", ".join(said))


def chosen_rows(result: Result) -> list[tuple[str, ...]]:
    """Backends of each case's ranker."""
    names = ("dense_backend", "embedding_backend", "score_path")
    return [
        (case, *(str(described[name]) for name in names))
        for case, described in result.config["described"].items()
    ]


if __name__ == "__main__":
    write_page(__doc__, lines_of)
