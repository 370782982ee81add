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
    """The gaps of a tile.

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
        The features that they lack, row by row; and where rows begin.
    """

    def __init__(self, mask: Mask, work: Workspace) -> None:
        self.work = work
        self._every, (n_features, n_rows) = mask, mask.shape
        rows, features = np.divmod(np.flatnonzero(np.ascontiguousarray(mask).T.ravel()), n_features)
        self._values = features, rows
        n_missing = np.bincount(rows, minlength=n_rows)
        self.rows = np.flatnonzero((n_missing > 0) & (n_missing < n_features))
        self.n_missing = n_missing[self.rows]
        self.features = features if self.n_missing.sum() == len(features) else features[n_missing[rows] < n_features]
        self.starts = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum(self.n_missing, out=self.starts[1:])
        #: What a form keeps from the densities of a plan for its sums.
        self.kept: Any = None

    def fill(self, x: Floats, values: Floats) -> None:
        """Write values, (n_features,), to the gaps of rows, (n_features, n_rows); rows without any value have some."""
        features, rows = self._values
        x[features, rows] = values[features]

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
    def _order(self) -> Integers:
        # (Short numbers are sorted digit by digit.)
        return np.argsort(self.features.astype(np.min_scalar_type(len(self._every))), kind="stable")

    @cached_property
    def pairs(self) -> tuple[Integers, Integers]:
        """Every gap, feature by feature: its row, (n_gaps,); and where features begin, (D + 1,)."""
        bounds = np.zeros(len(self._every) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.features, minlength=len(self._every)), out=bounds[1:])
        return np.repeat(np.arange(len(self.rows)), self.n_missing)[self._order], bounds

    @cached_property
    def by_row(self) -> tuple[Integers, Integers, Integers]:
        """Every gap, row by row: where rows begin, (n + 1,); the feature of each gap; and its number in `pairs`."""
        number = np.empty_like(self.features)
        number[self._order] = np.arange(len(number))
        return self.starts, self.features, number

    @cached_property
    def number(self) -> Integers:
        """The number in `pairs` of each gap, (n, D)."""
        at, bounds = self.pairs
        found = np.zeros((len(self.rows), len(self._every)), dtype=np.int64)
        found[at, np.repeat(np.arange(len(self._every)), np.diff(bounds))] = np.arange(len(at))
        return found
