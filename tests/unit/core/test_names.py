"""Plain names for whatever people call things."""

import pytest

from tailrank.core.names import plain_names


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["click", "Item-Id", " price ($) "], ["click", "item_id", "price"]),
        (["runs/My.Run", "наборы", "42"], ["runs_my_run", "run_2", "42"]),
        (["a-b", "a_b", "A B"], ["a_b", "a_b_2", "a_b_3"]),
        (["a", "a_3", "A"], ["a", "a_3", "a_4"]),
    ],
)
def test_names_are_plain_and_each_is_there_once(texts: list[str], names: list[str]) -> None:
    assert plain_names(texts, "run") == dict(zip(texts, names, strict=True))
