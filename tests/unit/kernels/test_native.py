"""The loader of the extension: what is missing is said, with what to do."""

from __future__ import annotations

import hashlib
import os
from types import ModuleType

import pytest

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.kernels import native


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="only CI promises a compiler")
def test_ci_has_the_extension_or_every_native_test_would_skip_unseen() -> None:
    assert native.why_unavailable() is None


def test_without_the_extension_the_reason_and_the_fix_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "_REASON", "no extension in this test")
    assert native.why_unavailable() == "no extension in this test"
    with pytest.raises(BackendUnavailable, match=r"no extension in this test.*make kernels"):
        native.runnable_isas()


def test_an_extension_of_another_interface_is_not_called() -> None:
    old = ModuleType("_native")
    assert "built for another _native.pyi" in str(native._mismatch(old))
    old.INTERFACE = hashlib.sha256(native._INTERFACE.read_bytes()).hexdigest()  # type: ignore[attr-defined]
    assert native._mismatch(old) is None


@pytest.mark.skipif(native.why_unavailable() is not None, reason=str(native.why_unavailable()))
def test_an_instruction_set_is_chosen_by_name_or_the_widest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert native.runnable_isas()[-1] == "portable"
    assert native.choose_isa().name == native.runnable_isas()[0]
    assert native.choose_isa("portable").name == "portable"
    with pytest.raises(ConfigError, match="avx512 or avx2 or portable"):
        native.choose_isa("sse")
    monkeypatch.setattr(native, "runnable_isas", lambda: ("portable",))
    with pytest.raises(BackendUnavailable, match="does not run avx512; it runs portable"):
        native.choose_isa("avx512")
