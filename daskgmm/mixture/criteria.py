"""What mixtures are compared by: information criteria, lower is better; and others."""

from __future__ import annotations

import warnings

import numpy as np

from daskgmm.errors import DaskgmmWarning

#: Criteria of which more is better.
HIGHER_IS_BETTER = ("bound", "held_out")


def aic(log_likelihood: float, n_free: int) -> float:
    """Return Akaike's criterion, -2 log L + 2 p (Akaike 1974, doi:10.1109/TAC.1974.1100705), nats doubled."""
    return -2 * log_likelihood + 2 * n_free


def bic(log_likelihood: float, n_free: int, weight: float) -> float:
    """Return the Bayesian criterion, -2 log L + p log n (Schwarz 1978, doi:10.1214/aos/1176344136), nats doubled.

    n is the sum of the row weights.
    """
    return -2 * log_likelihood + n_free * float(np.log(weight))


def icl(log_likelihood: float, n_free: int, weight: float, log_largest: float) -> float:
    """Return the integrated completed likelihood, BIC - 2 sum log max_k r_k (Biernacki, Celeux and Govaert 2000,
    doi:10.1109/34.865189), nats doubled.

    `log_largest` is the sum over rows of the logarithm of the largest responsibility: the price of rows that could
    belong to several components. (Some take twice the entropy - sum r log r, which is more, in the place of -2 sum log
    max_k r_k; mclust takes this.)
    """
    return bic(log_likelihood, n_free, weight) - 2 * log_largest


def warn_of_small_weight(weight: float, n_weighted: int, *, stacklevel: int = 2) -> None:
    """Warn where row weights sum to less than the number of their rows: criteria take the sum for that number.

    A weight repeats a row, so that n is the sum of the weights. Where they are shares (sum 1), log n is 0, or negative:
    parameters cost nothing, and the largest model wins.

    Parameters
    ----------
    weight : float
        Sum of the row weights.
    n_weighted : int
        Rows of positive weight.
    """
    if weight < n_weighted * (1 - 1e-9):
        remark = (
            f"BIC, AIC, ICL and the bound take the sum of `sample_weight` for the number of rows; got {weight:.6g} for "
            f"{n_weighted} rows of positive weight, so that they choose wrongly. Multiply `sample_weight` by n / sum = "
            f"{n_weighted / weight:.6g} to compare models."
        )
        warnings.warn(DaskgmmWarning(remark), stacklevel=stacklevel + 1)
