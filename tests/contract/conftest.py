"""Fixtures of contracts that several files hold to."""

import pytest

from tailrank.kernels.dense import DENSE_ISAS, runnable_dense_isas


@pytest.fixture(params=DENSE_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set of the dense kernels that this CPU runs."""
    if request.param not in runnable_dense_isas():
        pytest.skip(f"this CPU does not run {request.param}")
    return request.param
