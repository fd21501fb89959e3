"""The native dense kernels and the fused DLRM on every instruction set, against plain torch."""

import functools
import itertools
import threading

import pytest
import torch
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.inference.dense_layers import layers_of
from tailrank.inference.fused_dlrm import FusedDlrm, column_order
from tailrank.kernels import dense, native, reference
from tailrank.kernels.dense import DENSE_ISAS, Layer, PackedMlp, runnable_dense_isas
from tailrank.models.dlrm import DLRM, DLRMConfig
from tailrank.models.layers import mlp

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)
WIDTHS = (1, 7, 13, 16, 33, 64, 100, 512)
FORMATS = ("fp32", "bf16")
# Sums of another order; bf16 keeps 8 bits of mantissa and rounds once per layer.
TOLERANCE = {"fp32": {"rtol": 1e-5, "atol": 1e-5}, "bf16": {"rtol": 3e-2, "atol": 3e-2}}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Torch's answers here are small: a second thread gains little and waits on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=DENSE_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in runnable_dense_isas():
        pytest.skip(f"this CPU does not run {request.param}")
    return request.param


def random_stack(*widths: int, last_linear: bool = True, seed: int = 0) -> nn.Sequential:
    return mlp(widths, torch.Generator().manual_seed(seed), last_linear=last_linear)


def rounded(stack: nn.Sequential, dense_format: str) -> nn.Sequential:
    """The stack with weights that the format holds exactly."""
    if dense_format == "bf16":
        for parameter in stack.parameters():
            parameter.data.copy_(parameter.data.bfloat16())
    return stack


def expected(stack: nn.Sequential, x_BN: Tensor) -> Tensor:
    with torch.inference_mode():
        return stack.double()(x_BN.double()).float()


@pytest.mark.parametrize("dense_format", FORMATS)
def test_every_width_meets_every_other(isa, dense_format) -> None:
    torch.manual_seed(1)
    rows = itertools.cycle((1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 17, 48))
    for inputs, outputs in itertools.product(WIDTHS, WIDTHS):
        stack = rounded(random_stack(inputs, outputs, seed=inputs), dense_format)
        packed = PackedMlp(layers_of(stack), dense_format, isa)
        x_BN = torch.randn(next(rows), inputs)
        if dense_format == "bf16":
            x_BN = x_BN.bfloat16().float()
        # One layer without rounding between: even bf16 has to be near.
        torch.testing.assert_close(packed(x_BN), expected(stack, x_BN), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dense_format", FORMATS)
@pytest.mark.parametrize("num_rows", [0, 1, 6, 64, 255, 256, 257, 1000])
def test_stacks_equal_torch_for_any_number_of_rows(isa, dense_format, num_rows) -> None:
    torch.manual_seed(num_rows)
    # More inputs than the kernel takes in one pass are in the last, for few rows: it is large.
    wide = [(9001, 20, 3)] if num_rows in (1, 6) else []
    for widths in ((100, 33, 7, 1), (13, 64, 65), (1000, 130, 16), *wide):
        stack = rounded(random_stack(*widths, last_linear=num_rows % 2 == 0), dense_format)
        x_BN = torch.randn(num_rows, widths[0])
        out_BM = PackedMlp(layers_of(stack), dense_format, isa)(x_BN)
        assert out_BM.dtype is torch.float32
        torch.testing.assert_close(out_BM, expected(stack, x_BN), **TOLERANCE[dense_format])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dense_format", FORMATS)
def test_what_is_not_finite_stays_with_its_row_and_survives_relu(isa, dense_format, value) -> None:
    torch.manual_seed(3)
    stack = rounded(random_stack(9, 21, 5, last_linear=False), dense_format)
    packed = PackedMlp(layers_of(stack), dense_format, isa)
    x_BN = torch.randn(14, 9)
    clean = packed(x_BN)
    x_BN[4, 2] = value
    broken = packed(x_BN)
    others = [row for row in range(14) if row != 4]
    torch.testing.assert_close(broken[others], clean[others], rtol=0, atol=0)
    # In each place, what torch says: NaN where it has NaN, and nothing sound-looking elsewhere.
    torch.testing.assert_close(
        broken[4:5], expected(stack, x_BN)[4:5], **TOLERANCE[dense_format], equal_nan=True
    )


def test_rows_that_are_not_contiguous_are_read_right(isa) -> None:
    stack = random_stack(12, 5)
    x_BN = torch.randn(12, 30).t()
    actual = PackedMlp(layers_of(stack), "fp32", isa)(x_BN)
    torch.testing.assert_close(actual, expected(stack, x_BN), rtol=1e-5, atol=1e-5)


def test_misfits_are_refused_with_what_is_allowed() -> None:
    packed = PackedMlp(layers_of(random_stack(4, 2)))
    for wrong in (torch.zeros(3, 5), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4)):
        with pytest.raises(ConfigError, match="x_BN"):
            packed(wrong)
    with pytest.raises(ConfigError, match=r"layers\[1\] inputs"):
        PackedMlp([Layer(torch.zeros(3, 4), torch.zeros(3), True),
                   Layer(torch.zeros(1, 2), torch.zeros(1), False)])  # fmt: skip
    with pytest.raises(ConfigError, match="bias_M"):
        PackedMlp([Layer(torch.zeros(3, 4), torch.zeros(4), True)])
    with pytest.raises(ConfigError, match="at least one"):
        PackedMlp([])
    with pytest.raises(ConfigError, match="fp32 or bf16"):
        PackedMlp(layers_of(random_stack(4, 2)), "int8")
    with pytest.raises(ConfigError, match="avx512_bf16 or"):
        PackedMlp(layers_of(random_stack(4, 2)), "fp32", "sse9")
    with pytest.raises(BackendUnavailable, match="Sigmoid"):
        layers_of(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))


@pytest.mark.parametrize("dim", [1, 7, 13, 16, 32, 33, 64, 100])
def test_dot_interaction_equals_the_reference(isa, dim) -> None:
    torch.manual_seed(dim)
    for count in (0, 1, 2, 8, 9, 16, 17, 27, 33, 70):
        vectors_BFD = torch.randn(5, count, dim)
        pairs_BP = reference.dot_interaction(vectors_BFD)
        for first in {0, count // 2, count}:
            skipped = first * (first - 1) // 2
            actual = dense.dot_interaction(vectors_BFD, first, isa)
            torch.testing.assert_close(actual, pairs_BP[:, skipped:], rtol=1e-5, atol=1e-4)


def test_dot_interaction_keeps_nan_in_its_pairs(isa) -> None:
    vectors_BFD = torch.randn(2, 20, 16)
    vectors_BFD[0, 5, 3] = float("nan")
    actual, wanted = (
        dense.dot_interaction(vectors_BFD, 0, isa),
        reference.dot_interaction(vectors_BFD),
    )
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def make_spec(user_dense: int, item_dense: int, user_bags: int, item_bags: int, dim: int):
    features = []
    for side, width, bags in (("user", user_dense, user_bags), ("item", item_dense, item_bags)):
        if width:
            features.append(Feature(name=f"{side}_dense", side=side, kind="dense", width=width))
        for index in range(bags):
            table = f"table{index % 3}"
            features.append(Feature(name=f"{side}_{index}", side=side, kind="bag", table=table))
    tables = [TableSpec(name=f"table{i}", num_embeddings=n, embedding_dim=dim)
              for i, n in enumerate((3, 1000, 40))]  # fmt: skip
    return FeatureSpec(features=tuple(features), tables=tuple(tables))


def random_side(spec: FeatureSpec, side: str, rows: int, weighted: bool) -> SideFeatures:
    sparse = spec.sparse(side)
    lengths = torch.randint(0, 5, (rows * len(sparse),))
    limits = torch.tensor([spec.table(f.table).num_embeddings for f in sparse]).repeat(rows)
    limit_L = torch.repeat_interleave(limits.long(), lengths)
    return SideFeatures(
        dense_RN=torch.randn(rows, spec.dense_width(side)),
        values_L=(torch.rand(limit_L.shape[0]) * limit_L).long(),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        weights_L=torch.rand(limit_L.shape[0]) if weighted else None,
    )


def random_batch(spec: FeatureSpec, items: int, users: int, weighted: bool = False) -> FeatureBatch:
    to_user = torch.cat([torch.arange(users), torch.randint(0, max(users, 1), (items - users,))])
    return FeatureBatch(
        user=random_side(spec, "user", users, weighted),
        item=random_side(spec, "item", items, weighted),
        item_to_user_B=to_user.sort().values,
    )


def make_dlrm(spec: FeatureSpec, interaction: str, dense_format: str = "fp32") -> DLRM:
    has_dense = any(feature.kind == "dense" for feature in spec.features)
    dim = spec.tables[0].embedding_dim
    config = DLRMConfig(
        spec=spec,
        bottom_mlp=(17, dim) if has_dense else (),
        top_mlp=(33, 16, 1),
        interaction=interaction,
    )
    model = DLRM(config, torch.Generator().manual_seed(4)).eval()
    rounded(model.top, dense_format)
    rounded(model.bottom, dense_format)
    return model


def eager(model: DLRM, batch: FeatureBatch) -> Tensor:
    with torch.inference_mode():
        return torch.sigmoid(model(batch)).squeeze(1)


# Dense widths and bags of both sides, dim: whatever may be absent is absent in one.
SHAPES = [
    (0, 5, 0, 3, 16), (3, 5, 2, 3, 8), (3, 0, 2, 3, 13), (0, 0, 2, 3, 32),
    (0, 5, 2, 0, 7), (3, 5, 0, 1, 64), (3, 0, 5, 20, 16), (2, 1, 1, 0, 1),
]  # fmt: skip


@functools.lru_cache(maxsize=64)
def scored(shape: tuple[int, ...], interaction: str, dense_format: str):
    """A model, batches of it and their scores; the same for all instruction sets."""
    torch.manual_seed(5)
    spec = make_spec(*shape)
    model = make_dlrm(spec, interaction, dense_format)
    batches = [
        random_batch(spec, items, users, weighted)
        for items, users, weighted in [(0, 0, False), (1, 1, False), (7, 3, True),
                                       (300, 280, True), (520, 3, False)]
    ]  # fmt: skip
    return model, [(batch, eager(model, batch)) for batch in batches]


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("dense_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_dlrm_equals_the_model(isa, dense_format, shape, interaction) -> None:
    model, cases = scored(shape, interaction, dense_format)
    fused = FusedDlrm(model, dense_format, isa)
    for batch, wanted in cases:
        torch.testing.assert_close(fused(batch), wanted, **TOLERANCE[dense_format])


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_inputs_are_reordered_and_none_is_lost(interaction) -> None:
    for shape in SHAPES:
        config = make_dlrm(make_spec(*shape), interaction).config
        order_K, num_user_inputs = column_order(config)
        assert order_K.sort().values.tolist() == list(range(config.top_input_width))
        assert 0 <= num_user_inputs <= config.top_input_width


def test_one_ranker_serves_several_threads(isa) -> None:
    spec = make_spec(3, 5, 2, 3, 16)
    model = make_dlrm(spec, "dot")
    fused = FusedDlrm(model, "fp32", isa)
    batches = [random_batch(spec, items, 1 + items // 9) for items in (1, 40, 300, 9, 270, 64)]
    wanted = [fused(batch) for batch in batches]
    wrong: list[int] = []

    def score(start: int) -> None:
        for turn in range(start, start + 60):
            index = turn % len(batches)
            if not torch.equal(fused(batches[index]), wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=score, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_outlying_id_is_named_in_any_block(isa) -> None:
    spec = make_spec(0, 5, 2, 3, 16)
    fused = FusedDlrm(make_dlrm(spec, "cat"), "fp32", isa)
    for row, items in ((0, 1), (299, 600), (599, 600)):
        batch = random_batch(spec, items, 1)
        offsets = torch.arange(items * 3 + 1) * 2
        values_L = torch.zeros(items * 6, dtype=torch.int64)
        values_L[row * 6 + 3] = 1000
        item = SideFeatures(dense_RN=batch.item.dense_RN, values_L=values_L, offsets=offsets)
        broken = FeatureBatch(user=batch.user, item=item, item_to_user_B=batch.item_to_user_B)
        with pytest.raises(
            ConfigError, match=rf"item_1 \(item row {row}, id 1 of its bag\)"
        ) as error:
            fused(broken)
        assert (error.value.value, error.value.allowed) == (1000, "0 to 999")


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, 1), (0, -1), (3, -5), (400, 3), (900, 1 << 40), (-1, 0), (-1, 1 << 40)],
)
def test_bad_offsets_are_refused_before_anything_is_read(isa, position, value) -> None:
    spec = make_spec(0, 5, 0, 3, 16)
    fused = FusedDlrm(make_dlrm(spec, "cat"), "fp32", isa)
    batch = random_batch(spec, 600, 1)
    offsets = batch.item.offsets.clone()
    offsets[position] = value
    item = SideFeatures(dense_RN=batch.item.dense_RN, values_L=batch.item.values_L, offsets=offsets)
    with pytest.raises(ConfigError, match=r"item\.offsets"):
        fused(FeatureBatch(user=batch.user, item=item, item_to_user_B=batch.item_to_user_B))


@pytest.mark.parametrize("value", [-1, 2, 1 << 40])
def test_an_item_of_no_user_is_refused(isa, value) -> None:
    spec = make_spec(3, 5, 2, 3, 16)
    fused = FusedDlrm(make_dlrm(spec, "dot"), "fp32", isa)
    batch = random_batch(spec, 9, 2)
    batch.item_to_user_B[4] = value
    with pytest.raises(ConfigError, match=r"item_to_user_B\[4\]"):
        fused(batch)


def test_features_of_another_model_are_refused() -> None:
    fused = FusedDlrm(make_dlrm(make_spec(3, 5, 2, 3, 16), "dot"))
    for shape in ((3, 4, 2, 3, 16), (2, 5, 2, 3, 16), (3, 5, 1, 3, 16), (3, 5, 2, 4, 16)):
        with pytest.raises(ConfigError, match=r"(dense_RN|offsets)"):
            fused(random_batch(make_spec(*shape), 6, 2))
