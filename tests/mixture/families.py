"""Members of mclust's fourteen families, from free numbers: what the letters of a name say, and no more.

Slow, obvious, and sharing no code with daskgmm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import expm

FOURTEEN = ("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV")


class Member:
    """Volumes, logarithms of shapes and orientations of each component; what is equal is moved together."""

    def __init__(self, name: str, matrices: np.ndarray) -> None:
        """Take members of the family `name`, (n_components, n_features, n_features), apart."""
        self.name, (self.k, self.d, _) = name, matrices.shape
        _volume, _shape, orientation = name
        self.log_volumes = np.array([np.log(np.linalg.det(m)) / self.d for m in matrices])
        if orientation == "I":
            self.axes = np.array([np.eye(self.d)] * self.k)
        elif orientation == "E":
            mixed = sum((i + 1.7) * m / np.trace(m) for i, m in enumerate(matrices))
            self.axes = np.array([np.linalg.eigh(mixed)[1]] * self.k)
        else:
            self.axes = np.array([np.linalg.eigh(m)[1] for m in matrices])
        variances = np.array([np.diag(u.T @ m @ u) for u, m in zip(self.axes, matrices, strict=True)])
        self.log_shapes = np.log(variances) - self.log_volumes[:, np.newaxis]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Free numbers of volumes, shapes (before their sum of 0) and rotations."""
        of = {"E": 1, "V": self.k, "I": 0}
        volume, shape, orientation = self.name
        return of[volume], of[shape] * self.d, of[orientation] * self.d * (self.d - 1) // 2

    def moved(self, by: np.ndarray) -> np.ndarray:
        """Return the covariances of the member that so many free numbers lead to."""
        a, b, c = np.split(by, np.cumsum(self.sizes)[:2])
        found = []
        for i in range(self.k):
            log_volume = self.log_volumes[i] + (a[i] if len(a) > 1 else a[0])
            shape = self.log_shapes[i].copy()
            if len(b):
                own = b.reshape(-1, self.d)[i if len(b) > self.d else 0]
                shape += own - own.mean()
            turn = np.zeros((self.d, self.d))
            if len(c):
                n = self.d * (self.d - 1) // 2
                turn[np.triu_indices(self.d, 1)] = c.reshape(-1, n)[i if len(c) > n else 0]
            axes = self.axes[i] @ expm(turn - turn.T)
            found.append(axes @ np.diag(np.exp(log_volume + shape)) @ axes.T)
        return np.array(found)


def expected(counts: Any, scatters: np.ndarray, covariances: np.ndarray) -> float:
    """Return what an M-step maximises over covariances, nats, up to a constant."""
    return -0.5 * sum(
        n * (np.log(np.linalg.det(c)) + np.trace(np.linalg.inv(c) @ s))
        for n, s, c in zip(counts, scatters, covariances, strict=True)
    )


def scatters(seed: int, n_components: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and covariances of rows that are of no family."""
    random = np.random.default_rng(seed)
    factors = random.standard_normal((n_components, n_features, n_features + 2))
    found = factors @ np.swapaxes(factors, 1, 2) / (n_features + 2)
    return random.uniform(20, 200, n_components), found * np.exp(random.normal(size=(n_components, 1, 1)))


def dense(values: np.ndarray, n_components: int, n_features: int) -> np.ndarray:
    """Return covariances of any shape of this project as matrices."""
    values = np.asarray(values)
    if values.shape == (n_components,):
        return np.array([v * np.eye(n_features) for v in values])
    if values.shape == (n_components, n_features):
        return np.array([np.diag(v) for v in values])
    return np.array(np.broadcast_to(values, (n_components, n_features, n_features)))
