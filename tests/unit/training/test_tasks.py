"""Several tasks: loss, known labels, metrics by name, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.data.selection import select_tasks
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import FeatureBatch, Labels
from tailrank.metrics import BinaryMetrics, known_by_task
from tailrank.models.registry import config_for
from tailrank.reporting.quality import quality_columns, undefined_metrics
from tailrank.training.config import TrainingConfig
from tailrank.training.evaluation import evaluate, mean_over_tasks
from tailrank.training.loop import check_rows, check_task_weights
from tailrank.training.scores import load_scores, save_scores
from tailrank.training.step import loss_of


class TwoTasks(SyntheticDataset):
    """A log of clicks, and of purchases that are known of every other row."""

    tasks = ("clicked", "bought")
    known = True

    def batches(self, splits, batch_items, **order):
        for batch, labels in super().batches(splits, batch_items, **order):
            click_B1 = labels.values_BT
            known_B = torch.arange(len(click_B1)) % 2 == 0
            mask_BT = torch.stack([torch.ones(len(click_B1)).bool(), known_B & self.known], 1)
            values_BT = torch.cat([click_B1, 1.0 - click_B1], 1)
            yield batch, Labels(values_BT=values_BT, mask_BT=mask_BT, group_B=labels.group_B)


class NoPurchase(TwoTasks):
    """The same with no purchase known."""

    known = False


class Constant(nn.Module):
    """A probability per task, whatever the row."""

    def forward(self, batch: FeatureBatch) -> Tensor:
        return torch.tensor([0.2, 0.6]).logit().expand(batch.num_items, 2)


DATASET = TwoTasks(SyntheticConfig(rows=1120, num_embeddings=40, seed=5))


def test_the_loss_is_the_weighted_sum_of_each_tasks_mean_over_known_labels() -> None:
    rng = np.random.default_rng(3)
    logits, values = rng.normal(size=(6, 3)), rng.integers(2, size=(6, 3)).astype(float)
    mask = np.array([[1, 0, 0]] * 2 + [[1, 1, 0]] * 4, dtype=bool)  # of the third none is known
    weights_B, task_weights = rng.uniform(size=6), (1.0, 0.25, 4.0)
    probability = 1.0 / (1.0 + np.exp(-logits))
    each = -(values * np.log(probability) + (1 - values) * np.log(1 - probability))
    total = weights_B[:, None] * mask
    of_task = [(each * total)[:, t].sum() / total[:, t].sum() for t in (0, 1)]
    unknown = np.where(mask, values, np.nan)  # what stands there does not matter
    logit = torch.tensor(logits, requires_grad=True)
    labels = Labels(
        values_BT=torch.tensor(unknown),
        mask_BT=torch.tensor(mask),
        weights_B=torch.tensor(weights_B),
    )
    loss = loss_of(logit, labels, task_weights)
    assert loss.item() == pytest.approx(of_task[0] + 0.25 * of_task[1])
    loss.backward()
    expected = np.zeros_like(logits)
    for t in (0, 1):
        slope = (probability - values)[:, t] * total[:, t] / total[:, t].sum()
        expected[:, t] = task_weights[t] * slope
    np.testing.assert_allclose(logit.grad.numpy(), expected, atol=1e-12)
    assert not logit.grad.numpy()[~mask].any()
    plain = loss_of(torch.tensor(logits), Labels(values_BT=torch.tensor(values)))
    assert plain.item() == pytest.approx(each.mean(0).sum())


def test_each_task_is_judged_on_the_rows_whose_label_is_known() -> None:
    scored = evaluate(Constant(), DATASET, ("train", "validation", "test"))
    assert {task: len(rows.scores) for task, rows in scored.items()} == {
        "clicked": 1120,
        "bought": 560,
    }
    assert scored["bought"].scores == pytest.approx(0.6)
    pairs = list(DATASET.batches(("train", "validation", "test"), 4096))
    labels = torch.cat([labels.values_BT for _, labels in pairs]).numpy()
    np.testing.assert_array_equal(scored["clicked"].labels, labels[:, 0] == 1)
    np.testing.assert_array_equal(scored["bought"].labels, labels[::2, 1] == 1)
    assert scored["bought"].groups is not None
    assert known_by_task(scored)["bought.num_rows"] == 560
    assert known_by_task(scored)["clicked.auc"] == 0.5


def test_a_task_without_labels_is_said_and_never_a_number(tmp_path: Path) -> None:
    dataset = NoPurchase(DATASET.config)
    scored = evaluate(Constant(), dataset, ("test",))
    values = known_by_task(scored)
    assert [name for name in values if name.startswith("bought")] == ["bought.num_rows"]
    assert values["bought.num_rows"] == 0
    assert undefined_metrics(scored) == [
        "every metric of bought is undefined: no row has a label of it"
    ]
    assert {row.task for row in quality_columns(scored).reliability} == {"clicked"}
    save_scores(tmp_path, scored, "abc")
    again, _ = load_scores(tmp_path)
    assert list(again) == ["clicked", "bought"]
    assert again["bought"].known() == {"num_rows": 0}
    np.testing.assert_array_equal(again["clicked"].scores, scored["clicked"].scores)
    with pytest.raises(DataError, match="all 800 training rows lack a label of bought"):
        check_rows(dataset)
    check_rows(DATASET)
    check_rows(select_tasks(dataset, ["clicked"]))


def test_equal_labels_of_one_task_leave_the_other_its_auc() -> None:
    scored = {"a": BinaryMetrics(), "b": BinaryMetrics()}
    scored["a"].update([0.1, 0.4], [1, 1])
    scored["b"].update([0.1, 0.4], [0, 1])
    assert "a.auc" not in known_by_task(scored)
    assert known_by_task(scored)["b.auc"] == 1.0
    (line,) = undefined_metrics(scored)
    assert line == "AUC of a is undefined: all 2 rows have label 1, and ranking needs both"
    by_task = {task: rows.known() for task, rows in scored.items()}
    assert mean_over_tasks(by_task)["auc"] == 1.0
    both = (by_task["a"]["logloss"] + by_task["b"]["logloss"]) / 2
    assert mean_over_tasks(by_task)["logloss"] == pytest.approx(both)


def test_one_task_of_several_is_the_same_rows_with_its_labels() -> None:
    bought = select_tasks(DATASET, ["bought"])
    assert bought.tasks == ("bought",)
    assert bought.rows_fingerprint == DATASET.rows_fingerprint
    assert bought.fingerprint != DATASET.fingerprint
    ((batch, labels),) = bought.batches(("test",), 4096)
    ((_, both),) = DATASET.batches(("test",), 4096)
    assert torch.equal(labels.values_BT, both.values_BT[:, 1:])
    assert torch.equal(labels.mask_BT, both.mask_BT[:, 1:])
    assert batch.num_items == 160
    with pytest.raises(ConfigError, match=r"--tasks: got 'bough'.*did you mean 'bought'"):
        select_tasks(DATASET, ["bough"])


def test_a_model_of_one_task_names_the_way_out() -> None:
    with pytest.raises(RequestError, match="--tasks: dlrm predicts one task, and the data have"):
        config_for("dlrm", DATASET.spec, {}, DATASET.tasks)
    config_for("dlrm", DATASET.spec, {}, ("bought",))


def test_weights_are_one_for_each_task() -> None:
    check_task_weights(TrainingConfig(task_weights=(1.0, 0.5)), DATASET)
    with pytest.raises(ConfigError, match="2: one of clicked, bought each"):
        check_task_weights(TrainingConfig(task_weights=(1.0,)), DATASET)
    for wrong in ((0.0, 0.0), (1.0, -1.0), (), (1.0, float("nan"))):
        with pytest.raises(ConfigError, match="not all 0"):
            TrainingConfig(task_weights=wrong)
