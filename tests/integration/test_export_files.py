"""`tailrank export --format …`: files for other runtimes, from the command line."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

import tailrank.commands.export as verb
from tailrank.cli import main
from tailrank.core.exit_codes import ExitCode
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.inference.artifact import save_artifact
from tailrank.inference.precision import Precision
from tailrank.models import build_model
from tailrank.models.registry import config_for

SPEC = FeatureSpec(
    features=(
        Feature(name="user", side="user", kind="bag", table="users"),
        Feature(name="item", side="item", kind="bag", table="items"),
    ),
    tables=(
        TableSpec(name="users", num_embeddings=50, embedding_dim=9),
        TableSpec(name="items", num_embeddings=70, embedding_dim=9),
    ),
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    model = build_model(config_for("matrix_factorization", SPEC, {}), seed=3)
    save_artifact(folder, model, training={}, precision=Precision(rows="int8"))
    return folder


def test_an_onnx_file_with_its_description(artifact: Path, tmp_path: Path, capsys) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="tailrank[onnx] is missing: NOT TESTED")
    pytest.importorskip("onnxscript", reason="tailrank[onnx] is missing: NOT TESTED")
    out = tmp_path / "new" / "model.onnx"
    words = ["export", str(artifact), "--format", "onnx", "--out", str(out), "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "is in rows=int8,dense=fp32: its numbers are written as fp32" in said.err
    result = json.loads(said.out)
    assert 0.0 <= result["metrics"]["difference_max"] <= verb.DIFFERENCE_MAX
    assert result["metrics"]["file_bytes"] == out.stat().st_size
    assert result["artifacts"] == [str(out)]
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(out)
    description = json.loads(session.get_modelmeta().custom_metadata_map["tailrank"])
    assert description["architecture"] == "matrix_factorization"
    assert description["precision_of_artifact"] == "rows=int8,dense=fp32"
    assert FeatureSpec.from_dict(description["spec"]) == SPEC
    assert [(one.name, one.shape) for one in session.get_inputs()] == [
        (one["name"], one["shape"]) for one in description["inputs"]
    ]
    assert str(Path(verb.__file__).parents[1]).encode() not in out.read_bytes()

    assert main(words) == ExitCode.USER_ERROR
    assert "exists; name another file, or --overwrite it" in capsys.readouterr().err


def test_a_program_holds_no_pickle(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    words = ["export", str(artifact), "--format", "torch-export", "--out", str(out), "--quiet"]
    out.write_text("what stood there before")
    assert main([*words, "--overwrite"]) == 0
    with zipfile.ZipFile(out) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    described = next(text for name, text in contents.items() if name.endswith("tailrank.json"))
    assert json.loads(described)["architecture"] == "matrix_factorization"
    for name, content in contents.items():
        assert not content.startswith((b"\x80", b"PK")), name  # a pickle, torch's own archive
        assert str(Path(verb.__file__).parents[1]).encode() not in content, name


def test_a_file_that_scores_otherwise_is_not_given_out(
    artifact: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "DIFFERENCE_MAX", -1.0)
    out = tmp_path / "model.pt2"
    words = ["export", str(artifact), "--format", "torch-export", "--out", str(out), "--quiet"]
    assert main(words) == ExitCode.BOUND_MISSED
    assert "refused: nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx", "--out", "model.pt2"], "ends in .onnx"),
        (["--format", "torch-export", "--out", "model"], "ends in .pt2"),
        (["--format", "onnx", "--out", "folder.onnx"], "is a folder; name a file"),
        (["--format", "onnx", "--out", "m.onnx", "--precision", "bf16"], "--precision: got 'bf16'"),
        (["--format", "onnx", "--out", "m.onnx", "--max-auc-drop", "0.1"], "--max-auc-drop: got"),
        (["--format", "onnx", "--out", "m.onnx", "--data", "criteo:x"], "--data: got 'criteo:x'"),
        (["--out", "folder", "--data", "criteo:x"], "--precision: missing"),
        (["--out", "folder", "--precision", "bf16"], "--data: missing"),
    ],
)
def test_what_does_not_go_together_is_refused(
    artifact: Path,
    tmp_path: Path,
    capsys,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.onnx").mkdir()
    assert main(["export", str(artifact), *words]) == ExitCode.USER_ERROR
    assert said in capsys.readouterr().err


def test_weights_beyond_what_a_file_holds_are_refused(
    artifact: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="tailrank[onnx] is missing: NOT TESTED")
    pytest.importorskip("onnxruntime", reason="tailrank[onnx] is missing: NOT TESTED")
    monkeypatch.setattr("tailrank.inference.onnx._WEIGHT_BYTES_MAX", 100)
    out = tmp_path / "model.onnx"
    assert main(["export", str(artifact), "--format", "onnx", "--out", str(out)]) == 2
    assert "use --format torch-export" in capsys.readouterr().err
    assert not out.exists()


def test_without_the_extra_its_name_is_said(
    artifact: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tailrank.inference.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    words = ["export", str(artifact), "--format", "onnx", "--out", str(tmp_path / "model.onnx")]
    assert main(words) == ExitCode.USER_ERROR
    assert "pip install 'tailrank[onnx]'" in capsys.readouterr().err
