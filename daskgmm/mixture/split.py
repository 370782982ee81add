"""One component becomes two: the split that EM finds on the component's own rows, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.pairs import Em, Pairs, RowsOfSeveral
from daskgmm.mixture.parameters import Parameters

Members = tuple[NDArray[np.int64], Floats]
Random = np.random.Generator | np.random.RandomState

#: Rows of a component that its split is fitted to, at most, and for each feature; more are drawn.
MOST_ROWS, MOST_A_FEATURE = 1000, 120
#: EM iterations of each start of a split, and of the best of them then.
FIRST_ITERATIONS, LAST_ITERATIONS = 3, 7

#: The noise, where a component has its number.
NOISE = -1


@dataclass(frozen=True)
class Split:
    """Component k becomes the two components `halves`.

    Where these are one component and noise, they come of the component k and the noise; of the noise alone where k is
    `NOISE`.
    Gains are in nats per unit of row weight: `hope` on the rows that the split was fitted to, `gain` on others, which
    it has not seen; the same where there are no others.
    """

    k: int
    halves: Parameters
    gain: float
    hope: float

    @property
    def adds(self) -> bool:
        """Whether there is a component more."""
        return self.halves.noise is None or self.k == NOISE

    def write(self, p: Parameters, other: int, weights: Floats, means: Floats, covariances: Floats) -> None:
        """Write what becomes of a component of p, or of its noise, into its own place and another one."""
        whole = self._whole(p)
        places = (other,) if self.k == NOISE else (self.k, other)
        for half, slot in zip(range(self.halves.n_components), places, strict=False):
            weights[slot], means[slot] = whole * self.halves.weights[half], self.halves.means[half]
            p.shape.put(covariances, slot, p.shape.component(self.halves.covariances, half))

    def given(self, p: Parameters) -> float:
        """Return the weight that the noise gets: below 0 where it loses some, 0 where it has no part."""
        if self.halves.noise is None or p.noise is None:
            return 0.0
        return self._whole(p) * self.halves.noise.weight - p.noise.weight

    def _whole(self, p: Parameters) -> float:
        of_noise = 0.0 if self.halves.noise is None or p.noise is None else p.noise.weight
        return of_noise if self.k == NOISE else float(p.weights[self.k]) + of_noise


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
    found = [rows_of_one(parameters, k, own, X, w, n_fitted=n_fitted, rng=rng) for k, own in enumerate(members)]
    shrinkage = 0.0 if n_fitted is None else parameters.family.least_rows(X.shape[1]) - 1.0
    return [
        split
        for group in _groups([one for one in found if one is not None], X.shape[1])
        for split in _best_splits(parameters, X, w, group, floor=floor, shrinkage=shrinkage)
    ]


@dataclass(frozen=True)
class RowsOfOne:
    """A component to be split, or the noise: its rows, and their responsibilities, for fit and judgement.

    No half has a share below `least`; `scale` is the component's weight in units of all weight.
    """

    k: int
    fitted: Members
    judged: Members | None
    least: float
    scale: float


def rows_of_one(
    parameters: Parameters, k: int, members: Members, X: Floats, w: Floats, *, n_fitted: int | None, rng: Random
) -> RowsOfOne | None:
    """Return what a component has for a split; None where its rows are too few. Arguments as for `splits`."""
    rows, resp = members
    n_rows, n_features = X.shape
    mass = float(w[rows] @ resp)
    if not mass > 0:
        return None
    most = MOST_ROWS if n_fitted is None else max(MOST_ROWS, MOST_A_FEATURE * n_features)
    n_seen = len(rows) if n_fitted is None else int(np.searchsorted(rows, n_fitted))
    own = np.arange(n_seen) if n_seen <= most else np.sort(rng.permutation(n_seen)[:most])
    fitted = rows[own], resp[own]
    share = float(w[fitted[0]] @ fitted[1]) / mass if n_fitted is not None else 1.0
    # Of a half, in units of the mean row weight: rows of a covariance in general position, twice.
    least = 2 * parameters.family.least_rows(n_features) * w.sum() / n_rows
    if not mass * share >= 2 * least:
        return None
    others = slice(n_seen, min(len(rows), n_seen + most))
    judged = None if n_fitted is None else (rows[others], resp[others])
    return RowsOfOne(k, fitted, judged, least / (mass * share), mass / float(w.sum()))


#: Starts of a split.
_STARTS = 3
#: Numbers of an array over the halves of all pairs that go together, at most, of one component and of several: what
#: fits caches. (Several have copies of their rows.)
_AT_ONCE, _AT_ONCE_OF_SEVERAL = 1 << 18, 1 << 16


def _groups(chosen: Sequence[RowsOfOne], n_features: int) -> Iterator[list[RowsOfOne]]:
    """Yield components that are split together, neighbours: on small arrays most time goes between operations.

    (Six components of 3,000 rows and two features: 21 ms alone, 15 in pairs.)
    """
    group: list[RowsOfOne] = []
    for one in chosen:
        longest = max(len(other.fitted[0]) for other in [*group, one])
        if group and 2 * _STARTS * (len(group) + 1) * longest * n_features > _AT_ONCE_OF_SEVERAL:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _best_splits(
    parameters: Parameters, X: Floats, w: Floats, group: Sequence[RowsOfOne], *, floor: float, shrinkage: float
) -> list[Split]:
    """Return the best split of each component of a group that has one."""
    which = [one.k for one in group]
    em = Em(parameters, which, floor=floor, least=np.array([one.least for one in group]), shrinkage=shrinkage)
    rows = RowsOfSeveral.of(X, w, [one.fitted for one in group], parameters.means[which])
    sides = [list(_partitions(X[own], rows.v[i, : len(own)])) for i, (own, _) in enumerate(o.fitted for o in group)]
    of = np.repeat(np.arange(len(group)), [len(each) for each in sides])
    second = np.zeros((len(of), rows.v.shape[1]), dtype=bool)
    for row, side in zip(second, (side for each in sides for side in each), strict=True):
        row[: len(side)] = side
    best: list[tuple[float, Pairs] | None] = [None] * len(group)
    at_once = max(1, _AT_ONCE // (2 * rows.x[0].size))
    for begin in range(0, len(of), at_once):
        own = slice(begin, begin + at_once)
        pairs = em.run(rows, em.of_sides(rows, second[own], of[own]), FIRST_ITERATIONS)
        for score, pair in zip(em.scores(rows, pairs), pairs.each(), strict=True):
            # (Of starts that lead to the same halves, in either order, rounding must not choose.)
            i, rounded = int(pair.of[0]), round(score, 9)
            before = best[i]
            if before is None or rounded > before[0]:
                best[i] = rounded, pair
    there = [found[1] for found in best if found is not None]
    if not there:
        return []
    pairs = em.run(rows, Pairs.together(there), LAST_ITERATIONS)
    hopes = _gains(em, rows, pairs)
    gains = hopes
    if group[0].judged is not None:
        judged = RowsOfSeveral.of(X, w, [one.judged or one.fitted for one in group], parameters.means[which])
        gains = _gains(em, judged, pairs)
    found = []
    for pair, gain, hope in zip(pairs.each(), gains, hopes, strict=True):
        one, halves = group[int(pair.of[0])], em.mixture(pair)
        thin = is_thin(halves, floor) and not is_thin(parameters.subset([one.k]), floor)
        if not thin and np.isfinite(gain) and hope > 0:
            found.append(Split(one.k, halves, gain * one.scale, hope * one.scale))
    return found


def _gains(em: Em, rows: RowsOfSeveral, pairs: Pairs) -> list[float]:
    """Return what each pair gains over its component, nats per unit of weight; nothing where there are no rows."""
    ones = em.scores_of_ones(rows)
    return [
        score - ones[i] if rows.weights[i] > 0 else 0.0
        for i, score in zip(pairs.of, em.scores(rows, pairs), strict=True)
    ]


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


def is_thin(parameters: Parameters, floor: float) -> bool:
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
