"""`tailrank simulate` as a user types it: labelled, whole or absent, one line for bad input."""

import json
from pathlib import Path

import polars as pl
import pytest
from tests.integration.verbs import charts, run_json
from tests.unit.characterization.profiles import profile

from tailrank.cli import main

WORDS = ["--sla", "p95=20ms", "--sizes", "fixed:10", "--duration", "1s"]


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    return profile(tmp_path / "cpu.json", 1e5)


def test_the_answer_says_everywhere_that_it_is_simulated(cpu: Path, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    words = ["simulate", "--profile", str(cpu), "--workers", "1", *WORDS, "--out", str(out)]
    assert main(words) == 0
    assert "Simulated, not measured" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "result.json", "report.html", "report_data.json", "queries.parquet",
    }  # fmt: skip
    result = json.loads((out / "result.json").read_text())
    assert {name.partition(".")[0] for name in result["metrics"]} == {"simulated"}
    assert 800 < result["metrics"]["simulated.capacity_qps"] < 1000
    assert result["config"]["simulated"] is True
    page = (out / "report.html").read_text()
    assert "Simulated, not measured: " in page
    assert charts(out / "report.html") == ["latency-cdf", "query-time"]
    queries = pl.read_parquet(out / "queries.parquet")
    assert set(queries["outcome"]) == {"answered"}
    summed = queries["queueing_ns"] + queries["service_ns"]
    assert (summed == queries["latency_ns"]).all()


def test_one_load_has_latencies_and_no_capacity(cpu: Path, tmp_path, capsys) -> None:
    words = ["simulate", "--profile", str(cpu), "--workers", "1", *WORDS]
    code, kept = run_json(capsys, *words, "--qps", "500")
    assert code == 0
    assert "simulated.capacity_qps" not in kept["metrics"]
    assert 1.0 <= kept["metrics"]["simulated.latency_ms_p95"] <= 20.0
    words[words.index("p95=20ms")] = "p95=1001us"
    code, missed = run_json(capsys, *words, "--qps", "500")
    assert code == 3
    assert missed["validity"]["valid"]
    assert missed["metrics"] == kept["metrics"]


def test_more_load_than_the_workers_can_do_is_a_miss(cpu: Path, capsys) -> None:
    words = ["simulate", "--profile", str(cpu), "--workers", "1", *WORDS, "--qps", "1500"]
    code, overloaded = run_json(capsys, *words)
    assert code == 3
    assert [reason.partition(":")[0] for reason in overloaded["validity"]["reasons"]] == [
        "unstable"
    ]


def test_its_own_queries_are_a_trace(cpu: Path, tmp_path, capsys) -> None:
    out, words = tmp_path / "out", ["simulate", "--profile", str(cpu), "--sla", "p95=20ms"]
    words += ["--batch-items", "20"]
    first = ["--sizes", "normal:20,5", "--qps", "800", "--duration", "1s", "--out", str(out)]
    _, drawn = run_json(capsys, *words, *first)
    trace = ["--arrivals", f"trace:{out / 'queries.parquet'}", "--qps", "recorded"]
    _, replayed = run_json(capsys, *words, *trace)
    names = [name for name in drawn["metrics"] if "latency" in name]
    assert names
    assert [replayed["metrics"][n] for n in names] == pytest.approx(
        [drawn["metrics"][n] for n in names], rel=1e-4
    )
    assert "trace's 800 queries" in replayed["config"]["notes"][0]


def test_a_percentile_with_a_fraction_has_one_name_everywhere(cpu: Path, tmp_path, capsys) -> None:
    """A dot in a metric's name ends its subject."""
    words = ["simulate", "--profile", str(cpu), "--sizes", "normal:20,5", "--qps", "300"]
    words += ["--sla", "p99.9=500ms", "--duration", "20s", "--out", str(tmp_path / "out")]
    code, result = run_json(capsys, *words)
    assert code == 0
    name = "simulated.latency_ms_p99_9"
    assert 0 < result["intervals"][name][0] <= result["metrics"][name]
    assert not [each for each in result["metrics"] if each.count(".") != 1]
    assert "p99.9 at that load" in (tmp_path / "out/report.html").read_text()


def test_an_assumption_is_said_even_when_quiet(cpu: Path, capsys) -> None:
    words = ["simulate", "--profile", str(cpu), *WORDS, "--workers", "4", "--qps", "900"]
    assert main([*words, "--extrapolate-workers", "--quiet"]) == 0
    assert "contention beyond 2 busy workers" in capsys.readouterr().err


FALLING, TOO_LARGE = "time,size\n0,5\n2,5\n1,5\n", "time,size\n0,5\n2,500\n"
NOT_A_NUMBER = "time,size\n0,5\nnan,5\n2.5,5\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sla", "p95=0ms"], "a time above 0"),
        (["--policy", "magic"], "coalescing"),
        (["--policy", "staitc"], "did you mean 'static'?"),
        (["--sizes", "production"], "sizes up to 100 items"),
        (["--workers", "8"], "--extrapolate-workers"),
        (["--workers", "0"], "at least 1"),
        (["--qps", "many"], "recorded"),
        (["--qps", "recorded"], "only a trace has a recorded rate"),
        (["--qps", "-5"], "above 0"),
        (["--batch-items", "0"], "--batch-items: got 0; allowed: a whole number from 1"),
        (["--delay", "1ms"], "--delay: got 1000000; allowed: 0: `static` has no such setting"),
        (["--arrivals", "mmpp:5"], "mmpp:FACTOR,SHARE,LENGTH"),
        (["--arrivals", "weekly"], "diurnal:PERIOD"),
        (["--arrivals", "trace:/nowhere/t.csv"], "/nowhere/t.csv: no such file"),
        (["--arrivals", "trace:falling.csv"], "falling.csv: row 3: column 'time', value 1"),
        (
            ["--arrivals", "trace:nan.csv"],
            "nan.csv: row 2: column 'time', value 'nan': not a number",
        ),
        (["--sizes", "trace:large.csv"], "large.csv: row 2: column 'size', value 500: more items"),
        (["--profile", "/nowhere/p.json"], "/nowhere/p.json"),
        (["--duration", "0s"], "above 0"),
        (["--seed", "-1"], "from 0"),
    ],
)
def test_bad_words_get_one_clear_line_and_leave_nothing(
    words: list[str], said: str, cpu: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("falling", FALLING), ("nan", NOT_A_NUMBER), ("large", TOO_LARGE)):
        Path(f"{name}.csv").write_text(text)
    before = sorted(tmp_path.iterdir())
    given = dict(zip(WORDS[::2], WORDS[1::2], strict=True)) | {"--profile": "cpu.json"}
    given |= {"--out": "out"} | dict(zip(words[::2], words[1::2], strict=True))
    assert main(["simulate", *(word for pair in given.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tailrank: error: ")
    assert error.count("\n") == 1, error
    assert said in error
    assert sorted(tmp_path.iterdir()) == before
