"""What most tests of protocols ask."""

from collections.abc import Iterator

import pytest
from tests.unit.serving.served import engine_of

from tailrank.serving.engine import Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = engine_of()
    engine.start()
    yield engine
    engine.drain()
