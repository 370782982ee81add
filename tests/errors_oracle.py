"""Extreme deconvolution, written to be obviously right: a matrix a row and component, in loops; shares no code."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpmath import mp


def e_step(X: Any, S: Any, weights: Any, means: Any, V: Any, row_weights: Any = None) -> tuple[float, Any, Any, Any]:
    """Return total log-likelihood, responsibilities (n, K), and posterior means (n, K, D) and covariances."""
    n, d, k = len(X), X.shape[1], len(weights)
    log_p = np.empty((n, k))
    b, B = np.empty((n, k, d)), np.empty((n, k, d, d))
    for i in range(n):
        for j in range(k):
            T = V[j] + S[i]
            inverse = np.linalg.inv(T)
            delta = X[i] - means[j]
            log_p[i, j] = np.log(weights[j]) - 0.5 * (
                d * np.log(2 * np.pi) + np.log(np.linalg.det(T)) + delta @ inverse @ delta
            )
            b[i, j] = means[j] + V[j] @ inverse @ delta
            B[i, j] = V[j] - V[j] @ inverse @ V[j]
    highest = log_p.max(axis=1, keepdims=True)
    p = np.exp(log_p - highest)
    w = np.ones(n) if row_weights is None else row_weights
    total = float((w * (highest[:, 0] + np.log(p.sum(axis=1)))).sum())
    return total, p / p.sum(axis=1, keepdims=True), b, B


def em_step(X: Any, S: Any, weights: Any, means: Any, V: Any, row_weights: Any = None) -> tuple[float, Any, Any, Any]:
    """Return the log-likelihood before, and weights, means and covariances after a step of EM (Bovy et al., eq. 16)."""
    total, resp, b, B = e_step(X, S, weights, means, V, row_weights)
    w = np.ones(len(X)) if row_weights is None else row_weights
    new_means, new_V = np.empty_like(means), np.empty_like(V)
    for j in range(len(weights)):
        r = resp[:, j] * w
        new_means[j] = sum(r[i] * b[i, j] for i in range(len(X))) / r.sum()
        new_V[j] = (
            sum(r[i] * (np.outer(b[i, j] - new_means[j], b[i, j] - new_means[j]) + B[i, j]) for i in range(len(X)))
            / r.sum()
        )
    return total, (resp * w[:, None]).sum(axis=0) / w.sum(), new_means, new_V


def precise_step(X: Any, S: Any, mean: Any, precision_cholesky: Any) -> tuple[float, Any, Any]:
    """Return the same for one component, with 50 digits: log-likelihood, the mean less the one before, covariance."""
    with mp.workdps(50):
        inverse = mp.matrix(precision_cholesky.tolist()) ** -1
        V, n, d = inverse.T * inverse, len(X), len(mean)
        total, true, about = mp.mpf(0), [], mp.zeros(d, d)
        for x, s in zip(X, S, strict=True):
            T = V + mp.matrix(s.tolist())
            delta = mp.matrix([mp.mpf(float(a)) - mp.mpf(float(b)) for a, b in zip(x, mean, strict=True)])
            M = T**-1
            total -= ((delta.T * M * delta)[0] + mp.log(mp.det(T)) + d * mp.log(2 * mp.pi)) / 2
            true.append(V * M * delta)
            about += V - V * M * V
        center = sum(true, mp.zeros(d, 1)) / n
        for v in true:
            about += (v - center) * (v - center).T
        return float(total), np.array(center.tolist(), float)[:, 0], np.array((about / n).tolist(), float)
