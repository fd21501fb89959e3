"""Real queries from ratings to a served model: train, evaluate, tune; user work done once."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from tests.integration.verbs import run_json
from tests.unit.data.movielens_files import write_movielens

from tailrank.characterization.payloads import QueryPool
from tailrank.cli import main
from tailrank.core.query import BatchPart, Query
from tailrank.data.registry import open_dataset
from tailrank.features import FeatureBatch, SideFeatures
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `ratings` and a DLRM in `model`."""
    folder = tmp_path_factory.mktemp("movielens")
    write_movielens(folder / "ratings", num_users=20, num_movies=60)
    sizes = ["--embedding-dim", "4", "--top-mlp", "8", "--batch-items", "64"]
    data = f"movielens:{folder / 'ratings'}"
    assert main(["train", "dlrm", "--data", data, "--out", str(folder / "model"), *sizes]) == 0
    return folder


def result_of(folder: Path) -> dict:
    record: dict = json.loads((folder / "result.json").read_text())
    return record


def test_train_and_evaluate_report_metrics_per_user(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = result_of(trained / "model")["metrics"]
    assert 0.0 < metrics["grouped_auc_test"] < 1.0
    assert 0.0 < metrics["ndcg_at_10_test"] <= 1.0
    capsys.readouterr()
    data = f"movielens:{trained / 'ratings'}"
    assert main(["evaluate", str(trained / "model"), "--data", data]) == 0
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if line.startswith("grouped_auc_test"))
    assert line.split()[1] == f"{metrics['grouped_auc_test']:.4f}"


def test_stages_are_compared_with_the_last_one_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, heavy = f"movielens:{trained / 'ratings'}", str(trained / "model")
    light = str(tmp_path / "light")
    main(["train", "logistic_regression", "--data", data, "--out", light, "--seed", "7"])
    alone = result_of(trained / "model")["metrics"]
    words = ["evaluate", "--data", data, "--stage", f"{light}:keep=3", "--stage", heavy]
    code, result = run_json(capsys, *words)
    metrics = result["metrics"]
    assert code == 0
    assert metrics["last_stage_alone.ndcg_at_10_test"] == pytest.approx(alone["ndcg_at_10_test"])
    change = metrics["ndcg_at_10_test"] - metrics["last_stage_alone.ndcg_at_10_test"]
    assert metrics["ndcg_at_10_change_test"] == pytest.approx(change)
    low, high = result["intervals"]["ndcg_at_10_change_test"]
    assert low <= change <= high
    assert metrics["stage_2.items_per_query_test"] <= 3 < metrics["stage_1.items_per_query_test"]
    assert 0.0 < metrics["best_10_kept_fraction_test"] < 1.0
    # A stage that keeps all changes nothing.
    words[4] = f"{light}:keep=1000"
    _, result = run_json(capsys, *words)
    assert result["metrics"]["ndcg_at_10_change_test"] == 0.0
    assert result["metrics"]["best_10_kept_fraction_test"] == 1.0
    assert main(["evaluate", heavy, *words[1:]]) == 2
    assert main(["evaluate", "--data", data]) == 2
    assert main([*words, "--report", "a.html"]) == 2


def test_tune_asks_real_queries_and_its_profile_is_for_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = str(trained / "model"), f"movielens:{trained / 'ratings'}"
    out, profile = tmp_path / "tuned", str(tmp_path / "tuned/profile.json")
    common = [model, "--sla", "p95=50ms", "--sizes", "normal:40,10", "--simulate-only"]
    quick = ["--workers", "1", "--budget", "5s", "--policy", "deeprecsched"]
    main(["tune", *common, *quick, "--data", data, "--out", str(out)])
    assert result_of(out)["config"]["ranker"]["queries"] == data
    assert "queries=movielens-" in json.loads(Path(profile).read_text())["device"]
    capsys.readouterr()
    refused = main(["tune", *common, "--profile", profile, "--out", str(tmp_path / "random")])
    assert refused == 2
    assert "--profile" in capsys.readouterr().err
    wrong = main(["tune", *common, "--data", "synthetic", "--out", str(tmp_path / "wrong")])
    assert wrong == 2
    assert "movielens:…, as the model was trained on" in capsys.readouterr().err


def test_a_query_of_200_candidates_scores_the_same_with_its_user_repeated(
    shared_data: Path,
) -> None:
    folder = shared_data / "movielens_1m"
    if not folder.is_dir():
        pytest.skip(f"no MovieLens-1M at {folder}")
    dataset = open_dataset(f"movielens:{folder}")
    model = build_model(DLRMConfig.for_spec(dataset.spec), seed=0)
    step = TrainStep(model, TrainingConfig(lr=0.1))
    for batch, labels in islice(dataset.batches(("train",), 1024, shuffle_seed=0), 15):
        step(batch, labels)
    pool = QueryPool.from_dataset(dataset, seed=0)
    longest = 0
    for choice in range(20):
        query = Query(0, "", 0, None, 200, 0, pool.payload(choice, 200))
        once = pool.features(BatchPart(query, 0, 200))
        repeated = FeatureBatch(
            user=SideFeatures.concat([once.user] * 200),
            item=once.item,
            item_to_user_B=torch.arange(200),
        )
        with torch.inference_mode():
            scores_BT = model(once)
            torch.testing.assert_close(scores_BT, model(repeated), rtol=1e-5, atol=1e-5)
        assert scores_BT.std() > 0.02
        longest = max(longest, once.user.num_ids)
    assert longest > 50  # of a user with a history
