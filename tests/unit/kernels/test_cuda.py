"""Why there is no GPU to run on is told in words; nothing is imported to find out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tailrank.core.errors import BackendUnavailable
from tailrank.kernels import cuda


def test_each_thing_that_lacks_has_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in str(cuda.why_unavailable())
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no GPU, or no driver for CUDA 12.9" in str(cuda.why_unavailable())
    assert cuda.device_name() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "triton_version", lambda: None)
    assert "tailrank[cuda]" in str(cuda.why_unavailable())
    with pytest.raises(BackendUnavailable, match=r"Triton is not installed.*the cpu ranker"):
        cuda.require()
    monkeypatch.setattr(cuda, "triton_version", lambda: "3.6.0")
    assert cuda.why_unavailable() is None
    cuda.require()


def test_a_host_without_a_gpu_never_imports_triton() -> None:
    code = (
        "import sys; from tailrank.inference import load; from tailrank.kernels import cuda; "
        "cuda.why_unavailable(); print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
