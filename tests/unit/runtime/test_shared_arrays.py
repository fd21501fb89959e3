"""Arrays in shared memory: what one object wrote, another on the same memory reads."""

import os

import numpy as np
import pytest

from tailrank.runtime.shared_arrays import SharedArrays

ARRAYS = [
    np.arange(7, dtype=np.int64),
    np.zeros((0, 3), dtype=np.float32),
    np.array(2.5),
    np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    np.array([True, False]),
]


def test_another_mapping_reads_what_was_written():
    here = SharedArrays()
    there = SharedArrays(os.dup(here.fd))
    layout, _ = here.write(ARRAYS)
    for found, array in zip(there.read(layout), ARRAYS, strict=True):
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
        assert found.ctypes.data % 64 == 0
    here.close()
    there.close()


def test_memory_grows_on_both_sides_and_old_views_stay_good():
    here = SharedArrays()
    there = SharedArrays(os.dup(here.fd))
    layout, end = here.write([np.arange(10)])
    (early,) = there.read(layout)
    large = np.arange(1 << 19)  # 4 MiB: more than there is at first
    # Behind what is there, as an answer is laid behind its question.
    late_layout, _ = there.write([large], first_byte=end)
    (late,) = here.read(late_layout)
    assert np.array_equal(late, large)
    assert np.array_equal(early, np.arange(10))
    here.close()
    there.close()


def test_pointers_do_not_travel():
    memory = SharedArrays()
    with pytest.raises(AssertionError, match="numbers only"):
        memory.write([np.array([object()])])
    memory.close()
