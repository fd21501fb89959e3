"""A resumed run goes on as if nothing had happened: every loss, every weight, to the last bit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailrank.core.errors import RequestError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import (
    Feature,
    FeatureBatch,
    FeatureSpec,
    Labels,
    SideFeatures,
    TableSpec,
)
from tailrank.models import RankingModel, build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.models.registry import config_for
from tailrank.training import loop
from tailrank.training.checkpoint import (
    load_checkpoint,
    restore_training,
    save_checkpoint,
    training_tensors,
)
from tailrank.training.config import TrainingConfig
from tailrank.training.history import Progress, TrainingResult
from tailrank.training.loop import LATEST_FILE, fit
from tailrank.training.step import TrainStep

DATASET = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 60, num_embeddings=40, seed=5))
STEPS_PER_EPOCH = 10
PLAIN = TrainingConfig(batch_items=240, epochs=3, lr=0.05, evaluate_every=7, seed=1)
# Both optimisers count steps, the rates move, and patience ends the run: all of it is state.
EVERYTHING = replace(
    PLAIN,
    epochs=30,
    patience=2,
    dense_optimizer="adam",
    table_optimizer="amsgrad",
    lr_schedule="cosine",
    warmup_steps=9,
    schedule_tables=True,
    table_l2=0.001,
    clip_norm=0.3,
    average_fraction=0.3,
    select_by="grouped_auc",
    checkpoint_every=4,
)


class PowerCut(Exception):
    """Ends a run without a chance to save."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums over several threads need not repeat."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_model(seed: int = 0) -> RankingModel:
    return build_model(DLRMConfig(spec=DATASET.spec, bottom_mlp=(8, 16), top_mlp=(16, 1)), seed)


class Run:
    """A run that notes what every step reports, and can be ended after any step."""

    def __init__(self, config: TrainingConfig, out: Path, seed: int = 0) -> None:
        self.config, self.out, self.model = config, out, small_model(seed)
        self.reports: dict[int, tuple[float, ...]] = {}

    def go(self, *, stop_after: int = -1, cut_after: int = -1, resume: bool) -> TrainingResult:
        def note(now: Progress) -> None:
            self.reports[now.step] = (now.step_logloss, now.train_logloss, now.lr)
            self.reports[now.step] += (now.gradient_norm or 0.0, now.samples)
            if now.step == cut_after:
                raise PowerCut

        return fit(
            self.model,
            DATASET,
            self.config,
            out=self.out,
            resume=resume,
            progress=note,
            should_stop=lambda: max(self.reports, default=0) == stop_after,
        )


def assert_same(resumed: Run, result: TrainingResult, whole: Run, expected: TrainingResult) -> None:
    assert result.curve == expected.curve
    ends = [(r.step, r.samples, r.best_step, r.stopped_early) for r in (result, expected)]
    assert ends[0] == ends[1]
    states = [run.model.state_dict() for run in (resumed, whole)]
    assert all(map(torch.equal, states[0].values(), states[1].values()))
    # The optimisers' state as well, which the model does not show.
    tensors = [load_checkpoint(run.out / LATEST_FILE)[0] for run in (resumed, whole)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory) -> dict[str, tuple[Run, TrainingResult]]:
    """Unbroken runs, by the name of their settings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = {}
    for name, config in (("plain", PLAIN), ("everything", EVERYTHING)):
        run = Run(config, tmp_path_factory.mktemp(name))
        runs[name] = (run, run.go(resume=False))
    torch.set_num_threads(before)
    return runs


# Inside the warm-up, just after an evaluation, at the end of a pass, in the middle of the second.
@pytest.mark.parametrize("stop_after", [3, 7, 10, 16])
@pytest.mark.parametrize("name", ["plain", "everything"])
def test_a_stopped_run_goes_on_bit_for_bit(
    name: str, stop_after: int, whole_runs, tmp_path: Path
) -> None:
    whole, expected = whole_runs[name]
    stopped = Run(whole.config, tmp_path)
    assert not stopped.go(stop_after=stop_after, resume=False).finished
    assert max(stopped.reports) == stop_after
    resumed = Run(whole.config, tmp_path, seed=9)  # so the weights must come from the checkpoint
    result = resumed.go(resume=True)
    assert min(resumed.reports) == stop_after + 1
    assert stopped.reports | resumed.reports == whole.reports
    assert_same(resumed, result, whole, expected)


def test_the_unbroken_runs_are_worth_resuming(whole_runs) -> None:
    plain, everything = whole_runs["plain"][1], whole_runs["everything"][1]
    assert plain.step == 3 * STEPS_PER_EPOCH
    assert everything.stopped_early
    assert 16 < everything.step < 30 * STEPS_PER_EPOCH
    norms = [report[3] for report in whole_runs["everything"][0].reports.values()]
    assert min(norms) < 0.3 < max(norms)


def test_a_run_that_was_cut_again_and_again_goes_on_from_its_checkpoints(
    whole_runs, tmp_path: Path
) -> None:
    """Cut before its first checkpoint, between two, and twice in one place."""
    whole, expected = whole_runs["everything"]
    reports: dict[int, tuple[float, ...]] = {}
    for cut_after, begins in ((2, 1), (6, 1), (11, 5), (11, 9), (15, 9)):
        part = Run(EVERYTHING, tmp_path, seed=cut_after if begins > 1 else 0)
        with pytest.raises(PowerCut):
            part.go(cut_after=cut_after, resume=True)
        assert min(part.reports) == begins
        assert all(whole.reports[step] == report for step, report in part.reports.items())
        reports |= part.reports
    last = Run(EVERYTHING, tmp_path, seed=9)
    result = last.go(resume=True)
    assert min(last.reports) == 15, "the evaluation of step 14 saved"
    assert reports | last.reports == whole.reports
    assert_same(last, result, whole, expected)


def batch_of_histories(length: int) -> tuple[FeatureBatch, Labels]:
    """Two users with `length` behaviours each, an item for either."""
    ids_L = torch.arange(2 * length) % 5
    item = SideFeatures(
        dense_RN=torch.zeros(2, 0), values_L=torch.tensor([1, 3]), offsets=torch.arange(3)
    )
    user = replace(item, values_L=ids_L, offsets=torch.arange(3) * length)
    batch = FeatureBatch(user=user, item=item, item_to_user_B=torch.arange(2))
    return batch, Labels(values_BT=torch.tensor([[1.0], [0.0]]))


@pytest.mark.parametrize("dense_optimizer", ["adagrad", "sgd", "adam"])
def test_layers_without_a_gradient_so_far_are_taken_up_too(
    dense_optimizer: str, tmp_path: Path
) -> None:
    """Nothing has reached DIEN's recurrences before the first user with a history."""
    spec = FeatureSpec(
        features=(
            Feature(name="history", side="user", kind="sequence", table="items"),
            Feature(name="item", side="item", kind="bag", table="items"),
        ),
        tables=(TableSpec(name="items", num_embeddings=5, embedding_dim=4),),
    )
    config = config_for("dien", spec, {"top_mlp": (4,)}, ("label",))
    settings = replace(PLAIN, dense_optimizer=dense_optimizer, weight_decay=0.01)
    whole, resumed = (TrainStep(build_model(config, seed), settings) for seed in (1, 2))
    whole(*batch_of_histories(0))
    file = tmp_path / LATEST_FILE
    save_checkpoint(file, training_tensors(whole), {})
    restore_training(file, resumed, load_checkpoint(file)[0])
    for length in (0, 3, 2):
        assert whole(*batch_of_histories(length)) == resumed(*batch_of_histories(length))
    tensors = [training_tensors(step) for step in (whole, resumed)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_time_decides_when_to_save_and_nothing_else(
    whole_runs, tmp_path: Path, monkeypatch
) -> None:
    seconds = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic_ns", lambda: next(seconds) * 10**9)
    saved = []
    save = loop.save_checkpoint
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda file, *rest: (saved.append(file.name), save(file, *rest))
    )
    whole, expected = whole_runs["plain"]
    run = Run(replace(PLAIN, checkpoint_seconds=5.0), tmp_path)
    result = run.go(resume=False)
    assert saved.count(LATEST_FILE) > len(expected.curve)
    assert run.reports == whole.reports
    assert_same(run, result, whole, expected)
    # Another cadence is no other run.
    again = Run(replace(PLAIN, checkpoint_seconds=1.0, checkpoint_every=1), tmp_path)
    assert again.go(resume=True).curve == expected.curve


def test_a_better_evaluation_that_no_checkpoint_remembers_does_not_count(
    tmp_path: Path, monkeypatch
) -> None:
    """Killed between saving the best weights and the checkpoint, it has the older best still."""
    save = loop.save_checkpoint

    def cut_at_second_best(file: Path, *rest: object) -> None:
        save(file, *rest)
        if file.name == "best-14.safetensors":
            raise PowerCut

    monkeypatch.setattr(loop, "save_checkpoint", cut_at_second_best)
    with pytest.raises(PowerCut):
        Run(PLAIN, tmp_path).go(resume=False)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["best-14.safetensors", "best-7.safetensors", LATEST_FILE]
    monkeypatch.setattr(loop, "save_checkpoint", save)
    result = Run(PLAIN, tmp_path, seed=9).go(resume=True)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"best-{result.best_step}.safetensors", LATEST_FILE]


class TwoTasks(SyntheticDataset):
    """A click, and its opposite, which is known of every other row."""

    tasks = ("clicked", "passed")

    def batches(self, splits, batch_items, **order):
        for batch, labels in super().batches(splits, batch_items, **order):
            click_B1 = labels.values_BT
            known_B1 = torch.arange(len(click_B1)).unsqueeze(1) % 2 == 0
            values_BT = torch.cat([click_B1, 1.0 - click_B1], 1)
            mask_BT = torch.cat([torch.ones_like(known_B1), known_B1], 1)
            yield batch, replace(labels, values_BT=values_BT, mask_BT=mask_BT)


def test_a_run_of_several_tasks_goes_on_with_its_weights_of_tasks(tmp_path: Path) -> None:
    dataset, config = TwoTasks(DATASET.config), replace(PLAIN, task_weights=(1.0, 0.5))
    sizes = {"bottom_mlp": (8,), "top_mlp": (4,)}
    made = config_for("mt_wide_and_deep", dataset.spec, sizes, dataset.tasks)
    unbroken, steps = fit(build_model(made, 1), dataset, config), iter(range(9))
    stop = lambda: next(steps, None) is None  # noqa: E731
    cut = fit(build_model(made, 1), dataset, config, out=tmp_path, should_stop=stop)
    assert not cut.finished
    changed = replace(config, task_weights=(1.0, 1.0))
    with pytest.raises(RequestError, match="task_weights"):
        fit(build_model(made, 2), dataset, changed, out=tmp_path, resume=True)
    again = fit(build_model(made, 2), dataset, config, out=tmp_path, resume=True)
    assert again.curve == unbroken.curve
    assert set(again.curve[0].validation_by_task) == {"clicked", "passed"}
