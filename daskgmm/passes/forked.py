"""Whether this process was forked from another one, whose threads it has not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


class Forked:
    """Knows whether this process is a forked child.

    OpenMP (libgomp), by which scikit-learn's k-means runs, counts there on threads that it had started before, and
    waits for ever. (OpenBLAS and Zarr start theirs anew; passes have threads of their own.)
    """

    def __init__(self) -> None:
        self._forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._note)

    def __bool__(self) -> bool:
        return self._forked

    def _note(self) -> None:
        self._forked = True

    @contextmanager
    def without_openmp(self) -> Iterator[None]:
        """Let OpenMP run what this thread asks of it in this thread alone, in a forked process."""
        if not self._forked:
            yield
            return
        with threadpool_limits(limits=1, user_api="openmp"):
            yield


#: A process was forked or not, and so this is its.
forked = Forked()
