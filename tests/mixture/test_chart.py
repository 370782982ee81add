"""Coordinates of mixtures: there and back, what a length means, and what they do not depend on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.mixture.chart import Chart
from daskgmm.mixture.parameters import Parameters
from tests.kernels.driving import dense_covariances, parameters_of
from tests.strategies import KINDS, LAWS, make_case, well_conditioned

every_kind = pytest.mark.parametrize("kind", KINDS)
seeds, sizes = st.integers(0, 2**31), st.integers(1, 5)


def mixtures(kind, seed, n_components, n_features, n=2):
    """Unrelated mixtures of one shape."""
    return [
        parameters_of(make_case(kind, seed=seed + i, n_rows=1, n_components=n_components, n_features=n_features))
        for i in range(n)
    ]


def divergence(p, q):
    """Divergence of two mixtures if the component of each row were known, nats."""
    total = 0.0
    for w, v, m, n, S, T in zip(
        p.weights, q.weights, p.means, q.means, dense_covariances(p), dense_covariances(q), strict=True
    ):
        inverse = np.linalg.inv(T)
        log_ratio = np.linalg.slogdet(T)[1] - np.linalg.slogdet(S)[1]
        normal = np.trace(inverse @ S) + (m - n) @ inverse @ (m - n) - len(m) + log_ratio
        total += w * (np.log(w / v) + normal / 2)
    return total


@every_kind
@LAWS
@given(seed=seeds, n_components=sizes, n_features=sizes)
def test_there_and_back(kind, seed, n_components, n_features):
    base, other = mixtures(kind, seed, n_components, n_features)
    chart = Chart.about(base, [other])
    found = chart.mixture(chart.coordinates(other), base)
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        np.testing.assert_allclose(getattr(found, name), getattr(other, name), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(chart.coordinates(base), 0, atol=1e-13)


@every_kind
@LAWS
@given(seed=seeds, n_components=sizes, n_features=sizes)
def test_every_point_is_a_mixture(kind, seed, n_components, n_features):
    base, other = mixtures(kind, seed, n_components, n_features)
    chart = Chart.about(base, [other])
    rng = np.random.default_rng(seed)
    # (Twice as far covariances are conditioned so badly that their Cholesky factor tells little.)
    found = chart.mixture(0.5 * rng.standard_normal(len(chart.coordinates(other))), base)
    assert found.weights.sum() == pytest.approx(1, rel=1e-14)
    assert (found.weights > 0).all()
    again = Parameters.from_covariances(base.family, found.weights, found.means, found.covariances)
    np.testing.assert_allclose(again.precisions_cholesky, found.precisions_cholesky, rtol=1e-6, atol=1e-8)


@every_kind
@LAWS
@given(seed=seeds, n_components=sizes, n_features=sizes)
def test_half_the_squared_length_is_the_divergence_to_second_order(kind, seed, n_components, n_features):
    base, other = mixtures(kind, seed, n_components, n_features)
    chart = Chart.about(base, [other])
    direction = chart.coordinates(other)
    near = chart.mixture(1e-4 * direction / np.linalg.norm(direction), base)
    x = chart.coordinates(near)
    assert x @ x / 2 == pytest.approx(divergence(base, near), rel=0.02)


def moved(p, A):
    """The mixture of the rows A x + 10."""
    dense = A @ dense_covariances(p) @ A.T
    kept = {"tied": dense[0], "diag": np.diagonal(dense, axis1=1, axis2=2), "spherical": dense[:, 0, 0]}
    covariances = np.ascontiguousarray(kept.get(p.family.name, dense))
    return Parameters.from_covariances(p.family, p.weights, p.means @ A.T + 10.0, covariances)


def length(p, q):
    return np.linalg.norm(Chart.about(p, [q]).coordinates(q))


@every_kind
def test_lengths_know_no_origin_or_units(kind):
    base, other = mixtures(kind, 3, 4, 3)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    # (A feature may also have earlier ones added to it.)
    mixed = np.array([[1e-3, 0, 0], [1.0, 2.0, 0], [-30.0, 4.0, 50.0]])
    A = {"diag": np.diag([1e-3, 2.0, 50.0]), "spherical": 7 * rotation}.get(kind, mixed)
    assert length(base, other) == pytest.approx(length(moved(base, A), moved(other, A)), rel=1e-10)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_small_lengths_know_no_basis(kind):
    base, other = mixtures(kind, 3, 4, 3)
    rng = np.random.default_rng(0)
    A = well_conditioned(rng, 3) @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    chart = Chart.about(base, [other])
    for size in (1e-2, 1e-4):
        near = chart.mixture(size * chart.coordinates(other), base)
        assert length(base, near) == pytest.approx(length(moved(base, A), moved(near, A)), rel=2 * size)


@every_kind
def test_a_component_of_weight_zero_stays_where_the_rest_has_it(kind):
    base, other, rest = mixtures(kind, 5, 3, 2, n=3)
    base, rest = (replace(p, weights=np.array([0.7, 0.0, 0.3])) for p in (base, rest))
    chart = Chart.about(base, [other, rest])
    x = chart.coordinates(other)
    assert np.isfinite(x).all()
    found = chart.mixture(x, rest)
    np.testing.assert_array_equal(found.weights == 0, [False, True, False])
    np.testing.assert_array_equal(found.means[1], rest.means[1])
    np.testing.assert_allclose(found.means[[0, 2]], other.means[[0, 2]], rtol=1e-10)
    np.testing.assert_allclose(found.weights[0] / found.weights[2], other.weights[0] / other.weights[2], rtol=1e-10)
    if base.family.name != "tied":
        np.testing.assert_allclose(found.covariances[1], rest.covariances[1], rtol=1e-12)


@every_kind
@pytest.mark.parametrize("scale", [1e3, 1e200, np.nan])
def test_what_overflows_is_no_mixture(kind, scale):
    base, other = mixtures(kind, 7, 2, 2)
    chart = Chart.about(base, [other])
    x = np.full_like(chart.coordinates(other), scale)
    assert chart.mixture(x, base) is None
