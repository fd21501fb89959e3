"""The native dense kernels and the fused DLRM on every instruction set, against plain torch."""

import functools
import itertools
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
FLOATS = ("fp32", "bf16")
FORMATS = (*FLOATS, "int8")
# Sums of another order; bf16 keeps 8 bits of mantissa and rounds once per layer. In int8 the last
# bit of a sum may decide on a code of the next layer, 1/255 of a row's range.
TOLERANCE = {
    "fp32": {"rtol": 1e-5, "atol": 1e-5},
    "bf16": {"rtol": 3e-2, "atol": 3e-2},
    "int8": {"rtol": 1e-2, "atol": 1e-2},
}
NAN, INF = float("nan"), float("inf")


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


def expected(stack: nn.Sequential, x_BN: Tensor, dense_format: str = "fp32") -> Tensor:
    *layers, last = layers_of(stack)
    if dense_format == "int8":
        for weight_MN, bias_M, rectified in layers:
            x_BN = reference.int8_linear(x_BN, weight_MN, bias_M)
            x_BN = x_BN.relu() if rectified else x_BN
        out_BM = x_BN.double() @ last.weight_MN.double().t() + last.bias_M
        return (out_BM.relu() if last.rectified else out_BM).float()
    with torch.inference_mode():
        return stack.double()(x_BN.double()).float()


@pytest.mark.parametrize("dense_format", FLOATS)
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
        wanted = expected(stack, x_BN, dense_format)
        torch.testing.assert_close(out_BM, wanted, **TOLERANCE[dense_format])


def int8_layer(layer: Layer, isa: str) -> PackedMlp:
    """One layer in int8: a stack's last layer is not, so one that changes nothing follows."""
    outputs = layer.weight_MN.shape[0]
    return PackedMlp([layer, Layer(torch.eye(outputs), torch.zeros(outputs), False)], "int8", isa)


def assert_is_reference(layer: Layer, x_BN: Tensor, isa: str) -> None:
    """Up to fp32 rounding of the output: a single code that differs is far more than that."""
    wanted = reference.int8_linear(x_BN, layer.weight_MN, layer.bias_M)
    wanted = wanted.relu() if layer.rectified else wanted
    torch.testing.assert_close(
        int8_layer(layer, isa)(x_BN), wanted, rtol=2e-6, atol=2e-6, equal_nan=True
    )


def test_int8_layers_of_every_width_equal_the_reference(isa) -> None:
    torch.manual_seed(1)
    rows = itertools.cycle((1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 17, 48, 0, 256, 257))
    for inputs, outputs in itertools.product((*WIDTHS, 1000), (1, 7, 16, 33, 64, 100, 300)):
        layer = Layer(torch.randn(outputs, inputs), torch.randn(outputs), outputs % 2 == 0)
        x_BN = torch.randn(next(rows), inputs) * 3
        assert_is_reference(layer, x_BN.relu() if inputs % 2 else x_BN, isa)


# Ranges that are no range, below the least normal number, on one side of 0, and at the far end.
NUMBERS = (0.0, -0.0, 1e-45, -1e-39, 2e-38, 1e-30, -0.25, 0.5, 1.0, 3.0, -7.5, 1e30, 3e38, -3e38)


@given(seed=st.integers(0, 1 << 32), broken=st.booleans())
def test_int8_of_any_numbers_equals_the_reference(seed, broken) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs, rows, few = torch.randint(1, 40, (4,), generator=generator).tolist()
    numbers = torch.tensor(NUMBERS + ((NAN, INF, -INF) if broken else ()))

    def draw(count: int, width: int) -> Tensor:
        """Rows of one to a few different numbers."""
        some = numbers[torch.randint(len(numbers), (count, 1 + few % 5), generator=generator)]
        return some.gather(1, torch.randint(some.shape[1], (count, width), generator=generator))

    layer = Layer(draw(outputs, inputs), torch.randn(outputs, generator=generator), False)
    x_BN = draw(rows, inputs)
    wanted = reference.int8_linear(x_BN, layer.weight_MN, layer.bias_M)
    wanted = wanted @ torch.eye(outputs)  # the layer behind multiplies an infinity by 0
    for isa in runnable_dense_isas():
        torch.testing.assert_close(
            int8_layer(layer, isa)(x_BN), wanted, rtol=2e-6, atol=2e-6, equal_nan=True
        )


def test_int8_keeps_its_error_bound(isa) -> None:
    torch.manual_seed(8)
    for inputs, outlier in ((3, 1.0), (64, 1.0), (257, 50.0), (1000, 1e4)):
        layer = Layer(torch.randn(40, inputs), torch.randn(40), False)
        x_BN = torch.randn(30, inputs) + torch.arange(-15, 15).unsqueeze(1)
        x_BN[:, 0] *= outlier
        layer.weight_MN[:, -1] *= outlier
        scale_B1, scale_M = reference.int8_rows(x_BN)[1], reference.int8_columns(layer.weight_MN)[1]
        bound_BM = (
            scale_B1 / 2 * layer.weight_MN.abs().sum(1)
            + scale_M / 2 * x_BN.abs().sum(1, keepdim=True)
            + inputs * scale_B1 * scale_M / 4
        )
        exact_BM = x_BN.double() @ layer.weight_MN.double().t() + layer.bias_M
        error_BM = (int8_layer(layer, isa)(x_BN) - exact_BM).abs()
        assert (error_BM <= bound_BM * 1.001).all()
        assert error_BM.max() > bound_BM.max() / 1000  # it is int8 that ran


def test_int8_rows_and_columns_are_codes_as_described() -> None:
    x_BN = torch.tensor([[0.0, 1.0, 2.55], [-1.0, -0.4, 0.0], [5.0, 6.0, 7.0], [-2.0, 0.5, 3.1]])
    codes_BN, scale_B1, zero_B1 = reference.int8_rows(x_BN)
    assert codes_BN.tolist() == [[0, 100, 255], [0, 153, 255], [182, 219, 255], [0, 125, 255]]
    assert zero_B1.flatten().tolist() == [0, 255, 0, 100]
    assert ((codes_BN - zero_B1) * scale_B1 - x_BN).abs().le(scale_B1 * 0.5001).all()
    codes_MN, scale_M = reference.int8_columns(torch.tensor([[-2.54, 0.02, 1.0], [0.0, 0.0, 0.0]]))
    assert codes_MN.tolist() == [[-127, 1, 50], [0, 0, 0]]
    torch.testing.assert_close(scale_M, torch.tensor([0.02, 0.0]))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_makes_nan_of_a_row_in_int8(isa, value) -> None:
    torch.manual_seed(3)
    stack = random_stack(9, 21, 20, 5, last_linear=False)
    packed = PackedMlp(layers_of(stack), "int8", isa)
    x_BN = torch.randn(14, 9)
    clean = packed(x_BN)
    x_BN[4, 8] = value
    broken = packed(x_BN)
    others = [row for row in range(14) if row != 4]
    assert torch.equal(broken[others], clean[others])
    assert broken[4].isnan().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_weight_that_is_not_finite_leaves_no_sound_number_in_int8(isa, value) -> None:
    layers = layers_of(random_stack(9, 21, 20, 5))
    x_BN = torch.randn(14, 9)
    layers[0].weight_MN[20, 3] = value
    assert PackedMlp(layers, "int8", isa)(x_BN).isnan().all()
    out_BM = int8_layer(layers[0], isa)(x_BN)  # the layer that follows spreads it over the row
    assert out_BM.isnan().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dense_format", FLOATS)
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
    with pytest.raises(ConfigError, match="fp32 or bf16 or int8"):
        PackedMlp(layers_of(random_stack(4, 2)), "int4")
    too_wide = [Layer(torch.zeros(1, 32_769), torch.zeros(1), True)]
    with pytest.raises(ConfigError, match=r"layers\[0\] inputs.*32768 in int8"):
        PackedMlp(too_wide, "int8")
    PackedMlp(too_wide, "bf16")
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
    (0, 5, 1, 3, 16), (0, 0, 1, 1, 8),
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
    # Here the model is in fp32: what int8 costs is in the tolerance, too.
    tolerance = {"rtol": 5e-2, "atol": 5e-2} if dense_format == "int8" else TOLERANCE[dense_format]
    for batch, wanted in cases:
        torch.testing.assert_close(fused(batch), wanted, **tolerance)


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


def test_the_tables_that_are_read_live_as_long_as_the_ranker(isa) -> None:
    spec = make_spec(0, 5, 2, 3, 16)
    model = make_dlrm(spec, "cat")
    fused = FusedDlrm(model, "fp32", isa)
    batch = random_batch(spec, 40, 3)
    wanted = fused(batch)
    parameter = model.tables.weight_VD
    parameter.data = torch.empty(0)  # as `model.to` does
    others = [torch.full((1043, 16), NAN) for _ in range(20)]  # where it lay, were it free
    assert torch.equal(fused(batch), wanted)
    assert len(others) == 20


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
    [(0, 1), (0, -1), (3, -5), (400, 3), (900, 1 << 40), (900, -(1 << 63)), (-1, 0), (-1, 1 << 40)],
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
