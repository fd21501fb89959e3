"""`report` draws a run and names the file; a folder that is no run is a user's error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.reporting.report_samples import full_columns, full_result

from tailrank.cli import main
from tailrank.reporting.result import read_result, write_result


def test_a_run_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "result.json", full_result())
    full_columns().save(tmp_path)
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["artifacts"] == [str(out)]
    assert out.read_text().count("data-chart=") >= 4
    assert read_result(tmp_path / "result.json").artifacts == []


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "absent")]) == 2
    assert "absent: no such folder; expected one that tailrank train" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
