"""Fixtures that tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch

# Without a GPU, Triton interprets its kernels on tensors of the CPU. It has to know before it is
# imported for the first time.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# What `make sanitize` runs: on each of three instruction sets, more than 100,000 cases.
hypothesis.settings.register_profile("fuzz", max_examples=34_000, deadline=None)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests train small models: a second thread gains little and waits long on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public data sets, which are not ours to ship; skips without it."""
    named = os.environ.get("TAILRANK_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set TAILRANK_DATA to the folder that holds them")
    return folder
