"""What k-means says of rows that are alike stays unsaid: scikit-learn says so of every start, and a fit does once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

#: Of that warning alone, and no user's filter.
_SAID = "Number of distinct clusters(?#of a start)"


class _Unsaid:
    """Lets that warning pass while a block runs, in whatever threads: filters of warnings are those of all of them."""

    def __init__(self) -> None:
        self._forked()
        os.register_at_fork(after_in_child=self._forked)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        from sklearn.exceptions import ConvergenceWarning

        with self._lock:
            self._n_blocks += 1
            warnings.filterwarnings("ignore", _SAID, ConvergenceWarning)
        try:
            yield
        finally:
            with self._lock:
                self._n_blocks -= 1
                if not self._n_blocks:
                    self._end()

    def _forked(self) -> None:
        """Begin anew in a forked process, which has no blocks."""
        self._lock, self._n_blocks = Lock(), 0
        self._end()

    @staticmethod
    def _end() -> None:
        # (In its place: `catch_warnings` of another thread may have kept a list that still has it, until the next end.)
        others: list[Any] = [one for one in warnings.filters if getattr(one[1], "pattern", None) != _SAID]
        if len(others) < len(warnings.filters):
            warnings.filters[:] = others  # type: ignore[index]


unsaid = _Unsaid()
