"""What CI tests is what users install: the compiled loop."""

import os

import pytest

from tailrank.core import query
from tailrank.runtime import loop, virtual
from tailrank.runtime.compiled import is_compiled
from tailrank.scheduling import slack


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="a source tree runs as it is edited")
def test_ci_has_the_loop_compiled_or_nobody_would_have_tested_it() -> None:
    assert is_compiled()
    for module in (query, loop, slack, virtual):
        assert not module.__file__.endswith(".py")
