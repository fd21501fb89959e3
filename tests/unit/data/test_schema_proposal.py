"""What is proposed for a table: by its values where they tell, by names where they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.data import column_profile
from tailrank.data.dataset import SPLITS
from tailrank.data.schema import FeatureColumn, LabelColumn, parse_schema
from tailrank.data.schema_proposal import Proposal, Wishes, propose_schema
from tailrank.data.table import TableConfig, TableDataset

NUM_ROWS = 400


def make_table() -> pl.DataFrame:
    """One column of every kind that logs hold."""
    rng = np.random.default_rng(0)
    session = np.sort(rng.integers(40, size=NUM_ROWS))
    user = session * 7 % 13
    rows = np.arange(NUM_ROWS)
    return pl.DataFrame(
        {
            "Clicked": (rng.random(NUM_ROWS) < 0.3).astype(int),
            "has_offer": rng.random(NUM_ROWS) < 0.5,
            "session_id": [f"s{number}" for number in session],
            "when": 1_700_000_000 + session * 10,
            "user id": 100_000 + user * 977,
            "country": np.array(["de", "fr", ""])[user % 3],
            "seen": [f"i{u}|i{u + 1}" if u else None for u in user],
            "words": [f"w{i % 7} w{i % 5}" for i in rows],
            "title": [f"Film {i % 150}, the" for i in rows],
            "item": rng.permutation(rows % 150) * 31,
            "views": np.floor(rng.lognormal(4, 2, NUM_ROWS)).astype(int),
            "price": rng.lognormal(2, 1.5, NUM_ROWS).round(3),
            "score": [float(rng.standard_normal()) if i % 9 else None for i in rows],
            "hour": rows % 24,
            "row_id": rows,
            "url": [f"https://x/{i}" for i in rows],
            "one": ["same"] * NUM_ROWS,
            "none": pl.Series([None] * NUM_ROWS, dtype=pl.String),
            "posted": [f"2024-01-{1 + i % 28:02} 10:00:00" for i in rows],
        },
        strict=False,
    )


def write(table: pl.DataFrame, folder: Path, form: str) -> Path:
    path = folder / f"log.{form}"
    if form == "csv":
        table.write_csv(path)
    else:
        lists = pl.col("seen").str.split("|"), pl.col("words").str.split(" ")
        table.with_columns(*lists, pl.col("posted").str.to_datetime()).write_parquet(path)
    return path


def described(proposal: Proposal) -> dict[str, tuple[Any, ...]]:
    return {
        f.name: (f.side, f.kind, f.transform if f.kind == "dense" else f.encode)
        for f in proposal.schema.features
    }


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("block", [64, 1 << 23])
def test_every_kind_of_column_is_recognised(tmp_path: Path, monkeypatch, form, block) -> None:
    monkeypatch.setattr("tailrank.data.table_file._BLOCK_BYTES", block * 100)
    monkeypatch.setattr("tailrank.data.table_file._BLOCK_ROWS", block)
    path = write(make_table(), tmp_path, form)
    proposal = propose_schema(path)
    schema = proposal.schema
    assert schema.label == LabelColumn(column="Clicked")
    assert (schema.query_id, schema.time) == ("session_id", "posted")
    vocabulary, user = ("bag", "vocabulary"), "user"
    assert described(proposal) == {
        "has_offer": ("item", *vocabulary),
        "when": (user, *vocabulary),
        "user_id": (user, *vocabulary),
        "country": (user, *vocabulary),
        "seen": (user, *vocabulary),
        "words": ("item", *vocabulary),
        "title": ("item", *vocabulary),
        "item": ("item", *vocabulary),
        "views": ("item", "dense", "log1p"),
        "price": ("item", "dense", "log1p"),
        "score": ("item", "dense", "standardise"),
        "hour": ("item", *vocabulary),
    }
    by_name = {feature.name: feature for feature in schema.features}
    assert by_name["user_id"].column == "user id"
    separators = [by_name[name].separator for name in ("seen", "words", "title")]
    assert separators == (["|", " ", None] if form == "csv" else [None] * 3)
    assert set(proposal.left_out) == {"row_id", "url", "one", "none"}
    assert parse_schema(proposal.to_toml(), "s.toml") == schema
    text = proposal.to_toml()
    assert "# left out: url: another value in every row" in text
    assert "# left out: none: no value in any row" in text
    assert "# 40 different, as in s0, s1, s2, 10.0 rows each\nquery_id" in text
    assert "11.25% missing" in text
    dataset = TableDataset(TableConfig(path=path, schema=schema))
    assert dataset.num_rows(SPLITS) == NUM_ROWS


def test_wishes_come_before_guesses(tmp_path: Path) -> None:
    table = make_table()
    path = write(table, tmp_path, "csv")
    wishes = Wishes(label="views", at_least=50, query_id="user id", time="when")
    schema = propose_schema(path, wishes).schema
    assert schema.label == LabelColumn(column="views", at_least=50)
    assert (schema.query_id, schema.time) == ("user id", "when")
    sides = {feature.name: feature.side for feature in schema.features}
    assert sides["country"] == "user"
    assert sides["clicked"] == sides["session_id"] == "item"
    assert "views" not in sides


def test_without_query_and_time_there_are_only_items(tmp_path: Path) -> None:
    table = make_table().drop("session_id", "posted", "when")
    proposal = propose_schema(write(table.with_columns(posted=None), tmp_path, "csv"))
    assert proposal.schema.query_id is proposal.schema.time is None
    assert {feature.side for feature in proposal.schema.features} == {"item"}
    assert "# No query: name one with query_id" in proposal.to_toml()


def test_a_rising_clock_is_a_time_and_a_rising_id_is_none(tmp_path: Path) -> None:
    clock = [1_700_000_000 + i // 2 for i in range(200)]
    y, kind = [0, 1] * 100, list("abcd") * 50
    for name, expected in (("clock", "clock"), ("visit_no", None)):
        path = tmp_path / f"{name}.csv"
        pl.DataFrame({"y": y, name: clock, "kind": kind}).write_csv(path)
        assert propose_schema(path).schema.time == expected


def test_days_as_numbers_are_a_time_and_no_query(tmp_path: Path) -> None:
    rows, path = np.arange(4000), tmp_path / "t.csv"
    day = 20_260_000 + rows // 1000 * 100 + rows % 1000 // 33 + 1
    pl.DataFrame({"y": rows % 2, "day": day, "shop": rows % 7}).write_csv(path)
    schema = propose_schema(path).schema
    assert (schema.query_id, schema.time) == (None, "day")


def write_requests(path: Path, *, mixed: bool = False) -> Path:
    """Requests of four candidates each, two requests a user, under names that tell nothing."""
    rows = np.arange(4000)
    request = np.random.default_rng(1).permutation(1000)[rows // 4] * 7919
    table = pl.DataFrame(
        {
            "y": rows % 3 % 2,
            "lookup": request,
            "visitor": [f"v{row // 8}" for row in rows],
            "offer": rows * 37 % 301 * 11,
            "ref": np.where(rows % 50, rows * 7919 % 4001, 17),
            "clock": 1_700_000_000 + rows // 3,
        }
    )
    if mixed:
        table = table.sample(fraction=1.0, shuffle=True, seed=1).drop("clock")
    table.write_csv(path)
    return path


def test_a_query_is_found_by_rows_that_stand_together(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tailrank.data.table_file._BLOCK_BYTES", 999)  # cuts requests too
    proposal = propose_schema(write_requests(tmp_path / "t.csv"))
    assert (proposal.schema.query_id, proposal.schema.time) == ("lookup", "clock")
    assert {f.name: f.side for f in proposal.schema.features} == {
        "visitor": "user",
        "offer": "item",
    }
    text = proposal.to_toml()
    assert "4.0 rows each\n# Taken for the query because its equal values stand together" in text
    wish = Wishes(query_id="visitor")
    proposal = propose_schema(tmp_path / "t.csv", wish)
    assert proposal.schema.query_id == "visitor"
    assert "Taken for the query" not in proposal.to_toml()


def test_without_such_rows_columns_that_repeat_are_named_and_none_is_taken(tmp_path: Path) -> None:
    proposal = propose_schema(write_requests(tmp_path / "t.csv", mixed=True))
    assert proposal.schema.query_id is None
    repeat = "lookup (4.0 rows each), visitor (8.0 rows each), offer (13.3 rows each)."
    assert f"# Columns with several rows of each value: {repeat}\n" in proposal.to_toml()


def test_ids_that_hardly_repeat_are_left_out_and_amounts_are_not(tmp_path: Path) -> None:
    rows = np.arange(2000)
    amount = np.random.default_rng(0).lognormal(9, 2, 2000)
    path = tmp_path / "t.csv"
    columns = {"y": rows % 2, "kind": rows % 5, "spent": np.floor(amount * 100).astype(int)}
    ids = np.where(rows % 30, rows * 7919 % 2003, 17)
    pl.DataFrame(columns | {"ref": ids, "name": [f"n{i}" for i in ids]}).write_csv(path)
    proposal = propose_schema(path)
    assert described(proposal) == {
        "kind": ("item", "bag", "vocabulary"),
        "spent": ("item", "dense", "log1p"),
    }
    said = f"# left out: ref: {len(set(ids)):,} different values in 2,000 rows, too few of each"
    assert said in proposal.to_toml()
    assert proposal.left_out["ref"].endswith("Make it a feature of kind dense")
    assert proposal.left_out["name"].endswith("to learn from")


def test_users_of_a_long_log_who_may_come_back_later_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(column_profile, "DISTINCT_MAX", 110)
    monkeypatch.setattr("tailrank.data.schema_proposal.DISTINCT_MAX", 110)
    monkeypatch.setattr("tailrank.data.table_file._BLOCK_ROWS", 115)
    rows = np.arange(4000)
    user = [f"u{i % 200 if i != 1 else 0}" for i in rows]
    pl.DataFrame({"y": rows % 2, "user": user}).write_parquet(tmp_path / "t.parquet")
    proposal = propose_schema(tmp_path / "t.parquet")
    assert proposal.schema.features == (FeatureColumn(name="user", encode="hash", buckets=1 << 20),)


def test_many_categories_are_hashed_and_long_lists_cut(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(column_profile, "DISTINCT_MAX", 100)
    monkeypatch.setattr("tailrank.data.schema_proposal.DISTINCT_MAX", 100)
    rows = range(400)
    pl.DataFrame(
        {
            "y": [i % 2 for i in rows],
            "name": [f"n{i % 300}" for i in rows],
            "few": [f"n{i % 30}" for i in rows],
            "many": [[j % 40 for j in range(i % 60)] for i in rows],
            "vector": [[0.5, float(i)] for i in rows],
            "deep": [[[i]] for i in rows],
            "key": [f"k{i}" for i in rows],
        }
    ).write_parquet(tmp_path / "t.parquet")
    proposal = propose_schema(tmp_path / "t.parquet")
    assert proposal.schema.features == (
        FeatureColumn(name="name", encode="hash", buckets=1 << 20),
        FeatureColumn(name="few"),
        FeatureColumn(name="many", max_length=50),
    )
    assert set(proposal.left_out) == {"vector", "deep", "key"}
    assert "# over 100 different" in proposal.to_toml()


def test_names_are_made_plain_and_stay_apart(tmp_path: Path) -> None:
    rows = range(200)
    columns = ["Été", "été", "A b", "a-B", "名前"]
    frame = pl.DataFrame({"y": [i % 2 for i in rows]} | {c: [i % 9 for i in rows] for c in columns})
    frame.write_csv(tmp_path / "t.csv")
    proposal = propose_schema(tmp_path / "t.csv")
    names = [feature.name for feature in proposal.schema.features]
    assert len(set(names)) == len(columns)
    assert [feature.source for feature in proposal.schema.features] == columns
    TableDataset(TableConfig(path=tmp_path / "t.csv", schema=proposal.schema))


def columns(**extra: list[Any]) -> dict[str, list[Any]]:
    return {"kind": ["a", "b", "c", "a"] * 10, **extra}


@pytest.mark.parametrize(
    ("table", "wishes", "complaint"),
    [
        (columns(), {}, "--label: missing; expected a column of 0 and 1, which .* lacks, .*kind"),
        (columns(a=[0, 1] * 20, b=[1, 0] * 20), {}, "--label: missing; .*one of a, b"),
        (columns(a=[0, 1] * 20), {"label": "kind"}, "--label: got 'kind'"),
        (columns(a=[1, 2] * 20), {"label": "a"}, "--label: got 'a'; .* with --at-least"),
        (columns(a=[1, 2] * 20), {"label": "a", "at_least": 3}, "--at-least: got 3; .*up to 2"),
        (columns(a=[0, 1] * 20), {"query_id": "a"}, "--query-id: got 'a'"),
        (columns(a=[0, 1] * 20, q=[None, "x"] * 20), {"query_id": "q"}, "--query-id: .*missing"),
        (columns(a=[0, 1] * 20), {"time": "kind"}, "--time: got 'kind'"),
        ({"a": [0, 1] * 20, "b": ["x"] * 40}, {}, "a table with a column to predict from"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, table, wishes, complaint) -> None:
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=complaint):
        propose_schema(tmp_path / "t.parquet", Wishes(**wishes))


def test_names_that_are_not_there_are_refused(tmp_path: Path) -> None:
    pl.DataFrame(columns(a=[0, 1] * 20)).write_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match="column 'knd': no such column; did you mean 'kind'"):
        propose_schema(tmp_path / "t.csv", Wishes(query_id="knd"))
    with pytest.raises(RequestError, match="--at-least"):
        Wishes(at_least=3.0)
