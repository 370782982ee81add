"""A mixture of more components from a smaller one: its components split, so that the likelihood does not fall."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.merge import look
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import Random, splits

Floats = NDArray[np.float64]

#: Halves of a component of which nothing is known lie this many of its standard deviations from its mean. Where it is
#: a Gaussian, the likelihood falls by (2 x 0.2^4)^2 / 48 = 2e-7 nats a row of its own.
APART = 0.2
#: A tied covariance stays as it is, so that the density becomes wider: by 4e-8 nats a row.
APART_TIED = 0.02
#: Each further pair of halves is closer, so that no two components are alike: EM would keep them so.
CLOSER = 0.7


def grown(
    parameters: Parameters, X: Floats, weights: Floats, *, n_components: int, reg_covar: float, rng: Random
) -> Parameters | None:
    """Return a mixture of so many components, of which each further one is the split that gains most; None without.

    Costs two E-steps a component more, and the splits that `splits` finds.

    Parameters
    ----------
    parameters : Parameters
        The smaller mixture.
    X : (n_rows, n_features), float64
    weights : (n_rows,), float64
        Row weights.
    reg_covar : float
        Added to every variance, in original units squared.
    rng : Generator or RandomState
        Draws rows where a component has many.
    """
    while parameters.n_components < n_components:
        members = look(parameters, X, weights).members
        found = splits(parameters, X, weights, members, reg_covar=reg_covar, rng=rng)
        if not found:
            return None
        split = max(found, key=lambda s: s.gain)
        larger = _with_halves(
            parameters, split.k, split.halves.weights, split.halves.means,
            None if parameters.kind.pooled else split.halves.covariances,
        )  # fmt: skip
        if larger is None:
            return None
        parameters = larger
    return parameters


def halved(parameters: Parameters, *, n_components: int) -> Parameters | None:
    """Return a mixture of so many components and nearly the same density: the heaviest is halved until there are.

    The halves lie on its longest axis and have its mean and covariance together. None where that is singular.
    """
    kind, apart = parameters.kind, APART_TIED if parameters.kind.pooled else APART
    while parameters.n_components < n_components:
        k = int(np.argmax(parameters.weights))
        root = kind.scale_noise(np.eye(parameters.n_features), parameters.covariances, k)
        _, deviations, vectors = np.linalg.svd(root)
        shift = apart * deviations[0] * vectors[0]
        apart *= CLOSER
        points = np.ascontiguousarray(np.stack([shift, -shift], axis=1))
        packed = np.empty((1, kind.n_statistics(parameters.n_features, exact=True)))
        kind.exact_statistics(points, np.full(2, 0.5), packed[0], np.empty_like(points))
        n_features = parameters.n_features
        between = kind.central_moments(packed[:, : -1 - n_features], np.zeros((1, n_features)))
        means = parameters.means[k] + np.stack([shift, -shift])
        within = None if kind.pooled else np.repeat(parameters.covariances[[k]] - between, 2, axis=0)
        larger = _with_halves(parameters, k, np.full(2, 0.5), means, within)
        if larger is None:
            return None
        parameters = larger
    return parameters


def _with_halves(p: Parameters, k: int, shares: Floats, means: Floats, covariances: Floats | None) -> Parameters | None:
    """Return the mixture with two components in the place of one; a tied covariance stays. None where one is singular.

    The second half comes last.
    """
    weights = np.append(p.weights, p.weights[k] * shares[1])
    weights[k] *= shares[0]
    located = np.concatenate([p.means, means[1:]])
    located[k] = means[0]
    spread = p.covariances
    if covariances is not None:
        spread = np.concatenate([p.covariances, covariances[1:]])
        spread[k] = covariances[0]
    try:
        return Parameters.from_covariances(p.kind, weights / weights.sum(), located, spread)
    except CollapsedComponentError:
        return None
