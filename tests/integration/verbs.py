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
