"""Rows with gaps that tell too little of a component: against conditional covariances and a generalised eigenvalue."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture
from daskgmm.errors import FitWarning
from daskgmm.kernels.block import Block
from daskgmm.kernels.gap_support import told
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.score import SupportPass
from daskgmm.kernels.support import support_of
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters

NAN = np.nan


def right(X: np.ndarray, weights: np.ndarray, p: Parameters, covariances: np.ndarray) -> np.ndarray:
    """The rows that tell of the direction that is told of least, row by row, (n_components,)."""
    n_features = X.shape[1]
    observed = np.zeros((p.n_components, n_features, n_features))
    counts = np.zeros(p.n_components)
    for x, w in zip(X, weights, strict=True):
        there = ~np.isnan(x)
        density = np.array([
            pi * multivariate_normal(m[there], S[np.ix_(there, there)]).pdf(x[there])
            for pi, m, S in zip(p.weights, p.means, covariances, strict=True)
        ])  # fmt: skip
        resp = w * density / density.sum()
        counts += resp
        for k, S in enumerate(covariances):
            within = np.zeros_like(S)
            if not there.all():
                across = S[np.ix_(~there, there)]
                left = S[np.ix_(~there, ~there)] - across @ np.linalg.solve(S[np.ix_(there, there)], across.T)
                within[np.ix_(~there, ~there)] = left
            observed[k] += resp[k] * (S - within)
    return np.array([eigh(A, S, eigvals_only=True)[0] for A, S in zip(observed, covariances, strict=True)])


def rows(n: int = 400, n_features: int = 4, *, share: float = 0.3) -> np.ndarray:
    random = np.random.default_rng(3)
    X = random.standard_normal((n, n_features)) @ random.standard_normal((n_features, n_features))
    X += 3.0 * (np.arange(n) % 2)[:, np.newaxis]
    X[random.random(X.shape) < share] = NAN
    X[:, 0] = np.where(np.isnan(X).all(axis=1), 1.0, X[:, 0])
    return X


def mixture(kind: str, n_features: int = 4) -> tuple[Parameters, np.ndarray]:
    random = np.random.default_rng(1)
    factors = random.standard_normal((2, n_features, n_features))
    covariances = factors @ np.swapaxes(factors, 1, 2) + np.eye(n_features)
    means = np.array([[0.0] * n_features, [3.0] * n_features])
    if kind != "full":
        variances = np.stack([np.diag(S) for S in covariances])
        if kind == "spherical":
            variances = np.repeat(variances.mean(axis=1, keepdims=True), n_features, axis=1)
        covariances = np.stack([np.diag(v) for v in variances])
        own = variances.mean(axis=1) if kind == "spherical" else variances
        return Parameters.from_covariances(family_called(kind), np.array([0.3, 0.7]), means, own), covariances
    return Parameters.from_covariances(family_called(kind), np.array([0.3, 0.7]), means, covariances), covariances


def found(X: np.ndarray, p: Parameters, weights: np.ndarray | None = None, pieces: int = 1) -> Any:
    plan = make_plan(p, origin=p.centre, gaps=True)
    work = SupportPass([plan])
    total = work.zero()
    for at in np.array_split(np.arange(len(X)), pieces):
        own = None if weights is None else weights[at]
        x = np.ascontiguousarray(X[at].T)
        gaps = np.isnan(x)
        total = work.merge(total, work.update(work.zero(), Block(x, own, 0, gaps=gaps if gaps.any() else None)))
    return support_of(total[0], p, n_rows=len(X) if weights is None else int((weights > 0).sum()))


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_rows_that_tell_are_those_of_the_definition(kind: str, share: float) -> None:
    X = rows(share=share)
    p, covariances = mixture(kind)
    np.testing.assert_allclose(found(X, p).told, right(X, np.ones(len(X)), p, covariances), rtol=2e-3)


def test_neither_chunks_nor_units_matter_and_a_weight_of_two_is_two_rows() -> None:
    X, (p, _) = rows(), mixture("full")
    once = found(X, p).told
    np.testing.assert_allclose(found(X, p, pieces=len(X)).told, once, rtol=1e-9)
    scale = np.array([1e-4, 1.0, 1e5, 7.0])
    moved = Parameters.from_covariances(
        p.family, p.weights, p.means * scale + 1e6, p.covariances * np.outer(scale, scale)
    )
    np.testing.assert_allclose(found(X * scale + 1e6, moved).told, once, rtol=1e-3)
    weights = np.arange(len(X)) % 3 + 0.0
    repeated = found(np.repeat(X, weights.astype(int), axis=0), p)
    weighted = found(X, p, weights)
    np.testing.assert_allclose(weighted.told * weighted.row_weight, repeated.told, rtol=1e-9)


def test_rows_without_gaps_tell_of_everything() -> None:
    X, (p, _) = rows(share=0.0), mixture("full")
    support = found(X, p)
    np.testing.assert_allclose(support.telling, support.counts, rtol=1e-12)
    np.testing.assert_array_equal(told(np.empty((2, 0)), support.counts, p), support.counts)


def test_a_start_on_rows_that_tell_is_preferred() -> None:
    """Of real rows: ten features of tumours, two of five values missing. (Held out it was -7.4 nats before.)"""
    X = np.log1p(load_breast_cancer().data[:, :10])
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    outside = np.arange(len(X)) // 20 % 4 == 0
    inside = X[~outside]
    inside[np.random.default_rng(0).random(inside.shape) < 0.4] = NAN
    with warnings.catch_warnings(action="ignore", category=FitWarning):
        fitted = GaussianMixture(3, random_state=0, n_init=2, non_finite="marginalize").fit(inside)
    assert fitted.score(X[outside]) > -5.0
    assert fitted.counts_.min() > 60


def rows_of_few_values(kind: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if kind == "full":
        X = random.standard_normal((160, 8)) @ random.standard_normal((8, 8))
        X[random.random(X.shape) < 0.6] = NAN
        return X
    X = random.standard_normal((300, 2))
    X[:150, 0] += 50.0
    X[2:150, 1] = NAN  # (two rows of the first group have a second feature)
    return X


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_what_too_few_rows_tell_of_is_said_with_a_remedy_that_mends_it(kind: str) -> None:
    X = rows_of_few_values(kind)
    how: dict[str, Any] = {"random_state": 0, "non_finite": "marginalize", "covariance_type": kind, "n_init": 1}
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        with pytest.warns(FitWarning, match="a direction of which fewer than") as said:
            GaussianMixture(2, **how).fit(X)
        assert "Fit fewer components" in str(said[0].message)
        fewer = {**how, "n_components": 1} if kind == "diag" else {**how, "n_components": 2, "covariance_type": "diag"}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=FitWarning)
            warnings.filterwarnings("ignore", "The rows do not tell components")
            GaussianMixture(**fewer).fit(X)
