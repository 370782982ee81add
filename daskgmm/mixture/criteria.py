"""Information criteria; lower is better."""

from __future__ import annotations

import numpy as np


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
    belong to several components.
    """
    return bic(log_likelihood, n_free, weight) - 2 * log_largest
