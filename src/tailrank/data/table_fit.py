"""What is fitted on the training rows of a table: known categories, spreads, lengths of lists.

It is kept beside the model, so that other rows are encoded alike. Id 0 is *unknown* (rare or never
seen), id 1 is *missing*, known categories follow from 2 by falling count, then by text.

Legend: B rows, L ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tailrank.core.errors import DataError
from tailrank.data.jagged import Ints
from tailrank.data.schema import FeatureColumn, Schema
from tailrank.data.table_codes import Codes
from tailrank.data.table_columns import TableColumns, dense_features
from tailrank.data.vocabulary import FIRST_KNOWN_ID, MISSING_ID
from tailrank.features import SIDES

FITTED_FILE = "vocabulary.safetensors"
_SPREAD_MIN = 1e-12  # of the mean; in double precision, equal values seem to differ by less


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableFit:
    """What was fitted.

    Args:
        known: by table, its known texts in order of id from 2; tables with a vocabulary only.
        spread: by feature to standardise, mean and standard deviation.
        pooling_factor: by feature of categories, mean ids a row.
    """

    known: dict[str, pl.Series]
    spread: dict[str, tuple[float, float]]
    pooling_factor: dict[str, float]

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays by name."""
        found: dict[str, NDArray[np.generic]] = {}
        for table, texts in self.known.items():
            encoded = "".join(texts.to_list()).encode()
            ends = texts.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()
            found[f"table/{table}/utf8"] = np.frombuffer(encoded, dtype=np.uint8)
            found[f"table/{table}/offsets"] = np.r_[np.zeros(1, dtype=np.int64), ends]
        for name, pair in self.spread.items():
            found[f"feature/{name}/mean_std"] = np.array(pair, dtype=np.float64)
        for name, factor in self.pooling_factor.items():
            found[f"feature/{name}/pooling_factor"] = np.array([factor], dtype=np.float64)
        return found

    @property
    def fingerprint(self) -> str:
        """Hex digest of all of it."""
        digest = hashlib.sha256()
        for name, array in sorted(self.tensors().items()):
            digest.update(f"{name} {array.size} ".encode() + array.tobytes())
        return digest.hexdigest()

    def save(self, file: Path) -> None:
        """Write it as safetensors."""
        save_file(self.tensors(), file)


class NumberScale:
    """What training makes of the numbers of one side.

    Args:
        features: its dense features, in the order of their columns.
        fitted: means and deviations of those to standardise.
    """

    def __init__(self, features: Sequence[FeatureColumn], fitted: TableFit) -> None:
        self._log_N = np.array([f.transform == "log1p" for f in features], dtype=np.bool_)
        spread = [fitted.spread.get(feature.name, (0.0, 1.0)) for feature in features]
        self._mean_N = np.array([mean for mean, _ in spread])
        self._std_N = np.array([std for _, std in spread])
        self.width = len(features)

    def __call__(self, raw_RN: NDArray[np.float64]) -> NDArray[np.float32]:
        """Numbers transformed; those that are missing (NaN) become 0."""
        dense_RN = np.array(raw_RN)
        logs_RN = dense_RN[:, self._log_N]
        dense_RN[:, self._log_N] = np.sign(logs_RN) * np.log1p(np.abs(logs_RN))
        dense_RN = (dense_RN - self._mean_N) / self._std_N
        number_RN: NDArray[np.float32] = np.nan_to_num(dense_RN, nan=0.0).astype(np.float32)
        return number_RN


def load_fit(file: Path, schema: Schema) -> TableFit:
    """Read what `TableFit.save` wrote for this schema.

    Raises:
        DataError: missing, damaged, or of another schema.
    """
    try:
        stored = load_file(file)
        known = {
            table: _split(stored[f"table/{table}/utf8"], stored[f"table/{table}/offsets"])
            for table, feature in schema.tables.items()
            if feature.encode == "vocabulary"
        }
        spread, pooling = {}, {}
        for feature in schema.features:
            if feature.transform == "standardise":
                mean, std = stored[f"feature/{feature.name}/mean_std"].tolist()
                spread[feature.name] = (mean, std)
            if feature.kind != "dense":
                factor = stored[f"feature/{feature.name}/pooling_factor"]
                pooling[feature.name] = float(factor[0])
    except FileNotFoundError:
        raise DataError(file, "no vocabulary here") from None
    except KeyError as error:
        raise DataError(file, f"holds no {error.args[0]}, which the schema needs") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(file, f"damaged vocabulary: {error}") from None
    return TableFit(known=known, spread=spread, pooling_factor=pooling)


def fit(
    columns: TableColumns,
    schema: Schema,
    blocks: Callable[[], Iterable[Ints]],
    min_count: int,
) -> TableFit:
    """Fit on some rows.

    Args:
        columns: all rows.
        schema: what they mean.
        blocks: the numbers of the rows to fit on, in pieces; called more than once.
        min_count: where a feature does not say: categories seen fewer times are *unknown*.
    """
    counts = {
        table: np.zeros(FIRST_KNOWN_ID + len(texts), dtype=np.int64)
        for table, texts in columns.texts.items()
    }
    num_codes = dict.fromkeys(columns.codes, 0)
    num_rows = 0
    for row_B in blocks():
        num_rows += len(row_B)
        for feature in schema.features:
            if feature.kind == "dense":
                continue
            code_L, _ = columns.codes[feature.name].take(row_B)
            num_codes[feature.name] += len(code_L)
            if feature.table_name in counts:
                np.add.at(counts[feature.table_name], code_L, 1)
    known = {}
    for table, feature in schema.tables.items():
        if table in counts:
            least = min_count if feature.min_count is None else feature.min_count
            known[table] = _known(columns.texts[table], counts[table][FIRST_KNOWN_ID:], least)
    return TableFit(
        known=known,
        spread=_spreads(columns, schema, blocks),
        pooling_factor={name: round(count / num_rows, 2) for name, count in num_codes.items()},
    )


def id_of_code(texts: pl.Series, known: pl.Series) -> Codes:
    """The id of each code: what a vocabulary makes of the texts of a file."""
    ids = known.alias("text").to_frame().with_row_index("id", FIRST_KNOWN_ID)
    found = texts.to_frame().with_row_index("code", FIRST_KNOWN_ID).join(ids, on="text")
    id_V = np.zeros(FIRST_KNOWN_ID + len(texts), dtype=np.int32)
    id_V[MISSING_ID] = MISSING_ID
    id_V[found["code"].to_numpy()] = found["id"].to_numpy()
    return id_V


def _known(texts: pl.Series, counts: Ints, min_count: int) -> pl.Series:
    """Texts seen often enough, by falling count, then by text."""
    frame = pl.DataFrame({"text": texts, "count": counts}).filter(pl.col("count") >= min_count)
    return frame.sort(["count", "text"], descending=[True, False])["text"]


def _spreads(
    columns: TableColumns, schema: Schema, blocks: Callable[[], Iterable[Ints]]
) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each feature to standardise, in two passes for precision."""
    spread: dict[str, tuple[float, float]] = {}
    for side in SIDES:
        dense, features = columns.dense[side], dense_features(schema, side)
        if not any(feature.transform == "standardise" for feature in features):
            continue
        count_N, mean_N = np.zeros(len(features)), np.zeros(len(features))
        square_N = np.zeros(len(features))
        for row_B in blocks():
            dense_BN = np.asarray(dense[row_B])
            count_N += (~np.isnan(dense_BN)).sum(axis=0)
            mean_N += np.nansum(dense_BN, axis=0)
        mean_N /= np.maximum(count_N, 1)
        for row_B in blocks():
            square_N += np.nansum((dense[row_B] - mean_N) ** 2, axis=0)
        std_N = np.sqrt(square_N / np.maximum(count_N, 1))
        for feature, mean, std in zip(features, mean_N, std_N, strict=True):
            if feature.transform == "standardise":
                # A column without spread says nothing: another value in other rows must not be
                # divided by the rounding error of its mean.
                has_spread = std > _SPREAD_MIN * abs(mean)
                spread[feature.name] = (float(mean), float(std) if has_spread else 1.0)
    return spread


def _split(utf8: NDArray[np.uint8], offsets: Ints) -> pl.Series:
    """Texts from their bytes."""
    content = utf8.tobytes()
    ends = offsets.tolist()
    texts = [content[first:end].decode() for first, end in pairwise(ends)]
    return pl.Series("text", texts, dtype=pl.String)
