"""The rules of the house that no linter knows: layers, purity, sizes, names, instant help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tailrank.cli import VERBS

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src/tailrank"
MODULES = sorted(SOURCE.rglob("*.py"))
NUM_LINES_MAX = 400
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc"}
PURE_PACKAGES = ("core", "workload", "scheduling", "runtime", "tuning")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_the_import_contract_holds() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--no-logo", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_importing_the_pure_packages_loads_no_torch() -> None:
    names = [
        module_name(path) for path in MODULES if path.relative_to(SOURCE).parts[0] in PURE_PACKAGES
    ]
    code = "import importlib, sys; [importlib.import_module(n) for n in sys.argv[1:]]"
    done = run_python(f"{code}; print('torch' in sys.modules)", *names)
    assert done.stdout.strip() == "False", done.stderr


def test_core_imports_the_standard_library_and_numpy_only() -> None:
    allowed = sys.stdlib_module_names | {"numpy", "tailrank"}
    for path in (SOURCE / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed, path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_is_short_and_its_name_says_what_it_holds(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= NUM_LINES_MAX
    assert not NAMES_THAT_SAY_NOTHING & set(module_name(path).split("."))
    assert ast.get_docstring(ast.parse(text)), "a module says what it is and what it must not know"


def test_no_module_reads_an_environment_variable_as_a_switch() -> None:
    # OMP_NUM_THREADS and the like are read by torch itself and only reported by `doctor`.
    readers = {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert readers == set()


def test_one_file_per_verb() -> None:
    files = {path.stem for path in (SOURCE / "commands").glob("*.py")} - {"__init__"}
    assert files == set(VERBS)


def test_the_overview_names_every_verb_with_what_it_does_and_loads_no_torch() -> None:
    code = (
        "import sys; from tailrank.cli import main; code = main(['--help']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        line = next(line for line in done.stdout.splitlines() if f" {verb} " in line)
        assert len(line.strip("│ ").removeprefix(verb).strip()) > 10, f"{verb} says nothing"


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_an_example_and_loads_no_torch(verb: str) -> None:
    code = (
        "import sys; from tailrank.cli import main; code = main([sys.argv[1], '--help']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = run_python(code, verb)
    assert done.returncode == 0, done.stderr
    assert f"tailrank {verb}" in done.stdout.split("Usage", 1)[1].split("\n", 1)[1], "no example"
