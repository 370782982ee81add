"""Stacked products equal each component's own, to the tolerance; where they would not, they are not taken."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.estep import Densities, EStep
from daskgmm.kernels.plan import DOUBLE, Plan, make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters

FULL = family_called("full")


def mixture(n_components: int, n_features: int, *, condition: float = 1e6, apart: float = 1.0) -> Parameters:
    rng = np.random.default_rng(n_components * n_features)
    turned = [np.linalg.qr(rng.standard_normal((n_features, n_features)))[0] for _ in range(n_components)]
    roots = [q * np.geomspace(1 / np.sqrt(condition), 1, n_features) for q in turned]
    means = apart * rng.standard_normal((n_components, n_features))
    weights = rng.dirichlet(np.full(n_components, 5.0))
    return Parameters.from_covariances(FULL, weights, means, np.stack([r @ r.T for r in roots]))


def rows_of(p: Parameters, n_rows: int) -> np.ndarray:
    rng = np.random.default_rng(n_rows)
    own = np.sort(rng.integers(0, p.n_components, n_rows))
    z = rng.standard_normal((n_rows, p.n_features))
    return np.stack([p.means[k] + np.linalg.cholesky(p.covariances[k]) @ row for k, row in zip(own, z, strict=True)])


def oracle(p: Parameters, X: np.ndarray) -> np.ndarray:
    """Log of weight times density, (n_components, n_rows), in extended precision from the same factors."""
    found = []
    for log_weight, mean, factor in zip(p.log_weights, p.means, p.precisions_cholesky, strict=True):
        z = (X.astype(np.longdouble) - mean) @ factor.astype(np.longdouble)
        norm = np.log(np.diag(factor)).sum() - p.n_features / 2 * np.log(2 * np.pi)
        found.append(float(log_weight) + norm - (z * z).sum(axis=1) / 2)
    return np.array(found)


def plan_of(p: Parameters, origin: np.ndarray, *, compiled: bool = False) -> Plan:
    return make_plan(p, origin=origin, kernel="exact", compiled=compiled)


@pytest.mark.parametrize("n_features", [32, 33, 47, 64, 130])
@pytest.mark.parametrize("n_components", [1, 8, 11])
def test_densities_are_the_oracles(n_components: int, n_features: int) -> None:
    p = mixture(n_components, n_features)
    X = rows_of(p, 100)
    X[::10] += 1e4  # far outliers
    plan = plan_of(p, p.means.mean(axis=0))
    assert plan.stacked.all()
    found = Densities(np.ascontiguousarray(X.T), Workspace()).log_density(plan)
    true = oracle(p, X)
    assert np.max(np.abs(found - true) / np.maximum(1.0, np.abs(true))) < DOUBLE.tolerance


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("apart", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_own_products(
    apart: float, compiled: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:
        pytest.importorskip("numba")
    p = mixture(11, 37, condition=1e2 if apart == 0 else 1e6, apart=apart)
    X = rows_of(p, 700)
    weights = np.random.default_rng(0).uniform(0, 2, len(X)) if weighted else None
    block = Block(np.ascontiguousarray(X.T), weights, 0)

    def sums() -> np.ndarray:
        estep = EStep([plan_of(p, X.mean(axis=0), compiled=compiled)])
        (total,) = estep.finish(estep.update(estep.zero(), block))
        return np.concatenate([np.ravel(part) for part in total.compensated()])

    stacked = sums()
    monkeypatch.setattr("daskgmm.kernels.plan.STACKED_TO", 0)
    own = sums()
    assert_allclose(stacked, own, rtol=1e-10, atol=1e-10 * np.abs(own).max())


def test_a_component_of_no_row_has_sums_of_zero() -> None:
    compiled = pytest.importorskip("daskgmm.kernels.compiled")
    n_features, height, n_rows = 33, 9, 16
    z, resp = np.random.default_rng(0).standard_normal((4, 2 * height, n_rows)), np.zeros((2, n_rows))
    resp[1, :3] = 0.25
    few, second = np.full(4 * height * n_rows, np.nan), np.full((n_features, n_features), np.nan)
    out = np.full((2, FULL.shape.n_statistics(n_features, exact=True)), np.nan)
    compiled.exact_sums(z, height, np.arange(2), resp, few, second, out)
    assert not out[0].any()
    assert np.isfinite(out[1]).all()
    assert out[1, -1] == 0.75


def test_components_that_would_lose_digits_go_alone() -> None:
    p = mixture(6, 40, condition=1e2)
    scales = np.array([1.0, 1e-3, 1e-6, 1e-9, 1e-12, 1.0])
    means = np.where(np.arange(6)[:, np.newaxis] == 5, 1e9, p.means)
    p = Parameters.from_covariances(FULL, p.weights, means, p.covariances * scales[:, np.newaxis, np.newaxis] ** 2)
    plan = plan_of(p, np.zeros(40))
    assert plan.stacked.tolist() == [True, True, False, False, False, False]
    X = rows_of(p, 60)
    found = Densities(np.ascontiguousarray(X.T), Workspace()).log_density(plan)
    true = oracle(p, X)
    assert np.max(np.abs(found - true) / np.maximum(1.0, np.abs(true))) < DOUBLE.tolerance


def test_a_component_of_weight_zero_counts_nowhere() -> None:
    p = mixture(9, 32)
    weights = np.where(np.arange(9) == 4, 0.0, p.weights)
    p = Parameters.from_covariances(FULL, weights / weights.sum(), p.means, p.covariances)
    X = rows_of(p, 50)
    found = Densities(np.ascontiguousarray(X.T), Workspace()).log_density(plan_of(p, X.mean(axis=0)))
    assert (found[4] == -np.inf).all()
    assert np.isfinite(np.delete(found, 4, axis=0)).all()


@pytest.mark.parametrize(("n_narrow", "all_go"), [(1, False), (5, True), (20, True)])
def test_all_components_are_stacked_where_many_cannot_go_by_phi(n_narrow: int, all_go: bool) -> None:
    p = mixture(20, 64, condition=1e2, apart=3.0)
    narrow = np.where(np.arange(20) < n_narrow, 1e-2, 1.0)
    p = Parameters.from_covariances(FULL, p.weights, p.means, p.covariances * narrow[:, np.newaxis, np.newaxis] ** 2)
    plan = make_plan(p, origin=p.means.mean(axis=0))
    assert plan.exact[:n_narrow].all()
    assert plan.exact.all() is np.bool_(all_go)
    assert plan.stacked.all() is np.bool_(all_go)
