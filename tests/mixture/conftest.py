"""The tests of the mathematics run with one BLAS thread, as a task does: small products are then also faster."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def for_passes() -> Iterator[None]:
    with threadpool_limits(limits=1, user_api="blas"):
        yield
