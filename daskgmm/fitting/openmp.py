"""One OpenMP thread for what a thread asks of scikit-learn's k-means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_openmp_thread() -> Iterator[None]:
    """Let OpenMP run what this thread asks of it in this thread alone.

    Its threads wait for each other by spinning, after each iteration: where anything else computes, k-means of 6,000
    rows takes ten times as long on two threads as on one, and twenty times the processor time. They also add up sums in
    the order in which they end. And in a forked child, which has not the threads of its parent, libgomp counts on them
    and waits for ever. (OpenBLAS and Zarr start theirs anew; passes have threads of their own.)
    """
    with _controller().limit(limits=1, user_api="openmp"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Return what knows the libraries that scikit-learn has loaded; looking for them takes milliseconds."""
    import sklearn.cluster  # noqa: F401  (or its OpenMP would be loaded later, and not be among them)

    return ThreadpoolController()
