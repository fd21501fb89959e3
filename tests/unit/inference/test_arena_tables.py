"""Which lookups a CPU ranker has is chosen once and always said."""

from __future__ import annotations

import pytest
import torch

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.inference.arena_tables import arena_tables
from tailrank.inference.cpu import place_in_arena
from tailrank.inference.ranker import random_ranker
from tailrank.kernels import native
from tailrank.kernels.row_formats import RowFormat, read_rows
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig

CONFIG = DLRMConfig(
    spec=FeatureSpec(
        features=(
            Feature(name="price", side="item", kind="dense", width=2),
            Feature(name="item", side="item", kind="bag", table="items"),
        ),
        tables=(TableSpec(name="items", num_embeddings=10, embedding_dim=4),),
    ),
    bottom_mlp=(4,),
    top_mlp=(1,),
)


def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_REASON", "no extension in this test")


def test_a_host_without_the_extension_uses_torch_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_extension(monkeypatch)
    described = random_ranker(CONFIG, seed=0).describe()
    assert described["embedding_backend"] == "torch"
    assert described["native_refusal"] == "no extension in this test"


def test_what_was_asked_for_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    without_extension(monkeypatch)
    tables = build_model(CONFIG, seed=0).tables
    with pytest.raises(BackendUnavailable, match="no extension in this test"):
        arena_tables(tables, "native")
    with pytest.raises(ConfigError, match="native or torch"):
        arena_tables(tables, "cuda")


@pytest.mark.skipif(native.why_unavailable() is not None, reason=str(native.why_unavailable()))
def test_native_lookups_are_the_default_and_name_their_instruction_set() -> None:
    described = random_ranker(CONFIG, seed=0).describe()
    assert described["embedding_backend"] == f"native {native.runnable_isas()[0]}"
    assert described["native_refusal"] is None
    assert arena_tables(build_model(CONFIG, seed=0).tables, "torch").backend == "torch"


@pytest.mark.parametrize("rows", ["bf16", "int8", "int4"])
def test_a_model_that_nobody_trained_has_rows_of_any_format(rows: RowFormat) -> None:
    tables = build_model(CONFIG, None).tables
    place_in_arena(tables, rows)
    tables.reset(torch.Generator().manual_seed(3))
    numbers_VD = read_rows(tables.weight_VD.data, rows, 4)
    assert numbers_VD.unique().numel() > 20
    assert float(numbers_VD.abs().max()) <= 1.01 * 10**-0.5
