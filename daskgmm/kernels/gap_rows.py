"""The values that are missing in the rows of a tile, and the rows by how many they lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Workspace
from daskgmm.mixture.arrays import Floats

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """Rows that lack as many features as each other.

    Attributes
    ----------
    at : (n,), int64
        Their places among the rows with gaps.
    missing : (n, n_missing), int64
        The features that each lacks, in order.
    """

    at: Integers
    missing: Integers

    def observed(self, n_features: int) -> Integers:
        """Return the features that each row has, (n, n_features - n_missing), int64."""
        found = np.ones((len(self.at), n_features), dtype=bool)
        np.put_along_axis(found, self.missing, False, axis=1)
        return np.nonzero(found)[1].reshape(len(self.at), -1)

    def pieces(self, most: int) -> Iterator[Group]:
        """Yield the group in pieces of at most so many rows."""
        for low in range(0, len(self.at), most):
            yield Group(self.at[low : low + most], self.missing[low : low + most])


class Gaps:
    """The gaps of rows.

    Parameters
    ----------
    mask : (n_features, n_rows), bool
        The values that are missing.
    work : Workspace
        Buffers by name, which live from tile to tile.

    Attributes
    ----------
    rows : (n,), int64
        The rows that lack some features, not all.
    n_missing : (n,), int64
        How many features each of them lacks.
    features, starts : (n_gaps,), int64; (n + 1,), int64
        The features that they lack, row by row; and where rows begin. Those of a part are among those of the whole.
    numbers : (n_gaps,), int64
        The number of each of these gaps in `pairs`.
    whole : Gaps
        These, or what they are a part of.
    first : int
        The place of the first row among those of the whole.
    """

    def __init__(self, mask: Mask, work: Workspace) -> None:
        self.work, self.whole, self._every, (n_features, n_rows) = work, self, mask, mask.shape
        features, rows = self._values
        n_missing = np.bincount(rows, minlength=n_rows)
        self.rows = np.flatnonzero((n_missing > 0) & (n_missing < n_features))
        self.n_missing = n_missing[self.rows]
        if self.n_missing.sum() < len(features):
            there = n_missing[rows] < n_features
            features, rows = features[there], rows[there]
        # (Short numbers are sorted digit by digit.)
        self.numbers = np.argsort(rows.astype(np.min_scalar_type(n_rows)), kind="stable")
        self.features = features[self.numbers]
        self.starts = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum(self.n_missing, out=self.starts[1:])
        self.first = 0
        #: What a form keeps from the densities of a plan for its sums, by plan; plans whose densities have lost digits;
        #: and with whose origin rows are filled.
        self.kept: dict[int, Any] = {}
        self.doubted: set[int] = set()
        self._filled_with: Floats | None = None

    def part(self, low: int, high: int) -> Gaps:
        """Return the gaps of rows from `low` to `high`."""
        found = Gaps.__new__(Gaps)
        found.work, found.whole, found._every = self.work, self.whole, self._every[:, low:high]
        first, last = np.searchsorted(self.rows, (low, high))
        found.rows, found.n_missing = self.rows[first:last] - low, self.n_missing[first:last]
        found.starts, found.features, found.numbers = self.starts[first : last + 1], self.features, self.numbers
        found.first = self.first + int(first)
        return found

    @cached_property
    def _values(self) -> tuple[Integers, Integers]:
        """The feature and the row of every missing value, feature by feature."""
        found = np.divmod(np.flatnonzero(self._every), self._every.shape[1])
        return found[0], found[1]

    def fill(self, x: Floats, values: Floats) -> None:
        """Write values, (n_features,), to the gaps of rows, (n_features, n_rows); rows without any value have some."""
        if self.whole._filled_with is values:
            return
        features, rows = self._values
        x[features, rows] = values[features]
        self.whole._filled_with = values if self.whole is self else None

    @cached_property
    def mask(self) -> Mask:
        """The values that are missing of these rows, (n_features, n)."""
        return np.ascontiguousarray(self._every[:, self.rows])

    @property
    def most_missing(self) -> int:
        """The largest of these numbers."""
        return int(self.n_missing.max(initial=0))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The rows by the number of their gaps."""
        found = []
        for n in np.unique(self.n_missing):
            at = np.flatnonzero(self.n_missing == n)
            found.append(Group(at, self.features[self.starts[at][:, np.newaxis] + np.arange(n)]))
        return tuple(found)

    @cached_property
    def pairs(self) -> tuple[Integers, Integers]:
        """Every gap, feature by feature: its row, (n_gaps,); and where features begin, (D + 1,)."""
        bounds = np.zeros(len(self._every) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.features, minlength=len(self._every)), out=bounds[1:])
        return np.repeat(np.arange(len(self.rows)), self.n_missing)[self.places], bounds

    @cached_property
    def places(self) -> Integers:
        """Where the gaps in `pairs` are in `features`, (n_gaps,)."""
        found = np.empty_like(self.numbers)
        found[self.numbers] = np.arange(len(found))
        return found

    @cached_property
    def number(self) -> Integers:
        """The number in `pairs` of each gap, (n, D)."""
        found = np.zeros((len(self.rows), len(self._every)), dtype=np.int64)
        found[np.repeat(np.arange(len(self.rows)), self.n_missing), self.features] = self.numbers
        return found
