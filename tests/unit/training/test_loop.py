"""The loop: plain torch gives the same losses; stopping, resuming and keeping the best work."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import Labels
from tailrank.metrics import GROUP_METRICS
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM, DLRMConfig
from tailrank.training.config import SelectBy, TrainingConfig
from tailrank.training.estimate import estimate_training
from tailrank.training.evaluation import evaluate
from tailrank.training.loop import fit, refit_config
from tailrank.training.recipe import Recipe
from tailrank.training.step import TrainStep, loss_of

DATASET = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 60, num_embeddings=40, seed=5))
CONFIG = TrainingConfig(batch_items=256, epochs=2, lr=0.05, evaluate_every=4, seed=1)


def small_model(seed: int = 0) -> DLRM:
    return build_model(DLRMConfig(spec=DATASET.spec, bottom_mlp=(8, 16), top_mlp=(16, 1)), seed)


def plain_torch_losses(model: DLRM, rates: tuple[float, float], steps: int) -> list[float]:
    """The same training, restated: dense gradients of whole tables, loops over bags, no merging."""
    config = model.config
    state = {name: value.double() for name, value in model.state_dict().items()}
    tables, first = {}, 0
    for spec in config.spec.tables:
        rows = state["tables.weight_VD"][first : first + spec.num_embeddings]
        tables[spec.name] = rows.clone().requires_grad_()
        first += spec.num_embeddings
    layers = {n: v.clone().requires_grad_() for n, v in state.items() if "tables" not in n}
    squares = {name: torch.zeros_like(value) for name, value in layers.items()}
    row_squares = {n: torch.zeros(len(v), dtype=torch.float64) for n, v in tables.items()}

    def mlp(prefix: str, x: torch.Tensor, relu_last: bool) -> torch.Tensor:
        weights = sorted(n for n in layers if n.startswith(prefix) and n.endswith("weight"))
        for place, name in enumerate(weights):
            x = x @ layers[name].T + layers[name.replace("weight", "bias")]
            if relu_last or place < len(weights) - 1:
                x = x.relu()
        return x

    def pooled(side, name: str, to_user=None) -> list[torch.Tensor]:
        features = config.spec.sparse(name)
        bags = []
        for row in range(side.num_rows):
            starts = side.offsets[row * len(features) : (row + 1) * len(features) + 1].tolist()
            bags.append(
                torch.stack(
                    [
                        tables[f.table][side.values_L[starts[i] : starts[i + 1]]].sum(0)
                        for i, f in enumerate(features)
                    ]
                )
            )
        return torch.stack(bags)

    losses = []
    batches = DATASET.batches(("train",), 96, shuffle_seed=2)
    for _, (batch, labels) in zip(range(steps), batches, strict=False):
        to_user = batch.item_to_user_B
        user = pooled(batch.user, "user")[to_user]
        dense = torch.cat([batch.user.dense_RN[to_user], batch.item.dense_RN], 1).double()
        bottom = mlp("bottom", dense, relu_last=True)
        vectors = torch.cat([bottom[:, None], user, pooled(batch.item, "item")], 1)
        pairs = [
            (vectors[:, i] * vectors[:, j]).sum(1)
            for i in range(vectors.shape[1])
            for j in range(i)
        ]
        logits = mlp("top", torch.cat([bottom, torch.stack(pairs, 1)], 1), relu_last=False)
        loss = F.binary_cross_entropy_with_logits(logits, labels.values_BT.double())
        losses.append(loss.item())
        parameters = {**layers, **tables}
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
                if name in layers:
                    squares[name] += gradient**2
                    value -= rates[0] * gradient / (squares[name].sqrt() + 1e-10)
                else:
                    row_squares[name] += (gradient**2).mean(1)
                    scale = rates[1] / (row_squares[name].sqrt() + 1e-10)
                    value -= scale[:, None] * gradient
    return losses


def test_twenty_steps_match_plain_torch() -> None:
    """To 1e-6: ours in fp32, as it trains, against the restatement in fp64."""
    model = small_model()
    expected = plain_torch_losses(model, (0.02, 0.1), steps=20)
    step = TrainStep(model, TrainingConfig(lr=0.02, table_lr=0.1))
    batches = DATASET.batches(("train",), 96, shuffle_seed=2)
    losses = [step(*pair) for _, pair in zip(range(20), batches, strict=False)]
    assert losses == pytest.approx(expected, abs=1e-6, rel=0)
    assert losses[-1] < losses[0] - 0.01


def test_weighted_and_masked_loss_is_the_mean_over_known_weight() -> None:
    logits = torch.tensor([[0.5], [-1.0], [2.0]])
    values = torch.tensor([[1.0], [0.0], [1.0]])
    each = F.binary_cross_entropy_with_logits(logits, values, reduction="none").flatten()
    plain = loss_of(logits, Labels(values_BT=values))
    masked = loss_of(
        logits, Labels(values_BT=values, mask_BT=torch.tensor([[True], [False], [True]]))
    )
    weighted = loss_of(logits, Labels(values_BT=values, weights_B=torch.tensor([1.0, 2.0, 0.0])))
    assert plain.item() == pytest.approx(each.mean().item())
    assert masked.item() == pytest.approx((each[0] + each[2]).item() / 2)
    assert weighted.item() == pytest.approx((each[0] + 2 * each[1]).item() / 3)


def test_training_is_repeatable_and_lowers_the_validation_loss() -> None:
    first, second = small_model(), small_model()
    result, again = fit(first, DATASET, CONFIG), fit(second, DATASET, CONFIG)
    assert result.curve == again.curve
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert result.finished
    assert result.samples == 2 * DATASET.num_rows(("train",))
    losses = [point.validation_logloss for point in result.curve]
    assert min(losses) < losses[0]
    assert result.train_samples_per_s > 0


def test_the_model_ends_with_its_best_weights_and_patience_ends_the_run() -> None:
    model = small_model()
    harsh = replace(CONFIG, table_lr=1.0, epochs=40, patience=2)  # overfits within a few passes
    result = fit(model, DATASET, harsh)
    losses = {point.step: point.validation_logloss for point in result.curve}
    assert result.stopped_early
    assert result.steps_planned == 40 * CONFIG.steps_per_epoch(DATASET.num_rows(("train",)))
    assert result.ending("logloss") == (
        f"kept the weights of step {result.best_step} of {result.step}, the best logloss; stopped "
        f"early, 2 evaluations without a better logloss, of {result.steps_planned} planned"
    )
    assert result.best_step == min(losses, key=losses.get) == list(losses)[-3]
    scored = evaluate(model, DATASET, ("validation",))["label"].compute()
    assert scored.logloss == losses[result.best_step]


@pytest.mark.parametrize("metric", get_args(SelectBy))
def test_the_metric_asked_for_chooses_the_weights_and_counts_for_patience(metric: str) -> None:
    model = small_model()
    config = replace(CONFIG, table_lr=1.0, epochs=40, patience=3, select_by=metric)
    result = fit(model, DATASET, config)
    values = {point.step: point.validation()[metric] for point in result.curve}
    best = (min if metric == "logloss" else max)(values, key=values.get)
    assert result.best_step == best == list(values)[-4]
    assert result.stopped_early
    scored = evaluate(model, DATASET, ("validation",))["label"].compute()
    assert getattr(scored, metric) == values[best]


class OneClass(SyntheticDataset):
    """The log without groups, and without a click in its validation part."""

    def batches(self, splits, batch_items, **order):
        for batch, labels in super().batches(splits, batch_items, **order):
            yield batch, Labels(values_BT=labels.values_BT * (splits != ("validation",)))


@pytest.mark.parametrize(
    ("metric", "steps"), [*((name, 0) for name in GROUP_METRICS), ("auc", CONFIG.evaluate_every)]
)
def test_a_metric_that_the_rows_lack_is_refused_as_soon_as_that_shows(metric, steps) -> None:
    reports = []
    dataset = OneClass(SyntheticConfig(rows=7 * 8 * 60, num_embeddings=40, seed=5))
    with pytest.raises(ConfigError, match=f"select_by: got '{metric}'"):
        fit(small_model(), dataset, replace(CONFIG, select_by=metric), progress=reports.append)
    assert len(reports) == steps


class Unvalidated(SyntheticDataset):
    """The log without validation rows."""

    def num_rows(self, splits):
        return sum(super(Unvalidated, self).num_rows((s,)) for s in splits if s != "validation")

    def batches(self, splits, batch_items, **order):
        return iter(()) if splits == ("validation",) else super().batches(splits, batch_items)


@pytest.mark.parametrize("select_by", ["logloss", "grouped_auc"])
def test_a_data_set_without_rows_to_choose_by_is_refused_at_once(select_by) -> None:
    dataset = Unvalidated(SyntheticConfig(rows=7 * 8 * 60, num_embeddings=40, seed=5))
    reports, config = [], replace(CONFIG, select_by=select_by)
    with pytest.raises(DataError, match="no validation rows of 2,880 in all"):
        fit(small_model(), dataset, config, progress=reports.append)
    with pytest.raises(DataError, match="no validation rows of 2,880 in all"):
        estimate_training(dataset, Recipe(training=config), refit=False)
    assert reports == []


def test_the_test_split_is_never_trained_on() -> None:
    with pytest.raises(ConfigError, match="test"):
        fit(small_model(), DATASET, CONFIG, splits=("train", "validation", "test"))


def test_refit_takes_the_chosen_passes_over_more_rows() -> None:
    result = fit(small_model(), DATASET, replace(CONFIG, epochs=1))
    config = refit_config(CONFIG, result, DATASET)
    assert config.steps == round(result.best_step * 6 / 5)
    again = fit(small_model(), DATASET, config, splits=("train", "validation"))
    assert again.step == again.best_step == config.steps
    assert [point.validation_auc for point in again.curve] == [None] * len(again.curve)


def stop_after(steps: int):
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("dense_optimizer", ["adagrad", "sgd", "adam"])
def test_a_stopped_run_resumes_where_it_was(tmp_path: Path, dense_optimizer: str) -> None:
    config = replace(CONFIG, dense_optimizer=dense_optimizer, lr_schedule="linear")
    whole, stopped = small_model(), small_model()
    expected = fit(whole, DATASET, config)
    part = fit(stopped, DATASET, config, out=tmp_path, should_stop=stop_after(9))
    assert not part.finished
    assert 0 < part.step < expected.step
    fresh = small_model(seed=9)  # proves that the weights come from the checkpoint
    result = fit(fresh, DATASET, config, out=tmp_path, resume=True)
    assert result.curve == expected.curve
    assert all(map(torch.equal, whole.state_dict().values(), fresh.state_dict().values()))
    done = small_model(seed=9)
    assert fit(done, DATASET, config, out=tmp_path, resume=True).curve == expected.curve
    assert all(map(torch.equal, whole.state_dict().values(), done.state_dict().values()))


def test_resuming_with_other_settings_or_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(small_model(), DATASET, CONFIG, out=tmp_path)
    for field, value in (("lr", 0.1), ("epochs", 3)):
        changed = replace(CONFIG, **{field: value})
        with pytest.raises(RequestError, match=rf"--resume: {field} is {value} and was .*epochs"):
            fit(small_model(), DATASET, changed, out=tmp_path, resume=True)
    # What no tensor's shape would show.
    begun_as = {"sizes": {"auxiliary": 0.1}}
    with pytest.raises(RequestError, match=r"--resume: sizes is .*0\.1.* and was None"):
        fit(small_model(), DATASET, CONFIG, out=tmp_path, resume=True, begun_as=begun_as)
    latest = tmp_path / "latest.safetensors"
    latest.write_bytes(latest.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged"):
        fit(small_model(), DATASET, CONFIG, out=tmp_path, resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-16.safetensors",
        "latest.safetensors",
    ]


def test_what_a_killed_run_left_half_written_goes_when_it_is_resumed(tmp_path: Path) -> None:
    (tmp_path / ".latest.safetensors.abcd1234").mkdir()
    fit(small_model(), DATASET, replace(CONFIG, steps=1), out=tmp_path, resume=True)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["best-1.safetensors", "latest.safetensors"]


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps: .* less than the 20 steps"):
        fit(small_model(), DATASET, replace(CONFIG, warmup_steps=20))


@pytest.mark.parametrize("before", [False, True])
def test_subnormal_numbers_are_zero_while_it_trains(before: bool) -> None:
    seen: list[float] = []

    def look(progress: object) -> None:
        seen.append(torch.full((1,), 1e-40).mul(2.0).item())

    try:
        torch.set_flush_denormal(before)
        fit(small_model(), DATASET, replace(CONFIG, epochs=1), progress=look)
        assert seen
        assert not any(seen)
        assert bool(torch.full((1,), 1e-40).mul(2.0).item()) is not before
    finally:
        torch.set_flush_denormal(False)


def test_a_diverging_run_says_so() -> None:
    config = replace(CONFIG, dense_optimizer="sgd", table_optimizer="sgd", lr=500.0)
    with pytest.raises(ConfigError, match="no longer finite"):
        fit(small_model(), DATASET, config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_items", 0),
        ("epochs", 0),
        ("lr", 0.0),
        ("table_lr", -1.0),
        ("weight_decay", 1.0),
        ("dense_optimizer", "lion"),
        ("table_optimizer", "lion"),
        ("seed", -1),
        ("warmup_steps", -1),
        ("lr_schedule", "step"),
        ("select_by", "accuracy"),
        ("clip_norm", 0.0),
        ("table_l2", -0.1),
        ("checkpoint_every", 0),
        ("checkpoint_seconds", 0.0),
    ],
)
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        TrainingConfig(**{field: value})
