"""What a survey knows of rows with gaps: each feature has rows of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.record import Record


@dataclass(frozen=True)
class Seen(Record):
    """Which values there are. A monoid under `+`.

    Attributes
    ----------
    weights : (n_features,), float64
        Sum of the weights of rows that have a value of each feature.
    n_missing : (n_features,), int64
        Rows without a value of each feature, of those that have any.
    n_incomplete : int
        Rows that have some values and lack others.
    together : (n_features, n_features), bool
        Which features have a value in the same row of positive weight; empty where nobody asks.
    """

    weights: Floats
    n_missing: NDArray[np.int64]
    n_incomplete: int
    together: NDArray[np.bool_]

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.weights + other.weights, self.n_missing + other.n_missing, self.n_incomplete + other.n_incomplete,
            self.together | other.together,
        )  # fmt: skip

    @classmethod
    def whole(cls, n_features: int, weight: float, *, with_pairs: bool) -> Seen:
        """Return that of rows without gaps."""
        n = n_features if with_pairs else 0
        weights, none = np.full(n_features, weight), np.zeros(n_features, dtype=np.int64)
        return cls(weights, none, 0, np.full((n, n), weight > 0))


@dataclass(frozen=True)
class Observed:
    """What is known of the observed values of some rows: means, smallest and largest values, scatter about the means.

    Each (n_features,); a feature without a value has mean 0, and no smallest and largest value, infinities.
    """

    seen: Seen
    mean: Floats
    minimum: Floats
    maximum: Floats
    scatter: Floats

    @classmethod
    def of(cls, block: Block, gaps: NDArray[np.bool_], kept: NDArray[np.bool_], *, with_pairs: bool) -> Observed:
        """Return that of the rows of a block that count, `kept`, (n_rows,), bool."""
        x, there = block.x, kept & ~gaps
        w = np.ones(x.shape[1]) if block.weights is None else np.where(kept, block.weights, 0.0)
        # As rows without gaps are: a constant feature has its mean exactly.
        first = np.where(there.any(axis=1), x[np.arange(len(x)), np.argmax(there, axis=1)], 0.0)
        centred = np.where(there, x - first[:, np.newaxis], 0.0)
        weights = there @ w
        shift = (centred @ w) / np.where(weights > 0, weights, 1.0)
        centred -= shift[:, np.newaxis]
        scatter = np.where(there, centred * centred, 0.0) @ w
        lacks = kept & gaps
        weighted = (there & (w > 0)).astype(np.float64) if with_pairs else np.empty((0, 0))
        seen = Seen(weights, np.count_nonzero(lacks, axis=1), int(lacks.any(axis=0).sum()), weighted @ weighted.T > 0)
        low, high = np.where(there, x, np.inf).min(axis=1), np.where(there, x, -np.inf).max(axis=1)
        return cls(seen, first + shift, low, high, scatter)


def merged(left: tuple[Seen, Floats, Floats], right: tuple[Seen, Floats, Floats]) -> tuple[Seen, Floats, Floats]:
    """Return what is known of two sets of rows: of each, which values there are, their means, and scatter about these.

    The scatter is its diagonal, (n_features,), of what may be matrices.
    """
    (a, mean, scatter), (b, other_mean, other_scatter) = left, right
    weights = a.weights + b.weights
    share = b.weights / np.where(weights > 0, weights, 1.0)
    delta = other_mean - mean
    found = np.where(a.weights > 0, mean + delta * share, other_mean)
    between = np.where(a.weights > 0, a.weights * share * delta * delta, 0.0)
    return a + b, found, _diagonal(scatter) + _diagonal(other_scatter) + between


def _diagonal(scatter: Floats) -> Floats:
    return np.diagonal(scatter).copy() if scatter.ndim == 2 else scatter
