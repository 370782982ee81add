"""A mixture in one or two features: against dense matrices, quadrature and the distribution function of scipy.stats."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from daskgmm.mixture.family import family_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.pictures.corner import plot_corner
from daskgmm.pictures.marginals import binned_densities, frame, marginal_covariances, outside, telling_features


def mixture(covariance_type: str = "full", *, weights: tuple[float, ...] = (0.5, 0.3, 0.2), d: int = 4) -> Parameters:
    random = np.random.default_rng(3)
    family, k = family_of(covariance_type), len(weights)
    roots = random.normal(size=(k, d, d)) + 2 * np.eye(d)
    dense = roots @ roots.transpose(0, 2, 1)
    covariances = {
        "full": dense, "tied": dense[0], "diag": random.uniform(1, 4, size=(k, d)), "spherical": np.arange(1.0, k + 1),
    }[covariance_type]  # fmt: skip
    return Parameters.from_covariances(family, np.array(weights), 3 * random.normal(size=(k, d)), covariances)


def dense_covariance(p: Parameters, k: int) -> np.ndarray:
    own = {"full": lambda c: c[k], "tied": lambda c: c, "diag": lambda c: np.diag(c[k]),
           "spherical": lambda c: c[k] * np.eye(p.n_features)}[p.family.name]  # fmt: skip
    return own(p.covariances)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_the_covariances_of_some_features_are_blocks(covariance_type: str) -> None:
    p, chosen = mixture(covariance_type), [3, 0]
    for k, found in enumerate(marginal_covariances(p, chosen)):
        np.testing.assert_allclose(found, dense_covariance(p, k)[np.ix_(chosen, chosen)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_densities_are_means_over_bins(covariance_type: str) -> None:
    p, edges = mixture(covariance_type), np.array([-4.0, -1.0, 0.5, 2.0])
    for k, own in enumerate(binned_densities(p, 1, edges)):
        normal = stats.norm(p.means[k, 1], dense_covariance(p, k)[1, 1] ** 0.5)
        expected = [quad(normal.pdf, a, b)[0] / (b - a) for a, b in pairwise(edges)]
        np.testing.assert_allclose(own, p.weights[k] * np.array(expected), rtol=1e-8)


def test_a_spike_between_two_points_is_not_missed_and_has_a_bound() -> None:
    p = Parameters.from_covariances(
        family_of("diag"), np.array([0.99, 0.01]), np.array([[0.0], [0.12345]]), np.array([[1.0], [1e-20]])
    )
    edges = np.linspace(-4, 4, 401)
    of_spike = binned_densities(p, 0, edges)[1]
    assert np.count_nonzero(of_spike) == 1
    assert of_spike.max() == pytest.approx(0.01 / 0.02)


def test_the_features_that_tell_most_come_first() -> None:
    means = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 4.0, 1.0, 1.0]])
    variances = np.array([[1.0, 1.0, 1.0, 1e-4], [1.0, 1.0, 3.0, 1e-4]])
    p = Parameters.from_covariances(family_of("diag"), np.array([0.5, 0.5]), means, variances)
    # Between over within: 0, 4, 0.25 / 2 and 0.25 / 1e-4.
    assert telling_features(p, 3) == [3, 1, 2]
    assert telling_features(p, 4) == [0, 1, 2, 3], "all of them stay in their order"
    one = Parameters.from_covariances(family_of("diag"), np.ones(1), means[1:], variances[1:])
    assert telling_features(one, 2) == [0, 1]


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_a_picture_holds_the_mixture_but_a_far_trifle(offset: float) -> None:
    weights = (0.7, 0.3 - 1e-6, 1e-6)
    p = mixture(weights=weights)
    means = p.means + offset
    means[2] += 1e6
    p = Parameters.from_covariances(p.family, p.weights, means, p.covariances)
    low, high = frame(p, 0)
    inside = sum(
        w * np.diff(stats.norm(p.means[k, 0], p.covariances[k, 0, 0] ** 0.5).cdf([low, high]))[0]
        for k, w in enumerate(weights)
    )
    assert inside >= 0.999
    assert high - low < 100
    for k in (0, 1):
        assert low < p.means[k, 0] - 2 * p.covariances[k, 0, 0] ** 0.5
        assert high > p.means[k, 0] + 2 * p.covariances[k, 0, 0] ** 0.5
    assert outside(p, [0], [(low, high)]).tolist() == [False, False, True]
    assert frame(p, 0, np.array([offset - 500.0] * 2 + [offset] * 98))[0] < offset - 500


@pytest.mark.parametrize("place", [7.0, -1e8, 0.0])
def test_two_equal_components_have_a_picture(place: float) -> None:
    p = Parameters.from_covariances(
        family_of("spherical"), np.array([0.5, 0.5]), np.full((2, 2), place), np.array([1e-30, 1e-30])
    )
    low, high = frame(p, 0)
    assert low < place < high
    edges = np.linspace(low, high, 401)
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(binned_densities(p, 0, edges)).all()
    assert plot_corner(p, ["x", "y"]).encoded("png")[:4] == b"\x89PNG"
