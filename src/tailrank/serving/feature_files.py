"""Feature tables as files: a Parquet file encoded once, then mapped into memory.

The files lie in a folder that is named by a digest of all that they were made of, so that a later
start finds them and reads nothing, and all processes of a host share their pages. Nothing in them
is worth keeping: a folder that is deleted is made again.

Legend: R rows of a table, F sparse features of the side, N dense width, L ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from tailrank import __version__
from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import check_output, replace_text, temporary_folder_beside
from tailrank.data.row_encoder import RowEncoder, Rows
from tailrank.data.table_file import TableFile, open_table, require_columns
from tailrank.features import FeatureSpec, Side, SideFeatures
from tailrank.serving.feature_tables import FeatureTable
from tailrank.serving.id_index import ARRAYS, Array, IdIndex, number_ids, text_ids, text_itemsize

_RECORD_FILE = "table.json"
_FORMAT = 3
_TEXT_BYTES_MAX = 255
_DIGEST_DIGITS = 16
_PIECE = 1 << 16


def open_feature_table(
    path: Path,
    side: Side,
    *,
    spec: FeatureSpec,
    encoder: RowEncoder,
    version: str,
    cache: Path,
    id_column: str | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> FeatureTable:
    """The rows of a Parquet file, from the cache or encoded now.

    Args:
        path: of the file; a row for each user or item.
        side: which of the two.
        spec: the model's features.
        encoder: makes them of columns, at least one, as the model's training files have them.
        version: digest of the model.
        cache: folder that the encoded rows are kept in, made if absent.
        id_column: the column of ids, whole numbers or texts; None: the first.
        announce: told that a file is being encoded, which takes a while.

    Raises:
        ConfigError: no Parquet file by its name, or nothing can be written to `cache`.
        DataError: the file is missing or damaged, lacks a feature, or has an id twice or none, or a
            value that is not allowed; names column and row.
    """
    if path.suffix not in (".parquet", ".pq"):
        raise ConfigError(f"--{side}-features", str(path), "a Parquet file")
    file = open_table(path)
    id_column = next(iter(file.columns)) if id_column is None else id_column
    require_columns(file, [id_column, *encoder.columns[side]])
    made_of = [file.sha256, version, side, id_column, __version__, _FORMAT]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:_DIGEST_DIGITS]
    folder = cache / f"{side}-{digest}"
    if not (folder / _RECORD_FILE).is_file():
        announce(f"encoding {path} once, into {folder}")
        check_output(folder, overwrite=True)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder_beside(folder) as fresh:
                _encode(file, side, spec, encoder, id_column, fresh)
                _keep(fresh, folder)
        except OSError as error:
            raise DataError(folder, error.strerror or str(error)) from None
    return _map(folder, side, len(spec.sparse(side)))


def _keep(fresh: Path, folder: Path) -> None:
    """Give what was encoded its name, if nobody else has done so meanwhile.

    Several servers may start at once, and what bears the name is the same and may be mapped.
    """
    fresh.chmod(0o755)
    try:
        fresh.rename(folder)
    except OSError:
        if not (folder / _RECORD_FILE).is_file():
            raise


def _encode(
    file: TableFile,
    side: Side,
    spec: FeatureSpec,
    encoder: RowEncoder,
    id_column: str,
    folder: Path,
) -> None:
    """Write the arrays of a table."""
    index = IdIndex.build(_read_ids(file, id_column))
    table_rows_max = max((table.num_embeddings for table in spec.tables), default=0)
    id_type = np.int32 if table_rows_max <= 1 << 31 else np.int64
    num_ids, one_id_a_bag = 0, True
    with _ArrayWriter(folder) as arrays:
        for name, array in index.arrays().items():
            arrays.append(name, array)
        arrays.append("offsets", np.zeros(1, dtype=np.int64))
        unknown = encoder.unknown(side)
        for rows in chain(_encoded(file, side, encoder), [] if unknown is None else [unknown]):
            arrays.append("dense_RN", rows.dense_RN.numpy())
            arrays.append("values_L", rows.values_L.numpy().astype(id_type))
            arrays.append("offsets", rows.offsets[1:].numpy() + num_ids)
            if rows.weights_L is not None:
                arrays.append("weights_L", rows.weights_L.numpy())
            num_ids += rows.num_ids
            one_id_a_bag &= bool((rows.offsets.diff() == 1).all())
        if one_id_a_bag:
            arrays.drop("offsets")
    record = {
        "seed": index.seed,
        "arrays": arrays.record,
        "without_unknown": encoder.without_unknown(side),
    }
    replace_text(folder / _RECORD_FILE, json.dumps(record))


def _read_ids(file: TableFile, column: str) -> Array:
    """All ids of the file, as `IdIndex.build` takes them.

    Raises:
        DataError: of another type, missing, too long, or there twice; names the row.
    """
    cells = pl.concat([block.frame[column] for block in file.blocks([column])])
    if cells.dtype in (pl.Categorical, pl.Enum):
        cells = cells.cast(pl.String)
    is_text = cells.dtype == pl.String
    if not (is_text or cells.dtype.is_integer()):
        reason = f"holds {cells.dtype}; expected ids, as whole numbers or texts"
        raise DataError(file.path, reason, column=column)
    missing = cells.is_null() | (cells == "" if is_text else False)
    _refuse(file, column, missing, "no id; every row needs its own")
    twice = ~cells.is_first_distinct()
    _refuse(file, column, twice, "an id that is there before; every row needs its own")
    if not is_text:
        number = cells.cast(pl.Int64, strict=False)
        _refuse(file, column, number.is_null(), "expected at most 63 bits")
        return number_ids(number.to_list())[0]
    unfit = (cells.str.len_bytes() > _TEXT_BYTES_MAX) | cells.str.contains("\0", literal=True)
    allowed = f"expected a text of at most {_TEXT_BYTES_MAX} bytes, none of them zero"
    _refuse(file, column, unfit, allowed)
    itemsize = text_itemsize(int(cells.str.len_bytes().to_numpy().max()))
    pieces = [cells.slice(first, _PIECE) for first in range(0, len(cells), _PIECE)]
    return np.concatenate([text_ids(piece.to_list(), itemsize)[0] for piece in pieces])


def _refuse(file: TableFile, column: str, bad_R: pl.Series, reason: str) -> None:
    """Raise the error of the first bad row."""
    row = bad_R.arg_max() if bad_R.any() else None
    if row is not None:
        raise file.fault(row, column, reason)


def _encoded(file: TableFile, side: Side, encoder: RowEncoder) -> Iterator[SideFeatures]:
    """The rows of a file as the model reads them."""
    for block in file.blocks(list(encoder.columns[side])):
        columns = {name: block.frame[name].to_list() for name in block.frame.columns}
        yield encoder.side(Rows(side, columns, block.frame.height, block.fault))


class _ArrayWriter:
    """Writes arrays piece by piece, a file for each.

    Attributes:
        record: by name, what `_mapped` needs to know.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, ExitStack()
        self._open: dict[str, BinaryIO] = {}
        self.record: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> _ArrayWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def append(self, name: str, piece: Array) -> None:
        """Add rows to the array of that name."""
        if name not in self.record:
            file = (self._folder / f"{name}.bin").open("wb")
            self._open[name] = self._files.enter_context(file)
            self.record[name] = {"dtype": piece.dtype.str, "shape": [0, *piece.shape[1:]]}
        self._open[name].write(np.ascontiguousarray(piece).data)
        self.record[name]["shape"][0] += len(piece)

    def drop(self, name: str) -> None:
        """Forget an array."""
        (self._folder / f"{name}.bin").unlink()
        del self.record[name]


def _mapped(folder: Path, record: Mapping[str, Mapping[str, Any]]) -> dict[str, Array]:
    """The arrays of a folder, read as they are touched.

    Raises:
        DataError: a file has another size than was written.
    """
    arrays: dict[str, Array] = {}
    for name, about in record.items():
        file, dtype, shape = folder / f"{name}.bin", np.dtype(about["dtype"]), tuple(about["shape"])
        size = dtype.itemsize * int(np.prod(shape))
        if file.stat().st_size != size:
            raise DataError(file, f"{file.stat().st_size} bytes of {size}; delete its folder")
        # An empty file cannot be mapped; views of the class are slower to index.
        mapped = np.memmap(file, dtype, "r", shape=shape) if size else np.zeros(shape, dtype)
        arrays[name] = mapped.view(np.ndarray)
    return arrays


def _map(folder: Path, side: Side, num_sparse: int) -> FeatureTable:
    """The table that `_encode` wrote.

    Raises:
        DataError: it is damaged.
    """
    file = folder / _RECORD_FILE
    try:
        record = json.loads(file.read_text())
        arrays = _mapped(folder, record["arrays"])
        index = IdIndex(seed=record["seed"], **{name: arrays.pop(name) for name in ARRAYS})
        return FeatureTable(
            side=side,
            index=index,
            num_sparse=num_sparse,
            without_unknown=tuple(record["without_unknown"]),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(file, f"damaged ({error}); delete its folder") from None
