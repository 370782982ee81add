"""A smaller mixture's components, split: so many components, and no lower likelihood."""

from __future__ import annotations

import numpy as np
import pytest

from daskgmm.fitting.growth import grown, halved
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import oracle_of, parameters_of
from tests.strategies import make_case

KINDS = ("full", "tied", "diag", "spherical")


def mean_log_likelihood(X: np.ndarray, p: Parameters) -> float:
    return float(oracle.log_likelihood(X, oracle_of(p))) / len(X)


def two_groups(kind: str, *, n_rows: int = 600) -> tuple[Parameters, np.ndarray]:
    """A mixture of two components in three features, and rows that come from it."""
    case = make_case(kind, seed=3, n_rows=n_rows, n_components=2, n_features=3)
    return parameters_of(case), case.X


@pytest.mark.parametrize("kind", KINDS)
def test_halves_have_nearly_the_density_of_the_whole(kind: str) -> None:
    small, X = two_groups(kind)
    large = halved(small, n_components=5)
    assert large is not None
    assert (large.n_components, large.family) == (5, small.family)
    assert large.weights.sum() == pytest.approx(1, rel=1e-12)
    assert len(np.unique(large.means.round(9), axis=0)) == 5, "no two alike, or EM would keep them so"
    assert mean_log_likelihood(X, large) > mean_log_likelihood(X, small) - 1e-3
    np.testing.assert_allclose(large.weights @ large.means, small.weights @ small.means, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_splits_are_where_the_rows_are_two_groups(kind: str) -> None:
    small, X = two_groups(kind)
    whole = np.cov(X.T, bias=True)
    one = {"full": [whole], "tied": whole, "diag": [np.diag(whole)], "spherical": [np.trace(whole) / 3]}[kind]
    start = Parameters.from_covariances(small.family, np.ones(1), X.mean(axis=0)[np.newaxis], np.asarray(one))
    rng = np.random.default_rng(0)
    found = grown(start, X, np.ones(len(X)), n_components=3, floor=1e-6, rng=rng)
    assert found is not None
    assert found.n_components == 3
    assert found.weights.sum() == pytest.approx(1, rel=1e-12)
    assert mean_log_likelihood(X, found) > mean_log_likelihood(X, start)


def test_too_few_rows_have_no_split() -> None:
    small, X = two_groups("full", n_rows=20)
    rng = np.random.default_rng(0)
    assert grown(small, X[:9], np.ones(9), n_components=3, floor=1e-6, rng=rng) is None
