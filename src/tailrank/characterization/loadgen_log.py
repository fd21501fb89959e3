"""What MLPerf LoadGen says of a run, read from the log that it wrote itself, and its schedule.

LoadGen keeps its schedule to itself, but logs what it was drawn from and how long it is; so it is
drawn here once more, and compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import DataError

DETAIL_FILE = "mlperf_log_detail.txt"
LOG_FILES = ("mlperf_log_summary.txt", DETAIL_FILE)
_PREFIX = ":::MLLOG "


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenVerdict:
    """The figures and the judgement of LoadGen.

    Args:
        version: of LoadGen.
        valid: whether it calls the run VALID.
        bound_met: whether the latency bound was kept; there is none, and so it was, in Offline.
        shortcomings: why the run is too short to be VALID, whatever its latencies.
        qps: samples completed per second.
        latency_ns_p99: from its own schedule to completion.
        schedule_ns: when each query was to be issued, from the first one on; None where this
            version draws schedules otherwise.
    """

    version: str
    valid: bool
    bound_met: bool
    shortcomings: tuple[str, ...]
    qps: float
    latency_ns_p99: float
    schedule_ns: NDArray[np.int64] | None


def read_verdict(folder: Path, qps: float) -> LoadGenVerdict:
    """Read the detailed log of a finished run.

    Args:
        folder: where LoadGen wrote it.
        qps: what it was told to offer, of which it logs six digits only.

    Raises:
        DataError: the log is missing or cut off, or LoadGen reports an error.
    """
    path = folder / DETAIL_FILE
    found: dict[str, Any] = {}
    errors: list[str] = []
    number: int | None = None
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.startswith(_PREFIX):
                raise DataError(path, f"not a line of LoadGen's log ({line[:40]!r})", number)
            entry = json.loads(line.removeprefix(_PREFIX))
            found[entry["key"]] = entry["value"]
            if entry["metadata"]["is_error"]:
                errors.append(str(entry["value"]))
    except FileNotFoundError:
        raise DataError(path, "no such file: LoadGen wrote no log") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not a log of LoadGen ({error})", number) from None
    if errors:
        raise DataError(path, f"LoadGen reports an error: {'; '.join(errors)}")
    try:
        return _verdict(found, qps)
    except KeyError as error:
        raise DataError(path, f"cut off: LoadGen has not written {error}") from None


def _verdict(found: dict[str, Any], qps: float) -> LoadGenVerdict:
    offline = found["effective_scenario"] == "Offline"
    bound_met = offline or bool(found["result_perf_constraints_met"])
    shortcomings = []
    if not found["result_min_duration_met"]:
        shortcomings.append(
            f"LoadGen: shorter than {found['effective_min_duration_ms'] / 1e3:g} s"
            + ("; give a larger --qps" if offline else "")
        )
    if not found["result_min_queries_met"]:
        shortcomings.append(f"LoadGen: fewer than {found['effective_min_query_count']} queries")
    if bound_met and not found["early_stopping_met"]:
        # It says how many more, over several lines with bullets.
        advice = " ".join(str(found["early_stopping_result"]).replace("*", " ").split())
        shortcomings.append(f"LoadGen: too few queries to be sure of the bound. {advice}")
    schedule_ns = _schedule_ns(found, qps)
    if schedule_ns is None:
        shortcomings.append(
            "LoadGen: a version whose schedule is not known, to count our latencies"
        )
    return LoadGenVerdict(
        version=str(found["loadgen_version"]),
        valid=found["result_validity"] == "VALID",
        bound_met=bound_met,
        shortcomings=tuple(shortcomings),
        qps=float(
            found["result_samples_per_second" if offline else "result_completed_samples_per_sec"]
        ),
        latency_ns_p99=float(found["result_99.00_percentile_latency_ns"]),
        schedule_ns=schedule_ns,
    )


def draw_server_schedule_ns(seed: int, qps: float, num_queries: int) -> NDArray[np.int64]:
    """The schedule of the Server scenario: when each query is due, and when one more would be.

    Source: mlcommons/inference, loadgen.cc, `GenerateQueries`: exponential gaps from a Mersenne
    twister, cut to whole ns, as libstdc++ draws them: two words of 32 bits, the lower one first,
    make a uniform number.

    Args:
        seed: `schedule_rng_seed`; the twister takes its lower 32 bits.
        qps: target load.
        num_queries: queries of the schedule.
    """
    words = np.random.RandomState(seed % 2**32).randint(0, 2**32, 2 * num_queries, dtype=np.uint32)
    low, high = words[0::2].astype(np.float64), words[1::2].astype(np.float64)
    uniform = np.minimum((low + high * 2.0**32) / 2.0**64, np.nextafter(1.0, 0.0))
    gaps_ns = (-np.log(1.0 - uniform) / qps * 1e9).astype(np.int64)
    return np.concatenate(([0], np.cumsum(gaps_ns)))


def _schedule_ns(found: dict[str, Any], qps: float) -> NDArray[np.int64] | None:
    num_queries = int(found["generated_query_count"])
    if found["effective_scenario"] == "Offline":
        samples = int(found["generated_samples_per_query"])
        return np.zeros(samples * num_queries, dtype=np.int64)
    seed = int(found["effective_schedule_rng_seed"])
    schedule_ns = draw_server_schedule_ns(seed, qps, num_queries)
    # Another logarithm may round a gap to the next ns; another generator is off by far more.
    off_ns = abs(int(schedule_ns[-1]) - int(found["generated_query_duration"]))
    return schedule_ns[:-1] if off_ns <= num_queries else None
