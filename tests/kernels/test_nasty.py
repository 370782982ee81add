"""Data on which naive sums fail, against the oracle in more digits, as the rule computes them.

u is the unit roundoff, 1.1e-16; covariances are compared in units of their own standard deviations, means likewise.
Each test says what error the representation of its input or output forces, and allows little more.
"""

import numpy as np
import pytest

from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.sums import log_likelihood
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import KERNELS, dense_covariances, one_pass, oracle_of, parameters_of, row_set_of, step
from tests.strategies import KINDS, make_case


def mixture_of(kind, weights, means, covariances):
    """Parameters from lists."""
    arrays = (np.asarray(a, dtype=float) for a in (weights, means, covariances))
    return Parameters.from_covariances(family_called(kind), *arrays)


def shaped(kind, covariance, n_components):
    """The covariance for every component, in the shape of the kind."""
    covariance = np.asarray(covariance, dtype=float)
    return {
        "full": np.stack([covariance] * n_components),
        "tied": covariance,
        "diag": np.stack([np.diag(covariance)] * n_components),
        "spherical": np.full(n_components, np.trace(covariance) / len(covariance)),
    }[kind]


def compare(
    X, parameters, *, means, covariances, objective=1e-12, weights=1e-12, loewner=None, digits="longdouble", **how
):
    """Compare one step with the oracle's; the keywords are what each part may be off by."""
    found = step(X, parameters, **how)
    how.pop("kernel", None)
    how.pop("cuts", None)
    kind, new = parameters.family.name, found.parameters
    right = oracle.em_step(kind, X, oracle_of(parameters, digits=digits), **how)
    dense = oracle.dense(kind, right.covariances, *parameters.means.shape)
    sd = np.sqrt(np.diagonal(dense.astype(float), axis1=1, axis2=2))
    assert float((abs(new.means - right.means) / sd).max()) <= means
    error = abs(dense_covariances(new) - dense) / (sd[:, :, np.newaxis] * sd[:, np.newaxis, :])
    assert float(error.max()) <= covariances
    if loewner is not None:
        assert oracle.loewner_error(dense_covariances(new), dense) <= loewner
    np.testing.assert_allclose(new.weights, right.weights.astype(float), rtol=0, atol=weights)
    total = len(X) if how.get("row_weights") is None else how["row_weights"].sum()
    expected = float(right.log_likelihood / total)
    assert abs(found.objective - expected) <= objective * max(1.0, abs(expected))
    return new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digits", ["longdouble", "mpmath"])
def test_an_offset_of_1e8_with_sd_1(kind, digits):
    n_rows = 60 if digits == "mpmath" else 400
    case = make_case(kind, seed=1, n_rows=n_rows, n_components=3, n_features=3)
    offset = np.array([1e8, -1e8, 1e8])
    parameters = mixture_of(kind, case.weights, case.means + offset, case.covariances)
    # A mean of 1e8 can only be stored to u 1e8 = 1.1e-8; nothing else depends on it.
    compare(case.X + offset, parameters, means=1.5e-8, covariances=1e-13, digits=digits)


@pytest.mark.parametrize("kind", KINDS)
def test_two_clusters_of_sd_1_at_1e6_apart(kind):
    case = make_case(kind, seed=1, n_rows=300, n_components=2, n_features=3, separation=1.0)
    apart = np.array([1e6, 0.0, 0.0])
    X = np.concatenate([case.X, case.X[:200] + apart])
    # Two overlapping components in each cluster, so that responsibilities matter; u 1e6 = 1.1e-10 in the means.
    covariances = case.covariances if kind == "tied" else np.concatenate([case.covariances] * 2)
    means = np.concatenate([case.means, case.means + apart])
    four = mixture_of(kind, np.full(4, 0.25), means, covariances)
    two = mixture_of(kind, [0.6, 0.4], [[0.0, 0.0, 0.0], [1e6, 0.0, 0.0]], shaped(kind, 3 * np.eye(3), 2))
    for parameters in (four, two):
        new = compare(X, parameters, means=2e-10, covariances=1e-12)
        compare(X, new, means=2e-10, covariances=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_1e_6_and_1e6_side_by_side(kind):
    case = make_case("diag" if kind == "spherical" else kind, seed=1, n_rows=300, n_components=3, n_features=3)
    scale = np.array([1e-6, 1e6, 1.0])
    outer = np.outer(scale, scale) if kind in ("full", "tied") else scale**2
    covariances = np.full(3, 1e12) if kind == "spherical" else case.covariances * outer
    parameters = mixture_of(kind, case.weights, case.means * scale, covariances)
    compare(case.X * scale, parameters, means=1e-12, covariances=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centred", [True, False])
def test_a_correlation_with_condition_number_1e8(kind, centred):
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    mixing = basis * np.array([1.0, 1e-2, 1e-4])
    case = make_case(kind, seed=1, n_rows=300, n_components=3, n_features=3)
    X = case.X @ mixing.T
    correlated = mixing @ mixing.T if kind in ("full", "tied") else np.eye(3)
    if centred:  # One component at the mean of the rows: the probe lets the tied kind go by Phi.
        parameters = mixture_of(kind, [1.0], [X.mean(axis=0)], shaped(kind, correlated, 1))
    else:
        parameters = mixture_of(kind, case.weights, case.means @ mixing.T, shaped(kind, correlated, 3))
    # Stored to u, a covariance of this condition number is known to u 1e8 = 1e-8 in its thinnest direction, and no
    # better; log-densities and therefore responsibilities to u sqrt(1e8) q^2, since P is what they are computed from.
    loewner = 1e-7 if kind in ("full", "tied") else 1e-12
    compare(X, parameters, means=1e-11, covariances=1e-11, loewner=loewner, objective=1e-11, weights=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_values_far_from_zero(kind):
    case = make_case(kind, seed=1, n_rows=300, n_components=3, n_features=3)
    X = (case.X + 1000).astype(np.float32).astype(float)
    parameters = mixture_of(kind, case.weights, case.means + 1000, case.covariances)
    compare(X, parameters, means=1e-12, covariances=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_two_rows_and_two_components_have_the_variance_reg_covar(kind):
    # scikit-learn's issue 30382: 112.1 where 0.1 is right.
    X = np.array([[9999], [0]], dtype=np.float32).astype(float)
    parameters = mixture_of(kind, [0.5, 0.5], X, shaped(kind, [[1.0]], 2))
    for _ in range(3):
        parameters = step(X, parameters, reg_covar=0.1).parameters
        np.testing.assert_array_equal(parameters.covariances, np.full_like(parameters.covariances, 0.1))
        np.testing.assert_array_equal(parameters.means, X)


@pytest.mark.parametrize("kind", KINDS)
def test_duplicated_rows_count_as_often_as_they_stand_there(kind):
    case = make_case(kind, seed=1, n_rows=40, n_components=2, n_features=2)
    X = np.concatenate([case.X, np.repeat(case.X[:1], 500, axis=0)])
    new = compare(X, parameters_of(case), means=1e-12, covariances=1e-12)
    w = np.ones(40)
    w[0] = 501
    single = step(case.X, parameters_of(case), row_weights=w).parameters
    np.testing.assert_allclose(new.means, single.means, rtol=1e-12)
    np.testing.assert_allclose(new.covariances, single.covariances, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.1, 1e8, 0.0])
def test_a_constant_column_has_the_variance_reg_covar(kind, value):
    case = make_case(kind, seed=1, n_rows=200, n_components=2, n_features=3)
    X, means = case.X.copy(), case.means.copy()
    X[:, 1], means[:, 1] = value, value
    parameters = mixture_of(kind, case.weights, means, case.covariances)
    for _ in range(3):
        new = step(X, parameters, reg_covar=1e-6).parameters
        # Not even u times the variance of the column in the parameters before: 1e-16 of 1e-6 would show.
        np.testing.assert_array_equal(new.means[:, 1], value)
        if kind != "spherical":
            np.testing.assert_allclose(dense_covariances(new)[:, 1, 1], 1e-6, rtol=1e-9)
        parameters = new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_component_stays_and_does_no_harm(kind, kernel):
    case = make_case(kind, seed=1, n_rows=200, n_components=3, n_features=2)
    means = case.means.copy()
    means[2] = 1e3
    parameters = mixture_of(kind, case.weights, means, case.covariances)
    for _ in range(2):
        # By Phi, forced, a tied covariance is a difference of numbers 1e6 times its size: 1e6 u.
        tolerance = 1e-9 if kernel == "phi" else 1e-12
        new = compare(case.X, parameters, means=tolerance, covariances=tolerance, kernel=kernel)
        np.testing.assert_array_equal(new.means[2], means[2])
        if kind != "tied":
            np.testing.assert_array_equal(new.covariances[2], parameters.covariances[2])
        assert 0 < new.weights[2] < 1e-16
        parameters = new


@pytest.mark.parametrize("kind", KINDS)
def test_rows_so_far_out_that_every_density_underflows(kind):
    case = make_case(kind, seed=1, n_rows=300, n_components=3, n_features=3)
    X = case.X.copy()
    X[:3] = [[1e6, 0, 0], [0, -1e7, 0], [3e5, 3e5, 3e5]]
    parameters = parameters_of(case)
    # The density of such a row is 1e13 nats down. Which component it goes to is decided by differences of as many
    # nats: they are to 1e-3, and nothing here is that close. The outliers' own rounding, u 1e7, is in the means.
    new = compare(X, parameters, means=1e-12, covariances=1e-12, weights=1e-12)
    # In the second pass the components that took an outlier are broad.
    compare(X, new, means=1e-10, covariances=1e-10, weights=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_blocks_one_component_one_feature(kind):
    case = make_case(kind, seed=1, n_rows=50, n_components=1, n_features=1)
    new = compare(case.X, parameters_of(case), means=1e-13, covariances=1e-13, cuts=range(51))
    # K = 1 has the answer in closed form.
    np.testing.assert_allclose(new.means[0], case.X.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(new.covariances.ravel(), case.X.var(), rtol=1e-13)
    assert new.weights[0] == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1e-140, 1e-70, 1e70, 1e140])
def test_units_near_the_ends_of_the_range_of_floats(kind, unit):
    # The squares of 1e154 overflow and of 1e-162 vanish; inside that range units do not matter.
    case = make_case(kind, seed=1, n_rows=100, n_components=3, n_features=3)
    parameters = mixture_of(kind, case.weights, case.means * unit, case.covariances * unit**2)
    compare(case.X * unit, parameters, means=1e-12, covariances=1e-12)


@pytest.mark.parametrize("condition", [1e6, 1e8, 1e10])
def test_the_log_likelihood_of_a_tied_mixture_does_not_lose_the_condition_number(condition):
    # Told from the scatter of all rows, trace(P' S P) is off by u times the condition number: 1e-6 at 1e10.
    basis, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))
    mixing = basis * np.array([1.0, 1.0, condition**-0.5])
    X = np.random.default_rng(1).standard_normal((300, 3)) @ mixing.T
    parameters = mixture_of("tied", [1.0], [X.mean(axis=0)], mixing @ mixing.T)
    row_set = row_set_of(X)
    for kernel in KERNELS:
        plan = make_plan(parameters, origin=row_set.mean, kernel=kernel)
        (statistics,) = one_pass(X, [plan])
        expected = float(oracle.log_likelihood(X, oracle_of(parameters)))
        # z = P'x itself is exact to u sqrt(condition number).
        assert log_likelihood(statistics, plan, row_set) == pytest.approx(expected, abs=300 * 1e-15 * condition**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tied_or_other_covariance_does_not_see_that_means_are_rounded(kind):
    # By Phi, at an offset: means are rounded to 1e-8 when they are stored, and covariances are not made from those.
    case = make_case(kind, seed=9, n_rows=200, n_components=3, n_features=2, separation=20.0)
    parameters = mixture_of(kind, case.weights, case.means + 1e8, case.covariances)
    compare(case.X + 1e8, parameters, means=2e-8, covariances=1e-12, kernel="phi", weights=1e-11, objective=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1e4, 1e6, 1e9])
def test_a_start_far_from_all_rows_heals_in_the_second_pass(kind, distance):
    # Sums about a mean that is t new standard deviations away lose u t^2 of the covariance, all of it at 1e8.
    case = make_case(kind, seed=1, n_rows=300, n_components=1, n_features=3)
    X = case.X + distance
    parameters = mixture_of(kind, [1.0], np.zeros((1, 3)), shaped(kind, np.eye(3), 1))
    for _ in range(3):
        before = parameters
        parameters = step(X, before, reg_covar=0.0).parameters
    compare(X, before, means=1e-7, covariances=1e-9, objective=1e-9)
    expected = shaped(kind, np.eye(3), 1) * 0 + shaped(kind, np.cov((X - X[0]).T, bias=True), 1)
    if kind in ("full", "tied"):
        np.testing.assert_allclose(parameters.covariances, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [2, 40])
def test_sums_over_the_rows_that_count_are_those_over_all(kind, n_features, monkeypatch):
    """Groups far apart: each row's responsibilities are exact zeros but for one component."""
    random = np.random.default_rng(0)
    means = 100.0 * np.arange(4)[:, np.newaxis] + random.standard_normal((4, n_features))
    x = random.standard_normal((n_features, 200)) + means[np.arange(200) % 4].T
    parameters = mixture_of(kind, np.full(4, 0.25), means, shaped(kind, np.eye(n_features), 4))
    work = EStep([make_plan(parameters, origin=np.zeros(n_features), kernel="exact")])
    found = []
    for few in (0.0, 1.0):
        monkeypatch.setattr("daskgmm.kernels.exact.FEW_ROWS", few)
        found.append(work.update(work.zero(), Block(x, None, 0))[0].values)
    np.testing.assert_array_equal(found[0][:-3].reshape(4, -1)[:, -1], 50.0)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12, atol=1e-12)
