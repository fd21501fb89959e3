"""Whether a trained model ranks as well in another precision, judged by the ranker that will serve.

A model of several tasks is judged by the one that loses most.

Both sides are rankers of artifacts as they are loaded for serving, on the same held-out rows; the
precision's own artifact is written first, so what is judged is what is given out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tailrank.core.errors import ConfigError
from tailrank.data.dataset import Dataset, Split
from tailrank.inference import Ranker, load
from tailrank.inference.artifact import record_quality_gate, save_artifact
from tailrank.inference.cpu import CpuRanker
from tailrank.inference.precision import Precision
from tailrank.inference.ranker import bytes_needed, load_in_arena
from tailrank.metrics import BinaryMetrics
from tailrank.training.evaluation import evaluate_ranker


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What held-out rows say of one precision.

    Args:
        precision: number formats.
        table_bytes: of its tables.
        task: the one whose AUC drops most.
        auc_fp32: of that task, in fp32.
        auc: of that task, on the rows.
        auc_drop_fraction: of that task, relative to its AUC in fp32; below 0 where it rose.
        figures: AUC and logloss of every task, by the names that results have.
        passed: whether no task's AUC dropped by more than the gate allows.
    """

    precision: Precision
    table_bytes: int
    task: str
    auc_fp32: float
    auc: float
    auc_drop_fraction: float
    figures: dict[str, float]
    passed: bool


class Progress(Protocol):
    """Where the stages of the work are told."""

    def begin(self, stage: str) -> None:
        """Start a stage."""
        ...

    def count(self, done: float, total: float, unit: str) -> None:
        """Say how far it is."""
        ...

    def count_bytes(self, done: int, total: int) -> None:
        """Say how far it is, in bytes."""
        ...


class QualityGate:
    """Judges precisions of one trained model; making one loads the model and scores it in fp32.

    Args:
        artifact: folder of the model in fp32.
        dataset: holds the rows.
        split: which of them judge; the model must not have learned from them.
        max_auc_drop: largest allowed drop of the AUC, relative to the fp32 AUC, 0 to 1.
        progress: told what is being done.

    Attributes:
        record: what the artifact says of itself.
        fp32: the model as it is.

    Raises:
        DataError: missing or damaged artifact.
        RequestError: it does not fit into memory.
        ConfigError: the rows have no AUC, or one of 0.
    """

    def __init__(
        self,
        artifact: Path,
        dataset: Dataset,
        split: Split,
        max_auc_drop: float,
        progress: Progress,
    ) -> None:
        progress.begin("load")
        self._model, arena, self.record = load_in_arena(artifact, progress.count_bytes)
        assert self.record.precision == Precision(), "checked by whoever opened the rows for it"
        self.fp32: Ranker = CpuRanker(self._model, arena, Precision())
        self._dataset, self._split = dataset, split
        self._max_auc_drop, self._progress = max_auc_drop, progress
        scored = self._score(self.fp32, "fp32")
        self._before = {task: rows.known() for task, rows in scored.items()}
        for task, values in self._before.items():
            if not values.get("auc", 0.0) > 0.0:
                of = f" of {task}" if len(scored) > 1 else ""
                allowed = f"{split} rows of both classes{of}, with an AUC above 0, to judge a drop"
                raise ConfigError("--data", dataset.name, f"{allowed} by")

    def judge(
        self, precision: Precision, folder: Path
    ) -> tuple[Judged, dict[str, BinaryMetrics], Ranker]:
        """Write the model's artifact in that precision, load it and score the rows with it.

        Args:
            precision: number formats.
            folder: exists, and holds the artifact afterwards, with the figures noted in it.

        Returns:
            What the rows say, each task's rows with their scores, and the ranker that gave them.

        Raises:
            BackendUnavailable: this host cannot run the precision.
            RequestError: it does not fit into memory.
            ConfigError: it cannot hold a number of the model, or gives scores that are none.
        """
        self._progress.begin(f"write in {precision}")
        save_artifact(
            folder,
            self._model,
            training=self.record.training,
            precision=precision,
            progress=self._progress.count_bytes,
        )
        ranker = self.fp32
        if precision != Precision():
            self._progress.begin(f"load in {precision}")
            ranker, _ = load(folder, progress=self._progress.count_bytes)
        scored = self._score(ranker, str(precision))
        before, split = self._before, self._split
        after = {task: rows.known() for task, rows in scored.items()}
        drops = {t: (before[t]["auc"] - after[t]["auc"]) / before[t]["auc"] for t in before}
        worst = max(drops, key=drops.__getitem__)
        figures = {}
        for task in before:
            subject = f"{task}." if len(before) > 1 else ""
            for metric in ("auc", "logloss"):
                figures[f"{subject}{metric}_{split}_fp32"] = before[task][metric]
                figures[f"{subject}{metric}_{split}"] = after[task][metric]
        figures["auc_drop_fraction"] = drops[worst]
        record_quality_gate(folder, {**figures, "max_auc_drop": self._max_auc_drop})
        judged = Judged(
            precision=precision,
            table_bytes=bytes_needed(self.record.config, precision),
            task=worst,
            auc_fp32=before[worst]["auc"],
            auc=after[worst]["auc"],
            auc_drop_fraction=drops[worst],
            figures=figures,
            passed=drops[worst] <= self._max_auc_drop,
        )
        return judged, scored, ranker

    def _score(self, ranker: Ranker, name: str) -> dict[str, BinaryMetrics]:
        """Each task's rows with that ranker's scores."""
        self._progress.begin(f"score in {name}")
        return evaluate_ranker(
            ranker,
            self._dataset,
            (self._split,),
            lambda done, total: self._progress.count(done, total, "rows"),
        )
