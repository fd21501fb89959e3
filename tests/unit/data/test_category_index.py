"""The hash table against a dict."""

import numpy as np

from tailrank.data.category_index import (
    ABSENT,
    CategoryIndex,
    category_keys,
    feature_keys,
    missing_keys,
    split_keys,
)


def test_keys_are_taken_apart_again() -> None:
    value_BF = np.array([[7, 0, 0xFFFFFFFF], [7, 7, 0]], dtype=np.uint64)
    missing_BF = np.array([[False, True, False], [False, False, False]])
    key_BF = category_keys(value_BF.copy(), missing_BF)
    assert len(np.unique(key_BF)) == 5  # the 7 of the first column is one category
    feature, missing, value = split_keys(key_BF.reshape(-1))
    assert feature.tolist() == [0, 1, 2, 0, 1, 2]
    assert missing.tolist() == missing_BF.reshape(-1).tolist()
    assert value.tolist() == value_BF.reshape(-1).tolist()
    assert feature_keys(2, np.array([0xFFFFFFFF], dtype=np.uint32)) == key_BF[0, 2]
    assert missing_keys(3)[1] == key_BF[0, 1]


def test_codes_are_those_of_a_dict_however_keys_come() -> None:
    rng = np.random.default_rng(0)
    index, known = CategoryIndex(), {}
    for size in (1, 5, 0, 3_000, 40_000, 2, 20_000):  # through several sizes of the table
        key = rng.zipf(1.3, (size, 2)).astype(np.uint64) & np.uint64(0xFFFFFFFF)
        before = {value: known.get(value, ABSENT) for value in key.reshape(-1).tolist()}
        assert index.find(key).reshape(-1).tolist() == [before[v] for v in key.reshape(-1).tolist()]
        for value in sorted(before.keys() - known.keys()):
            known[value] = len(known) + 1
        code = index.code(key)
        assert code.shape == key.shape
        assert code.reshape(-1).tolist() == [known[v] for v in key.reshape(-1).tolist()]
    assert index.num_keys == len(known) > 5_000
    assert index.key_C.tolist() == list(known)


def test_keys_that_want_one_slot_all_find_a_place() -> None:
    # 1024 slots: these 300 keys have their home in the same one.
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    keys = np.array([(5 << 54 | n) * inverse % (1 << 64) for n in range(300)], dtype=np.uint64)
    index = CategoryIndex()
    index.add(keys)
    assert index.find(keys).tolist() == list(range(1, 301))
    assert index.find(keys + np.uint64(1)).tolist() == [ABSENT] * 300
