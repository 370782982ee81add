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
    # Of a half, in units of the mean row weight: rows of a covariance in general position, twice.
    least = 2 * (X.shape[1] + 1) * w.sum() / len(X)
    most = MOST_ROWS if n_fitted is None else max(MOST_ROWS, MOST_A_FEATURE * X.shape[1])
    chosen = []
    for k, (rows, resp) in enumerate(members):
        mass = float(w[rows] @ resp)
        if not mass > 0:
            continue
        n_seen = len(rows) if n_fitted is None else int(np.searchsorted(rows, n_fitted))
        own = np.arange(n_seen) if n_seen <= most else np.sort(rng.permutation(n_seen)[:most])
        fitted = rows[own], resp[own]
        share = float(w[fitted[0]] @ fitted[1]) / mass if n_fitted is not None else 1.0
        if not mass * share >= 2 * least:
            continue
        others = slice(n_seen, min(len(rows), n_seen + most))
        judged = None if n_fitted is None else (rows[others], resp[others])
        chosen.append(_One(k, fitted, judged, least / (mass * share), mass / float(w.sum())))
    shrinkage = 0.0 if n_fitted is None else float(X.shape[1])
    return [
        split
        for group in _groups(chosen, X.shape[1])
        for split in _best_splits(parameters, X, w, group, floor=floor, shrinkage=shrinkage)
    ]


@dataclass(frozen=True)
class _One:
    """A component to be split: its rows, and their responsibilities, for fit and judgement.

    No half has a share below `least`; `scale` is the component's weight in units of all weight.
    """

    k: int
    fitted: Members
    judged: Members | None
    least: float
    scale: float


#: Starts of a split.
_STARTS = 3
#: Numbers of an array over the halves of all pairs that go together, at most, of one component and of several: what
#: fits caches. (Several have copies of their rows.)
_AT_ONCE, _AT_ONCE_OF_SEVERAL = 1 << 18, 1 << 16


def _groups(chosen: Sequence[_One], n_features: int) -> Iterator[list[_One]]:
    """Yield components that are split together, neighbours: on small arrays most time goes between operations.

    (Six components of 3,000 rows and two features: 21 ms alone, 15 in pairs.)
    """
    group: list[_One] = []
    for one in chosen:
        longest = max(len(other.fitted[0]) for other in [*group, one])
        if group and 2 * _STARTS * (len(group) + 1) * longest * n_features > _AT_ONCE_OF_SEVERAL:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _best_splits(
    parameters: Parameters, X: Floats, w: Floats, group: Sequence[_One], *, floor: float, shrinkage: float
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
        thin = _is_thin(halves, floor) and not _is_thin(parameters.subset([one.k]), floor)
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
