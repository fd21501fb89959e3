"""One browser for each module of tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from tests.browser.chromium import Chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("NO BROWSER: pages are not tested; apt-get install chromium")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium
