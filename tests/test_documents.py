"""No document shows a command that does not exist: all are parsed, the cheap ones are run.

Commands are the lines of `console` and `bash` blocks that begin with `tailrank` or `make`, with or
without a prompt. A `make` target has to be in the Makefile; a `tailrank` line has to pass the
command line's own parser. What is run besides: `tailrank doctor`, and every line with `--quick`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tailrank.cli import build_app, main

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "ARCHITECTURE.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(?:console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        for block in BLOCK.findall(path.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.removeprefix("$ ").strip()
                if command.split(" ", 1)[0] in ("tailrank", "make"):
                    found.append((path.name, command))
    return found


COMMANDS = commands()
CHEAP = sorted({text for _, text in COMMANDS if re.match(r"tailrank (.* --quick\b|doctor$)", text)})


def test_the_documents_show_commands() -> None:
    assert {name for name, _ in COMMANDS} >= {"README.md", "CONTRIBUTING.md"}
    assert CHEAP


@pytest.mark.parametrize(("name", "text"), COMMANDS, ids=[f"{n}: {t}" for n, t in COMMANDS])
def test_a_command_exists_with_these_options(name: str, text: str) -> None:
    program, *words = shlex.split(text, comments=True)
    if program == "make":
        targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    else:
        build_app().parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("text", CHEAP)
def test_a_cheap_command_runs_as_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(text, comments=True)[1:]
    code = main(words)
    # A busy host refuses the short budget of --quick and says which one it takes.
    if code == 2 and (wanted := re.search(r"allow (\d+) s or more", capsys.readouterr().err)):
        code = main([*words, "--budget", f"{wanted[1]}s"])
    assert code == 0
