"""`doctor` prints its record alone on standard output, and findings are no error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailrank.cli import main


def test_json_is_alone_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "host.html"
    assert main(["doctor", "--json", "--report", str(page)]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["command"] == "doctor"
    subjects = {finding["subject"] for finding in record["host"]["findings"]}
    assert {"huge pages", "GPU", "threads", "memory", "C++ compiler"} <= subjects
    costly = [finding for finding in record["host"]["findings"] if finding["fix"]]
    assert record["metrics"]["num_findings"] == len(costly)
    assert "huge pages" in captured.err
    assert 'data-chart="random-reads"' in page.read_text()
    assert record["artifacts"] == [str(page)]
