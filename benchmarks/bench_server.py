"""`tailrank serve` beside FastAPI and Ray Serve with eager PyTorch, and what the wire costs.

All serve what `server_case.py` says and are asked by the client of `tailrank loadtest`, one process
that shares the cores with the server and goes before it where both want one. Servers take turns.

overhead  p50 of 128 items by ids over JSON under a light load, less that of calls of the ranker at
          the same times
binary    items/s of queries of 500 items by ids with binary tensors, over those of the same
          executor that is fed features in-process; neither ever waits; and the same of queries that
          bring features
capacity  the largest load of production sizes, by ids over JSON, whose p99 is within 20 ms
overload  at twice that: what is answered in time, how fast, and what memory grows by
kill      one worker process after another is killed under half of that: queries lost, and the
          longest time until all were there again

Ray Serve is measured where Ray is installed: .venv/bin/pip install 'ray[serve]>=2.60,<3'

    python benchmarks/bench_server.py [--quick] [--only PART …] [--json PATH]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from server_case import HEAVIER, ROWS, SERVED, Case, open_case, write_features
from server_in_process import InProcess, calls_ms_p50
from server_processes import NICE, TAILRANK, ServerProcess, serving
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.sla import SLA
from tailrank.features import Side
from tailrank.reporting import load_test as reported
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.runtime.record import QueryOutcome
from tailrank.serving.executors import EXECUTORS
from tailrank.serving.load_queries import read_ids
from tailrank.serving.load_target import LoadTarget
from tailrank.serving.load_test import LoadSettings, ServerLoadTest
from tailrank.serving.openapi import describe
from tailrank.serving.rank_request import RequestLimits
from tailrank.tuning.capacity import Capacity, verify_capacity
from worker_kills import killing

HEAVIER_RATIO = "binary_over_in_process." + HEAVIER.preset.replace("-", "_")
PARTS = ("overhead", "binary", "capacity", "overload", "kill")
SLA_TEXT = "p99=20ms"
WORKERS = 2
LIGHT_ITEMS, LIGHT_QPS = 128, 100.0
BINARY_ITEMS, BINARY_CONNECTIONS, BINARY_WARM_UP = 500, 4, 100
# Where a search begins in the first round, queries/s, and how long it goes on, s; in the others it
# begins at what the last one found, or lower.
FIRST_QPS = {"tailrank": 400.0, "fastapi": 20.0, "fastapi_tuned": 120.0, "ray_serve": 20.0}
SEARCH_S = {"tailrank": 35.0, "fastapi": 80.0, "fastapi_tuned": 35.0, "ray_serve": 80.0}
# Its dozen processes take a tenth of a core when nobody asks: it runs in its own turns only.
RAY_SERVE, RAY_WARM_UP = "ray_serve", 60
STEP, TOLERANCE = 1.3, 0.04
# Enough to bound a p99 for certain, at any load that brings them in such a time.
QUERIES_MIN, QUERIES_QUICK = 1000, 450
PROBE_S_MAX, PROBE_S_QUICK = 40.0, 12.0
KILL_EVERY_S = 1.0
_PEERS = Path(__file__).resolve().parent / "peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(LoadTarget):
    """A server that does not describe itself, and takes what ours takes.

    Args:
        described: what ours says of itself.
    """

    described: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """What ours says of itself."""
        return self.described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if "capacity" in arguments.only and find_spec("fastapi") is None:
        sys.exit("error: its peers need FastAPI: .venv/bin/pip install --group bench")
    torch.set_num_threads(1)  # before the fork: nothing here computes on more
    load_average = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        bench = ServerBench(write_features(Path(folder)), arguments.quick, servers)
        for part in PARTS:
            if part in arguments.only:
                getattr(bench, part)()
        if "binary" in arguments.only and not arguments.quick:
            with tempfile.TemporaryDirectory() as other:
                beside = ServerBench(write_features(Path(other), HEAVIER), False, servers, HEAVIER)
                beside.binary()
            ratio = beside.metrics["binary_over_in_process"]
            bench.metrics[HEAVIER_RATIO] = ratio
    result = Result(
        command="bench_server",
        config={
            "preset": SERVED.preset,
            "scale": SERVED.scale,
            "user_tables": SERVED.user_tables,
            "feature_rows": ROWS,
            "sla": SLA_TEXT,
            "workers": WORKERS,
            "server_nice": NICE,
            "quick": arguments.quick,
            "only": arguments.only,
            "load_average_before": load_average,
            "peer_versions": {
                name: version(name)
                for name in ("fastapi", "uvicorn", "pydantic", "ray")
                if find_spec(name) is not None
            },
            "rounds": bench.found,
        },
        seed=0,
        metrics=bench.metrics,
        intervals={
            f"capacity_qps.{who}": (min(each), max(each))
            for who, each in bench.found.items()
            if each
        },
        validity=Validity(tuple(dict.fromkeys(bench.reasons))),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


class ServerBench:
    """All parts; each leaves its metrics, and why they should not be believed.

    Args:
        files: features of users and items.
        quick: shorter runs, one round.
        servers: stops those that were started.
        case: what is served.

    Attributes:
        metrics: measured so far.
        reasons: why some are not valid.
        found: capacities by server, a round each.
    """

    def __init__(
        self, files: dict[Side, Path], quick: bool, servers: ExitStack, case: Case = SERVED
    ) -> None:
        self._files, self._quick, self._servers = files, quick, servers
        self._ours: ServerProcess | None = None
        self._case, self._model = case, open_case(files, case)
        self._ids = {side: read_ids(path, side) for side, path in files.items()}
        self.metrics: dict[str, float] = {}
        self.reasons: list[str] = []
        self.found: dict[str, list[float]] = {
            who: [] for who in FIRST_QPS if who != RAY_SERVE or find_spec("ray") is not None
        }

    def overhead(self) -> None:
        """One query at a time, over the wire and without it."""
        seconds = 4.5 if self._quick else 20.0
        test = self._test(self._server("tailrank"), sizes=f"fixed:{LIGHT_ITEMS}", seconds=seconds)
        at, _ = test.run(LIGHT_QPS)
        call_ms = calls_ms_p50(self._model, LIGHT_ITEMS, LIGHT_QPS, round(LIGHT_QPS * seconds))
        wire_ms = at.summary.percentile(50.0).value / 1e6
        self.metrics |= {
            "light.latency_ms_p50": wire_ms,
            "light.call_ms_p50": call_ms,
            "overhead_ms_p50": wire_ms - call_ms,
        }
        self._doubt("overhead", at)

    def binary(self) -> None:
        """Workers that never wait, over the wire and without it, in turns."""
        seconds, rounds, executors = (0.5, 1, EXECUTORS[:1]) if self._quick else (2.0, 7, EXECUTORS)
        rates: dict[str, list[float]] = {}
        with closing(InProcess(self._model, WORKERS)) as in_process, ExitStack() as servers:
            for executor in executors:
                words = ("--sla", "p99=10s", "--executor", executor)
                server = servers.enter_context(self._tailrank(*words))
                load = {
                    "protocol": "binary",
                    "sizes": f"fixed:{BINARY_ITEMS}",
                    "connections_max": BINARY_CONNECTIONS,
                }
                tests = {
                    "binary": self._test(server, **load),
                    "binary_features": self._test(server, by_id=False, **load),
                }
                num_calls = dict.fromkeys(tests, BINARY_WARM_UP)
                for number in range(rounds + 1):  # the first warms up
                    found = {}
                    for kind, test in tests.items():
                        found[kind] = without_rest(test, num_calls[kind])
                        enough = round(found[kind] / BINARY_ITEMS * seconds)
                        num_calls[kind] = max(BINARY_WARM_UP, enough)
                    found["in_process"] = in_process.items_per_s(
                        executor, BINARY_ITEMS, 2 * num_calls["binary"]
                    )
                    for kind, rate in found.items() if number else ():
                        rates.setdefault(f"{kind}.{executor}", []).append(rate)
        median = {name: statistics.median(each) for name, each in rates.items()}
        self.metrics |= {f"items_per_s.{name}": rate for name, rate in median.items()}
        for kind in ("binary", "binary_features"):
            for executor in executors:
                ratio = median[f"{kind}.{executor}"] / median[f"in_process.{executor}"]
                self.metrics[f"{kind}_over_in_process.{executor}"] = ratio
            best = max(executors, key=lambda executor: median[f"{kind}.{executor}"])
            best_ratio = self.metrics[f"{kind}_over_in_process.{best}"]
            self.metrics[f"{kind}_over_in_process"] = best_ratio

    def capacity(self) -> None:
        """What each server holds inside the SLA, in turns."""
        tests = {
            who: self._test(self._server(who), is_ours=who == "tailrank")
            for who in self.found
            if who != RAY_SERVE
        }
        for number in range(1 if self._quick else 3):
            for who, rounds in self.found.items():
                if who == RAY_SERVE:
                    with serving(self._peer(who)) as server:
                        test = self._test(server, is_ours=False)
                        test.run(FIRST_QPS[who], num_queries=RAY_WARM_UP)
                        found = self._search(test, self._first_qps(who), SEARCH_S[who])
                else:
                    found = self._search(tests[who], self._first_qps(who), SEARCH_S[who])
                rounds.append(found.capacity_qps)
                self._doubt(f"{who}, round {number + 1}", found.at, found.invalid_reasons)
        median = {who: statistics.median(each) for who, each in self.found.items()}
        self.metrics |= {f"capacity_qps.{who}": qps for who, qps in median.items()}
        for who, qps in median.items():
            if who != "tailrank" and qps:
                self.metrics[f"capacity_over_{who}"] = median["tailrank"] / qps

    def _first_qps(self, who: str) -> float:
        """Where a search begins: what a round has found, or lower for each that found nothing."""
        found = self.found[who]
        passed = [qps for qps in found if qps]
        return passed[-1] if passed else FIRST_QPS[who] / 2 ** len(found)

    def overload(self) -> None:
        """Twice the capacity."""
        capacity_qps = self._capacity_qps()
        if not capacity_qps:
            return
        server = self._server("tailrank")
        test = self._test(server, seconds=3.0 if self._quick else 60.0)
        test.run(capacity_qps, num_queries=QUERIES_QUICK)  # warms up
        before = server.rss_bytes
        at, run = test.run(2 * capacity_qps)
        grown = server.rss_bytes - before
        seen = reported.metrics(at, run.result, test.settings.sla, None)
        self.metrics |= {
            "goodput_fraction_at_2x": seen["goodput_qps"] / capacity_qps,
            "accepted_latency_ms_p99_at_2x": seen.get("accepted_latency_ms_p99", math.inf),
            "shed_fraction_at_2x": seen["num_shed"] / seen["num_queries"],
            "failed_at_2x": seen["num_failed"],
            "client_cpu_fraction_at_2x": run.cpu_fraction,
            "rss_growth_mb": grown / 1e6,
        }
        self._doubt("overload", at)

    def kill(self) -> None:
        """One process after another, while queries come."""
        capacity_qps = self._capacity_qps()
        if not capacity_qps:
            return
        with self._tailrank("--sla", SLA_TEXT, "--executor", "processes") as server:
            test = self._test(server, seconds=3.0 if self._quick else 30.0)
            with killing(server.workers, WORKERS, KILL_EVERY_S) as recovery_s:
                at, run = test.run(0.5 * capacity_qps)
        outcome = run.result.queries.outcome
        lost = (outcome == QueryOutcome.FAILED) | (outcome == QueryOutcome.UNANSWERED)
        self.metrics |= {
            "kills": len(recovery_s),
            "recovery_seconds_after_kill": max(recovery_s, default=math.inf),
            "lost_queries": int(lost.sum()),
            "shed_queries_under_kills": int((outcome == QueryOutcome.REJECTED).sum()),
            "queries_under_kills": len(outcome),
        }
        self._doubt("kill", at)

    def _capacity_qps(self) -> float:
        """Ours, as it was found, or else found now; 0: it holds no load."""
        if not self.found["tailrank"]:
            test = self._test(self._server("tailrank"))
            found = self._search(test, self._first_qps("tailrank"), SEARCH_S["tailrank"])
            self.found["tailrank"].append(found.capacity_qps)
        capacity_qps = statistics.median(self.found["tailrank"])
        self.metrics["capacity_qps.tailrank"] = capacity_qps
        if not capacity_qps:
            self.reasons.append(
                f"no load was found to keep {SLA_TEXT}: none is put on in its parts"
            )
        return capacity_qps

    def _tailrank(self, *words: str) -> AbstractContextManager[ServerProcess]:
        words = (*self._case.flags, "--workers", str(WORKERS), "--quiet", *words)
        files = {f"--{side}-features": str(path) for side, path in self._files.items()}
        return serving([*TAILRANK, *words, *chain.from_iterable(files.items())])

    def _server(self, who: str) -> ServerProcess:
        """A server that goes on until all is over: ours is one and the same for several parts."""
        if who == "tailrank":
            if self._ours is None:
                self._ours = self._servers.enter_context(self._tailrank("--sla", SLA_TEXT))
            return self._ours
        return self._servers.enter_context(serving(self._peer(who)))

    def _peer(self, who: str) -> list[str]:
        """What Python is told to be a peer."""
        files = {f"--{side}s": str(path) for side, path in self._files.items()}
        return [str(_PEERS / f"{who}_server.py"), *chain.from_iterable(files.items())]

    def _test(
        self, server: ServerProcess, *, is_ours: bool = True, by_id: bool = True, **load: Any
    ) -> ServerLoadTest:
        """The client of one server."""
        settings = LoadSettings(qps=1.0, sla=SLA.parse(SLA_TEXT), **load)
        target = LoadTarget.parse(server.url)
        if not is_ours:
            described = describe([self._model], RequestLimits(), with_token=False)
            target = Peer(url=target.url, host=target.host, port=target.port, described=described)
        return ServerLoadTest(target, settings, self._ids if by_id else None)

    def _search(self, test: ServerLoadTest, first_qps: float, search_s: float) -> Capacity:
        """The capacity of one server."""
        seconds, least, most_s = (5.0, QUERIES_MIN, PROBE_S_MAX)
        if self._quick:
            seconds, least, most_s, search_s = 1.0, QUERIES_QUICK, PROBE_S_QUICK, 4.0
        end_s = time.monotonic() + search_s

        def measure(sla: SLA, qps: float) -> Measurement:
            wanted = min(max(least, qps * seconds), qps * most_s)
            return test.run(qps, num_queries=max(1, round(wanted)))[0]

        sla = test.settings.sla
        assert sla is not None
        return verify_capacity(
            measure,
            sla,
            sla,
            expected_qps=first_qps,
            step=STEP,
            tolerance=TOLERANCE,
            seconds_left=lambda: end_s - time.monotonic(),
        )

    def _doubt(self, what: str, at: Measurement, reasons: Sequence[str] | None = None) -> None:
        """Note why a run should not be believed; more load than can be borne is no such reason."""
        given = at.validity.reasons if reasons is None else reasons
        self.reasons += [f"{what}: {each}" for each in given if not each.startswith("unstable")]


def without_rest(test: ServerLoadTest, num_queries: int) -> float:
    """Items per second where each connection asks again as soon as it is answered."""
    _, run = test.run(1e9, num_queries=num_queries)
    queries = run.result.queries
    if (queries.outcome != QueryOutcome.ANSWERED).any():
        raise SystemExit(f"a query was not answered: {run.result.first_error}")
    return float(queries.num_items.sum() / queries.done_ns.max() * 1e9)


if __name__ == "__main__":
    main()
