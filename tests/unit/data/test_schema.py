"""Schema files: read, written, and refused with the place of the mistake."""

from pathlib import Path

import pytest

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.schema import FeatureColumn, LabelColumn, Schema, load_schema, parse_schema

REPOSITORY = Path(__file__).resolve().parents[3]
FULL = Schema(
    label=LabelColumn(column="rating", at_least=3.5),
    query_id="session",
    time="at",
    features=(
        FeatureColumn(name="age", side="user", kind="dense", transform="standardise"),
        FeatureColumn(
            name="history",
            column='seen "late"\\ \x7f\n\u00e9\U0001f600',
            side="user",
            kind="sequence",
            table="item",
            max_length=20,
            separator="|",
            min_count=3,
        ),
        FeatureColumn(name="item", min_count=3),
        FeatureColumn(name="place", encode="hash", buckets=1000),
        FeatureColumn(name="hour", encode="id", buckets=24),
    ),
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    comments = {"label": ["why"], "feature item": ["a", "b"]}
    text = FULL.to_toml(comments, end=["left out: x"])
    (tmp_path / "schema.toml").write_text(text, encoding="utf-8")
    assert load_schema(tmp_path / "schema.toml") == FULL
    assert text.startswith("# why\nlabel = ")
    assert '# a\n# b\n[[feature]]\nname = "item"' in text
    assert text.endswith("\n\n# left out: x\n")


def test_a_small_file_has_defaults() -> None:
    schema = parse_schema('label = "clicked"\n[[feature]]\nname = "item"\n', "s.toml")
    assert schema.label == LabelColumn(column="clicked")
    assert schema.features == (FeatureColumn(name="item"),)
    assert schema.columns == ("clicked", "item")
    assert schema.features[0].source == schema.features[0].table_name == "item"


def test_the_documented_schema_can_be_used() -> None:
    document = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    schema = parse_schema(document.split("```toml\n")[1].split("```")[0], "docs/data.md")
    assert {feature.kind for feature in schema.features} == {"bag", "sequence", "dense"}


ITEM = 'label = "y"\n[[feature]]\nname = "item"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour = 1\n" + ITEM, "s.toml: colour: got 1; allowed: no such key; one of label"),
        (ITEM + "size = 1", "s.toml: feature 'item': size: got 1"),
        ('[[feature]]\nname = "x"', "s.toml: label: missing; expected the name of a column"),
        ('label = "y"', "s.toml: feature: missing; expected at least one"),
        ('label = ["y"]', "label: got .* a text or a table"),
        ('label = { column = "y" }\n', "label: got .* at_least = 4"),
        ('label = { column = "y", at_least = true }\n', "label.at_least: got True"),
        ('label = "y"\n[[feature]]\nside = "user"', "feature 1: name"),
        ("feature = [3]\n" + 'label = "y"', "feature 1: name"),
        (ITEM + '[[feature]]\nname = "item"', r"feature: got \['item'\]"),
        (ITEM + 'side = "left"', "side: got 'left'; allowed: user or item"),
        (ITEM + 'kind = "tree"', "kind: got 'tree'; allowed: dense or bag or sequence"),
        (ITEM + 'encode = "sha"', "encode: got 'sha'"),
        (ITEM + 'transform = "log1p"', "transform: got 'log1p'; allowed: nothing: bag"),
        (ITEM + 'kind = "dense"\ntable = "t"', "table: got 't'; allowed: nothing: dense"),
        (ITEM + "buckets = 7", "buckets: got 7; allowed: nothing: vocabulary"),
        (ITEM + 'encode = "hash"', "buckets: missing; expected a number, which encode = 'hash'"),
        (ITEM + 'encode = "id"\nbuckets = 4\nmin_count = 2', "min_count: got 2; .*: id has no use"),
        (ITEM + 'encode = "hash"\nbuckets = 0', "buckets: got 0; allowed: 1 to"),
        (ITEM + "min_count = 1.5", "min_count: got 1.5; allowed: a whole number"),
        (ITEM + "min_count = true", "min_count: got True"),
        (ITEM + 'separator = ""', "separator: got ''"),
        (ITEM + 'column = "y"', "column: got 'y'; allowed: any but the label's"),
        ('time = "y"\n' + ITEM, "time: got 'y'; allowed: any column but the label's"),
        ('query_id = "y"\n' + ITEM, "query_id: got 'y'; allowed: any column but the label's"),
        (
            ITEM + '[[feature]]\nname = "old"\ntable = "item"\nmin_count = 4',
            "feature 'old': min_count: got 4; allowed: None, as feature 'item' has it .* 'item'",
        ),
    ],
)
def test_mistakes_are_named(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_schema(text, "s.toml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "schema.toml"
    with pytest.raises(DataError, match=r"schema\.toml: No such file"):
        load_schema(file)
    file.write_text("label = \n")
    with pytest.raises(DataError, match=r"schema\.toml: not TOML: .*line 1"):
        load_schema(file)
    file.write_bytes(b'label = "\xff"\n')
    with pytest.raises(DataError, match="not UTF-8"):
        load_schema(file)
