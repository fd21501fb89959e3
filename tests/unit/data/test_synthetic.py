"""The synthetic log: seeded, row-addressable, Zipf, and with labels that follow the teacher."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import FeatureBatch, Labels

CONFIG = SyntheticConfig(rows=7 * 8 * 100, seed=3)


def everything(dataset: SyntheticDataset, batch_items: int, **how: int) -> tuple:
    pairs = list(dataset.batches(("train",), batch_items, **how))
    labels = torch.cat([labels.values_BT for _, labels in pairs])
    return FeatureBatch.concat([batch for batch, _ in pairs]), labels


def test_batches_fit_the_spec_and_users_share_items() -> None:
    dataset = SyntheticDataset(CONFIG)
    for batch, labels in dataset.batches(("train", "validation", "test"), 300, shuffle_seed=1):
        batch.check(dataset.spec)
        assert labels.values_BT.shape == (batch.num_items, 1)
        assert batch.num_users <= batch.num_items // 8 + 2
    assert dataset.num_rows(("train",)) == 5 * 8 * 100
    assert dataset.num_rows(("train", "validation", "test")) == CONFIG.rows


def test_rows_do_not_depend_on_the_batch_size() -> None:
    dataset = SyntheticDataset(CONFIG)
    (small, small_labels), (large, large_labels) = (
        everything(dataset, 104),
        everything(dataset, 999),
    )
    assert torch.equal(small_labels, large_labels)
    assert torch.equal(small.item.values_L, large.item.values_L)
    assert torch.equal(small.item.dense_RN, large.item.dense_RN)


def test_shuffled_rows_are_the_same_rows_and_first_batch_continues() -> None:
    dataset = SyntheticDataset(CONFIG)
    plain, plain_labels = everything(dataset, 256)
    mixed, mixed_labels = everything(dataset, 256, shuffle_seed=7)
    assert not torch.equal(plain_labels, mixed_labels)
    assert plain_labels.sum() == mixed_labels.sum()
    assert torch.equal(plain.item.dense_RN.sort(0).values, mixed.item.dense_RN.sort(0).values)
    rest, rest_labels = everything(dataset, 256, shuffle_seed=7, first_batch=3)
    assert torch.equal(rest_labels, mixed_labels[3 * 256 :])
    assert torch.equal(rest.item.dense_RN, mixed.item.dense_RN[3 * 256 :])


def test_seed_decides_everything() -> None:
    first, again = SyntheticDataset(CONFIG), SyntheticDataset(CONFIG)
    other = SyntheticDataset(replace(CONFIG, seed=4))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(everything(first, 512)[1], everything(again, 512)[1])
    assert not torch.equal(everything(first, 512)[1], everything(other, 512)[1])


def test_ids_follow_zipf_and_are_shuffled_over_the_table() -> None:
    config = SyntheticConfig(rows=7 * 8 * 2000, num_embeddings=50, zipf_exponent=1.5)
    batch, _ = everything(SyntheticDataset(config), 4096)
    counts = np.bincount(batch.item.values_L.numpy()[:: config.item_tables], minlength=50)
    ranked = np.sort(counts)[::-1] / counts.sum()
    edges = np.arange(1, 52, dtype=np.float64) ** -0.5
    expected = (edges[:-1] - edges[1:]) / (edges[0] - edges[-1])
    assert ranked == pytest.approx(expected, abs=4 * np.sqrt(expected[0] / counts.sum()))
    assert not np.array_equal(np.argsort(-counts, kind="stable")[:10], np.arange(10))


def test_labels_follow_the_true_probability() -> None:
    dataset = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 1000))
    rows = list(dataset._rows(("train", "validation", "test"), 4096, None, 0))
    probability = np.concatenate([r.probability_B for r in rows])
    label = np.concatenate([r.label_B for r in rows])
    for low in np.arange(0.0, 1.0, 0.25):
        here = (probability >= low) & (probability < low + 0.25)
        spread = np.sqrt((probability[here] * (1 - probability[here])).sum()) / here.sum()
        assert label[here].mean() == pytest.approx(probability[here].mean(), abs=4 * spread)
    assert 0.75 < dataset.attainable_auc() < 0.9


def test_dense_features_are_standard_normal() -> None:
    batch, _ = everything(SyntheticDataset(SyntheticConfig(rows=7 * 8 * 1000)), 4096)
    dense = batch.item.dense_RN.numpy()
    assert dense.mean(axis=0) == pytest.approx(0.0, abs=4 / np.sqrt(len(dense)))
    assert dense.std(axis=0) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(dense)))
    assert abs(np.corrcoef(dense.T)[0, 1]) < 4 / np.sqrt(len(dense))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 100_001),
        ("rows", 8),
        ("seed", -1),
        ("num_embeddings", 0),
        ("user_tables", 17),
        ("click_rate", 1.0),
        ("zipf_exponent", 0.0),
        ("effect_std", -0.1),
    ],
)
def test_bad_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        SyntheticConfig(**{field: value})


def test_splits_must_be_neighbours() -> None:
    dataset = SyntheticDataset(CONFIG)
    for splits in ((), ("train", "test"), ("nonsense",)):
        with pytest.raises(ConfigError, match="split"):
            dataset.num_rows(splits)


def test_labels_are_a_column() -> None:
    _, labels = next(SyntheticDataset(CONFIG).batches(("test",), 16))
    assert isinstance(labels, Labels)
    assert set(labels.values_BT.unique().tolist()) <= {0.0, 1.0}
