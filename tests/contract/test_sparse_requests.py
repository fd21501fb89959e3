"""Updates of table rows by random lookups, sound or not: the formulas in NumPy, or an error."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.sparse_cases import (
    INT64_MAX,
    INT64_MIN,
    RULES,
    Statement,
    close,
    random_table,
    summed,
)

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.sparse_reference import Bags, RowRule, new_state
from tailrank.kernels.sparse_update import NativeUpdate


@st.composite
def requests(draw: st.DrawFn) -> tuple[RowRule, int, int, list[Bags]]:
    """Rule, dim, rows of the table, and lookups; some ids and offsets are anything at all."""
    dim, num_rows = draw(st.sampled_from([1, 7, 16])), draw(st.sampled_from([1, 3, 3000]))
    lookups, seed = [], draw(st.integers(0, 1000))
    for index in range(draw(st.integers(0, 3))):
        lengths = draw(st.lists(st.integers(0, 4), max_size=4))
        offsets = [0]
        for length in lengths:
            offsets.append(offsets[-1] + length)
        ids = [(seed + 7 * place + index) % num_rows for place in range(offsets[-1])]
        anything = st.integers(-3, 8) | st.integers(INT64_MIN, INT64_MAX)
        num_ids = len(ids)
        for numbers in (ids, offsets):
            if numbers and draw(st.integers(0, 5)) == 0:
                numbers[draw(st.integers(0, len(numbers) - 1))] = draw(anything)
        generator = torch.Generator().manual_seed(seed)
        weighted = draw(st.booleans())
        lookups.append(
            Bags(
                torch.tensor(ids, dtype=torch.int64),
                torch.tensor(offsets),
                torch.randn(len(lengths), dim, generator=generator),
                torch.randn(num_ids, generator=generator) if weighted else None,
            )
        )
    return draw(st.sampled_from(RULES)), dim, num_rows, lookups


def is_sound(bags: Bags, num_rows: int) -> bool:
    offsets, ids = bags.offsets.tolist(), bags.ids_L.tolist()
    rising = offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] == len(ids)
    return rising and all(0 <= row < num_rows for row in ids)


@given(requests())
def test_any_lookups_give_the_formula_or_an_error(request) -> None:
    rule, dim, num_rows, lookups = request
    sound = all(is_sound(bags, num_rows) for bags in lookups)
    runnable = () if native.why_unavailable() is not None else native.runnable_isas()
    for isa in runnable:
        weight_VD = random_table(num_rows, dim)
        statement = Statement(rule, weight_VD)
        update = NativeUpdate(rule, weight_VD, new_state(rule, weight_VD), isa=isa)
        if not sound:
            with pytest.raises(ConfigError):
                update.read(lookups)
            continue
        rows = update.read(lookups)
        expected = summed(lookups)
        assert rows.rows().tolist() == sorted(expected)
        rows.update(0.1, scale=0.7, l2=0.01)
        statement.step(expected, 0.1, scale=0.7, l2=0.01)
        # A first step of Adam is the sign of a gradient, whatever its size: near zero, of rounding.
        if all(np.abs(gradient).min() > 1e-3 for gradient in expected.values()):
            close(weight_VD, statement)
