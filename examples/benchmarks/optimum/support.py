"""What each component of a mixture is worth, in plain NumPy and SciPy: nothing of daskgmm is used here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

#: Rows that are worked on at once.
BLOCK = 1 << 14


@dataclass(frozen=True)
class Worth:
    """What a mixture makes of some rows.

    Attributes
    ----------
    score : float
        Mean log-likelihood, nats a row.
    counts : (n_components,), float64
        Rows of each component: the sums of its responsibilities.
    support : (n_components,), float64
        Nats that the rows lose without it, the others as they are: −Σ log(1 − r) + n log(1 − π).
    price : float
        Half of a component's own numbers times log n: what it must earn, nats.
    fewest : int
        Rows that it must have, whatever it earns.
    """

    score: float
    counts: Any
    support: Any
    price: float
    fewest: int

    @property
    def below(self) -> int:
        """Number of components with too few rows."""
        return int((self.counts < self.fewest).sum())

    @property
    def unsupported(self) -> int:
        """Number of components that do not earn their numbers."""
        return int((self.support < self.price).sum())


def numbers(kind: str, d: int) -> int:
    """Return how many numbers a component has of its own: weight, mean, covariance."""
    return 1 + d + {"full": d * (d + 1) // 2, "diag": d, "spherical": 1, "tied": 0}[kind]


def fewest_rows(kind: str, d: int) -> int:
    """Return how many rows a component must have: one more than span its covariance, or a few."""
    return {"full": d + 1, "diag": 3, "spherical": 3, "tied": 2}[kind]


def worth(kind: str, weights: Any, means: Any, covariances: Any, X: Any) -> Worth:
    """Return what a mixture, in scikit-learn's shapes, makes of the rows."""
    n, d = X.shape
    k = len(weights)
    total, counts, lost = 0.0, np.zeros(k), np.zeros(k)
    for first in range(0, n, BLOCK):
        joint = log_joint(kind, weights, means, covariances, X[first : first + BLOCK])
        whole = logsumexp(joint, axis=1)
        total += whole.sum()
        counts += np.exp(joint - whole[:, np.newaxis]).sum(axis=0)
        if k > 1:
            # log(1 - r) is the others' share: 1 - r itself is zero for a row that is all the component's.
            others = np.stack([logsumexp(np.delete(joint, j, axis=1), axis=1) for j in range(k)], axis=1)
            lost -= (others - whole[:, np.newaxis]).sum(axis=0)
    support = lost + n * np.log1p(-np.asarray(weights)) if k > 1 else np.array([np.inf])
    return Worth(total / n, counts, support, numbers(kind, d) * np.log(n) / 2, fewest_rows(kind, d))


def log_joint(kind: str, weights: Any, means: Any, covariances: Any, X: Any) -> Any:
    """Return log π + log N(x) of each row and component, (n_rows, n_components), nats."""
    d = X.shape[1]
    found = np.empty((len(X), len(weights)))
    for j, (weight, mean) in enumerate(zip(weights, means, strict=True)):
        z, log_det = _whitened(kind, covariances if kind == "tied" else covariances[j], X - mean)
        found[:, j] = np.log(weight) - 0.5 * (d * np.log(2 * np.pi) + log_det + z)
    return found


def _whitened(kind: str, covariance: Any, differences: Any) -> tuple[Any, float]:
    """Return the squared Mahalanobis lengths, (n_rows,), and the logarithm of the covariance's determinant."""
    if kind in ("full", "tied"):
        lower = np.linalg.cholesky(covariance)
        z = solve_triangular(lower, differences.T, lower=True)
        return (z**2).sum(axis=0), 2 * float(np.log(np.diag(lower)).sum())
    variances = np.broadcast_to(covariance, differences.shape[1:])
    return (differences**2 / variances).sum(axis=1), float(np.log(variances).sum())
