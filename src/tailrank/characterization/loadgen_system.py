"""Our side of MLPerf LoadGen's interface: what it issues goes to a run's inbox, answers go back.

The only module that knows the package `mlcommons-loadgen` of the extra `[mlperf]`. It must not know
policies or workers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailrank.core.errors import BackendUnavailable, ServingError
from tailrank.core.query import Query
from tailrank.core.sla import SLA
from tailrank.runtime.inbox import OpenInbox

try:
    import mlperf_loadgen
except ImportError as error:
    raise BackendUnavailable(f"MLPerf LoadGen: {error}; pip install 'tailrank[mlperf]'") from None

# The benchmark whose rules LoadGen is asked for: 60 ms at p99, 600 s, 204,800 samples, its seeds.
_BENCHMARK = "dlrm-v2"
_CONF_OF_LOADGEN = 0  # `conf_type` of its own mlperf.conf, which is compiled in


class SystemUnderTest:
    """Passes on what LoadGen issues, and answers.

    Args:
        inbox: of the run.
        library: a query for each sample, to be copied.
        items_max: most items in the run at once; the rest of a flood waits here, where it takes a
            tenth of the memory. None: everything goes on at once.
    """

    def __init__(self, inbox: OpenInbox, library: Sequence[Query], items_max: int | None) -> None:
        self._inbox, self._library, self._items_max = inbox, library, items_max
        self._lock = threading.Lock()
        self._issued: deque[tuple[int, int, int]] = deque()  # response id, sample, time
        self._complete = False
        self._num_handed_over = 0
        self._items_open = 0
        self._response_ids: dict[int, int] = {}

    @property
    def num_samples(self) -> int:
        """Size of the library."""
        return len(self._library)

    def wait_until_ready(self) -> bool:
        """Wait for the workers; False: the run ended without having begun."""
        return self._inbox.wait_until_open()

    def issue(self, samples: Sequence[Any]) -> None:
        """Take samples; called by LoadGen."""
        now_ns = self._inbox.now_ns()
        with self._lock:
            self._issued.extend((sample.id, sample.index, now_ns) for sample in samples)
            self._hand_over()

    def flush(self) -> None:
        """All samples are issued; called by LoadGen."""
        with self._lock:
            self._complete = True
            self._hand_over()

    def answer(self, query: Query, results: tuple[object, ...], latency_ns: int) -> None:
        """Tell LoadGen of an answer; called by workers."""
        self._respond(self._response_ids.pop(query.query_id))
        if self._items_max is not None:
            with self._lock:
                self._items_open -= query.num_items
                self._hand_over()

    def answer_rest(self) -> None:
        """Tell LoadGen something of each query that had no answer: it waits for all of them."""
        for response_id in self._response_ids.values():
            self._respond(response_id)

    def _hand_over(self) -> None:
        # A run that a fault ended takes nothing more; nobody waits for LoadGen then, and it must
        # see no exception.
        with suppress(ServingError):
            self._hand_over_what_fits()

    def _hand_over_what_fits(self) -> None:
        while self._issued:
            response_id, index, issued_ns = self._issued[0]
            sample = self._library[index]
            if (
                self._items_max is not None
                and self._items_open + sample.num_items > self._items_max
            ):
                return
            self._issued.popleft()
            query = replace(sample, query_id=self._num_handed_over, scheduled_ns=issued_ns)
            self._num_handed_over += 1
            self._items_open += sample.num_items
            self._response_ids[query.query_id] = response_id
            self._inbox.submit(query)
        if self._complete:
            self._inbox.close()

    @staticmethod
    def _respond(response_id: int) -> None:
        # No scores: a performance run of LoadGen looks at none.
        mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(response_id, 0, 0)])


def settings_for(
    *,
    qps: float,
    sla: SLA | None,
    seconds: float | None,
    num_queries_min: int | None,
    num_samples: int,
) -> Any:
    """MLPerf's settings for its benchmark, with what is asked for here.

    Args:
        qps: with a bound, queries per second to offer; without, those that are expected.
        sla: the bound of the scenario Server; None: the scenario Offline.
        seconds: shortest duration of a VALID run; None: as MLPerf has it.
        num_queries_min: fewest queries of a VALID run; None: as MLPerf has it.
        num_samples: size of the sample library.
    """
    scenario = "Offline" if sla is None else "Server"
    settings = mlperf_loadgen.TestSettings()
    settings.FromConfig("", _BENCHMARK, scenario, _CONF_OF_LOADGEN)
    settings.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.performance_sample_count_override = num_samples
    if sla is None:
        settings.offline_expected_qps = qps
    else:
        settings.server_target_qps = qps
        settings.server_target_latency_ns = sla.latency_ns
        settings.server_target_latency_percentile = sla.percentile / 100.0
    if seconds is not None:
        settings.min_duration_ms = max(1, round(seconds * 1e3))
    if num_queries_min is not None:
        settings.min_query_count = num_queries_min
    return settings


def start_generator(system: SystemUnderTest, settings: Any, folder: Path) -> threading.Thread:
    """Start LoadGen's thread, which runs the test once the workers are ready.

    Args:
        system: what is tested.
        settings: from `settings_for`.
        folder: where LoadGen writes its logs.
    """
    logs = mlperf_loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = False  # hundreds of bytes for each query

    def generate() -> None:
        under_test = mlperf_loadgen.ConstructSUT(system.issue, system.flush)
        library = mlperf_loadgen.ConstructQSL(
            system.num_samples, system.num_samples, lambda indices: None, lambda indices: None
        )
        if system.wait_until_ready():
            mlperf_loadgen.StartTestWithLogSettings(under_test, library, settings, logs)
        mlperf_loadgen.DestroyQSL(library)
        mlperf_loadgen.DestroySUT(under_test)

    # A daemon, for nobody can stop it before its time.
    generator = threading.Thread(target=generate, name="mlperf-loadgen", daemon=True)
    generator.start()
    return generator
