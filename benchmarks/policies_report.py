"""Tables from a result of `bench_policies.py`, written beside it.

python benchmarks/policies_report.py RESULT.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference_report import table, write_page
from tailrank.reporting.result import Result

# Metric, least value, words.
AIMS = (
    ("slack_over_static_oracle.paper.geomean", 1.0, "slack over the static oracle, paper's p95"),
    ("slack_over_static_oracle.tenth.geomean", 1.08, "the same, a tenth of it"),
    ("slack_over_static_oracle.tight.geomean", 1.15, "the same, 3x the mean query"),
    ("slack_over_static_oracle.min", 0.98, "the same, the worst cell"),
    ("search_over_oracle.min", 0.97, "what a search chose over the best"),
    ("simulated_events_per_s", 200_000, "simulated events/s, one core, the slowest policy"),
    ("rmc1_normal.capacity_qps", 2800, "RMC1, `normal:128,16`, p95 100 ms, queries/s live"),
)
# A simulation may be wrong by this share, or by what two runs of one policy differ.
ERROR_ALLOWED = 0.05
# Stalls of 50 ms a second hold up a twentieth of the queries, by anything from 0 to 50 ms: a
# hundredth of all by 40 ms and more. A load test that waited for its ranker would see none of them.
STALLED_P99_MS = 30.0


def lines_of(result: Result, path: Path) -> list[str]:
    """The page."""
    host, config = result.host, result.config
    seconds: Mapping[str, float] = config["seconds"]
    lines = [
        "# Policies beside the best static batch, simulated and live",
        "",
        f"`python benchmarks/bench_policies.py --json …` · {host['cpu_model']}, 2 workers, "
        f"torch {result.versions['torch']}, fp32. Settings, times of stages, host: "
        f"[{path.name}]({path.name}); names: [docs/results.md](../../docs/results.md). Load "
        f"average before: {config['load_average_before'][0]:.1f}; "
        f"{sum(seconds.values()):,.0f} s in all.",
        *(f"**Not valid**: {reason}." for reason in result.validity.reasons),
        "",
        "## Aims",
        "",
        *table(("", "aim", "measured", ""), aim_rows(result.metrics)),
    ]
    if config["cells"]:
        lines += [
            "",
            "## Simulated",
            "",
            "Queries/s inside the SLA's p95, p99 inside three times it, without rejects, the queue "
            "drained; the same queries for all. The static oracle is the best of a whole grid of "
            "batches, and `slack` the best of the same grid, beside it with the largest batch. 0: "
            "no load of a hundredth of what the workers could do meets the SLA.",
            "",
            *left_out(config["cells"]),
            *table(
                (
                    "",
                    "p95, ms",
                    "baseline",
                    "static oracle (batch)",
                    "slack (batch)",
                    "over the oracle",
                    "untuned",
                ),
                map(cell_row, config["cells"]),
            ),
        ]
    cases = cases_of(result.metrics)
    if cases:
        lines += [
            "",
            "## Live, and what the simulation said",
            "",
            *table(
                ("", "p95, ms", "baseline", "static [batch]", "slack", "error", "A/A"),
                (case_row(result.metrics, case) for case in cases),
            ),
            "",
            "Live (simulated) queries/s, medians of three rounds of profile, simulation and live "
            "search. Error: the largest of the three policies' medians; A/A: the largest between "
            "two live searches of one policy. A load that was missed is served once more before it "
            "counts, lest a pause of the host decide; it raises live figures a bit.",
        ]
    return lines


def in_words(value: float) -> str:
    """A ratio, or a rate."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def aim_rows(metrics: Mapping[str, float]) -> list[tuple[str, ...]]:
    """What was aimed at and what was measured; what was not measured is left out."""
    rows = [
        (words, f">= {least:,g}", f"**{in_words(metrics[name])}**", verdict(metrics[name] >= least))
        for name, least, words in AIMS
        if name in metrics
    ]
    if (beyond := metrics.get("num_cases_beyond_error")) is not None:
        words = (
            f"cases where simulated and live differ by more than {ERROR_ALLOWED:.0%} and more than "
            f"A/A; most: {metrics['simulation_error_fraction.max']:.1%}"
        )
        rows.append((words, "0", f"**{beyond:.0f}**", verdict(beyond == 0)))
    if (different := metrics.get("journal.num_steps_different")) is not None:
        words = f"steps of {metrics['journal.num_steps']:,.0f} that a replay decides otherwise"
        rows.append((words, "0", f"**{different:,.0f}**", verdict(different == 0)))
    if (stalled_ms := metrics.get("stalled.latency_ms_p99")) is not None:
        words = (
            f"p99 in ms with stalls of 50 ms; without: {metrics['unstalled.latency_ms_p99']:.1f}"
        )
        shows = stalled_ms >= STALLED_P99_MS
        rows.append((words, f">= {STALLED_P99_MS:g}", f"**{stalled_ms:.1f}**", verdict(shows)))
    if (tuned := metrics.get("tuned_over_baseline.geomean")) is not None:
        rows.append(("the better of both over the static baseline", "", f"**{tuned:.3g}x**", ""))
    return rows


def verdict(is_met: bool) -> str:
    """In a word."""
    return "met" if is_met else "**missed**"


def cell_row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """A simulated cell."""
    static_qps, slack_qps = cell["static_qps"], cell["slack_qps"]
    return (
        cell["name"],
        f"{cell['sla_ms']:.3g}",
        f"{cell['baseline_qps']:,.0f}",
        f"{static_qps:,.0f} ({cell['static_batch_items_max']})",
        f"{slack_qps:,.0f} ({cell['slack_batch_items_max']})",
        f"{slack_qps / static_qps:.3f}" if static_qps else "",
        f"{cell['slack_untuned_qps'] / static_qps:.3f}" if static_qps else "",
    )


def left_out(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names those that no ratio counts, as the oracle holds no load there."""
    nobody = [cell["name"] for cell in cells if not cell["static_qps"] and not cell["slack_qps"]]
    only_slack = [cell["name"] for cell in cells if not cell["static_qps"] and cell["slack_qps"]]
    kinds = (("nobody holds a load", nobody), ("only `slack` does", only_slack))
    lines = [f"Left out of all means, as {why}: {', '.join(it)}." for why, it in kinds if it]
    return [*lines, ""] if lines else []


def cases_of(metrics: Mapping[str, float]) -> list[str]:
    """Names of the cells that were served."""
    ending = ".sla_ms"
    return [
        name.removeprefix("live.").removesuffix(ending)
        for name in metrics
        if name.startswith("live.") and name.endswith(ending)
    ]


def case_row(metrics: Mapping[str, float], case: str) -> tuple[str, ...]:
    """A cell that was served."""

    def capacity(who: str) -> str:
        live, simulated = (metrics.get(f"live.{case}.{who}{it}_qps") for it in ("", "_simulated"))
        return "" if live is None else f"{live:,.0f} ({simulated:,.0f})"

    def share(name: str) -> str:
        value = metrics.get(f"{name}.{case}")
        return "" if value is None else f"{value:.1%}"

    batch = metrics[f"live.{case}.static_batch_items_max"]
    return (
        case,
        f"{metrics[f'live.{case}.sla_ms']:.3g}",
        capacity("baseline"),
        f"{capacity('static')} [{batch:.0f}]",
        capacity("slack"),
        share("simulation_error_fraction"),
        share("aa_spread_fraction"),
    )


if __name__ == "__main__":
    write_page(__doc__, lines_of)
