"""Moves of variational Bayes: two components become one, and the other is left to the prior.

Steps hardly ever empty a component that shares a group of rows with another one: the bound has a maximum where both
have part of it. It is higher with one of them, which has fewer numbers to pay for (Hughes and Sudderth 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.merge import Merge, look
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.variational import Posterior

#: Share of a component's rows below which nothing is gained by emptying it.
_EMPTY = 1e-9
#: So often a half of the moves is tried where all of them are no gain.
_HALVINGS = 3


def emptied(p: Parameters, X: Floats, weights: Floats) -> list[Posterior]:
    """Return posteriors with components emptied into others, the most promising first; the bound says which to keep.

    All pairs that promise a gain, the better half of them, and so on; the best one where none does. Components of a
    Dirichlet process are then in the order of their size, in which the bound is highest.

    Parameters
    ----------
    p : Posterior
    X : (n_rows, n_features), float64
    weights : (n_rows,), float64
        Row weights.
    """
    if not isinstance(p, Posterior):
        return []
    in_order = _ordered(p)
    found = [] if in_order is p else [in_order]
    ranked: list[tuple[float, Merge]] = []
    for merge in look(p, X, weights).merges:
        child = _without(p, [merge]) if merge.i != merge.j and _share(p, merge) > _EMPTY else None
        if child is not None:
            ranked.append(((p.divergence - child.divergence) / p.counts.sum() - merge.cost, merge))
    ranked.sort(key=lambda one: -one[0])
    chosen: list[Merge] = []
    for gain, merge in ranked:
        taken = {k for m in chosen for k in (m.i, m.j)}
        if (gain > 0 or not chosen) and not taken & {merge.i, merge.j}:
            chosen.append(merge)
    for n in dict.fromkeys(len(chosen) >> i for i in range(_HALVINGS)):
        child = _without(p, chosen[:n]) if n else None
        if child is not None:
            found.append(_ordered(child))
    return found


def _share(p: Posterior, merge: Merge) -> float:
    return float(min(p.counts[merge.i], p.counts[merge.j]) / p.counts.sum())


def _without(p: Posterior, merges: Sequence[Merge]) -> Posterior | None:
    """Return the posterior after merges of which none meets another; None where it is singular."""
    shares, shape = p.shares, p.shape
    weights, means, covariances = shares.weights.copy(), p.means.copy(), p.covariances.copy()
    alone = shape.component(p.prior.covariance, 0) / p.prior.degrees_of_freedom
    for merge in merges:
        whole = weights[merge.i] + weights[merge.j]
        merge.write(shape, weights, means, covariances)
        weights[merge.i], weights[merge.j], means[merge.j] = whole, 0.0, p.prior.mean
        shape.put(covariances, merge.j, alone)
    try:
        return p.like(Parameters.from_covariances(p.family, weights, means, covariances))
    except CollapsedComponentError:
        return None


def _ordered(p: Posterior) -> Posterior:
    """Return a posterior of a Dirichlet process with its largest component first; another as it is."""
    order = np.argsort(-p.counts, kind="stable")
    if not p.prior.process or (np.diff(order) > 0).all():
        return p
    return p.like(p.shares.subset(order))
