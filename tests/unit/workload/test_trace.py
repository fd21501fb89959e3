"""Recorded traces: rows in order, times and sizes together, faults by file, row and value."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tailrank.core.errors import ConfigError, DataError
from tailrank.workload.arrivals import parse_arrivals
from tailrank.workload.query_sizes import parse_query_sizes
from tailrank.workload.schedule import WorkloadConfig, draw_schedule


def write(path: Path, times: object, sizes: object, time: str = "time", size: str = "size") -> str:
    frame = pl.DataFrame({time: times, size: sizes}, strict=False)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return f"trace:{path}"


@pytest.mark.parametrize("name", ["trace.parquet", "trace.csv"])
def test_times_and_sizes_come_together_and_are_stretched(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path / name, [5.0, 5.5, 7.5, 8.0], [7, 1, 30, 4])
    config = WorkloadConfig(sizes=spec, arrivals=spec)
    assert parse_arrivals(spec).own_qps == 1.0
    for qps, factor in ((1.0, 1.0), (4.0, 0.25)):
        schedule = draw_schedule(config, qps=qps, num_queries=4)
        assert [query.num_items for query in schedule] == [7, 1, 30, 4]
        times_s = [query.scheduled_ns / 1e9 for query in schedule]
        np.testing.assert_allclose(times_s, factor * np.array([0.0, 0.5, 2.5, 3.0]))


def test_a_schedule_longer_than_its_trace_goes_round(tmp_path: Path) -> None:
    spec = write(tmp_path / "trace.csv", [0.0, 1.0, 4.0], [3, 5, 9])
    schedule = draw_schedule(WorkloadConfig(sizes=spec, arrivals=spec), qps=0.5, num_queries=7)
    assert [query.num_items for query in schedule] == [3, 5, 9, 3, 5, 9, 3]
    times_s = [query.scheduled_ns / 1e9 for query in schedule]
    np.testing.assert_allclose(times_s, [0, 1, 4, 6, 7, 10, 12])
    assert parse_arrivals(spec).num_recorded == 3


def test_times_alone_go_with_other_sizes_and_the_other_way_round(tmp_path: Path) -> None:
    times = write(tmp_path / "times.csv", [0.0, 1.0], [1, 1], size="user")
    assert draw_schedule(WorkloadConfig(sizes="fixed:8", arrivals=times), qps=1.0, num_queries=2)
    with pytest.raises(DataError, match="expected one column of size, num_items; found: 'time'"):
        parse_query_sizes(times)
    sizes = write(tmp_path / "sizes.csv", [0.0, 1.0], [4, 6], time="user")
    assert parse_query_sizes(sizes).items_max == 6
    with pytest.raises(DataError, match="expected one column of time, time_s"):
        parse_arrivals(sizes)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("time_ms", [1.0, 2.5, 4.0]),
        ("scheduled_ns", [2**60, 2**60 + 1_500_000, 2**60 + 3_000_000]),
        ("time", pl.Series([0, 1500, 3000]).cast(pl.Datetime("us"))),
    ],
)
def test_units_of_time(tmp_path: Path, name: str, times: object) -> None:
    """Times since 1970 in ns have more digits than a float."""
    spec = write(tmp_path / "trace.parquet", times, [1, 2, 3], time=name)
    assert parse_arrivals(spec).own_qps == pytest.approx(1e3 / 1.5)
    times_ns = parse_arrivals(spec).draw_ns(1e3 / 1.5, 3, seed=0)
    assert times_ns.tolist() == [0, 1_500_000, 3_000_000]


TIME_FAULTS = {
    "falls": ([0.0, 2.0, 1.5], "row 3: column 'time', value 1.5: earlier than the row before, 2.0"),
    "not a number": ([0.0, float("nan"), 1.5], "row 2: column 'time', value nan: not a finite"),
    "infinite": ([0.0, 1.0, float("inf")], "row 3: column 'time', value inf: not a finite"),
    "missing": ([0.0, None, 1.5], "row 2: column 'time': a number is missing"),
    "text": (["0", "late", "2"], "row 2: column 'time', value 'late': not a number"),
    "all alike": ([3.0, 3.0, 3.0], "column 'time': fewer than two different times"),
}
SIZE_FAULTS = {
    "zero": ([5, 0, 3], "row 2: column 'size', value 0: not a size; allowed: whole numbers from 1"),
    "negative": ([5, 3, -3], "row 3: column 'size', value -3"),
    "half": ([5, 3, 2.5], "row 3: column 'size', value 2.5"),
    "not a number": ([5.0, 3.0, float("nan")], "row 3: column 'size', value nan: not a finite"),
    "too large": ([5, 2000, 3], "row 2: column 'size', value 2000: more items than a query may"),
    "missing": ([5, None, 3], "row 2: column 'size': a number is missing"),
}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("fault", TIME_FAULTS)
def test_a_faulty_time_is_named(tmp_path: Path, fault: str, suffix: str) -> None:
    times, said = TIME_FAULTS[fault]
    spec = write(tmp_path / f"trace.{suffix}", times, [5, 5, 5])
    with pytest.raises(DataError) as caught:
        parse_arrivals(spec)
    assert said in str(caught.value)
    assert str(tmp_path / "trace") in str(caught.value)
    if fault == "all alike":
        assert parse_query_sizes(spec).items_max == 5, "sizes have an order without times"
        return
    with pytest.raises(DataError) as caught:
        parse_query_sizes(spec)
    assert said in str(caught.value), "sizes alone come in the order of times too"


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("fault", SIZE_FAULTS)
def test_a_faulty_size_is_named(tmp_path: Path, fault: str, suffix: str) -> None:
    sizes, said = SIZE_FAULTS[fault]
    spec = write(tmp_path / f"trace.{suffix}", [0, 1, 2], sizes)
    with pytest.raises(DataError) as caught:
        WorkloadConfig(sizes=spec, items_limit=1000)
    assert said in str(caught.value)


def test_files_that_are_no_trace(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        parse_arrivals(f"trace:{tmp_path / 'absent.csv'}")
    for name, content in (("noise.parquet", bytes(range(256))), ("empty.csv", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            parse_arrivals(f"trace:{tmp_path / name}")


def test_a_trace_without_a_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("time,size\n")
    spec = f"trace:{tmp_path / 'trace.csv'}"
    with pytest.raises(DataError, match="fewer than two different times"):
        parse_arrivals(spec)
    with pytest.raises(DataError, match="no rows"):
        parse_query_sizes(spec)


def test_a_trace_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    assert parse_query_sizes(write(tmp_path / "trace.csv", [0, 1], [5, 5])).items_max == 5
    assert parse_query_sizes(write(tmp_path / "trace.csv", [0, 1], [5, 70])).items_max == 70


def test_sizes_above_the_limit_are_refused() -> None:
    with pytest.raises(ConfigError, match="these go up to 999"):
        WorkloadConfig(sizes="production", items_limit=512)
    workload = WorkloadConfig(sizes="normal:500,100", items_limit=512)
    with pytest.raises(ConfigError, match="were drawn"):
        draw_schedule(workload, qps=1.0, num_queries=100)
