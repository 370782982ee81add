"""What k-means says of rows that are alike stays unsaid: scikit-learn says so of every start, and a fit does once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

_SAID = "Number of distinct clusters"


class _Unsaid:
    """Lets that warning pass while a block runs, in whatever threads: filters of warnings are those of all of them."""

    def __init__(self) -> None:
        self._lock, self._n_blocks, self._own = Lock(), 0, list[Any]()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._n_blocks:
                self._begin()
            self._n_blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_blocks -= 1
                if not self._n_blocks:
                    self._end()

    def _begin(self) -> None:
        from sklearn.exceptions import ConvergenceWarning

        before = list(warnings.filters)
        warnings.filterwarnings("ignore", _SAID, ConvergenceWarning)
        # (Where the user has asked for the same it stays.)
        self._own = [one for one in warnings.filters[:1] if one not in before]

    def _end(self) -> None:
        for one in self._own:
            with suppress(ValueError):  # (filters may have been set anew meanwhile)
                warnings.filters.remove(one)  # type: ignore[attr-defined]


unsaid = _Unsaid()
