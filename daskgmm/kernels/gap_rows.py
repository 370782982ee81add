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
    """

    def __init__(self, mask: Mask) -> None:
        n_missing = np.count_nonzero(mask, axis=0)
        self.every, self.rows = mask, np.flatnonzero((n_missing > 0) & (n_missing < len(mask)))
        self.mask = np.ascontiguousarray(mask[:, self.rows])
        self._n_missing = n_missing[self.rows]
        #: What a form keeps from the densities of a plan for its sums.
        self.kept: Any = None

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The rows by the number of their gaps."""
        found = []
        for n in np.unique(self._n_missing):
            at = np.flatnonzero(self._n_missing == n)
            found.append(Group(at, np.nonzero(self.mask[:, at].T)[1].reshape(len(at), n)))
        return tuple(found)

    @cached_property
    def pairs(self) -> tuple[Integers, Integers, Integers]:
        """Every gap, feature by feature: its row, (n_gaps,); where features begin; and each gap's number, (n, D)."""
        features, at = np.nonzero(self.mask)
        bounds = np.searchsorted(features, np.arange(len(self.mask) + 1))
        number = np.zeros(self.mask.shape[::-1], dtype=np.int64)
        number[at, features] = np.arange(len(at))
        return at, bounds, number
