"""The gate judges what is given out, and the search takes the fastest that it lets pass."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tailrank.characterization.payloads import QueryPool
from tailrank.characterization.ranker_timing import RankerTimes
from tailrank.core.errors import BackendUnavailable, ConfigError, RequestError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.inference import load
from tailrank.inference.artifact import read_record, save_artifact
from tailrank.inference.cpu import CpuRanker
from tailrank.inference.precision import Precision
from tailrank.metrics import BinaryMetrics
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.models.logistic_regression import LogisticRegressionConfig
from tailrank.training import precision_search, quality_gate
from tailrank.training.evaluation import evaluate_ranker
from tailrank.training.precision_search import find_precision, precisions_to_try
from tailrank.training.quality_gate import QualityGate

DATASET = SyntheticDataset(SyntheticConfig(rows=3000, num_embeddings=40, seed=5))
CONFIG = DLRMConfig(spec=DATASET.spec, bottom_mlp=(8, 16), top_mlp=(16, 1))


class Stages:
    """Notes the stages that it is told of."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, stage: str) -> None:
        self.begun.append(stage)

    def count(self, done: float, total: float, unit: str) -> None:
        assert 0 <= done <= total

    def count_bytes(self, done: int, total: int) -> None:
        assert 0 <= done <= total


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "fp32"
    path.mkdir()
    model = build_model(CONFIG, seed=1)
    with torch.no_grad():  # large enough for formats to make a difference
        model.tables.weight_VD.normal_(generator=torch.Generator().manual_seed(1))
    save_artifact(path, model, training={"seed": 1})
    return path


def gate_of(artifact: Path, max_auc_drop: float = 1.0, stages: Stages | None = None) -> QualityGate:
    return QualityGate(artifact, DATASET, "test", max_auc_drop, stages or Stages())


def test_what_is_judged_is_the_ranker_of_the_artifact_that_is_written(
    artifact: Path, tmp_path: Path
) -> None:
    stages, folder = Stages(), tmp_path / "int4"
    folder.mkdir()
    precision = Precision(rows="int4")
    judged, scored, ranker = gate_of(artifact, stages=stages).judge(precision, folder)
    of_old, of_new = (
        evaluate_ranker(load(path)[0], DATASET, ("test",))["label"] for path in (artifact, folder)
    )
    np.testing.assert_allclose(scored["label"].scores, of_new.scores, rtol=1e-5)
    assert np.abs(scored["label"].scores - of_old.scores).max() > 1e-4  # four bits do show
    before, after = of_old.compute().auc, of_new.compute().auc
    assert judged.auc == pytest.approx(after, abs=1e-4)
    assert judged.auc_drop_fraction == pytest.approx((before - after) / before, abs=2e-4)
    assert judged.table_bytes == ranker.describe()["table_bytes"]
    record = read_record(folder)
    assert record.precision == precision
    assert record.training == {"seed": 1}
    assert record.quality_gate == {**judged.figures, "max_auc_drop": 1.0}
    assert stages.begun == [
        "load", "score in fp32", "write in rows=int4,dense=fp32", "load in rows=int4,dense=fp32",
        "score in rows=int4,dense=fp32",
    ]  # fmt: skip


def test_fp32_loses_nothing_against_itself(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    judged, _, _ = gate_of(artifact, max_auc_drop=0.0).judge(Precision(), folder)
    assert judged.auc_drop_fraction == 0
    assert judged.passed
    load(folder)


def rows_scored(scores: list[float], labels: list[bool]) -> BinaryMetrics:
    scored = BinaryMetrics()
    scored.update(np.array(scores), np.array(labels))
    return scored


@pytest.mark.parametrize("labels", [[True, True], [True, False]], ids=["one class", "AUC 0"])
def test_rows_without_an_auc_to_lose_judge_nothing(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, labels: list[bool]
) -> None:
    rows = rows_scored([0.1, 0.2], labels)
    monkeypatch.setattr(quality_gate, "evaluate_ranker", lambda *arguments: {"label": rows})
    with pytest.raises(ConfigError, match="test rows of both classes"):
        gate_of(artifact)


def search(
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times_us: dict[str, float],
    max_auc_drop: float = 1.0,
) -> precision_search.Found:
    """A search with these times; those of fp32 are 100."""
    precisions = list(map(Precision.parse, ["fp32", *times_us]))
    given = dict(zip(map(str, precisions), [100.0, *times_us.values()], strict=True))

    def timed(rankers, pool, progress) -> RankerTimes:
        return RankerTimes({n: np.full(5, given[n]) for n in rankers}, 128)

    monkeypatch.setattr(precision_search, "time_rankers", timed)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    pool = QueryPool.from_dataset(DATASET, 0)
    return find_precision(gate_of(artifact, max_auc_drop), precisions, pool, workspace, Stages())


def test_the_fastest_that_passes_is_chosen_and_kept(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_us = {"rows=bf16": 60.0, "rows=int8": 50.0, "rows=fp16": 70.0}
    found = search(artifact, tmp_path, monkeypatch, times_us)
    assert found.chosen.judged.precision == Precision(rows="int8")
    assert found.chosen.speedup == 2.0
    assert found.chosen.speedup_interval == (2.0, 2.0)
    assert found.chosen.items_per_s == pytest.approx(128 / 50e-6)
    assert [trial.speedup for trial in found.trials] == pytest.approx([1, 10 / 6, 2, 10 / 7])
    assert [path.name for path in found.folder.parent.iterdir()] == ["rows=int8,dense=fp32"]
    assert load(found.folder)[1].precision == Precision(rows="int8")
    assert len(found.scored["label"].scores) == DATASET.num_rows(("test",))


def test_of_equally_fast_ones_the_smallest_is_chosen(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_us = {"rows=int4": 52.0, "rows=bf16": 50.0, "rows=int8": 51.0, "rows=fp16": 49.9}
    found = search(artifact, tmp_path, monkeypatch, times_us)
    assert found.chosen.judged.precision == Precision(rows="int8")  # 4 bits are 4 % slower
    left = sorted(path.name for path in found.folder.parent.iterdir())
    assert left == [f"rows={rows},dense=fp32" for rows in ("bf16", "fp16", "int8")]


def test_what_the_gate_refuses_is_timed_but_not_chosen(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(ranker: CpuRanker, *arguments: object) -> dict[str, BinaryMetrics]:
        """Four bits put the two last rows the wrong way round."""
        scores = [0.9, 0.8, 0.3, 0.2]
        if ranker.precision.rows == "int4":
            scores[2:] = [0.2, 0.3]
        return {"label": rows_scored(scores, [True, False, True, False])}

    monkeypatch.setattr(quality_gate, "evaluate_ranker", scored)
    times_us = {"rows=int4": 10.0, "rows=int8": 50.0}
    found = search(artifact, tmp_path, monkeypatch, times_us, max_auc_drop=0.3)
    fp32, int4, int8 = found.trials
    assert int4.judged.auc_drop_fraction == pytest.approx(1 / 3)  # 1/4 of 3/4
    assert [trial.judged.passed for trial in (fp32, int4, int8)] == [True, False, True]
    assert int4.speedup == 10.0
    assert found.chosen is int8


@pytest.mark.parametrize(
    "error", [BackendUnavailable("no such instructions"), RequestError("memory", "8 GB needed")]
)
def test_what_does_not_run_here_is_told_and_left_out(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise error

    monkeypatch.setattr("tailrank.training.quality_gate.load", refuse)
    found = search(artifact, tmp_path, monkeypatch, {"rows=int8": 10.0})
    assert found.unavailable == {"rows=int8,dense=fp32": str(error)}
    assert found.chosen.judged.precision == Precision()
    assert [path.name for path in found.folder.parent.iterdir()] == ["fp32"]


def test_a_format_that_cannot_hold_the_model_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(CONFIG, seed=1)
    model.tables.weight_VD.data[7, 3] = -1e5
    artifact = tmp_path / "fp32"
    artifact.mkdir()
    save_artifact(artifact, model, training={})
    found = search(artifact, tmp_path, monkeypatch, {"rows=int4": 10.0, "rows=bf16": 20.0})
    (reason,) = found.unavailable.values()
    assert "row 7" in reason
    assert "int4" in reason
    assert found.chosen.judged.precision == Precision(rows="bf16")


def test_a_ranker_that_was_timed_is_gone_before_the_next_is_loaded(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[object]] = []

    def load_alone(path: Path, **options: object) -> object:
        assert not any(earlier() for earlier in loaded)
        ranker, record = load(path, **options)
        loaded.append(weakref.ref(ranker))
        return ranker, record

    monkeypatch.setattr("tailrank.training.quality_gate.load", load_alone)
    search(artifact, tmp_path, monkeypatch, {"rows=bf16": 60.0, "rows=int8": 50.0})
    assert len(loaded) == 2


def test_formats_of_layers_are_tried_where_there_are_layers() -> None:
    texts = list(map(str, precisions_to_try(CONFIG)))
    assert texts[0] == "fp32"
    assert len(texts) == len(set(texts)) == 12
    assert "rows=int8,dense=bf16" in texts
    assert not any("fp16" in text.split("bf16") for text in texts)
    tables = tuple(replace(table, embedding_dim=1) for table in DATASET.spec.tables)
    linear = LogisticRegressionConfig.for_spec(replace(DATASET.spec, tables=tables))
    assert {precision.dense for precision in precisions_to_try(linear)} == {"fp32"}
