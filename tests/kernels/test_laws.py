"""Laws of statistics and steps, over drawn data: what must hold whatever the rows are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.kernels.mstep import m_step
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge
from tests.kernels.driving import KERNELS, dense_covariances, one_pass, parameters_of, row_set_of, step
from tests.strategies import KINDS, LAWS, cases, cuts, integer_weights, make_case, real_weights

every_kind = pytest.mark.parametrize("kind", KINDS)
kernels = st.sampled_from(KERNELS)


def statistics_of(X, parameters, kernel="rule", row_weights=None, cuts=None, origin=None):
    plan = make_plan(parameters, origin=X.mean(axis=0) if origin is None else origin, kernel=kernel)
    (statistics,) = one_pass(X, [plan], row_weights, cuts)
    return statistics


def assert_close(found, expected, tolerance=1e-12):
    """Equal to rounding, where a sum may cancel: relative to the largest of the numbers beside it."""
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, float(abs(expected).max())))


def assert_same_mixture(found, expected, tolerance=1e-10):
    assert_close(found.weights, expected.weights, tolerance)
    assert_close(found.means, expected.means, tolerance)
    assert_close(found.covariances, expected.covariances, tolerance)


# -- the monoid ------------------------------------------------------------------------------------------------------


@every_kind
@LAWS
@given(data=st.data())
def test_zero_is_neutral(kind, data):
    case = data.draw(cases(kind))
    parameters = parameters_of(case)
    statistics = statistics_of(case.X, parameters, data.draw(kernels))
    zero = Statistics.zero(make_plan(parameters, origin=case.X.mean(axis=0), kernel="rule"))
    if zero.values.shape == statistics.values.shape:
        np.testing.assert_array_equal(zero.merge(statistics).values, statistics.values)
        np.testing.assert_array_equal(statistics.merge(zero).values, statistics.values)


@every_kind
@LAWS
@given(data=st.data())
def test_merging_is_commutative_and_associative(kind, data):
    case, kernel = data.draw(cases(kind, min_rows=3)), data.draw(kernels)
    parameters, origin, n = parameters_of(case), case.X.mean(axis=0), len(case.X)
    i = data.draw(st.integers(1, n - 2))
    j = data.draw(st.integers(i + 1, n - 1))
    a, b, c = (statistics_of(rows, parameters, kernel, origin=origin) for rows in np.split(case.X, [i, j]))
    np.testing.assert_array_equal(a.merge(b).values, b.merge(a).values)
    assert_close(a.merge(b).merge(c).values, a.merge(b.merge(c)).values, 1e-14)
    whole = statistics_of(case.X, parameters, kernel, origin=origin)
    assert_close(a.merge(b).merge(c).values, whole.values)


@every_kind
@LAWS
@given(data=st.data())
def test_any_cuts_give_the_same_statistics_and_conserve_rows_and_weight(kind, data):
    case, kernel = data.draw(cases(kind)), data.draw(kernels)
    n = len(case.X)
    w = data.draw(st.none() | real_weights(n))
    parameters = parameters_of(case)
    whole = statistics_of(case.X, parameters, kernel, w)
    parts = statistics_of(case.X, parameters, kernel, w, data.draw(cuts(n)))
    assert_close(parts.values, whole.values)
    assert parts.n_rows == whole.n_rows == n
    total = n if w is None else w.sum()
    assert parts.weight == pytest.approx(total, rel=1e-14)
    assert parts.panel(case.n_components)[:, -1].sum() == pytest.approx(total, rel=1e-13)


@every_kind
@LAWS
@given(data=st.data(), factor=st.floats(1e-3, 1e3))
def test_scaling_statistics_is_scaling_the_row_weights(kind, data, factor):
    case, kernel = data.draw(cases(kind)), data.draw(kernels)
    w = data.draw(real_weights(len(case.X)))
    parameters = parameters_of(case)
    scaled = statistics_of(case.X, parameters, kernel, w) * factor
    expected = statistics_of(case.X, parameters, kernel, factor * w)
    assert_close(scaled.values[:-1], expected.values[:-1])
    assert scaled.n_rows == expected.n_rows == len(case.X)


def test_adding_is_compensated_over_many_blocks():
    # 1 + 1e5 times 1e-16: a plain sum stays at 1, for the increments are below half a unit in the last place.
    plan = make_plan(
        parameters_of(make_case("spherical", seed=0, n_rows=1, n_components=1, n_features=1)), origin=[0.0]
    )
    total = Statistics.zero(plan)
    total.add(np.ones_like(total.values))
    for _ in range(100_000):
        total.add(np.full_like(total.values, 1e-16))
    np.testing.assert_allclose(total.settled().values, 1 + 1e-11, rtol=2.3e-16)


# -- rows and weights ------------------------------------------------------------------------------------------------


@every_kind
@LAWS
@given(data=st.data())
def test_the_order_of_the_rows_does_not_matter(kind, data):
    case, kernel = data.draw(cases(kind, min_rows=2)), data.draw(kernels)
    order = data.draw(st.permutations(range(len(case.X))))
    parameters = parameters_of(case)
    found = step(case.X[order], parameters, kernel=kernel, reg_covar=0.1)
    expected = step(case.X, parameters, kernel=kernel, reg_covar=0.1)
    assert_same_mixture(found.parameters, expected.parameters)
    assert found.objective == pytest.approx(expected.objective, rel=1e-13)


@every_kind
@LAWS
@given(data=st.data())
def test_integer_weights_equal_repetition_and_weight_zero_absence(kind, data):
    case, kernel = data.draw(cases(kind)), data.draw(kernels)
    w = data.draw(integer_weights(len(case.X)))
    parameters = parameters_of(case)
    weighted = step(case.X, parameters, kernel=kernel, reg_covar=0.1, row_weights=w)
    repeated = step(np.repeat(case.X, w, axis=0), parameters, kernel=kernel, reg_covar=0.1)
    assert_same_mixture(weighted.parameters, repeated.parameters)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-12)


@every_kind
@LAWS
@given(data=st.data())
def test_relabelling_components_relabels_the_outcome(kind, data):
    case, kernel = data.draw(cases(kind)), data.draw(kernels)
    order = np.array(data.draw(st.permutations(range(case.n_components))))
    p = parameters_of(case)
    covariances = p.covariances if kind == "tied" else p.covariances[order]
    relabelled = Parameters.from_covariances(p.family, p.weights[order], p.means[order], covariances)
    found = step(case.X, relabelled, kernel=kernel, reg_covar=0.1)
    expected = step(case.X, p, kernel=kernel, reg_covar=0.1)
    assert found.objective == pytest.approx(expected.objective, rel=1e-13)
    new = expected.parameters
    assert_close(found.parameters.means, new.means[order], 1e-12)
    assert_close(found.parameters.weights, new.weights[order], 1e-12)
    assert_close(found.parameters.covariances, new.covariances if kind == "tied" else new.covariances[order], 1e-12)


# -- the data moved and scaled ---------------------------------------------------------------------------------------


@every_kind
@LAWS
@given(data=st.data(), shift=st.floats(-1e4, 1e4))
def test_shifting_the_data_shifts_the_means_alone(kind, data, shift):
    case, kernel = data.draw(cases(kind)), data.draw(kernels)
    p = parameters_of(case)
    moved = Parameters.from_covariances(p.family, p.weights, p.means + shift, p.covariances)
    found = step(case.X + shift, moved, kernel=kernel, reg_covar=0.1)
    expected = step(case.X, p, kernel=kernel, reg_covar=0.1)
    # Rows and means move by a rounding of u |shift| = 1e-12.
    assert found.objective == pytest.approx(expected.objective, abs=1e-10)
    np.testing.assert_allclose(found.parameters.means - shift, expected.parameters.means, atol=1e-9)
    np.testing.assert_allclose(found.parameters.covariances, expected.parameters.covariances, atol=1e-9)


@every_kind
@LAWS
@given(data=st.data(), power=st.integers(-30, 30))
def test_scaling_the_data_scales_means_and_covariances(kind, data, power):
    case, kernel = data.draw(cases(kind)), data.draw(kernels)
    scale = 2.0**power
    p = parameters_of(case)
    scaled = Parameters.from_covariances(p.family, p.weights, p.means * scale, p.covariances * scale**2)
    found = step(case.X * scale, scaled, kernel=kernel, reg_covar=0.1 * scale**2)
    expected = step(case.X, p, kernel=kernel, reg_covar=0.1)
    log_det = p.n_features * np.log(scale)
    assert found.objective == pytest.approx(expected.objective - log_det, rel=1e-12, abs=1e-12)
    assert_close(found.parameters.means / scale, expected.parameters.means)
    assert_close(found.parameters.covariances / scale**2, expected.parameters.covariances)


# -- EM --------------------------------------------------------------------------------------------------------------


@every_kind
@LAWS
@given(data=st.data())
def test_the_log_likelihood_never_falls_without_reg_covar(kind, data):
    seed = data.draw(st.integers(0, 2**31))
    n_components, n_features = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    case = make_case(kind, seed=seed, n_rows=100, n_components=n_components, n_features=n_features)
    kernel, w = data.draw(kernels), data.draw(st.none() | real_weights(100))
    parameters, before = parameters_of(case), -np.inf
    for _ in range(8):
        found = step(case.X, parameters, kernel=kernel, row_weights=w)
        assert found.objective >= before - 1e-12 * abs(found.objective)
        parameters, before = found.parameters, found.objective


@every_kind
@LAWS
@given(data=st.data())
def test_a_step_matches_the_moments_of_the_data(kind, data):
    # The mixture's mean is the data's after any M-step, and so is its total covariance (or its diagonal, or trace).
    case, kernel = data.draw(cases(kind, min_rows=2)), data.draw(kernels)
    w = data.draw(real_weights(len(case.X)))
    row_set = row_set_of(case.X, w)
    plan = make_plan(parameters_of(case), origin=row_set.mean, kernel=kernel)
    (statistics,) = one_pass(case.X, [plan], w)
    new = m_step(statistics, plan, previous=parameters_of(case), prior=Ridge(1e-2), row_set=row_set).parameters
    # (A component of hardly any rows has lost them from its weight: 10 eps of a row.)
    np.testing.assert_allclose(new.weights @ new.means, row_set.mean, atol=1e-11)
    offsets = new.means - row_set.mean
    total = np.einsum("k,kij->ij", new.weights, dense_covariances(new)) + (new.weights * offsets.T) @ offsets
    expected = row_set.scatter / row_set.weight + 1e-2 * np.eye(total.shape[0])
    if kind in ("full", "tied"):
        np.testing.assert_allclose(total, expected, atol=1e-10)
    elif kind == "diag":
        np.testing.assert_allclose(np.diag(total), np.diag(expected), atol=1e-10)
    assert np.trace(total) == pytest.approx(np.trace(expected), rel=1e-10)
    assert new.weights.sum() == pytest.approx(1.0, rel=1e-15)


def test_the_cases_are_of_every_kind():
    assert {family_called(kind).name for kind in KINDS} == set(KINDS)
