"""The native pooled lookup against `reference`: every row format, instruction set and odd shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native, reference
from tailrank.kernels.lookup import PREFETCH_ROWS_MAX, LookupConfig, PooledLookup
from tailrank.kernels.row_formats import RowFormat, read_rows

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)
FORMATS = get_args(RowFormat)
DIMS = (1, 7, 16, 32, 64, 100, 128)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BAGS = (0, 1, 5, 1000)
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1


@pytest.fixture(params=native.ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in native.runnable_isas():
        pytest.skip(f"this CPU does not run {request.param}")
    return request.param


@lru_cache(maxsize=1000)
def lookup_of(
    sizes: tuple[int, ...], dim: int, config: LookupConfig
) -> tuple[PooledLookup, list[Tensor]]:
    """A lookup in tables that each lie in memory of their own."""
    tables = [random_table(rows, dim, config.row_format, seed=rows) for rows in sizes]
    return PooledLookup(tables, dim, config), tables


def random_table(num_rows: int, dim: int, row_format: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if row_format in DTYPES:
        return torch.randn(num_rows, dim, generator=generator).to(DTYPES[row_format])
    number, code_bytes = (
        (torch.float32, dim) if row_format == "int8" else (torch.float16, (dim + 1) // 2)
    )
    codes = torch.randint(0, 256, (num_rows, code_bytes), generator=generator).to(torch.uint8)
    scale_bias = torch.randn(num_rows, 2, generator=generator).to(number).view(torch.uint8)
    return torch.cat([codes, scale_bias], dim=1)


def random_bags(lengths: Tensor, sizes: list[int], seed: int = 1) -> tuple[Tensor, Tensor]:
    """Ids and offsets of bags of these lengths, features in turn."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    limits = torch.tensor(sizes).repeat(len(lengths) // len(sizes))
    limit_L = torch.repeat_interleave(limits, lengths)
    draws = torch.rand(len(limit_L), generator=torch.Generator().manual_seed(seed))
    return (draws * limit_L).long(), offsets


def expected(
    tables: list[Tensor],
    dim: int,
    config: LookupConfig,
    ids_L: Tensor,
    offsets: Tensor,
    weights_L: Tensor | None = None,
) -> Tensor:
    """The same from the reference, in fp64, (R, F * D)."""
    firsts = torch.tensor([0] + [len(table) for table in tables[:-1]]).cumsum(0)
    num_rows = (len(offsets) - 1) // len(tables)
    first_L = torch.repeat_interleave(firsts.repeat(num_rows), offsets.diff())
    weight_VD = torch.cat([read_rows(t, config.row_format, dim) for t in tables]).double()
    out_GD = reference.pooled_lookup(weight_VD, ids_L + first_L, offsets, weights_L, config.pooling)
    return out_GD.view(num_rows, len(tables) * dim)


def check(mine: Tensor, theirs: Tensor, *, num_terms: int = 1) -> None:
    """Equal but for what fp32 rounds away in sums of so many terms."""
    assert mine.dtype is torch.float32
    largest = float(theirs.nan_to_num(0, 0, 0).abs().max()) if theirs.numel() else 0.0
    atol = 1e-6 * max(1.0, largest) * num_terms**0.5
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=atol, equal_nan=True)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("row_format", FORMATS)
def test_sums_means_and_weighted_sums_are_the_reference(
    isa: native.IsaName, row_format: RowFormat, dim: int
) -> None:
    sizes = [1, 50, 3]
    tables = [random_table(rows, dim, row_format, seed=rows) for rows in sizes]
    lengths = torch.tensor([BAGS[(3 * i) % 4] for i in range(12)] + [0, 0, 0, 2, 1, 0])
    ids_L, offsets = random_bags(lengths, sizes)
    weights_L = torch.randn(len(ids_L), generator=torch.Generator().manual_seed(3))
    for pooling, weights in (("sum", None), ("mean", None), ("sum", weights_L)):
        for prefetch_rows in (0, LookupConfig().prefetch_rows, PREFETCH_ROWS_MAX):
            config = LookupConfig(
                row_format=row_format, pooling=pooling, isa=isa, prefetch_rows=prefetch_rows
            )
            mine = PooledLookup(tables, dim, config)(ids_L, offsets, weights)
            theirs = expected(tables, dim, config, ids_L, offsets, weights)
            check(mine, theirs, num_terms=max(BAGS))


@pytest.mark.parametrize("num_tables", [1, 2, 26, 1000])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 9])
def test_any_number_of_tables_and_rows(isa: native.IsaName, num_tables: int, num_rows: int) -> None:
    sizes = [1 + i % 7 for i in range(num_tables)]
    tables = [random_table(rows, 16, "fp32", seed=i) for i, rows in enumerate(sizes)]
    lengths = torch.arange(num_rows * num_tables) % 4
    ids_L, offsets = random_bags(lengths, sizes)
    config = LookupConfig(isa=isa)
    mine = PooledLookup(tables, 16, config)(ids_L, offsets)
    assert mine.shape == (num_rows, 16 * num_tables)
    check(mine, expected(tables, 16, config, ids_L, offsets))


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("dim", [7, 32])
def test_weights_that_are_no_numbers_spread_as_in_the_reference(
    isa: native.IsaName, row_format: RowFormat, dim: int
) -> None:
    table = random_table(20, dim, row_format)
    table[:5] = 0  # infinity times zero is no number, times anything else it is infinite
    ids_L, offsets = random_bags(torch.tensor([3, 0, 4, 1, 2]), [20])
    ids_L[:2] = 2
    for value in (float("nan"), float("inf"), -float("inf")):
        weights_L = torch.ones(len(ids_L))
        weights_L[1], weights_L[4] = value, value
        config = LookupConfig(row_format=row_format, isa=isa)
        mine = PooledLookup([table], dim, config)(ids_L, offsets, weights_L)
        check(mine, expected([table], dim, config, ids_L, offsets, weights_L))
        assert not mine[0].isfinite().any()
        assert mine[1].eq(0).all()
        assert mine[3:].isfinite().all()


def test_rows_that_are_no_numbers_spread_as_in_the_reference(isa: native.IsaName) -> None:
    for row_format, dtype in DTYPES.items():
        values = [0.0, -0.0, 1.0, float("inf"), -float("inf"), float("nan"), 6e-8, -6e-5, 65504.0]
        table = torch.tensor(values).repeat_interleave(16).view(-1, 16).to(dtype)
        config = LookupConfig(row_format=row_format, isa=isa)
        ids_L, offsets = torch.arange(len(values)), torch.arange(len(values) + 1)
        mine = PooledLookup([table], 16, config)(ids_L, offsets)
        torch.testing.assert_close(mine, table.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("subnormals_as_zero", [False, True])
def test_every_fp16_number_is_read_as_it_is(isa: native.IsaName, subnormals_as_zero: bool) -> None:
    """Those below 6.1e-5 too, on a thread that takes fp32 numbers below 1.2e-38 for 0."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(-1, 16)
    table, config = bits.view(torch.float16), LookupConfig(row_format="fp16", isa=isa)
    num_rows = len(table)
    torch.set_flush_denormal(subnormals_as_zero)
    try:
        mine = PooledLookup([table], 16, config)(torch.arange(num_rows), torch.arange(num_rows + 1))
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(mine, table.float(), rtol=0, atol=0, equal_nan=True)


def test_quantised_rows_are_those_of_torch() -> None:
    weight_VD = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    ids_L, offsets = random_bags(torch.tensor([0, 1, 5, 30]), [40])
    ops = torch.ops.quantized
    int8 = ops.embedding_bag_byte_prepack(weight_VD)
    int4 = ops.embedding_bag_4bit_prepack(weight_VD)
    for row_format, rows, op in (
        ("int8", int8, ops.embedding_bag_byte_rowwise_offsets),
        ("int4", int4, ops.embedding_bag_4bit_rowwise_offsets),
    ):
        mine = PooledLookup([rows], 32, LookupConfig(row_format=row_format))(ids_L, offsets)
        check(mine, op(rows, ids_L, offsets, include_last_offset=True).double())
        bound = {"int8": 0.51 / 255, "int4": 0.53 / 15}[row_format]  # scale and bias are fp16 too
        spread_V = weight_VD.amax(1, keepdim=True) - weight_VD.amin(1, keepdim=True)
        numbers_VD = read_rows(rows, row_format, 32)
        assert bool(((numbers_VD - weight_VD).abs() <= bound * spread_V).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [7, 16, 100])
def test_writes_its_columns_and_no_others(
    isa: native.IsaName, dim: int, dtype: torch.dtype
) -> None:
    tables = [random_table(9, dim, "fp32", seed=seed) for seed in (0, 1)]
    ids_L, offsets = random_bags(torch.tensor([2, 0, 1, 7, 3, 3]), [9, 9])
    config = LookupConfig(isa=isa)
    out_RW = torch.full((3, 5 + 2 * dim + 3), 7.0, dtype=dtype)
    returned = PooledLookup(tables, dim, config)(ids_L, offsets, out_RW=out_RW, column=5)
    assert returned is out_RW
    pooled = expected(tables, dim, config, ids_L, offsets).to(dtype)
    rtol = 1e-5 if dtype is torch.float32 else 2**-7  # the last bit of a sum near a tie
    torch.testing.assert_close(out_RW[:, 5 : 5 + 2 * dim], pooled, rtol=rtol, atol=1e-5)
    assert out_RW[:, :5].eq(7).all()
    assert out_RW[:, 5 + 2 * dim :].eq(7).all()


def test_bf16_output_is_rounded_to_nearest_even(isa: native.IsaName) -> None:
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(-(1 << 31), 1 << 31, (4000, 16), generator=generator).to(torch.int32)
    bits[:500] = (bits[:500] & ~0xFFFF) | 0x8000  # ties
    table = bits.view(torch.float32)
    lookup = PooledLookup([table], 16, LookupConfig(isa=isa))
    out_RW = torch.empty(4000, 16, dtype=torch.bfloat16)
    lookup(torch.arange(4000), torch.arange(4001), out_RW=out_RW)
    torch.testing.assert_close(out_RW, table.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [-1, 3, 1 << 40, INT64_MIN, INT64_MAX])
@pytest.mark.parametrize("position", [0, 7, 8, 11])
def test_an_id_outside_its_table_is_named(isa: native.IsaName, value: int, position: int) -> None:
    tables = [random_table(rows, 8, "fp32") for rows in (3, 3)]
    ids_L, offsets = random_bags(torch.tensor([5, 3, 0, 4]), [3, 3])
    ids_L[position] = value
    config = LookupConfig(isa=isa)
    lookup = PooledLookup(tables, 8, config, feature_names=("country", "tags"), row_name="user row")
    place = {
        0: "country (user row 0, id 0 of its bag)",
        7: "tags (user row 0, id 2 of its bag)",
        8: "tags (user row 1, id 0 of its bag)",
        11: "tags (user row 1, id 3 of its bag)",
    }
    with pytest.raises(ConfigError) as error:
        lookup(ids_L, offsets)
    assert error.value.field == place[position]
    assert error.value.value == value
    assert error.value.allowed == "0 to 2"


@pytest.mark.parametrize(
    ("offsets", "index"),
    [
        ([1, 2, 4], 0),
        ([-1, 2, 4], 0),
        ([0, 3, 2], 2),
        ([0, 5, 4], 1),
        ([0, 2, 3], 2),
        ([0, 2, 5], 2),
        ([0, INT64_MAX, 4], 1),
        ([0, INT64_MIN, 4], 1),
        ([0, 2, INT64_MAX], 2),
        ([0, 0, 0], 2),
    ],
)
def test_offsets_that_do_not_rise_from_0_to_all_ids_are_refused(
    isa: native.IsaName, offsets: list[int], index: int
) -> None:
    lookup = PooledLookup([random_table(3, 16, "fp32")], 16, LookupConfig(isa=isa))
    with pytest.raises(ConfigError, match=rf"offsets\[{index}\] .*rising from 0 to 4") as error:
        lookup(torch.tensor([0, 1, 2, 0]), torch.tensor(offsets))
    assert error.value.value == offsets[index]


def test_ids_without_a_bag_are_refused() -> None:
    lookup = PooledLookup([random_table(3, 16, "fp32")], 16)
    with pytest.raises(ConfigError, match="offsets"):
        lookup(torch.tensor([0]), torch.tensor([0]))


def test_tensors_of_another_kind_are_refused() -> None:
    table = random_table(4, 16, "fp32")
    lookup = PooledLookup([table, table], 16)
    ids_L, offsets = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3])
    weights_L, out_RW = torch.ones(3), torch.empty(1, 32)
    lookup(ids_L, offsets, weights_L, out_RW=out_RW)
    for wrong in (
        {"ids_L": ids_L.int()},
        {"ids_L": torch.arange(6)[::2]},
        {"offsets": offsets.int()},
        {"offsets": offsets[:2]},
        {"offsets": offsets[:0]},
        {"weights_L": weights_L.double()},
        {"weights_L": weights_L[:2]},
        {"out_RW": out_RW.half()},
        {"out_RW": out_RW[0]},
        {"out_RW": out_RW[:, :31]},
        {"out_RW": torch.empty(2, 32)},
        {"out_RW": torch.empty(1, 64)[:, ::2]},
        {"out_RW": torch.empty(1, 33), "column": 2},
        {"out_RW": torch.empty(1, 33), "column": -1},
    ):
        with pytest.raises(ConfigError):
            lookup(**{"ids_L": ids_L, "offsets": offsets, **wrong})
    mean = PooledLookup([table, table], 16, LookupConfig(pooling="mean"))
    with pytest.raises(ConfigError, match="mean"):
        mean(ids_L, offsets, weights_L)


def test_tables_of_another_kind_are_refused() -> None:
    table = random_table(4, 16, "fp32")
    for tables, dim, row_format in (
        ([], 16, "fp32"),
        ([table], 15, "fp32"),
        ([table], 16, "bf16"),
        ([table.t()], 4, "fp32"),
        ([table[0]], 16, "fp32"),
        ([random_table(4, 16, "int8")], 16, "int4"),
    ):
        with pytest.raises(ConfigError):
            PooledLookup(tables, dim, LookupConfig(row_format=row_format))
    for wrong in ({"row_format": "fp8"}, {"pooling": "max"}, {"prefetch_rows": 1 << 20}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LookupConfig(**wrong)


def test_threads_do_not_disturb_each_other() -> None:
    tables = [random_table(500, 20, "int8", seed=seed) for seed in range(4)]
    config = LookupConfig(row_format="int8")
    lookup = PooledLookup(tables, 20, config)
    batches = [random_bags(torch.full((4 * 64,), 30), [500] * 4, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        outs = list(threads.map(lambda batch: lookup(*batch), batches * 5))
    for (ids_L, offsets), mine in zip(batches * 5, outs, strict=True):
        check(mine, expected(tables, 20, config, ids_L, offsets))


@st.composite
def requests(draw: st.DrawFn) -> tuple[LookupConfig, int, list[int], list[int], list[int]]:
    """A config, dim, table sizes, ids and offsets; some ids and offsets are anything at all."""
    config = LookupConfig(
        row_format=draw(st.sampled_from(FORMATS)),
        prefetch_rows=draw(st.sampled_from([0, 2, 64])),
    )
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    lengths = draw(st.lists(st.integers(0, 4), max_size=4 * len(sizes)))
    lengths = lengths[: len(lengths) // len(sizes) * len(sizes)]
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    limits = [sizes[bag % len(sizes)] for bag, n in enumerate(lengths) for _ in range(n)]
    seed = draw(st.integers(0, 1000))
    ids = [(seed + 7 * place) % limit for place, limit in enumerate(limits)]
    anything = st.integers(-3, 8) | st.integers(INT64_MIN, INT64_MAX)
    for numbers in (ids, offsets):
        if numbers and draw(st.booleans()):
            numbers[draw(st.integers(0, len(numbers) - 1))] = draw(anything)
    return config, draw(st.sampled_from([1, 7, 16, 64])), sizes, ids, offsets


@given(requests())
def test_any_ids_and_offsets_give_the_reference_or_an_error(request) -> None:
    config, dim, sizes, ids, offsets = request
    ids_L, offsets_G = torch.tensor(ids, dtype=torch.int64), torch.tensor(offsets)
    rising = offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] == len(ids)
    sound = rising and all(
        0 <= ids[position] < sizes[bag % len(sizes)]
        for bag in range(len(offsets) - 1)
        for position in range(offsets[bag], offsets[bag + 1])
    )
    for isa in native.runnable_isas():
        lookup, tables = lookup_of(tuple(sizes), dim, replace(config, isa=isa))
        if sound:
            check(lookup(ids_L, offsets_G), expected(tables, dim, config, ids_L, offsets_G))
        else:
            with pytest.raises(ConfigError):
                lookup(ids_L, offsets_G)
