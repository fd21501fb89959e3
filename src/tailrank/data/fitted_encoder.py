"""The encoder that belongs to a trained model: raw values as in its training files.

What was fitted on the training rows lies in the model's folder. Every text is looked up in a
dictionary, about a tenth of a microsecond each; a dictionary takes some 100 bytes for each known
category.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import DataError
from tailrank.data import adult, criteo
from tailrank.data.adult_file import MISSING
from tailrank.data.criteo_file import NUM_CATEGORIES, NUM_DENSE, buckets_of
from tailrank.data.jagged import Ints
from tailrank.data.row_encoder import (
    REFUSED,
    CategoryColumn,
    Floats,
    IdsOf,
    NumberColumns,
    RowEncoder,
    Values,
    ids_below,
    row_ids,
)
from tailrank.data.schema import FeatureColumn, Schema
from tailrank.data.table import fitted_digest, load_fitted
from tailrank.data.table_codes import hash_code
from tailrank.data.table_columns import dense_features
from tailrank.data.table_fit import NumberScale, TableFit
from tailrank.data.vocabulary import FIRST_KNOWN_ID, MISSING_ID, UNKNOWN_ID, Vocabulary
from tailrank.features import SIDES, FeatureSpec, Side

Sources = dict[str, CategoryColumn | NumberColumns]
_A_CATEGORY = "a text or a whole number, or null where it is missing"
# Categories that a description of the model shows.
_EXAMPLES = 1000
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{1,8}")


def open_encoder(folder: Path, spec: FeatureSpec, training: Mapping[str, Any]) -> RowEncoder:
    """How rows become what the model in `folder` reads.

    Args:
        folder: of the artifact.
        spec: its features.
        training: what it remembers of its training. Of data whose files hold nothing but table
            rows (movielens, ncf, amazon, synthetic), requests hold table rows as well.

    Raises:
        DataError: what was fitted is missing, damaged, or another model's.
    """
    kind = training.get("data")
    if kind == "table":
        schema, fitted = load_fitted(folder)
        digest = fitted_digest(schema, fitted)
        encoder = _table_encoder(spec, schema, fitted)
    elif kind == "criteo":
        vocabulary = Vocabulary.load(folder / criteo.VOCABULARY_FILE)
        digest, encoder = vocabulary.fingerprint, _criteo_encoder(spec, vocabulary)
    elif kind == "adult":
        fit = adult.AdultFit.load(folder / adult.FITTED_FILE)
        digest, encoder = fit.fingerprint, _adult_encoder(spec, fit)
    else:
        # MovieLens has every id of a user's bags weigh one over their number.
        return row_ids(spec, frozenset({"user"}) if kind == "movielens" else frozenset())
    if digest != training.get("fitted_fingerprint"):
        raise DataError(folder, "holds a vocabulary that is not this model's")
    return encoder


def _table_encoder(spec: FeatureSpec, schema: Schema, fitted: TableFit) -> RowEncoder:
    """Columns as in the file that the model was trained on."""
    names = {feature.name for feature in spec.features}
    sources: Sources = {}
    indices = {
        table: text_index(texts.to_list(), (None, "")) for table, texts in fitted.known.items()
    }
    for feature in schema.features:
        if feature.name not in names:
            continue
        if feature.kind == "dense":
            sources[feature.name] = NumberColumns(columns=(feature.source,), optional=True)
            continue
        ids, allowed = _category_ids(feature, indices)
        sources[feature.name] = CategoryColumn(
            column=feature.source,
            ids=ids,
            allowed=allowed,
            takes_arrays=feature.encode == "id",
            # Training saw lists, unless there was one id in every row: of those that are cut out of
            # texts an absent one is empty, however many there are on average.
            is_list=feature.separator is not None or fitted.pooling_factor[feature.name] != 1.0,
            separator=feature.separator,
            max_length=feature.max_length,
            num_values=feature.buckets if feature.encode == "id" else None,
            known=_examples(feature, fitted),
            mean_length=fitted.pooling_factor[feature.name],
            # Only a vocabulary has rare ones for it to learn from.
            unknown_row=UNKNOWN_ID if feature.encode == "vocabulary" else MISSING_ID,
        )
    scale: dict[Side, NumberScale] = {}
    for side in SIDES:
        dense = [feature for feature in dense_features(schema, side) if feature.name in names]
        scale[side] = NumberScale(dense, fitted)
    return RowEncoder(spec, sources, scale)


def _category_ids(
    feature: FeatureColumn, indices: Mapping[str, dict[object, int]]
) -> tuple[IdsOf, str]:
    """How a feature's values become table rows, and which are allowed."""
    buckets = feature.buckets or 1
    if feature.encode == "id":
        return (
            ids_below(buckets, FIRST_KNOWN_ID, MISSING_ID),
            f"whole numbers 0 to {buckets - 1}, or null where one is missing",
        )
    if feature.encode == "vocabulary":
        return text_ids(indices[feature.table_name]), _A_CATEGORY

    def hashed(values: Values) -> Ints:
        texts = [text_of(value) for value in values]
        return np.array([_hash_row(text, buckets) for text in texts], dtype=np.int64)

    return hashed, _A_CATEGORY


def _examples(feature: FeatureColumn, fitted: TableFit) -> list[str]:
    """The most frequent categories of a feature, as far as they were kept."""
    if feature.encode != "vocabulary":
        return []
    return fitted.known[feature.table_name].head(_EXAMPLES).to_list()


def _hash_row(text: object, buckets: int) -> int:
    if isinstance(text, str):
        return hash_code(text, buckets) if text else MISSING_ID
    return MISSING_ID if text is None else REFUSED


def text_index(known: list[str], missing: tuple[object, ...]) -> dict[object, int]:
    """Table rows of known texts, and of all that stands for a missing one."""
    index: dict[object, int] = {text: row for row, text in enumerate(known, FIRST_KNOWN_ID)}
    return index | dict.fromkeys(missing, MISSING_ID)


def text_ids(index: Mapping[object, int]) -> IdsOf:
    """Values as texts, looked up; those that are not known are *unknown*."""

    def ids(values: Values) -> Ints:
        if not set(map(type, values)) <= {str}:
            values = [text_of(value) for value in values]
        found = index.get
        return np.fromiter((found(value, UNKNOWN_ID) for value in values), np.int64, len(values))

    def checked(values: Values) -> Ints:
        try:
            return ids(values)
        except TypeError:  # a list or an object has no hash
            return np.array([one(value) for value in values], dtype=np.int64)

    def one(value: object) -> int:
        text = text_of(value)
        known = text is None or isinstance(text, str)
        return index.get(text, UNKNOWN_ID) if known else REFUSED

    return checked


def text_of(value: object) -> object:
    """A category as a text, as in files; None where missing; a list where it can be none."""
    if value is None or type(value) is str:
        return value
    if type(value) is bool:
        return str(value).lower()
    if type(value) is float and math.isfinite(value) and value == int(value):
        value = int(value)  # whole numbers come as floats from columns with missing ones
    return str(value) if type(value) is int else []


def _criteo_encoder(spec: FeatureSpec, vocabulary: Vocabulary) -> RowEncoder:
    """Columns `integer_1` to `integer_13` and `category_1` to `category_26`."""
    integers = tuple(f"integer_{number}" for number in range(1, NUM_DENSE + 1))
    sources: Sources = {"integers": NumberColumns(columns=integers, width=NUM_DENSE, optional=True)}
    for place, known in enumerate(vocabulary.known):
        if place < NUM_CATEGORIES:
            name = f"category_{place + 1}"
            allowed = "up to 8 hexadecimal digits, or null where it is missing"
            texts = [f"{value:08x}" for value in known]
            ids = _hexadecimal_ids(text_index(texts, (None, "")))
            sources[name] = CategoryColumn(
                column=name,
                ids=ids,
                allowed=allowed,
                known=texts[:_EXAMPLES],
                unknown_row=UNKNOWN_ID,
            )
        else:
            number = place - NUM_CATEGORIES
            index = {int(value): row for row, value in enumerate(known, FIRST_KNOWN_ID)}
            sources[f"bucket_{number + 1}"] = CategoryColumn(
                column=integers[number],
                ids=_bucket_ids(index),
                allowed="a whole number of up to 18 digits, or null where it is missing",
                unknown_row=UNKNOWN_ID,
            )

    def scale(raw_RN: Floats) -> NDArray[np.float32]:
        return np.log1p(np.maximum(np.nan_to_num(raw_RN, nan=0.0), 0.0)).astype(np.float32)

    return RowEncoder(spec, sources, {"item": scale})


def _hexadecimal_ids(index: Mapping[object, int]) -> IdsOf:
    def one(value: object) -> int:
        if value is not None and (type(value) is not str or not _HEXADECIMAL.fullmatch(value)):
            return MISSING_ID if value == "" else REFUSED
        row = index.get(value)
        if row is None and isinstance(value, str):
            return index.get(f"{int(value, 16):08x}", UNKNOWN_ID)
        return UNKNOWN_ID if row is None else row

    return lambda values: np.array([one(value) for value in values], dtype=np.int64)


def _bucket_ids(index: Mapping[int, int]) -> IdsOf:
    def ids(values: Values) -> Ints:
        whole_L = [value if type(value) is int and abs(value) < 10**18 else 0 for value in values]
        bucket_L = buckets_of(np.array(whole_L, dtype=np.int64).reshape(1, -1))[0].tolist()
        return np.array([one(*pair) for pair in zip(values, bucket_L, strict=True)], dtype=np.int64)

    def one(value: object, bucket: int) -> int:
        if value is None:
            return MISSING_ID
        sound = type(value) is int and abs(value) < 10**18
        return index.get(bucket, UNKNOWN_ID) if sound else REFUSED

    return ids


def _adult_encoder(spec: FeatureSpec, fit: adult.AdultFit) -> RowEncoder:
    """Columns named as published; a number is read twice, as such and as a category."""
    sources: Sources = {
        adult.feature_of_number(name): NumberColumns(columns=(name,)) for name in adult.NUMBERS
    }
    for name in adult.CATEGORIES:
        index = text_index(fit.known[name], (None, MISSING))
        sources[adult.feature_of_category(name)] = CategoryColumn(
            column=name,
            ids=text_ids(index),
            allowed=_A_CATEGORY,
            known=fit.known[name][:_EXAMPLES],
            unknown_row=UNKNOWN_ID,
        )
    numbers = [
        name
        for name in adult.NUMBERS
        if adult.feature_of_number(name) in {feature.name for feature in spec.features}
    ]
    mean_N = np.array([fit.mean[name] for name in numbers])
    std_N = np.array([fit.std[name] for name in numbers])
    log_N = np.array([name in adult.WITH_LOGARITHM for name in numbers], dtype=np.bool_)

    def scale(raw_RN: Floats) -> NDArray[np.float32]:
        raw_RN[:, log_N] = np.log1p(np.maximum(raw_RN[:, log_N], 0.0))
        number_RN: NDArray[np.float32] = ((raw_RN - mean_N) / std_N).astype(np.float32)
        return number_RN

    return RowEncoder(spec, sources, {"item": scale})
