"""Any data set with just some of its features, or just some of its tasks.

Knows no file format. Legend: B items, R rows, F sparse features of one side, N dense width, L ids,
T tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError, one_of
from tailrank.data.dataset import Batches, Dataset, Split
from tailrank.features import SIDES, FeatureBatch, FeatureSpec, Labels, Side, SideFeatures


def select_features(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same rows with just these features, in the data's order; tables without use are gone.

    Raises:
        ConfigError: a name that is not there, or none.
    """
    spec = _selected_spec(dataset.spec, tuple(names))
    user, item = (_SideSelection(dataset.spec, side, set(names)) for side in SIDES)

    def selected(batch: FeatureBatch, labels: Labels) -> tuple[FeatureBatch, Labels]:
        return replace(batch, user=user(batch.user), item=item(batch.item)), labels

    kept = [feature.name for feature in spec.features]
    again = partial(select_features, names=names)
    return _Selected(dataset, spec, dataset.tasks, str(kept), selected, again)


def select_tasks(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same rows with the labels of just these tasks, in the data's order.

    Raises:
        ConfigError: a name that is not there, or none.
    """
    for name in names:
        if name not in dataset.tasks:
            raise ConfigError("--tasks", name, one_of(dataset.tasks, name))
    if not names:
        raise ConfigError("--tasks", "", f"at least one of {', '.join(dataset.tasks)}")
    kept = tuple(name for name in dataset.tasks if name in names)
    columns = [dataset.tasks.index(task) for task in kept]

    def selected(batch: FeatureBatch, labels: Labels) -> tuple[FeatureBatch, Labels]:
        mask_BT = None if labels.mask_BT is None else labels.mask_BT[:, columns]
        return batch, replace(labels, values_BT=labels.values_BT[:, columns], mask_BT=mask_BT)

    again = partial(select_tasks, names=names)
    return _Selected(dataset, dataset.spec, kept, str(kept), selected, again)


class _Selected:
    """A data set with some of its columns; see `data.dataset.Dataset`.

    Args:
        dataset: has them all.
        spec: of the features that stay.
        tasks: that stay.
        kept: what stays, in words; makes the fingerprint.
        select: takes them out of a batch.
        again: the same of another data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: FeatureSpec,
        tasks: tuple[str, ...],
        kept: str,
        select: Callable[[FeatureBatch, Labels], tuple[FeatureBatch, Labels]],
        again: Callable[[Dataset], Dataset],
    ) -> None:
        self._dataset, self._select, self._again = dataset, select, again
        self.name, self.spec, self.tasks = dataset.name, spec, tasks
        self.fingerprint = hashlib.sha256(f"{dataset.fingerprint} {kept}".encode()).hexdigest()
        self.rows_fingerprint = dataset.rows_fingerprint
        self.fitted_fingerprint = dataset.fitted_fingerprint

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Item rows of these splits together."""
        return self._dataset.num_rows(splits)

    def save_fitted(self, folder: Path) -> None:
        """Write what was fitted, for all columns: the file is the data's, not the selection's."""
        self._dataset.save_fitted(folder)

    def for_refit(self) -> Dataset:
        """The same columns of the data fitted on train + validation."""
        return self._again(self._dataset.for_refit())

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`."""
        for batch, labels in self._dataset.batches(
            splits, batch_items, shuffle_seed=shuffle_seed, first_batch=first_batch
        ):
            yield self._select(batch, labels)


class _SideSelection:
    """Which columns of one side stay."""

    def __init__(self, spec: FeatureSpec, side: Side, names: set[str]) -> None:
        self._keep_F = torch.tensor([f.name in names for f in spec.sparse(side)], dtype=torch.bool)
        dense = [f for f in spec.features if f.side == side and f.kind == "dense"]
        self._keep_N = torch.tensor(
            [feature.name in names for feature in dense for _ in range(feature.width)],
            dtype=torch.bool,
        )

    def __call__(self, side: SideFeatures) -> SideFeatures:
        """The side with just these columns."""
        values_L, offsets, weights_L = side.values_L, side.offsets, side.weights_L
        if not bool(self._keep_F.all()):
            length_RF = offsets.diff().view(side.num_rows, len(self._keep_F))
            keep_L = torch.repeat_interleave(
                self._keep_F.repeat(side.num_rows), length_RF.flatten()
            )
            values_L = values_L[keep_L]
            weights_L = None if weights_L is None else weights_L[keep_L]
            offsets = _offsets(length_RF[:, self._keep_F])
        dense_RN = side.dense_RN
        return SideFeatures(
            dense_RN=dense_RN if bool(self._keep_N.all()) else dense_RN[:, self._keep_N],
            values_L=values_L,
            offsets=offsets,
            weights_L=weights_L,
        )


def _offsets(length_RF: Tensor) -> Tensor:
    """Positions of bags of these lengths."""
    offsets = torch.zeros(length_RF.numel() + 1, dtype=torch.int64)
    torch.cumsum(length_RF.flatten(), 0, out=offsets[1:])
    return offsets


def _selected_spec(spec: FeatureSpec, names: tuple[str, ...]) -> FeatureSpec:
    """The features of these names and the tables that they read."""
    known = [feature.name for feature in spec.features]
    for name in names:
        if name not in known:
            raise ConfigError("--features", name, one_of(known, name))
    if not names:
        raise ConfigError("--features", "", f"at least one of {', '.join(known)}")
    features = tuple(feature for feature in spec.features if feature.name in names)
    used = {feature.table for feature in features}
    return FeatureSpec(
        features=features, tables=tuple(table for table in spec.tables if table.name in used)
    )
