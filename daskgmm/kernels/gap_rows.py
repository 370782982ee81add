"""The values that are missing in the rows of a tile, and the rows by how many they lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    Attributes
    ----------
    rows : (n,), int64
        The rows that lack some features, not all.
    mask : (n_features, n), bool
        The same mask of these rows alone.
    n_missing : (n,), int64
        How many features each of them lacks.
    """

    def __init__(self, mask: Mask) -> None:
        n_missing = mask.sum(axis=0, dtype=np.int64)
        self.every, self.rows = mask, np.flatnonzero((n_missing > 0) & (n_missing < len(mask)))
        self.mask = np.ascontiguousarray(mask[:, self.rows])
        self.n_missing = n_missing[self.rows]
        #: What a form keeps from the densities of a plan for its sums.
        self.kept: Any = None

    @property
    def most_missing(self) -> int:
        """The largest of these."""
        return int(self.n_missing.max(initial=0))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The rows by the number of their gaps."""
        found = []
        for n in np.unique(self.n_missing):
            at = np.flatnonzero(self.n_missing == n)
            found.append(Group(at, np.nonzero(self.mask[:, at].T)[1].reshape(len(at), n)))
        return tuple(found)

    @cached_property
    def pairs(self) -> tuple[Integers, Integers]:
        """Every gap, feature by feature: its row, (n_gaps,); and where features begin, (D + 1,)."""
        features, at = np.divmod(np.flatnonzero(self.mask), self.mask.shape[1])
        return at, np.searchsorted(features, np.arange(len(self.mask) + 1))

    @cached_property
    def by_row(self) -> tuple[Integers, Integers, Integers]:
        """Every gap, row by row: where rows begin, (n + 1,); the feature of each gap; and its number in `pairs`."""
        at, bounds = self.pairs
        starts = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum(self.n_missing, out=starts[1:])
        order = np.argsort(at, kind="stable")
        return starts, np.repeat(np.arange(len(self.mask)), np.diff(bounds))[order], order

    @cached_property
    def number(self) -> Integers:
        """The number in `pairs` of each gap, (n, D)."""
        at, bounds = self.pairs
        found = np.zeros(self.mask.shape[::-1], dtype=np.int64)
        found[at, np.repeat(np.arange(len(self.mask)), np.diff(bounds))] = np.arange(len(at))
        return found
