"""One component: the optimum is known without a search, as every responsibility is 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.start import moments_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import maximise
from daskgmm.mixture.row_set import RowSet

Floats = NDArray[np.float64]


def of_rows(row_set: RowSet, options: FitOptions) -> Parameters:
    """Return one component with the mean and variances of all rows: its image under one EM step is the optimum.

    Features are as if uncorrelated, which the step mends; for diag and spherical covariances it is the optimum.
    """
    return _component(row_set.mean[np.newaxis], np.ones(1), options, within=row_set.variances[np.newaxis])


def of_sample(X: Floats, weights: Floats, options: FitOptions) -> Parameters:
    """Return the optimum of rows in memory, (n_rows, n_features), of these weights, (n_rows,)."""
    return _component(X, weights, options)


def _component(X: Floats, weights: Floats, options: FitOptions, *, within: Floats | None = None) -> Parameters:
    every = [(np.arange(len(X)), weights)]
    found = moments_of(X, every, options.family.shape, np.random.RandomState(0), within=within)
    return maximise(found, options.family, previous=found.central, prior=options.whole_prior)
