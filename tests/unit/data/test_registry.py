"""`--data` texts."""

import pytest

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.data.synthetic import SyntheticConfig


def test_synthetic_settings_are_read() -> None:
    dataset = open_dataset(
        "synthetic:rows=800,seed=4,zipf_exponent=1.2", DataSettings(embedding_dim=8)
    )
    assert dataset.config == SyntheticConfig(rows=800, seed=4, zipf_exponent=1.2, embedding_dim=8)
    assert open_dataset("synthetic").config == SyntheticConfig()


@pytest.mark.parametrize(
    "text",
    ["", "criteo", "criteo:", "cifar:x", "synthetic:rows", "synthetic:rows=x", "synthetic:cows=3"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--data"):
        open_dataset(text)


@pytest.mark.parametrize(
    ("text", "settings", "flag"),
    [
        ("synthetic:rows=800", DataSettings(integer_buckets=True), "--integer-buckets"),
        ("table:t.csv", DataSettings(integer_buckets=True), "--integer-buckets"),
        ("synthetic:rows=800", DataSettings(min_count=5), "--min-count"),
        ("movielens:folder", DataSettings(min_count=5), "--min-count"),
        ("amazon:folder/Toys", DataSettings(min_count=5), "--min-count"),
        ("movielens:folder", DataSettings(num_negatives=5), "--num-negatives"),
    ],
)
def test_settings_that_the_data_would_ignore_are_refused(text, settings, flag) -> None:
    with pytest.raises(RequestError, match=flag):
        open_dataset(text, settings)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere/log\.tsv: No such file"):
        open_dataset("criteo:nowhere/log.tsv")
