"""Probes measure something, on one thread, and leave the settings as they found them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tailrank.characterization import host_probes


def test_probes_give_positive_figures() -> None:
    assert 0.0 <= host_probes.huge_page_fraction(4 << 20) <= 1.0
    for huge_pages in (False, True):
        assert host_probes.gather_ns_per_row(huge_pages=huge_pages, num_bytes=4 << 20) > 0.0
    plain = host_probes.linear_gflops(torch.float32, packed=False)
    assert plain is not None
    assert plain > 0.0


def test_a_type_that_packed_layers_do_not_take_has_no_speed() -> None:
    assert host_probes.linear_gflops(torch.int32, packed=True) is None


def test_one_thread_is_restored() -> None:
    before = torch.get_num_threads()
    with host_probes.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_stolen_ticks_are_the_eighth_field(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 9 9 9 9\n")
    assert host_probes.cpu_times(path) == (8, 36)


def test_a_core_is_busy_where_it_neither_idles_nor_waits_for_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text("cpu  9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 100 100\ncpu3 1 0 0 9\nintr 5\n")
    assert host_probes.busy_ticks(path) == {0: (27, 36), 3: (1, 10)}


@pytest.mark.parametrize(
    ("load", "threads", "said"), [(0.4, 2, False), (1.0, 2, False), (1.6, 2, True), (9.0, 1, False)]
)
def test_threads_on_busy_cores_are_warned_of(monkeypatch, load, threads, said) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    warning = host_probes.crowding()
    assert (warning is not None) == said
    assert warning is None or (
        "load average 1.6 on 2 cores" in warning and "OMP_NUM_THREADS=1" in warning
    )
