"""What tests of the verbs share."""

import json
import re
from pathlib import Path

import pytest

from tailrank.cli import main


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict]:
    capsys.readouterr()  # what earlier commands said
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def charts(page: Path) -> list[str]:
    return re.findall(r'data-chart="([a-z-]+)"', page.read_text())


def with_time(words: list[str], budget_s: int, capsys: pytest.CaptureFixture[str]) -> int:
    """Run a verb inside a budget; a busy host says which one it takes."""
    for _ in range(3):
        code = main([*words, "--budget", f"{budget_s}s"])
        out, err = capsys.readouterr()
        if code == 2 and (said := re.search(r"allow (\d+) s or", err)):
            budget_s = 2 * int(said[1])
        elif code == 4 and "allow a longer budget" in out:
            budget_s *= 2
        else:
            print(out, end="")  # for whoever asks what was said last
            break
        words = [*words, *({"--overwrite"} - {*words})]
    return code
