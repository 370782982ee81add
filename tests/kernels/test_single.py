"""Single precision: what it promises (1e-3 nats in units of max(1, q^2)), and what it leaves to double precision."""

import numpy as np
import pytest

from daskgmm.kernels.block import Workspace
from daskgmm.kernels.estep import Densities
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.mstep import m_step
from daskgmm.kernels.plan import DOUBLE, SAFETY, SINGLE, flagged_components, make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge
from tests import oracle
from tests.kernels.driving import one_pass, oracle_of, parameters_of, row_set_of
from tests.strategies import KINDS, make_case

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba is not installed"))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 5, 40])
def test_log_densities_are_as_good_as_promised(kind, n_features):
    case = make_case(kind, seed=0, n_rows=200, n_components=3, n_features=n_features)
    parameters = parameters_of(case)
    plan = make_plan(parameters, origin=case.X.mean(axis=0), precision=SINGLE)
    found = Densities(np.ascontiguousarray(case.X.T), Workspace()).log_density(plan, complete=True)
    assert found.dtype == np.float32
    expected = oracle.log_densities(case.X, oracle_of(parameters)).T.astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3 * n_features)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_near_the_oracles(kind, compiled):
    case = make_case(kind, seed=2, n_rows=3000, n_components=3, n_features=6)
    parameters, row_set = parameters_of(case), row_set_of(case.X)
    plan = make_plan(parameters, origin=row_set.mean, precision=SINGLE)
    assert not plan.exact.all()
    (statistics,) = one_pass(case.X, [plan], cuts=[0, 1000, 3000], compiled=compiled)
    assert statistics.values.dtype == np.float64
    # (Sums of responsibilities in float32, over 2,000 rows each.)
    assert statistics.panel(3)[:, -1].sum() == pytest.approx(3000, rel=1e-5)
    step = m_step(statistics, plan, previous=parameters, prior=Ridge(0.0), row_set=row_set)
    expected = oracle.em_step(kind, case.X, oracle_of(parameters))
    assert step.objective == pytest.approx(float(expected.log_likelihood) / 3000, abs=1e-4)
    np.testing.assert_allclose(step.parameters.means, expected.means.astype(float), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_components_for_which_it_is_not_good_enough_are_computed_in_double(kind):
    # Means at 40 standard deviations or more from the origin: B is some 1e4, and 8 u B 5e-3.
    case = make_case(kind, seed=3, n_rows=300, n_components=2, n_features=3)
    means = case.means + np.array([[60.0], [-60.0]])
    X = np.concatenate([case.X + 60, case.X - 60])
    parameters = Parameters.from_covariances(family_called(kind), case.weights, means, case.covariances)
    row_set = row_set_of(X)
    bound = parameters.shape.bound(parameters.means, parameters.precisions, parameters.deviations, row_set.mean)
    assert np.all(SAFETY * SINGLE.unit_roundoff * bound > SINGLE.tolerance)
    assert not flagged_components(parameters, row_set.mean).any()
    plan = make_plan(parameters, origin=row_set.mean, precision=SINGLE)
    assert plan.precision is DOUBLE
    assert not plan.exact.any(), "double can do by Phi what single cannot"
    (statistics,) = one_pass(X, [plan])
    step = m_step(statistics, plan, previous=parameters, prior=Ridge(0.0), row_set=row_set)
    expected = oracle.em_step(kind, X, oracle_of(parameters))
    np.testing.assert_allclose(step.parameters.means, expected.means.astype(float), atol=2e-3)
    np.testing.assert_allclose(step.parameters.covariances, expected.covariances.astype(float), atol=2e-2)


@pytest.mark.parametrize(("n_far", "precision"), [(0, SINGLE), (2, SINGLE), (12, DOUBLE), (38, SINGLE)])
def test_single_is_taken_where_it_is_faster(n_far, precision):
    """Of 40 components some are so far away that single precision would leave them to the exact form."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((40, 16))
    means[:n_far] += 60
    covariances = np.stack([np.eye(16)] * 40)
    parameters = Parameters.from_covariances(family_called("full"), np.full(40, 0.025), means, covariances)
    origin = np.zeros(16)
    plan = make_plan(parameters, origin=origin, precision=SINGLE)
    assert plan.precision is precision
    if precision is SINGLE:
        assert plan.exact.sum() == min(n_far, 40 - n_far), "where more are far, the origin is there"
        assert not flagged_components(parameters, plan.origin, SINGLE)[~plan.exact].any()
    else:
        assert not plan.exact.any()


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_component_that_shrinks_in_one_step_keeps_a_positive_variance(kind):
    # 1e-4 wide at 10 from the origin: E[xx'] - dd' is 1e-8 where float32 resolves 1e-5. The next pass has it right.
    rng = np.random.default_rng(0)
    X = np.concatenate([10 + 1e-4 * rng.standard_normal((500, 2)), -10 + 1e-4 * rng.standard_normal((500, 2))])
    kinds = family_called(kind)
    wide = {"full": np.stack([np.eye(2) * 25] * 2), "diag": np.full((2, 2), 25.0), "spherical": np.full(2, 25.0)}[kind]
    parameters = Parameters.from_covariances(kinds, np.full(2, 0.5), np.array([[9.0, 9.0], [-9.0, -9.0]]), wide)
    row_set = row_set_of(X)
    for _ in range(4):
        plan = make_plan(parameters, origin=row_set.mean, precision=SINGLE)
        (statistics,) = one_pass(X, [plan])
        parameters = m_step(statistics, plan, previous=parameters, prior=Ridge(0.0), row_set=row_set).parameters
    variances = kinds.shape.variances(parameters.covariances)
    np.testing.assert_allclose(variances, 1e-8, rtol=0.15)


def test_the_origin_is_subtracted_before_rounding_to_single():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((500, 3))
    X = 1e8 + y
    near = Parameters.from_covariances(family_called("full"), np.ones(1), np.full((1, 3), 1e8), np.eye(3)[np.newaxis])
    plan = make_plan(near, origin=np.full(3, 1e8), kernel="phi", precision=SINGLE)
    found = Densities(np.ascontiguousarray(X.T), Workspace()).log_density(plan)
    shifted = X - 1e8
    expected = -0.5 * (shifted**2).sum(axis=1) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
