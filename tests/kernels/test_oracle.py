"""The oracle itself: two number systems and a third party agree, so that what it says about others can be believed."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from tests import oracle
from tests.strategies import KINDS, make_case


@pytest.mark.parametrize("kind", KINDS)
def test_longdouble_equals_fifty_digits_on_offset_and_correlated_rows(kind):
    # 1e8 away, and features that agree to 1e-4 of their size: condition number 1e8.
    case = make_case(kind, seed=3, n_rows=12, n_components=2, n_features=2)
    shear = np.array([[1.0, 1.0], [1.0, 1.0 + 2e-4]])
    X, means = case.X @ shear.T + 1e8, case.means @ shear.T + 1e8
    covariance = shear @ shear.T
    covariances = {
        "full": np.stack([covariance, covariance]),
        "tied": covariance,
        "diag": np.full((2, 2), 0.5),
        "spherical": np.full(2, 0.5),
    }[kind]
    steps = []
    for digits in ("longdouble", "mpmath"):
        model = oracle.mixture_of_covariances(kind, case.weights, means, covariances, digits=digits)
        steps.append(oracle.em_step(kind, X, model, reg_covar=1e-6))
    for wide, wider in zip(*(vars(s).values() for s in steps), strict=True):
        # u of longdouble times the condition number is 5e-12 in the densities; the offset costs nothing when centred.
        np.testing.assert_allclose(np.asarray(wide, float), np.asarray(wider, dtype=float), rtol=3e-11)


def test_log_densities_are_scipys():
    case = make_case("full", seed=1, n_rows=30, n_components=3, n_features=4)
    model = oracle.mixture_of_covariances("full", case.weights, case.means, case.covariances)
    expected = [
        np.log(w) + multivariate_normal(m, c).logpdf(case.X)
        for w, m, c in zip(case.weights, case.means, case.covariances, strict=True)
    ]
    np.testing.assert_allclose(oracle.log_densities(case.X, model).astype(float), np.transpose(expected), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_without_rows_keeps_mean_and_covariance(kind):
    case = make_case(kind, seed=1, n_rows=30, n_components=2, n_features=3)
    means = case.means.copy()
    means[1] = 1e4
    model = oracle.mixture_of_covariances(kind, case.weights, means, case.covariances)
    step = oracle.em_step(kind, case.X, model, reg_covar=0.5)
    np.testing.assert_array_equal(step.means[1].astype(float), means[1])
    if kind != "tied":
        np.testing.assert_allclose(step.covariances[1].astype(float), case.covariances[1], rtol=1e-14)
