"""Whether a trained model ranks as well in another precision, judged by the ranker that will serve.

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
        auc: on the rows.
        auc_drop_fraction: relative to the AUC in fp32; below 0 where it rose.
        figures: both, and the logloss, by the names that results have.
        passed: whether the AUC dropped by no more than the gate allows.
    """

    precision: Precision
    table_bytes: int
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
        auc_fp32: its AUC on the rows.

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
        self._before = self._score(self.fp32, "fp32").compute()
        if not self._before.auc > 0:  # or NaN
            allowed = f"{split} rows of both classes, with an AUC above 0, to judge a drop by"
            raise ConfigError("--data", dataset.name, allowed)
        self.auc_fp32 = self._before.auc

    def judge(self, precision: Precision, folder: Path) -> tuple[Judged, BinaryMetrics, Ranker]:
        """Write the model's artifact in that precision, load it and score the rows with it.

        Args:
            precision: number formats.
            folder: exists, and holds the artifact afterwards, with the figures noted in it.

        Returns:
            What the rows say, the rows with their scores, and the ranker that gave them.

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
        before, after, split = self._before, scored.compute(), self._split
        drop = (before.auc - after.auc) / before.auc
        figures = {
            f"auc_{split}_fp32": before.auc,
            f"auc_{split}": after.auc,
            f"logloss_{split}_fp32": before.logloss,
            f"logloss_{split}": after.logloss,
            "auc_drop_fraction": drop,
        }
        record_quality_gate(folder, {**figures, "max_auc_drop": self._max_auc_drop})
        judged = Judged(
            precision=precision,
            table_bytes=bytes_needed(self.record.config, precision),
            auc=after.auc,
            auc_drop_fraction=drop,
            figures=figures,
            passed=drop <= self._max_auc_drop,
        )
        return judged, scored, ranker

    def _score(self, ranker: Ranker, name: str) -> BinaryMetrics:
        """The rows with that ranker's scores."""
        self._progress.begin(f"score in {name}")
        return evaluate_ranker(
            ranker,
            self._dataset,
            (self._split,),
            lambda done, total: self._progress.count(done, total, "rows"),
        )
