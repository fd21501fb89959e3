"""Numbers from text against Python's own, every byte in every place."""

import re

import numpy as np
import pytest

from tailrank.data.text_fields import decimal_digits, hexadecimal_digits, words_ending_at

FORMS = [
    (decimal_digits, 10, rb"[0-9]{0,8}"),
    (hexadecimal_digits, 16, rb"[0-9a-fA-F]{0,8}"),
]


def parse(digits, fields: list[bytes]):
    """Values of fields that stand between other characters."""
    text = b"wxyz-12f" + b"".join(field + b"\t" for field in fields)
    lengths = np.array([len(field) for field in fields])
    ends = 8 + np.cumsum(lengths + 1) - 1
    return digits(words_ending_at(np.frombuffer(text, np.uint8), ends), lengths)


@pytest.mark.parametrize(("digits", "base", "form"), FORMS)
def test_values_are_those_of_int(digits, base: int, form: bytes) -> None:
    rng = np.random.default_rng(base)
    alphabet = np.frombuffer(b"0123456789abcdefABCDEF"[: 10 if base == 10 else None], np.uint8)
    fields = [rng.choice(alphabet, length).tobytes() for length in rng.integers(0, 9, 5000)]
    values, sound = parse(digits, fields)
    assert sound
    assert values.tolist() == [int(field or b"0", base) for field in fields]


@pytest.mark.parametrize(("digits", "base", "form"), FORMS)
def test_every_other_character_is_refused_wherever_it_stands(digits, base, form) -> None:
    for length in (1, 2, 7, 8):
        for place in range(length):
            for character in range(256):
                field = bytearray(b"9a0f19e3"[:length] if base == 16 else b"90719203"[:length])
                field[place] = character
                good = re.fullmatch(form, field, re.DOTALL) is not None
                assert parse(digits, [b"12", bytes(field), b""])[1] == good, field


@pytest.mark.parametrize(("digits", "base", "form"), FORMS)
def test_bad_neighbours_do_not_hide_each_other(digits, base, form) -> None:
    rng = np.random.default_rng(0)
    for word in rng.integers(0, 256, (3000, 8), dtype=np.uint8):
        field = word.tobytes()
        good = re.fullmatch(form, field, re.DOTALL) is not None
        assert parse(digits, [field])[1] == good, field
