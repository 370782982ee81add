"""EM with what stands beside Gaussian components, noise and known classes, written to be obviously right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests import oracle


@dataclass(frozen=True)
class State:
    """A mixture, in long doubles: weights (K,), means (K, D), covariances in the shape of the kind, and the noise's."""

    kind: str
    weights: Any
    means: Any
    covariances: Any
    noise: Any = 0.0
    log_volume: Any = 0.0


def log_terms(X: Any, state: State, *, labels: Any = None, classes: Any = None) -> Any:
    """Return the terms of each row's density, (N, K + 1), logarithms, nats; the last is the noise's."""
    mixture = oracle.mixture_of_covariances(state.kind, state.weights, state.means, state.covariances)
    found = oracle.log_densities(X, mixture)
    with np.errstate(divide="ignore"):
        of_noise = np.log(np.longdouble(state.noise)) - np.longdouble(state.log_volume)
    found = np.column_stack([found, np.full(len(X), of_noise)])
    for i in range(len(X)):
        for k in range(found.shape[1]):
            known = labels is not None and labels[i] >= 0
            if known and (k == len(state.weights) or classes[k] != labels[i]):
                found[i, k] = -np.inf
    return found


def log_likelihoods(X: Any, state: State, **known: Any) -> Any:
    """Return the logarithm of the sum of each row's terms, (N,), nats."""
    terms = log_terms(X, state, **known)
    highest = terms.max(axis=1)
    return highest + np.log(np.exp(terms - highest[:, None]).sum(axis=1))


def em_step(X: Any, state: State, *, row_weights: Any = None, reg_covar: float = 0.0, **known: Any) -> State:
    """Return the mixture after one EM step."""
    X = oracle.exactly(X)
    w = np.ones(len(X)) if row_weights is None else np.asarray(row_weights)
    resp = np.exp(log_terms(X, state, **known) - log_likelihoods(X, state, **known)[:, None]) * w[:, None]
    counts, (n_components, n_features) = resp.sum(axis=0), np.shape(state.means)
    means, full = [], []
    for k in range(n_components):
        means.append((resp[:, k, None] * X).sum(axis=0) / counts[k])
        y = X - means[k]
        full.append((resp[:, k, None, None] * y[:, :, None] * y[:, None, :]).sum(axis=0) / counts[k])
    within = sum(n * c for n, c in zip(counts, full, strict=False)) / counts[:-1].sum()
    found = {
        "full": [c + reg_covar * np.eye(n_features) for c in full],
        "tied": within + reg_covar * np.eye(n_features),
        "diag": [np.diagonal(c) + reg_covar for c in full],
        "spherical": [np.diagonal(c).mean() + reg_covar for c in full],
    }[state.kind]
    total = w.sum()
    return State(
        state.kind, counts[:-1] / total, np.array(means), np.array(found), counts[-1] / total, state.log_volume
    )
