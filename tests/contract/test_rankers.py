"""Every ranker and architecture against the eager reference, on batches of every awkward shape."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.core.files import replace_directory
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.inference import Ranker, load
from tailrank.inference.artifact import read_record, save_artifact
from tailrank.inference.precision import Precision
from tailrank.kernels import cuda, native, onednn
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import architecture_names, config_for

RANKERS = {
    "eager": {"device": "eager"},
    "cpu": {"device": "cpu"},
    "cpu-torch-tables": {"device": "cpu", "embedding_backend": "torch"},
    "cpu-mkl": {"device": "cpu", "dense_backend": "mkl"},
    "cpu-onednn": {"device": "cpu", "dense_backend": "onednn"},
    "cpu-native": {"device": "cpu", "dense_backend": "native"},
    "cuda": {"device": "cuda"},
    "cuda-interpreted": {},  # the same on the CPU, its kernel in Triton's interpreter
}
# Items, users, ids of a bag (None: any number); all of them twice, for what a ranker keeps.
BATCHES = 2 * [(1, 1, None), (7, 3, None), (64, 64, 1), (1000, 5, None), (1000, 1, 3), (16, 1, 0)]
BATCHES += [(0, 0, None)]
# A bag takes the interpreter milliseconds; its kernel has tests of its own for every format. Every
# model meets it in fp32; of other formats one of rows alone and one of both meet one model each.
INTERPRETED_BATCHES = [(1, 1, None), (5, 2, None), (3, 1, 0), (0, 0, None)]
INTERPRETED_IN = {"rows=int4,dense=fp32": "deepfm", "rows=int8,dense=bf16": "dlrm-dot"}
# To lookups and layers these are further DeepFMs: they meet fewer formats.
LIKE_DEEPFM = ("wide_and_deep", "mt_wide_and_deep", "dcn_v2")
LIKE_DEEPFM_PRECISIONS = ("fp32", "bf16", "int8")
# The reference reads rows as they are stored, so only sums in torch's own bf16 and fp16 lookups and
# dense layers in bf16 or int8, which round once per layer, differ from it by more than fp32 does.
TOLERANCE = {
    "fp32": 1e-5,
    "rows=bf16,dense=fp32": 1e-2,
    "rows=fp16,dense=fp32": 2e-3,
    "rows=int8,dense=fp32": 1e-5,
    "rows=int4,dense=fp32": 1e-5,
    "bf16": 3e-2,
    "rows=int8,dense=bf16": 3e-2,
    "int8": 3e-2,
}


# One of the user where both are the user's, which is hashed, and an exact one of both sides.
CROSSES = (("country", "history"), ("country", "tags"))
# Architecture, sizes, dim of its tables. A new architecture adds a line.
MODELS = {
    "dlrm-dot": ("dlrm", {"bottom_mlp": (16,), "top_mlp": (16,), "interaction": "dot"}, 8),
    "dlrm-cat": ("dlrm", {"bottom_mlp": (16,), "top_mlp": (16,), "interaction": "cat"}, 8),
    "logistic_regression": ("logistic_regression", {}, 1),
    "matrix_factorization": ("matrix_factorization", {}, 9),
    "factorization_machine": ("factorization_machine", {}, 9),
    "deepfm": ("deepfm", {"top_mlp": (16,)}, 9),
    "dcn_v2": ("dcn_v2", {"top_mlp": (16,), "rank": 3, "structure": "parallel"}, 8),
    "wide_and_deep": (
        "wide_and_deep",
        {"top_mlp": (16,), "crosses": CROSSES, "cross_rows": 200},
        9,
    ),
    "mean_pooling": ("mean_pooling", {"top_mlp": (16,), "activation": "relu"}, 8),
    "din-dice": ("din", {"attention_mlp": (16, 8), "top_mlp": (16,), "activation": "dice"}, 8),
    "din-prelu": ("din", {"attention_mlp": (16,), "top_mlp": (16,), "activation": "prelu"}, 8),
    "dien": ("dien", {"top_mlp": (16,), "activation": "dice"}, 8),
    "mt_wide_and_deep": (
        "mt_wide_and_deep",
        {"bottom_mlp": (16,), "top_mlp": (8,), "crosses": CROSSES[:1]},
        9,
    ),
    "ncf-gmf": ("ncf", {"variant": "gmf"}, 8),
    "ncf-mlp": ("ncf", {"variant": "mlp"}, 8),
    "ncf-neumf": ("ncf", {"tower": (24, 16)}, 9),
}
# Models without linear layers have no backend to choose.
WITHOUT_LAYERS = {"logistic_regression", "matrix_factorization", "factorization_machine"}
# Models that read sequences of the user's side row by row; the cuda ranker refuses them. Their rows
# meet every format in tests/unit/embeddings/test_sequences.py.
OF_SEQUENCES = {"din-dice", "din-prelu", "dien"}
SEQUENCE_PRECISIONS = ("fp32", "rows=int8,dense=bf16", "int8")
OF_TWO_BAGS = {"matrix_factorization", "ncf-gmf", "ncf-mlp", "ncf-neumf"}
NEED_BOTH_SIDES = OF_TWO_BAGS | OF_SEQUENCES
VARIANTS = [
    (name, user_side)
    for name in MODELS
    for user_side in (True, False)
    if user_side or name not in NEED_BOTH_SIDES
]


def sequences_of(model: str) -> set[str]:
    """Names of the features that are sequences there."""
    return {"history"} if model in OF_SEQUENCES | {"mean_pooling"} else set()


def exists(precision: str, ranker: str, model: str) -> bool:
    """Whether there is such a ranker, and whether its formats meet this model."""
    dense = Precision.parse(precision).dense
    if model in WITHOUT_LAYERS and "dense_backend" in RANKERS[ranker]:
        return False
    if ranker == "cpu-mkl" and dense != "fp32":
        return False
    if ranker == "cpu-onednn" and dense == "int8":
        return False
    if ranker.startswith("cuda") and (dense == "int8" or model in OF_SEQUENCES):
        return False
    if ranker == "cuda-interpreted" and precision != "fp32":
        return INTERPRETED_IN.get(precision) == model
    if model in LIKE_DEEPFM:  # rows of other formats meet DeepFM
        return precision in LIKE_DEEPFM_PRECISIONS
    return not sequences_of(model) or precision in SEQUENCE_PRECISIONS


CASES = [
    (precision, (ranker, model))
    for precision, ranker, model in product(TOLERANCE, RANKERS, MODELS)
    if exists(precision, ranker, model)
]
in_every_case = pytest.mark.parametrize(
    ("artifacts", "case"),
    CASES,
    indirect=["artifacts"],
    ids=["-".join((precision, *case)) for precision, case in CASES],
)
in_fp32 = pytest.mark.parametrize("artifacts", ["fp32"], indirect=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These layers are small: a second thread gains little and waits long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Artifacts:
    """Saved models by name and side of the user's features, and rankers loaded once."""

    precision: str
    paths: dict[tuple[str, bool], Path]
    _loaded: dict[tuple[str, str, bool], Ranker] = field(default_factory=dict)

    def ranker(self, ranker: str, model: str, user_side: bool = True) -> Ranker:
        if "native" in ranker and (reason := native.why_unavailable()):
            pytest.skip(reason)
        if ranker == "cuda" and (reason := cuda.why_unavailable()):
            pytest.skip(f"NOT TESTED on a GPU: {reason}")
        key, path = (ranker, model, user_side), self.paths[model, user_side]
        if key not in self._loaded and ranker == "cuda-interpreted":
            self._loaded[key] = interpreted(path)
        elif key not in self._loaded:
            self._loaded[key] = load(path, **RANKERS[ranker])[0]
        return self._loaded[key]


def interpreted(path: Path) -> Ranker:
    """The cuda ranker on tensors of the CPU."""
    if torch.cuda.is_available():
        pytest.skip("Triton compiles here: a process has either its compiler or its interpreter")
    pytest.importorskip("triton", reason="Triton is not installed: the cuda ranker is NOT TESTED")
    from tailrank.inference.cuda import load_cuda

    return load_cuda(path, read_record(path), torch.device("cpu"))


def assert_close(artifacts: Artifacts, actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[artifacts.precision], atol=1e-6)


def test_every_architecture_is_held_to_this_contract() -> None:
    assert {architecture for architecture, _, _ in MODELS.values()} == set(architecture_names())


def tasks_of(model: str) -> tuple[str, ...]:
    return ("clicked", "bought") if model.startswith("mt_") else ("clicked",)


def make_spec(model: str, user_side: bool = True) -> FeatureSpec:
    side, dim = "user" if user_side else "item", MODELS[model][2]
    tables = (
        TableSpec(name="country", num_embeddings=3, embedding_dim=dim),
        TableSpec(name="items", num_embeddings=1000, embedding_dim=dim),
        TableSpec(name="tags", num_embeddings=40, embedding_dim=dim),
    )
    country = Feature(name="country", side=side, kind="bag", table="country")
    item = Feature(name="item", side="item", kind="bag", table="items")
    kind = "sequence" if "history" in sequences_of(model) else "bag"
    if model in OF_TWO_BAGS:  # one bag on each side is all that it takes
        return FeatureSpec(features=(country, item), tables=tables[:2])
    return FeatureSpec(
        features=(
            Feature(name="profile", side=side, kind="dense", width=3),
            Feature(name="price", side="item", kind="dense", width=5),
            country,
            Feature(name="history", side=side, kind=kind, table="items", pooling_factor=4.0),
            item,
            Feature(name="tags", side="item", kind="bag", table="tags", pooling_factor=2.0),
        ),
        tables=tables,
    )


def random_side(spec: FeatureSpec, side: str, rows: int, bag_size: int | None) -> SideFeatures:
    sparse = spec.sparse(side)
    lengths = torch.randint(0, 6, (rows * len(sparse),))
    if bag_size is not None:
        lengths = torch.full((rows * len(sparse),), bag_size)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    limits = torch.tensor([spec.table(f.table).num_embeddings for f in sparse]).repeat(rows)
    limit_L = torch.repeat_interleave(limits.long(), lengths)
    return SideFeatures(
        dense_RN=torch.randn(rows, spec.dense_width(side)),
        values_L=(torch.rand(limit_L.shape[0]) * limit_L).long(),
        offsets=offsets,
    )


def random_batch(
    spec: FeatureSpec, items: int, users: int = 1, bag_size: int | None = None
) -> FeatureBatch:
    to_user = torch.cat([torch.arange(users), torch.randint(0, max(users, 1), (items - users,))])
    return FeatureBatch(
        user=random_side(spec, "user", users, bag_size),
        item=random_side(spec, "item", items, bag_size),
        item_to_user_B=to_user.sort().values,
    )


def weighted(batch: FeatureBatch) -> FeatureBatch:
    """The same with a factor for each id, as for the mean of a bag."""
    user, item = (replace(s, weights_L=torch.rand(s.num_ids)) for s in (batch.user, batch.item))
    return replace(batch, user=user, item=item)


@pytest.fixture(scope="module")
def artifacts_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifacts]:
    """What saves all models in a precision, each precision once."""

    @cache
    def save(text: str) -> Artifacts:
        precision = Precision.parse(text)
        if onednn.why_unavailable(torch.bfloat16) and precision.dense == "bf16":
            pytest.skip(f"no bf16 linears here: {onednn.why_unavailable(torch.bfloat16)}")
        if precision.dense == "int8" and (reason := native.why_unavailable()):
            pytest.skip(reason)
        paths = {}
        for name, user_side in VARIANTS:
            architecture, sizes, _ = MODELS[name]
            config = config_for(architecture, make_spec(name, user_side), sizes, tasks_of(name))
            path = tmp_path_factory.mktemp("artifacts") / f"{name}-{user_side}"
            with replace_directory(path) as fresh:
                model = with_random_weights(build_model(config, seed=5))
                save_artifact(fresh, model, training={}, precision=precision)
            paths[name, user_side] = path
        return Artifacts(str(precision), paths)

    return save


@pytest.fixture
def artifacts(
    request: pytest.FixtureRequest, artifacts_in: Callable[[str], Artifacts]
) -> Artifacts:
    return artifacts_in(request.param)


def with_random_weights(model: RankingModel) -> RankingModel:
    """Move what starts at zero or near it, such as the weights of a logistic regression."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in (*model.dense_parameters(), model.tables.weight_VD):
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


@in_every_case
def test_scores_equal_the_reference(artifacts, case) -> None:
    ranker_name, model_name = case
    for user_side in (side for name, side in VARIANTS if name == model_name):
        ranker = artifacts.ranker(ranker_name, model_name, user_side)
        reference = artifacts.ranker("eager", model_name, user_side)
        torch.manual_seed(0)
        few = ranker_name == "cuda-interpreted"
        for items, users, bag_size in INTERPRETED_BATCHES if few else BATCHES:
            plain = random_batch(make_spec(model_name, user_side), items, users, bag_size)
            for batch in (plain, weighted(plain)):
                scores = ranker.rank(batch)
                several = len(tasks_of(model_name)) > 1
                assert scores.shape == ((items, 2) if several else (items,))
                assert scores.dtype is torch.float32
                assert_close(artifacts, scores, reference.rank(batch))


@in_every_case
def test_a_batch_equals_its_single_items(artifacts, case) -> None:
    ranker_name, model_name = case
    ranker = artifacts.ranker(ranker_name, model_name)
    torch.manual_seed(11)
    items = 5 if ranker_name == "cuda-interpreted" else 9
    batch = random_batch(make_spec(model_name), items, users=3)
    singles = torch.cat([ranker.rank(batch.items(i, 1)) for i in range(items)])
    assert singles.unique().numel() > 1
    assert_close(artifacts, ranker.rank(batch), singles)
    parts = [batch.items(0, 2), batch.items(2, 1), batch.items(3, items - 3)]
    rejoined = FeatureBatch.concat(parts)
    assert_close(artifacts, ranker.rank(rejoined), singles)


@in_every_case
def test_a_user_once_equals_the_user_repeated(artifacts, case) -> None:
    ranker_name, model_name = case
    ranker = artifacts.ranker(ranker_name, model_name)
    torch.manual_seed(12)
    once = random_batch(make_spec(model_name), items=6, users=1)
    repeated = FeatureBatch(
        user=SideFeatures.concat([once.user] * 6),
        item=once.item,
        item_to_user_B=torch.arange(6),
    )
    assert_close(artifacts, ranker.rank(once), ranker.rank(repeated))


@in_every_case
def test_an_id_outside_its_table_is_named(artifacts, case) -> None:
    ranker_name, model_name = case
    ranker = artifacts.ranker(ranker_name, model_name)
    torch.manual_seed(13)
    batch = random_batch(make_spec(model_name), items=4, users=2, bag_size=2)
    for uneven, value in product((False, True), (-1, 3, 1000, 1 << 40)):
        lengths = batch.user.offsets.diff()
        second_user = len(lengths) // 2
        if uneven:  # uneven bags take another path
            lengths[second_user] += lengths[second_user - 1]
            lengths[second_user - 1] = 0
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        values = batch.user.values_L.clone() % 3
        values[int(offsets[second_user]) + 1] = value  # second id of the second user's country
        broken = replace(batch, user=replace(batch.user, values_L=values, offsets=offsets))
        with pytest.raises(ConfigError, match=r"country \(user row 1, id 1 of its bag\)") as error:
            ranker.rank(broken)
        assert error.value.value == value
        assert "0 to 2" in error.value.allowed


@in_every_case
def test_nan_stays_with_its_item(artifacts, case) -> None:
    ranker_name, model_name = case
    ranker = artifacts.ranker(ranker_name, model_name)
    torch.manual_seed(14)
    batch = random_batch(make_spec(model_name), items=5, users=1, bag_size=2)
    clean = ranker.rank(batch)
    if batch.item.dense_RN.shape[1]:
        batch.item.dense_RN[2, 1] = float("nan")
    else:
        factor_L = torch.ones(batch.item.num_ids)
        factor_L[int(batch.item.offsets[2])] = float("nan")  # the third item's only bag
        batch = replace(batch, item=replace(batch.item, weights_L=factor_L))
    scores = ranker.rank(batch)
    assert torch.isnan(scores[2]).all()
    keep = torch.tensor([0, 1, 3, 4])
    assert_close(artifacts, scores[keep], clean[keep])


@in_fp32
def test_a_backend_for_no_linear_layer_is_refused(artifacts) -> None:
    path = artifacts.paths["logistic_regression", True]
    with pytest.raises(ConfigError, match="no stack of linear layers"):
        load(path, dense_backend="mkl")
    assert load(path)[0].describe()["dense_backend"] is None


@in_fp32
def test_the_cuda_ranker_refuses_a_model_that_reads_sequences(artifacts) -> None:
    for name in OF_SEQUENCES:
        with pytest.raises(BackendUnavailable, match=r"reads no sequences .* use the cpu ranker"):
            interpreted(artifacts.paths[name, True])
