"""Given parameters are checked, and every message holds the number that is wrong."""

import re

import numpy as np
import pytest

from daskgmm.errors import CollapsedComponentError, OptionError
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters, check_means, check_precisions, check_weights
from tests import oracle
from tests.kernels.driving import parameters_of
from tests.strategies import KINDS, make_case


def message(text):
    return "^" + re.escape(text)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([0.5, 0.6], "weights_init must sum to 1; got 1.1. Divide the weights by their sum."),
        (
            [1.2, -0.2],
            "weights_init must lie between 0 and 1; got -0.2 to 1.2. A weight is the share of a component in the rows.",
        ),
        ([1.0], "weights_init must have shape (2,); got (1,). The shape follows n_components"),
        ([np.nan, 1.0], "weights_init must be finite; got 1 NaN or infinite values."),
        (["a", "b"], "weights_init must be an array of real numbers; got list."),
        ([1j, 1.0], "weights_init must be an array of real numbers; got list."),
        (np.array([0.5 + 1j, 0.5]), "weights_init must be an array of real numbers; got ndarray."),
    ],
)
def test_weights_that_are_wrong(weights, text):
    with pytest.raises(OptionError, match=message(text)):
        check_weights(weights, 2)


def test_weights_that_are_right():
    np.testing.assert_array_equal(check_weights([1, 0], 2), [1.0, 0.0])
    assert check_weights(np.full(3, 1 / 3, dtype=np.float32), 3).dtype == np.float64


@pytest.mark.parametrize(
    ("means", "text"),
    [
        (np.zeros((2, 4)), "means_init must have shape (2, 3); got (2, 4)."),
        (np.full((2, 3), np.inf), "means_init must be finite; got 6 NaN or infinite values."),
    ],
)
def test_means_that_are_wrong(means, text):
    with pytest.raises(OptionError, match=message(text)):
        check_means(means, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_precisions_of_the_wrong_shape(kind):
    shape = {"full": (2, 3, 3), "tied": (3, 3), "diag": (2, 3), "spherical": (2,)}[kind]
    text = f"precisions_init must have shape {shape}; got (7,)."
    with pytest.raises(OptionError, match=message(text)):
        check_precisions(np.ones(7), family_called(kind), 2, 3)


@pytest.mark.parametrize(
    ("kind", "precisions", "text"),
    [
        (
            "full",
            [np.eye(2), [[1.0, 2.0], [2.0, 1.0]]],
            "of component 1 must be positive definite; got a smallest eigen",
        ),
        ("full", [np.eye(2), [[1.0, 0.5], [0.0, 1.0]]], "of component 1 must be symmetric; got a matrix that is not."),
        ("tied", [[1.0, 2.0], [2.0, 1.0]], "must be positive definite; got a smallest eigenvalue of -1. Take"),
        ("tied", [[1.0, 0.5], [0.0, 1.0]], "must be symmetric; got a matrix that is not. Use (A + A.T) / 2."),
        ("diag", [[1.0, 1.0], [1.0, -0.5]], "must be positive; got -0.5. Give variances, or one over them"),
        ("spherical", [1.0, -0.5], "must be positive; got -0.5. Give variances, or one over them"),
    ],
)
def test_precisions_that_are_no_precisions(kind, precisions, text):
    with pytest.raises(OptionError, match=message(f"precisions_init {text}")):
        check_precisions(precisions, family_called(kind), 2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_between_covariance_and_precision(kind):
    parameters = parameters_of(make_case(kind, seed=5, n_rows=1, n_components=3, n_features=4))
    k, factor = parameters.shape, parameters.precisions_cholesky
    precisions = k.precisions(factor)
    dense = oracle.dense(kind, parameters.covariances, 3, 4)
    np.testing.assert_allclose(oracle.dense(kind, precisions, 3, 4) @ dense, [np.eye(4)] * 3, atol=1e-13)
    np.testing.assert_allclose(k.covariances(factor), parameters.covariances, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(k.cholesky_of_precisions(precisions), factor, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(k.unpack(k.pack(factor), 4), factor)
    assert k.check_definite(precisions, "precisions") is None
    expected = np.stack([oracle.precision_cholesky(oracle.exactly(c)) for c in dense]).astype(float)
    np.testing.assert_allclose(oracle.dense(kind, factor, 3, 4), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "covariances", "who"),
    [
        ("full", [np.eye(2), np.ones((2, 2))], "component 1"),
        ("tied", np.ones((2, 2)), "all components, which is tied,"),
        ("diag", [[1.0, 1.0], [1.0, 0.0]], "component 1"),
        ("spherical", [1.0, 0.0], "component 1"),
        ("full", [np.eye(2), np.full((2, 2), np.nan)], "component 1"),
        ("diag", [[1.0, 1.0], [1.0, np.nan]], "component 1"),
        ("spherical", [1.0, -1e-300], "component 1"),
    ],
)
def test_a_collapsed_component_is_named_with_three_remedies(kind, covariances, who):
    with pytest.raises(CollapsedComponentError, match=rf"^the covariance of {who} must be positive definite") as error:
        Parameters.from_covariances(family_called(kind), np.full(2, 0.5), np.zeros((2, 2)), np.array(covariances))
    for remedy in ("Decrease n_components", "increase reg_covar", "rescale or drop the features that hardly vary"):
        assert remedy in str(error.value)


@pytest.mark.parametrize("name", ["Full", "", None, 3])
def test_an_unknown_kind(name):
    fourteen = "EII, VII, EEI, VEI, EVI, VVI, EEE, VEE, EVE, VVE, EEV, VEV, EVV, VVV"
    text = f"covariance_type must be one of full, tied, diag, spherical, {fourteen}, lowrank; got {name!r}."
    with pytest.raises(OptionError, match=message(text)):
        family_called(name)


def test_a_weight_of_zero_has_a_log_weight_without_a_warning():
    parameters = Parameters(family_called("diag"), np.array([1.0, 0.0]), np.zeros((2, 1)), *[np.ones((2, 1))] * 2)
    np.testing.assert_array_equal(parameters.log_weights, [0.0, -np.inf])
    assert np.isfinite(parameters.precisions_cholesky).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_is_the_mixture_of_its_components(kind):
    case = make_case(kind, n_components=4, n_features=2, n_rows=50, seed=1)
    p = parameters_of(case)
    for chosen in (np.array([True, False, True, False]), [0, 2]):
        found = p.subset(chosen)
        np.testing.assert_allclose(found.weights, p.weights[[0, 2]] / p.weights[[0, 2]].sum())
        kept = oracle.dense(kind, p.covariances, 4, 2)[[0, 2]]
        np.testing.assert_array_equal(oracle.dense(kind, found.covariances, 2, 2), kept)
        np.testing.assert_allclose(found.shape.covariances(found.precisions_cholesky), found.covariances, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tempered_mixture_never_loses_a_component(kind):
    """Determinants far apart: the weights that make up for them are far apart too, and none becomes 0."""
    p = parameters_of(make_case(kind, n_components=2, n_features=40, n_rows=50, seed=1))
    wide = Parameters.from_covariances(p.family, p.weights, p.means, p.covariances * 1e12)
    for mixture in (p, wide):
        assert (mixture.tempered(0.2).weights > 0).all()
    assert p.tempered(1.0) is p
