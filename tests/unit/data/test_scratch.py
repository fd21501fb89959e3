"""Columns on disk: what was appended is read back, and no name is left behind."""

from pathlib import Path

import numpy as np

from tailrank.data.scratch import ScratchColumns


def test_blocks_become_columns(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    store = ScratchColumns(folder)
    blocks = [np.arange(6.0).reshape(3, 2), np.arange(6.0, 8.0).reshape(1, 2)]
    for block in blocks:
        store.append("pairs", block)
        store.append("turned", block.T[:1].T)
    store.append("unfinished", np.zeros(9))
    pairs = store.finish("pairs", np.float64, 2)
    turned = store.finish("turned", np.float64)
    assert store.finish("nothing", np.int32).shape == (0,)
    assert store.finish("nothing", np.int32, 3).shape == (0, 3)
    del store
    np.testing.assert_array_equal(pairs, np.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(turned, np.arange(8.0)[::2])
    assert isinstance(pairs.base, np.memmap)
    assert list(folder.iterdir()) == []
