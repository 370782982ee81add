"""A mixture as seen in one or two of its features: exact, since marginals of Gaussians are Gaussians."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters

#: Components of less weight do not decide how far a picture reaches, nor does this part of the mixture at either end.
_LEAST_WEIGHT, _TAIL = 1e-3, 5e-4


def telling_features(p: Parameters, n_most: int) -> list[int]:
    """Return the numbers of the features in which components differ most; all, in their order, where they are few.

    What orders them, the greatest first, is the variance of the means between components over the mean variance within
    them.
    """
    if p.n_features <= n_most:
        return list(range(p.n_features))
    p = p.of_components
    centred = p.means - p.weights @ p.means
    between, within = p.weights @ centred**2, p.weights @ np.broadcast_to(p.deviations**2, p.means.shape)
    return [int(j) for j in np.argsort(-between / within, kind="stable")[:n_most]]


def marginal_covariances(p: Parameters, chosen: list[int]) -> Floats:
    """Return the covariances of some features, (n_components, n_chosen, n_chosen), float64."""
    unit = np.eye(p.n_features)
    roots = [p.shape.scale_noise(unit, p.covariances, k)[:, chosen] for k in range(p.n_components)]
    return np.stack([root.T @ root for root in roots])


def binned_densities(p: Parameters, feature: int, edges: Floats) -> Floats:
    """Return the mean density of each component, times its weight, in each bin of a feature.

    As means over bins they are exact, and no component is missed or without bound, however narrow it is.

    Returns
    -------
    (n_components, n_bins), float64
        In units of 1 over those of the feature.
    """
    mean, deviation = _marginal(p, feature)
    below = ndtr((edges - mean[:, np.newaxis]) / deviation[:, np.newaxis])
    result: Floats = p.weights[:, np.newaxis] * np.diff(below, axis=1) / np.diff(edges)
    return result


def frame(p: Parameters, feature: int, values: Floats | None = None) -> tuple[float, float]:
    """Return from where to where a picture of a feature reaches.

    It holds all but a thousandth of the mixture, two standard deviations of each component of a thousandth or more, and
    99 of 100 values, if there are any.
    """
    p = p.of_components
    mean, deviation = _marginal(p, feature)
    heavy = p.weights >= min(_LEAST_WEIGHT, p.weights.max())
    lows, highs = mean - 2 * deviation, mean + 2 * deviation
    ends = [float(lows[heavy].min()), float(highs[heavy].max()), *_quantiles(p.weights, mean, deviation)]
    if values is not None and len(values):
        ends += [float(q) for q in np.quantile(values, [0.005, 0.995])]
    low, high = min(ends), max(ends)
    # (Numbers that can be told apart are needed for 400 bins and their ticks.)
    margin = max(0.03 * (high - low), 1e4 * float(np.spacing(max(abs(low), abs(high)))))
    return low - margin, high + margin


def outside(p: Parameters, chosen: list[int], frames: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Return which components have their mean outside of a picture, (n_components,), bool."""
    low, high = np.array(frames).T
    means = p.means[:, chosen]
    result: NDArray[np.bool_] = ((means < low) | (means > high)).any(axis=1)
    return result


def _marginal(p: Parameters, feature: int) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each component in a feature, (n_components,), float64."""
    return p.means[:, feature], np.broadcast_to(p.deviations, p.means.shape)[:, feature]


def _quantiles(weights: Floats, mean: Floats, deviation: Floats) -> list[float]:
    """Return where all but the outermost parts of a mixture of one feature lies."""
    origin, scale = float(weights @ mean), float(deviation.max() + np.ptp(mean))
    m, s = (mean - origin) / scale, deviation / scale

    def below(x: float, part: float) -> float:
        return float(weights @ ndtr((x - m) / s)) - part

    # (Within 10 standard deviations of some mean, which are 11 scales from the origin at most.)
    return [origin + scale * float(brentq(below, -12.0, 12.0, args=(q,))) for q in (_TAIL, 1 - _TAIL)]
