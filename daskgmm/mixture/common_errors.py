"""One measurement error for all rows: the mixture of the rows is that of the true values, each covariance with it.

The most likely V >= 0 is then known from the rows' own covariances: exact EM, for the price of a plain one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior
from daskgmm.mixture.shapes.shape import Shape

#: Of the variance that rows show: true values have at least so much in every direction, and a covariance an inverse.
LEAST = 1e-10


@dataclass(frozen=True)
class CommonErrors(Prior):
    """`errors`, (n_features, n_features), in every covariance: none is less.

    Its density is that of the true values' covariances being any: 0. What it gives maximises under that bound.
    """

    errors: Floats

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        true = shape.less(rows.central, self.errors, least=LEAST)
        return replace(rows, central=shape.plus(true, self.errors))


def with_errors(p: Parameters, errors: Floats) -> Parameters:
    """Return the mixture of rows with these errors, where true values have this one."""
    return _of(p, p.shape.plus(p.covariances, errors))


def without_errors(p: Parameters, errors: Floats, *, least: float = LEAST) -> Parameters:
    """Return the mixture of the true values, where rows with these errors have this one.

    Variances are at least a share `least` of those before.
    """
    return _of(p, p.shape.less(p.covariances, errors, least=least))


def _of(p: Parameters, covariances: Floats) -> Parameters:
    own = np.ascontiguousarray(covariances)
    return replace(p, covariances=own, precisions_cholesky=p.shape.precisions_cholesky(own))
