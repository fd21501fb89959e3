"""Arrays are encoded as lists of the same values are, without a loop over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.test_fitted_encoder import assert_same
from tests.unit.serving.served import SPEC

from tailrank.core.errors import ConfigError
from tailrank.data.jagged import JaggedColumn, row_major
from tailrank.data.row_encoder import CategoryColumn, Rows, ids_below, row_ids

USER = Rows("user", {"age": [1.0], "seen": [[1, 2, 3]]}, 1)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 999),
            st.lists(st.integers(0, 49), max_size=3),
            st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 2),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["u2", "i4", "i8", "u8"]),
)
def test_arrays_and_lists_are_the_same_features(rows: list, dtype: str) -> None:
    movies, tags, sizes = ([row[column] for row in rows] for column in range(3))
    lists = {"movie": movies, "tags": tags, "sizes": [list(pair) for pair in sizes]}
    flat = np.array([tag for bag in tags for tag in bag], dtype=dtype)
    arrays = {
        "movie": np.array(movies, dtype=dtype),
        "tags": JaggedColumn(flat, np.array([len(bag) for bag in tags], dtype=np.int64)),
        "sizes": np.array(sizes, dtype=np.float32),
    }
    encoder = row_ids(SPEC)
    one, other = (encoder.features(USER, Rows("item", each, len(rows))) for each in (lists, arrays))
    assert_same(one, other)
    one.check(SPEC)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("movie", np.array([1, 1000]), r"items.movie\[1\]: got 1000; allowed: .*0 to 999"),
        ("movie", np.array([1, 2**63], dtype="u8"), r"items.movie\[1\]: got 9223372036854775808"),
        ("movie", np.array([1.0, 2.0]), r"items.movie\[0\]: got 1\.0"),
        ("movie", np.array(["a", "b"], dtype=object), r"items.movie\[0\]: got 'a'"),
        (
            "tags",
            JaggedColumn(np.array([1, 2, -5]), np.array([1, 2])),
            r"items.tags\[1\]: got \[2, -5\]",
        ),
        ("sizes", np.array([[1.0, 2.0], [np.nan, 1.0]]), r"items.sizes\[1\]: got \[nan, 1.0\]"),
        ("sizes", np.array([[1.0, 2.0], [1e39, 1.0]]), r"items.sizes\[1\]"),
        ("sizes", np.array([1.0, 2.0]), r"items.sizes\[0\]: got 1.0; allowed: a list of 2"),
        ("sizes", JaggedColumn(np.array([1.0]), np.array([1, 0])), r"items.sizes\[0\]"),
    ],
)
def test_a_bad_element_is_named_by_its_row(column: str, value: object, message: str) -> None:
    columns = {"movie": [1, 2], "tags": [[], []], "sizes": [[0, 0], [0, 0]], column: value}
    with pytest.raises(ConfigError, match=message):
        row_ids(SPEC).features(USER, Rows("item", columns, 2))


def test_the_latest_of_a_list_count_in_an_array_too() -> None:
    column = CategoryColumn(column="x", ids=ids_below(100), allowed="", max_length=2, is_list=True)
    lists = [[1, 2, 3], [], [4], [5, 6]]
    jagged = JaggedColumn(np.array([1, 2, 3, 4, 5, 6]), np.array([3, 0, 1, 2]))
    for values in (lists, jagged):
        read = column.read(Rows("item", {"x": values}, 4))
        assert read.values_L.tolist() == [2, 3, 4, 5, 6]
        assert read.length_R.tolist() == [2, 0, 1, 2]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 5))
def test_rows_of_one_size_are_joined_as_any_others(sizes: list[int], num_rows: int) -> None:
    columns = [
        JaggedColumn(torch.arange(size * num_rows).numpy(), np.full(num_rows, size))
        for size in sizes
    ]
    values_L, offsets = row_major(columns)
    expected, ends = [], [0]
    for row in range(num_rows):
        for column, size in zip(columns, sizes, strict=True):
            expected += column.values_L[row * size : (row + 1) * size].tolist()
            ends.append(len(expected))
    assert values_L.tolist() == expected
    assert offsets.tolist() == ends
