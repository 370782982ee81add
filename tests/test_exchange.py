"""Mixtures from arrays and from scikit-learn, and what others make of them: ONNX, skops."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import skl2onnx
import skops.io
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture

from daskgmm import GaussianMixture
from daskgmm.errors import OptionError

KINDS = ("full", "tied", "diag", "spherical")
WEIGHTS, MEANS = [0.25, 0.75], [[0.0, 1.0, 2.0], [5.0, -1.0, 0.0]]
MATRIX = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 0.5]])
COVARIANCES: dict[str, Any] = {
    "full": np.stack([MATRIX, 3 * MATRIX]),
    "tied": MATRIX,
    "diag": np.array([[1.0, 2.0, 3.0], [0.5, 0.25, 4.0]]),
    "spherical": np.array([2.0, 0.5]),
}


def dense(kind: str) -> list[Any]:
    given = COVARIANCES[kind]
    return {
        "full": lambda: list(given),
        "tied": lambda: [given, given],
        "diag": lambda: [np.diag(one) for one in given],
        "spherical": lambda: [one * np.eye(3) for one in given],
    }[kind]()


def rows(n: int = 200, offset: float = 0.0) -> Any:
    return np.random.default_rng(3).normal(size=(n, 3)) * 3 + offset


# -- from arrays ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["covariances", "precisions"])
def test_a_known_mixture_predicts(kind: str, given: str, tmp_path: Path) -> None:
    values = COVARIANCES[kind]
    if given == "precisions":
        values = np.linalg.inv(values) if kind in ("full", "tied") else 1 / values
    mixture = GaussianMixture.from_parameters(WEIGHTS, MEANS, covariance_type=kind, **{given: values})
    X = rows()
    densities = [w * multivariate_normal(m, c).pdf(X) for w, m, c in zip(WEIGHTS, MEANS, dense(kind), strict=True)]
    np.testing.assert_allclose(mixture.score_samples(X), np.log(np.sum(densities, axis=0)), rtol=1e-12)
    np.testing.assert_array_equal(mixture.predict(X), np.argmax(densities, axis=0))
    np.testing.assert_allclose(mixture.covariances_, COVARIANCES[kind], rtol=1e-12)
    assert mixture.n_features_in_ == 3
    assert mixture.n_components == 2
    mixture.save(tmp_path / "model.zarr")
    loaded = GaussianMixture.load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(loaded.score_samples(X), mixture.score_samples(X))
    np.testing.assert_array_equal(mixture.sample(50)[0].shape, (50, 3))
    assert pickle.loads(pickle.dumps(mixture)).predict(X).shape == (200,)


def test_names_and_options_of_a_known_mixture() -> None:
    mixture = GaussianMixture.from_parameters(
        WEIGHTS, MEANS, COVARIANCES["full"], feature_names=["a", "b", "c"], non_finite="drop", random_state=4
    )
    assert list(mixture.feature_names_in_) == ["a", "b", "c"]
    assert mixture.get_params()["non_finite"] == "drop"
    assert mixture.random_state == 4
    with pytest.raises(NotFittedError):
        clone(mixture).predict(rows())


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"weights": [0.5, 0.6]}, "weights must sum to 1"),
        ({"weights": [-0.5, 1.5]}, "weights must lie between 0 and 1"),
        ({"weights": [1.0]}, r"weights must have shape \(2,\)"),
        ({"means": [0.0, 1.0]}, r"means must have shape \(n_components, n_features\)"),
        ({"means": [[0.0, np.nan, 1], [0, 0, 0]]}, "means must be finite"),
        ({"covariances": None}, "one of covariances and precisions must be given; got neither"),
        ({"precisions": COVARIANCES["full"]}, "one of covariances and precisions must be given; got both"),
        ({"covariances": MATRIX}, r"covariances must have shape \(2, 3, 3\)"),
        ({"covariances": -COVARIANCES["full"]}, "covariances of component 0 must be positive definite"),
        ({"covariances": np.triu(MATRIX) * np.ones((2, 1, 1))}, "covariances of component 0 must be symmetric"),
        ({"covariances": None, "precisions": -COVARIANCES["full"]}, "precisions of component 0 must be positive"),
        ({"covariances": [1.0, -2.0], "covariance_type": "spherical"}, "covariances must be positive; got -2"),
        ({"feature_names": ["a", "b"]}, "feature_names must be 3 texts, none of them twice"),
        ({"feature_names": ["a", "b", "a"]}, "feature_names must be 3 texts, none of them twice"),
        ({"covariance_type": "round"}, "covariance_type"),
    ],
)
def test_arrays_that_say_no_mixture(changed: dict[str, Any], text: str) -> None:
    given = {"weights": WEIGHTS, "means": MEANS, "covariances": COVARIANCES["full"]} | changed
    with pytest.raises(OptionError, match=text):
        GaussianMixture.from_parameters(**given)


def test_an_inverse_is_symmetric_but_for_rounding() -> None:
    """Its elements that are zero but for rounding are of either sign."""
    scales = np.diag([1e-4, 1.0, 1e4])
    covariance = scales @ MATRIX @ scales
    precision = np.linalg.inv(covariance)
    precision[0, 2], precision[2, 0] = 1e-12, -1e-12
    GaussianMixture.from_parameters([1.0], [[0.0] * 3], precisions=[precision])


# -- from scikit-learn, and to it -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_from_scikit_learn_and_back(kind: str) -> None:
    X = rows()
    theirs = SklearnMixture(2, covariance_type=kind, random_state=0, tol=1e-2, n_init=2).fit(X)
    ours = GaussianMixture.from_sklearn(theirs)
    assert (ours.covariance_type, ours.tol, ours.n_init, ours.random_state) == (kind, 1e-2, 2, 0)
    assert (ours.converged_, ours.n_iter_, ours.lower_bound_) == (
        theirs.converged_,
        theirs.n_iter_,
        theirs.lower_bound_,
    )
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    back = ours.to_sklearn()
    np.testing.assert_array_equal(back.score_samples(X), theirs.score_samples(X))
    assert back.get_params() == theirs.get_params()
    ours.means_[0] += 1  # (it is its own copy)
    assert not np.array_equal(ours.means_, theirs.means_)


def test_a_fit_goes_on_from_scikit_learn() -> None:
    X = rows(1000)
    theirs = SklearnMixture(3, random_state=0, max_iter=3, tol=1e-9)
    with pytest.warns(Warning, match="converge"):
        theirs.fit(X)
    ours = GaussianMixture.from_sklearn(theirs).set_params(warm_start=True, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of components in one Gaussian)
        ours.fit(X)
    assert ours.lower_bounds_[0] > theirs.lower_bound_


def test_what_scikit_learn_has_not_fitted_or_not_as_one_of_ours() -> None:
    with pytest.raises(NotFittedError):
        GaussianMixture.from_sklearn(SklearnMixture())
    with pytest.raises(
        OptionError, match=r"must be a sklearn.mixture.GaussianMixture; got a Bayesian.*from_parameters.*not those"
    ):
        GaussianMixture.from_sklearn(BayesianGaussianMixture(n_components=2, random_state=0, tol=1.0).fit(rows()))
    with pytest.raises(OptionError, match="got a dict. Give its arrays to"):
        GaussianMixture.from_sklearn({})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_onnx_in_double_precision(kind: str, offset: float) -> None:
    """(In single precision its expanded squares lose all digits far from zero.)"""
    X = rows(offset=offset)
    mixture = GaussianMixture(3, covariance_type=kind, random_state=0, max_iter=5, tol=1.0).fit(X)
    types = [("X", skl2onnx.common.data_types.DoubleTensorType([None, 3]))]
    model = skl2onnx.convert_sklearn(
        mixture.to_sklearn(), initial_types=types, options={"score_samples": True}, target_opset=18
    )
    labels, proba, scores = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"X": X})
    np.testing.assert_array_equal(labels.ravel(), mixture.predict(X))
    np.testing.assert_allclose(proba, mixture.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(scores.ravel(), mixture.score_samples(X), atol=1e-6)


def test_skops_trusts_it(tmp_path: Path) -> None:
    X = rows()
    mixture = GaussianMixture(2, random_state=0).fit(X)
    skops.io.dump(mixture.to_sklearn(), tmp_path / "mixture.skops")
    assert skops.io.get_untrusted_types(file=tmp_path / "mixture.skops") == []
    found = skops.io.load(tmp_path / "mixture.skops")
    np.testing.assert_array_equal(found.score_samples(X), mixture.to_sklearn().score_samples(X))
