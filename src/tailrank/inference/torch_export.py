"""Models as programs of `torch.export`: a `.pt2` file that torch runs without this package.

Legend: B item rows, T tasks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_shapes
from torch import Tensor
from torch.export import Dim, ExportedProgram

from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.inference.export_form import ExportForm, Named, Scorer, inputs_of, named_tensors

DESCRIPTION = "tailrank.json"


def capture(form: ExportForm) -> ExportedProgram:
    """The model as a program whose numbers of users, items and ids of each feature are free."""
    example = _example(form)
    counted = {"users": Dim("users"), "items": Dim("items")}
    extents = {}
    for one in inputs_of(form.spec):
        first = counted.get(one.rows, Dim.DYNAMIC)
        extents[one.name] = {0: first + one.more if one.more else first}
    with torch.no_grad():
        form(example)  # what is kept for later calls must be tensors, not a trace's stand-ins
        # One user, one item and no id at all are sizes like any others.
        with symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(form, (example,), dynamic_shapes=(extents,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of this code, with folders of this machine
    return program


def write_program(program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
    """Write a `.pt2` file.

    Args:
        program: the model, see `capture`.
        path: of the file.
        description: goes into it as the extra file `tailrank.json`, see `describe`.
    """
    program.example_inputs = None  # they would be pickled
    torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(description)})


def program_scorer(path: Path) -> Scorer:
    """What scores batches through a `.pt2` file of ours."""
    extra_files = {DESCRIPTION: ""}
    program = torch.export.load(path, extra_files=extra_files).module()
    spec = FeatureSpec.from_dict(json.loads(extra_files[DESCRIPTION])["spec"])

    def score(batch: FeatureBatch) -> Tensor:
        with torch.no_grad():
            probability_BT: Tensor = program(named_tensors(batch, spec))
        return probability_BT

    return score


def _example(form: ExportForm) -> Named:
    """Inputs of different sizes: two users, three items, some ids in the first bag of each.

    Sequences that are read row by row tell of the same events and have one size.
    """
    rows, tensors = {"users": 2, "items": 3}, {}
    events = {feature.name for (feature,) in form.model.tables.lookups[2:]}
    num_ids = 0
    for index, one in enumerate(inputs_of(form.spec)):
        if one.rows == "ids":
            num_ids = 4 if one.name in events else 5 + index
            tensors[one.name] = torch.zeros(num_ids, dtype=torch.int64)
        elif one.more:  # of the bag whose ids come before
            ends = torch.full((rows[one.rows],), num_ids)
            tensors[one.name] = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
        elif one.width is None:
            tensors[one.name] = torch.zeros(rows[one.rows], dtype=torch.int64)
        else:
            tensors[one.name] = torch.zeros(rows[one.rows], one.width)
    return tensors
