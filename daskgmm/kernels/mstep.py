"""The M-step: moments in, parameters and objective out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import NotFiniteError
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.statistics import SMALLEST_COUNT, Moments, Statistics, moments
from daskgmm.mixture.family import Family
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MStep:
    """The outcome of an M-step.

    Attributes
    ----------
    parameters : Parameters
        The parameters that maximise the expected complete-data log-likelihood, regularised.
    objective : float
        Mean log-likelihood per unit of row weight of the parameters that went *into* the E-step, nats.
        (A prior will add its log density here: the loop compares objectives and nothing else.)
    """

    parameters: Parameters
    objective: float


def m_step(
    statistics: Statistics,
    plan: Plan,
    *,
    previous: Parameters,
    reg_covar: float,
    row_set: RowSet | None,
    shrinkage: float = 0.0,
) -> MStep:
    """Return new parameters and the objective of the previous ones.

    Parameters
    ----------
    statistics : Statistics
        Sums over all rows under `plan`.
    plan : Plan
        How they were computed, made from `previous`.
    previous : Parameters
        The parameters that went into the E-step.
    reg_covar : float
        Added to every variance, in original units squared, as scikit-learn does.
    shrinkage : float
        Rows of the covariance within all components that are added to each, on a sample; 0 is EM.
    row_set : RowSet or None
        Weight, mean and scatter of the same rows; needed for tied covariances.

    Raises
    ------
    CollapsedComponentError
        Where a covariance is singular.
    NotFiniteError
        Where a mean, a covariance or the objective is NaN or infinite.

    Notes
    -----
    weights = n_k / sum n; means and covariances are the responsible moments (Dempster, Laird and Rubin 1977,
    doi:10.1111/j.2517-6161.1977.tb01600.x). A component without rows keeps its mean and covariance: the M-step says
    nothing about them.
    """
    objective = statistics.log_likelihood(plan, row_set) / statistics.weight
    with np.errstate(over="ignore", invalid="ignore"):  # (what comes of it is looked at)
        found = moments(statistics, plan, row_set)
    if not (np.isfinite(objective) and np.isfinite(found.means).all() and np.isfinite(found.central).all()):
        raise NotFiniteError(
            "means and covariances",
            "be finite",
            f"others, at a mean log-likelihood of {objective:.6g}",
            "Check the given start, and rescale features beyond 1e150.",
        )
    parameters = maximise(
        found, previous.family, previous=previous.covariances, reg_covar=reg_covar, shrinkage=shrinkage
    )
    return MStep(parameters, objective)


def maximise(
    found: Moments, family: Family, *, previous: Floats, reg_covar: float, shrinkage: float = 0.0
) -> Parameters:
    """Return the parameters that these moments give; components without rows keep the covariances `previous`."""
    shape = family.shape
    central = shape.regularise(shape.shrink(found.counts, found.central, shrinkage), reg_covar)
    covariances = family.maximise(found.counts, central, previous)
    empty = found.counts < 2 * SMALLEST_COUNT
    if empty.any():
        covariances = shape.chosen(~empty, covariances, previous)
    return Parameters.from_covariances(family, found.counts / found.counts.sum(), found.means, covariances)
