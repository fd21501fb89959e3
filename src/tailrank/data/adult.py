"""The UCI Adult census as a data set of two tasks: income above 50,000, and never married.

`adult.test` is the test part; a seeded seventh of `adult.data` is validation, and a refit trains on
all of `adult.data`. Every feature is the item's: a person comes alone. Knows no model.

Left out of the features: `marital-status` and `relationship`, for they say whether a person was
never married; `fnlwgt`, which says how many people a row stands for and nothing about them. It is
no sample weight either: published figures count every row as one.

Each number is there twice, standardised and as a category of its own value: a capital gain of 7,688
means another thing than one of 7,443. Id 0 of a category is *unknown* (rare or never seen), id 1 is
*missing*, known values follow by falling count.

Legend: B rows, N dense features, F categories, T tasks.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import replace_text
from tailrank.data.adult_file import MISSING, TASKS, AdultRows, read_adult
from tailrank.data.dataset import Batches, Split, all_item_batch, contiguous_range
from tailrank.data.jagged import Ints
from tailrank.data.permutation import Permutation
from tailrank.data.vocabulary import FIRST_KNOWN_ID, MISSING_ID, UNKNOWN_ID
from tailrank.features import Feature, FeatureSpec, Labels, TableSpec

FITTED_FILE = "adult.json"
WORDS = ("workclass", "education", "occupation", "race", "sex", "native-country")
NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
_WITHOUT_TABLE = "education-num"  # `education` has a word for each of its values
WITH_LOGARITHM = ("capital-gain", "capital-loss")  # mostly 0, else thousands
CATEGORIES = (*WORDS, *(name for name in NUMBERS if name != _WITHOUT_TABLE))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdultConfig:
    """How to read the census.

    Args:
        path: folder with `adult.data` and `adult.test` as published.
        min_count: categories seen fewer times in the rows used for fitting become *unknown*.
        embedding_dim: dim of every table.
        split_seed: which seventh of `adult.data` is validation.
    """

    path: Path
    min_count: int = 2
    embedding_dim: int = 16
    split_seed: int = 0

    def __post_init__(self) -> None:
        for field in ("min_count", "embedding_dim"):
            if getattr(self, field) < 1:
                raise ConfigError(f"adult.{field}", getattr(self, field), "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdultFit:
    """What was fitted on training rows.

    Args:
        known: of each category its known values, in the order of their ids.
        mean: of each number, after its logarithm where it has one.
        std: likewise, above 0.
    """

    known: dict[str, list[str]]
    mean: dict[str, float]
    std: dict[str, float]

    @classmethod
    def of(cls, rows: AdultRows, row_B: Ints, min_count: int) -> AdultFit:
        """Fit on these rows."""
        known = {}
        for name in CATEGORIES:
            value_B = _values(rows, name)
            counts = Counter(value_B[row] for row in row_B.tolist())
            often = [value for value, n in counts.items() if n >= min_count and value != MISSING]
            # The sort is stable: values of equal count stay in their own order.
            known[name] = sorted(sorted(often), key=counts.__getitem__, reverse=True)
        scales = {name: _mean_and_deviation(_number(rows, name)[row_B]) for name in NUMBERS}
        return cls(
            known=known,
            mean={name: mean for name, (mean, _) in scales.items()},
            std={name: deviation for name, (_, deviation) in scales.items()},
        )

    @property
    def fingerprint(self) -> str:
        """Hex digest of all of it."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def _text(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        replace_text(file, self._text() + "\n")

    @classmethod
    def load(cls, file: Path) -> AdultFit:
        """Read what `save` wrote.

        Raises:
            DataError: missing or damaged file.
        """
        try:
            fit = cls(**json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(file, "nothing fitted on the census here") from None
        except (OSError, ValueError, TypeError) as error:
            raise DataError(file, f"damaged: {error}") from None
        maps = (fit.known, CATEGORIES), (fit.mean, NUMBERS), (fit.std, NUMBERS)
        if not all(isinstance(found, dict) and set(found) == set(names) for found, names in maps):
            raise DataError(file, "damaged: other features than the census has")
        for name in CATEGORIES:
            known = fit.known[name]
            texts = isinstance(known, list) and all(isinstance(value, str) for value in known)
            if not texts or len(set(known)) < len(known):
                reason = "damaged: expected a list of different words"
                raise DataError(file, reason, column=name, value=str(known))
        for name in NUMBERS:
            scale = (fit.mean[name], fit.std[name])
            numbers = all(isinstance(n, float) and math.isfinite(n) for n in scale)
            if not numbers or scale[1] <= 0.0:
                reason = "damaged: expected a mean, and a deviation above 0"
                raise DataError(file, reason, column=name, value=str(scale))
        return fit


class AdultDataset:
    """The census; see `data.dataset.Dataset`.

    Args:
        config: how to read it.
        fitted: of a model that is already trained; None: fitted on train.

    Raises:
        DataError: a file is missing or not in the format; names line, column and value.
    """

    name = "adult"
    tasks: tuple[str, ...] = TASKS

    def __init__(self, config: AdultConfig, fitted: AdultFit | None = None) -> None:
        self.config, self._given = config, fitted is not None
        self._rows = rows = read_adult(config.path)
        learned, num_rows = rows.num_learned, len(rows.label_BT)
        validation = learned // 7
        if not validation:
            reason = f"{learned} rows; expected at least 7 to choose by a seventh of them"
            raise DataError(config.path / "adult.data", reason)
        drawn = np.random.default_rng(config.split_seed).permutation(learned)
        train_B, validation_B = np.sort(drawn[validation:]), np.sort(drawn[:validation])
        self._row_B = np.concatenate([train_B, validation_B, np.arange(learned, num_rows)])
        self._bounds: dict[Split, tuple[int, int]] = {
            "train": (0, learned - validation),
            "validation": (learned - validation, learned),
            "test": (learned, num_rows),
        }
        text = f"{rows.sha256} split_seed={config.split_seed}"
        self.rows_fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self._encode(fitted or AdultFit.of(rows, train_B, config.min_count))

    def _encode(self, fit: AdultFit) -> None:
        """Encode with what was fitted from now on."""
        self.fit = fit
        self._id_BF = np.stack([_ids(self._rows, name, fit) for name in CATEGORIES], axis=1)
        self._dense_BN = np.stack(
            [(_number(self._rows, name) - fit.mean[name]) / fit.std[name] for name in NUMBERS],
            axis=1,
        ).astype(np.float32)
        self.spec = _spec(fit, self.config.embedding_dim)
        self.fitted_fingerprint: str | None = fit.fingerprint
        text = f"{self.rows_fingerprint} {fit.fingerprint} {self.config.embedding_dim}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of these splits together."""
        return len(contiguous_range(self._bounds, splits))

    def save_fitted(self, folder: Path) -> None:
        """Write categories, means and deviations."""
        self.fit.save(folder / FITTED_FILE)

    def for_refit(self) -> AdultDataset:
        """The same rows with everything fitted on train + validation; what was given stays."""
        refitted = copy.copy(self)
        if not self._given:
            both_B = self._row_B[: self._bounds["validation"][1]]
            refitted._encode(AdultFit.of(self._rows, both_B, self.config.min_count))
        return refitted

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`; without a shuffle, each split is in file order."""
        places = contiguous_range(self._bounds, splits)
        order = None if shuffle_seed is None else Permutation(len(places), shuffle_seed)
        known_BT = self._rows.known_BT
        for first in range(first_batch * batch_items, len(places), batch_items):
            last = min(first + batch_items, len(places))
            place_B = np.arange(first, last) if order is None else order.range(first, last)
            row_B = self._row_B[places.start + place_B]
            batch = all_item_batch(
                torch.from_numpy(self._dense_BN[row_B]), torch.from_numpy(self._id_BF[row_B])
            )
            yield (
                batch,
                Labels(
                    values_BT=torch.from_numpy(self._rows.label_BT[row_B]),
                    mask_BT=None if known_BT.all() else torch.from_numpy(known_BT[row_B]),
                ),
            )


def _values(rows: AdultRows, name: str) -> list[str]:
    """A category's value in every row."""
    return rows.text[name] if name in rows.text else list(map(str, rows.number[name].tolist()))


def _number(rows: AdultRows, name: str) -> NDArray[np.float64]:
    """A number in every row, before it is standardised."""
    value_B = rows.number[name].astype(np.float64)
    return np.log1p(value_B) if name in WITH_LOGARITHM else value_B


def _mean_and_deviation(value_B: NDArray[np.float64]) -> tuple[float, float]:
    """What standardises these values; a number that never varies says nothing and becomes 0."""
    if value_B.min() == value_B.max():  # rounding would leave a tiny deviation
        return float(value_B[0]), 1.0
    return float(value_B.mean()), float(value_B.std())


def _ids(rows: AdultRows, name: str, fit: AdultFit) -> Ints:
    """A category's id in every row."""
    id_of = {value: place for place, value in enumerate(fit.known[name], start=FIRST_KNOWN_ID)}
    id_of[MISSING] = MISSING_ID
    return np.array([id_of.get(value, UNKNOWN_ID) for value in _values(rows, name)], dtype=np.int64)


def _spec(fit: AdultFit, embedding_dim: int) -> FeatureSpec:
    """Features and tables."""
    dense = [Feature(name=feature_of_number(name), side="item", kind="dense") for name in NUMBERS]
    names = [feature_of_category(name) for name in CATEGORIES]
    bags = [Feature(name=name, side="item", kind="bag", table=name) for name in names]
    tables = [
        TableSpec(
            name=name,
            num_embeddings=FIRST_KNOWN_ID + len(fit.known[category]),
            embedding_dim=embedding_dim,
        )
        for name, category in zip(names, CATEGORIES, strict=True)
    ]
    return FeatureSpec(features=(*dense, *bags), tables=tuple(tables))


def feature_of_number(column: str) -> str:
    """The feature that holds a published column, standardised."""
    return column.replace("-", "_")


def feature_of_category(column: str) -> str:
    """The feature that holds a published column as a category."""
    return column.replace("-", "_") + ("" if column in WORDS else "_value")
