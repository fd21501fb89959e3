"""`tailrank evaluate`: a trained model's metrics on labelled rows."""

from __future__ import annotations

from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrank.characterization.target import Target, TargetConfig
    from tailrank.data.dataset import Dataset, ReadingProgress, Split
    from tailrank.inference.artifact import ArtifactRecord
    from tailrank.metrics import BinaryMetrics
    from tailrank.reporting.console import Console
    from tailrank.reporting.progress import Progress


def evaluate(
    artifact: Path | None = None,
    *,
    data: str,
    stage: list[str] | None = None,
    split: Literal["train", "validation", "test", "all"] = "test",
    report: Path | None = None,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Score labelled rows with a trained model and report AUC, logloss, entropy, calibration.

    Rows of users or queries also give grouped AUC, NDCG@10 and HR@10, over each one's candidates.

    Categories are read with the vocabulary that the model was trained with; an exported model is
    scored by the ranker that serves it. With --stage twice or more, what is reported is how well
    the models rank one after the other, against the last one alone, and what each has to score.

    Example: tailrank evaluate runs/criteo --data criteo:train.tsv --split test

    Args:
        artifact: Folder of a trained model.
        data: criteo:PATH, adult:FOLDER, movielens:FOLDER, ncf:FOLDER, amazon:FOLDER/CATEGORY,
            table:FILE, or synthetic:rows=N,seed=N.
        stage: In place of a folder, several: MODEL:keep=K passes the K best rows of each query on
            to the next, and MODEL ranks those that are left.
        split: Which part of the data, in time order; all is for rows that the model never saw.
        report: File for a page with charts, as in quality.html.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.core.errors import RequestError
    from tailrank.core.files import check_writable
    from tailrank.metrics import known_by_task
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.quality import certain_metrics, quality_columns, undefined_metrics
    from tailrank.reporting.report import write_page
    from tailrank.reporting.result import Result

    typed = command_line(evaluate, locals())
    console = Console(json=json, quiet=quiet)
    if (artifact is None) != bool(stage):
        raise RequestError("ARTIFACT", "name one folder, or several stages by --stage")
    if artifact is None:
        if report is not None:
            raise RequestError("--report", "charts are of one model; leave it out of stages")
        return _evaluate_stages(stage or [], data, split, typed, console)
    if report is not None:
        check_writable(report.parent)
    with console.progress("load") as progress:
        scored, _ = _score(artifact, data, split, console.note, progress)
    metrics = {f"{name}_{split}": value for name, value in known_by_task(scored).items()}
    console.metrics(metrics)
    for missing in undefined_metrics(scored):
        console.warn(missing)
    for certain in certain_metrics(scored):
        console.note(certain)
    result = Result(
        command="evaluate",
        command_line=typed,
        config={"artifact": artifact, "data": data, "split": split},
        metrics=metrics,
        artifacts=[] if report is None else [report],
    )
    if report is not None:
        write_page(report, result, quality_columns(scored), artifact.name)
    console.finish(result)
    return 0


def _score(
    artifact: Path,
    data: str,
    split: Split | Literal["all"],
    announce: Callable[[str], None],
    progress: Progress,
) -> tuple[dict[str, BinaryMetrics], str]:
    """Score the rows of a split with a model, and say by a digest which rows these are."""
    from tailrank.data.dataset import SPLITS
    from tailrank.data.registry import WITH_UNKNOWN_IDS
    from tailrank.data.unknown import UnknownIds
    from tailrank.inference.artifact import read_record
    from tailrank.inference.precision import Precision
    from tailrank.inference.ranker import load, load_model
    from tailrank.training.evaluation import evaluate as evaluate_model
    from tailrank.training.evaluation import evaluate_ranker

    if read_record(artifact).precision != Precision():
        # Exported: scored as it will be served, in its own arithmetic.
        ranker, record = load(artifact, progress=progress.count_bytes)
        score = partial(evaluate_ranker, ranker)
    else:
        model, record = load_model(artifact, progress.count_bytes)
        score = partial(evaluate_model, model)
    progress.begin("read")
    dataset = open_for(artifact, record, data, announce, progress)
    progress.begin("score")
    splits: Sequence[Split] = SPLITS if split == "all" else (split,)
    unknown = UnknownIds(dataset.spec)
    scored = score(
        dataset,
        splits,
        lambda done, total: progress.count(done, total, "rows"),
        unknown.count,
    )
    for new in unknown.in_words() if dataset.name in WITH_UNKNOWN_IDS else ():
        announce(new)
    return scored, dataset.rows_fingerprint


def _evaluate_stages(
    texts: list[str], data: str, split: Split | Literal["all"], typed: str, console: Console
) -> int:
    """Rank the rows of each query by stages; see `evaluate`."""
    from tailrank.core.errors import RequestError
    from tailrank.inference.cascade import parse_stages
    from tailrank.metrics import paired_bootstrap
    from tailrank.reporting.quality import certain_metrics
    from tailrank.reporting.result import Result
    from tailrank.training.cascade import cascade

    stages = parse_stages(texts)
    found: list[BinaryMetrics] = []
    rows: set[str] = set()
    for stage in stages:
        with console.progress("load") as progress:
            scored, fingerprint = _score(Path(stage.target), data, split, console.note, progress)
        if rows - {fingerprint}:
            reason = f"{stage.target} reads other rows of {data} than {stages[0].target}"
            raise RequestError("--stage", reason)
        rows.add(fingerprint)
        found.append(next(iter(scored.values())))
    values = cascade(found, [stage.keep for stage in stages if stage.keep is not None])
    metrics = {
        f"{name}_{split}": value
        for prefix, of in (("", values.ranked), ("last_stage_alone.", values.alone))
        for name, value in (
            (f"{prefix}ndcg_at_10", of.ndcg_at_10),
            (f"{prefix}hit_rate_at_10", of.hit_rate_at_10),
            (f"{prefix}grouped_auc", of.grouped_auc),
        )
        if not isnan(value)
    }
    intervals = {}
    if f"ndcg_at_10_{split}" in metrics:
        change, low, high = paired_bootstrap(
            values.rank_B, found[-1].scores, found[-1].labels, values.group_B, metric="ndcg_at_10"
        )
        metrics[f"ndcg_at_10_change_{split}"] = change
        intervals[f"ndcg_at_10_change_{split}"] = (low, high)
    metrics[f"best_10_kept_fraction_{split}"] = values.best_kept_fraction
    for number, items in enumerate(values.items_S, start=1):
        metrics[f"stage_{number}.items_per_query_{split}"] = items / values.num_queries
    console.metrics(metrics)
    for certain in certain_metrics({"label": found[-1]}):
        console.note(certain)
    result = Result(
        command="evaluate",
        command_line=typed,
        config={"stages": texts, "data": data, "split": split},
        metrics=metrics,
        intervals=intervals,
    )
    console.finish(result)
    return 0


def open_for(
    artifact: Path,
    record: ArtifactRecord,
    data: str,
    announce: Callable[[str], None],
    progress: ReadingProgress,
) -> Dataset:
    """The rows that `data` names, read as the artifact in folder `artifact` was trained on them.

    Raises:
        ConfigError: another kind of data, or rows with other features.
        DataError: the rows or the vocabulary cannot be used.
    """
    from tailrank.core.errors import ConfigError, DataError
    from tailrank.data.registry import DatasetName, DataSettings, open_dataset

    kind, trained = DatasetName.parse(data).kind, record.training
    if kind != trained.get("data"):
        trained_on = trained.get("data", "something else")
        raise ConfigError("--data", data, f"{trained_on}:…, as the model was trained on")
    try:
        settings = DataSettings.from_dict(trained["recipe"]["data"])
        fitted_fingerprint = trained["fitted_fingerprint"]
    except (KeyError, TypeError) as error:
        reason = f"trained by another version of tailrank ({error}); train it again"
        raise DataError(artifact, reason) from None
    dataset = open_dataset(data, settings, fitted=artifact, progress=progress, announce=announce)
    if dataset.fitted_fingerprint != fitted_fingerprint:
        raise DataError(artifact, "holds a vocabulary that is not this model's")
    if dataset.spec != record.config.spec:
        raise ConfigError("--data", data, "rows with the features that the model was trained on")
    return dataset


def load_target(config: TargetConfig, console: Console) -> Target:
    """What `config` names, ready to be asked; says what it takes and what the host refused.

    Raises:
        ConfigError: unknown preset, another kind of data, or it does not fit into memory.
        DataError: no artifact or a damaged one, or rows or a vocabulary that cannot be used.
        BackendUnavailable: this host cannot run its precision.
    """
    from tailrank.characterization.target import open_target
    from tailrank.inference.artifact import read_record

    dataset = None
    if config.data is not None:
        folder = Path(config.target)
        with console.progress("read") as progress:
            record = read_record(folder)
            dataset = open_for(folder, record, config.data, console.note, progress)
    with console.progress("load") as progress:
        target = open_target(config, console.note, dataset, progress.count_bytes)
    if refusal := target.ranker.describe().get("huge_page_refusal"):
        console.note(f"{refusal}: random rows are read more slowly, see tailrank doctor")
    return target
