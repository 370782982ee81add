"""Rows drawn from a mixture."""

import numpy as np
import pytest

from daskgmm.mixture.sampling import sample, sample_blocks
from tests.kernels.driving import dense_covariances, parameters_of
from tests.strategies import KINDS, make_case


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_the_mixtures(kind):
    parameters = parameters_of(make_case(kind, seed=2, n_rows=1, n_components=3, n_features=2))
    n_rows = 200_000
    X, labels = sample(parameters, n_rows, np.random.RandomState(0))
    assert X.shape == (n_rows, 2)
    assert np.all(np.diff(labels) >= 0)
    for k, covariance in enumerate(dense_covariances(parameters)):
        rows = X[labels == k]
        # Five standard errors: sd / sqrt(n) of a mean, sqrt(2 / n) of a variance.
        assert len(rows) / n_rows == pytest.approx(parameters.weights[k], abs=5 / np.sqrt(4 * n_rows))
        sd = np.sqrt(np.diag(covariance))
        assert np.all(abs(rows.mean(axis=0) - parameters.means[k]) < 5 * sd / np.sqrt(len(rows)))
        error = abs(np.cov(rows.T) - covariance) / np.outer(sd, sd)
        assert np.all(error < 5 * np.sqrt(2 / len(rows)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_fixes_the_rows(kind):
    parameters = parameters_of(make_case(kind, seed=2, n_rows=1, n_components=3, n_features=2))
    first, second = (sample(parameters, 50, np.random.RandomState(7)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], sample(parameters, 50, np.random.RandomState(8))[0])


def test_a_weight_of_zero_draws_no_rows():
    case = make_case("diag", seed=2, n_rows=1, n_components=3, n_features=2)
    parameters = parameters_of(case)
    object.__setattr__(parameters, "weights", np.array([0.5, 0.0, 0.5]))
    assert set(sample(parameters, 100, np.random.RandomState(0))[1]) == {0, 2}


@pytest.mark.parametrize(("n_rows", "sizes"), [(0, []), (5, [5]), (20, [10, 10]), (25, [10, 10, 5])])
def test_blocks_have_at_most_their_length_and_are_shuffled(n_rows, sizes):
    parameters = parameters_of(make_case("full", seed=2, n_rows=1, n_components=3, n_features=2))
    blocks = list(sample_blocks(parameters, n_rows, np.random.RandomState(1), length=10))
    assert [len(X) for X, _ in blocks] == sizes
    assert [len(labels) for _, labels in blocks] == sizes
    if n_rows == 25:
        assert any(np.any(np.diff(labels) < 0) for _, labels in blocks)


def test_shuffling_keeps_rows_with_their_components():
    case = make_case("spherical", seed=2, n_rows=1, n_components=3, n_features=2, separation=100.0)
    parameters = parameters_of(case)
    ((X, labels),) = sample_blocks(parameters, 60, np.random.RandomState(1), length=60)
    nearest = ((X[:, np.newaxis] - parameters.means) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(labels, nearest)
