"""A mixture of more components from a smaller one: its components split, so that the likelihood does not fall."""

from __future__ import annotations

import numpy as np

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.merge import look
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import Random, Split

#: Each further pair of halves is closer, so that no two components are alike: EM would keep them so.
CLOSER = 0.7


def grown(
    parameters: Parameters, X: Floats, weights: Floats, *, n_components: int, floor: float, rng: Random
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
    floor : float
        What the prior adds to every variance, in squared units.
    rng : Generator or RandomState
        Draws rows where a component has many.
    """
    while parameters.n_components < n_components:
        seen = look(parameters, X, weights)
        found = [s for s in seen.splits(parameters, weights, floor=floor, rng=rng) if s.adds]
        if not found:
            return None
        larger = _split(parameters, max(found, key=lambda s: s.gain))
        if larger is None:
            return None
        parameters = larger
    return parameters


def halved(parameters: Parameters, *, n_components: int) -> Parameters | None:
    """Return a mixture of so many components and nearly the same density: the heaviest is halved until there are.

    The halves lie on its longest axis and have its mean and covariance together. None where that is singular.
    """
    family, shape, apart = parameters.family, parameters.shape, parameters.shape.apart
    while parameters.n_components < n_components:
        k = int(np.argmax(parameters.weights))
        root = shape.scale_noise(np.eye(parameters.n_features), parameters.covariances, k)
        _, deviations, vectors = np.linalg.svd(root)
        shift = apart * deviations[0] * vectors[0]
        apart *= CLOSER
        between = shape.of_points(np.stack([shift, -shift], axis=1), np.full(2, 0.5))
        means = parameters.means[k] + np.stack([shift, -shift])
        # (Half of it and half of it, less what lies between the halves; of each of them.)
        halves = shape.joined(parameters.covariances, np.full((2, 2), k), np.full((2, 2), 0.5), -between)
        within = family.maximise(np.full(2, 0.5), halves, shape.subset(parameters.covariances, [k, k]))
        try:
            parts = Parameters.from_covariances(family, np.full(2, 0.5), means, within)
        except CollapsedComponentError:
            return None
        larger = _split(parameters, Split(k, parts, 0.0, 0.0))
        if larger is None:
            return None
        parameters = larger
    return parameters


def _split(p: Parameters, split: Split) -> Parameters | None:
    """Return the mixture after a split, with a component more, the last; None where one is singular.

    A common covariance stays.
    """
    k = p.n_components
    weights, means = np.append(p.weights, 0.0), np.append(p.means, p.means[-1:], axis=0)
    covariances = p.shape.subset(p.covariances, np.append(np.arange(k), k - 1))
    split.write(p, k, weights, means, covariances)
    try:
        left = p.with_more_noise(split.given(p))
        return left.changed(weights, means, p.family.together(weights / weights.sum(), covariances))
    except CollapsedComponentError:
        return None
