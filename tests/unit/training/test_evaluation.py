"""Scoring tells how far it is, row by row, and so does a run that validates."""

from __future__ import annotations

from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.training.config import TrainingConfig
from tailrank.training.evaluation import evaluate
from tailrank.training.loop import fit

DATASET = SyntheticDataset(SyntheticConfig(rows=7 * 6000, num_embeddings=40, seed=5))
MODEL = build_model(DLRMConfig(spec=DATASET.spec, bottom_mlp=(8, 16), top_mlp=(16, 1)), 0)


def test_the_rows_scored_so_far_are_told() -> None:
    told: list[tuple[int, int]] = []
    scored = evaluate(MODEL, DATASET, ("test",), lambda done, total: told.append((done, total)))
    rows = DATASET.num_rows(("test",))
    assert told == [(4096, rows), (rows, rows)]
    assert len(scored["label"].scores) == rows


def test_a_run_tells_of_every_validation() -> None:
    told: list[tuple[int, int]] = []
    config = TrainingConfig(batch_items=5000, epochs=1, evaluate_every=3)
    result = fit(MODEL, DATASET, config, scoring=lambda done, total: told.append((done, total)))
    rows = DATASET.num_rows(("validation",))
    assert len(result.curve) > 1
    assert told == [(4096, rows), (rows, rows)] * len(result.curve)
