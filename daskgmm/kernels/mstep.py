"""The M-step: moments in, parameters and objective out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskgmm.errors import CollapsedComponentError, NotFiniteError
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.sums import log_likelihood, moments, noise_share
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior, maximise
from daskgmm.mixture.row_set import RowSet


@dataclass(frozen=True)
class MStep:
    """The outcome of an M-step.

    Attributes
    ----------
    parameters : Parameters
        The parameters that maximise the expected complete-data log-likelihood and the log density of the prior.
    objective : float
        Of the parameters that went *into* the E-step, nats: the mean log-likelihood per unit of row weight, and the log
        density of the prior a row. The loop compares objectives and nothing else.
    """

    parameters: Parameters
    objective: float


def m_step(
    statistics: Statistics,
    plan: Plan,
    *,
    previous: Parameters,
    prior: Prior,
    row_set: RowSet | None,
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
    prior : Prior
    row_set : RowSet or None
        Weight, mean and scatter of the same rows; needed for tied covariances.

    Raises
    ------
    CollapsedComponentError
        Where a covariance is singular, or noise has all rows.
    NotFiniteError
        Where a mean, a covariance or the objective is NaN or infinite.

    Notes
    -----
    weights = n_k / n; that of the noise is what they leave of 1, and a prior is one on the components alone. Means and
    covariances are the responsible moments (Dempster, Laird and Rubin 1977, doi:10.1111/j.2517-6161.1977.tb01600.x). A
    component without rows keeps its mean and covariance: the M-step says nothing about them.
    """
    objective = log_likelihood(statistics, plan, row_set) / statistics.weight
    objective += prior.log_density(previous.of_components) / statistics.weight
    with np.errstate(over="ignore", invalid="ignore"):  # (what comes of it is looked at)
        found = moments(statistics, plan, row_set)
    if previous.noise is not None and found.counts.sum() < 1:  # (not one row in all)
        raise CollapsedComponentError(
            "`noise`",
            "leave rows to the components",
            f"a volume of {np.exp(previous.noise.log_volume):.3g}, in which it is denser than all of them",
            "Give a larger volume, in the units of the rows, or True, which takes that of a box around them.",
        )
    if not (np.isfinite(objective) and np.isfinite(found.means).all() and np.isfinite(found.central).all()):
        raise NotFiniteError(
            "means and covariances",
            "be finite",
            f"others, at a mean log-likelihood of {objective:.6g}",
            "Check the given start, and rescale features beyond 1e150.",
        )
    parameters = maximise(found, previous.family, previous=previous.covariances, prior=prior)
    noise = None if previous.noise is None else previous.noise.with_weight(noise_share(statistics, plan))
    if previous.classes is not None:
        parameters = replace(parameters, classes=previous.classes)
    return MStep(parameters.beside_noise(noise), objective)
