"""A mixture of more components from a smaller one: its components split, so that the likelihood does not fall."""

from __future__ import annotations

import numpy as np

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.merge import look
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import Random, splits

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
        found = splits(parameters, seen.completed, weights, seen.members, floor=floor, rng=rng)
        if not found:
            return None
        split = max(found, key=lambda s: s.gain)
        larger = _with_halves(parameters, split.k, split.halves.weights, split.halves.means, split.halves.covariances)
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
        larger = _with_halves(parameters, k, np.full(2, 0.5), means, within)
        if larger is None:
            return None
        parameters = larger
    return parameters


def _with_halves(p: Parameters, k: int, shares: Floats, means: Floats, covariances: Floats) -> Parameters | None:
    """Return the mixture with two components in the place of one, the second half last.

    A common covariance stays. None where one is singular.
    """
    weights = np.append(p.weights, p.weights[k] * shares[1])
    weights[k] *= shares[0]
    located = np.concatenate([p.means, means[1:]])
    located[k] = means[0]
    spread = p.shape.subset(p.covariances, np.append(np.arange(p.n_components), k))
    for slot, half in ((k, 0), (p.n_components, 1)):
        p.shape.put(spread, slot, p.shape.component(covariances, half))
    try:
        return p.changed(weights, located, p.family.together(weights / weights.sum(), spread))
    except CollapsedComponentError:
        return None
