"""`BayesianGaussianMixture`: iterates, bound and behaviour against scikit-learn and a slow oracle."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import mixture
from sklearn.base import clone

import daskgmm
from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import DataError, OptionError
from daskgmm.mixture.arrays import Floats
from tests import variational_oracle as oracle
from tests.fitting.driving import KINDS
from tests.strategies import make_case

TYPES = ["dirichlet_process", "dirichlet_distribution"]
ignore_convergence = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
EVERY = [(kind, prior) for kind in KINDS for prior in TYPES]


def rows(seed: int = 0, n_rows: int = 150) -> Floats:
    return make_case("full", seed=seed, n_rows=n_rows, n_components=3, n_features=2, separation=5.0).X


def fitted(X: Any, kind: str = "full", prior: str = TYPES[0], **options: Any) -> BayesianGaussianMixture:
    asked = {"n_components": 5, "n_init": 1, "random_state": 0, "reg_covar": 0} | options
    weight = asked.pop("sample_weight", None)
    bgm = BayesianGaussianMixture(covariance_type=kind, weight_concentration_prior_type=prior, **asked)
    return bgm.fit(X, sample_weight=weight)


# -- against scikit-learn -----------------------------------------------------------------------------------------
@ignore_convergence
@pytest.mark.parametrize(("kind", "prior"), EVERY)
def test_iterates_are_those_of_scikit_learn(kind: str, prior: str) -> None:
    X = rows()
    ours = fitted(X, kind, prior, acceleration=None, tol=0, max_iter=0, reg_covar=1e-2)
    theirs = ours.to_sklearn().set_params(warm_start=True, max_iter=1)
    for name in ("mean_prior_", "covariance_prior_", "degrees_of_freedom_prior_", "mean_precision_prior_"):
        first = mixture.BayesianGaussianMixture(covariance_type=kind).fit(X)
        assert_allclose(getattr(ours, name), getattr(first, name), rtol=1e-12, err_msg=name)
    for _ in range(12):
        theirs.fit(X)
    ours.set_params(warm_start=True, max_iter=12).fit(X)
    names = ["weights_", "means_", "covariances_", "precisions_", "mean_precision_", "degrees_of_freedom_"]
    for name in [*names, "weight_concentration_"]:
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9, err_msg=name)
        assert np.shape(getattr(ours, name)) == np.shape(getattr(theirs, name))
    assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-10)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-10)
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-10)
    back = BayesianGaussianMixture.from_sklearn(theirs)
    assert_allclose(back.score_samples(X), theirs.score_samples(X), rtol=1e-10)
    assert back.get_params()["weight_concentration_prior_type"] == prior
    for name in names:
        assert_allclose(getattr(back, name), getattr(theirs, name), rtol=1e-9, atol=1e-9, err_msg=name)


def test_parameters_are_those_of_scikit_learn() -> None:
    ours, theirs = BayesianGaussianMixture().get_params(), mixture.BayesianGaussianMixture().get_params()
    assert theirs.items() - {"n_init": 1}.items() <= ours.items()
    own = {"acceleration", "cache", "device", "escape", "kernel", "non_finite", "precision", "start_rows", "stopping"}
    assert set(ours) - set(theirs) == own | {"weights_init", "means_init", "precisions_init"}
    given = BayesianGaussianMixture(4, mean_precision_prior=2.0, covariance_prior=np.eye(2), random_state=1)
    assert clone(given).get_params().keys() == given.get_params().keys()


# -- the bound -----------------------------------------------------------------------------------------------------
@ignore_convergence
@pytest.mark.parametrize(("kind", "prior"), EVERY)
@pytest.mark.parametrize("given", [False, True])
def test_the_bound_is_the_sum_of_its_terms(kind: str, prior: str, given: bool) -> None:
    X = rows(1, 60)
    shape = {"full": np.array([[2.0, 0.5], [0.5, 1.0]]), "tied": np.eye(2), "diag": [2.0, 0.5], "spherical": 3.0}
    options: dict[str, Any] = {"n_components": 3, "max_iter": 3, "tol": 0, "acceleration": None}
    if given:
        options |= {"weight_concentration_prior": 0.7, "mean_precision_prior": 0.3, "mean_prior": [1.0, -2.0]}
        options |= {"degrees_of_freedom_prior": 4.5, "covariance_prior": shape[kind]}
    w = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    bgm = fitted(X, kind, prior, **options, sample_weight=w)
    expected = oracle.bound(bgm, X, w) / w.sum()  # of the last parameters, which go into the next iteration
    bgm.set_params(warm_start=True, max_iter=1).fit(X, sample_weight=w)
    assert bgm.lower_bound_ == pytest.approx(expected, rel=1e-10)


def test_the_bound_of_one_full_component_is_the_evidence() -> None:
    X = rows(2, 30)
    prior = {"mean": np.array([1.0, 2.0]), "b0": 0.5, "nu0": 3.5, "covariance": np.array([[3.0, 1.0], [1.0, 2.0]])}
    bgm = BayesianGaussianMixture(
        weight_concentration_prior_type="dirichlet_distribution", mean_prior=prior["mean"], mean_precision_prior=0.5,
        degrees_of_freedom_prior=3.5, covariance_prior=prior["covariance"], reg_covar=0,
    ).fit(X)  # fmt: skip
    assert bgm.lower_bound_ * len(X) == pytest.approx(oracle.log_evidence_of_one(X, **prior), rel=1e-11)
    assert bgm.n_passes_ == 3, "a survey, one step, and a closing pass"


def test_the_bound_of_one_restricted_component_is_below_the_evidence() -> None:
    X = rows(2, 30)
    prior = {"mean": X.mean(axis=0), "b0": 1.0, "nu0": 2.0, "covariance": np.diag(X.var(axis=0, ddof=1))}
    evidence = oracle.log_evidence_of_one(X, **prior) / len(X)
    full = BayesianGaussianMixture(weight_concentration_prior_type=TYPES[1], covariance_prior=prior["covariance"])
    diag = BayesianGaussianMixture(weight_concentration_prior_type=TYPES[1], covariance_type="diag")
    assert full.set_params(reg_covar=0).fit(X).lower_bound_ == pytest.approx(evidence, rel=1e-11)
    assert diag.set_params(reg_covar=0).fit(X).lower_bound_ < evidence - 1e-3


@ignore_convergence
@pytest.mark.parametrize(("kind", "prior"), EVERY)
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_the_bound_never_falls(kind: str, prior: str, acceleration: str | None) -> None:
    bgm = fitted(rows(3, 300), kind, prior, acceleration=acceleration, tol=1e-8, max_iter=500, escape=False)
    assert bgm.converged_
    assert len(bgm.lower_bounds_) >= 10
    assert np.diff(bgm.lower_bounds_).min() > -1e-12


@pytest.mark.parametrize("prior", TYPES)
def test_squarem_ends_where_plain_steps_do_in_fewer_passes(prior: str) -> None:
    X = make_case("full", seed=4, n_rows=1500, n_components=3, n_features=2, separation=2.5).X
    plain, leaping = (
        fitted(X, "full", prior, acceleration=acceleration, tol=1e-10, max_iter=3000, escape=False)
        for acceleration in (None, "squarem")
    )
    assert leaping.n_passes_ < 0.7 * plain.n_passes_
    assert leaping.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-6)


# -- laws ------------------------------------------------------------------------------------------------------------
def test_weights_count_rows() -> None:
    X = rows(5, 80)
    w = np.random.default_rng(1).integers(0, 4, len(X))
    start = GaussianMixture(3, n_init=1, random_state=0).fit(X)
    given = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    options = given | {"n_components": 3, "tol": 1e-9}
    once, often = fitted(X, **options, sample_weight=w.astype(float)), fitted(np.repeat(X, w, axis=0), **options)
    assert_allclose(once.covariances_, often.covariances_, rtol=1e-9)
    assert_allclose(once.mean_precision_, often.mean_precision_, rtol=1e-9)
    assert_allclose(once.covariance_prior_, often.covariance_prior_, rtol=1e-12)
    assert once.lower_bound_ == pytest.approx(often.lower_bound_, rel=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_any_chunks_give_the_same(kind: str) -> None:
    X = rows(6, 120)
    whole = fitted(X, kind, tol=1e-6)
    for chunks in (1, 50):
        parts = fitted(da.from_array(X, chunks=(chunks, 2)), kind, tol=1e-6)
        assert_allclose(parts.covariances_, whole.covariances_, rtol=1e-9)
        assert parts.lower_bound_ == pytest.approx(whole.lower_bound_, rel=1e-11)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_an_offset_moves_the_means_alone(offset: float) -> None:
    X = np.round(rows(7, 200) * 1024) / 1024
    near, far = fitted(X, tol=1e-7), fitted(X + offset, tol=1e-7)
    assert_allclose(far.means_ - offset, near.means_, atol=1e-6)
    assert_allclose(far.covariances_, near.covariances_, rtol=1e-6, atol=1e-8)
    assert far.lower_bound_ == pytest.approx(near.lower_bound_, abs=1e-6)


def test_components_beyond_the_groups_are_emptied_and_no_fault() -> None:
    X = make_case("full", seed=8, n_rows=600, n_components=3, n_features=2, separation=12.0).X
    bgm = BayesianGaussianMixture(12, weight_concentration_prior=1e-3, max_iter=500, tol=1e-6, random_state=0).fit(X)
    assert bgm.effective_n_components_ == 3
    assert bgm.weights_.min() < 1e-3
    empty = bgm.counts_ < 1e-6
    assert empty.any()
    assert_allclose(bgm.means_[empty], np.broadcast_to(bgm.mean_prior_, (empty.sum(), 2)), atol=1e-6)
    prior = bgm.covariance_prior_ / bgm.degrees_of_freedom_prior_
    assert_allclose(bgm.covariances_[empty], np.broadcast_to(prior, (empty.sum(), 2, 2)), rtol=1e-6)


def test_the_bound_tells_the_number_of_components() -> None:
    X = make_case("full", seed=9, n_rows=500, n_components=3, n_features=2, separation=8.0).X
    options: dict[str, Any] = {"weight_concentration_prior_type": TYPES[1], "weight_concentration_prior": 1.0}
    bounds = [
        BayesianGaussianMixture(k, **options, max_iter=500, tol=1e-7, random_state=0).fit(X).lower_bound_
        for k in range(1, 6)
    ]
    assert int(np.argmax(bounds)) + 1 == 3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_alike_and_constant_features(kind: str) -> None:
    X = np.repeat([[1.0, 0.0, 3.0], [0.0, 0.0, 5.0]], 20, axis=0)
    bgm = fitted(X.astype(np.float32), kind, reg_covar=1e-6, n_components=2)
    assert np.isfinite(bgm.lower_bound_)
    assert np.isfinite(bgm.score_samples(X)).all()


# -- a larger source, from a sample --------------------------------------------------------------------------------
@pytest.mark.parametrize("prior", TYPES)
def test_on_a_sample_the_prior_is_that_of_all_rows_and_groups_get_one_component(prior: str) -> None:
    X = make_case("full", seed=10, n_rows=60_000, n_components=3, n_features=2, separation=8.0).X
    bgm = BayesianGaussianMixture(6, weight_concentration_prior_type=prior, max_iter=300, tol=1e-7, random_state=0)
    bgm.fit(da.from_array(X, chunks=(7000, 2)))
    assert_allclose(bgm.mean_prior_, X.mean(axis=0), rtol=1e-10)
    assert_allclose(bgm.covariance_prior_, np.cov(X.T), rtol=1e-10)
    assert bgm.mean_precision_.sum() == pytest.approx(60_000 + 6)
    assert bgm.effective_n_components_ == 3
    plain = clone(bgm).set_params(escape=False, tol=1e-5).fit(X)
    assert plain.effective_n_components_ > 3, "steps alone leave several on a group"
    assert bgm.lower_bound_ > plain.lower_bound_ + 1e-3
    if prior == TYPES[0]:
        assert (np.diff(bgm.counts_) < 1).all(), "the parts of a stick are in the order of their size"


# -- files and attributes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_comes_back_the_same(kind: str, tmp_path: Any) -> None:
    X = rows(11)
    bgm = fitted(X, kind, mean_prior=[0.0, 1.0], tol=1e-5)
    bgm.save(tmp_path / "m.zarr")
    for cls in (GaussianMixture, BayesianGaussianMixture):
        loaded = cls.load(tmp_path / "m.zarr")
        assert type(loaded) is BayesianGaussianMixture
        for name in ("score_samples", "predict_proba"):
            assert_array_equal(getattr(loaded, name)(X), getattr(bgm, name)(X))
        assert_array_equal(loaded.mean_prior, [0.0, 1.0])
        assert loaded.effective_n_components_ == bgm.effective_n_components_
        assert loaded.lower_bound_ == bgm.lower_bound_
        again = loaded.set_params(warm_start=True, max_iter=200).fit(X)
        assert again.lower_bound_ >= bgm.lower_bound_ - 1e-12
    GaussianMixture(2, n_init=1, random_state=0).fit(X).save(tmp_path / "ml.zarr")
    assert type(BayesianGaussianMixture.load(tmp_path / "ml.zarr")) is GaussianMixture


def test_copies_predict_alike() -> None:
    X = rows(12)
    bgm = fitted(X)
    for other in (copy.deepcopy(bgm), pickle.loads(pickle.dumps(bgm))):
        assert_array_equal(other.predict_proba(X), bgm.predict_proba(X))
    bgm.means_ = bgm.means_ + 1
    with pytest.raises(OptionError, match="weights_, means_ and covariances_ must be those of the fit"):
        bgm.predict(X)


def test_what_there_is_not() -> None:
    bgm = fitted(rows(13))
    for name in ("bic", "aic"):
        assert not hasattr(bgm, name)
        with pytest.raises(AttributeError, match="compare lower_bound_, higher is better"):
            getattr(bgm, name)
    for name in ("marginal", "condition", "reduced", "predict_features", "standard_errors"):
        assert not hasattr(bgm, name)
        with pytest.raises(AttributeError, match=r"GaussianMixture\.from_parameters\(weights_, means_, covariances_\)"):
            getattr(bgm, name)
    plain = GaussianMixture.from_parameters(bgm.weights_, bgm.means_, bgm.covariances_)
    assert plain.marginal([0]).means_.shape == (5, 1)
    with pytest.raises(OptionError, match="must be GaussianMixture, as a mixture tells no posterior"):
        BayesianGaussianMixture.from_parameters([1.0], [[0.0]], [[[1.0]]])
    with pytest.raises(OptionError, match="must be a sklearn.mixture.BayesianGaussianMixture; got a GaussianMixture"):
        BayesianGaussianMixture.from_sklearn(mixture.GaussianMixture())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior must be None or a finite number above 0"),
        ({"mean_precision_prior": -1.0}, "mean_precision_prior must be None or a finite number above 0; got -1.0"),
        ({"mean_prior": [1.0]}, r"mean_prior must have shape \(2,\); got \(1,\)"),
        ({"mean_prior": [1.0, np.nan]}, "mean_prior must be finite; got 1 NaN"),
        ({"degrees_of_freedom_prior": 1.0}, "degrees_of_freedom_prior must be greater than 1, .*; got 1.000"),
        ({"covariance_prior": np.eye(3)}, r"covariance_prior must have shape \(2, 2\); got \(3, 3\)"),
        ({"covariance_prior": -np.eye(2)}, "covariance_prior.* must be positive definite"),
        ({"covariance_type": "diag", "covariance_prior": [1.0, 0.0]}, "covariance_prior must be positive"),
        ({"weight_concentration_prior_type": "dp"}, "weight_concentration_prior_type must be one of dirichlet_process"),
    ],
)  # fmt: skip
def test_bad_priors_are_told_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    def read(*_: Any) -> Any:
        raise AssertionError("read")

    X = da.from_array(rows(14)).map_blocks(read, dtype="f8", meta=np.empty((0, 2)))
    with pytest.raises(OptionError, match=message):
        BayesianGaussianMixture(2, **options).fit(X)


def test_rows_without_a_covariance_need_a_prior() -> None:
    X = rows(15, 4)
    with pytest.raises(DataError, match="have a weight of more than 1 together.*got 0.5 of n_samples = 4"):
        fitted(X, n_components=1, sample_weight=np.full(4, 0.125))
    found = fitted(X, n_components=1, sample_weight=np.full(4, 0.125), covariance_prior=np.eye(2))
    assert found.mean_precision_[0] == pytest.approx(1.5)


def test_it_is_offered() -> None:
    assert "BayesianGaussianMixture" in daskgmm.__all__
