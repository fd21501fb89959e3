"""Logistic regression on hashed one-hot features of the Criteo log: the bar a network must clear.

Each category and each bucket of an integer, 2 + floor(ln(x) ** 2), is one column of a hashed
one-hot row (source of the buckets: the winning entry of the Criteo Kaggle contest, 3 Idiots).
Fitted by L-BFGS with an L2 penalty. Knows nothing of tailrank but its reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from tailrank.data.criteo_file import NUM_VALUES, CriteoFile

_COLUMN_BITS = 18
_NUM_COLUMNS = 1 << _COLUMN_BITS
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing, Knuth, TAOCP 6.4


@dataclass(frozen=True, slots=True)
class HashedRows:
    """One-hot rows and their labels, in time order."""

    features: csr_matrix
    labels: np.ndarray


def read_hashed(path: Path) -> HashedRows:
    """All rows of a Criteo file."""
    columns, labels = [], []
    field = np.arange(NUM_VALUES, dtype=np.uint64)
    for rows in CriteoFile(path, integer_buckets=True).blocks():
        # The value with the bit above it that says missing, and the field where it was of old.
        values = (rows.key_BF & np.uint64((1 << 33) - 1)) + (field << np.uint64(40))
        columns.append(((values + np.uint64(1)) * _MULTIPLIER) >> np.uint64(64 - _COLUMN_BITS))
        labels.append(rows.label_B)
    column = np.concatenate(columns).astype(np.int64)
    indptr = np.arange(len(column) + 1) * column.shape[1]
    shape = (len(column), _NUM_COLUMNS)
    features = csr_matrix((np.ones(column.size), column.reshape(-1), indptr), shape=shape)
    features.sum_duplicates()
    return HashedRows(features, np.concatenate(labels).astype(np.float64))


def fit_logistic(rows: HashedRows, first: int, last: int, penalty: float) -> np.ndarray:
    """Weights, the intercept last, of the rows [first, last); `penalty` is on the sum of losses."""
    x, y = rows.features[first:last], rows.labels[first:last]
    transposed = x.T.tocsr()

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = x @ weights[:-1] + weights[-1]
        loss = np.logaddexp(0.0, score).sum() - y @ score
        loss += 0.5 * penalty * weights[:-1] @ weights[:-1]
        error = expit(score) - y
        gradient = np.append(transposed @ error + penalty * weights[:-1], error.sum())
        return float(loss), gradient

    start = np.zeros(_NUM_COLUMNS + 1)
    options = {"maxiter": 200, "ftol": 1e-9}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x


def predict(rows: HashedRows, first: int, last: int, weights: np.ndarray) -> np.ndarray:
    """Probabilities of the rows [first, last)."""
    return expit(rows.features[first:last] @ weights[:-1] + weights[-1])
