"""A floor of covariances, and the exact M-step above it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior
from daskgmm.mixture.shapes.shape import Shape


@dataclass(frozen=True)
class Floor(Prior):
    """Every covariance less `least` is positive semidefinite, and maximises the likelihood under that constraint.

    So EM with it is an ascent, as with a ridge it is not. Beneath the floor the density of this prior is 0, and above
    it flat.

    Attributes
    ----------
    least : float64, in the shape of the covariance of one component, positive definite
    """

    least: Floats

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        return replace(rows, central=shape.floored(rows.central, self.least))

    def kept(self, parameters: Parameters) -> Parameters:
        p = parameters
        covariances = p.shape.floored(p.covariances, self.least)
        if np.array_equal(covariances, p.covariances):
            return p
        return replace(p, covariances=covariances, precisions_cholesky=p.shape.precisions_cholesky(covariances))

    @property
    def floor(self) -> float:
        # (In any direction: a matrix is at least its smallest eigenvalue there.)
        return least_eigenvalue(self.least)

    @property
    def least_covariance(self) -> Floats | float:
        return self.least


def least_eigenvalue(least: Floats) -> float:
    """Return the smallest eigenvalue of a floor, in whatever shape."""
    matrix = least.shape[-2:]
    return float(np.linalg.eigvalsh(least).min() if len(matrix) == 2 and matrix[0] == matrix[1] > 1 else least.min())
