"""One BLAS thread in this process while anybody here needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import threadpoolctl


class BlasLimit:
    """A limit that the first holder sets and the last one lifts: fits in several threads of a process overlap."""

    def __init__(self) -> None:
        self._lock, self._holders = threading.Lock(), 0
        self._limits: Any = None

    def take(self) -> None:
        """Limit BLAS to one thread."""
        import scipy.linalg  # noqa: F401  (its own copy of BLAS must be loaded to be limited)

        with self._lock:
            if self._holders == 0:
                _let_this_thread_limit()
                self._limits = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
            self._holders += 1

    def release(self) -> None:
        """Restore what was there before, unless another holder is left."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                _let_this_thread_limit()
                self._limits.restore_original_limits()
                _let_this_thread_limit()  # and any other one from now on

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the limit while the block runs."""
        self.take()
        try:
            yield
        finally:
            self.release()


def _let_this_thread_limit() -> None:
    """Make threadpoolctl obey: from 3.8 on only the first thread that sets a limit may, until it ends.

    What others ask for is passed over without a word. The number is the process's, and the last fit to end restores
    it, often in another thread than the first one set it.
    """
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


#: The number of BLAS threads belongs to the process, and so does this.
blas_limit = BlasLimit()
