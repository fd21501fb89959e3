"""`tailrank train`: from a log of clicks to a tested model in a folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

if TYPE_CHECKING:
    from tailrank.data.dataset import Dataset
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result
    from tailrank.training.history import Progress
    from tailrank.training.procedure import Trained
    from tailrank.training.recipe import Recipe
    from tailrank.training.tensorboard import TensorBoardLog

_Settings = TypeVar("_Settings", bound=Any)


def train(
    model: str,
    *,
    data: str,
    out: Path,
    refit: bool = False,
    epochs: int | None = None,
    batch_items: int | None = None,
    lr: float | None = None,
    table_lr: float | None = None,
    optimizer: Literal["adagrad", "sgd", "adam"] | None = None,
    table_optimizer: Literal["sgd", "rowwise_adagrad", "adagrad", "adam", "amsgrad"] | None = None,
    weight_decay: float | None = None,
    table_l2: float | None = None,
    clip_norm: float | None = None,
    lr_schedule: Literal["constant", "linear", "cosine"] | None = None,
    warmup_steps: int | None = None,
    schedule_tables: Annotated[bool | None, Parameter(negative="--no-schedule-tables")] = None,
    average_fraction: float | None = None,
    evaluate_every: int | None = None,
    select_by: Literal["logloss", "auc", "grouped_auc", "ndcg_at_10", "hit_rate_at_10"]
    | None = None,
    patience: int | None = None,
    embedding_dim: int | None = None,
    bottom_mlp: str | None = None,
    top_mlp: str | None = None,
    interaction: Literal["dot", "cat"] | None = None,
    size: list[str] | None = None,
    pretrained: str | None = None,
    features: str | None = None,
    tasks: str | None = None,
    task_weights: str | None = None,
    schema: Path | None = None,
    min_count: int | None = None,
    integer_buckets: Annotated[bool | None, Parameter(negative="--no-integer-buckets")] = None,
    num_negatives: int | None = None,
    seed: int = 0,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    tensorboard: Path | None = None,
    dry_run: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Train a ranking model, stop on validation rows, score the test rows once.

    What is not set follows the recipe for model and data set; where there is none, the defaults
    in brackets, with batches and passes by the number of rows. The run says them before it starts
    and result.json records them. Ctrl-C saves a checkpoint beside OUT; --resume goes on from it.

    Example: tailrank train dlrm --data synthetic:rows=300000,seed=1 --out runs/first

    Example: tailrank train dlrm --data criteo:train.tsv --refit --out runs/criteo

    Example: tailrank train dlrm --data criteo:train.tsv --out runs/criteo --dry-run

    Example: tailrank train mt_wide_and_deep --data adult:census --refit --out runs/adult

    Args:
        model: Architecture: dlrm, wide_and_deep, deepfm, dcn_v2, din, dien, mean_pooling,
            factorization_machine, logistic_regression, mt_wide_and_deep (of one task or several:
            see --tasks), or, for one user and one item feature (see --features),
            matrix_factorization or ncf.
        data: criteo:PATH (TSV as published, or .gz), adult:FOLDER, movielens:FOLDER, ncf:FOLDER,
            amazon:FOLDER/CATEGORY, table:FILE (Parquet or CSV, with --schema), or
            synthetic:rows=N,seed=N.
        out: Folder for the model and result.json; it appears when everything is done.
        refit: Train once more on train + validation for the chosen number of steps.
        epochs: Passes over the training rows at most (as many as make 2000 steps, up to 20).
        batch_items: Rows per step (64 to 2048: so many that a pass has 128 steps or more).
        lr: Learning rate of the dense layers (0.01).
        table_lr: Learning rate of the embedding tables (that of the dense layers).
        optimizer: Optimiser of the dense layers (adagrad).
        table_optimizer: Optimiser of the embedding tables, which changes only rows that a batch
            reads (rowwise_adagrad).
        weight_decay: L2 factor on the dense layers (0).
        table_l2: L2 factor on the table rows that a batch reads (0).
        clip_norm: Norm that the gradients of a step are scaled down to (no limit).
        lr_schedule: How the rate of the dense layers falls to zero over the run (constant).
        warmup_steps: Steps at the start over which the rate rises (0).
        schedule_tables: Let the rate of the tables follow too.
        average_fraction: Judge and keep a running mean of the weights, over about this fraction of
            the steps so far (0: the weights as they are).
        evaluate_every: Steps between evaluations on validation rows (a pass).
        select_by: Validation metric that chooses the weights to keep (logloss); of several tasks,
            its mean.
        patience: Evaluations without a better value of it before training stops (3).
        embedding_dim: Columns of every table (16); 1 for logistic_regression, and one more than the
            factors for matrix_factorization and factorization_machine; of ncf three times the
            factors (24), two for its variant mlp (16), one for gmf (8).
        bottom_mlp: Hidden widths of the bottom MLP, as in 512-256-64.
        top_mlp: Hidden widths of the top MLP, as in 512-256.
        interaction: How embeddings meet.
        size: Any size of the model as NAME=VALUE, repeatable; a wrong one lists those there are.
        pretrained: Folders of trained models to start from, with commas between: for ncf a GMF and
            an MLP, as in runs/gmf,runs/mlp.
        features: Names of the features to use, as in user_id,movie_id; default: all.
        tasks: Names of the tasks to predict, as in income; default: all that the data have.
        task_weights: What the loss of each task counts, in the data's order, as in 1,0.5 (all 1).
        schema: What the columns of a table mean, for table:FILE.
        min_count: Categories seen fewer times count as unknown (2).
        integer_buckets: Give each Criteo integer an embedding too, by its logarithmic bucket.
        num_negatives: Rows drawn beside each positive one, for data of likes alone (4).
        seed: Of weights and row order.
        checkpoint_every: Steps between checkpoints; each evaluation saves one anyway.
        checkpoint_seconds: Time between checkpoints, 60 unless saving one takes over 3.
        tensorboard: Folder for TensorBoard's event files, which needs the extra [tensorboard].
        dry_run: Print rows, vocabulary sizes, memory and time, and write nothing.
        resume: Continue an interrupted run with the same settings.
        overwrite: Replace what is in OUT.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.host_probes import crowding
    from tailrank.core.exit_codes import ExitCode
    from tailrank.core.files import check_output, locked_directory, replace_directory
    from tailrank.data.registry import DatasetName, open_dataset
    from tailrank.inference.artifact import read_record
    from tailrank.models.memory import check_fits, format_bytes
    from tailrank.models.registry import sizes_from_text
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.quality import certain_metrics, undefined_metrics
    from tailrank.training.checkpoint import check_checkpoints, remove_checkpoints
    from tailrank.training.estimate import plan_in_words
    from tailrank.training.loop import check_training
    from tailrank.training.procedure import train_and_test
    from tailrank.training.recipe import RECIPES, for_rows, recipe_for
    from tailrank.training.tensorboard import TensorBoardLog

    typed = command_line(train, locals())
    kind = DatasetName.parse(data).kind
    sizes = sizes_from_text(
        model, size, bottom_mlp=bottom_mlp, top_mlp=top_mlp, interaction=interaction
    )
    recipe = recipe_for(model, kind, "pretrained" if pretrained else sizes.get("variant"))
    recipe = replace(
        recipe,
        pretrained=_names(pretrained) or (),
        sizes={**recipe.sizes, **sizes},
        data=_changed(
            recipe.data,
            embedding_dim=embedding_dim,
            min_count=min_count,
            integer_buckets=integer_buckets,
            num_negatives=num_negatives,
            features=_names(features),
            tasks=_names(tasks),
        ),
        training=_changed(
            recipe.training,
            epochs=epochs,
            batch_items=batch_items,
            lr=lr,
            table_lr=table_lr,
            dense_optimizer=optimizer,
            table_optimizer=table_optimizer,
            weight_decay=weight_decay,
            table_l2=table_l2,
            clip_norm=clip_norm,
            lr_schedule=lr_schedule,
            warmup_steps=warmup_steps,
            schedule_tables=schedule_tables,
            average_fraction=average_fraction,
            evaluate_every=evaluate_every,
            select_by=select_by,
            patience=patience,
            task_weights=_weights(task_weights),
            seed=seed,
            checkpoint_every=checkpoint_every,
            checkpoint_seconds=checkpoint_seconds,
        ),
    )
    check_output(out, overwrite=overwrite or resume)
    for part in recipe.pretrained:
        read_record(Path(part))  # before rows are read: a wrong folder is told at once
    checkpoints = out.with_name(out.name + ".checkpoint")
    events = None if tensorboard is None else TensorBoardLog(tensorboard, resume=resume)
    console = Console(json=json, quiet=quiet)
    if (crowded := crowding()) is not None:
        console.note(crowded)
    with nullcontext() if dry_run else locked_directory(checkpoints, "--out"):
        check_checkpoints(checkpoints, resume=resume, overwrite=overwrite)
        scratch = None if dry_run else out.parent
        with console.progress("read") as progress:
            dataset = open_dataset(
                data,
                recipe.data,
                schema=schema,
                scratch=scratch,
                progress=progress,
                announce=console.note,
            )
        if (model, kind) not in RECIPES:
            num_rows = dataset.num_rows(("train",))
            sized = for_rows(recipe.training, num_rows, batch_items=batch_items, epochs=epochs)
            recipe = replace(recipe, training=sized)
        needed = recipe.bytes_needed(dataset)
        check_fits(needed)
        check_training(recipe.training, dataset)
        console.note(plan_in_words(recipe.training, dataset.num_rows(("train",))))
        console.note(f"memory for tables, dense layers and optimiser state: {format_bytes(needed)}")
        if dry_run:
            _dry_run(console, dataset, recipe, data=data, refit=refit, typed=typed)
            return 0
        if not resume:
            remove_checkpoints(checkpoints)  # not before the input is known to be good
        with _interruptible() as should_stop, _progress(console, events) as (report, scoring):
            trained = train_and_test(
                dataset,
                recipe,
                refit=refit,
                checkpoints=checkpoints,
                resume=resume,
                progress=report,
                scoring=scoring,
                evaluated=(lambda run, point: None) if events is None else events.point,
                should_stop=should_stop,
            )
        if trained is None:
            again = "Go on with the same command and --resume"
            console.warn(f"stopped; saved in {checkpoints}. {again}")
            return ExitCode.INTERRUPTED
        with replace_directory(out, overwrite=overwrite or resume) as folder:
            result = _write(folder, out, trained, data=data, refit=refit, typed=typed)
        remove_checkpoints(checkpoints)
    console.note(trained.chosen.ending(recipe.training.select_by))
    if trained.refit is not None:
        console.note(f"then trained anew on train + validation, {trained.refit.step:,} steps")
    console.metrics(result.metrics)
    for missing in undefined_metrics(trained.tests):
        console.warn(f"test part: {missing}")
    for certain in certain_metrics(trained.tests):
        console.note(f"test part: {certain}")
    console.finish(result)
    return 0


def _dry_run(
    console: Console, dataset: Dataset, recipe: Recipe, *, data: str, refit: bool, typed: str
) -> None:
    """Say what the run would take."""
    from tailrank.reporting.result import Result
    from tailrank.reporting.tables import feature_table
    from tailrank.training.estimate import estimate_training

    estimate = estimate_training(dataset, recipe, refit=refit)
    console.show(feature_table(dataset.spec))
    for line in estimate.in_words():
        console.note(line)
    console.note("dry run: nothing was trained or written")
    config = {"data": data, "refit": refit, "recipe": recipe.to_dict(), "dry_run": True}
    console.finish(
        Result(
            command="train",
            command_line=typed,
            config=config,
            seed=recipe.training.seed,
            metrics=estimate.metrics(),
        )
    )


def _changed(settings: _Settings, **values: object) -> _Settings:
    """The settings with those that the user gave."""
    given = {name: value for name, value in values.items() if value is not None}
    return replace(settings, **given)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Read `user_id,movie_id`."""
    return None if text is None else tuple(filter(None, text.split(",")))


def _weights(text: str | None) -> tuple[float, ...] | None:
    """Read `1,0.5`."""
    from tailrank.core.errors import ConfigError

    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError:
        raise ConfigError("--task-weights", text, "numbers joined by commas, as in 1,0.5") from None


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks to stop after the step; a second one stops at once."""
    asked = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(
    console: Console, events: TensorBoardLog | None
) -> Iterator[tuple[Callable[[str, Progress], None], Callable[[str, int, int], None]]]:
    """One stage for train, one for refit and one for the test rows; steps go to `events` too."""
    with console.progress("prepare") as progress, closing(events) if events else nullcontext():

        def report(run: str, now: Progress) -> None:
            remark = f"{now.samples_per_s:,.0f} samples/s, loss {now.train_logloss:.4f}"
            if now.validation_auc is not None:
                remark += f", validation AUC {now.validation_auc:.4f}"
            if events is not None:
                events.step(run, now)
            progress.at(run, now.step / now.steps, remark, first=(now.step - 1) / now.steps)

        def scoring(split: str, done: int, total: int) -> None:
            if split == "validation":
                progress.note(f"scoring {split} rows, {done / total:.0%}")
            else:
                progress.enter(f"score {split} rows")
                progress.count(done, total, "rows")

        yield report, scoring


def _write(
    folder: Path, out: Path, trained: Trained, *, data: str, refit: bool, typed: str
) -> Result:
    """Put artifact, vocabulary, test scores, learning curve and result into `folder`."""
    from tailrank.inference.artifact import save_artifact
    from tailrank.kernels.sparse_update import kernels_for
    from tailrank.reporting.quality import quality_columns
    from tailrank.reporting.report import REPORT_NAME, RESULT_NAME, write_report
    from tailrank.reporting.report_data import LearningPoint
    from tailrank.reporting.result import Result, write_result
    from tailrank.training.scores import save_scores

    trained.dataset.save_fitted(folder)
    save_scores(folder, trained.tests, trained.dataset.rows_fingerprint)
    save_artifact(folder, trained.model, training=trained.record())
    curve = [
        LearningPoint(
            step=point.step,
            train_logloss=point.train_logloss,
            **{f"validation_{name}": value for name, value in point.validation().items()},
        )
        for point in trained.chosen.curve
    ]
    replace(quality_columns(trained.tests), learning_curve=curve).save(folder)
    result = Result(
        command="train",
        command_line=typed,
        config={
            "data": data,
            "refit": refit,
            "recipe": trained.recipe.to_dict(),
            "table_kernels": kernels_for(trained.model.tables.weight_VD),
        },
        seed=trained.recipe.training.seed,
        metrics=trained.metrics(),
        artifacts=[out / name for name in sorted({f.name for f in folder.iterdir()})]
        + [out / RESULT_NAME, out / REPORT_NAME],
    )
    write_result(folder / RESULT_NAME, result)
    write_report(folder, name=out.name)
    return result
