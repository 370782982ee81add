"""One BLAS thread in this process while anybody here needs it."""

from __future__ import annotations

import mmap
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import threadpoolctl

from daskgmm.errors import MemoryLimitError
from daskgmm.passes.addresses import address_limit

#: Bytes of addresses that a BLAS takes for one thread (OpenBLAS: 32 MiB and a little), for NumPy's and for SciPy's.
_BUFFER_BYTES = 2 * (34 << 20)


class BlasLimit:
    """A limit that the first holder sets and the last one lifts: fits in several threads of a process overlap.

    A forked child goes on with what its own thread holds; other threads, and what they held, stay with the parent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: Counter[int] = Counter()  # by thread
        self._limits: Any = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def take(self) -> None:
        """Limit BLAS to one thread.

        Raises
        ------
        MemoryLimitError
            The limit of this process leaves no room for the buffers of BLAS.
        """
        import scipy.linalg  # noqa: F401  (its own copy of BLAS must be loaded to be limited)

        with self._lock:
            _take_buffers()
            if not self._holders:
                _let_this_thread_limit()
                self._limits = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
            self._holders[threading.get_ident()] += 1

    def release(self) -> None:
        """Restore what was there before, unless another holder is left."""
        with self._lock:
            own = threading.get_ident()
            # (A worker's plug-in may be undone in another thread than the one it was set up in.)
            holder = own if own in self._holders else next(iter(self._holders))
            self._holders[holder] -= 1
            if not self._holders[holder]:
                del self._holders[holder]
            if not self._holders:
                self._lift()

    def _lift(self) -> None:
        _let_this_thread_limit()
        self._limits.restore_original_limits()
        _let_this_thread_limit()  # and any other one from now on

    def _forked(self) -> None:
        """Let go of what threads held that are not in this forked process, and of the lock that one may have had."""
        self._lock = threading.Lock()
        own, held = threading.get_ident(), bool(self._holders)
        self._holders = Counter({own: self._holders[own]} if self._holders[own] else {})
        if held and not self._holders:
            self._lift()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the limit while the block runs."""
        self.take()
        try:
            yield
        finally:
            self.release()


def _take_buffers() -> None:
    """Have BLAS take its buffers now where the addresses of this process are limited (ulimit -v, a batch system's).

    OpenBLAS tries for ever to get one for which there is no room.
    """
    limit = address_limit()
    if limit is None:
        return
    from scipy.linalg.blas import dgemm

    try:
        mmap.mmap(-1, _BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as error:
        raise MemoryLimitError(
            "Memory",
            f"suffice for the buffers of BLAS, {_BUFFER_BYTES >> 20} MiB",
            f"less below the limit of this process, {limit >> 20} MiB (ulimit -v, or the job's)",
            "Raise it.",
        ) from error
    square = np.ones((256, 256))
    dgemm(1.0, square, square @ square)


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
