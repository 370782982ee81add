"""The tests of fits run with one BLAS thread from beginning to end, as fits do: on small products two only wait."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def for_passes() -> Iterator[None]:
    with threadpool_limits(limits=1, user_api="blas"):
        yield
