"""A server under load: the workload of `tune`, sent over the wire, at one load or up to the SLA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tailrank.characterization.load_test import LoadTestConfig
from tailrank.core.errors import ConfigError
from tailrank.core.measurement import Measurement
from tailrank.core.sla import SLA
from tailrank.serving.load_client import send_load
from tailrank.serving.load_protocols import PROTOCOLS
from tailrank.serving.load_queries import Ids, items_limit
from tailrank.serving.load_run import LoadRun, measurement_of
from tailrank.serving.load_target import LoadTarget
from tailrank.tuning.capacity import Capacity, CapacityInterrupted, verify_capacity
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

# From the first load on by this factor, then by twice as much at most; and how near is near enough.
_STEP, _TOLERANCE = 1.4, 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How a server is put under load.

    Args:
        qps: queries per second; of a search, the first load.
        sizes: items per query, see `workload.parse_query_sizes`.
        arrivals: when queries come, see `workload.parse_arrivals`.
        seconds: length of a run.
        sla: what is to be kept; None: nothing.
        connections_max: most connections at once.
        seed: of arrivals, sizes and features.
        protocol: what is spoken: a key of `load_protocols.PROTOCOLS`.
    """

    qps: float
    sizes: str = "production"
    arrivals: str = "poisson"
    seconds: float = 60.0
    sla: SLA | None = None
    connections_max: int = 512
    seed: int = 0
    protocol: str = "json"

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ConfigError("--protocol", self.protocol, " or ".join(PROTOCOLS))
        if not 0.0 < self.qps < float("inf"):
            raise ConfigError("--qps", self.qps, "a number of queries per second above 0")
        if not self.seconds > 0:
            raise ConfigError("--duration", f"{self.seconds:g}s", "a time above 0")
        if self.connections_max < 1:
            raise ConfigError("--connections", self.connections_max, "1 or more")
        if self.seed < 0:
            raise ConfigError("--seed", self.seed, "a whole number from 0")
        WorkloadConfig(sizes=self.sizes, arrivals=self.arrivals)


@dataclass(frozen=True, slots=True, eq=False)
class CapacityFound:
    """What a search found.

    Args:
        capacity: the largest load inside the SLA.
        runs: by the `id` of its measurement, what the client saw.
        interrupted: whether Ctrl-C ended it early.
    """

    capacity: Capacity
    runs: dict[int, LoadRun]
    interrupted: bool


class ServerLoadTest:
    """Measures a server from outside.

    Args:
        target: the server.
        settings: the load.
        ids: of known users and items, whose features the server has; None: requests bring features.

    Attributes:
        about: the server in its own words.
        by_id: the sides that requests name by id.

    Raises:
        RequestError: it cannot be reached, or does not take such queries.
        ConfigError: it takes no queries of these sizes.
    """

    def __init__(self, target: LoadTarget, settings: LoadSettings, ids: Ids | None = None) -> None:
        self.target, self.settings, self.by_id = target, settings, sorted(ids or ())
        document = target.document()
        seed = settings.seed
        self._workload = WorkloadConfig(
            sizes=settings.sizes,
            arrivals=settings.arrivals,
            items_limit=items_limit(document),
            arrival_seed=seed,
            size_seed=seed,
            payload_seed=seed,
        )
        self.about = str(document.get("info", {}).get("title", ""))
        largest = self._workload.query_sizes().items_max
        # A distribution without a bound: what is drawn is held against the server's own limit.
        items_max = largest or items_limit(document)
        self._spoken = PROTOCOLS[settings.protocol](target, document, items_max, seed, ids)

    def run(
        self,
        qps: float,
        on_progress: Callable[[float], None] = lambda fraction: None,
        num_queries: int | None = None,
    ) -> tuple[Measurement, LoadRun]:
        """One load.

        Args:
            qps: queries per second.
            on_progress: told the share of queries sent.
            num_queries: length of the run; None: as its seconds have it.

        Raises:
            RequestError: the server cannot be reached.
            KeyboardInterrupt: before the first query was sent.
        """
        settings = self.settings
        schedule = draw_schedule(
            self._workload,
            qps=qps,
            num_queries=num_queries or max(1, round(qps * settings.seconds)),
            payload_for=lambda choice, num_items: choice,
        )
        run = send_load(
            self.target,
            schedule,
            self._spoken.request_for,
            transport=self._spoken.transport,
            connections_max=settings.connections_max,
            on_progress=on_progress,
        )
        if not len(run.result.queries.outcome):
            raise KeyboardInterrupt
        return measurement_of(run, qps, settings.sla), run

    def find_capacity(
        self, qps: float, on_probe: Callable[[int, float], None] = lambda number, qps: None
    ) -> CapacityFound:
        """The largest load inside the SLA.

        Args:
            qps: the first load.
            on_probe: told the number and the load of each run before it.

        Raises:
            RequestError: the server cannot be reached.
            KeyboardInterrupt: before the first run was over.
        """
        sla = self.settings.sla
        assert sla is not None, "whoever looks for a capacity names an SLA"
        config = LoadTestConfig(
            workload=self._workload, sla=sla, num_workers=1, seconds=self.settings.seconds
        )
        runs: dict[int, LoadRun] = {}
        kept: list[Measurement] = []  # so that no two ids are the same

        def measure(config: LoadTestConfig, at_qps: float) -> Measurement:
            on_probe(len(kept) + 1, at_qps)
            at, run = self.run(at_qps, num_queries=config.num_queries(at_qps))
            if run.interrupted:
                raise KeyboardInterrupt
            kept.append(at)
            runs[id(at)] = run
            return at

        try:
            capacity = verify_capacity(
                measure, config, sla, expected_qps=qps, step=_STEP, tolerance=_TOLERANCE
            )
        except CapacityInterrupted as stopped:
            return CapacityFound(stopped.capacity, runs, True)
        return CapacityFound(capacity, runs, False)
