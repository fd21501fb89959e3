"""What `tailrank train` does when told nothing but model and data: sizes and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tailrank.core.errors import ConfigError, one_of
from tailrank.data.dataset import Dataset
from tailrank.data.registry import DataSettings
from tailrank.inference.ranker import load_model
from tailrank.models import ModelConfig, RankingModel, build_model
from tailrank.models.registry import (
    architecture_names,
    config_for,
    lookup_spec,
    num_dense_parameters,
)
from tailrank.training.config import TrainingConfig
from tailrank.training.optimizers import state_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model's sizes, how its rows are read and how to train it.

    Args:
        architecture: a name of `models.registry`.
        sizes: keywords of the architecture's `for_spec`; what is left out has its default.
        data: how rows become features.
        training: settings of the run.
        pretrained: folders of trained models that the model starts from; none: from its seed.
    """

    architecture: str = "dlrm"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretrained: tuple[str, ...] = ()

    def fresh_model(self, dataset: Dataset) -> RankingModel:
        """The model as training begins with it.

        Raises:
            ConfigError: as `model_config`; or pretrained models that are not its parts.
            DataError: one of them is missing or damaged.
        """
        model = build_model(self.model_config(dataset), self.training.seed)
        if self.pretrained:
            model.start_from([load_model(Path(folder))[0] for folder in self.pretrained])
        return model

    def model_config(self, dataset: Dataset) -> ModelConfig:
        """The model for these features and tasks.

        Raises:
            ConfigError: a size, or features that the architecture has no use for.
            RequestError: it predicts one task and the data have several.
        """
        return config_for(self.architecture, dataset.spec, self.sizes, dataset.tasks)

    def bytes_needed(self, dataset: Dataset) -> int:
        """Bytes that training allocates for model, gradients, optimiser state and mean."""
        config = self.model_config(dataset)
        num_dense, spec = num_dense_parameters(config), lookup_spec(config)
        num_rows = sum(table.num_embeddings for table in spec.tables)
        training = self.training
        weights = spec.table_bytes + 4 * num_dense
        state = state_bytes(
            num_rows,
            max((table.embedding_dim for table in spec.tables), default=0),  # one dim for all
            num_dense,
            training.table_optimizer,
            training.dense_optimizer,
        )
        average = weights + 4 * num_rows if training.average_fraction else 0
        return weights + state + average

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        data, training = self.data.to_dict(), asdict(self.training)
        return {**self.model_record(), "data": data, "training": training}

    def model_record(self) -> dict[str, Any]:
        """A JSON-ready record of what `fresh_model` makes of a data set."""
        return {
            "architecture": self.architecture,
            "sizes": dict(self.sizes),
            "pretrained": list(self.pretrained),
        }


def recipe_for(architecture: str, kind: str, variant: str | None = None) -> Recipe:
    """The recipe of a model for a kind of data; the defaults where nobody has looked for one.

    Args:
        architecture: a name of `models.registry`.
        kind: a name of `data.registry`.
        variant: of the architecture, which may have a recipe of its own, `ARCHITECTURE-VARIANT`.

    Raises:
        ConfigError: unknown architecture.
    """
    if architecture not in architecture_names():
        raise ConfigError("model", architecture, one_of(architecture_names(), architecture))
    plain = _ANY_DATA.get(architecture, Recipe(architecture=architecture))
    plain = _ANY_DATA.get(f"{architecture}-{variant}", plain)
    own = RECIPES.get((f"{architecture}-{variant}", kind))
    return own or RECIPES.get((architecture, kind), plain)


def for_rows(
    training: TrainingConfig,
    num_rows: int,
    *,
    batch_items: int | None = None,
    epochs: int | None = None,
) -> TrainingConfig:
    """Settings for data without a recipe: batches and passes that give few rows enough steps.

    Smaller batches first, then more passes, of which early stopping needs not take all.

    Args:
        training: everything else.
        num_rows: training rows.
        batch_items: rows per step, where the user chose; None: a power of two from 64 to 2048.
        epochs: passes at most, where the user chose; None: 1 to 20.
    """
    if batch_items is None:
        wanted = max(1, num_rows // _STEPS_PER_PASS)
        batch_items = min(2048, max(64, 1 << (wanted.bit_length() - 1)))
    training = replace(training, batch_items=batch_items)
    if epochs is None:
        epochs = min(20, math.ceil(_STEPS / training.steps_per_epoch(num_rows)))
    return replace(training, epochs=epochs)


# Against one pass of batches of 2048, DLRM's validation AUC on 1,400, 10,000 and 35,000 rows of UCI
# Adult rose from 0.60 to 0.88, from 0.84 to 0.90 and from 0.89 to 0.92.
_STEPS_PER_PASS, _STEPS = 128, 2000

# For data that has no recipe below: what an architecture cannot do without.
_ANY_DATA = {
    "logistic_regression": Recipe(
        architecture="logistic_regression", data=DataSettings(embedding_dim=1)
    ),
    # Eight factors each, the least that its paper tries.
    "ncf": Recipe(architecture="ncf", data=DataSettings(embedding_dim=24)),
    "ncf-gmf": Recipe(architecture="ncf", data=DataSettings(embedding_dim=8)),
    "ncf-mlp": Recipe(architecture="ncf", data=DataSettings(embedding_dim=16)),
}
# Rates stay constant, so the weights to keep are a mean: on validation rows it raised grouped AUC
# by 0.001 to 0.002 for a factorisation machine and by 0.003 to 0.005 for a DLRM.
_MOVIELENS = TrainingConfig(
    batch_items=1024,
    epochs=15,
    average_fraction=0.1,
    evaluate_every=350,
    select_by="grouped_auc",
)
# Likes and drawn items: a model that learns its rows by heart ranks a user's next like low. L2 on
# rows and layers, a higher rate, many passes and a mean of weights keep it from that: NDCG@10 of
# MLP's validation users rose from 0.549 to 0.579. GMF, which has no layers, wants less of it.
_NCF = TrainingConfig(
    batch_items=1024,
    epochs=24,
    lr=0.002,
    dense_optimizer="adam",
    table_optimizer="adam",
    table_l2=1e-4,
    weight_decay=1e-5,
    average_fraction=0.2,
    select_by="ndcg_at_10",
)
# Other rates, layers and dims end within 0.001 of its validation AUC (docs/lab-notes.md).
_ADULT = TrainingConfig(
    batch_items=256,
    epochs=8,
    lr=0.03,
    table_l2=1e-3,
    average_fraction=0.2,
    evaluate_every=55,
    patience=6,
)
# One pass: a second one overfits. The rate of the dense layers falls to 0, that of tables stays.
# Adam on the layers of DLRM and DCN-V2 raised validation AUC by 0.0006 to 0.0009 over Adagrad.
_CRITEO = TrainingConfig(
    batch_items=128,
    lr=0.01,
    table_optimizer="adagrad",
    table_lr=0.02,
    table_l2=2e-4,
    lr_schedule="linear",
    evaluate_every=192,
)
# Next items of short histories: what keeps tables small decides. On validation users L2 of 1e-3,
# 3e-3 and 1e-2 gave a mean of behaviours a grouped AUC of 0.830, 0.836 and 0.830.
_AMAZON = TrainingConfig(
    batch_items=2048,
    epochs=12,
    lr=0.003,
    dense_optimizer="adam",
    table_optimizer="adam",
    table_l2=3e-3,
    average_fraction=0.1,
    select_by="grouped_auc",
    patience=2,
)
# Chosen on validation rows; benchmarks/results says how, and how often the test was scored.
RECIPES = {
    ("dlrm", "criteo"): Recipe(
        sizes={"bottom_mlp": (512,), "top_mlp": (256,)},
        data=DataSettings(embedding_dim=64, integer_buckets=True),
        training=replace(_CRITEO, dense_optimizer="adam", lr=0.002),
    ),
    ("deepfm", "criteo"): Recipe(
        architecture="deepfm",
        sizes={"top_mlp": (512,)},
        data=DataSettings(embedding_dim=33, integer_buckets=True),
        training=replace(_CRITEO, table_lr=0.01, table_l2=3e-4),
    ),
    ("dcn_v2", "criteo"): Recipe(
        architecture="dcn_v2",
        sizes={"top_mlp": (512,), "rank": 64},
        data=DataSettings(embedding_dim=16, integer_buckets=True),
        training=replace(
            _CRITEO,
            dense_optimizer="adam",
            lr=0.001,
            table_optimizer="rowwise_adagrad",
            table_lr=0.03,
            table_l2=0.0,
        ),
    ),
    ("wide_and_deep", "criteo"): Recipe(
        architecture="wide_and_deep",
        sizes={"top_mlp": (512,)},
        data=DataSettings(embedding_dim=33, integer_buckets=True),
        training=replace(_CRITEO, table_l2=1e-4),
    ),
    # Vectors side by side: here an MLP on their products learns the training rows by heart.
    ("dlrm", "movielens"): Recipe(
        sizes={"interaction": "cat", "top_mlp": (128, 64)},
        data=DataSettings(embedding_dim=32),
        training=replace(_MOVIELENS, lr=0.01, table_lr=0.1, table_l2=4e-5, average_fraction=0.2),
    ),
    ("mean_pooling", "amazon"): Recipe(
        architecture="mean_pooling", sizes={"top_mlp": (64, 32)}, training=_AMAZON
    ),
    ("din", "amazon"): Recipe(
        architecture="din",
        sizes={"attention_mlp": (32, 16), "top_mlp": (64, 32)},
        training=_AMAZON,
    ),
    # A whole auxiliary loss drowns the clicks': after 5 passes 0.8095 where a tenth has 0.8148.
    ("dien", "amazon"): Recipe(
        architecture="dien", sizes={"auxiliary": 0.1, "top_mlp": (64, 32)}, training=_AMAZON
    ),
    ("ncf", "ncf"): Recipe(architecture="ncf", data=DataSettings(embedding_dim=96), training=_NCF),
    ("ncf-gmf", "ncf"): Recipe(
        architecture="ncf",
        sizes={"variant": "gmf"},
        data=DataSettings(embedding_dim=32),
        training=replace(_NCF, table_l2=3e-5, weight_decay=0.0),
    ),
    ("ncf-mlp", "ncf"): Recipe(
        architecture="ncf",
        sizes={"variant": "mlp"},
        data=DataSettings(embedding_dim=64),
        training=replace(_NCF, epochs=32),
    ),
    # Plain SGD, as the paper: Adam's moments of the two parts are gone. Together they have learnt
    # what there is to learn, and larger rates only learn rows by heart: NDCG@10 of validation users
    # is 0.583 at the start, and 0.582, 0.580 after one and two passes at rates of 0.01 and 0.03.
    ("ncf-pretrained", "ncf"): Recipe(
        architecture="ncf",
        data=DataSettings(embedding_dim=96),
        training=replace(_NCF, epochs=1, lr=0.001, dense_optimizer="sgd", table_optimizer="sgd"),
    ),
    ("dlrm", "synthetic"): Recipe(
        training=TrainingConfig(
            batch_items=1024, epochs=2, lr=0.03, table_lr=0.1, lr_schedule="linear"
        )
    ),
    ("mt_wide_and_deep", "adult"): Recipe(
        architecture="mt_wide_and_deep",
        sizes={"bottom_mlp": (128,), "top_mlp": (64,)},
        data=DataSettings(embedding_dim=18),
        training=_ADULT,
    ),
    ("wide_and_deep", "adult"): Recipe(
        architecture="wide_and_deep",
        sizes={"top_mlp": (128, 64)},
        data=DataSettings(embedding_dim=17),
        training=_ADULT,
    ),
    ("logistic_regression", "adult"): Recipe(
        architecture="logistic_regression",
        data=DataSettings(embedding_dim=1),
        training=replace(_ADULT, epochs=20, lr=0.3, table_l2=0.0),
    ),
    ("logistic_regression", "criteo"): Recipe(
        architecture="logistic_regression",
        data=DataSettings(embedding_dim=1, integer_buckets=True),
        training=TrainingConfig(
            batch_items=128, epochs=3, lr=0.01, table_lr=0.03, evaluate_every=192
        ),
    ),
    ("logistic_regression", "synthetic"): Recipe(
        architecture="logistic_regression",
        data=DataSettings(embedding_dim=1),
        training=TrainingConfig(batch_items=1024, epochs=2, lr=0.03, table_lr=0.1),
    ),
    ("matrix_factorization", "synthetic"): Recipe(
        architecture="matrix_factorization",
        data=DataSettings(embedding_dim=17, features=("user_0", "item_0")),
        training=TrainingConfig(batch_items=1024, epochs=4, lr=0.03, table_lr=0.03),
    ),
    ("factorization_machine", "criteo"): Recipe(
        architecture="factorization_machine",
        data=DataSettings(embedding_dim=9, integer_buckets=True),
        training=TrainingConfig(
            batch_items=128, epochs=2, lr=0.01, table_lr=0.01, evaluate_every=192
        ),
    ),
    ("factorization_machine", "synthetic"): Recipe(
        architecture="factorization_machine",
        data=DataSettings(embedding_dim=5),
        training=TrainingConfig(batch_items=1024, epochs=2, lr=0.03, table_lr=0.1),
    ),
    ("logistic_regression", "movielens"): Recipe(
        architecture="logistic_regression",
        data=DataSettings(embedding_dim=1),
        training=replace(_MOVIELENS, lr=0.1, table_lr=0.1),
    ),
    ("matrix_factorization", "movielens"): Recipe(
        architecture="matrix_factorization",
        data=DataSettings(embedding_dim=33, features=("user_id", "movie_id")),
        training=replace(_MOVIELENS, lr=0.1, table_lr=0.1, table_l2=3e-5),
    ),
    ("factorization_machine", "movielens"): Recipe(
        architecture="factorization_machine",
        data=DataSettings(embedding_dim=17),
        training=replace(_MOVIELENS, lr=0.1, table_lr=0.1),
    ),
}
