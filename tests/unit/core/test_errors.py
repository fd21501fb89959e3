"""Every error is one line that names the place."""

import pickle

import pytest

from tailrank.core import errors
from tailrank.core.errors import (
    ConfigError,
    DataError,
    RequestError,
    TailrankError,
    closest,
    one_of,
)


def test_config_error_names_field_value_and_allowed():
    error = ConfigError("sla.percentile", 101, "a number above 0 and below 100")
    assert str(error) == "sla.percentile: got 101; allowed: a number above 0 and below 100"
    assert (error.field, error.value) == ("sla.percentile", 101)


@pytest.mark.parametrize("nothing", [None, []])
def test_what_is_missing_is_called_so(nothing):
    assert str(ConfigError("--label", nothing, "a column")) == "--label: missing; expected a column"


def test_a_value_of_lists_without_end_is_named():
    value: list = []
    for _ in range(100_000):
        value = [value]
    error = ConfigError("user", value, "less")
    assert str(error) == "user: got a list nested too deeply; allowed: less"


def test_request_error_names_field_and_reason():
    error = RequestError("--resume", "no checkpoint in runs/a.checkpoint; leave it out")
    assert str(error) == "--resume: no checkpoint in runs/a.checkpoint; leave it out"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dlmr", "dlrm, static or coalescing; did you mean 'dlrm'?"),
        ("zzz", "dlrm, static or coalescing"),
    ],
)
def test_names_come_with_the_one_that_was_likely_meant(given, said):
    assert one_of(["dlrm", "static", "coalescing"], given) == said


def test_what_nobody_typed_is_compared_with_no_name(monkeypatch):
    monkeypatch.setattr(errors.difflib, "get_close_matches", lambda *given: pytest.fail("compared"))
    assert closest(["dlrm"], "dlrm" * 1_000_000) == ""


@pytest.mark.parametrize(("line", "place"), [(None, "day.tsv"), (7, "day.tsv:7")])
def test_data_error_names_path_line_and_reason(line, place):
    assert str(DataError("day.tsv", "38 columns", line)) == f"{place}: 38 columns"


def test_data_error_names_row_column_and_value():
    error = DataError("day.parquet", "expected 0 or 1", row=7, column="clicked", value=2)
    assert str(error) == "day.parquet: row 7: column 'clicked', value 2: expected 0 or 1"


@pytest.mark.parametrize(
    "name",
    [
        "ConfigError",
        "RequestError",
        "DataError",
        "BackendUnavailable",
        "OutsideProfile",
        "ServingError",
        "Overloaded",
        "WorkerDied",
    ],
)
def test_all_are_tailrank_errors(name):
    assert issubclass(getattr(errors, name), TailrankError)
    assert name in errors.__doc__


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("age", 7.0, "less"),
        RequestError("--data", "leave it out"),
        DataError("a.csv", "no number", 3, column="age", value="x"),
        errors.Overloaded("too_late", "by 3 ms", 3_000_000),
        errors.WorkerDied("one has"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_to_another_process(error):
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)
