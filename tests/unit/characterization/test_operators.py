"""Every part of a call is counted once, and watching leaves no trace."""

from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from tailrank.characterization.operators import OPERATORS, timed_operators
from tailrank.features import FeatureBatch, Side, SideFeatures
from tailrank.inference.cpu import CpuRanker
from tailrank.inference.eager import EagerRanker
from tailrank.inference.ranker import random_ranker
from tailrank.kernels import native
from tailrank.models import build_model
from tailrank.models.presets import load_preset

CONFIG = load_preset("dlrm-rmc1", scale=1e-5, user_tables=3)


def a_side(side: Side, num_rows: int) -> SideFeatures:
    num_ids = int(CONFIG.spec.ids_per_row(side))
    num_bags = len(CONFIG.spec.sparse(side))
    return SideFeatures(
        dense_RN=torch.randn(num_rows, CONFIG.spec.dense_width(side)),
        values_L=torch.randint(CONFIG.spec.tables[0].num_embeddings, (num_rows * num_ids,)),
        offsets=torch.arange(num_rows * num_bags + 1) * (num_ids // num_bags),
    )


def a_batch(num_items: int = 20) -> FeatureBatch:
    return FeatureBatch(
        user=a_side("user", 1),
        item=a_side("item", num_items),
        item_to_user_B=torch.zeros(num_items, dtype=torch.int64),
    )


def rankers() -> dict[str, EagerRanker | CpuRanker]:
    cpu = random_ranker(CONFIG, seed=0, dense_backend="mkl")
    assert isinstance(cpu, CpuRanker)
    assert cpu.fused is None
    return {"eager": EagerRanker(build_model(CONFIG, 0)), "cpu": cpu}


@pytest.mark.parametrize("name", ["eager", "cpu"])
def test_each_layer_and_lookup_is_timed_once(monkeypatch, name: str) -> None:
    ranker, batch, ticks = rankers()[name], a_batch(), count()
    before = ranker.rank(batch)
    with timed_operators(ranker) as call, monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter_ns", lambda: next(ticks))
        for _ in range(2):
            # Each time that is taken is one tick apart: the lookups', the bottom's and the top's.
            assert call(batch) == {"lookup": 1, "dense": 2, "attention": 0, "recurrent": 0}
    assert not any(module._forward_hooks for module in ranker.model.modules())
    ended = next(ticks)
    assert torch.equal(ranker.rank(batch), before)
    assert next(ticks) == ended + 1, "nobody watches any more"


@pytest.mark.skipif(native.why_unavailable() is not None, reason=str(native.why_unavailable()))
def test_a_native_call_counts_for_itself() -> None:
    ranker, batch = random_ranker(CONFIG, seed=0, dense_backend="native"), a_batch(300)
    assert isinstance(ranker, CpuRanker)
    assert ranker.fused is not None
    with timed_operators(ranker) as call:
        started_ns = time.perf_counter_ns()
        found = call(batch)
        took_ns = time.perf_counter_ns() - started_ns
    assert set(found) == set(OPERATORS)
    assert found["lookup"] > 0
    assert found["dense"] > 0
    assert sum(found.values()) < took_ns
    assert torch.equal(ranker.fused.timed(batch)[0], ranker.rank(batch))
