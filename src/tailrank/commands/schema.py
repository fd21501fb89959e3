"""`tailrank schema`: what the columns of a table of clicks seem to mean, for you to correct."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def schema(
    file: Path,
    *,
    out: Path | None = None,
    label: str | None = None,
    at_least: float | None = None,
    query_id: str | None = None,
    time: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Propose the schema of a table of clicks, ready to train with, and say why.

    Reads every row of the file and guesses label, query, time and features; what you name is not
    guessed. Printed, or written to OUT. Correct it by hand: it is a short TOML file.

    Example: tailrank schema clicks.parquet --out schema.toml

    Example: tailrank schema ratings.csv --label rating --at-least 4 --query-id user_id

    Args:
        file: Parquet or CSV file with a header, or .csv.gz.
        out: File for the schema; default: print it.
        label: Column to predict: 0 and 1, or any number with --at-least.
        at_least: Numbers of the label from here up count as 1.
        query_id: Column whose equal values make a query: the candidates of one user or request.
        time: Column that orders rows before they are split into train, validation and test.
        overwrite: Replace OUT.
        quiet: Say nothing but errors and what was asked for.
        json: Print the result as JSON on standard output.
    """
    from tailrank.core.errors import RequestError
    from tailrank.core.files import check_writable, replace_text
    from tailrank.data.schema_proposal import Wishes, propose_schema
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result

    typed = command_line(schema, locals())
    if out is not None:
        check_writable(out.parent)
        if out.exists() and (out.is_dir() or not overwrite):
            reason = f"{out} is there already; name another file, or --overwrite it"
            raise RequestError("--out", reason)
    console = Console(json=json, quiet=quiet)
    wishes = Wishes(label=label, at_least=at_least, query_id=query_id, time=time)
    with console.progress("read") as progress:
        proposal = propose_schema(file, wishes, progress)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(out, proposal.to_toml())
        train = ["tailrank", "train", "dlrm", "--data", f"table:{file}", "--schema", str(out)]
        console.note(f"next: {shlex.join([*train, '--out', 'runs/first'])}")
    elif not json:
        sys.stdout.write(proposal.to_toml())
    features = proposal.schema.features
    console.finish(
        Result(
            command="schema",
            command_line=typed,
            config={"file": file, **proposal.to_dict()},
            metrics={
                "num_rows": proposal.num_rows,
                "num_features_user": sum(feature.side == "user" for feature in features),
                "num_features_item": sum(feature.side == "item" for feature in features),
                "num_columns_left_out": len(proposal.left_out),
            },
            artifacts=[] if out is None else [out],
        )
    )
    return 0
