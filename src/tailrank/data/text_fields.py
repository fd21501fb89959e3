"""Numbers from delimited text, all fields of a block at once. Knows no file format.

The eight bytes that end where a field ends are one little-endian word, first character lowest;
arithmetic on the word is arithmetic on eight characters. Every function says whether *all* fields
are sound, not which: whoever asks looks closer at what it refuses.

Source: eight digits in three multiplications: Lemire, "Number Parsing at a Gigabyte per Second",
2021, section 3; the hexadecimal form is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD_BYTES = 8
Words = NDArray[np.uint64]
Places = NDArray[np.int64]


def _bytes(value: int) -> np.uint64:
    """A word of eight equal bytes."""
    return np.uint64(value * 0x0101_0101_0101_0101)


# By number of characters: ones over the last so many bytes of a word.
_KEEP = np.array([(1 << 64) - (1 << 8 * (8 - kept)) for kept in range(9)], dtype=np.uint64)
_EVEN_BYTES = np.uint64(0x00FF_00FF_00FF_00FF)
_EVEN_PAIRS = np.uint64(0x0000_FFFF_0000_FFFF)
_BYTE, _PAIR, _HALF = np.uint64(8), np.uint64(16), np.uint64(32)


def words_ending_at(text: NDArray[np.uint8], ends: Places) -> Words:
    """The word before each of these places.

    Args:
        text: bytes.
        ends: at least `WORD_BYTES` each.
    """
    num_words = len(text) - WORD_BYTES + 1
    # A word at every byte: overlapping and unaligned, which x86 and ARM read at full speed.
    every = np.ndarray((num_words,), "<u8", text.data, 0, (1,))
    words: Words = every[ends - WORD_BYTES]
    return words


def decimal_digits(words: Words, num_digits: Places) -> tuple[Words, bool]:
    """Values of fields of up to eight decimal digits; 0 for none.

    Args:
        words: what ends where the fields end; overwritten.
        num_digits: 0 to 8.

    Returns:
        Values, and whether each character of each field is a digit.
    """
    words ^= _bytes(ord("0"))
    words &= _KEEP.take(num_digits)
    # Adding 0x76 sets the top bit of each byte above 9; a byte that carries has its own set.
    sound = not (((words + _bytes(0x76)) | words) & _bytes(0x80)).any()
    words *= np.uint64(1 + (10 << 8))
    words >>= _BYTE
    words &= _EVEN_BYTES
    words *= np.uint64(1 + (100 << 16))
    words >>= _PAIR
    words &= _EVEN_PAIRS
    words *= np.uint64(1 + (10_000 << 32))
    words >>= _HALF
    return words, sound


def hexadecimal_digits(words: Words, num_digits: Places) -> tuple[Words, bool]:
    """Values of fields of up to eight hexadecimal digits of either case; 0 for none.

    Args:
        words: what ends where the fields end; overwritten.
        num_digits: 0 to 8.

    Returns:
        Values, and whether each character of each field is such a digit.
    """
    words ^= _bytes(ord("0"))
    words &= _KEEP.take(num_digits)
    # Now digits are 0 to 9, lower case is 0x51 to 0x56, upper case the same with bit 5 set.
    letters = words >> np.uint64(6)
    letters &= _bytes(1)
    words &= ~(letters << np.uint64(5))
    words -= letters * np.uint64(0x51 - 10)  # a byte that borrows ends above 15: it is refused
    # Adding 6 carries into the upper half from 10 on, which is where letters must be.
    tens = words + _bytes(6)
    tens ^= letters << np.uint64(4)
    tens |= words
    sound = not (tens & _bytes(0xF0)).any()
    words *= np.uint64(1 + (1 << 12))
    words >>= _BYTE
    words &= _EVEN_BYTES
    words *= np.uint64(1 + (1 << 24))
    words >>= _PAIR
    words &= _EVEN_PAIRS
    words *= np.uint64(1 + (1 << 48))
    words >>= _HALF
    return words, sound
