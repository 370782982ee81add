"""Rows drawn from a mixture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters

Labels = NDArray[np.int64]


def sample(parameters: Parameters, n_rows: int, rng: np.random.RandomState) -> tuple[Floats, Labels]:
    """Return rows drawn from the mixture, ordered by component, and their components, as scikit-learn does.

    Returns
    -------
    X : (n_rows, n_features), float64
    labels : (n_rows,), int64
    """
    counts = rng.multinomial(n_rows, parameters.weights / parameters.weights.sum())
    rows = [_component_rows(parameters, k, n, rng) for k, n in enumerate(counts)]
    return np.concatenate(rows), np.repeat(np.arange(parameters.n_components), counts)


def sample_blocks(
    parameters: Parameters, n_rows: int, rng: np.random.RandomState, *, length: int
) -> Iterator[tuple[Floats, Labels]]:
    """Yield shuffled rows and their components, at most `length` rows at a time: a stream of independent draws."""
    for start in range(0, n_rows, length):
        X, labels = sample(parameters, min(length, n_rows - start), rng)
        order = rng.permutation(len(X))
        yield X[order], labels[order]


def _component_rows(parameters: Parameters, k: int, n_rows: int, rng: np.random.RandomState) -> Floats:
    noise = rng.standard_normal((n_rows, parameters.n_features))
    rows: Floats = parameters.means[k] + parameters.shape.scale_noise(noise, parameters.covariances, k)
    return rows
