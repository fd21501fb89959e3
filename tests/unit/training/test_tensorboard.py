"""Event files, read back with TensorBoard's own reader."""

import sys
from pathlib import Path
from typing import get_args

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tailrank.cli import main
from tailrank.core.errors import BackendUnavailable, RequestError
from tailrank.training.config import SelectBy
from tailrank.training.history import CurvePoint, Progress
from tailrank.training.tensorboard import TensorBoardLog

Scalars = dict[str, dict[int, float]]


def scalars(folder: Path) -> Scalars:
    """Value by step of each scalar; a step that occurs twice fails."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    found: Scalars = {}
    for name in reader.Tags()["scalars"]:
        steps = [event.step for event in reader.Scalars(name)]
        assert len(set(steps)) == len(steps), f"{name} has a step twice"
        found[name] = {event.step: event.value for event in reader.Scalars(name)}
    return found


def report(log: TensorBoardLog, first: int, last: int, *, clips: bool = True) -> None:
    """Steps from `first` to `last`, with an evaluation every 15."""
    for step in range(first, last + 1):
        log.step(
            "train",
            Progress(
                step=step,
                steps=100,
                samples=step * 8,
                samples_per_s=1000.0,
                step_logloss=1.0 / step,
                train_logloss=2.0 / step,
                lr=0.5 * step,
                gradient_norm=3.0 * step if clips else None,
                validation_auc=None,
            ),
        )
        if step % 15 == 0:
            point = CurvePoint(
                step=step,
                samples=step * 8,
                train_logloss=0.5,
                validation_auc=0.001 * step,
                validation_logloss=1.0 / step,
            )
            log.point("train", point)


def test_scalars_stand_at_their_steps(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, resume=False)
    report(log, 1, 47)
    log.close()
    found = scalars(tmp_path / "train")
    assert set(found) == {
        *(f"train/{name}" for name in ("logloss", "lr", "samples_per_s", "gradient_norm")),
        *(f"validation/{name}" for name in ("logloss", "auc")),
    }
    assert found["train/logloss"] == pytest.approx({s: 1.0 / s for s in (10, 20, 30, 40)})
    assert found["train/lr"] == pytest.approx({s: 0.5 * s for s in (10, 20, 30, 40)})
    assert found["train/gradient_norm"] == pytest.approx({s: 3.0 * s for s in (10, 20, 30, 40)})
    assert found["validation/auc"] == pytest.approx({s: 0.001 * s for s in (15, 30, 45)})


def test_a_resumed_run_goes_on_without_a_step_twice(tmp_path: Path) -> None:
    """The first got as far as step 47 and is never closed; its last checkpoint was at step 24."""
    report(TensorBoardLog(tmp_path / "cut", resume=False), 1, 47)
    resumed = TensorBoardLog(tmp_path / "cut", resume=True)
    report(resumed, 25, 60)
    resumed.close()
    unbroken = TensorBoardLog(tmp_path / "unbroken", resume=False)
    report(unbroken, 1, 60)
    unbroken.close()
    assert scalars(tmp_path / "cut/train") == scalars(tmp_path / "unbroken/train")


def test_events_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, resume=False)
    report(log, 1, 20)
    found = scalars(tmp_path / "train")  # before anything is closed
    assert list(found["train/logloss"]) == [10, 20]
    assert list(found["validation/auc"]) == [15]
    log.close()


def test_a_run_that_does_not_clip_has_no_norm(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, resume=False)
    report(log, 1, 10, clips=False)
    log.close()
    assert "train/gradient_norm" not in scalars(tmp_path / "train")


def test_two_runs_never_mix(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, resume=False)
    report(log, 1, 1)
    log.close()
    with pytest.raises(RequestError, match="--tensorboard"):
        TensorBoardLog(tmp_path, resume=False)


def test_without_the_package_the_way_to_it_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'tailrank\[tensorboard\]'"):
        TensorBoardLog(tmp_path, resume=False)
    monkeypatch.chdir(tmp_path)
    words = ["train", "dlrm", "--data", "synthetic:rows=2800", "--out", "run"]
    assert main([*words, "--tensorboard", "events"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'tailrank[tensorboard]'" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_train_writes_events_of_both_runs(tmp_path: Path) -> None:
    words = ["train", "dlrm", "--data", "synthetic:rows=2800", "--refit", "--batch-items", "50"]
    words += ["--epochs", "1", "--evaluate-every", "20", "--clip-norm", "1", "--quiet"]
    events = tmp_path / "events"
    assert main([*words, "--out", str(tmp_path / "run"), "--tensorboard", str(events)]) == 0
    train, refit = scalars(events / "train"), scalars(events / "refit")
    assert list(train["train/logloss"]) == [10, 20, 30, 40]
    assert list(train["validation/ndcg_at_10"]) == [20, 40]
    assert {name for name in train if name.startswith("validation/")} == {
        f"validation/{name}" for name in get_args(SelectBy)
    }
    assert set(refit) == {name for name in train if name.startswith("train/")}
