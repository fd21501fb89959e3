"""Worker processes: what dies is replaced, what is over leaves nobody behind."""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest

from tailrank.core.errors import ConfigError, ServingError, WorkerDied
from tailrank.runtime import nursery
from tailrank.runtime.forked import ForkedWorkers

WAIT_S = 30


def double(arrays):
    return [2 * array for array in arrays]


def die(arrays):
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def watched(pids) -> Iterator[list[int]]:
    """Descriptors that become readable when the processes end."""
    fds = [os.pidfd_open(pid) for pid in pids]
    yield fds
    for fd in fds:
        os.close(fd)


def have_ended(fds, timeout_s=WAIT_S):
    """Wait until all have."""
    return all(select.select([fd], [], [], timeout_s)[0] for fd in fds)


def kill(pid):
    """Kill a process and wait until it has ended."""
    with watched([pid]) as fds:
        os.kill(pid, signal.SIGKILL)
        assert have_ended(fds)


def test_a_process_that_hangs_is_killed_and_another_one_computes() -> None:
    hung = mmap.mmap(-1, 1)  # shared with the processes

    def hang_once(arrays):
        if hung[0] == 0 or arrays[0][0] == 13:
            hung[0] = 1
            signal.pause()
        return double(arrays)

    with closing(ForkedWorkers(hang_once, 1, hang_s=0.05)) as workers:
        (before,) = workers.pids
        with watched([before]) as fds:
            assert workers.call([np.arange(3)])[0].tolist() == [0, 2, 4]
            assert have_ended(fds)
        with pytest.raises(WorkerDied, match="2 worker processes ended"):
            workers.call([np.array([13])])
        assert workers.call([np.arange(3)])[0].tolist() == [0, 2, 4]
        assert workers.num_died == 3


@pytest.fixture
def workers():
    with closing(ForkedWorkers(double, 2)) as workers:
        yield workers


def test_arrays_go_there_and_come_back(workers):
    asked = [np.arange(6).reshape(2, 3), np.zeros((0, 4)), np.arange(1 << 18)]
    for _ in range(2):
        for found, array in zip(workers.call(asked), asked, strict=True):
            assert found.dtype == array.dtype
            assert np.array_equal(found, 2 * array)


def test_an_answer_is_not_overwritten_by_the_next(workers):
    (first,) = workers.call([np.arange(5)])
    workers.call([np.arange(5) + 100])
    assert first.tolist() == [0, 2, 4, 6, 8]


def test_each_thread_keeps_a_process_on_its_cores():
    core = min(os.sched_getaffinity(0))
    seen = {}

    def where(arrays):
        return [np.array([os.getpid(), *os.sched_getaffinity(0)])]

    with closing(ForkedWorkers(where, 2)) as workers:
        both = threading.Barrier(2)

        def run(name):
            os.sched_setaffinity(0, {core})
            both.wait(WAIT_S)
            seen[name] = {tuple(workers.call([])[0].tolist()) for _ in range(20)}

        threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ((first, *first_cores),) = seen["a"]
    ((second, *second_cores),) = seen["b"]
    assert first != second
    assert first_cores == second_cores == [core]


@pytest.mark.parametrize("error", [OSError(2, "gone"), ConfigError("age", 7.0, "less")])
def test_what_is_raised_there_is_raised_here(error):
    def fail(arrays):
        raise error

    with closing(ForkedWorkers(fail, 1)) as workers:
        with pytest.raises(type(error)) as caught:
            workers.call([])
        assert str(caught.value) == str(error)
        assert vars(caught.value) == vars(error)
        assert workers.num_died == 0


def test_an_endless_error_is_cut():
    def fail(arrays):
        raise ValueError("x" * 100_000)

    with closing(ForkedWorkers(fail, 1)) as workers:
        with pytest.raises(ServingError, match="ValueError: xxx") as caught:
            workers.call([])
        assert len(str(caught.value)) < 2000


def test_an_error_that_cannot_travel_comes_as_its_text():
    class LocalError(Exception):
        pass

    def fail(arrays):
        raise LocalError("here only")

    with (
        closing(ForkedWorkers(fail, 1)) as workers,
        pytest.raises(ServingError, match="LocalError: here only"),
    ):
        workers.call([])


def test_a_process_that_cannot_begin_says_why():
    def refuse():
        raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        ForkedWorkers(double, 2, refuse)


def test_a_killed_process_is_replaced_and_its_call_answered():
    begun = mmap.mmap(-1, 1)

    def die_once(arrays):
        if not begun[0]:
            begun[0] = 1
            die(arrays)
        return double(arrays)

    with closing(ForkedWorkers(die_once, 2)) as workers:
        before = workers.pids
        assert workers.call([np.arange(3)])[0].tolist() == [0, 2, 4]
        assert (workers.num_died, workers.num_replaced) == (1, 1)
        assert len(workers.pids) == 2
        assert len(set(before) & set(workers.pids)) == 1


def test_one_killed_while_idle_costs_nothing(workers):
    for pid in workers.pids:
        kill(pid)
    both = threading.Barrier(2)
    answers = []

    def call():
        both.wait(WAIT_S)
        for _ in range(20):
            answers.append(workers.call([np.arange(3)])[0].tolist())

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[0, 2, 4]] * 40
    assert len(workers.pids) == 2


def test_what_ends_two_processes_is_given_up():
    def compute(arrays):
        return die(arrays) if arrays[0][0] == 13 else double(arrays)

    with closing(ForkedWorkers(compute, 2)) as workers:
        with pytest.raises(WorkerDied, match="2 worker processes ended while they computed this"):
            workers.call([np.array([13])])
        assert workers.num_died == 2
        assert workers.num_replaced == 2
        assert workers.call([np.array([4])])[0].tolist() == [8]
        assert len(workers.pids) == 2


def test_a_killed_nursery_is_replaced(workers):
    kill(workers._nursery.pid)
    before = workers.pids
    for pid in before:
        kill(pid)
    assert workers.call([np.arange(3)])[0].tolist() == [0, 2, 4]
    assert not set(before) >= set(workers.pids)


def test_without_any_process_left_calls_fail_and_recover(workers, monkeypatch):
    def refuse():
        raise OSError("no more processes")

    for pid in workers.pids:
        kill(pid)
    with monkeypatch.context() as patch:
        patch.setattr(workers._nursery, "fork", refuse)
        for _ in range(2):
            with pytest.raises(WorkerDied, match="no worker process is left: no more processes"):
                workers.call([np.arange(3)])
    assert workers.call([np.arange(3)])[0].tolist() == [0, 2, 4]


def test_a_terminal_does_not_reach_workers(workers):
    pids = workers.pids
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in pids:
            os.kill(pid, number)
    workers.call([np.arange(3)])
    assert workers.pids == pids
    assert all(os.getpgid(pid) == workers._nursery.pid for pid in pids)


def test_no_descriptor_is_kept_open_elsewhere():
    reader, writer = os.pipe()
    with closing(ForkedWorkers(double, 1)):
        os.close(writer)
        assert select.select([reader], [], [], WAIT_S)[0]
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_nothing_is_left_after_the_end():
    gc.collect()  # what other tests have left is not closed while we count
    fds = len(os.listdir("/proc/self/fd"))
    workers = ForkedWorkers(double, 2)
    workers.call([np.arange(3)])
    with watched([*workers.pids, workers._nursery.pid]) as ended:
        workers.close()
        workers.close()
        assert have_ended(ended, 0)
    with pytest.raises(ChildProcessError):  # no zombie
        os.waitpid(workers._nursery.pid, os.WNOHANG)
    with pytest.raises(WorkerDied, match="sent home"):
        workers.call([np.arange(3)])
    del workers
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_process_that_hangs_is_killed_at_the_end(monkeypatch):
    monkeypatch.setattr(nursery, "_END_GRACE_S", 0.01)
    begun = mmap.mmap(-1, 1)
    errors = []

    def hang(arrays):
        begun[0] = 1
        signal.pause()

    workers = ForkedWorkers(hang, 1)

    def call():
        try:
            workers.call([])
        except WorkerDied as error:
            errors.append(str(error))

    with watched(workers.pids) as ended:
        thread = threading.Thread(target=call)
        thread.start()
        while not begun[0]:
            os.sched_yield()
        workers.close()
        assert have_ended(ended)
    thread.join(WAIT_S)
    assert errors == ["the workers have been sent home"]


def test_all_end_with_the_process_that_started_them():
    script = (
        "from tailrank.runtime.forked import ForkedWorkers\n"
        "workers = ForkedWorkers(lambda arrays: arrays, 2)\n"
        "print(*workers.pids, workers._nursery.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        with watched(pids) as ended:
            parent.kill()
            assert have_ended(ended)
