"""Hypothesis strategies: small data sets, mixtures of every kind, row weights, and ways to cut rows into blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

#: Laws run the same examples every time, on any machine.
LAWS = settings(derandomize=True, deadline=None, max_examples=40, database=None)

KINDS = ("full", "tied", "diag", "spherical")


@dataclass(frozen=True)
class Case:
    """Rows and a mixture near them. `covariances` has the shape of `kind`; the condition number is below 100."""

    kind: str
    X: Any
    weights: Any
    means: Any
    covariances: Any

    @property
    def n_components(self) -> int:
        return len(self.means)


def well_conditioned(rng: np.random.Generator, n_features: int) -> Any:
    """Return a covariance matrix with eigenvalues between 0.2 and 3, randomly oriented."""
    basis, _ = np.linalg.qr(rng.standard_normal((n_features, n_features)))
    matrix = (basis * rng.uniform(0.2, 3.0, n_features)) @ basis.T
    return (matrix + matrix.T) / 2


def covariances_of(kind: str, rng: np.random.Generator, n_components: int, n_features: int) -> Any:
    """Return well-conditioned covariances in the shape of the kind."""
    if kind == "full":
        return np.stack([well_conditioned(rng, n_features) for _ in range(n_components)])
    if kind == "tied":
        return well_conditioned(rng, n_features)
    return rng.uniform(0.2, 3.0, (n_components, n_features) if kind == "diag" else n_components)


def make_case(
    kind: str, *, seed: int, n_rows: int, n_components: int, n_features: int, separation: float = 2.0
) -> Case:
    """Return rows around `n_components` centres, and a mixture that is near but not at them; the seed fixes all."""
    rng = np.random.default_rng(seed)
    centres = separation * rng.standard_normal((n_components, n_features))
    X = centres[rng.integers(0, n_components, n_rows)] + rng.standard_normal((n_rows, n_features))
    weights = rng.uniform(0.2, 1.0, n_components)
    means = centres + 0.3 * rng.standard_normal(centres.shape)
    covariances = covariances_of(kind, rng, n_components, n_features)
    return Case(kind, X, weights / weights.sum(), means, covariances)


def cases(kind: str, *, min_rows: int = 1, max_rows: int = 40) -> st.SearchStrategy[Case]:
    """Draw a small case of a covariance kind."""
    return st.builds(
        make_case,
        st.just(kind),
        seed=st.integers(0, 2**31),
        n_rows=st.integers(min_rows, max_rows),
        n_components=st.integers(1, 4),
        n_features=st.integers(1, 4),
    )


def cuts(n_rows: int) -> st.SearchStrategy[list[int]]:
    """Draw where rows are cut into blocks: sorted row numbers from 0 to n_rows, both included."""
    inner = st.lists(st.integers(1, max(n_rows - 1, 1)), max_size=8, unique=True)
    return inner.map(lambda inside: sorted({0, n_rows, *(i for i in inside if i < n_rows)}))


def real_weights(n_rows: int) -> st.SearchStrategy[Any]:
    """Draw row weights from 0.01 to 10, some of them 0, not all."""
    weight = st.one_of(st.just(0.0), st.floats(0.01, 10.0))
    drawn = st.lists(weight, min_size=n_rows, max_size=n_rows).filter(any)
    return drawn.map(np.array)


def integer_weights(n_rows: int) -> st.SearchStrategy[Any]:
    """Draw integer row weights from 0 to 4, not all zero."""
    drawn = st.lists(st.integers(0, 4), min_size=n_rows, max_size=n_rows).filter(any)
    return drawn.map(lambda weights: np.array(weights))
