"""The artifact: what is written comes back; what was damaged is refused by name."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tailrank.core.errors import BackendUnavailable, ConfigError, DataError, RequestError
from tailrank.core.files import replace_directory
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.inference.artifact import (
    MODEL_FILE,
    TABLES_FILE,
    WEIGHTS_FILE,
    read_record,
    save_artifact,
)
from tailrank.inference.precision import Precision
from tailrank.inference.ranker import bytes_needed, load, load_model
from tailrank.kernels import native
from tailrank.kernels.row_formats import RowFormat, read_rows, write_rows
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM, DLRMConfig

CONFIG = DLRMConfig(
    spec=FeatureSpec(
        features=(
            Feature(name="price", side="item", kind="dense", width=2),
            Feature(name="item", side="item", kind="bag", table="items"),
        ),
        tables=(TableSpec(name="items", num_embeddings=10, embedding_dim=4),),
    ),
    bottom_mlp=(4,),
    top_mlp=(3, 1),
)


@pytest.fixture
def model() -> DLRM:
    return build_model(CONFIG, seed=1)


@pytest.fixture
def path(tmp_path: Path, model: DLRM) -> Path:
    path = tmp_path / "artifact"
    with replace_directory(path) as fresh:
        save_artifact(fresh, model, training={"seed": 1, "metrics": {"auc_test": 0.75}})
    return path


def test_everything_comes_back(path: Path, model: DLRM) -> None:
    loaded, record = load_model(path)
    assert record.config == CONFIG
    assert record.training == {"seed": 1, "metrics": {"auc_test": 0.75}}
    assert record.precision == Precision()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_bf16_rows_halve_the_tables_and_round_to_nearest(tmp_path: Path, model: DLRM) -> None:
    path = tmp_path / "half"
    with replace_directory(path) as fresh:
        save_artifact(fresh, model, training={}, precision=Precision(rows="bf16"))
    loaded, record = load_model(path)
    assert record.precision == Precision(rows="bf16", dense="fp32")
    expected = model.tables.weight_VD.to(torch.bfloat16).float()
    torch.testing.assert_close(loaded.tables.weight_VD.data, expected.data, rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "row_bytes"), [("fp16", 8), ("int8", 12), ("int4", 6)])
def test_rows_take_the_bytes_of_their_format_and_come_back(
    tmp_path: Path, model: DLRM, rows: RowFormat, row_bytes: int
) -> None:
    path, precision = tmp_path / rows, Precision(rows=rows)
    with replace_directory(path) as fresh:
        save_artifact(fresh, model, training={}, precision=precision)
    ranker, record = load(path)
    assert record.precision == precision
    assert ranker.describe()["table_bytes"] == bytes_needed(CONFIG, precision) == 10 * row_bytes
    expected = read_rows(write_rows(model.tables.weight_VD.data, rows), rows, 4)
    loaded = load_model(path)[0].tables.weight_VD.data
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)


def test_without_native_kernels_int8_layers_are_unavailable(
    tmp_path: Path, model: DLRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_artifact(tmp_path, model, training={}, precision=Precision(dense="int8"))
    monkeypatch.setattr(native, "_REASON", "no extension in this test")
    with pytest.raises(BackendUnavailable, match="no extension in this test"):
        load(tmp_path)
    for backend in ("mkl", "onednn"):
        with pytest.raises(BackendUnavailable, match="int8 layers run in native kernels only"):
            load(tmp_path, dense_backend=backend)


def test_rows_that_a_format_cannot_hold_are_refused(tmp_path: Path, model: DLRM) -> None:
    model.tables.weight_VD.data[7, 1] = float("inf")
    with pytest.raises(ConfigError, match=r"row 7: got inf.* for int8 rows"):
        save_artifact(tmp_path, model, training={}, precision=Precision(rows="int8"))


def test_loading_tells_how_many_bytes_of_tables_it_read(path: Path) -> None:
    told: list[tuple[int, int]] = []
    load(path, progress=lambda done, total: told.append((done, total)))
    assert told == [(160, 160)]


@pytest.mark.parametrize("name", [WEIGHTS_FILE, TABLES_FILE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "rubbish"])
def test_a_damaged_weight_file_is_named(path: Path, name: str, damage: str) -> None:
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 0x40
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "rubbish":
        file.write_bytes(bytes(range(256)))
    else:
        file.unlink()
    with pytest.raises(DataError, match=name):
        load(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(format_version=99), "format version 99"),
        (lambda r: r.pop("format_version"), "not a tailrank artifact"),
        (lambda r: r.pop("model"), "damaged"),
        (lambda r: r["model"].update(architecture="transformer"), "transformer"),
        (lambda r: r["model"].update(top_mlp=[3, 2]), "top_mlp"),
        (lambda r: r["model"].update(colour="red"), "colour"),
        (lambda r: r["precision"].update(rows="int3"), "int3"),
        (lambda r: r["model"].update(top_mlp=[2.5, 1]), "damaged"),
        (lambda r: r["model"].update(top_mlp=[10**30, 1]), "damaged"),
        (lambda r: r["model"]["spec"]["tables"][0].update(num_embeddings=9.5), "damaged"),
        (lambda r: r["model"]["spec"]["features"][0].update(width=1e400), "damaged"),
    ],
)
def test_a_foreign_model_file_is_refused_with_the_reason(path: Path, change, reason: str) -> None:
    record = json.loads((path / MODEL_FILE).read_text())
    change(record)
    (path / MODEL_FILE).write_text(json.dumps(record))
    with pytest.raises(DataError, match=reason):
        read_record(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w[:, :1], r"size mismatch for top\.0\.weight.*\[3, 1\]"),
        (lambda w: w.double(), r"top\.0\.weight in torch\.float64; expected torch\.float32"),
        (lambda w: None, r"missing \['top\.0\.weight'\]"),
    ],
    ids=["shape", "dtype", "absent"],
)
def test_dense_layers_that_do_not_fit_are_refused_with_the_reason(
    path: Path, change, reason: str
) -> None:
    file = path / WEIGHTS_FILE
    tensors = load_file(file)
    changed = change(tensors.pop("top.0.weight"))
    if changed is not None:
        tensors["top.0.weight"] = changed.contiguous()
    save_file(tensors, file)
    record = json.loads((path / MODEL_FILE).read_text())
    record["sha256"][WEIGHTS_FILE] = hashlib.sha256(file.read_bytes()).hexdigest()
    (path / MODEL_FILE).write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"{WEIGHTS_FILE}: .*{reason}"):
        load(path)


@pytest.mark.parametrize("backend", ["mlk", ""])
def test_an_unknown_dense_backend_is_refused(path: Path, backend: str) -> None:
    with pytest.raises(ConfigError, match=r"dense_backend.*native or mkl or onednn"):
        load(path, dense_backend=backend)


def test_rubbish_and_absence_are_refused(path: Path, tmp_path: Path) -> None:
    (path / MODEL_FILE).write_bytes(b"\xff\xfe\x00rubbish")
    with pytest.raises(DataError, match=MODEL_FILE):
        read_record(path)
    (path / MODEL_FILE).write_text("[" * 100_000)
    with pytest.raises(DataError, match="not readable as JSON"):
        read_record(path)
    with pytest.raises(DataError, match="no such folder; expected one that tailrank train"):
        read_record(tmp_path / "nowhere")


def test_tables_of_another_model_are_refused(path: Path, tmp_path: Path) -> None:
    other = build_model(
        DLRMConfig(
            spec=FeatureSpec(
                features=CONFIG.spec.features,
                tables=(TableSpec(name="items", num_embeddings=12, embedding_dim=4),),
            ),
            bottom_mlp=(4,),
            top_mlp=(3, 1),
        ),
        seed=1,
    )
    with replace_directory(tmp_path / "other") as fresh:
        save_artifact(fresh, other, training={})
    (path / TABLES_FILE).write_bytes((tmp_path / "other" / TABLES_FILE).read_bytes())
    record = json.loads((path / MODEL_FILE).read_text())
    stranger = json.loads((tmp_path / "other" / MODEL_FILE).read_text())
    record["sha256"][TABLES_FILE] = stranger["sha256"][TABLES_FILE]
    (path / MODEL_FILE).write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"tables of shape \(12, 4\) .* expected \(10, 4\)"):
        load(path)


def test_an_unknown_device_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        load(path, device="tpu")


@pytest.mark.parametrize("device", ["eager", "cuda"])
@pytest.mark.parametrize("backend", [{"dense_backend": "mkl"}, {"embedding_backend": "torch"}])
def test_a_backend_for_a_ranker_without_a_choice_is_refused(
    path: Path, device: str, backend: dict
) -> None:
    (name,) = backend
    with pytest.raises(ConfigError, match=f"{name}.*the {device} ranker has no backend"):
        load(path, device=device, **backend)


def test_a_precision_is_one_word_or_a_mix() -> None:
    assert Precision.parse("bf16") == Precision(rows="bf16", dense="bf16")
    assert Precision.parse("int8") == Precision(rows="int8", dense="int8")
    assert Precision.parse("rows=int4") == Precision(rows="int4", dense="fp32")
    mixed = Precision.parse("dense=bf16,rows=int8")
    assert mixed == Precision(rows="int8", dense="bf16")
    assert Precision.parse(str(mixed)) == mixed


@pytest.mark.parametrize(
    "text",
    [
        "fp64",
        "int4",
        "dense=int4",
        "dense=fp16",
        "rows=fp8",
        "colour=fp32",
        "rows",
        "",
        "rows=int8,rows=int4",
    ],
)
def test_an_unknown_precision_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="precision"):
        Precision.parse(text)


def test_a_failed_write_leaves_the_old_artifact(path: Path, model: DLRM) -> None:
    before = sorted((p.name, p.read_bytes()) for p in path.iterdir())

    def fail_half_way() -> None:
        with replace_directory(path, overwrite=True) as fresh:
            save_artifact(fresh, model, training={})
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert sorted((p.name, p.read_bytes()) for p in path.iterdir()) == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_occupied_folder_is_not_overwritten_unasked(path: Path) -> None:
    with pytest.raises(RequestError, match="--overwrite"), replace_directory(path):
        pass
    with replace_directory(path, overwrite=True) as fresh:
        (fresh / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
