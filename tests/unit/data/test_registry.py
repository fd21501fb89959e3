"""`--data` texts."""

import pytest

from tailrank.core.errors import ConfigError, DataError
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


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere/log\.tsv: No such file"):
        open_dataset("criteo:nowhere/log.tsv")
