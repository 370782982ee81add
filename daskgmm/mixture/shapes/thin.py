"""How thin a component is: what it owes to the floor of variances, and which directions count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDOFF = float(np.finfo(np.float64).eps)

#: Variance in units of the floor below which rows are alike. (Smooth parts of photographs, 7,700 of 40,000 rows,
#: have 1.04 to 10 in 15 directions, and are no point masses.)
POINT_MASS = 1.1


def gain(own: Floats, whole: Floats, floor: float) -> Floats:
    """Return what directions, the last axis, that are hardly more than the floor gain a row together, nats.

    0 where these are not most of them.
    """
    # (None at all, or less, is what rounding leaves where other directions are so wide that it hides the floor.)
    counted = (own > 0) & (own < POINT_MASS * floor) & (whole > own)
    gains = 0.5 * np.log(np.where(counted, whole / np.where(counted, own, 1.0), 1.0)).sum(axis=-1)
    return np.where(2 * counted.sum(axis=-1) > own.shape[-1], gains, 0.0)


#: Shares of the floor, and of the variances of its features, below which a variance is what rounding leaves of none.
#: (The sum of two features of float32 has a share of 1e-14 that they have not, the direction of the mean of 64 pixels,
#: which was subtracted in float32, 3e-12 to 5e-12.)
_OF_FLOOR, _OF_FEATURES = 1e-7, 1e-10


def still(means: Floats, floor: float) -> Floats:
    """Return the variance up to which a feature counts as constant, (n_features,), float64."""
    result: Floats = _OF_FLOOR * floor + (4 * ROUNDOFF * np.abs(means).max(axis=0)) ** 2
    return result


def varying(whole: Floats, still: Floats, floor: float) -> Floats:
    """Return the directions in which rows of this covariance, less the floor, vary: orthonormal, (n_features, n)."""
    n_features, variances = len(whole), np.diagonal(whole)
    moves = variances > still
    without = np.eye(n_features)[:, ~moves]
    if moves.any():
        # (In units of the features: small ones are none that do not vary.)
        scales = np.sqrt(variances[moves])
        values, vectors = np.linalg.eigh(whole[np.ix_(moves, moves)] / np.outer(scales, scales))
        noise = _OF_FEATURES + 4 * n_features * ROUNDOFF * floor / variances[moves].min()
        collinear = np.zeros((n_features, int((values <= noise).sum())))
        collinear[moves] = vectors[:, values <= noise] / scales[:, np.newaxis]
        without = np.hstack([without, collinear / np.linalg.norm(collinear, axis=0)])
    basis: Floats = np.linalg.qr(without, mode="complete")[0]
    return basis[:, without.shape[1] :]
