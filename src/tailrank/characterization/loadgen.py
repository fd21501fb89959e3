"""A live run under the load of MLPerf LoadGen.

LoadGen decides when which sample is issued, and judges; tailrank is its *system under test*: the
live runtime on an open inbox. Both keep their own books of the same run. This module must not know
what ranks a batch.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tailrank.characterization.loadgen_log import LoadGenVerdict, read_verdict
from tailrank.characterization.loadgen_system import SystemUnderTest, settings_for, start_generator
from tailrank.core.errors import ConfigError, ServingError
from tailrank.core.exit_codes import ExitCode
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, Query
from tailrank.core.sla import SLA
from tailrank.runtime.inbox import OpenInbox
from tailrank.runtime.live import run_live
from tailrank.runtime.ports import RunBatch
from tailrank.runtime.record import QueryOutcome, RunResult
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import PayloadFor, WorkloadConfig, draw_schedule

Scenario = Literal["Server", "Offline"]

_NUM_WARMUP = 256
# Offline needs a rate beforehand, and a run that is too short is void; LoadGen adds 10 % itself.
_OFFLINE_MARGIN = 1.3
# Offline hands over so much work ahead. A run is closed once its last query has been handed over,
# and gives up what is open 30 s later: a slow model would not be done with a full queue.
_AHEAD_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenConfig:
    """A run under LoadGen.

    Args:
        scenario: `Server`: queries arrive at random, one at a time; `Offline`: all at once.
        qps: Server: queries per second that LoadGen issues on average. Offline: what is expected,
            which decides how many it issues; None: as the warm-up suggests.
        sla: Server: the bound on latency. None in Offline, which has none.
        workload: what the samples look like.
        policy: the scheduling policy.
        num_workers: worker threads.
        seconds: shortest duration of a VALID run; None: MLPerf's, 600.
        num_queries_min: fewest queries of a VALID run; None: MLPerf's for DLRM-v2.
        num_samples: size of the sample library.

    Raises:
        ConfigError: a number is out of range, or scenario, rate and bound do not go together.
    """

    scenario: Scenario
    qps: float | None
    sla: SLA | None
    workload: WorkloadConfig
    policy: PolicyConfig
    num_workers: int
    seconds: float | None = None
    num_queries_min: int | None = None
    num_samples: int = 204_800

    def __post_init__(self) -> None:
        server = self.scenario == "Server"
        if self.qps is None and server:
            raise ConfigError("--qps", None, "queries per second to offer; tailrank tune finds it")
        if self.qps is not None and not 0.0 < self.qps < float("inf"):
            raise ConfigError("--qps", self.qps, "a finite number above 0")
        if server != (self.sla is not None):
            raise ConfigError("--sla", self.sla, "a bound for Server, none for Offline")
        if self.seconds is not None and self.seconds <= 0.0:
            raise ConfigError("--duration", self.seconds, "a time above 0")


@dataclass(frozen=True, slots=True, eq=False)
class LoadGenRun:
    """One run in both books.

    Args:
        verdict: LoadGen's.
        result: ours. Latencies run from LoadGen's schedule: the hand-over may be late because
            workers hold the core or the interpreter, and that is the system's fault.
        issue_delay_ns: from the schedule to the hand-over, in the order of `result`.
        qps: what LoadGen was told: offered in Server, expected in Offline.
    """

    verdict: LoadGenVerdict
    result: RunResult
    issue_delay_ns: NDArray[np.int64]
    qps: float


def run_loadgen(
    config: LoadGenConfig,
    folder: Path,
    run_batch: RunBatch,
    *,
    payload_for: PayloadFor | None = None,
    initialise_worker: Callable[[int], None] | None = None,
    fleet: Fleet | None = None,
) -> LoadGenRun:
    """Serve what LoadGen issues until it is content; a warm-up comes first.

    Args:
        config: see `LoadGenConfig`.
        folder: where LoadGen writes its logs; it must exist.
        run_batch: ranks a batch, on a worker's thread.
        payload_for: see `draw_schedule`.
        initialise_worker: see `run_live`.
        fleet: what the policy predicts with.

    Raises:
        ConfigError: a sample is larger than the policy's queue.
        ServingError: a batch failed; says why.
        DataError: LoadGen wrote no log, or reports an error in it.
    """
    library = draw_schedule(
        config.workload, qps=1e9, num_queries=config.num_samples, payload_for=payload_for
    )
    largest = max(sample.num_items for sample in library)
    if largest > config.policy.queue_items_max:
        allowed = f"queries of up to {config.policy.queue_items_max:,} items, as the queue holds"
        raise ConfigError("--sizes", config.workload.sizes, allowed)

    def serve(queries: Sequence[Query] | OpenInbox, run: RunBatch, **options: Any) -> RunResult:
        result = run_live(
            queries,
            config.policy,
            num_workers=config.num_workers,
            run_batch=run,
            initialise_worker=initialise_worker,
            fleet=fleet,
            **options,
        )
        if result.first_error is not None:
            # A broken ranker must not pass for a slow one.
            raise ServingError(f"a query failed: {result.first_error}") from result.first_error
        return result

    warm = serve(library[:_NUM_WARMUP], run_batch)
    warm_qps = int((warm.queries.outcome == QueryOutcome.ANSWERED).sum()) / (warm.ended_ns / 1e9)
    qps = config.qps if config.qps is not None else _OFFLINE_MARGIN * warm_qps

    inbox = OpenInbox()
    items_max = None
    if config.scenario == "Offline":
        items_max = min(config.policy.queue_items_max, max(largest, items_ahead(warm)))
    system = SystemUnderTest(inbox, library, items_max)

    def run_or_end(batch: Batch) -> Sequence[object]:
        try:
            return run_batch(batch)
        except Exception:
            inbox.close()  # the run says so at once, not after ten minutes
            raise

    settings = settings_for(
        qps=qps,
        sla=config.sla,
        seconds=config.seconds,
        num_queries_min=config.num_queries_min,
        num_samples=len(library),
    )
    generator = start_generator(system, settings, folder)
    try:
        result = serve(inbox, run_or_end, on_answer=system.answer)
        system.answer_rest()
        generator.join()
    except BaseException as error:
        if generator.is_alive():
            _skip_destructors_at_exit(error)
        raise
    return _in_both_books(read_verdict(folder, qps), result, qps)


def items_ahead(warm: RunResult) -> int:
    """Items that workers as fast as in this run do in a time that is well within the drain's."""
    answered = warm.queries.outcome == QueryOutcome.ANSWERED
    items = int(warm.queries.num_items[answered].sum())
    return round(_AHEAD_S * items / (warm.ended_ns / 1e9))


def _in_both_books(verdict: LoadGenVerdict, result: RunResult, qps: float) -> LoadGenRun:
    """Count our latencies from LoadGen's schedule, of which the run knew the hand-over only.

    It began when its first query was due; at the latest then when the query that was handed over
    with the least delay would have had none.
    """
    queries = result.queries
    handed_over_ns = queries.scheduled_ns
    due_ns = handed_over_ns
    if verdict.schedule_ns is not None:
        due_ns = verdict.schedule_ns[queries.query_id]
        due_ns = due_ns + (handed_over_ns - due_ns).min()
    counted = replace(result, queries=replace(queries, scheduled_ns=due_ns))
    return LoadGenRun(verdict, counted, handed_over_ns - due_ns, qps)


def _skip_destructors_at_exit(error: BaseException) -> None:
    """Let the process end while LoadGen is at work, which nobody can stop before its time.

    Its logger is destroyed at exit under the feet of its own thread, and the process would die of
    a segmentation fault in place of its exit code.
    """
    interrupted = isinstance(error, KeyboardInterrupt)
    code = ExitCode.INTERRUPTED if interrupted else ExitCode.USER_ERROR

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)
