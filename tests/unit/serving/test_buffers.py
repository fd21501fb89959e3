"""Memory of a body that was answered is used for the next."""

from __future__ import annotations

import subprocess
import sys

# Bodies of 3 MB, held together, as a server has them, and all let go.
PROGRAM = """
import resource, sys
if sys.argv[1:] == ["kept"]:
    from tailrank.serving.buffers import keep_freed_memory
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def answer():
    bodies = [b"".join([b"x" * 1000] * 3000) for _ in range(8)]
for _ in range(3):
    answer()
before = faults()
for _ in range(10):
    answer()
print(faults() - before)
"""


def test_pages_are_not_asked_for_again() -> None:
    given, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True).stdout)
        for words in ((), ("kept",))
    )
    assert given > 10_000  # else there is nothing to gain here
    assert kept < given / 100


RETURNING = """
from tailrank.serving.buffers import give_freed_memory_back, keep_freed_memory
def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) // 256
keep_freed_memory()
begun = resident_mb()
model = [b"x" * (8 << 20) for _ in range(20)]
last = b"x" * 1000000  # behind them: what lies at the end may be given back anyway
del model
kept = resident_mb() - begun
give_freed_memory_back()
print(kept, resident_mb() - begun)
"""


def test_a_model_that_is_gone_leaves_no_memory_behind() -> None:
    said = subprocess.run([sys.executable, "-c", RETURNING], capture_output=True, check=True)
    kept, left = map(int, said.stdout.split())
    assert kept > 150  # else there is nothing to give back
    assert left < 20
