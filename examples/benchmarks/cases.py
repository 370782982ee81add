"""The cases: their rows, and the mixture that every contender starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

#: Standard deviations between the means of two components, on average: neighbours overlap.
SEPARATION = 5.0
#: Pixels a side of a patch.
SIDE = 8


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes
    ----------
    reg_covar : float
        What the times are measured with.
    also_reg_covar : float or None
        What a fit is shown with beside it, without its time being compared.
    iterations, sklearn_iterations : int
        Of one fit in a round.
    rates : bool
        Whether the matrix products decide: the effective rate has a meaning.
    """

    name: str
    n_rows: int
    n_features: int
    n_components: int
    kind: str = "full"
    reg_covar: float = 1e-6
    also_reg_covar: float | None = None
    iterations: int = 6
    sklearn_iterations: int = 2
    rates: bool = True

    def quick(self) -> Case:
        """Return the case with a fiftieth of the rows, which shows that everything runs."""
        return replace(self, n_rows=max(self.n_rows // 50, 20 * self.n_components), iterations=3)


CASES = {
    case.name: case
    for case in (
        Case("A", 1_000_000, 2, 8, iterations=15, sklearn_iterations=3),
        Case("B", 1_000_000, 8, 16, iterations=10),
        Case("C", 500_000, 16, 32, iterations=8),
        Case("D", 200_000, 32, 32, iterations=8),
        Case("E", 200_000, 64, 50, reg_covar=1e-2, also_reg_covar=1e-6, iterations=5),
        Case("F", 500_000, 16, 32, kind="diag", iterations=10, sklearn_iterations=4, rates=False),
        Case("G", 50_000, 128, 32, iterations=6),
        # scikit-learn takes a minute for an iteration, oneDAL up to ten seconds.
        Case("patches", 531_720, 63, 50, reg_covar=1e-2, also_reg_covar=1e-6, iterations=3, sklearn_iterations=1),
    )
}


def write_case(case: Case, dtype: str, folder: Path) -> None:
    """Write X.npy, (n_rows, n_features), and the start in `start.npz`, all of one dtype.

    The start holds weights, means, covariances and precisions.
    """
    X, start = photographs(case) if case.name == "patches" else synthetic(case)
    np.save(folder / "X.npy", np.ascontiguousarray(X, dtype=dtype))
    cast = {name: np.asarray(value, dtype=dtype) for name, value in start.items()}
    covariances = cast["covariances"].astype(float)
    precisions = 1 / covariances if case.kind == "diag" else np.linalg.inv(covariances)
    np.savez(folder / "start.npz", **cast, precisions=precisions.astype(dtype))


def synthetic(case: Case) -> tuple[Any, dict[str, Any]]:
    """Return seeded rows of a mixture of overlapping components, and a start half a standard deviation off.

    The covariances have eigenvalues from 1/4 to 4 in directions of their own (along the axes for "diag").
    """
    n, d, k = case.n_rows, case.n_features, case.n_components
    random = np.random.default_rng([7, d, k])
    means = random.standard_normal((k, d)) * SEPARATION / np.sqrt(2 * d)
    labels = random.integers(k, size=n)
    X = np.empty((n, d))
    for j in range(k):
        scales = 2.0 ** random.uniform(-1, 1, d)
        directions = np.eye(d) if case.kind == "diag" else np.linalg.qr(random.standard_normal((d, d)))[0]
        rows = np.flatnonzero(labels == j)
        X[rows] = random.standard_normal((len(rows), d)) @ (scales[:, np.newaxis] * directions.T) + means[j]
    start = means + 0.5 * random.standard_normal((k, d)) / np.sqrt(d)
    identity = np.ones((k, d)) if case.kind == "diag" else np.tile(np.eye(d), (k, 1, 1))
    return X, {"weights": np.full(k, 1 / k), "means": start, "covariances": identity}


def photographs(case: Case) -> tuple[Any, dict[str, Any]]:
    """Return the 8 x 8 patches of scikit-learn's two photographs, and a start from k-means on a sample of them.

    Grey levels from 0 to 255, each patch less its mean: its pixels add up to zero, so that the last says nothing and
    is left out. (It needs pillow.)
    """
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_sample_images

    found = []
    for image in load_sample_images().images:
        grey = image @ np.array([0.299, 0.587, 0.114])
        patches = np.lib.stride_tricks.sliding_window_view(grey, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
        found.append(patches - patches.mean(axis=1, keepdims=True))
    X = np.concatenate(found)[:, :-1]
    random = np.random.default_rng(7)
    if case.n_rows < len(X):
        X = X[np.sort(random.choice(len(X), case.n_rows, replace=False))]
    k = case.n_components
    sample = X[random.choice(len(X), min(20_000, len(X)), replace=False)]
    labels = KMeans(k, n_init=1, max_iter=20, random_state=7).fit_predict(sample)
    means = np.stack([sample[labels == j].mean(axis=0) for j in range(k)])
    centred = sample - means[labels]
    # The pooled covariance for all: some groups have fewer rows than features.
    pooled = centred.T @ centred / len(sample) + np.eye(X.shape[1])
    return X, {
        "weights": np.bincount(labels, minlength=k) / len(sample),
        "means": means,
        "covariances": np.tile(pooled, (k, 1, 1)),
    }
