"""`tailrank export`: a trained model in another precision, if its quality holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal


def export(
    artifact: Path,
    *,
    precision: str,
    data: str,
    out: Path,
    split: Literal["validation", "test"] = "test",
    max_auc_drop: float = 0.001,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Write a trained model in another precision, if it still ranks as well.

    Both models score the same held-out rows; the export is refused (exit 3) when the AUC drops by
    more than the bound.

    Example: tailrank export runs/a --precision rows=int8 --data criteo:train.tsv --out runs/b

    Args:
        artifact: Folder of a trained model in fp32.
        precision: fp32, bf16, int8, or a mix such as rows=int4,dense=bf16; rows also in fp16.
        data: Held-out rows, as in criteo:PATH or synthetic:rows=N,seed=N.
        out: Folder for the exported model.
        split: Rows of the gate; a model that was refitted has seen the validation rows.
        max_auc_drop: Largest allowed drop of the AUC, relative to the fp32 AUC.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.commands.evaluate import open_for
    from tailrank.core.errors import ConfigError, RequestError
    from tailrank.core.exit_codes import ExitCode
    from tailrank.core.files import check_output, replace_directory
    from tailrank.inference.artifact import save_artifact
    from tailrank.inference.precision import Precision, round_weights
    from tailrank.inference.ranker import load_model
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.quality import quality_columns
    from tailrank.reporting.report import RESULT_NAME, write_report
    from tailrank.reporting.result import Result, write_result
    from tailrank.training.evaluation import evaluate
    from tailrank.training.scores import save_scores

    typed = command_line(export, locals())
    console = Console(json=json, quiet=quiet)
    wanted = Precision.parse(precision)
    if not 0.0 <= max_auc_drop < 1.0:
        raise ConfigError("--max-auc-drop", max_auc_drop, "0 up to 1")
    check_output(out, overwrite=overwrite)
    with console.progress("load") as progress:
        model, record = load_model(artifact, progress.count_bytes)
    if record.precision != Precision():
        raise RequestError("ARTIFACT", f"{artifact} is in {record.precision}; name the fp32 model")
    with console.progress("read") as progress:

        def count(done: int, total: int) -> None:
            progress.count(done, total, "rows")

        dataset = open_for(artifact, record, data, console.note, progress)
        progress.begin("score in fp32")
        before = evaluate(model, dataset, (split,), count).compute()
        if math.isnan(before.auc):
            reason = f"{split} rows of one class; an AUC needs rows of both classes"
            raise RequestError("--data", reason)
        round_weights(model, wanted)
        progress.begin(f"score in {wanted}")
        scored = evaluate(model, dataset, (split,), count)
    after = scored.compute()
    drop = (before.auc - after.auc) / before.auc
    figures = {
        f"auc_{split}_fp32": before.auc,
        f"auc_{split}": after.auc,
        f"logloss_{split}_fp32": before.logloss,
        f"logloss_{split}": after.logloss,
        "auc_drop_fraction": drop,
    }
    console.note(
        f"AUC on the {split} rows: {before.auc:.5f} in fp32, {after.auc:.5f} in {wanted}: "
        f"a drop of {drop:.4%}, of {max_auc_drop:.4%} allowed"
    )
    passed = drop <= max_auc_drop
    result = Result(
        command="export",
        command_line=typed,
        config={
            "artifact": artifact,
            "precision": str(wanted),
            "data": data,
            "split": split,
            "max_auc_drop": max_auc_drop,
        },
        metrics=figures,
        artifacts=[out] if passed else [],
    )
    if passed:
        with replace_directory(out, overwrite=overwrite) as folder:
            save_artifact(
                folder,
                model,
                training=record.training,
                precision=wanted,
                quality_gate={**figures, "max_auc_drop": max_auc_drop},
            )
            dataset.save_fitted(folder)
            if split == "test":
                save_scores(folder, scored, dataset.rows_fingerprint)
            quality_columns(scored).save(folder)
            write_result(folder / RESULT_NAME, result)
            write_report(folder, name=out.name)
    else:
        console.warn("refused: nothing was written")
    console.finish(result)
    return 0 if passed else ExitCode.BOUND_MISSED
