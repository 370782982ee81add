"""What a survey learns of rows with labels: what is wrong with labels, and the moments of each class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.record import Record
from daskgmm.mixture.row_set import RowSet
from daskgmm.mixture.scaling import Scaling
from daskgmm.passes.seen import Observed


@dataclass(frozen=True)
class KnownClasses(Record):
    """Sums over rows with labels. A monoid under `merge`.

    Attributes
    ----------
    weights : (n_classes,), float64
        Sum of the row weights of each class.
    means : (n_classes, n_features), float64
    scatters : (n_classes, n_features, n_features) or (n_classes, n_features), float64
        Sums of w (x - mean)(x - mean)', or their diagonals alone.
    n_bad, first_bad : int
        Labels that are no whole numbers of at least -1, and the row number of the first, or -1.
    bad : float
        The first of them.
    highest, highest_row : int
        The highest label, and the number of the first row that has it; -1 without labels.
    seen : (n_classes, n_features), float64, or None
        Sums of the weights of rows that have a value of each feature, where rows have gaps: means are then of these,
        and of the scatters the diagonals alone count.
    """

    weights: Floats
    means: Floats
    scatters: Floats
    n_bad: int = 0
    first_bad: int = -1
    bad: float = 0.0
    highest: int = -1
    highest_row: int = -1
    seen: Floats | None = None

    @classmethod
    def zero(cls, n_classes: int, n_features: int, *, squares_alone: bool) -> KnownClasses:
        """Return what is known of no rows."""
        scatter = (n_classes, n_features) if squares_alone else (n_classes, n_features, n_features)
        return cls(np.zeros(n_classes), np.zeros((n_classes, n_features)), np.zeros(scatter))

    def of_block(self, block: Block, labels: NDArray[np.int64] | Floats, kept: NDArray[np.bool_]) -> KnownClasses:
        """Return what is known of the rows of a block, of as many classes."""
        zero = replace(
            self, weights=np.zeros_like(self.weights), means=np.zeros_like(self.means),
            scatters=np.zeros_like(self.scatters), n_bad=0, first_bad=-1, bad=0.0, highest=-1, highest_row=-1,
            seen=None if block.gaps is None else np.zeros_like(self.means),
        )  # fmt: skip
        with np.errstate(invalid="ignore"):
            bad = kept & ~((labels >= -1) & (labels < _MOST) & (np.floor(labels) == labels))
        if bad.any():
            i = int(np.argmax(bad))
            zero = replace(zero, n_bad=int(bad.sum()), first_bad=block.first_row + i, bad=float(labels[i]))
        known = np.flatnonzero(kept & ~bad & (labels >= 0))
        if not len(known):
            return zero
        i = known[int(np.argmax(labels[known]))]
        for c in np.unique(labels[known]):
            rows = known[labels[known] == c]
            w = np.ones(len(rows)) if block.weights is None else block.weights[rows]
            if c >= len(zero.weights) or not w.sum() > 0:
                continue
            if zero.seen is not None and block.gaps is not None:
                there = Observed.of(
                    Block(block.x[:, rows], w, 0), block.gaps[:, rows], np.ones(len(rows), dtype=bool), with_pairs=False
                )
                zero.weights[int(c)], zero.seen[int(c)], zero.means[int(c)] = w.sum(), there.seen.weights, there.mean
                squares = there.scatter
                zero.scatters[int(c)] = squares if zero.scatters.ndim == 2 else np.diag(squares)
                continue
            x = block.x[:, rows]
            y = x - x[:, :1]
            shift = y @ w / w.sum()
            y -= shift[:, np.newaxis]
            zero.weights[int(c)], zero.means[int(c)] = w.sum(), x[:, 0] + shift
            zero.scatters[int(c)] = (y * w) @ y.T if zero.scatters.ndim == 3 else np.square(y) @ w
        return replace(zero, highest=int(labels[i]), highest_row=block.first_row + int(i))

    def merge(self, other: KnownClasses) -> KnownClasses:
        """Return what is known of both row sets (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        weights, delta = self.weights + other.weights, other.means - self.means
        full, seen = self.scatters.ndim == 3, None
        if self.seen is not None or other.seen is not None:
            seen = self._of_features + other._of_features
            share = other._of_features / np.where(seen > 0, seen, 1.0)
            means = np.where(self._of_features > 0, self.means + share * delta, other.means)
            squares = self._of_features * share * delta * delta
            added = squares[:, :, np.newaxis] * np.eye(delta.shape[1]) if full else squares
        else:
            share = np.where(weights > 0, other.weights / np.where(weights > 0, weights, 1.0), 0.0)
            means = np.where((self.weights > 0)[:, np.newaxis], self.means + share[:, np.newaxis] * delta, other.means)
            between = self.weights * share
            products = delta[:, :, np.newaxis] * delta[:, np.newaxis] if full else delta * delta
            added = between.reshape(-1, *[1] * (self.scatters.ndim - 1)) * products
        first = min((k for k in (self, other) if k.n_bad), key=lambda k: k.first_bad, default=self)
        high = max((self, other), key=lambda k: (k.highest, -k.highest_row))
        return KnownClasses(
            weights, means, self.scatters + other.scatters + added, self.n_bad + other.n_bad, first.first_bad,
            first.bad, high.highest, high.highest_row, seen,
        )  # fmt: skip

    @property
    def _of_features(self) -> Floats:
        return np.broadcast_to(self.weights[:, np.newaxis], self.means.shape) if self.seen is None else self.seen

    def completed(self, rows: RowSet) -> KnownClasses:
        """Return it as of rows that have all values; of a feature that a class lacks, all rows tell what is known."""
        if self.seen is None:
            return self
        weights, there = self.weights[:, np.newaxis], self.seen > 0
        squares = np.diagonal(self.scatters, axis1=1, axis2=2) if self.scatters.ndim == 3 else self.scatters
        squares = weights * np.where(there, squares / np.where(there, self.seen, 1.0), rows.variances)
        scatters = squares[:, :, np.newaxis] * np.eye(squares.shape[1]) if self.scatters.ndim == 3 else squares
        return replace(self, means=np.where(there, self.means, rows.mean), scatters=scatters, seen=None)

    def standardized(self, scaling: Scaling) -> KnownClasses:
        """Return what is known of the rows as they are mapped."""
        means = np.where((self.weights > 0)[:, np.newaxis], scaling.values(self.means), 0.0)
        squares = scaling.scale**2 if self.scatters.ndim == 2 else np.outer(scaling.scale, scaling.scale)
        return replace(self, means=means, scatters=self.scatters / squares)


#: Labels are below this, as numbers of components are.
_MOST = 2.0**53
