"""The real LoadGen on our live runtime: both keep books of the same run."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailrank.characterization.loadgen import LoadGenConfig, items_ahead, run_loadgen
from tailrank.characterization.loadgen_log import (
    DETAIL_FILE,
    draw_server_schedule_ns,
    read_verdict,
)
from tailrank.core.errors import ConfigError, DataError, ServingError
from tailrank.core.exit_codes import ExitCode
from tailrank.core.sla import SLA
from tailrank.reporting.loadgen import exit_code, metrics, validity
from tailrank.runtime.live import available_workers
from tailrank.runtime.record import QueryOutcome
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

MS = 1_000_000
STATIC = PolicyConfig(policy="static", batch_items_max=350)


def config(scenario, **changes):
    chosen = {
        "scenario": scenario,
        "qps": 600.0,
        "sla": SLA(99.0, 200 * MS) if scenario == "Server" else None,
        "workload": WorkloadConfig(sizes="mlperf"),
        "policy": STATIC,
        "num_workers": min(2, available_workers()),
        "seconds": 1.0,
        "num_queries_min": 100,
        "num_samples": 500,
    }
    return LoadGenConfig(**{**chosen, **changes})


def null_results(batch):
    return [None] * len(batch.parts)


class Stalling:
    """A ranker that hangs for 50 ms, in two tenths of the time that this tells: once in 500 ms."""

    def __init__(self):
        self._next_s = time.monotonic() + 0.25

    def __call__(self, batch):
        if time.monotonic() > self._next_s:
            self._next_s += 0.5
            time.sleep(0.05)
        return null_results(batch)


def test_a_stall_of_50_ms_shows_in_both_books(tmp_path):
    """Each stall holds up the queries of 50 ms, a tenth of all: far more than one in a hundred.

    One worker, so that no other one takes them; the host may add to both, and never takes away.
    """
    chosen = config("Server", num_workers=1)
    run = run_loadgen(chosen, tmp_path, Stalling())
    found = metrics(chosen, run)
    assert found["latency_ms_p99"] > 25
    assert found["loadgen_latency_ms_p99"] > 25
    assert found["num_unanswered"] == 0
    assert found["num_queries"] == len(run.verdict.schedule_ns), "all that LoadGen generated"
    assert (run.issue_delay_ns >= 0).all()
    assert run.issue_delay_ns.min() == 0
    # LoadGen starts each query when ours starts it, and ends it a moment later than we do.
    assert found["loadgen_latency_ms_p99"] >= 0.98 * found["latency_ms_p99"]


def test_offline_hands_over_no_more_than_the_queue_holds_and_loses_nothing(tmp_path):
    largest = 0

    def run_batch(batch):
        nonlocal largest
        largest = max(largest, *(part.num_items for part in batch.parts))
        return null_results(batch)

    policy = PolicyConfig(policy="static", batch_items_max=350, queue_items_max=2000)
    chosen = config("Offline", policy=policy, qps=5000.0, seconds=0.2)
    run = run_loadgen(chosen, tmp_path, run_batch)
    queries = run.result.queries
    assert len(queries.query_id) == 1100, "LoadGen adds a tenth to what is expected in that time"
    assert (queries.outcome == QueryOutcome.ANSWERED).all()
    assert (np.diff(queries.scheduled_ns) == 0).all(), "all at once"
    assert set(queries.num_items) == {100, 200, 300, 400, 500, 600, 700}
    assert largest == 350
    found = metrics(chosen, run)
    assert found["items_per_s"] / found["qps"] == pytest.approx(queries.num_items.mean())
    assert "latency_ms_p99" not in found


def test_offline_hands_a_slow_model_no_more_than_it_can_finish_once_all_is_issued():
    """A full queue takes a model that does 1,000 items/s 16 minutes, and a run gives up after 30 s.

    What the warm-up left unanswered is nothing that the model can do.
    """
    workload = WorkloadConfig(sizes="fixed:100")
    answered = simulate(
        draw_schedule(workload, qps=1e9, num_queries=90),
        STATIC,
        num_workers=1,
        service_time_ns=lambda batch, busy_workers: batch.num_items * MS,
    )
    assert 0.1 < items_ahead(answered) / (30 * 1000) < 0.5
    outcome = answered.queries.outcome.copy()
    outcome[45:] = QueryOutcome.UNANSWERED
    cut_off = replace(answered, queries=replace(answered.queries, outcome=outcome))
    assert items_ahead(cut_off) == pytest.approx(items_ahead(answered) / 2)


def test_a_sample_that_no_queue_holds_is_refused_before_anything_runs(tmp_path):
    """It would never be handed over, and LoadGen waits for it for ever."""
    policy = PolicyConfig(policy="static", batch_items_max=350, queue_items_max=600)
    with pytest.raises(ConfigError, match="--sizes: got 'mlperf'; allowed: queries of up to 600"):
        run_loadgen(config("Offline", policy=policy), tmp_path, null_results)
    assert not list(tmp_path.iterdir())


def test_a_failing_ranker_is_told_before_loadgen_begins(tmp_path):
    def fail(batch):
        raise ValueError("no such row")

    with pytest.raises(ServingError, match="a query failed: no such row"):
        run_loadgen(config("Server"), tmp_path, fail)
    assert not list(tmp_path.iterdir())


LONG_RUN = """
import signal, sys
# Whoever runs the tests in the background of a shell has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from tailrank.characterization.loadgen import LoadGenConfig, run_loadgen
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig
num_batches = 0
def run_batch(batch):
    global num_batches
    num_batches += 1
    if num_batches == 300:  # past the warm-up
        print("serving", flush=True)
        if server is None:
            raise ValueError("no such row")
    return [None]
server = SLA.parse("p99=60ms") if sys.argv[2] == "Server" else None
config = LoadGenConfig(
    scenario=sys.argv[2], qps=1000.0, sla=server, num_workers=1, num_samples=500,
    seconds=60.0 if server else 5.0, workload=WorkloadConfig(sizes="fixed:1"),
    policy=PolicyConfig(policy="static", batch_items_max=1, queue_items_max=1000),
)
run_loadgen(config, Path(sys.argv[1]), run_batch)
"""


@pytest.mark.parametrize(
    ("scenario", "code", "said"),
    [
        ("Server", ExitCode.INTERRUPTED, "KeyboardInterrupt"),
        ("Offline", ExitCode.USER_ERROR, "a query failed: no such row"),
    ],
)
def test_a_run_ends_at_once_though_loadgen_cannot_be_stopped(tmp_path, scenario, code, said):
    """On Ctrl-C in one scenario and by a fault of the ranker in the other.

    In a process of its own, for LoadGen goes on in the one that left it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN, str(tmp_path), scenario],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "serving\n"
    if scenario == "Server":
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"qps": None}, "--qps: missing"),
        ({"qps": 0.0}, "--qps: got 0.0"),
        ({"qps": float("inf")}, "--qps: got inf"),
        ({"sla": None}, "--sla: missing"),
        ({"seconds": 0.0}, "--duration: got 0.0"),
    ],
)
def test_a_config_that_loadgen_could_not_run_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        config("Server", **changes)


def test_offline_has_no_bound():
    with pytest.raises(ConfigError, match="--sla: got SLA"):
        config("Offline", sla=SLA(99.0, MS))


def log_lines(**changes):
    """The keys that count of a log of 1,627 queries; None leaves one out."""
    found = {
        "loadgen_version": "6.0.17",
        "effective_scenario": "Server",
        "effective_schedule_rng_seed": 16159082839903944936,
        "effective_min_duration_ms": 600_000,
        "effective_min_query_count": 100,
        "generated_query_count": 1627,
        "generated_samples_per_query": 1,
        "generated_query_duration": 2001795559,
        "result_validity": "VALID",
        "result_perf_constraints_met": True,
        "result_min_duration_met": True,
        "result_min_queries_met": True,
        "early_stopping_met": True,
        "early_stopping_result": " * Run successful.",
        "result_completed_samples_per_sec": 812.5,
        "result_samples_per_second": 900.0,
        "result_99.00_percentile_latency_ns": 7_500_000,
        **changes,
    }
    return [
        ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": {"is_error": False}})
        for key, value in found.items()
        if value is not None
    ]


def read(folder: Path, lines, qps=777.0):
    (folder / DETAIL_FILE).write_text("".join(line + "\n" for line in lines))
    return read_verdict(folder, qps)


def test_the_schedule_is_the_one_that_loadgen_drew(tmp_path):
    """A run of LoadGen 6.0.17 with MLPerf's seed logged this duration, to the nanosecond."""
    schedule_ns = draw_server_schedule_ns(16159082839903944936, 777.0, 1627)
    assert schedule_ns[0] == 0
    assert abs(schedule_ns[-1] - 2001795559) <= 2
    verdict = read(tmp_path, log_lines())
    np.testing.assert_array_equal(verdict.schedule_ns, schedule_ns[:-1])
    assert (verdict.valid, verdict.shortcomings) == (True, ())
    assert (verdict.qps, verdict.latency_ns_p99) == (812.5, 7_500_000)


@pytest.mark.parametrize(
    ("changes", "shortcoming"),
    [
        ({"result_min_duration_met": False}, "LoadGen: shorter than 600 s"),
        ({"result_min_queries_met": False}, "LoadGen: fewer than 100 queries"),
        ({"generated_query_duration": 2001895559}, "a version whose schedule is not known"),
        (
            {"early_stopping_met": False, "early_stopping_result": " * Run\n * 67 more."},
            "too few queries to be sure of the bound. Run 67 more.",
        ),
    ],
)
def test_what_makes_a_run_too_short_is_told(tmp_path, changes, shortcoming):
    verdict = read(tmp_path, log_lines(**changes))
    assert len(verdict.shortcomings) == 1
    assert shortcoming in verdict.shortcomings[0]
    assert (verdict.schedule_ns is None) == ("generated_query_duration" in changes)


def test_a_missed_bound_is_no_shortcoming(tmp_path):
    changes = {"result_perf_constraints_met": False, "early_stopping_met": False}
    verdict = read(tmp_path, log_lines(**changes, result_validity="INVALID"))
    assert (verdict.bound_met, verdict.valid, verdict.shortcomings) == (False, False, ())


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "cut off: LoadGen has not written 'effective_scenario'"),
        (log_lines(result_validity=None), "cut off: LoadGen has not written 'result_validity'"),
        (["hello"], ":1: not a line of LoadGen's log"),
        ([":::MLLOG {"], ":1: not a log of LoadGen"),
        (
            [log_lines()[0].replace('"is_error": false', '"is_error": true')],
            "LoadGen reports an error: 6.0.17",
        ),
    ],
)
def test_a_damaged_log_is_refused_by_its_name(tmp_path, lines, reason):
    with pytest.raises(DataError, match=DETAIL_FILE) as caught:
        read(tmp_path, lines)
    assert reason in str(caught.value)


def test_a_binary_log_is_refused(tmp_path):
    (tmp_path / DETAIL_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a log of LoadGen"):
        read_verdict(tmp_path, 1.0)


def test_no_log_is_told(tmp_path):
    with pytest.raises(DataError, match="LoadGen wrote no log"):
        read_verdict(tmp_path, 1.0)


class Books:
    """What `validity` and `exit_code` read of a run."""

    def __init__(self, **verdict):
        chosen = {"shortcomings": (), "valid": True, "bound_met": True, **verdict}
        self.verdict = type("Verdict", (), chosen)


FINE = {"num_unanswered": 0, "num_queries": 100, "loadgen_difference_fraction": 0.019}


@pytest.mark.parametrize(
    ("verdict", "changes", "code", "reason"),
    [
        ({}, {}, ExitCode.DONE, None),
        ({}, {"loadgen_difference_fraction": 0.021}, ExitCode.INVALID_MEASUREMENT, "differ by 2.1"),
        ({}, {"num_unanswered": 2}, ExitCode.INVALID_MEASUREMENT, "2 of 100 queries were rejected"),
        (
            {"valid": False, "shortcomings": ("LoadGen: shorter",)},
            {},
            ExitCode.INVALID_MEASUREMENT,
            "shorter",
        ),
        ({"valid": False}, {}, ExitCode.INVALID_MEASUREMENT, "its summary says why"),
        ({"valid": False, "bound_met": False}, {}, ExitCode.BOUND_MISSED, None),
    ],
)
def test_exit_codes_tell_what_kind_of_a_result_it_is(verdict, changes, code, reason):
    run = Books(**verdict)
    judged = validity(run, {**FINE, **changes})
    assert exit_code(run, judged) == code
    assert (reason is None) == judged.valid
    assert reason is None or reason in judged.reasons[0]
