"""EM of several pairs, and of several components, at once is EM of each with SciPy's densities; what is tied stays."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from daskgmm.mixture import split as split_module
from daskgmm.mixture.family import family_called
from daskgmm.mixture.pairs import Em, RowsOfSeveral
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import splits
from tests.kernels.driving import KINDS

REG_COVAR = 1e-3
SHAPES = {
    "full": lambda c: c,
    "diag": np.diag,
    "spherical": lambda c: np.trace(c) / len(c),
}


def matrix(covariance, n_features):
    return np.eye(n_features) * covariance if np.ndim(covariance) < 2 else covariance


def log_density(X, weights, means, covariances):
    return np.stack([
        np.log(w) + multivariate_normal(m, matrix(c, X.shape[1])).logpdf(X)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ])  # fmt: skip


def m_step(X, resp, kind, tied, shrinkage):
    counts = resp.sum(axis=1)
    means = resp @ X / counts[:, np.newaxis]
    if kind == "tied":
        return counts / counts.sum(), means, [tied, tied]
    own = [SHAPES[kind]((r * (X - m).T) @ (X - m) / r.sum()) for r, m in zip(resp, means, strict=True)]
    weights = counts / counts.sum()
    within, n = weights[0] * own[0] + weights[1] * own[1], weights * len(X)
    shrunk = [(n[k] * own[k] + shrinkage * within) / (n[k] + shrinkage) for k in range(2)]
    added = REG_COVAR * np.eye(X.shape[1]) if kind == "full" else REG_COVAR
    return weights, means, [c + added for c in shrunk]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 5])
@pytest.mark.parametrize("shrinkage", [0.0, 4.0])
def test_pairs_go_as_each_goes_alone(kind, n_features, shrinkage):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, n_features)) + 1.5 * (rng.random((300, 1)) < 0.4)
    v = rng.uniform(0.1, 2, 300)
    whole = np.cov(X.T, aweights=v, ddof=0).reshape(n_features, n_features)
    tied = whole + REG_COVAR * np.eye(n_features)
    shape = {"full": tied[np.newaxis], "tied": tied, "diag": np.diag(tied)[np.newaxis], "spherical": tied[:1, 0]}[kind]
    one = Parameters.from_covariances(family_called(kind), np.ones(1), X.mean(axis=0, keepdims=True), shape)
    sides = np.stack([X[:, 0] > 0, X[:, -1] > 0.7, rng.random(300) < 0.5])
    em = Em(one, [0], floor=REG_COVAR, least=np.array([1e-3]), shrinkage=shrinkage)
    rows = RowsOfSeveral.of(X, np.ones(300), [(np.arange(300), v)], one.means)
    pairs = em.run(rows, em.of_sides(rows, sides, np.zeros(3, dtype=int)), 5)
    found = [em.mixture(pair) for pair in pairs.each()]
    assert len(found) == 3
    for side, p, score in zip(sides, found, em.scores(rows, pairs), strict=True):
        weights, means, covariances = m_step(X, v * np.stack([~side, side]), kind, tied, shrinkage)
        for _ in range(5):
            density = log_density(X, weights, means, covariances)
            resp = np.exp(density - np.logaddexp.reduce(density, axis=0))
            weights, means, covariances = m_step(X, v * resp, kind, tied, shrinkage)
        assert_allclose(p.weights, weights, rtol=1e-9)
        assert_allclose(p.means, means, rtol=1e-9, atol=1e-11)
        assert_allclose(p.covariances, tied if kind == "tied" else np.stack(covariances), rtol=1e-9, atol=1e-11)
        density = log_density(X, weights, means, covariances)
        assert score == pytest.approx(v @ np.logaddexp.reduce(density, axis=0) / v.sum(), rel=1e-10)
    alone = log_density(X, np.ones(1), one.means, [tied if kind == "tied" else shape[0]])[0]
    assert em.scores_of_ones(rows) == [pytest.approx(v @ alone / v.sum(), rel=1e-10)]


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_singular_or_an_empty_half_leaves_the_other_pairs(kind):
    X = np.concatenate([np.random.default_rng(0).standard_normal((60, 2)), np.zeros((20, 2))])
    shape = {"full": np.eye(2)[np.newaxis], "diag": np.ones((1, 2)), "spherical": np.ones(1)}[kind]
    one = Parameters.from_covariances(family_called(kind), np.ones(1), np.zeros((1, 2)), shape)
    alike, nobody, good = np.arange(80) >= 60, np.zeros(80, dtype=bool), X[:, 0] > 0
    for n in (1, 2):  # (a component by itself, and beside another one with fewer rows)
        em = Em(one, [0] * n, floor=0.0, least=np.full(n, 1e-3), shrinkage=0.0)
        members = [(np.arange(80), np.ones(80)), (np.arange(50), np.ones(50))][:n]
        rows = RowsOfSeveral.of(X, np.ones(80), members, np.zeros((n, 2)))
        pairs = em.of_sides(rows, np.stack([alike, nobody, good]), np.zeros(3, dtype=int))
        assert pairs.weights.tolist() == [[1 - good.mean(), good.mean()]]
        assert len(em.of_sides(rows, np.stack([alike, nobody]), np.zeros(2, dtype=int)).weights) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_fitted", [None, 700])
def test_components_are_split_together_as_each_is_alone(kind, n_fitted, monkeypatch):
    rng = np.random.default_rng(1)
    labels = rng.choice(5, size=900, p=[0.4, 0.25, 0.2, 0.14, 0.01])
    X = rng.standard_normal((900, 3)) + 30.0 * labels[:, np.newaxis] + 4.0 * (np.arange(900)[:, np.newaxis] % 2)
    w = rng.uniform(0.5, 2.0, 900)
    members = [(own, rng.uniform(0.5, 1.0, len(own))) for own in (np.flatnonzero(labels == k) for k in range(5))]
    means = np.stack([np.average(X[own], axis=0, weights=w[own] * resp) for own, resp in members])
    shape = {"full": (5, 1, 1), "tied": (1, 1), "diag": (5, 1), "spherical": (5,)}[kind]
    unit = np.eye(3) if kind in ("full", "tied") else np.ones(3 if kind == "diag" else ())
    p = Parameters.from_covariances(family_called(kind), np.full(5, 0.2), means, 5.0 * np.ones(shape) * unit)

    def found():
        return splits(p, X, w, members, floor=REG_COVAR, rng=np.random.default_rng(0), n_fitted=n_fitted)

    together = found()
    monkeypatch.setattr(split_module, "_AT_ONCE_OF_SEVERAL", 1)
    alone = found()
    assert [s.k for s in together] == [s.k for s in alone] == [0, 1, 2, 3], "nine rows are too few"
    for a, b in zip(together, alone, strict=True):
        assert (a.gain, a.hope) == (pytest.approx(b.gain, rel=1e-9), pytest.approx(b.hope, rel=1e-9))
        assert a.hope > 0.01
        assert_allclose(a.halves.weights, b.halves.weights, rtol=1e-9)
        assert_allclose(a.halves.means, b.halves.means, rtol=1e-9)
        assert_allclose(a.halves.covariances, b.halves.covariances, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_without_rows_beyond_those_that_it_is_fitted_to_gains_nothing_there(kind):
    X = np.random.default_rng(0).standard_normal((300, 2)) + 3.0 * (np.arange(300)[:, np.newaxis] % 2)
    shape = {"full": np.eye(2)[np.newaxis], "tied": np.eye(2), "diag": np.ones((1, 2)), "spherical": np.ones(1)}[kind]
    one = Parameters.from_covariances(family_called(kind), np.ones(1), X.mean(axis=0, keepdims=True), shape)
    members = [(np.arange(300), np.ones(300))]
    for n_fitted in (300, 400):
        (found,) = splits(
            one, X, np.ones(300), members, floor=REG_COVAR, rng=np.random.default_rng(0), n_fitted=n_fitted
        )
        assert found.gain == 0
        assert found.hope > 0.1
    nobody = [(np.arange(0), np.ones(0))]
    assert splits(one, X, np.ones(300), nobody, floor=REG_COVAR, rng=np.random.default_rng(0)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_needs_as_many_rows_as_its_own_covariance_and_no_more(kind):
    n_features, n_rows = 40, 100
    X = np.random.default_rng(0).standard_normal((n_rows, n_features))
    X[:30] += 2.0  # 30 rows: fewer than twice those of a full covariance of 40 features, enough for the others
    shape = {"full": np.eye(n_features)[np.newaxis], "tied": np.eye(n_features), "diag": np.ones((1, n_features)),
             "spherical": np.ones(1)}[kind]  # fmt: skip
    one = Parameters.from_covariances(family_called(kind), np.ones(1), X.mean(axis=0, keepdims=True), shape)
    members = [(np.arange(n_rows), np.ones(n_rows))]
    found = splits(one, X, np.ones(n_rows), members, floor=REG_COVAR, rng=np.random.default_rng(0))
    if kind == "full":
        assert found == []
        return
    assert sorted(found[0].halves.weights) == pytest.approx([0.3, 0.7], abs=1e-6)
    assert np.sort(found[0].halves.means.mean(axis=1)) == pytest.approx([0, 2], abs=0.1)
