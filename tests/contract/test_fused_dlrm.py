"""A whole DLRM in one native call on every instruction set, against the model in plain torch."""

import functools
import threading

import pytest
import torch
from tests.contract.dense_cases import FORMATS, NAN, NEEDS_NATIVE, TOLERANCE, rounded
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.inference.fused_dlrm import FusedDlrm, column_order
from tailrank.models.dlrm import DLRM, DLRMConfig

pytestmark = NEEDS_NATIVE


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
