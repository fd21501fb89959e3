"""A target that is loaded in no time, for tests of what serves it."""

from __future__ import annotations

from tailrank.characterization.payloads import QueryPool
from tailrank.characterization.target import Target
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.inference.eager import EagerRanker
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig


def small_target(name: str) -> Target:
    """A DLRM of a few hundred weights, on the eager ranker; queries of up to 130 items."""
    dataset = SyntheticDataset(SyntheticConfig(rows=56 * 8, embedding_dim=4))
    config = DLRMConfig.for_spec(dataset.spec, bottom_mlp=(4,), top_mlp=(4,))
    return Target(
        name=name,
        spec=dataset.spec,
        ranker=EagerRanker(build_model(config, seed=0)),
        pool=QueryPool.from_dataset(dataset, seed=0),
    )
