"""CSV and Parquet files in blocks: the cells arrive whatever the block size, faults name places."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from tailrank.core.errors import ConfigError, DataError
from tailrank.data import table_file
from tailrank.data.table_file import open_table, require_columns

TEXT = (
    'id,note,n\r\n1,"a, b",3\r\n2,"two\r\nlines, ""quoted""",\r\n'
    '3,,5\r\n4,"",6\r\n5,caf\u00e9,7\r\n'
)
ROWS = [
    ("1", "a, b", "3"),
    ("2", 'two\r\nlines, "quoted"', None),
    ("3", None, "5"),
    ("4", "", "6"),
    ("5", "caf\u00e9", "7"),
]


def read(path: Path) -> list[tuple[str | None, ...]]:
    file = open_table(path)
    rows = []
    for block in file.blocks(list(file.columns)):
        assert block.first_row == len(rows)
        rows += block.frame.rows()
    assert file.fraction_read == 1.0
    return rows


@pytest.mark.parametrize("block_bytes", [1, 2, 7, 40, 1 << 20])
@pytest.mark.parametrize("form", ["crlf", "lf", "no last break", "bom", "gz", ";", "\t"])
def test_every_cell_of_a_csv_arrives(tmp_path: Path, monkeypatch, block_bytes, form) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block_bytes)
    text, rows = TEXT, ROWS
    if form == "lf":
        text = text.replace("\r\n", "\n")
        rows = [tuple(c and c.replace("\r\n", "\n") for c in row) for row in rows]
    elif form == "no last break":
        text = text.removesuffix("\r\n")
    elif form == "bom":
        text = "\ufeff" + text
    elif len(form) == 1:
        text = text.replace(",", form)
        rows = [tuple(c and c.replace(",", form) for c in row) for row in rows]
    path = tmp_path / ("t.csv.gz" if form == "gz" else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if form == "gz" else text.encode())
    assert read(path) == rows


def test_the_digest_is_of_the_text_and_packing_changes_nothing(tmp_path: Path) -> None:
    digests = []
    for name, content in (
        ("a.csv", TEXT.encode()),
        ("a.csv.gz", gzip.compress(TEXT.encode())),
        ("b.csv", TEXT.replace("3", "4").encode()),
    ):
        (tmp_path / name).write_bytes(content)
        file = open_table(tmp_path / name)
        for _ in file.blocks(["id"]):
            pass
        digests.append(file.sha256)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_a_cell_is_named_by_the_line_where_its_row_begins(
    tmp_path: Path, monkeypatch, block_bytes
) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode())
    file = open_table(path)
    assert sum(block.frame.height for block in file.blocks(["n"])) == 5
    for row, (line, value) in enumerate([(2, "3"), (3, ""), (5, "5"), (6, "6"), (7, "7")]):
        error = file.fault(row, "n", "no good")
        assert (error.line, error.value, error.column) == (line, value, "n")


def test_a_bad_cell_behind_a_very_long_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'ids,n\n"{"1|" * 100_000}\n2",3\n4,x\n')
    file = open_table(path)
    assert sum(block.frame.height for block in file.blocks(["n"])) == 2
    assert (file.fault(1, "n", "no good").line, file.fault(1, "n", "no good").value) == (4, "x")


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_every_cell_of_a_parquet_file_arrives(tmp_path: Path, monkeypatch, block_rows) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_ROWS", block_rows)
    frame = pl.DataFrame({"id": [1, 2, 3], "many": [[1], None, [2, 3]], "t": ["a", None, "c"]})
    folder = tmp_path / "day=3[x]*"
    folder.mkdir()
    frame.write_parquet(folder / "t.parquet")
    assert read(folder / "t.parquet") == frame.rows()
    error = open_table(folder / "t.parquet").fault(2, "many", "no good")
    assert str(error).endswith("t.parquet: row 3: column 'many', value [2, 3]: no good")


@pytest.mark.parametrize(
    ("text", "place", "complaint"),
    [
        (b"", "", "empty; expected a header"),
        (b"a,b\n", "", "empty: a header and no rows"),
        (b"a,a\n1,2\n", ":1", "the name 'a' twice or empty"),
        (b"a,\n1,2\n", ":1", "the name '' twice or empty"),
        (b"a\xff,b\n1,2\n", ":1", "not UTF-8"),
        (b"a,b\n1,2\n3\n", ":3", "1 columns; expected 2 columns"),
        (b'a,b\n"1\n1",2\n3\n', ":4", "1 columns; expected 2 columns"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", ":3", "3 columns; expected 2"),
        (b"a,b\n1,2\n3\n4,5,6\n", ":3", "1 columns; expected 2"),
        (b"a,b\n1,2\n\n3,4\n", ":3", "a blank line; expected 2"),
        (b"a,b\r\n1,2\r\n\r\n3,4\r\n", ":3", "a blank line; expected 2"),
        (b"a,b\n1,2\n3,\xff\n", ":3", "not UTF-8"),
        (b'a,b\n1,2\n3,"4\n5,6\n', ":3", "unexpected end of data"),
        (b'a,b\n1,2\n3,5" nail\n5,6" nail\n', ":3", "a quote in the middle of a cell"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_damage_to_a_csv_is_named(
    tmp_path: Path, monkeypatch, block_bytes, text, place, complaint
) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("block_bytes", [1, 5, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_after_the_last_row_are_no_rows(
    tmp_path: Path, monkeypatch, block_bytes, end
) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "t.csv"
    path.write_bytes((end.join(["a,b", "1,2", '3,"4\n\n"']) + 3 * end).encode())
    frames = [block.frame for block in open_table(path).blocks(["a", "b"])]
    assert pl.concat(frames).rows() == [("1", "2"), ("3", "4\n\n")]
    path.write_bytes(("a,b" + 3 * end).encode())
    with pytest.raises(DataError, match="empty: a header and no rows"):
        list(open_table(path).blocks(["a"]))
    path.write_bytes(("a" + 3 * end).encode())
    frames = [block.frame for block in open_table(path).blocks(["a"])]
    assert pl.concat(frames)["a"].to_list() == [None, None], "of one column, a missing cell each"


def test_an_open_quote_does_not_fill_the_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(table_file, "_RECORD_BYTES_MAX", 1000)
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", 256)
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 1000)
    with pytest.raises(DataError, match=r"t\.csv:3: a row of over 1000 bytes; is a quote left"):
        read(path)


def test_other_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"table: got 'x\.json'; allowed: a file ending in"):
        open_table(Path("x.json"))
    with pytest.raises(DataError, match="no such file"):
        open_table(tmp_path / "x.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match="a folder"):
        open_table(tmp_path / "d.csv")
    packed, plain = tmp_path / "t.csv.gz", tmp_path / "p.csv.gz"
    packed.write_bytes(gzip.compress(TEXT.encode() * 99)[:-20])
    plain.write_bytes(TEXT.encode())
    with pytest.raises(DataError, match="truncated gzip"):
        read(packed)
    with pytest.raises(DataError, match="not a sound gzip file"):
        read(plain)
    parquet = tmp_path / "t.parquet"
    parquet.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"t\.parquet: not a sound Parquet file \("):
        open_table(parquet)
    pl.DataFrame({"a": []}).write_parquet(parquet)
    with pytest.raises(DataError, match="empty: no rows"):
        read(parquet)


def test_a_missing_column_gets_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("clicked,item\n1,2\n")
    with pytest.raises(DataError, match=r"column 'click': no such column; did you mean 'clicked'"):
        require_columns(open_table(path), ["item", "click"])
    with pytest.raises(DataError, match="no such column; there are clicked, item"):
        require_columns(open_table(path), ["zzz"])
