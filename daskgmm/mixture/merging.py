"""Components as one, with weight, mean and covariance of all of them; and a near mixture of fewer components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import family_of_shape
from daskgmm.mixture.parameters import Parameters

Integers = NDArray[np.int64]


def merged(parameters: Parameters, pairs: Integers) -> Parameters | None:
    """Return each pair as one component with the weight, mean and covariance of both; None where that is singular.

    A covariance that is common to all components stays as it is.
    """
    p = parameters
    w = np.maximum(p.weights[pairs], 1e-300)
    total = w.sum(axis=1)
    share = w / total[:, np.newaxis]
    difference = p.means[pairs[:, 1]] - p.means[pairs[:, 0]]
    means = p.means[pairs[:, 0]] + share[:, 1:] * difference
    between = np.concatenate(
        [p.shape.of_points(np.outer(d, [-s[1], s[0]]), s) for d, s in zip(difference, share, strict=True)]
    )
    covariances = p.shape.joined(p.covariances, pairs, share, between)
    covariances = p.family.alone(total, covariances, p.shape.subset(p.covariances, pairs[:, 0]))
    try:
        return Parameters.from_covariances(p.family, total, means, covariances)
    except CollapsedComponentError:
        return None


def reduced(p: Parameters, n_components: int) -> tuple[Parameters, Integers]:
    """Return a mixture of fewer components near another, and the number in it of each component of that, (K,), int64.

    Of all pairs those become one, step by step, that raise the bound B on the Kullback-Leibler divergence least, with
    2 B = (w_i + w_j) log|S_ij| - w_i log|S_i| - w_j log|S_j| (Runnalls 2007, doi:10.1109/TAES.2007.4383588). Weights,
    and with full covariances mean and covariance of the whole, stay. A common covariance becomes one of each.
    """
    p = _separate(p)
    shape, groups, cost = p.shape, np.arange(p.n_components), costs(p)
    while p.n_components > n_components:
        i, j = (int(n) for n in np.unravel_index(np.argmin(cost), cost.shape))
        one = _joined(p, np.array([[i, j]]))
        others = np.delete(np.arange(p.n_components), j)
        covariances = p.covariances.copy()
        shape.put(covariances, i, shape.component(one.covariances, 0))
        weights, means = p.weights.copy(), p.means.copy()
        weights[i], means[i] = one.weights[0], one.means[0]
        own = weights[others], means[others], shape.subset(covariances, others)
        p = Parameters.from_covariances(p.family, *own)
        groups[groups == j] = i
        groups[groups > j] -= 1
        cost = cost[np.ix_(others, others)]
        if p.n_components > n_components:
            found = _costs(p, i)
            cost[i, i + 1 :], cost[:i, i] = found[i + 1 :], found[:i]
    return p, groups


def costs(p: Parameters) -> Floats:
    """Return B of each pair of components as one, (n_components, n_components), infinite on and below the diagonal.

    It bounds what the log-likelihood of the rows loses, nats a row (see `reduced`).
    """
    p = _separate(p)
    cost = np.full((p.n_components, p.n_components), np.inf)
    for k in range(p.n_components - 1):
        cost[k, k + 1 :] = _costs(p, k)[k + 1 :]
    return cost


def _separate(p: Parameters) -> Parameters:
    """Return the same mixture, each component with a covariance of its own."""
    shape, covariances = p.shape.separate(p.covariances, p.n_components)
    return Parameters.from_covariances(family_of_shape(shape), p.weights, p.means, covariances)


def _costs(p: Parameters, k: int) -> Floats:
    """Return B of component k with each, (n_components,), infinite with itself."""
    others = np.delete(np.arange(p.n_components), k)
    both = _joined(p, np.column_stack([np.full_like(others, k), others]))
    apart, together = (q.weights * q.shape.log_norm(q.precisions_cholesky, *q.means.shape) for q in (p, both))
    return np.insert(apart[others] + apart[k] - together, k, np.inf)


def _joined(p: Parameters, pairs: Integers) -> Parameters:
    found = merged(p, pairs)
    if found is None:  # (of positive definite covariances, which their sum is too, but for overflow)
        raise CollapsedComponentError("the covariance of two components as one", "be finite", "another", "Rescale.")
    return found
