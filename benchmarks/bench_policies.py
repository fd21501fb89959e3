"""What the policies hold: baseline, best static batch and slack, simulated and live.

Simulated: eight presets x {production, mlperf} x SLA {the paper's p95, a tenth of it, three times
the mean query on one worker}, from service-time tables that this run measures, or that lie in
`--profiles`. Live: six of these cells, the best static batch twice; a search held against the best;
a journal that is replayed; a ranker that stalls; RMC1 with `normal:128,16`.

    python benchmarks/bench_policies.py [--quick] [--json PATH] [--only simulated|live]
        [--presets NAME …] [--profiles DIR] [--journal SECONDS]

Beside PATH it writes PATH's page, as `policies_report.py PATH` does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench_loop import measure_simulation
from inference_operators import SCALES
from policies_report import ERROR_ALLOWED, lines_of
from policy_cells import SIZES, SLA_CLASSES, Cell, CellFound, simulate_cell
from policy_live import CASES, LiveSettings, measure_target
from tailrank.characterization.load_test import measure_profile
from tailrank.characterization.service_time import NUM_ITEMS_GRID, NUM_PARTS_GRID, ProfileConfig
from tailrank.characterization.target import PRESET_PREFIX, Target, TargetConfig, open_target
from tailrank.core.errors import ConfigError, TailrankError
from tailrank.core.files import replace_text
from tailrank.core.measurement import Validity
from tailrank.core.service_time import ServiceTimeTable
from tailrank.models.presets import load_preset
from tailrank.reporting.result import Result, to_json, write_result

WORKERS = 2
# Of RMC1 as much as its goal is stated for; the others as in the inference benchmark.
PRESET_SCALES = {**SCALES, "dlrm-rmc1": 0.25}
QUICK_PRESETS = ("ncf", "dlrm-rmc1")
# Other work on the machine makes live figures and tables worth little.
_LOAD_AVERAGE_MAX = 1.0
_EVENT_ROUNDS = 3
# RMC2 gathers ten times as many rows as the next one: its largest batches take half a second.
_PROFILE_FACTOR = {"dlrm-rmc2": 3.0}
_LIVE = LiveSettings(num_workers=WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured.

    Args:
        presets: which.
        sizes: of the simulated cells.
        num_queries: of a simulated run; p99 of 6,000, less a tenth to warm up, is decided by the
            slowest 54.
        profile_s: for each preset's table, times `_PROFILE_FACTOR`.
        num_items: batch sizes of the tables.
        num_parts: parts of a batch in the tables.
        shrink: factor on the presets' rows.
        only: `simulated`, `live`, or None for both.
        live: how long is served.
    """

    presets: tuple[str, ...] = tuple(PRESET_SCALES)
    sizes: tuple[str, ...] = SIZES
    num_queries: int = 6_000
    profile_s: float = 30.0
    num_items: tuple[int, ...] = NUM_ITEMS_GRID
    num_parts: tuple[int, ...] = NUM_PARTS_GRID
    shrink: float = 1.0
    only: str | None = None
    live: LiveSettings = _LIVE

    def scale(self, preset: str) -> float:
        """Factor on the rows of a preset."""
        return PRESET_SCALES[preset] * self.shrink

    @property
    def cells(self) -> list[Cell]:
        """Those to simulate."""
        return [
            Cell(preset, sizes, sla_class)
            for preset in self.presets
            for sizes in self.sizes
            for sla_class in SLA_CLASSES
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("simulated", "live"))
    parser.add_argument("--presets", nargs="+", choices=PRESET_SCALES, help="these alone")
    parser.add_argument("--profiles", type=Path, help="keep tables here, and take those there are")
    parser.add_argument("--journal", type=float, help="seconds of the journalled run")
    arguments = parser.parse_args()
    settings = replace(Settings(), only=arguments.only)
    if arguments.quick:
        settings = quick(settings)
    if arguments.presets:
        settings = replace(settings, presets=tuple(arguments.presets))
    if arguments.journal:
        settings = replace(settings, live=replace(settings.live, journal_s=arguments.journal))
    try:
        result = measure(settings, arguments.profiles)
    except TailrankError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        write_result(arguments.json, result)
        page = lines_of(result, arguments.json)
        replace_text(arguments.json.with_suffix(".md"), "\n".join(page) + "\n")
    print(to_json(result))


def quick(settings: Settings) -> Settings:
    """Two presets, short runs: under a minute on 2 cores, and no figure worth quoting."""
    live = replace(settings.live, rounds=2, queries=200, search_s=2.0, journal_s=2.0, stall_s=2.0)
    return replace(
        settings,
        presets=QUICK_PRESETS,
        sizes=("production",),
        num_queries=1500,
        profile_s=6.0,
        num_items=(1, 8, 128, 1000),  # as parts, so that as many items as parts can be interpolated
        num_parts=(1, 8),
        shrink=0.1,
        live=live,
    )


def measure(settings: Settings, profiles: Path | None) -> Result:
    """Everything, as a result."""
    load_average = os.getloadavg()
    seconds: dict[str, float] = {}
    metrics: dict[str, float] = {}
    reasons: list[str] = []
    tables: dict[str, ServiceTimeTable] = {}
    for preset in settings.presets:
        with stage(seconds, f"{preset}: profile"):
            target, tables[preset] = open_and_profile(preset, settings, profiles)
        if target is not None and settings.only != "simulated":
            with stage(seconds, f"{preset}: live"):
                found = measure_target(
                    preset,
                    target,
                    tables[preset],
                    settings.live,
                    partial(profile_quickly, preset, target, settings),
                    say,
                )
            metrics |= found.metrics
            reasons += found.reasons
        del target  # its tables, before the next ones
    cells: list[CellFound] = []
    if settings.only != "live":
        with stage(seconds, "events"):
            metrics |= events_per_s()
        with stage(seconds, "simulate"):
            cells = simulate_all(settings, tables)
    metrics = summary(cells, metrics) | metrics
    if load_average[0] > _LOAD_AVERAGE_MAX:
        reasons.insert(0, f"busy: load average {load_average[0]:.1f} before the run")
    return Result(
        command="bench_policies",
        config={
            "settings": settings,
            "scales": {preset: settings.scale(preset) for preset in settings.presets},
            "tables": {preset: table.device for preset, table in tables.items()},
            "load_average_before": load_average,
            "seconds": seconds,
            "cells": [cell_record(found) for found in cells],
        },
        seed=0,
        metrics=metrics,
        validity=Validity(tuple(reasons)),
    )


@contextmanager
def stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Keep and tell how long a stage took."""
    started_s = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started_s, 1)
    say(f"{name}: {seconds[name]:.0f} s")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def open_and_profile(
    preset: str, settings: Settings, profiles: Path | None
) -> tuple[Target | None, ServiceTimeTable]:
    """A preset, where it is served or not yet profiled, and its service times.

    Raises:
        ConfigError: the table that lies there is of other rows.
    """
    path = None if profiles is None else profiles / f"{preset}.json"
    table = ServiceTimeTable.load(path) if path is not None and path.exists() else None
    scale = settings.scale(preset)
    if table is not None:
        rows = sum(each.num_embeddings for each in load_preset(preset, scale=scale).spec.tables)
        if f" {preset} rows={rows} " not in table.device:
            raise ConfigError("--profiles", table.device, f"a table of {preset} with {rows} rows")
    served = settings.only != "simulated" and any(case.preset == preset for case in CASES)
    if table is not None and not served:
        return None, table
    target = open_target(TargetConfig(target=f"{PRESET_PREFIX}{preset}", scale=scale), say)
    if table is None:
        table = profile_target(preset, target, settings)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            table.save(path)
    return target, table


def profile_target(preset: str, target: Target, settings: Settings) -> ServiceTimeTable:
    """Its service times, now."""
    config = ProfileConfig(
        num_items=settings.num_items,
        num_parts=settings.num_parts,
        num_workers=WORKERS,
        budget_s=settings.profile_s * _PROFILE_FACTOR.get(preset, 1.0),
    )
    return measure_profile(target, config, lambda fraction, remark: None, say)


def profile_quickly(preset: str, target: Target, settings: Settings) -> ServiceTimeTable:
    """The same in a third of the time, on a part of the grid."""
    parts = settings.num_parts[0], settings.num_parts[-1]
    # None between one item and as many as parts: few items in several parts lie between the two.
    items = [n for n in settings.num_items if n == 1 or n >= parts[-1]]
    quick = replace(
        settings,
        num_items=(items[0], *items[1:-1:2], items[-1]),
        num_parts=parts,
        profile_s=settings.profile_s / 3,
    )
    return profile_target(preset, target, quick)


def simulate_all(settings: Settings, tables: dict[str, ServiceTimeTable]) -> list[CellFound]:
    """All cells, a process for each core; those with a search first, for they take longest."""
    cells = sorted(settings.cells, key=lambda cell: cell not in CASES)
    found: dict[Cell, CellFound] = {}
    # Forked children would inherit locks that torch's threads hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        jobs = [
            pool.submit(
                simulate_cell,
                cell,
                tables[cell.preset],
                WORKERS,
                settings.num_queries,
                cell in CASES,
            )
            for cell in cells
        ]
        for job in as_completed(jobs):
            one = job.result()
            found[one.cell] = one
            say(
                f"[{len(found)}/{len(cells)}] {one.cell.name}: baseline {one.baseline_qps:,.0f}, "
                f"static {one.static_qps:,.0f} (batch {one.static_batch}), "
                f"slack {one.slack_qps:,.0f} (batch {one.slack_batch}) queries/s"
            )
    return [found[cell] for cell in settings.cells]


def cell_record(found: CellFound) -> dict[str, object]:
    """What the page needs of a cell."""
    return {
        "name": found.cell.name,
        "sla_ms": found.sla_ms,
        "baseline_qps": found.baseline_qps,
        "static_qps": found.static_qps,
        "static_batch_items_max": found.static_batch,
        "slack_qps": found.slack_qps,
        "slack_batch_items_max": found.slack_batch,
        "slack_untuned_qps": found.slack_untuned_qps,
        "search_over_oracle": found.search_over_oracle,
        "search_cpu_s": found.search_s,
    }


def summary(cells: Sequence[CellFound], live: dict[str, float]) -> dict[str, float]:
    """The figures over all cells and cases.

    A ratio is of cells where the static oracle holds a load; how many there are not is told.
    """
    served = [found for found in cells if found.static_qps]
    ratios = {found.cell: found.slack_qps / found.static_qps for found in served}
    untuned = {found.cell: found.slack_untuned_qps / found.static_qps for found in served}
    metrics = means("slack_over_static_oracle", ratios)
    metrics |= means("slack_untuned_over_static_oracle", untuned)
    if ratios:
        metrics["num_cells"] = len(ratios)
        metrics["num_cells_without_static"] = len(cells) - len(ratios)
    tuned = [
        max(found.static_qps, found.slack_qps) / found.baseline_qps
        for found in cells
        if found.baseline_qps
    ]
    if tuned:
        metrics["tuned_over_baseline.geomean"] = statistics.geometric_mean(tuned)
        metrics["num_cells_without_baseline"] = len(cells) - len(tuned)
    metrics |= {f"slack_over_static_oracle.{cell.name}": it for cell, it in ratios.items()}
    searched = {found.cell.name: found.search_over_oracle for found in cells}
    searches = {
        f"search_over_oracle.{name}": ratio for name, ratio in searched.items() if ratio is not None
    }
    metrics |= searches
    every = [*searches.values(), *(v for k, v in live.items() if k == "search_over_oracle.live")]
    if every:
        metrics["search_over_oracle.min"] = min(every)
    return metrics | extremes(live)


def means(name: str, ratios: dict[Cell, float]) -> dict[str, float]:
    """Geometric mean and least ratio of each class, and the least of all."""
    metrics: dict[str, float] = {}
    for sla_class in SLA_CLASSES:
        own = [ratio for cell, ratio in ratios.items() if cell.sla_class == sla_class]
        if own:
            mean = statistics.geometric_mean(own) if min(own) else 0.0
            metrics[f"{name}.{sla_class}.geomean"] = mean
            metrics[f"{name}.{sla_class}.min"] = min(own)
    if ratios:
        metrics[f"{name}.min"] = min(ratios.values())
    return metrics


def events_per_s() -> dict[str, float]:
    """What `bench_loop.py` measures of the simulation: the plain metric is the slowest policy's."""
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(_EVENT_ROUNDS):
        measure_simulation(seen)
    return {name: statistics.median(values) for name, values in seen.items()}


def extremes(live: dict[str, float]) -> dict[str, float]:
    """The largest differences over the cases, and in how many the simulation is wrong by more."""
    cases = [case.name for case in CASES]
    metrics = {}
    for name in ("simulation_error_fraction", "aa_spread_fraction"):
        values = [live[f"{name}.{case}"] for case in cases if f"{name}.{case}" in live]
        if values:
            metrics[f"{name}.max"] = max(values)
    errors = {case: live.get(f"simulation_error_fraction.{case}") for case in cases}
    beyond = [
        case
        for case, error in errors.items()
        if error is not None and error > max(ERROR_ALLOWED, live[f"aa_spread_fraction.{case}"])
    ]
    if any(error is not None for error in errors.values()):
        metrics["num_cases_beyond_error"] = len(beyond)
    return metrics


if __name__ == "__main__":
    main()
