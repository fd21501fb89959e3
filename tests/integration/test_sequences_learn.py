"""Models of sequences learn what only a look at single behaviours can tell."""

import torch

from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec
from tailrank.metrics import BinaryMetrics
from tailrank.models import build_model
from tailrank.models.registry import config_for
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep

NUM_ITEMS, CANDIDATES = 40, 4
SPEC = FeatureSpec(
    features=(
        Feature(name="clicks", side="user", kind="sequence", table="items"),
        Feature(name="item", side="item", kind="bag", table="items"),
    ),
    tables=(TableSpec(name="items", num_embeddings=NUM_ITEMS, embedding_dim=8),),
)


def draw(users: int, generator: torch.Generator) -> tuple[FeatureBatch, Labels]:
    """Histories of up to 8 items; a candidate is clicked if the user has met it before."""
    length_U = torch.randint(0, 9, (users,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), length_U.cumsum(0)])
    clicks_L = torch.randint(NUM_ITEMS, (int(offsets[-1]),), generator=generator)
    item_B = torch.randint(NUM_ITEMS, (CANDIDATES * users,), generator=generator)
    label_B = torch.zeros(CANDIDATES * users)
    for user in range(users):
        history = clicks_L[offsets[user] : offsets[user + 1]]
        own = slice(CANDIDATES * user, CANDIDATES * (user + 1))
        if len(history):
            item_B[own.start] = history[-1]
        label_B[own] = torch.isin(item_B[own], history).float()
    batch = FeatureBatch(
        user=SideFeatures(dense_RN=torch.zeros(users, 0), values_L=clicks_L, offsets=offsets),
        item=SideFeatures(
            dense_RN=torch.zeros(len(item_B), 0),
            values_L=item_B,
            offsets=torch.arange(len(item_B) + 1),
        ),
        item_to_user_B=torch.arange(users).repeat_interleave(CANDIDATES),
    )
    return batch, Labels(values_BT=label_B.unsqueeze(1))


def auc_of(architecture: str, passes: int) -> float:
    """AUC on users that training has not seen."""
    generator = torch.Generator().manual_seed(1)
    train, test = [draw(128, generator) for _ in range(20)], draw(600, generator)
    model = build_model(config_for(architecture, SPEC, {}), seed=1)
    settings = TrainingConfig(lr=0.01, dense_optimizer="adam", table_optimizer="adam")
    step = TrainStep(model, settings)
    for batch, labels in train * passes:
        step(batch, labels)
    metrics = BinaryMetrics()
    with torch.inference_mode():
        scores_BT = model.eval()(test[0]).sigmoid()
    metrics.update(scores_BT.numpy(), test[1].values_BT.numpy())
    return metrics.compute().auc


def test_attention_finds_a_behaviour_that_a_mean_hides() -> None:
    din, mean_pooling = auc_of("din", 3), auc_of("mean_pooling", 3)
    assert din > 0.85
    assert din > mean_pooling + 0.1


def test_states_of_interest_find_it_too() -> None:
    assert auc_of("dien", 5) > 0.75
