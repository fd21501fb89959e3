"""`tailrank export`: a trained model in another precision, if its quality holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tailrank.reporting.console import Console
    from tailrank.reporting.report_data import PrecisionRow
    from tailrank.training.precision_search import Found, Trial

AUTO = "auto"
MAX_AUC_DROP = 0.001
# Of two probabilities; the rankers' own contract (tests/contract/test_rankers.py) for fp32.
DIFFERENCE_MAX = 1e-5
# Of all rows, beside the loaded ones, while a file is written and read; seen at 512 MB of tables.
COPIES = 3
FILE_SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2"}
SEED = 0


def export(
    artifact: Path,
    *,
    out: Path,
    format: Literal["artifact", "onnx", "torch-export"] = "artifact",
    precision: str | None = None,
    data: str | None = None,
    split: Literal["validation", "test"] = "test",
    max_auc_drop: float = MAX_AUC_DROP,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Write a trained model in another precision, if it still ranks as well, or for other runtimes.

    The ranker of the new artifact and that of the old one score the same held-out rows; the export
    is refused (exit 3) when the AUC, of any task, drops by more than the bound. With auto, every
    precision is judged so and timed on this host, and the fastest that passes is written; of
    equally fast ones, the smallest.

    For onnx and torch-export the model is one file, in fp32 whatever the artifact's precision; the
    export is refused (exit 3) when its scores of random batches differ by more than 1e-5.

    Example: tailrank export runs/a --precision auto --data criteo:train.tsv --out runs/b

    Example: tailrank export runs/a --format onnx --out a.onnx

    Args:
        artifact: Folder of a trained model; in fp32, if it is to have another precision.
        format: What is written: a folder for tailrank, an ONNX file or a program of torch.export.
        precision: fp32, bf16, int8, a mix such as rows=int4,dense=bf16, or auto; rows also in fp16.
        data: Held-out rows, as in criteo:PATH or synthetic:rows=N,seed=N.
        out: Folder for the exported model, or file, as in a.onnx or a.pt2.
        split: Rows of the gate; a model that was refitted has seen the validation rows.
        max_auc_drop: Largest allowed drop of the AUC, relative to the fp32 AUC.
        overwrite: Replace what is there.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.payloads import QueryPool
    from tailrank.commands.evaluate import open_for
    from tailrank.core.errors import ConfigError, RequestError
    from tailrank.core.exit_codes import ExitCode
    from tailrank.core.files import check_output, replace_directory, temporary_folder_beside
    from tailrank.inference.artifact import read_record
    from tailrank.inference.precision import Precision
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.quality import quality_columns
    from tailrank.reporting.report import RESULT_NAME, write_report
    from tailrank.reporting.result import Result, write_result
    from tailrank.reporting.tables import precision_table
    from tailrank.training.precision_search import find_precision, precisions_to_try
    from tailrank.training.quality_gate import QualityGate
    from tailrank.training.scores import save_scores

    typed = command_line(export, locals())
    console = Console(json=json, quiet=quiet)
    if format != "artifact":
        for name, given, unset in (
            ("--precision", precision, None),
            ("--data", data, None),
            ("--split", split, "test"),
            ("--max-auc-drop", max_auc_drop, MAX_AUC_DROP),
        ):
            if given != unset:
                allowed = f"nothing with --format {format}: the file is in fp32, without a gate"
                raise ConfigError(name, given, allowed)
        return _export_file(artifact, format, out, overwrite, typed, console)
    if precision is None or data is None:
        missing, allowed = ("--data", "held-out rows, as in criteo:PATH")
        if precision is None:
            missing, allowed = "--precision", "fp32, bf16, int8, a mix of them, or auto"
        raise ConfigError(missing, None, allowed)
    wanted = None if precision == AUTO else Precision.parse(precision, also=f", or {AUTO}")
    if not 0.0 <= max_auc_drop < 1.0:
        raise ConfigError("--max-auc-drop", max_auc_drop, "0 up to 1")
    check_output(out, overwrite=overwrite)
    record = read_record(artifact)
    if record.precision != Precision():
        raise RequestError("ARTIFACT", f"{artifact} is in {record.precision}; name the fp32 model")
    with temporary_folder_beside(out) as workspace:
        found, ready = None, workspace
        with console.progress("read") as progress:
            dataset = open_for(artifact, record, data, console.note, progress)
            gate = QualityGate(artifact, dataset, split, max_auc_drop, progress)
            if wanted is None:
                pool = QueryPool.from_dataset(dataset, seed=0)
                precisions = precisions_to_try(record.config)
                found = find_precision(gate, precisions, pool, workspace, progress)
                judged, scored, ready = found.chosen.judged, found.scored, found.folder
            else:
                judged, scored, _ = gate.judge(wanted, workspace)
        rows = [] if found is None else precision_rows(found)
        if found is not None:
            console.show(precision_table(rows))
            for name, reason in found.unavailable.items():
                console.note(f"{name}: not tried, {reason}")
        say = console.note if judged.passed else console.warn
        of = f" of {judged.task}, which loses most," if len(dataset.tasks) > 1 else ""
        say(
            f"AUC{of} on the {split} rows: {judged.auc_fp32:.5f} in fp32, {judged.auc:.5f} in "
            f"{judged.precision}: a drop of {judged.auc_drop_fraction:.4%}, of {max_auc_drop:.4%} "
            "allowed"
        )
        result = Result(
            command="export",
            command_line=typed,
            config={
                "artifact": artifact,
                "precision": str(judged.precision),
                "asked_for": precision,
                "unavailable": {} if found is None else found.unavailable,
                "data": data,
                "split": split,
                "max_auc_drop": max_auc_drop,
            },
            metrics=judged.figures | ({} if found is None else trial_metrics(found)),
            intervals={} if found is None else trial_intervals(found),
            artifacts=[out] if judged.passed else [],
        )
        if judged.passed:
            with replace_directory(out, overwrite=overwrite) as folder:
                for file in ready.iterdir():
                    file.rename(folder / file.name)
                dataset.save_fitted(folder)
                if split == "test":
                    save_scores(folder, scored, dataset.rows_fingerprint)
                replace(quality_columns(scored), precisions=rows).save(folder)
                write_result(folder / RESULT_NAME, result)
                write_report(folder, name=out.name)
        else:
            console.warn("refused: nothing was written")
    console.finish(result)
    return 0 if judged.passed else ExitCode.BOUND_MISSED


def _export_file(
    artifact: Path,
    format: Literal["onnx", "torch-export"],
    out: Path,
    overwrite: bool,
    typed: str,
    console: Console,
) -> int:
    """Write a file for another runtime, if it gives the model's scores."""
    from tailrank.characterization.file_parity import file_parity
    from tailrank.core.exit_codes import ExitCode
    from tailrank.core.files import check_output_file, replace_file, temporary_folder_beside
    from tailrank.inference.export_form import ExportForm, describe
    from tailrank.inference.precision import Precision
    from tailrank.inference.ranker import load_model
    from tailrank.inference.torch_export import capture, program_scorer, write_program
    from tailrank.models.memory import check_fits
    from tailrank.reporting.result import Result

    write, open_file = write_program, program_scorer
    if format == "onnx":
        from tailrank.inference.onnx import onnx_scorer, write_onnx

        write, open_file = write_onnx, onnx_scorer

    check_output_file(out, FILE_SUFFIX[format], overwrite=overwrite)
    with temporary_folder_beside(out) as workspace, console.progress("load") as progress:
        model, record = load_model(artifact, progress.count_bytes)
        check_fits(COPIES * model.tables.weight_VD.nbytes)
        if record.precision != Precision():
            console.note(f"{artifact} is in {record.precision}: its numbers are written as fp32")
        file = workspace / out.name
        progress.begin(f"write as {format}")
        write(capture(ExportForm(model)), file, describe(record.config, record.precision))
        progress.begin("compare scores")
        parity = file_parity(model, open_file(file), SEED)
        same = parity.difference_max <= DIFFERENCE_MAX
        say = console.note if same else console.warn
        say(
            f"{parity.num_items} items of random batches: scores differ by "
            f"{parity.difference_max:.1e} at most, of {DIFFERENCE_MAX:.0e} allowed"
        )
        result = Result(
            command="export",
            command_line=typed,
            config={"artifact": artifact, "format": format, "precision": str(record.precision)},
            seed=SEED,
            metrics={
                "difference_max": parity.difference_max,
                "num_items_compared": parity.num_items,
                "file_bytes": file.stat().st_size,
            },
            artifacts=[out] if same else [],
        )
        if same:
            out.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(out) as fresh:
                file.rename(fresh)
        else:
            console.warn("refused: nothing was written")
    console.finish(result)
    return 0 if same else ExitCode.BOUND_MISSED


def precision_rows(found: Found) -> list[PrecisionRow]:
    """The table of a search."""
    from tailrank.reporting.report_data import PrecisionRow

    return [
        PrecisionRow(
            precision=str(trial.judged.precision),
            chosen=trial is found.chosen,
            table_bytes=trial.judged.table_bytes,
            auc=trial.judged.auc,
            auc_drop_fraction=trial.judged.auc_drop_fraction,
            passed=trial.judged.passed,
            rank_us=trial.rank_us,
            items_per_s=trial.items_per_s,
            speedup=trial.speedup,
        )
        for trial in found.trials
    ]


def trial_metrics(found: Found) -> dict[str, float]:
    """All trials by name, and the speed of the chosen one."""
    metrics = {"speedup_over_fp32": found.chosen.speedup}
    for trial in found.trials:
        values = trial.judged.figures | {
            "table_bytes": trial.judged.table_bytes,
            "rank_us": trial.rank_us,
            "items_per_s": trial.items_per_s,
            "speedup_over_fp32": trial.speedup,
        }
        metrics |= {f"{trial_name(trial)}.{name}": value for name, value in values.items()}
    return metrics


def trial_intervals(found: Found) -> dict[str, list[float]]:
    """The intervals of those speeds."""
    intervals = {"speedup_over_fp32": list(found.chosen.speedup_interval)}
    for trial in found.trials:
        intervals[f"{trial_name(trial)}.speedup_over_fp32"] = list(trial.speedup_interval)
    return intervals


def trial_name(trial: Trial) -> str:
    """A precision as the subject of metrics."""
    precision = trial.judged.precision
    return f"rows_{precision.rows}_dense_{precision.dense}"
