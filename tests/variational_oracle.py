"""Variational Bayes for mixtures, slow and obvious, from scikit-learn's documented attributes; shares no code.

Entropies and expectations come from `scipy.stats`; densities of rows from the definition, row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from daskgmm.mixture.arrays import Floats


def mean_log_gamma(shape: float) -> float:
    """E[log g] for g of a Gamma distribution of this shape and scale 1."""
    return float(stats.loggamma(shape).mean())


def matrices(bgm: Any) -> tuple[list[Floats], Floats]:
    """Mean covariance of each component, and the prior one, as matrices whatever the kind."""
    k, d = bgm.means_.shape

    def matrix(value: Any) -> Floats:
        value = np.asarray(value, dtype=float)
        return value if value.shape == (d, d) else np.diag(np.broadcast_to(value, (d,)))

    common = bgm.covariance_type == "tied"
    own = [matrix(bgm.covariances_ if common else bgm.covariances_[i]) for i in range(k)]
    return own, matrix(bgm.covariance_prior_)


def mean_log_weights(bgm: Any) -> Floats:
    """E[log weight] of each component."""
    if bgm.weight_concentration_prior_type == "dirichlet_distribution":
        a = bgm.weight_concentration_
        return np.array([mean_log_gamma(x) - mean_log_gamma(a.sum()) for x in a])
    found, rest = [], 0.0
    for a, b in zip(*bgm.weight_concentration_, strict=True):
        found.append(rest + mean_log_gamma(a) - mean_log_gamma(a + b))
        rest += mean_log_gamma(b) - mean_log_gamma(a + b)
    return np.array(found)


def log_responsibilities(bgm: Any, X: Floats) -> tuple[Floats, Floats]:
    """E[log weight + log density] of each row and component, and its normalised form, (n, k)."""
    k, d = bgm.means_.shape
    covariances, _ = matrices(bgm)
    nu = np.broadcast_to(bgm.degrees_of_freedom_, (k,))
    joint = np.empty((len(X), k))
    for j in range(k):
        scale = np.linalg.inv(nu[j] * covariances[j])
        mean_log_det = mean_log_wishart_det(nu[j], scale)
        for i, x in enumerate(X):
            y = x - bgm.means_[j]
            square = d / bgm.mean_precision_[j] + nu[j] * y @ scale @ y
            joint[i, j] = 0.5 * (mean_log_det - d * np.log(2 * np.pi) - square)
    joint += mean_log_weights(bgm)
    return joint, joint - np.logaddexp.reduce(joint, axis=1)[:, np.newaxis]


def mean_log_wishart_det(nu: float, scale: Floats) -> float:
    """E[log |L|] for a Wishart matrix L, a product of chi-squared variables (Bartlett)."""
    d = len(scale)
    return float(sum(np.log(2) + mean_log_gamma((nu - i) / 2) for i in range(d)) + np.linalg.slogdet(scale)[1])


def bound(bgm: Any, X: Floats, weights: Floats | None = None) -> float:
    """The evidence lower bound of all rows, nats, term by term (Bishop 2006, equation 10.70)."""
    w = np.ones(len(X)) if weights is None else weights
    joint, log_resp = log_responsibilities(bgm, X)
    resp = np.exp(log_resp)
    total = float(w @ (resp * joint).sum(axis=1) - w @ np.where(resp > 0, resp * log_resp, 0.0).sum(axis=1))
    return total + of_weights(bgm) + of_components(bgm)


def of_weights(bgm: Any) -> float:
    """E[log p(weights)] + entropy."""
    alpha = bgm.weight_concentration_prior_
    if bgm.weight_concentration_prior_type == "dirichlet_distribution":
        a = bgm.weight_concentration_
        log_norm = stats.dirichlet(np.full(len(a), alpha)).logpdf(np.full(len(a), 1 / len(a)))
        log_norm -= (alpha - 1) * len(a) * np.log(1 / len(a))
        entropy = stats.dirichlet(a).entropy() if len(a) > 1 else 0.0
        return float(log_norm + (alpha - 1) * mean_log_weights(bgm).sum() + entropy)
    found = 0.0
    for a, b in zip(*bgm.weight_concentration_, strict=True):
        rest = mean_log_gamma(b) - mean_log_gamma(a + b)
        found += np.log(alpha) + (alpha - 1) * rest + stats.beta(a, b).entropy()
    return float(found)


def of_components(bgm: Any) -> float:
    """E[log p(means, precisions)] + entropy."""
    k, d = bgm.means_.shape
    covariances, prior = matrices(bgm)
    nu0, b0 = bgm.degrees_of_freedom_prior_, bgm.mean_precision_prior_
    wishart0 = stats.wishart(nu0, np.linalg.inv(prior))
    # The density is exp(linear in L and log |L|): its constant is what is left at the identity.
    constant = wishart0.logpdf(np.eye(d)) + 0.5 * np.trace(prior)
    found = 0.0
    for j, nu in enumerate(np.broadcast_to(bgm.degrees_of_freedom_, (k,))):
        scale = np.linalg.inv(nu * covariances[j])
        log_det, b, y = mean_log_wishart_det(nu, scale), bgm.mean_precision_[j], bgm.means_[j] - bgm.mean_prior_
        found += constant + 0.5 * (nu0 - d - 1) * log_det - 0.5 * nu * np.trace(prior @ scale)
        found += stats.wishart(nu, (scale + scale.T) / 2).entropy()
        found += 0.5 * (d * np.log(b0 / (2 * np.pi)) + log_det - b0 * d / b - b0 * nu * y @ scale @ y)
        found += 0.5 * (d * np.log(2 * np.pi * np.e / b) - log_det)
    return float(found)


def log_evidence_of_one(X: Floats, *, mean: Floats, b0: float, nu0: float, covariance: Floats) -> float:
    """log p(X) of one Gaussian under a normal-Wishart prior, nats: each row given those before it is a t variable."""
    d, found = X.shape[1], 0.0
    m, b, nu, C = np.array(mean, dtype=float), b0, nu0, np.array(covariance, dtype=float)
    for x in X:
        df = nu - d + 1
        found += stats.multivariate_t(m, C * (b + 1) / (b * df), df=df).logpdf(x)
        C = C + b / (b + 1) * np.outer(x - m, x - m)
        m, b, nu = (b * m + x) / (b + 1), b + 1, nu + 1
    return float(found)
