"""Conjugate priors against SciPy's densities, and against the maximum of what EM raises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import dirichlet, invgamma, invwishart, multivariate_normal

from daskgmm.mixture.conjugate import Conjugate
from daskgmm.mixture.family import family_called
from daskgmm.mixture.fixed import Fixed
from daskgmm.mixture.floor import Floor
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge, Together, maximise

KINDS = ("full", "tied", "diag", "spherical")
K, D = 3, 2


def matrices(seed: int, kind: str, scale: float = 1.0) -> np.ndarray:
    """Covariances of K components, in the shape of a kind."""
    a = np.random.default_rng(seed).standard_normal((K, D, D))
    full = scale * (a @ a.transpose(0, 2, 1) + np.eye(D))
    return {"full": full, "tied": full[0], "diag": full[:, [0, 1], [0, 1]], "spherical": full[:, 0, 0]}[kind]


def whole(covariances: np.ndarray, kind: str) -> np.ndarray:
    """The covariance matrix of each component."""
    if kind == "full":
        return covariances
    if kind == "tied":
        return np.repeat(covariances[np.newaxis], K, axis=0)
    if kind == "diag":
        return np.stack([np.diag(c) for c in covariances])
    return np.stack([c * np.eye(D) for c in covariances])


def mixture(seed: int, kind: str) -> Parameters:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(K, 5.0))
    means = random.standard_normal((K, D))
    return Parameters.from_covariances(family_called(kind), weights, means, matrices(seed + 1, kind))


def prior(kind: str, **changes: object) -> Conjugate:
    nu = np.full(1, 7.0) if kind == "tied" else np.array([5.0, 7.0, 9.0])
    kappa, mean = np.array([0.5, 2.0, 3.0]), np.random.default_rng(9).standard_normal((K, D))
    found = Conjugate(np.array([1.5, 2.0, 4.0]), kappa, mean, nu, matrices(11, kind, 3.0))
    return replace(found, **changes)  # type: ignore[arg-type]


def of_scipy(p: Conjugate, q: Parameters, kind: str) -> float:
    """The log density of the prior, by SciPy's distributions."""
    covariances, nu, scale = whole(q.covariances, kind), p.degrees_of_freedom, p.covariance
    assert nu is not None
    assert scale is not None
    assert p.concentration is not None
    found = dirichlet(p.concentration).logpdf(q.weights)
    for k in range(K):
        found += multivariate_normal(p.mean[k], covariances[k] / p.mean_precision[k]).logpdf(q.means[k])
    if kind == "full":
        return found + sum(invwishart(nu[k], scale[k]).logpdf(covariances[k]) for k in range(K))
    if kind == "tied":
        return found + invwishart(nu[0], scale).logpdf(q.covariances)
    if kind == "diag":
        of = [
            invgamma(nu[k] / 2, scale=scale[k, j] / 2).logpdf(q.covariances[k, j]) for k in range(K) for j in range(D)
        ]
        return found + sum(of)
    return found + sum(invgamma(nu[k] / 2, scale=scale[k] / 2).logpdf(q.covariances[k]) for k in range(K))


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_that_of_scipy(kind: str) -> None:
    p, q = prior(kind), mixture(3, kind)
    assert_allclose(p.log_density(q), of_scipy(p, q, kind), rtol=1e-12)
    assert_allclose(p.scaled(0.25).log_density(q), of_scipy(p, q, kind) / 4, rtol=1e-12)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_m_step_is_the_maximum_of_the_objective(kind: str, share: float, improper: bool) -> None:
    p = prior(kind).scaled(share)
    if improper:
        p = replace(p, degrees_of_freedom=None, covariance=None)
    rows, previous = moments(kind), mixture(2, kind)
    best = maximise(rows, previous.family, previous=previous.covariances, prior=p)
    top = objective(rows, best, p, kind)
    for seed in range(40):
        other = near(best, kind, seed)
        assert objective(rows, other, p, kind) < top


def moments(kind: str) -> Moments:
    covariances = matrices(21, kind)
    counts = np.array([4.0, 9.0, 30.0])
    return Moments(counts, np.random.default_rng(4).standard_normal((K, D)), covariances, mean_weight=1.5)


def objective(rows: Moments, q: Parameters, p: Conjugate, kind: str) -> float:
    """Expected log-likelihood of rows of these moments, and the log density of the prior."""
    found, own = 0.0, whole(q.covariances, kind)
    for k in range(K):
        n = rows.counts[k] * rows.mean_weight
        away = rows.means[k] - q.means[k]
        spread = whole(rows.central, kind)[k] + np.outer(away, away)
        height = np.linalg.slogdet(own[k])[1] + np.trace(np.linalg.solve(own[k], spread))
        found += n * (np.log(q.weights[k]) - height / 2)
    return float(found + p.log_density(q))


def near(q: Parameters, kind: str, seed: int) -> Parameters:
    random = np.random.default_rng(seed)
    weights = q.weights * np.exp(1e-3 * random.standard_normal(K))
    means = q.means + 1e-3 * random.standard_normal((K, D))
    chart = 1e-3 * random.standard_normal((1 if kind == "tied" else K, 3 if kind in ("full", "tied") else D))
    cholesky = q.family.from_relative(q.precisions_cholesky, chart, D)
    return Parameters(q.family, weights / weights.sum(), means, q.shape.covariances(cholesky), cholesky)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_from_nothing_to_all(kind: str) -> None:
    rows, previous = moments(kind), mixture(2, kind)
    plain = maximise(rows, previous.family, previous=previous.covariances, prior=Ridge(0.0))
    for p in (prior(kind), prior(kind, degrees_of_freedom=None, covariance=None)):
        found = maximise(rows, previous.family, previous=previous.covariances, prior=p.scaled(1e-13))
        for name in ("weights", "means", "covariances"):
            assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-9)
    strong = prior(kind).scaled(1e13)
    found = maximise(rows, previous.family, previous=previous.covariances, prior=strong)
    assert strong.concentration is not None
    assert_allclose(found.means, strong.mean, rtol=1e-9)
    assert_allclose(found.weights, (strong.concentration - 1) / (strong.concentration - 1).sum(), rtol=1e-9)
    # (At its own values a prior gains nothing by more of it.)
    again = maximise(rows, previous.family, previous=previous.covariances, prior=strong.scaled(1e3))
    assert_allclose(again.covariances, found.covariances, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_component_without_rows_has_the_priors_values(kind: str) -> None:
    rows, previous = moments(kind), mixture(2, kind)
    counts = rows.counts * [0, 1, 1] + 2.2e-15
    empty = replace(rows, counts=counts, central=rows.central if kind == "tied" else rows.central * one(kind))
    p = prior(kind, concentration=None)
    found = maximise(empty, previous.family, previous=previous.covariances, prior=p)
    assert_allclose(found.means[0], p.mean[0])
    assert found.weights[0] < 1e-14
    if kind != "tied":
        order, draws = found.shape.wishart(D)
        assert p.degrees_of_freedom is not None
        assert p.covariance is not None
        divisor = p.degrees_of_freedom[0] + order + 1 + draws
        assert_allclose(found.covariances[0], p.covariance[0] / divisor, rtol=1e-12)
    # (Without a prior on them covariances stay as they were.)
    bare = prior(kind, degrees_of_freedom=None, covariance=None)
    found = maximise(empty, previous.family, previous=previous.covariances, prior=bare)
    if kind != "tied":
        assert_array_equal(found.covariances[0], previous.covariances[0])


def one(kind: str) -> np.ndarray:
    return np.array([0.0, 1, 1]).reshape(-1, *{"full": (1, 1), "diag": (1,), "spherical": ()}[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_keep_their_bits(kind: str) -> None:
    values, rows, p = mixture(30, kind), moments(kind), prior(kind)
    mask, none = np.array([False, True, False]), np.zeros(K, dtype=bool)
    covariances = np.ones(K, dtype=bool) if kind == "tied" else mask
    held = Fixed(values, mask, mask, covariances)
    p = replace(p, fixed=held)
    previous = mixture(2, kind)
    found = maximise(rows, previous.family, previous=previous.covariances, prior=Together((p, Ridge(0.1))))
    assert found.weights[1] == values.weights[1]
    assert_allclose(found.weights.sum(), 1, rtol=1e-15)
    assert_array_equal(found.means[1], values.means[1])
    own = slice(None) if kind == "tied" else 1
    assert_array_equal(found.covariances[own], values.covariances[own])
    assert_array_equal(found.precisions_cholesky[own], values.precisions_cholesky[own])
    n_all = replace(found, fixed=()).n_free
    n_own = {"full": 3, "tied": 0, "diag": 2, "spherical": 1}[kind]
    assert found.n_free == n_all - (1 + D + n_own + (3 if kind == "tied" else 0))
    assert_array_equal(found.has_fixed, mask)
    every = Fixed(values, ~none, ~none, ~none)
    assert every.put(previous).n_free == 0
    assert_array_equal(every.put(previous).weights, values.weights)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_fixed_mean_widens_the_covariance(kind: str) -> None:
    values, rows, previous = mixture(30, kind), moments(kind), mixture(2, kind)
    none = np.zeros(K, dtype=bool)
    p = prior(kind, fixed=Fixed(values, none, ~none, none))
    best = maximise(rows, previous.family, previous=previous.covariances, prior=p)
    assert_array_equal(best.means, values.means)
    top = objective(rows, best, p, kind)
    for seed in range(40):
        other = replace(near(best, kind, seed), means=best.means)
        assert objective(rows, other, p, kind) < top


@pytest.mark.parametrize("kind", KINDS)
def test_floor_is_the_constrained_maximum(kind: str) -> None:
    rows, previous = moments(kind), mixture(2, kind)
    least = {"full": np.array([[[2.0, 0.7], [0.7, 1.2]]]), "tied": np.array([[5.0, 0.7], [0.7, 2.0]]),
             "diag": np.array([[1.5, 2.5]]), "spherical": np.array([2.0])}[kind]  # fmt: skip
    floor, flat = Floor(least), prior(kind, concentration=None, mean_precision=np.zeros(K), degrees_of_freedom=None,
                                      covariance=None)  # fmt: skip
    best = maximise(rows, previous.family, previous=previous.covariances, prior=floor)
    unbound = maximise(rows, previous.family, previous=previous.covariances, prior=Ridge(0.0))
    assert not np.allclose(best.covariances, unbound.covariances)  # (it binds)
    matrix = whole(least if kind == "tied" else np.repeat(least, K, axis=0), kind)[0]
    assert np.linalg.eigvalsh(whole(best.covariances, kind) - matrix).min() > -1e-12
    top, n_within = objective(rows, best, flat, kind), 0
    for seed in range(400):
        other = near(best, kind, seed)
        if np.linalg.eigvalsh(whole(other.covariances, kind) - matrix).min() >= 0:
            n_within += 1
            assert objective(rows, other, flat, kind) < top
    assert n_within > 3
    assert floor.kept(best) is best  # (what the M-step gives is above it)
    assert_allclose(floor.kept(unbound).covariances, best.covariances, rtol=1e-12)
    assert_allclose(floor.floor, np.linalg.eigvalsh(matrix)[0])
