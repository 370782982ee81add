"""Ways out of a poor local optimum: two components become one, and a third becomes two, where that promises a gain.

EM moves components a little at a time: two that share one group of rows, and one that spans two groups, stay so. Such a
mixture is a maximum of the likelihood all the same; a step over the valley needs one component less here and one more
there at once (Ueda, Nakano, Ghahramani and Hinton 2000, doi:10.1162/089976600300015088). What each costs and gains is
computed here on rows in memory; EM then settles the proposals, and the likelihood says which to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.block import Block, Workspace
from daskgmm.mixture.estep import Densities, softmax
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.plan import DOUBLE, Plan, make_plan
from daskgmm.mixture.split import Members, Random, Split, mean_row, splits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: A row belongs to a component for its split if its responsibility is at least this.
SMALLEST_RESP = 0.01
#: A move is proposed where its cost is at most so many times its gain: the gain is what a split gives if nothing else
#: moves, and EM often makes much more of it (photographs: +0.015 nats of a move whose cost was four times its gain).
HOPE = 20.0
#: How many others each component may be merged with: the nearest.
NEAREST = 3


@dataclass(frozen=True)
class _Merge:
    """One component less: i and j become one, or j is dropped where i stays as it is.

    `cost` is the mean log-likelihood that goes with it if the others stay, nats per unit of row weight; `covariance` is
    None where that of i, or the tied one, stays.
    """

    i: int
    j: int
    weight: float
    mean: Floats
    covariance: Floats | None
    cost: float


def offspring(
    parameters: Parameters,
    X: Floats,
    weights: Floats | None,
    *,
    n_most: int,
    reg_covar: float,
    rng: Random,
) -> list[Parameters]:
    """Return mixtures of as many components that EM may take to a higher log-likelihood, the most promising first.

    In each, two components of the given mixture are merged (or one that is hardly needed is dropped) and another is
    split in two. None is given where no such move promises a gain. Costs some two E-steps, and two components' worth of
    exact E-steps on each component's own rows, 1000 at most, for each of some twenty iterations.

    Parameters
    ----------
    parameters : Parameters
        A mixture at, or near, a maximum of the likelihood of the rows.
    X : (n_rows, n_features), float64
    weights : (n_rows,), float64, or None
        Row weights, not all zero; None means that every row weighs 1.
    n_most : int
        Number of mixtures at most; they split different components as far as there are such.
    reg_covar : float
        Added to every variance, in original units squared.
    rng : Generator or RandomState
        Draws rows where a component has more than 1000.
    """
    if parameters.n_components < 3 or n_most < 1:
        return []
    w = np.ones(len(X)) if weights is None else weights
    merges, members = _survey(parameters, X, w)
    found_splits = splits(parameters, X, w, members, reg_covar=reg_covar, rng=rng)
    found: list[Parameters] = []
    for split, merge in _ranked(found_splits, merges):
        child = _child(parameters, split, merge)
        if child is not None:
            found.append(child)
        if len(found) == n_most:
            break
    return found


def _ranked(splits: list[Split], merges: list[_Merge]) -> Iterator[tuple[Split, _Merge]]:
    """Yield the moves that promise a gain: the best of each component to split, then the second best, and so on."""
    moves = [
        sorted((m for m in merges if s.k not in (m.i, m.j) and m.cost < HOPE * s.gain), key=lambda m: m.cost)
        for s in splits
    ]
    for turn in range(len(merges)):
        rest = [(s, m[turn]) for s, m in zip(splits, moves, strict=True) if turn < len(m)]
        yield from sorted(rest, key=lambda move: move[1].cost - move[0].gain)


def _child(parameters: Parameters, split: Split, merge: _Merge) -> Parameters | None:
    """Return the mixture after a split and a merge; None where it is singular or not finite."""
    p, halves = parameters, split.halves
    weights, means, covariances = p.weights.copy(), p.means.copy(), p.covariances.copy()
    whole = weights[split.k]
    weights[merge.i], means[merge.i] = merge.weight, merge.mean
    if merge.covariance is not None:
        covariances[merge.i] = merge.covariance
    for slot, half in ((split.k, 0), (merge.j, 1)):
        weights[slot], means[slot] = whole * halves.weights[half], halves.means[half]
        if not p.kind.pooled:
            covariances[slot] = halves.covariances[half]
    try:
        child = Parameters.from_covariances(p.kind, weights / weights.sum(), means, covariances)
    except CollapsedComponentError:
        return None
    finite = (child.weights, child.means, child.covariances, child.precisions_cholesky)
    return child if all(np.isfinite(a).all() for a in finite) else None


# -- merges, and which rows are whose: one pass over the rows ------------------------------------------------------


def _survey(parameters: Parameters, X: Floats, w: Floats) -> tuple[list[_Merge], list[Members]]:
    """Return the ways to do with one component less, and each component's rows and responsibilities."""
    p, pairs = parameters, _close_pairs(parameters)
    merged = _merged(p, pairs)
    if merged is None:
        return [], []
    plans = [make_plan(each, origin=mean_row(X, w)) for each in (p, merged)]
    lost, work = np.zeros(p.n_components + len(pairs)), Workspace()
    members: list[list[Members]] = [[] for _ in range(p.n_components)]
    for tile in Block(np.ascontiguousarray(X.T), w, 0).tiles():
        v = w[tile.first_row : tile.first_row + tile.x.shape[1]]
        resp, ratios = _ratios(tile, plans, pairs, work)
        lost -= np.log(np.maximum(ratios, np.exp(DOUBLE.smallest_log_resp))) @ v
        for k, r in enumerate(resp):
            own = np.flatnonzero((r > SMALLEST_RESP) & (v > 0))
            members[k].append((tile.first_row + own, r[own]))
    lost /= w.sum()
    # The weights of those that stay grow where one is dropped.
    lost[: p.n_components] += np.log1p(-np.minimum(p.weights, 1 - DOUBLE.unit_roundoff))
    merges = [_Merge(i, i, p.weights[i], p.means[i], None, float(lost[i])) for i in range(p.n_components)]
    for m, (i, j) in enumerate(pairs):
        covariance = None if p.kind.pooled else merged.covariances[m]
        cost = float(lost[p.n_components + m])
        merges.append(_Merge(int(i), int(j), float(merged.weights[m]), merged.means[m], covariance, cost))
    return [m for m in merges if np.isfinite(m.cost)], [_joined(parts) for parts in members]


def _ratios(tile: Block, plans: list[Plan], pairs: Integers, work: Workspace) -> tuple[Floats, Floats]:
    """Return the responsibilities, and the density of each row with one component less over what it is.

    Notes
    -----
    With r the responsibilities: 1 - r_i where i is dropped, and 1 - r_i - r_j + w p(x) / sum_k w_k p_k(x) where i and
    j become one of weight w and density p. Exact while the other components stay.
    """
    densities = Densities(tile.x, work)
    resp = densities.log_density(plans[0], complete=True).copy()
    log_likelihood, total = softmax(resp, np.empty(resp.shape[1]))
    resp /= total
    without = np.maximum(1 - resp, 0.0)
    both = densities.log_density(plans[1], complete=True)
    np.exp(np.minimum(both - log_likelihood, -DOUBLE.smallest_log_resp), out=both)
    both += np.maximum(without[pairs[:, 0]] - resp[pairs[:, 1]], 0.0)
    return resp, np.concatenate([without, both])


def _joined(parts: list[Members]) -> Members:
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([resp for _, resp in parts])


def _close_pairs(parameters: Parameters) -> Integers:
    """Return each component with the nearest others, (n_pairs, 2): |mu_i - mu_j|^2 in units of S_i plus of S_j."""
    p, n_components = parameters, parameters.n_components
    centres = np.ascontiguousarray(p.means.T)
    z, distance = np.empty_like(centres), np.empty((n_components, n_components))
    for k in range(n_components):
        own = p.kind.component(p.precisions_cholesky, k)
        p.kind.standardise(centres, p.means[k], own, z, np.empty_like(centres))
        distance[k] = np.einsum("dn,dn->n", z, z)
    distance += distance.T.copy()
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(NEAREST, n_components - 1)]
    pairs = np.stack([np.repeat(np.arange(n_components), nearest.shape[1]), nearest.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _merged(parameters: Parameters, pairs: Integers) -> Parameters | None:
    """Return each pair as one component with the weight, mean and covariance of both; None where that is singular.

    A tied covariance stays as it is.
    """
    p, n_features = parameters, parameters.n_features
    w = np.maximum(p.weights[pairs], 1e-300)
    total = w.sum(axis=1)
    share = w / total[:, np.newaxis]
    difference = p.means[pairs[:, 1]] - p.means[pairs[:, 0]]
    means = p.means[pairs[:, 0]] + share[:, 1:] * difference
    # The moments of two points: their packed second moments, in the shape of the kind.
    panel = np.empty((len(pairs), p.kind.n_statistics(n_features, exact=True)))
    for m, d in enumerate(difference):
        points = np.ascontiguousarray(np.outer(d, [-share[m, 1], share[m, 0]]))
        p.kind.exact_statistics(points, share[m], panel[m], np.empty_like(points))
    between = p.kind.central_moments(panel[:, : -1 - n_features], np.zeros((len(pairs), n_features)))
    if not p.kind.pooled:
        s = share.reshape(*share.shape, *[1] * (p.covariances.ndim - 1))
        covariances = s[:, 0] * p.covariances[pairs[:, 0]] + s[:, 1] * p.covariances[pairs[:, 1]] + between
    else:
        covariances = p.covariances
    try:
        return Parameters.from_covariances(p.kind, total, means, covariances)
    except CollapsedComponentError:
        return None
