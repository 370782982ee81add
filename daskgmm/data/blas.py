"""One BLAS thread in this process while anybody here needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits


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
                self._limits = threadpool_limits(limits=1, user_api="blas")
            self._holders += 1

    def release(self) -> None:
        """Restore what was there before, unless another holder is left."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._limits.restore_original_limits()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the limit while the block runs."""
        self.take()
        try:
            yield
        finally:
            self.release()


#: The number of BLAS threads belongs to the process, and so does this.
blas_limit = BlasLimit()
