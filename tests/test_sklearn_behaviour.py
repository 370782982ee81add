"""What scikit-learn and its users expect of an estimator and of a mixture: its checks, and its mixtures' behaviour."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import mixture
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from daskgmm import GaussianMixture
from daskgmm.errors import CollapsedComponentError, OptionError
from tests.fitting.driving import INIT_PARAMS, KINDS, PLAIN, given_start
from tests.oracle import n_free
from tests.strategies import Case, make_case

ignore_convergence = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def distinct(kind: str = "full", *, seed: int = 0, n_rows: int = 600, n_components: int = 2) -> Case:
    """Return rows of components that hardly overlap."""
    return make_case(kind, seed=seed, n_rows=n_rows, n_components=n_components, n_features=2, separation=12.0)


# -- scikit-learn's own checks ---------------------------------------------------------------------------------
def expected_failures(estimator: GaussianMixture) -> dict[str, str]:
    reasons = {"check_fit1d": "one feature may come as (n_rows,), from every kind of source"}
    if estimator.n_components > 1:
        # With a given start they do hold: tests/fitting/test_fit.py.
        reasons["check_sample_weight_equivalence_on_dense_data"] = (
            "a start draws rows, repeated ones more than once (scikit-learn expects its KMeans to fail, too)"
        )
    return reasons


def estimator_checks() -> list[Any]:
    estimators = GaussianMixture(), GaussianMixture(2, covariance_type="diag", n_init=2)
    # (Not scikit-learn's own decorator: that of 1.7 gives a generator, which pytest 9 warns of.)
    return [
        case
        for estimator in estimators
        for case in estimator_checks_generator(
            estimator, legacy=True, expected_failed_checks=expected_failures(estimator), mark="xfail"
        )
    ]


def name_of(value: Any) -> str:
    return f"{value.n_components}" if isinstance(value, GaussianMixture) else getattr(value, "func", value).__name__


@pytest.mark.parametrize(("estimator", "check"), estimator_checks(), ids=name_of)
@ignore_convergence
def test_estimator_check(estimator: Any, check: Any) -> None:
    check(estimator)


def test_parameters_are_those_of_scikit_learn() -> None:
    ours, theirs = GaussianMixture().get_params(), mixture.GaussianMixture().get_params()
    assert theirs.items() - {"n_init": 1}.items() <= ours.items()
    assert ours["n_init"] == 10, "nearly free: all but the best end on a sample"
    own = {"acceleration", "cache", "device", "escape", "kernel", "non_finite", "precision", "prior", "standardize"}
    own |= {"noise", "noise_weight_init", "label_components", "n_factors", "factor_noise"}
    known = {"covariance_floor", "covariance_prior", "degrees_of_freedom_prior", "fixed", "mean_precision_prior"}
    known |= {"mean_prior", "weight_concentration_prior"}
    assert set(ours) - set(theirs) == own | known | {"start_rows", "stopping"}


def test_clone_and_set_params() -> None:
    case = distinct()
    gm = GaussianMixture(**given_start(case), reg_covar=1e-4, verbose_interval=3, random_state=7)
    fitted = clone(gm).fit(case.X)
    copied = clone(fitted)
    assert not hasattr(copied, "means_")
    assert {k: v for k, v in copied.get_params().items() if k[-5:] != "_init"} == {
        k: v for k, v in gm.get_params().items() if k[-5:] != "_init"
    }
    assert_array_equal(copied.precisions_init, gm.precisions_init)
    assert gm.set_params(n_components=5).n_components == 5
    with pytest.raises(ValueError, match="Invalid parameter 'components'"):
        gm.set_params(components=5)


def test_pipeline_and_grid_search() -> None:
    X = distinct(seed=3, n_components=3).X
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(3, n_init=1, random_state=0)).fit(X)
    assert pipeline.predict(X).shape == (600,)
    assert np.isfinite(pipeline.score(X))
    grid = {"n_components": [1, 3], "covariance_type": ["spherical", "full"]}
    search = GridSearchCV(GaussianMixture(n_init=1, random_state=0), grid, cv=3).fit(X)
    assert search.best_params_["n_components"] == 3
    theirs = cross_val_score(mixture.GaussianMixture(1), X, cv=3)
    assert_allclose(cross_val_score(GaussianMixture(1), X, cv=3), theirs, rtol=1e-9)


def test_feature_names_of_a_data_frame(tmp_path: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(distinct().X, columns=["height", "weight"])
    gm = GaussianMixture(2, n_init=1, random_state=0).fit(frame)
    assert list(gm.feature_names_in_) == ["height", "weight"]
    assert_array_equal(gm.predict(frame), GaussianMixture(2, n_init=1, random_state=0).fit_predict(frame.to_numpy()))
    with pytest.raises(ValueError, match="feature names should match"):
        gm.predict(frame[["weight", "height"]])
    gm.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert_array_equal(loaded.predict(frame), gm.predict(frame))
    assert list(gm.to_sklearn().feature_names_in_) == ["height", "weight"]
    for plain in (frame.to_numpy(), da.from_array(frame.to_numpy())):
        gm.fit(frame).fit(plain)
        assert not hasattr(gm, "feature_names_in_")


# -- fitting ---------------------------------------------------------------------------------------------------
def test_an_unfitted_mixture_says_so() -> None:
    X = distinct().X
    gm = GaussianMixture(2)
    calls = (
        [getattr(gm, name) for name in ("predict", "predict_proba", "score_samples", "score", "aic", "bic")]
        + [lambda _, f=f: f() for f in (gm.sample, gm.to_sklearn)]
        + [lambda _: gm.save("m.zarr")]
    )
    for attempt in ("never fitted", "failed to fit"):
        for call in calls:
            with pytest.raises(NotFittedError, match="This GaussianMixture instance is not fitted yet. Call 'fit'"):
                call(X)
        if attempt == "never fitted":
            with pytest.raises(ValueError, match="at least n_components = 2 rows"):
                gm.fit(X[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_fit_recovers_the_truth(kind: str) -> None:
    case = distinct(kind, n_rows=4000)
    gm = GaussianMixture(2, covariance_type=kind, n_init=3, reg_covar=0, random_state=0).fit(case.X)
    # The rows of a case have unit variance around its centres.
    order = np.argsort(gm.means_[:, 0])
    truth = case.means[np.argsort(case.means[:, 0])]
    assert_allclose(gm.means_[order], truth, atol=1.2)
    unit = {"full": [np.eye(2)] * 2, "tied": np.eye(2), "diag": np.ones((2, 2)), "spherical": np.ones(2)}[kind]
    assert_allclose(gm.covariances_, unit, atol=0.1)
    assert_allclose(gm.weights_, 0.5, atol=0.03)
    labels = np.linalg.norm(case.X[:, None] - truth, axis=2).argmin(axis=1)
    assert adjusted_rand_score(labels, gm.predict(case.X)) > 0.95


@ignore_convergence
@pytest.mark.parametrize(("max_iter", "tol"), [(2, 1e-7), (2, 1e-1), (300, 1e-7), (300, 1e-1)])
@pytest.mark.parametrize("kind", KINDS)
def test_fit_predict_is_fit_then_predict(kind: str, max_iter: int, tol: float) -> None:
    X = distinct(kind).X
    gm = GaussianMixture(2, covariance_type=kind, max_iter=max_iter, tol=tol, n_init=2, random_state=0)
    other = copy.deepcopy(gm)
    labels = gm.fit_predict(X)
    assert_array_equal(labels, other.fit(X).predict(X))
    assert_array_equal(labels, gm.predict_proba(X).argmax(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_iterations_warn(kind: str) -> None:
    X = make_case(kind, seed=1, n_rows=200, n_components=3, n_features=2, separation=1.0).X
    gm = GaussianMixture(3, covariance_type=kind, max_iter=1, reg_covar=0, n_init=1, random_state=0)
    message = r"ended at max_iter without converging\. Increase max_iter or tol, or try another start\. \(n_iter=1\)"
    with pytest.warns(ConvergenceWarning, match=message):
        gm.fit(X)
    assert not gm.converged_
    assert gm.n_iter_ == 1


@ignore_convergence
@pytest.mark.parametrize("kind", KINDS)
def test_more_restarts_are_not_worse(kind: str) -> None:
    # With k-means|| all restarts go through the same passes over all rows; from a sample only the best comes.
    options = {"covariance_type": kind, "init_params": "k-means||", "max_iter": 2}
    for seed in range(5):
        X = np.random.default_rng(seed).standard_normal((60, 3))
        one, many = (GaussianMixture(3, **options, n_init=n, random_state=seed).fit(X) for n in (1, 8))
        assert many.lower_bound_ >= one.lower_bound_


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_parameters_is_in_the_criteria(kind: str) -> None:
    X = np.random.default_rng(0).standard_normal((50, 5))
    gm = GaussianMixture(2, covariance_type=kind, n_init=1, random_state=0).fit(X)
    n_parameters = {"spherical": 13, "diag": 21, "tied": 26, "full": 41}[kind]
    assert n_free(kind, 2, 5) == n_parameters
    assert gm.aic(X) + 2 * 50 * gm.score(X) == pytest.approx(2 * n_parameters)
    assert gm.bic(X) + 2 * 50 * gm.score(X) == pytest.approx(np.log(50) * n_parameters)


def test_all_kinds_are_one_for_one_component_in_one_feature() -> None:
    X = np.random.default_rng(0).standard_normal((100, 1))
    bics = [GaussianMixture(1, covariance_type=kind).fit(X).bic(X) for kind in KINDS]
    assert_allclose(bics, bics[0], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_criteria_are_near_the_entropy_of_a_gaussian(kind: str) -> None:
    X = np.random.default_rng(0).standard_normal((50, 3))
    entropy = 0.5 * (np.linalg.slogdet(np.cov(X.T, bias=True))[1] + 3 * (1 + np.log(2 * np.pi)))
    gm = GaussianMixture(2, covariance_type=kind, max_iter=200, n_init=1, random_state=0).fit(X)
    n = n_free(kind, 2, 3)
    assert (gm.aic(X) - 2 * 50 * entropy - 2 * n) / 50 < 3 / np.sqrt(50)
    assert (gm.bic(X) - 2 * 50 * entropy - np.log(50) * n) / 50 < 3 / np.sqrt(50)


@ignore_convergence
@pytest.mark.parametrize("seed", range(3))
def test_warm_start_is_a_longer_fit(seed: int) -> None:
    X = np.random.default_rng(seed).random((500, 2))
    whole = GaussianMixture(2, **PLAIN, max_iter=2, reg_covar=0, random_state=seed).fit(X)
    warm = GaussianMixture(2, **PLAIN, max_iter=1, reg_covar=0, random_state=seed, warm_start=True)
    first = warm.fit(X).score(X)
    assert warm.fit(X).score(X) > first
    for name in ("weights_", "means_", "precisions_"):
        assert_allclose(getattr(warm, name), getattr(whole, name), rtol=1e-12)


@ignore_convergence
@pytest.mark.parametrize("max_iter", [1, 2, 50])
def test_warm_start_notices_convergence(max_iter: int) -> None:
    X = distinct().X
    gm = GaussianMixture(2, warm_start=True, max_iter=max_iter, n_init=1, random_state=0)
    for _ in range(100):
        if gm.fit(X).converged_:
            break
    assert gm.converged_
    assert gm.n_iter_ <= max_iter


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_mean_of_score_samples_and_rises(kind: str) -> None:
    X = make_case(kind, seed=2, n_rows=300, n_components=2, n_features=2).X
    with pytest.warns(ConvergenceWarning):
        one = GaussianMixture(2, **PLAIN, covariance_type=kind, max_iter=1, random_state=0).fit(X)
    assert one.score(X) == pytest.approx(one.score_samples(X).mean(), rel=1e-12)
    more = GaussianMixture(2, n_init=2, covariance_type=kind, random_state=0, tol=1e-5).fit(X)
    assert more.score(X) > one.score(X)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_the_likelihood_never_falls_without_regularisation(kind: str, acceleration: str | None) -> None:
    X = make_case(kind, seed=5, n_rows=400, n_components=3, n_features=2).X
    options = PLAIN | {"covariance_type": kind, "reg_covar": 0, "tol": 1e-9, "max_iter": 2000}
    gm = GaussianMixture(3, **options | {"acceleration": acceleration}, random_state=0).fit(X)
    assert len(gm.lower_bounds_) >= 10
    assert np.diff(gm.lower_bounds_).min() > -1e-13
    accepted = [h["mean_log_likelihood"] for h in gm.history_ if h["what"] == "em" and h["accepted"]]
    assert gm.lower_bounds_ == accepted


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_rows_need_regularisation(kind: str) -> None:
    X = np.repeat([[1.0] * 5, [0.0] * 5], 5, axis=0)
    gm = GaussianMixture(10, covariance_type=kind, reg_covar=0, n_init=1, random_state=0)
    who = "all components" if kind == "tied" else r"component \d"
    message = f"the covariance of {who}.*Decrease n_components, increase reg_covar, or rescale or drop"
    with pytest.raises(CollapsedComponentError, match=message):
        gm.fit(X)
    gm.set_params(reg_covar=1e-6).fit(X)
    assert np.isfinite(gm.score(X))


@pytest.mark.parametrize("kind", KINDS)
def test_precisions_are_inverse_covariances(kind: str) -> None:
    X = make_case(kind, seed=6, n_rows=300, n_components=2, n_features=3).X
    gm = GaussianMixture(2, covariance_type=kind, n_init=3, random_state=0).fit(X)
    if kind in ("full", "tied"):
        assert_allclose(np.linalg.inv(gm.precisions_), gm.covariances_, rtol=1e-9, atol=1e-12)
        upper = gm.precisions_cholesky_
        assert_allclose(upper @ np.swapaxes(upper, -1, -2), gm.precisions_, rtol=1e-12, atol=1e-12)
        assert_array_equal(upper, np.triu(upper))
    else:
        assert_allclose(gm.precisions_, 1 / gm.covariances_, rtol=1e-12)
        assert_allclose(gm.precisions_cholesky_**2, gm.precisions_, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sample_draws_from_the_mixture(kind: str) -> None:
    gm = GaussianMixture(3, covariance_type=kind, random_state=0).fit(distinct(kind, n_components=3).X)
    with pytest.raises(OptionError, match="n_samples must be at least 1; got 0"):
        gm.sample(0)
    X, labels = gm.sample(30_000)
    assert X.shape == (30_000, 2)
    for k in range(3):
        rows = X[labels == k]
        own = gm.covariances_ if kind == "tied" else gm.covariances_[k]
        expected = own if kind in ("full", "tied") else np.diag(np.broadcast_to(own, 2))
        assert_allclose(rows.mean(axis=0), gm.means_[k], atol=0.1)
        assert_allclose(np.cov(rows.T), expected, atol=0.1)
    assert_allclose(np.bincount(labels) / 30_000, gm.weights_, atol=0.02)
    again, _ = gm.sample(30_000)
    assert_array_equal(again, X)
    for n in range(1, 30):
        rows, labels = gm.sample(n)
        assert rows.shape == (n, 2)
        assert labels.shape == (n,)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("seed", range(3))
def test_starts_have_means_of_their_own(init_params: str, seed: int) -> None:
    X = distinct(seed=seed, n_components=3).X
    gm = GaussianMixture(3, init_params=init_params, random_state=seed, max_iter=0).fit(X)
    for one, other in itertools.combinations(gm.means_, 2):
        assert not np.allclose(one, other)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_means_lie_among_the_rows(init_params: str) -> None:
    X = distinct(n_components=3).X
    gm = GaussianMixture(3, init_params=init_params, random_state=1, max_iter=300).fit(X)
    assert gm.means_.shape == (3, 2)
    assert np.all(X.min(axis=0) <= gm.means_)
    assert np.all(gm.means_ <= X.max(axis=0))
    assert gm.converged_


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_of_precisions_alone_changes_nothing_where_they_are_its_own(kind: str) -> None:
    X = distinct(kind).X
    options = PLAIN | {"n_components": 2, "covariance_type": kind, "random_state": 0}
    start = GaussianMixture(**options, max_iter=0).fit(X)
    plain = GaussianMixture(**options).fit(X)
    given = GaussianMixture(**options, precisions_init=start.precisions_).fit(X)
    assert given.n_iter_ == plain.n_iter_
    assert_allclose(given.precisions_cholesky_, plain.precisions_cholesky_, rtol=1e-9, atol=1e-9)


def test_one_component_on_three_rows() -> None:
    X = np.random.default_rng(0).standard_normal((3, 2))
    gm = GaussianMixture(1).fit(X)
    assert np.isfinite(gm.sample()[0]).all()
    assert_allclose(gm.means_[0], X.mean(axis=0), rtol=1e-12)


def test_an_iteration_that_makes_a_component_narrow_keeps_its_parameters() -> None:
    X = np.random.default_rng(0).uniform(size=(30, 3))
    narrow = [1e6, 1e6, 500.0, 200.0, 15.0, 85.0]
    weights = np.array([1, 1, 2, 2, 21, 3]) / 30
    gm = GaussianMixture(
        6, covariance_type="spherical", reg_covar=1e-9, max_iter=1, weights_init=weights, precisions_init=narrow,
        means_init=X[:6],
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match="n_iter=1"):
        gm.fit(X)
    assert not gm.converged_
    assert np.isfinite(gm.lower_bound_)
    assert len(gm.lower_bounds_) == gm.n_iter_ == 1
