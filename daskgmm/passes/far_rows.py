"""Passes of k-means||: rows drawn the likelier the farther they are from all centres, and what lies nearest to each.

Small, far groups of rows, which a uniform sample misses, are found by it (Bahmani et al. 2012,
doi:10.14778/2180912.2180915). Distances are in units of the features' standard deviations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block
from daskgmm.kernels.folds import row_hash
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.record import Record

Rows = NDArray[np.uint64]

#: Distances, or values, that are computed at once, at most about; they stay in the cache (1 MiB).
DISTANCES = 1 << 17


@dataclass(frozen=True, eq=False)
class Centres:
    """Points from which squared distances are measured, in coordinates shifted to a mean and scaled.

    Attributes
    ----------
    points : (n_centres, n_features), float64
        In the units of the rows.
    mean, variances : (n_features,), float64
        Of all rows. A feature of variance 0 is not scaled.
    """

    points: Floats
    mean: Floats
    variances: Floats

    def __reduce__(self) -> tuple[type[Centres], tuple[Floats, Floats, Floats]]:
        return Centres, (self.points, self.mean, self.variances)

    @cached_property
    def scales(self) -> Floats:
        """Standard deviations of the features, 1 where a feature is constant, (n_features,), float64."""
        return np.sqrt(np.where(self.variances > 0, self.variances, 1.0))

    @cached_property
    def scaled(self) -> Floats:
        """The points as distances are measured, (n_features, n_centres), float64."""
        return self.scale(np.ascontiguousarray(self.points.T))

    @cached_property
    def factors(self) -> Floats:
        """(-2 c, c'c) of each centre, (n_centres, n_features + 1), float64: times (x, 1) it is |x - c|^2 - |x|^2."""
        return np.column_stack([-2 * self.scaled.T, np.square(self.scaled).sum(axis=0)])

    def scale(self, x: Floats) -> Floats:
        """Return rows, features first, shifted and scaled, with the same bits wherever in `x` a row stands."""
        return (x - self.mean[:, np.newaxis]) / self.scales[:, np.newaxis]

    def filled(self, block: Block) -> Block:
        """Return a block whose gaps, if it has any, are at the mean: no feature that is missing makes a row far."""
        if block.gaps is not None:
            np.copyto(block.x, self.mean[:, np.newaxis], where=block.gaps)
        return block

    def parts(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        """Yield pieces of a block, and their rows scaled, with a last feature of ones."""
        n_rows, step = block.x.shape[1], max(64, DISTANCES // max(self.factors.shape))
        for low in range(0, n_rows, step):
            part = slice(low, min(low + step, n_rows))
            yield part, np.vstack([self.scale(block.x[:, part]), np.ones(part.stop - low)])

    def squared_distances(self, z: Floats) -> Floats:
        """Return the squared distance of scaled rows to the nearest centre, (n_rows,), by differences.

        The same bits wherever in `z` a row stands, which a matrix product does not give. Takes 8 n_centres bytes a row.
        """
        total = np.zeros((len(self.points), z.shape[1]))
        for own, centres in zip(z, self.scaled, strict=True):
            total += np.square(own - centres[:, np.newaxis])
        nearest: Floats = total.min(axis=0)
        return nearest


@dataclass(frozen=True, eq=False)
class FarRows(Record):
    """Rows that a round takes, and what all rows cost. A monoid under `FarRowsPass.merge`.

    Attributes
    ----------
    keys : (n_taken,), float64
        Negative; the largest first, and of equal ones the first row.
    numbers : (n_taken,), uint64
        Row numbers.
    points : (n_taken, n_features), float64
        The rows.
    cost : float
        Sum of row weight times squared distance to the nearest centre, over all rows.
    weight : float
        Sum of the row weights.
    n_rows : int
        Rows of positive weight.
    """

    keys: Floats
    numbers: Rows
    points: Floats
    cost: float
    weight: float
    n_rows: int

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.keys.nbytes + self.numbers.nbytes + self.points.nbytes


@dataclass(frozen=True, eq=False)
class FarRowsPass:
    """The pass of one round: `n_taken` rows, drawn without replacement in proportion to their cost.

    Attributes
    ----------
    centres : Centres
    n_taken : int
        Fewer are taken where fewer rows lie apart from all centres.
    seed : int
        Seed of this round: the same rows for the same seed whatever the partitioning.

    Notes
    -----
    A row has the key log(u) / (w d^2), u in (0, 1) by its number and the seed, w its weight and d its distance to the
    nearest centre; the largest keys are taken (Efraimidis and Spirakis 2006, doi:10.1016/j.ipl.2005.11.003). So a
    round takes one pass, where drawing each row on its own, as in k-means||, needs the cost of all beforehand.

    A matrix product gives distances good enough to tell that a row is not taken; the few that may be are computed
    again by differences. 2 n_rows n_centres n_features flops a pass.
    """

    centres: Centres
    n_taken: int
    seed: int

    def zero(self) -> FarRows:
        n_features = len(self.centres.mean)
        return FarRows(np.empty(0), np.empty(0, dtype=np.uint64), np.empty((0, n_features)), 0.0, 0.0, 0)

    def update(self, state: FarRows, block: Block) -> FarRows:
        for part, z in self.centres.parts(self.centres.filled(block)):
            # (A row on a centre, or of weight 0, has the key -inf.)
            with np.errstate(divide="ignore", over="ignore", under="ignore"):
                state = self._with_rows(state, block, part, z)
        return state

    def finish(self, state: FarRows) -> FarRows:
        return state

    def merge(self, state: FarRows, other: FarRows) -> FarRows:
        keys, numbers = np.append(state.keys, other.keys), np.append(state.numbers, other.numbers)
        first = np.lexsort((numbers, -keys))[: self.n_taken]
        return FarRows(
            keys[first], numbers[first], np.concatenate([state.points, other.points])[first],
            state.cost + other.cost, state.weight + other.weight, state.n_rows + other.n_rows,
        )  # fmt: skip

    def _with_rows(self, state: FarRows, block: Block, part: slice, z: Floats) -> FarRows:
        """Return the state with the rows of a part added."""
        w = np.ones(z.shape[1]) if block.weights is None else block.weights[part]
        numbers = np.arange(block.first_row + part.start, block.first_row + part.stop, dtype=np.uint64)
        log_u = np.log(uniform(numbers, self.seed))
        norms = np.einsum("dn,dn->n", z[:-1], z[:-1])
        squared = np.maximum((self.centres.factors @ z).min(axis=0) + norms, 0.0)
        sums = float(w @ squared), float(w.sum()), int(np.count_nonzero(w))
        chosen = self._promising(state, log_u, w, squared, norms)
        if not len(chosen):
            return replace(
                state, cost=state.cost + sums[0], weight=state.weight + sums[1], n_rows=state.n_rows + sums[2]
            )
        exact = w[chosen] * self.centres.squared_distances(z[:-1, chosen])
        apart = exact > 0
        chosen, exact = chosen[apart], exact[apart]
        points = block.x[:, part][:, chosen].T
        return self.merge(state, FarRows(log_u[chosen] / exact, numbers[chosen], points, *sums))

    def _promising(self, state: FarRows, log_u: Floats, w: Floats, squared: Floats, norms: Floats) -> NDArray[np.int64]:
        """Return the rows of a part that may be among those taken, whatever the rounding of `squared`."""
        # The product is off by at most about 2 (D + 4) u (|x|^2 + |c|^2), and |c|^2 <= 2 |x|^2 + 2 d^2. (Generously.)
        error = (len(self.centres.mean) + 4) * 1e-14 * (norms + squared)
        least = log_u / (w * np.maximum(squared - error, 0.0))
        most = log_u / (w * (squared + error))
        bar = state.keys[-1] if len(state.keys) == self.n_taken else -np.inf
        if len(least) > self.n_taken:
            bar = max(bar, np.partition(least, -self.n_taken)[-self.n_taken])
        return np.flatnonzero((w > 0) & (most * (1 - 1e-12) >= bar))


@dataclass(frozen=True, eq=False)
class Nearest(Record):
    """Sums over the rows nearest to each centre. A monoid under `NearestPass.merge`.

    Attributes
    ----------
    weights : (n_centres,), float64
        Sum of the row weights.
    first, second : (n_features, n_centres), float64
        Sums of row weight times the difference to the centre, and times its square, per feature, scaled.
    """

    weights: Floats
    first: Floats
    second: Floats

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.weights.nbytes + self.first.nbytes + self.second.nbytes

    @property
    def weight(self) -> float:
        """Sum of the row weights."""
        return float(self.weights.sum())

    def moments(self, centres: Centres) -> tuple[Floats, Floats]:
        """Return mean and variances of the rows nearest to each centre, both (n_centres, n_features), unscaled.

        A centre without rows has its own place for a mean and variance 0.
        """
        divisor = np.where(self.weights > 0, self.weights, 1.0)
        mean, square = self.first / divisor, self.second / divisor
        scales = centres.scales[:, np.newaxis]
        variances = np.maximum(square - mean * mean, 0.0) * scales**2
        return centres.points + (mean * scales).T, np.ascontiguousarray(variances.T)


@dataclass(frozen=True, eq=False)
class NearestPass:
    """The pass that gives each row to its nearest centre, of equally near ones the first.

    2 n_rows n_centres n_features flops.
    """

    centres: Centres

    def zero(self) -> Nearest:
        n_centres, n_features = self.centres.points.shape
        return Nearest(np.zeros(n_centres), np.zeros((n_features, n_centres)), np.zeros((n_features, n_centres)))

    def update(self, state: Nearest, block: Block) -> Nearest:
        for part, z in self.centres.parts(self.centres.filled(block)):
            self._add(state, np.ones(z.shape[1]) if block.weights is None else block.weights[part], z)
        return state

    def finish(self, state: Nearest) -> Nearest:
        return state

    def merge(self, state: Nearest, other: Nearest) -> Nearest:
        return Nearest(state.weights + other.weights, state.first + other.first, state.second + other.second)

    def _add(self, state: Nearest, w: Floats, z: Floats) -> None:
        """Add the rows of a part to the state, in place."""
        n_centres = len(self.centres.points)
        # Rows first: NumPy finds minima along contiguous numbers several times faster.
        nearest = (z.T @ self.centres.factors.T).argmin(axis=1)
        state.weights[:] += np.bincount(nearest, w, n_centres)
        for j, centres in enumerate(self.centres.scaled):
            difference = z[j] - centres[nearest]
            weighted = difference * w
            state.first[j] += np.bincount(nearest, weighted, n_centres)
            weighted *= difference
            state.second[j] += np.bincount(nearest, weighted, n_centres)


def uniform(numbers: Rows, seed: int) -> Floats:
    """Return a number in the open interval (0, 1) for each row number, float64."""
    return ((row_hash(numbers, seed) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
