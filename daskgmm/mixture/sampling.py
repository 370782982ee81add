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
        n_components for rows of the noise, which lie in its box.

    Raises
    ------
    OptionError
        There is noise without a box.
    """
    p = parameters
    weights = p.weights if p.noise is None else np.append(p.weights, p.noise.weight)
    counts = rng.multinomial(n_rows, weights / weights.sum())
    rows = [_component_rows(p, k, n, rng) for k, n in enumerate(counts[: p.n_components])]
    if p.noise is not None:
        rows.append(p.noise.rows(int(counts[-1]), rng))
    return np.concatenate(rows), np.repeat(np.arange(len(counts)), counts)


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
