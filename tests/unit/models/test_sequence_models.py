"""Models of sequences: any length of history, and only features that fit them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec
from tailrank.models import RankingModel, build_model
from tailrank.models.activations import Dice
from tailrank.models.din import DIN
from tailrank.models.recurrent import GRU, time_order
from tailrank.models.registry import config_for
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep

SPEC = FeatureSpec(
    features=(
        Feature(name="clicks", side="user", kind="sequence", table="items"),
        Feature(name="shops", side="user", kind="sequence", table="shops"),
        Feature(name="item", side="item", kind="bag", table="items"),
        Feature(name="shop", side="item", kind="bag", table="shops"),
    ),
    tables=(
        TableSpec(name="items", num_embeddings=50, embedding_dim=4),
        TableSpec(name="shops", num_embeddings=9, embedding_dim=4),
    ),
)


def make_model(architecture: str, spec: FeatureSpec = SPEC) -> RankingModel:
    return build_model(config_for(architecture, spec, {}), seed=1).eval()


def make_batch(lengths: list[int], items: list[int]) -> FeatureBatch:
    """Users with histories of these lengths and so many candidates each."""
    generator = torch.Generator().manual_seed(3)
    limit_L = torch.tensor([n for length in lengths for n in [50] * length + [9] * length])
    draw = lambda limits: (torch.rand(len(limits), generator=generator) * limits).long()  # noqa: E731
    user = SideFeatures(
        dense_RN=torch.zeros(len(lengths), 0),
        values_L=draw(limit_L),
        offsets=torch.tensor([0, *(n for n in lengths for _ in range(2))]).cumsum(0),
    )
    item = SideFeatures(
        dense_RN=torch.zeros(sum(items), 0),
        values_L=draw(torch.tensor([50, 9] * sum(items))),
        offsets=torch.arange(2 * sum(items) + 1),
    )
    to_user_B = torch.repeat_interleave(torch.tensor(items))
    return FeatureBatch(user=user, item=item, item_to_user_B=to_user_B)


def padded_interests(model: DIN, batch: FeatureBatch) -> Tensor:
    """The same as whole rectangles: every history as long as the longest, and a mask."""
    pooled = model.embed(batch)
    clicks, shops = pooled.user_sequences
    rows_LK = torch.cat([clicks.rows_LD, shops.rows_LD], dim=1)
    pieces = torch.split(rows_LK, clicks.offsets.diff().tolist())
    padded_UTK = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    length_B1 = clicks.offsets.diff()[batch.item_to_user_B].unsqueeze(1)
    behaviour_BTK = padded_UTK[batch.item_to_user_B]
    candidate_BTK = pooled.item_BFD.flatten(1).unsqueeze(1).expand_as(behaviour_BTK)
    difference_BTK = behaviour_BTK - candidate_BTK
    product_BTK = behaviour_BTK * candidate_BTK
    inputs = torch.cat([behaviour_BTK, candidate_BTK, difference_BTK, product_BTK], dim=2)
    size = inputs.shape[:2]
    weight_BT = model.attention.rest(model.attention.first(inputs).flatten(0, 1)).view(size)
    is_real_BT = torch.arange(size[1]) < length_B1
    return torch.einsum("bt,btk->bk", weight_BT * is_real_BT, behaviour_BTK)


def test_any_lengths_equal_the_same_histories_padded() -> None:
    model, batch = make_model("din"), make_batch([7, 0, 1, 30, 2], [3, 2, 1, 1, 4])
    read = []
    model.top.register_forward_hook(lambda module, inputs, output: read.append(inputs[1]))
    with torch.inference_mode():
        model(batch)
        expected = padded_interests(model, batch)
    torch.testing.assert_close(read[0][:, :8], expected, rtol=1e-5, atol=1e-6)
    assert (expected[3:5] == 0).all(), "no history, no interest"
    assert (expected[[0, 5, 6, 7]] != 0).all()


@pytest.mark.parametrize("architecture", ["din", "dien"])
@pytest.mark.parametrize("lengths", [[0], [0, 0], [1], [300]])
def test_short_and_long_histories_are_scored_and_trained(
    lengths: list[int], architecture: str
) -> None:
    model, batch = make_model(architecture), make_batch(lengths, [1] * len(lengths))
    with torch.inference_mode():
        assert torch.isfinite(model(batch)).all()
    labels = Labels(values_BT=torch.ones(len(lengths), 1))
    TrainStep(model, TrainingConfig())(batch, labels)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_recurrence_takes_no_step_for_padding() -> None:
    gru = GRU(3, 4, torch.Generator().manual_seed(2))
    first_R, length_R = torch.tensor([0, 5, 5, 7, 0]), torch.tensor([5, 0, 2, 6, 3])
    rows_LK = torch.randn(13, 3, generator=torch.Generator().manual_seed(4))
    order = time_order(first_R, length_R)
    scale_P = 0.1 + 0.9 * (order.place_P % 3) / 2
    with torch.inference_mode():
        states_PH, last_RH = gru(rows_LK, order, scale_P)
        for row, (first, length) in enumerate(zip(first_R, length_R, strict=True)):
            state_1H = torch.zeros(1, 4)
            for place in range(first, first + length):
                x_1G = gru.inputs(rows_LK[place : place + 1])
                scale_11 = torch.tensor([[0.1 + 0.9 * (place % 3) / 2]])
                state_1H = gru._step(x_1G, state_1H, scale_11)
                here = (order.row_P == row) & (order.place_P == place)
                torch.testing.assert_close(states_PH[here], state_1H)
            torch.testing.assert_close(last_RH[row : row + 1], state_1H)
    assert sum(order.sizes) == len(states_PH) == 16
    assert order.sizes == [4, 4, 3, 2, 2, 1]


def test_sequences_of_different_length_are_named() -> None:
    batch = make_batch([2, 3], [1, 1])
    offsets = torch.tensor([0, 2, 4, 6, 10])  # the second user: two clicks, four shops
    batch = replace(batch, user=replace(batch.user, values_L=batch.user.values_L % 9))
    broken = replace(batch, user=replace(batch.user, offsets=offsets))
    with pytest.raises(ConfigError, match=r"shops \(user row 1\).length: got 4; .* 2, as clicks"):
        make_model("din")(broken)


def test_features_without_a_match_are_refused() -> None:
    bags = tuple(replace(f, kind="bag") if f.side == "user" else f for f in SPEC.features)
    with pytest.raises(ConfigError, match="a sequence of the user's side that shares its table"):
        make_model("din", replace(SPEC, features=bags))
    twice = Feature(name="also", side="item", kind="bag", table="shops")
    with pytest.raises(ConfigError, match="one item feature of shops, the candidate for shops"):
        make_model("din", replace(SPEC, features=(*SPEC.features, twice)))


@pytest.mark.parametrize(
    ("architecture", "size", "value"),
    [
        ("din", "attention_mlp", ()),
        ("din", "attention_mlp", (4, 0)),
        ("din", "activation", "gelu"),
        ("dien", "hidden", 5),
        ("dien", "auxiliary", -0.1),
        ("mean_pooling", "activation", "gelu"),
        ("mean_pooling", "top_mlp", (-1,)),
    ],
)
def test_sizes_are_checked(architecture: str, size: str, value: object) -> None:
    with pytest.raises(ConfigError, match=size):
        config_for(architecture, SPEC, {size: value})


def test_dice_of_one_row_goes_by_what_it_has_seen() -> None:
    dice = Dice(2)
    rows = torch.tensor([[1.0, -2.0], [3.0, 6.0]])
    dice(rows)
    torch.testing.assert_close(dice.mean_M, torch.tensor([0.02, 0.02]))
    torch.testing.assert_close(dice.variance_M, torch.tensor([0.99 + 0.01, 0.99 + 0.16]))
    before = dice.mean_M.clone()
    for few in (rows[:1], rows[:0]):
        trained = dice(few)
        assert torch.equal(trained, dice.eval()(few))
        dice.train()
    assert torch.equal(dice.mean_M, before)
