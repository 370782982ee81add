"""One component becomes two: the split that EM finds on the component's own rows, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.shape import Shape

Members = tuple[NDArray[np.int64], Floats]
Random = np.random.Generator | np.random.RandomState

#: Rows of a component that its split is fitted to, at most, and for each feature; more are drawn.
MOST_ROWS, MOST_A_FEATURE = 1000, 120
#: EM iterations of each start of a split, and of the best of them then.
FIRST_ITERATIONS, LAST_ITERATIONS = 3, 7


@dataclass(frozen=True)
class Split:
    """Component k becomes the two components `halves`.

    Gains are in nats per unit of row weight: `hope` on the rows that the split was fitted to, `gain` on others, which
    it has not seen; the same where there are no others.
    """

    k: int
    halves: Parameters
    gain: float
    hope: float


def mean_row(X: Floats, w: Floats) -> Floats:
    """Return the weighted mean of the rows, (n_features,), exact for rows that are all equal."""
    mean: Floats = X[0] + w @ (X - X[0]) / w.sum()
    return mean


def splits(
    parameters: Parameters,
    X: Floats,
    w: Floats,
    members: list[Members],
    *,
    floor: float,
    rng: Random,
    n_fitted: int | None = None,
) -> list[Split]:
    """Return the best split of each component that has one with a gain on the rows that it is fitted to.

    EM with two components on the rows of one, weighted by their responsibilities. The gain is exact for that problem,
    and by Jensen's inequality no more than what the mixture gains if its other components stay.

    Parameters
    ----------
    parameters : Parameters
    X : (n_rows, n_features), float64
    w : (n_rows,), float64
        Row weights.
    members : list of (rows, resp)
        Of each component: its rows, and their responsibilities.
    floor : float
        What the prior adds to every variance, in squared units; of the prior nothing else counts here.
    rng : Generator or RandomState
        Draws rows where a component has more than a split is fitted to.
    n_fitted : int or None
        How many rows splits are fitted to, the first ones; gains are measured on the others, where they have no part
        that is due to the freedom of a component more. None: on the same rows.
    """
    found = []
    n_needed = parameters.family.least_rows(X.shape[1])
    # Of a half, in units of the mean row weight: rows of a covariance in general position, twice.
    least = 2 * n_needed * w.sum() / len(X)
    most = MOST_ROWS if n_fitted is None else max(MOST_ROWS, MOST_A_FEATURE * X.shape[1])
    for k, (rows, resp) in enumerate(members):
        mass = float(w[rows] @ resp)
        if not mass > 0:
            continue
        n_seen = len(rows) if n_fitted is None else int(np.searchsorted(rows, n_fitted))
        own = np.arange(n_seen) if n_seen <= most else np.sort(rng.permutation(n_seen)[:most])
        shrinkage = 0.0 if n_fitted is None else n_needed - 1.0
        fitted = _Rows(X[rows[own]], w[rows[own]] * resp[own], parameters.means[k], shrinkage)
        share = fitted.weight / mass if n_fitted is not None else 1.0
        if not mass * share >= 2 * least:
            continue
        judged = fitted
        if n_fitted is not None:
            others = slice(n_seen, min(len(rows), n_seen + most))
            judged = _Rows(X[rows[others]], w[rows[others]] * resp[others], parameters.means[k])
        split = _best_split(parameters, k, fitted, judged, floor=floor, least=least / (mass * share))
        if split is not None:
            scale = mass / w.sum()
            found.append(replace(split, gain=split.gain * scale, hope=split.hope * scale))
    return found


def _best_split(
    parameters: Parameters, k: int, rows: _Rows, judged: _Rows, *, floor: float, least: float
) -> Split | None:
    """Return the best split of component k, its gain per unit of weight; no half has a share below `least`."""
    one = replace(parameters.subset([k]), weights=np.ones(1))
    em = _Em(one, floor, least)
    found: list[tuple[float, _Pairs]] = []
    sides = np.stack(list(_partitions(rows.X, rows.v)))
    at_once = max(1, _AT_ONCE // (2 * rows.X.size))
    for begin in range(0, len(sides), at_once):
        pairs = em.run(rows, em.of_sides(rows, sides[begin : begin + at_once]), FIRST_ITERATIONS)
        found += zip(em.scores(rows, pairs), pairs.each(), strict=True)
    if not found:
        return None
    # (Of starts that lead to the same halves, in either order, rounding must not choose.)
    _, best = max(found, key=lambda candidate: round(candidate[0], 9))
    best = em.run(rows, best, LAST_ITERATIONS)
    if not len(best.weights):
        return None
    halves = em.mixture(best)
    if _is_thin(halves, floor) and not _is_thin(one, floor):
        return None
    gain = hope = em.scores(rows, best)[0] - em.score_of_one(rows)
    if judged is not rows:
        gain = em.scores(judged, best)[0] - em.score_of_one(judged) if judged.weight > 0 else 0.0
    return Split(k, halves, gain, hope) if np.isfinite(gain) and hope > 0 else None


#: Numbers of an array over the halves of all pairs that go together, at most: what fits caches.
_AT_ONCE = 1 << 18


class _Rows:
    """Rows of one component, (n_rows, n_features), and their weights times responsibilities.

    `x` are the same measured from the component's mean, (n_features, n_rows); `shrinkage` rows of the covariance within
    both are added to each half.
    """

    def __init__(self, X: Floats, v: Floats, mean: Floats, shrinkage: float = 0.0) -> None:
        self.X, self.v, self.weight, self.shrinkage = X, v, float(v.sum()), shrinkage
        self.x = np.ascontiguousarray((X - mean).T)


class _Pairs(NamedTuple):
    """Pairs of halves, each a mixture of its own.

    weights (n_pairs, 2); means (n_pairs, 2, n_features), measured from the component's; covariances and precision
    Cholesky of all halves in the `shape`.
    """

    weights: Floats
    means: Floats
    covariances: Floats
    precisions_cholesky: Floats
    shape: Shape

    def only(self, alive: NDArray[np.bool_]) -> _Pairs:
        """Return some of the pairs."""
        if alive.all():
            return self
        halves, subset = np.repeat(alive, 2), self.shape.subset
        covariances, cholesky = subset(self.covariances, halves), subset(self.precisions_cholesky, halves)
        return _Pairs(self.weights[alive], self.means[alive], covariances, cholesky, self.shape)

    def each(self) -> list[_Pairs]:
        """Return the pairs one by one."""
        return [self.only(row) for row in np.eye(len(self.weights), dtype=bool)]


class _Em:
    """EM with two components on the rows of one, from several starts at once. A common covariance stays as it is."""

    def __init__(self, one: Parameters, floor: float, least: float) -> None:
        self._one, self._shape, self._floor, self._least = one, one.shape, floor, least

    def of_sides(self, rows: _Rows, sides: NDArray[np.bool_]) -> _Pairs:
        """Return the M-steps for rows that belong to one half or the other, (n_pairs, n_rows)."""
        return self._m_step(rows, np.stack([rows.v * ~sides, rows.v * sides], axis=1))

    def run(self, rows: _Rows, pairs: _Pairs, n_iter: int) -> _Pairs:
        """Return the pairs after some iterations; those that are lost are left out."""
        for _ in range(n_iter):
            pairs = pairs.only(pairs.weights.min(axis=1, initial=1.0) >= self._least)
            if not len(pairs.weights):
                break
            first, second = np.moveaxis(self._log_density(rows, pairs), 1, 0)
            with np.errstate(over="ignore"):  # (what is far away belongs to one half only)
                own = rows.v / (1 + np.exp(first - second))
            pairs = self._m_step(rows, np.stack([rows.v - own, own], axis=1))
        return pairs

    def scores(self, rows: _Rows, pairs: _Pairs) -> list[float]:
        """Return the mean log-likelihood of each pair, nats."""
        if not len(pairs.weights):
            return []
        log_likelihood = np.logaddexp.reduce(self._log_density(rows, pairs), axis=1)
        return [float(total) / rows.weight for total in log_likelihood @ rows.v]

    def score_of_one(self, rows: _Rows) -> float:
        """Return the mean log-likelihood of the component itself, nats."""
        z = self._shape.standardise_all(rows.x, np.zeros_like(self._one.means), self._one.precisions_cholesky)
        log_norm = self._shape.log_norm(self._one.precisions_cholesky, 1, self._one.n_features)
        squared = np.einsum("kdn,kdn->n", z, z)
        return float(log_norm[0] - 0.5 * (squared @ rows.v) / rows.weight)

    def mixture(self, pair: _Pairs) -> Parameters:
        """Return a single pair as a mixture."""
        means = self._one.means + pair.means[0]
        return Parameters(self._one.family, pair.weights[0], means, pair.covariances, pair.precisions_cholesky)

    def _log_density(self, rows: _Rows, pairs: _Pairs) -> Floats:
        """Return the weighted log-density of each half, (n_pairs, 2, n_rows), nats."""
        n_halves, n_features = pairs.weights.size, self._one.n_features
        means = pairs.means.reshape(n_halves, n_features)
        z = self._shape.standardise_all(rows.x, means, pairs.precisions_cholesky)
        found = np.einsum("kdn,kdn->kn", z, z)
        found *= -0.5
        log_norm = self._shape.log_norm(pairs.precisions_cholesky, n_halves, n_features)
        found += (np.log(pairs.weights).ravel() + log_norm)[:, np.newaxis]
        result: Floats = found.reshape(*pairs.weights.shape, -1)
        return result

    def _m_step(self, rows: _Rows, resp: Floats) -> _Pairs:
        """Return the pairs that these responsibilities, (n_pairs, 2, n_rows), give; the singular ones are left out."""
        x, shape, one = rows.x, self._shape, self._one
        counts = resp.sum(axis=2)
        there = counts.min(axis=1) > 0
        resp, counts = resp[there], counts[there]
        means = resp @ x.T / counts[..., np.newaxis]
        weights = counts / counts.sum(axis=1, keepdims=True)
        if not len(counts):
            none = shape.subset(one.covariances, slice(0)), shape.subset(one.precisions_cholesky, slice(0))
            return _Pairs(weights, means, *none, shape)
        n_halves = counts.size
        central = shape.weighted_covariances(x, resp.reshape(n_halves, -1), means.reshape(n_halves, -1))
        if central is None:
            return _Pairs(weights, means, one.covariances, one.precisions_cholesky, shape)
        pairs = [(slice(2 * i, 2 * i + 2), share * len(rows.v)) for i, share in enumerate(weights)]
        if rows.shrinkage:
            for pair, n_rows in pairs:
                central[pair] = shape.shrink(n_rows, central[pair], rows.shrinkage)
        covariances, previous = shape.regularise(central, self._floor), shape.subset(one.covariances, [0, 0])
        for pair, n_rows in pairs:
            covariances[pair] = one.family.maximise(n_rows, covariances[pair], previous)
        cholesky, regular = _factored(shape, covariances)
        alive = regular.reshape(-1, 2).all(axis=1) & np.isfinite(means).all(axis=(1, 2))
        return _Pairs(weights, means, covariances, cholesky, shape).only(alive)


def _factored(shape: Shape, covariances: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the precision Cholesky of each covariance, and which of them are regular."""
    try:
        return shape.precisions_cholesky(covariances), np.ones(len(covariances), dtype=bool)
    except CollapsedComponentError:
        found, regular = np.ones_like(covariances), np.zeros(len(covariances), dtype=bool)
        for k in range(len(covariances)):
            with suppress(CollapsedComponentError):
                found[k], regular[k] = shape.precisions_cholesky(covariances[[k]])[0], True
        return found, regular


def _partitions(X: Floats, v: Floats) -> Iterator[NDArray[np.bool_]]:
    """Yield starts of a split: which rows belong to the second half.

    On either side of the mean along the first principal axis, and along the axis with the least kurtosis, which two
    groups side by side have; and the outer half of the rows, for a narrow group within a wide one.
    """
    y = X - mean_row(X, v)
    values, vectors = np.linalg.eigh((v * y.T) @ y / v.sum())
    yield y @ _signed(vectors[:, -1]) > 0
    z = y @ (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1] + 1e-300)))
    squared = np.einsum("nd,nd->n", z, z)
    if X.shape[1] > 1:
        _, vectors = np.linalg.eigh((v * squared * z.T) @ z)
        yield z @ _signed(vectors[:, 0]) > 0
    order = np.argsort(squared, kind="stable")
    middle = order[min(np.searchsorted(np.cumsum(v[order]), v.sum() / 2), len(order) - 1)]
    yield squared > squared[middle]


def _signed(vector: Floats) -> Floats:
    """Return the eigenvector or its opposite: always the same of the two."""
    return vector if vector[np.argmax(np.abs(vector))] > 0 else -vector


def _is_thin(parameters: Parameters, floor: float) -> bool:
    """Return whether in some direction more of a component's variance is the floor than comes from rows.

    Rows of few distinct values make such components (29 of 50 irises of one species have petals 0.2 wide): their
    likelihood is high, and says nothing.
    """
    shape = parameters.shape
    try:
        shape.precisions_cholesky(shape.regularise(parameters.covariances, -2 * floor))
    except CollapsedComponentError:
        return True
    return False
