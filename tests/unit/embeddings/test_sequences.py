"""Sequences that a model reads row by row: the same rows on every path, and their gradients."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec
from tailrank.inference.arena_tables import arena_tables
from tailrank.inference.cpu import place_in_arena
from tailrank.kernels import native
from tailrank.kernels.row_formats import ROW_FORMATS, read_rows
from tailrank.models import RankingModel
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep, loss_of

SPEC = FeatureSpec(
    features=(
        Feature(name="shops", side="user", kind="sequence", table="shops"),
        Feature(name="country", side="user", kind="bag", table="countries"),
        Feature(name="clicks", side="user", kind="sequence", table="items"),
        Feature(name="searches", side="user", kind="sequence", table="items"),
        Feature(name="item", side="item", kind="bag", table="items"),
        Feature(name="shop", side="item", kind="bag", table="shops"),
    ),
    tables=tuple(
        TableSpec(name=name, num_embeddings=rows, embedding_dim=3)
        for name, rows in (("countries", 4), ("items", 11), ("shops", 6))
    ),
)
UNPOOLED = ("shops", "clicks")
LENGTHS_UF = torch.tensor([[2, 1, 3, 2], [0, 0, 0, 0], [1, 2, 4, 0]])
FIRST_ROW = {"countries": 0, "items": 4, "shops": 15}


def make_side(lengths_RF: Tensor, limits: list[int], weighted: bool) -> SideFeatures:
    generator = torch.Generator().manual_seed(3)
    lengths = lengths_RF.flatten()
    limit_L = torch.repeat_interleave(torch.tensor(limits).repeat(len(lengths_RF)), lengths)
    return SideFeatures(
        dense_RN=torch.zeros(len(lengths_RF), 0),
        values_L=(torch.rand(len(limit_L), generator=generator) * limit_L).long(),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        weights_L=torch.rand(len(limit_L), generator=generator) if weighted else None,
    )


def make_batch(weighted: bool = False) -> FeatureBatch:
    return FeatureBatch(
        user=make_side(LENGTHS_UF, [6, 4, 11, 11], weighted),
        item=make_side(torch.tensor([[1, 1]] * 4), [11, 6], weighted),
        item_to_user_B=torch.tensor([0, 0, 1, 2]),
    )


def rows_one_by_one(weight_VD: Tensor, side: SideFeatures, column: int) -> list[Tensor]:
    """The weighted rows of each user's bag in that column of the user's side."""
    first = FIRST_ROW[SPEC.sparse("user")[column].table]
    bags = []
    for user in range(side.num_rows):
        cut = slice(*side.offsets[4 * user + column : 4 * user + column + 2].tolist())
        rows = weight_VD[side.values_L[cut] + first]
        bags.append(rows if side.weights_L is None else rows * side.weights_L[cut].unsqueeze(1))
    return bags


def check(pooled: Pooled, weight_VD: Tensor, batch: FeatureBatch, close: dict) -> None:
    """Compare with rows taken one user and one feature at a time."""
    assert pooled.user_UFD.shape == (3, 2, 3)
    for index, column in enumerate((1, 3)):
        expected = [rows.sum(0) for rows in rows_one_by_one(weight_VD, batch.user, column)]
        torch.testing.assert_close(pooled.user_UFD[:, index], torch.stack(expected), **close)
    for sequence, column in zip(pooled.user_sequences, (0, 2), strict=True):
        expected = rows_one_by_one(weight_VD, batch.user, column)
        torch.testing.assert_close(sequence.rows_LD, torch.cat(expected), **close)
        assert sequence.offsets.diff().tolist() == LENGTHS_UF[:, column].tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_reference_gives_each_sequence_row_by_row(weighted: bool) -> None:
    tables = EmbeddingTables(SPEC, torch.Generator().manual_seed(1), UNPOOLED)
    batch = make_batch(weighted)
    check(tables(batch), tables.weight_VD, batch, {"rtol": 0.0, "atol": 1e-6})


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_lookups_of_the_cpu_ranker_give_the_same(row_format, backend, weighted) -> None:
    if backend == "native" and (reason := native.why_unavailable()):
        pytest.skip(reason)
    tables = EmbeddingTables(SPEC, None, UNPOOLED)
    arena = place_in_arena(tables, row_format)
    tables.reset(torch.Generator().manual_seed(2))
    batch = make_batch(weighted)
    numbers_VD = read_rows(arena.tensor, row_format, 3)
    # torch's own bf16 and fp16 lookups round weights and sums to the rows' format.
    rounds = backend == "torch" and row_format in ("bf16", "fp16")
    close = {"rtol": 2e-2, "atol": 1e-2} if rounds else {"rtol": 1e-5, "atol": 1e-6}
    check(arena_tables(tables, backend)(batch), numbers_VD, batch, close)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_an_id_outside_its_table_is_named_where_the_caller_gave_it(backend) -> None:
    if backend == "native" and (reason := native.why_unavailable()):
        pytest.skip(reason)
    tables = EmbeddingTables(SPEC, torch.Generator().manual_seed(1), UNPOOLED)
    batch = make_batch()
    batch.user.values_L[int(batch.user.offsets[10]) + 2] = 11  # the third user's third click
    for embed in (tables, arena_tables(tables, backend)):
        with pytest.raises(ConfigError, match=r"clicks \(user row 2, id 2 of its bag\): got 11"):
            embed(batch)


def test_only_sequences_of_the_user_can_be_unpooled() -> None:
    for name in ("country", "item", "nothing"):
        with pytest.raises(ConfigError, match=r"unpooled: .*'shops', 'clicks', 'searches'"):
            EmbeddingTables(SPEC, None, (name,))


@dataclass(frozen=True)
class _Config:
    spec: FeatureSpec = SPEC


class _LastClick(RankingModel):
    """Reads sequences row by row; leaves one lookup without a gradient."""

    def __init__(self) -> None:
        super().__init__(_Config(), torch.Generator().manual_seed(4), unpooled=UNPOOLED)
        self.top = nn.Linear(3, 1)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        shops, clicks = (torch.cumsum(rows, 0) for rows, _ in pooled.user_sequences)
        total_D = shops.sum(0) * clicks.sum(0)
        return self.top(pooled.item_BFD[:, 0] + total_D) * pooled.item_BFD[:, 1].sum(1, True)

    def score_and_auxiliary(self, batch: FeatureBatch, pooled: Pooled) -> tuple[Tensor, Tensor]:
        return self.score(batch, pooled), 0.3 * pooled.user_sequences[1].rows_LD.square().sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_rows_are_those_of_whole_tables(weighted: bool) -> None:
    model, batch = _LastClick(), make_batch(weighted)
    labels = Labels(values_BT=torch.tensor([[1.0], [0.0], [1.0], [0.0]]))
    weight_VD = model.tables.weight_VD.detach().clone().requires_grad_()
    pooled = model.tables.pool(
        model.tables.merged(batch),
        lambda number, bags: torch.nn.functional.embedding_bag(
            bags.values_L,
            weight_VD,
            bags.offsets,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=bags.weights_L,
        ),
    )
    logits_BT, auxiliary = model.score_and_auxiliary(batch, pooled)
    (gradient_VD,) = torch.autograd.grad(loss_of(logits_BT, labels) + auxiliary, weight_VD)
    before_VD = weight_VD.detach().clone()
    config = TrainingConfig(dense_optimizer="sgd", table_optimizer="sgd", lr=0.1, table_lr=2.0)
    loss = TrainStep(model, config)(batch, labels)
    assert loss == pytest.approx(loss_of(logits_BT, labels).item()), "without the auxiliary loss"
    moved_VD = model.tables.weight_VD.detach() - before_VD
    torch.testing.assert_close(moved_VD, -2.0 * gradient_VD, rtol=1e-5, atol=1e-7)
    assert (gradient_VD[4:] != 0).any(1).sum() > 8
