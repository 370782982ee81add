"""What a mixture computes, written to be obviously right: slow, centred, in more digits than the code under test.

Everything is dense and looped, shares no code with daskgmm, and runs in one of two number systems: `np.longdouble`
(64 bits of mantissa on x86) or mpmath (50 digits; for small inputs, and where longdouble is no wider than a double).
Inputs are taken as exact. A component is given by its mean and by P, upper triangular, with Sigma^-1 = P P', since that
is what an E-step starts from: at a condition number of 1e8 a covariance and its own P agree to 1e-8 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

KINDS = ("full", "tied", "diag", "spherical")
EPS = float(np.finfo(np.float64).eps)
mpmath.mp.dps = 50

_to_mpf = np.frompyfunc(mpmath.mpf, 1, 1)
_exp_mpf = np.frompyfunc(mpmath.exp, 1, 1)
_log_mpf = np.frompyfunc(mpmath.log, 1, 1)

WIDE = np.finfo(np.longdouble).nmant >= 63


def exactly(values: Any, *, digits: str = "longdouble") -> Any:
    """Return the numbers as an array of longdouble, or of mpmath numbers (`digits="mpmath"`, or no wide longdouble)."""
    array = np.asarray(values)
    if array.dtype == object:
        return array
    if digits == "longdouble" and WIDE:
        return array.astype(np.longdouble)
    return _to_mpf(array.astype(np.float64)) if array.ndim else mpmath.mpf(float(array))


def _exp(values: Any) -> Any:
    return _exp_mpf(values) if np.asarray(values).dtype == object else np.exp(values)


def _log(values: Any) -> Any:
    return _log_mpf(values) if np.asarray(values).dtype == object else np.log(values)


def _pi(like: Any) -> Any:
    if np.asarray(like).dtype == object:
        return mpmath.pi + mpmath.mpf(0)
    return 4 * np.arctan(np.longdouble(1))


def dense(kind: str, values: Any, n_components: int, n_features: int) -> Any:
    """Return covariances, precisions or precision Cholesky factors of any kind as (n_components, D, D)."""
    values = np.asarray(values)
    result = np.zeros((n_components, n_features, n_features), dtype=values.dtype)
    for k in range(n_components):
        for i in range(n_features):
            for j in range(n_features):
                if kind == "full":
                    result[k, i, j] = values[k, i, j]
                elif kind == "tied":
                    result[k, i, j] = values[i, j]
                elif i == j:
                    result[k, i, i] = values[k, i] if kind == "diag" else values[k]
    return result


def cholesky(matrix: Any) -> Any:
    """Return L, lower triangular, with L L' equal to the matrix."""
    n = len(matrix)
    lower = matrix * 0
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j] - (lower[i, :j] * lower[j, :j]).sum()
            lower[i, j] = rest**0.5 if i == j else rest / lower[j, j]
    return lower


def solve_lower(lower: Any, right: Any) -> Any:
    """Return L^-1 B, (n, m), by forward substitution."""
    result = right * 1
    for i in range(len(lower)):
        for j in range(i):
            result[i] = result[i] - lower[i, j] * result[j]
        result[i] = result[i] / lower[i, i]
    return result


def precision_cholesky(covariance: Any) -> Any:
    """Return P, upper triangular, with Sigma^-1 = P P': the transposed inverse of the Cholesky factor."""
    lower = cholesky(covariance)
    identity = lower * 0
    for i in range(len(lower)):
        identity[i, i] = identity[i, i] + 1
    return solve_lower(lower, identity).T


@dataclass(frozen=True)
class Mixture:
    """Weights (K,), means (K, D) and dense precision Cholesky factors (K, D, D), all in the oracle's numbers."""

    weights: Any
    means: Any
    factors: Any


def mixture(kind: str, weights: Any, means: Any, factors: Any, *, digits: str = "longdouble") -> Mixture:
    """Return the mixture with these precision Cholesky factors, in the shape of the kind."""
    n_components, n_features = np.shape(means)
    factors = dense(kind, np.asarray(factors), n_components, n_features)
    return Mixture(*(exactly(a, digits=digits) for a in (weights, means, factors)))


def mixture_of_covariances(
    kind: str, weights: Any, means: Any, covariances: Any, *, digits: str = "longdouble"
) -> Mixture:
    """Return the mixture with these covariances, in the shape of the kind."""
    n_components, n_features = np.shape(means)
    covariances = exactly(dense(kind, np.asarray(covariances), n_components, n_features), digits=digits)
    factors = np.stack([precision_cholesky(c) for c in covariances])
    return Mixture(exactly(weights, digits=digits), exactly(means, digits=digits), factors)


def mahalanobis(X: Any, model: Mixture) -> Any:
    """Return the squared Mahalanobis distances, (N, K)."""
    X = _like(X, model)
    n_features = X.shape[1]
    result = np.zeros((len(X), len(model.means)), dtype=X.dtype)
    for k, (mean, factor) in enumerate(zip(model.means, model.factors, strict=True)):
        centred = X - mean
        for j in range(n_features):
            z = sum(centred[:, i] * factor[i, j] for i in range(j + 1))
            result[:, k] = result[:, k] + z * z
    return result


def log_densities(X: Any, model: Mixture) -> Any:
    """Return log of weight times density, (N, K), nats; minus infinity where the weight is zero."""
    distances = mahalanobis(X, model)
    n_features = np.shape(X)[1]
    result = distances * 0
    for k, (weight, factor) in enumerate(zip(model.weights, model.factors, strict=True)):
        if weight == 0:
            result[:, k] = -np.inf
            continue
        log_det = sum(_log(factor[i, i]) for i in range(n_features))
        log_norm = log_det - n_features * _log(2 * _pi(distances)) / 2
        result[:, k] = _log(weight) + log_norm - distances[:, k] / 2
    return result


def log_likelihoods(X: Any, model: Mixture) -> Any:
    """Return the log-likelihood of each row, (N,), nats."""
    densities = log_densities(X, model)
    highest = densities.max(axis=1)
    return highest + _log(_exp(densities - highest[:, None]).sum(axis=1))


def responsibilities(X: Any, model: Mixture) -> Any:
    """Return the responsibilities, (N, K)."""
    return _exp(log_densities(X, model) - log_likelihoods(X, model)[:, None])


def log_likelihood(X: Any, model: Mixture, row_weights: Any = None) -> Any:
    """Return the total log-likelihood, nats."""
    rows = log_likelihoods(X, model)
    return (rows * _row_weights(row_weights, rows)).sum()


@dataclass(frozen=True)
class Step:
    """The outcome of one EM step: new weights, means, covariances in the shape of the kind, and what went into them."""

    weights: Any
    means: Any
    covariances: Any
    counts: Any
    log_likelihood: Any


def em_step(kind: str, X: Any, model: Mixture, *, reg_covar: float = 0.0, row_weights: Any = None) -> Step:
    """Return one EM step of scikit-learn's, with row weights.

    Counts get 10 eps (of a row of mean weight) as scikit-learn's do, which matters for the weight of an empty component
    alone; means and covariances are divided by the counts themselves. A component without rows (fewer than 10 eps of
    them) keeps its mean and covariance.
    """
    X = _like(X, model)
    weights = _row_weights(row_weights, X[:, 0])
    resp = responsibilities(X, model) * weights[:, None]
    counts = resp.sum(axis=0)
    n_components, n_features = model.means.shape
    means, central = model.means * 1, np.zeros((n_components, n_features, n_features), dtype=X.dtype)
    smallest = 10 * EPS * weights.sum() / len(weights)
    empty = counts < smallest
    for k in np.flatnonzero(~empty):
        means[k] = model.means[k] + (resp[:, k, None] * (X - model.means[k])).sum(axis=0) / counts[k]
        y = X - means[k]
        for i in range(n_features):
            for j in range(n_features):
                central[k, i, j] = (resp[:, k] * y[:, i] * y[:, j]).sum() / counts[k]
    covariances = _restrict(kind, central, counts)
    if kind == "tied":
        for i in range(n_features):
            covariances[i, i] = covariances[i, i] + reg_covar
    for k in range(n_components) if kind != "tied" else ():
        if empty[k]:
            covariances[k] = _restrict(kind, _covariances(model)[k][None], counts[k][None])[0]
        else:
            covariances[k] = covariances[k] + reg_covar * (np.eye(n_features) if kind == "full" else 1)
    padded = counts + smallest
    total = (log_likelihoods(X, model) * weights).sum()
    return Step(padded / padded.sum(), means, covariances, counts, total)


def n_free(kind: str, n_components: int, n_features: int) -> int:
    """Return the number of free parameters, by counting them."""
    triangle = sum(1 for i in range(n_features) for j in range(n_features) if j <= i)
    covariance = {
        "full": n_components * triangle,
        "tied": triangle,
        "diag": n_components * n_features,
        "spherical": n_components,
    }[kind]
    return (n_components - 1) + n_components * n_features + covariance


def loewner_error(covariances: Any, expected: Any) -> float:
    """Return the largest ||L^-1 (S - S_expected) L^-T||, elementwise, over dense covariances: blind to no direction."""
    worst = 0.0
    for found, right in zip(covariances, expected, strict=True):
        lower = cholesky(right)
        half = solve_lower(lower, exactly(found) - right if right.dtype != object else _to_mpf(found) - right)
        worst = max(worst, float(abs(solve_lower(lower, half.T)).max()))
    return worst


def _restrict(kind: str, central: Any, counts: Any) -> Any:
    n_features = central.shape[1]
    if kind == "full":
        return central
    if kind == "tied":
        return (counts[:, None, None] * central).sum(axis=0) / counts.sum()
    diagonal = np.stack([np.diagonal(c) for c in central])
    return diagonal if kind == "diag" else diagonal.sum(axis=1) / n_features


def _covariances(model: Mixture) -> Any:
    result = []
    for factor in model.factors:
        identity = factor * 0
        for i in range(len(factor)):
            identity[i, i] = identity[i, i] + 1
        inverse = solve_lower(factor.T * 1, identity)
        result.append(inverse @ inverse.T)
    return np.stack(result)


def _like(X: Any, model: Mixture) -> Any:
    return exactly(X, digits="mpmath" if model.means.dtype == object else "longdouble")


def _row_weights(row_weights: Any, like: Any) -> Any:
    if row_weights is None:
        return like * 0 + 1
    return exactly(row_weights, digits="mpmath" if like.dtype == object else "longdouble")
