"""Every architecture in the forms for other runtimes against the model itself.

ONNX Runtime scores an ONNX file, torch the program that such a file is made of.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.contract.test_rankers import (
    MODELS,
    OF_SEQUENCES,
    make_spec,
    random_batch,
    tasks_of,
    weighted,
    with_random_weights,
)
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec
from tailrank.inference.export_form import ExportForm, describe, named_tensors
from tailrank.inference.precision import Precision
from tailrank.inference.torch_export import capture
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for

TOLERANCE = 1e-5
# Items, users, ids of a bag (None: any number). No size is the one that a model is captured with.
BATCHES = [(1, 1, None), (7, 3, None), (64, 64, 1), (1000, 5, None), (100, 1, 3), (16, 4, 0)]


# An ONNX file takes seconds to write. These have no operation that the other one has not, and are
# scored as captured programs, which such files are made of.
LIKE_ANOTHER = {
    "dlrm-cat": "dlrm-dot",
    "din-prelu": "din-dice",
    "ncf-gmf": "ncf-neumf",
    "ncf-mlp": "ncf-neumf",
    "logistic_regression": "deepfm",
    "factorization_machine": "deepfm",
    "matrix_factorization": "ncf-neumf",
    "wide_and_deep": "mt_wide_and_deep",
}


def test_every_other_model_is_an_onnx_file() -> None:
    assert set(LIKE_ANOTHER) <= set(MODELS)
    assert set(LIKE_ANOTHER.values()) <= set(MODELS) - set(LIKE_ANOTHER)


def spec_of(name: str) -> FeatureSpec:
    """With a second sequence for models that read them: behaviours are then of two parts."""
    spec = make_spec(name)
    if name not in OF_SEQUENCES:
        return spec
    tags = Feature(name="tags_seen", side="user", kind="sequence", table="tags")
    return replace(spec, features=(*spec.features, tags))


def batch_of(
    spec: FeatureSpec, items: int, users: int = 1, bag_size: int | None = None
) -> FeatureBatch:
    """A random one, whose sequences tell of the same events."""
    batch = random_batch(spec, items, users, bag_size)
    names = [feature.name for feature in spec.sparse("user")]
    if "tags_seen" not in names:
        return batch
    first, last = names.index("history"), names.index("tags_seen")
    bags = batch.user.values_L.tensor_split(batch.user.offsets[1:-1])
    rows = [list(bags[row : row + len(names)]) for row in range(0, len(bags), len(names))]
    for row in rows:
        row[last] = row[first] % 40
    bags = [bag for row in rows for bag in row]
    offsets = torch.tensor([0] + [len(bag) for bag in bags]).cumsum(0)
    return replace(batch, user=replace(batch.user, values_L=torch.cat(bags), offsets=offsets))


@dataclass
class Exported:
    """A model and what scores with its exported forms."""

    model: RankingModel
    scorers: dict[str, Callable[[FeatureBatch], Tensor]]
    onnx_path: Path | None = None

    @property
    def spec(self) -> FeatureSpec:
        return self.model.config.spec

    def expected(self, batch: FeatureBatch) -> Tensor:
        with torch.inference_mode():
            return torch.sigmoid(self.model(batch))

    def check(self, batch: FeatureBatch) -> None:
        expected_BT = self.expected(batch)
        for name, score in self.scorers.items():
            torch.testing.assert_close(
                score(batch), expected_BT, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """What exports a model of `MODELS`, each once."""
    pytest.importorskip("onnxscript", reason="tailrank[onnx] is missing: exports are NOT TESTED")
    pytest.importorskip("onnxruntime", reason="tailrank[onnx] is missing: exports are NOT TESTED")
    from tailrank.inference.onnx import onnx_scorer, write_onnx

    @cache
    def export(name: str) -> Exported:
        architecture, sizes, _ = MODELS[name]
        if "crosses" in sizes:  # one of both sides is all of them, and quicker
            sizes = {**sizes, "crosses": (("country", "tags"),)}
        config = config_for(architecture, spec_of(name), sizes, tasks_of(name))
        model = with_random_weights(build_model(config, seed=5)).eval()
        program = capture(ExportForm(model))
        module = program.module()
        scorers = {"torch-export": lambda batch: module(named_tensors(batch, config.spec))}
        if name not in LIKE_ANOTHER:
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            write_onnx(program, path, describe(config, Precision()))
            scorers["onnx"] = onnx_scorer(path)
            return Exported(model, scorers, path)
        return Exported(model, scorers)

    return export


@pytest.fixture(params=list(MODELS))
def one(request: pytest.FixtureRequest, exported: Callable[[str], Exported]) -> Exported:
    return exported(request.param)


def test_scores_are_the_models(one: Exported, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    for items, users, bag_size in BATCHES:
        one.check(batch_of(one.spec, items, users, bag_size))
    assert capfd.readouterr().err == "", "ONNX Runtime warns of shapes that are not as declared"
    assert one.expected(batch_of(one.spec, 50, 50)).unique().numel() > 10


def test_no_operation_is_one_that_onnx_runtime_gets_wrong(one: Exported) -> None:
    """Sums by ScatterND, where threads race, and products of no columns with a vector."""
    if one.onnx_path is None:
        pytest.skip("it has the operations of another model")
    import onnx_ir

    model = onnx_ir.load(one.onnx_path)
    nodes = [*model.graph.all_nodes(), *(n for f in model.functions.values() for n in f)]
    for node in nodes:
        reduction = node.attributes.get("reduction")
        if node.op_type == "ScatterND" and reduction is not None:
            assert reduction.value == "none"
        if node.op_type == "MatMul":
            assert all(given.shape is None or len(given.shape) > 1 for given in node.inputs)
    assert any(node.op_type == "ScatterElements" for node in nodes), "bags are summed somewhere"


def test_users_without_history_beside_others(one: Exported) -> None:
    torch.manual_seed(1)
    with_ids, without = (batch_of(one.spec, 3, 2, size) for size in (2, 0))
    one.check(FeatureBatch.concat([without, with_ids, without]))


@pytest.mark.parametrize("value", [-1, 3, 1 << 40])
def test_an_id_outside_its_table_stops_every_form(
    exported: Callable[[str], Exported], value: int
) -> None:
    one = exported("dlrm-dot")
    torch.manual_seed(2)
    batch = batch_of(one.spec, items=4, users=2, bag_size=1)
    batch.user.values_L[2] = value  # the second user's country; there are 3, before other tables
    with pytest.raises(Exception, match="indices element out of data bounds"):
        one.scorers["onnx"](batch)
    with pytest.raises(IndexError):
        one.scorers["torch-export"](batch)


@pytest.mark.parametrize("user", [-1, 2])
def test_an_item_of_no_user_stops_every_form(
    exported: Callable[[str], Exported], user: int
) -> None:
    one = exported("dlrm-dot")
    torch.manual_seed(3)
    batch = batch_of(one.spec, items=4, users=2)
    batch.item_to_user_B[3] = user
    with pytest.raises(Exception, match="indices element out of data bounds"):
        one.scorers["onnx"](batch)
    with pytest.raises(IndexError):
        one.scorers["torch-export"](batch)


def test_factors_of_ids_have_no_input(exported: Callable[[str], Exported]) -> None:
    one = exported("dlrm-dot")
    with pytest.raises(ConfigError, match="exported models sum plainly"):
        one.scorers["onnx"](weighted(batch_of(one.spec, 2)))
