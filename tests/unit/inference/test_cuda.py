"""What the cuda ranker does around its kernels, without a GPU; its scores: tests/contract/."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.contract.test_rankers import make_spec, random_batch
from torch import Tensor

from tailrank.core.errors import BackendUnavailable, ConfigError, RequestError
from tailrank.features import FeatureBatch
from tailrank.inference import load
from tailrank.inference.artifact import save_artifact
from tailrank.inference.eager import EagerRanker
from tailrank.inference.precision import Precision
from tailrank.inference.ranker import random_rankers
from tailrank.kernels import cuda as gpu
from tailrank.kernels import reference
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM, DLRMConfig
from tailrank.models.memory import check_fits

needs_gpu = pytest.mark.skipif(
    gpu.why_unavailable() is not None, reason=f"NOT TESTED on a GPU: {gpu.why_unavailable()}"
)
CONFIG = DLRMConfig.for_spec(make_spec("dlrm-dot"), bottom_mlp=(16,), top_mlp=(16,))


def model_on(device: str) -> DLRM:
    from tailrank.inference.cuda import place_on

    model = build_model(CONFIG, None)
    place_on(model.tables, "fp32", torch.device(device))
    model.load_state_dict(build_model(CONFIG, seed=5).state_dict())
    assert isinstance(model, DLRM)
    return model


@pytest.fixture
def plain_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups by the reference: Triton's interpreter is slow, and one thread's at a time."""
    pytest.importorskip("triton", reason="Triton is not installed: the cuda ranker is NOT TESTED")

    def look_up(rows, row_format, ranges, ids, offsets, weights, out, faults, tile) -> None:
        assert (row_format, weights) == ("fp32", None)
        feature_G = torch.arange(len(offsets) - 1) % max(1, len(ranges))
        first_L = torch.repeat_interleave(ranges[feature_G, 0], offsets.diff())
        first, last = int(offsets[0]), int(offsets[-1])
        out.copy_(reference.pooled_lookup(rows, ids[first:last] + first_L, offsets - first))

    monkeypatch.setattr("tailrank.inference.cuda.pooled_lookup", look_up)


def test_int8_layers_are_refused_and_never_widened(plain_lookup: None) -> None:
    from tailrank.inference.cuda import CudaRanker

    with pytest.raises(BackendUnavailable, match="no dense layers in int8; export with dense=bf16"):
        CudaRanker(model_on("cpu"), Precision(dense="int8"))


@pytest.mark.skipif(gpu.why_unavailable() is None, reason="there is a GPU here")
def test_without_a_gpu_loading_is_refused_with_the_reason(tmp_path: Path) -> None:
    save_artifact(tmp_path, build_model(CONFIG, seed=1), training={})
    with pytest.raises(BackendUnavailable, match=r"no cuda ranker here: .*the cpu ranker"):
        load(tmp_path, device="cuda")


def test_many_threads_share_the_lanes(plain_lookup: None) -> None:
    check_many_threads("cpu")


@needs_gpu
def test_many_threads_share_the_lanes_of_a_gpu() -> None:
    check_many_threads("cuda")


def check_many_threads(device: str) -> None:
    from tailrank.inference.cuda import CudaRanker

    ranker, eager = CudaRanker(model_on(device), Precision()), EagerRanker(model_on("cpu"))
    torch.manual_seed(0)
    batches = [random_batch(make_spec("dlrm-dot"), n, 1 + n // 3) for n in range(1, 60)] * 4
    with ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(ranker.rank, batches))
    for batch, mine in zip(batches, scores, strict=True):
        torch.testing.assert_close(mine, eager.rank(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shapes", "num_bytes"), [(2, 1 << 20), (100, 8000)])
def test_shapes_beyond_what_a_lane_keeps_are_recorded_again(
    plain_lookup: None, monkeypatch: pytest.MonkeyPatch, shapes: int, num_bytes: int
) -> None:
    from tailrank.inference.cuda import CudaRanker

    monkeypatch.setattr("tailrank.inference.cuda._SHAPES_MAX", shapes)
    monkeypatch.setattr("tailrank.inference.cuda._SHAPE_BYTES_MAX", num_bytes)
    ranker, eager = CudaRanker(model_on("cpu"), Precision()), EagerRanker(model_on("cpu"))
    torch.manual_seed(1)
    for items in (1, 8, 20, 64, 1, 64, 2000, 8):
        batch = random_batch(make_spec("dlrm-dot"), items, 1)
        torch.testing.assert_close(ranker.rank(batch), eager.rank(batch), rtol=1e-5, atol=1e-6)
        with ranker._lane() as lane:
            kept = [recorded.inputs.num_bytes for recorded in lane.recorded.values()]
        assert 1 <= len(kept) <= min(shapes, 4)  # the last one always, be it too large
        assert sum(kept) <= num_bytes or len(kept) == 1


def test_a_model_on_the_host_is_copied_with_its_weights(plain_lookup: None) -> None:
    from tailrank.inference.cuda import copy_to

    model = build_model(CONFIG, seed=7)
    copied = copy_to(torch.device("cpu"), model, CONFIG, Precision())
    batch = random_batch(CONFIG.spec, items=5, users=2)
    torch.testing.assert_close(copied.rank(batch), EagerRanker(model).rank(batch))


@needs_gpu
def test_a_preset_has_the_same_weights_on_every_device() -> None:
    rankers = random_rankers(CONFIG, ("cpu", "cuda", "eager"), seed=3, precision=Precision())
    batch = random_batch(CONFIG.spec, items=5, users=2)
    for device in ("cpu", "cuda"):
        scores_B = rankers[device].rank(batch)
        torch.testing.assert_close(scores_B, rankers["eager"].rank(batch), rtol=1e-4, atol=1e-5)


def test_a_preset_is_refused_where_a_device_is_missing_or_cannot_hold_its_formats() -> None:
    with pytest.raises(ConfigError, match="--device: got 'tpu'"):
        random_rankers(CONFIG, ("cpu", "tpu"), seed=3, precision=Precision())
    with pytest.raises(ConfigError, match="eager knows no other"):
        random_rankers(CONFIG, ("eager",), seed=3, precision=Precision(rows="int8"))
    if gpu.why_unavailable() is not None:
        with pytest.raises(BackendUnavailable, match="no cuda ranker here"):
            random_rankers(CONFIG, ("cpu", "cuda"), seed=3, precision=Precision())


def test_no_item_has_no_score(plain_lookup: None) -> None:
    from tailrank.inference.cuda import CudaRanker

    batch = random_batch(make_spec("dlrm-dot"), 3, 1)
    nothing = FeatureBatch(
        user=batch.user.rows(0, 0), item=batch.item.rows(0, 0), item_to_user_B=torch.arange(0)
    )
    assert CudaRanker(model_on("cpu"), Precision()).rank(nothing).shape == (0,)


def test_offsets_that_do_not_rise_are_named() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: the cuda ranker is NOT TESTED")
    from tailrank.inference.cuda import CudaRanker

    ranker = CudaRanker(model_on("cuda" if torch.cuda.is_available() else "cpu"), Precision())
    batch = random_batch(make_spec("dlrm-dot"), 4, 2, bag_size=2)
    offsets = batch.item.offsets.clone()
    offsets[3] = 2  # behind it stands 4
    broken = replace(batch, item=replace(batch.item, offsets=offsets))
    with pytest.raises(ConfigError, match=r"item\.offsets\[3\].*rising from 0 to 16"):
        ranker.rank(broken)
    assert ranker.rank(batch).shape == (4,)  # and the ranker goes on


def test_a_model_whose_score_fails_is_refused_when_it_is_loaded(plain_lookup: None) -> None:
    from tailrank.inference.cuda import CudaRanker

    class Broken(DLRM):
        def score(self, batch: FeatureBatch, pooled: object) -> Tensor:
            raise RuntimeError("no such operator\nand a long story")

    model = model_on("cpu")
    model.__class__ = Broken
    with pytest.raises(BackendUnavailable, match=r"cannot run Broken on .*: no such operator; the"):
        CudaRanker(model, Precision())


@needs_gpu
def test_a_model_that_waits_for_the_host_is_refused_when_it_is_loaded() -> None:
    from tailrank.inference.cuda import CudaRanker

    class Waiting(DLRM):
        def score(self, batch: FeatureBatch, pooled: object) -> Tensor:
            if float(batch.item.dense_RN.sum()) > 1e30:  # a graph cannot read a number back
                raise AssertionError
            return super().score(batch, pooled)

    model = model_on("cuda")
    model.__class__ = Waiting
    with pytest.raises(BackendUnavailable, match="cannot run Waiting on"):
        CudaRanker(model, Precision())
    CudaRanker(model_on("cuda"), Precision())  # the GPU is as usable as before


def test_tables_that_a_gpu_cannot_hold_are_refused() -> None:
    check_fits(1 << 30, gpu_free_bytes=3 << 30)
    with pytest.raises(RequestError, match=r"3\.22 GB needed.* 2\.15 GB can be had on this GPU"):
        check_fits(3 << 30, gpu_free_bytes=3 << 30)
