"""The estimator: scikit-learn's numbers step by step, on every source; lazy predictions; what it remembers of a fit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import DataError, InputMissingError, OptionError, OutputError
from daskgmm.fitting import race
from daskgmm.fitting.history import COLUMNS
from daskgmm.fitting.race import STAGE_PASSES
from tests.fitting.driving import (
    KINDS,
    PLAIN,
    SOURCES,
    Blocks,
    as_source,
    computed,
    given_start,
    small_partitions,
    well_separated,
)

__all__ = ["small_partitions"]

PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")

# Iterates are compared before they have converged.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module", autouse=True)
def for_passes() -> Iterator[None]:
    # scikit-learn's products are small here: two threads only wait for each other.
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def assert_same_fit(ours: Any, theirs: Any, *, rtol: float = 1e-9) -> None:
    for name in PARAMETERS:
        expected = getattr(theirs, name)
        assert_allclose(getattr(ours, name), expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)
    assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=rtol)
    assert_allclose(ours.lower_bound_, theirs.lower_bound_, rtol=rtol)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_


def both(X: Any, **options: Any) -> tuple[GaussianMixture, mixture.GaussianMixture]:
    return GaussianMixture(**PLAIN | options).fit(X), mixture.GaussianMixture(**options).fit(X)


# -- equal to scikit-learn -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_iterates_are_those_of_scikit_learn(kind: str) -> None:
    case = well_separated(kind)
    for i in range(1, 21):
        assert_same_fit(*both(case.X, **given_start(case), max_iter=i, tol=0))


@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_partitions")
def test_every_source_gives_the_iterates_of_scikit_learn(kind: str, what: str, tmp_path: Path) -> None:
    case = well_separated(kind)
    options = given_start(case) | {"max_iter": 20, "tol": 0}
    ours = GaussianMixture(**PLAIN | options).fit(as_source(what, case.X, tmp_path))
    assert_same_fit(ours, mixture.GaussianMixture(**options).fit(case.X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_partitions")
def test_every_source_gives_the_same_bits_with_the_defaults(kind: str, tmp_path: Path) -> None:
    X = well_separated(kind).X
    chunk = 2048 // X[0].nbytes  # as arrays in memory have it here, so that all have the same partitions
    fits = [
        GaussianMixture(3, covariance_type=kind, n_init=4, random_state=0).fit(
            as_source(what, X, tmp_path, chunk=chunk, name=what.replace(" ", "-"))
        )
        for what in SOURCES
    ]
    for gm in fits:
        assert gm.lower_bounds_ == fits[0].lower_bounds_
        for name in PARAMETERS:
            assert_array_equal(getattr(gm, name), getattr(fits[0], name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_convergence_is_judged_as_scikit_learn_does(kind: str, tol: float) -> None:
    case = well_separated(kind)
    ours, theirs = both(case.X, **given_start(case), tol=tol, max_iter=300)
    assert ours.converged_
    assert ours.n_iter_ > 1
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_acceleration_ends_at_the_optimum_of_scikit_learn(kind: str) -> None:
    case = well_separated(kind)
    options = given_start(case) | {"tol": 1e-10, "max_iter": 2000}
    ours, theirs = GaussianMixture(**options).fit(case.X), mixture.GaussianMixture(**options).fit(case.X)
    assert ours.converged_
    assert len([h for h in ours.history_ if h["what"] == "em"]) < theirs.n_iter_
    assert ours.score(case.X) == pytest.approx(theirs.score(case.X), abs=1e-8)
    assert_allclose(ours.means_, theirs.means_, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_criteria_and_predictions_are_those_of_scikit_learn(kind: str, tmp_path: Path) -> None:
    case = well_separated(kind)
    ours, theirs = both(case.X, **given_start(case), tol=1e-5)
    fresh = well_separated(kind, n_rows=500, seed=4).X
    for what in ("numpy", "dask", "zarr"):
        X = as_source(what, fresh, tmp_path)
        for name in ("score", "aic", "bic"):
            assert_allclose(getattr(ours, name)(X), getattr(theirs, name)(fresh), rtol=1e-9, err_msg=name)
        for name in ("predict_proba", "score_samples"):
            assert_allclose(computed(getattr(ours, name)(X)), getattr(theirs, name)(fresh), rtol=1e-9, atol=1e-12)
        assert_array_equal(computed(ours.predict(X)), theirs.predict(fresh))


@pytest.mark.parametrize("kind", KINDS)
def test_warm_start_goes_on_as_scikit_learn_does(kind: str) -> None:
    case = well_separated(kind)
    options = given_start(case) | {"warm_start": True, "max_iter": 3, "tol": 1e-4, "n_init": 2}
    ours, theirs = GaussianMixture(**PLAIN | options), mixture.GaussianMixture(**options)
    for _ in range(4):
        assert_same_fit(ours.fit(case.X), theirs.fit(case.X))
    assert ours.history_[0]["what"] == "survey"
    assert {h["candidate"] for h in ours.history_} == {None, 0}


def test_warm_start_goes_on_from_a_loaded_model(tmp_path: Path) -> None:
    case = well_separated()
    whole = GaussianMixture(**PLAIN, **given_start(case), max_iter=5, tol=0).fit(case.X)
    first = GaussianMixture(**PLAIN, **given_start(case), max_iter=2, tol=0).fit(case.X)
    first.save(tmp_path / "m.zarr")
    again = GaussianMixture.load(tmp_path / "m.zarr").set_params(warm_start=True, max_iter=3).fit(case.X)
    for name in PARAMETERS:
        assert_array_equal(getattr(again, name), getattr(whole, name))


@pytest.mark.parametrize("change", [{"n_components": 2}, {"covariance_type": "diag"}, {}])
def test_warm_start_refuses_another_shape(change: dict[str, Any]) -> None:
    X = well_separated().X
    gm = GaussianMixture(3, warm_start=True, n_init=1, random_state=0).fit(X).set_params(**change)
    n, kind, d = change.get("n_components", 3), change.get("covariance_type", "full"), 3 if change else 2
    message = rf"got one of 3 full components in 3 features for {n} {kind} components in {d}\. Set warm_start=False"
    with pytest.raises(OptionError, match=message):
        gm.fit(X[:, :d])


def test_a_fitted_mixture_keeps_its_kind_when_its_options_change() -> None:
    X = well_separated("tied").X
    gm = GaussianMixture(3, covariance_type="tied", n_init=1, random_state=0).fit(X)
    expected = gm.predict_proba(X)
    gm.set_params(covariance_type="diag", n_components=7)
    assert_array_equal(gm.predict_proba(X), expected)
    assert gm.to_sklearn().get_params()["covariance_type"] == "tied"


@pytest.mark.parametrize("kind", KINDS)
def test_no_iterations_keep_the_start(kind: str, recwarn: pytest.WarningsRecorder) -> None:
    case = well_separated(kind)
    gm = GaussianMixture(**given_start(case), max_iter=0).fit(case.X)
    assert_array_equal(gm.weights_, case.weights)
    assert_array_equal(gm.means_, case.means)
    assert_allclose(gm.covariances_, case.covariances, rtol=1e-12, atol=1e-14)
    assert (gm.n_iter_, gm.lower_bound_, gm.lower_bounds_, gm.converged_) == (0, -np.inf, [], False)
    assert gm.log_likelihood_ == pytest.approx(len(case.X) * gm.score(case.X), rel=1e-12)
    assert gm.n_passes_ == 2
    json.dumps(gm.history_, allow_nan=False)
    assert not [w for w in recwarn if issubclass(w.category, ConvergenceWarning)]


GIVEN = ("weights_init", "means_init", "precisions_init")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [n for r in (1, 2) for n in itertools.combinations(GIVEN, r)])
def test_what_is_given_replaces_its_part_of_the_start(kind: str, names: tuple[str, ...]) -> None:
    case = well_separated(kind)
    start = given_start(case)
    options = {"n_components": 3, "covariance_type": kind, "random_state": 0, "max_iter": 0, "n_init": 1}
    found = GaussianMixture(**options).fit(case.X)
    partly = GaussianMixture(**options, **{n: start[n] for n in names}).fit(case.X)
    for name, attribute in zip(GIVEN, ("weights_", "means_", "precisions_"), strict=True):
        expected = start[name] if name in names else getattr(found, attribute)
        assert_allclose(getattr(partly, attribute), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [n for r in (1, 2) for n in itertools.combinations(GIVEN, r)])
def test_one_component_partly_given_is_as_scikit_learn_has_it(kind: str, names: tuple[str, ...]) -> None:
    X = well_separated(kind).X
    start = {
        "weights_init": [1.0],
        "means_init": [[0.5, 0.0, -0.5]],
        "precisions_init": {"full": [np.eye(3)], "tied": np.eye(3), "diag": [[1, 2, 3]], "spherical": [2]}[kind],
    }
    given = {n: np.asarray(start[n], dtype=float) for n in names}
    assert_same_fit(*both(X, covariance_type=kind, random_state=0, max_iter=4, tol=0, **given))


def test_a_given_start_is_fitted_once_whatever_n_init_says() -> None:
    case = well_separated()
    options = given_start(case) | {"tol": 1e-5, "n_init": 4}
    ours, theirs = both(case.X, **options)
    assert_same_fit(ours, theirs)
    assert {h["candidate"] for h in ours.history_} == {None, 0}


def test_the_best_of_several_restarts_on_the_sample_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "SMALL", 0)  # (of so few rows all go on to the end)
    X = np.random.default_rng(0).standard_normal((400, 2))
    options = {"init_params": "random_from_data", "random_state": 1, "tol": 1e-4, "escape": False}
    gm = GaussianMixture(4, n_init=5, **options).fit(X)
    start = [h for h in gm.history_ if h["what"] == "start"]
    # Stages of the race, by the candidates of each pass.
    first, rest = start[: 5 * STAGE_PASSES], start[5 * STAGE_PASSES :]
    last = {h["candidate"]: h["mean_log_likelihood"] for h in first}
    assert len(set(last.values())) == 5
    second = {h["candidate"]: h["mean_log_likelihood"] for h in rest[: 2 * STAGE_PASSES]}
    assert set(second) == set(sorted(last, key=last.__getitem__)[-2:])
    third = {h["candidate"] for h in rest[2 * STAGE_PASSES :]}
    assert third == {max(second, key=second.__getitem__)}
    assert gm.lower_bound_ > max(last.values())


def test_the_best_of_several_restarts_on_all_rows_is_kept() -> None:
    X = np.random.default_rng(0).standard_normal((400, 2))
    gm = GaussianMixture(4, n_init=5, init_params="k-means||", random_state=1, tol=1e-4).fit(X)
    em = [h for h in gm.history_ if h["what"] == "em" and h["accepted"]]
    last = {h["candidate"]: h["mean_log_likelihood"] for h in em}
    assert len(last) == 5
    assert len(set(last.values())) > 1
    assert gm.lower_bound_ == max(last.values())
    closing = gm.history_[-1]
    assert closing["what"] == "closing"
    assert last[closing["candidate"]] == gm.lower_bound_


def test_float32_rows_are_computed_in_double() -> None:
    case = well_separated()
    X = case.X.astype("f4")
    assert_same_fit(*both_in_double(X, **given_start(case), max_iter=5, tol=0))


def both_in_double(X: Any, **options: Any) -> tuple[GaussianMixture, mixture.GaussianMixture]:
    ours = GaussianMixture(**PLAIN | options).fit(X)
    assert all(getattr(ours, name).dtype == np.float64 for name in PARAMETERS)
    assert ours.predict_proba(X).dtype == ours.score_samples(X).dtype == np.float64
    return ours, mixture.GaussianMixture(**options).fit(X.astype("f8"))


# -- lazy in, lazy out ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["predict", "predict_proba", "score_samples"])
def test_predictions_of_a_dask_array_are_lazy_and_in_its_chunks(name: str) -> None:
    X = well_separated().X
    gm = GaussianMixture(3, n_init=1, random_state=0).fit(X)
    blocks = Blocks(X, chunk=100)
    predicted = getattr(gm, name)(blocks.array)
    assert blocks.n_rows == 0
    assert isinstance(predicted, da.Array)
    assert predicted.chunks[0] == (100,) * 6
    expected = getattr(gm, name)(X)
    assert predicted.dtype == expected.dtype
    assert predicted.shape == expected.shape
    assert_array_equal(predicted[150:250].compute(), expected[150:250])
    assert blocks.n_rows == 200, "only the chunks that were asked for"


def test_predictions_of_unknown_chunks_stay_unknown(tmp_path: Path) -> None:
    X = well_separated().X
    gm = GaussianMixture(3, n_init=1, random_state=0).fit(X)
    predicted = gm.predict_proba(as_source("dask of unknown chunks", X, tmp_path))
    assert np.isnan(predicted.shape[0])
    assert_allclose(predicted.compute(), gm.predict_proba(X), rtol=1e-12)


@pytest.mark.parametrize("what", ["zarr", "zarr path", "npy path"])
def test_predictions_of_stored_rows_are_lazy(what: str, tmp_path: Path) -> None:
    X = well_separated().X
    gm = GaussianMixture(3, n_init=1, random_state=0).fit(X)
    predicted = gm.predict(as_source(what, X, tmp_path))
    assert isinstance(predicted, da.Array)
    assert_array_equal(predicted.compute(), gm.predict(X))


def test_columns_in_several_chunks_are_one_mixture() -> None:
    X = well_separated().X
    gm = GaussianMixture(3, random_state=0).fit(X)
    chunked = da.from_array(X, chunks=(200, 2))
    assert_array_equal(gm.predict(chunked).compute(), gm.predict(X))
    assert_allclose(GaussianMixture(3, random_state=0).fit(chunked).means_, gm.means_, rtol=1e-9)


@pytest.mark.parametrize("what", SOURCES)
def test_one_feature_may_come_as_a_vector(what: str, tmp_path: Path) -> None:
    x = well_separated().X[:, 0]
    matrix = GaussianMixture(2, n_init=1, random_state=0).fit(x[:, np.newaxis])
    X = as_source(what, x, tmp_path)
    vector = GaussianMixture(2, n_init=1, random_state=0).fit(X)
    assert vector.n_features_in_ == 1
    assert_allclose(vector.means_, matrix.means_, rtol=1e-9)
    assert_array_equal(computed(vector.predict(X)), matrix.predict(x[:, np.newaxis]))
    assert vector.score(X) == pytest.approx(matrix.score(x[:, np.newaxis]), rel=1e-9)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.usefixtures("small_partitions")
def test_schedulers_give_the_same_bits(scheduler: str) -> None:
    case = well_separated()
    X = da.from_array(case.X, chunks=(100, 3))
    with dask.config.set(scheduler=scheduler):
        gm = GaussianMixture(3, random_state=0).fit(X)
    reference = GaussianMixture(3, random_state=0).fit(X)
    for name in PARAMETERS:
        assert_array_equal(getattr(gm, name), getattr(reference, name))


# -- what a fit remembers -------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", SOURCES)
def test_a_fit_counts_its_passes_and_keeps_its_history(what: str, tmp_path: Path) -> None:
    case = well_separated()
    X = as_source(what, case.X, tmp_path)
    gm = GaussianMixture(3, n_init=2, init_params="random", random_state=0, tol=1e-2).fit(X)
    counted = 1 if what == "dask of unknown chunks" else 0
    em = [h for h in gm.history_ if h["what"] == "em"]
    assert gm.n_passes_ == counted + 1 + len(em) + 1
    assert [h["pass"] for h in em] == list(range(2 + counted, gm.n_passes_))
    assert_it_keeps_its_history(gm, case)
    start = [h for h in gm.history_ if h["what"] == "start"]
    assert {h["candidate"] for h in start[:2]} == {0, 1}
    assert all((h["pass"], h["n_bytes"]) == (1 + counted, 0) and h["rows"] >= 600 for h in start)
    whats = [h["what"] for h in gm.history_]
    assert whats == ["survey", *["start"] * len(start), *["em"] * len(em), "closing"]


def test_candidates_of_all_rows_share_passes_and_have_records_of_their_own() -> None:
    case = well_separated()
    gm = GaussianMixture(3, n_init=2, init_params="k-means||", random_state=0, tol=1e-2).fit(case.X)
    whats = [h["what"] for h in gm.history_]
    em = [h for h in gm.history_ if h["what"] == "em"]
    n_search, n_em = whats.count("search"), len({h["pass"] for h in em})
    assert gm.n_passes_ == 1 + n_search + n_em + 1
    assert whats == ["survey", *["search"] * n_search, *["em"] * (2 * n_em), "closing"]
    assert_it_keeps_its_history(gm, case)


def assert_it_keeps_its_history(gm: GaussianMixture, case: Any) -> None:
    assert json.loads(json.dumps(gm.history_, allow_nan=False)) == gm.history_
    assert all(tuple(h) == COLUMNS for h in gm.history_)
    best = gm.history_[-1]["candidate"]
    mine = [h for h in gm.history_ if h["what"] == "em" and h["candidate"] == best]
    assert [h["mean_log_likelihood"] for h in mine if h["accepted"]] == gm.lower_bounds_
    assert gm.n_iter_ == len(gm.lower_bounds_) <= len(mine)
    assert mine[-1]["status"] == "converged"
    assert mine[0]["change"] is None
    assert mine[1]["change"] == gm.lower_bounds_[1] - gm.lower_bounds_[0]
    assert all((h["n_bytes"], h["rows"]) == (case.X.nbytes, 600) for h in gm.history_ if h["what"] != "start")


def test_the_log_likelihood_is_that_of_the_final_parameters() -> None:
    case = well_separated()
    gm = GaussianMixture(**PLAIN, **given_start(case), max_iter=2, tol=0).fit(case.X)
    further = GaussianMixture(**PLAIN, **given_start(case), max_iter=3, tol=0).fit(case.X)
    assert gm.log_likelihood_ == pytest.approx(600 * gm.score(case.X), rel=1e-12)
    assert gm.log_likelihood_ == pytest.approx(600 * further.lower_bound_, rel=1e-12)
    assert abs(gm.lower_bound_ - further.lower_bound_) > 1e-3


def test_a_seed_fits_alike_and_another_does_not() -> None:
    X = np.random.default_rng(0).standard_normal((300, 2))
    options = {"n_components": 3, "init_params": "random_from_data", "max_iter": 2, "tol": 0}
    a, b, c = (GaussianMixture(**options, random_state=seed).fit(X) for seed in (1, 1, 2))
    assert_array_equal(a.means_, b.means_)
    assert np.abs(a.means_ - c.means_).max() > 1e-2
    state = np.random.RandomState(0)
    d, e = (GaussianMixture(**options, random_state=state).fit(X) for _ in range(2))
    assert np.abs(d.means_ - e.means_).max() > 1e-2


@pytest.mark.parametrize("what", ["numpy", "dask"])
def test_a_fit_that_fails_leaves_the_last_one(what: str, tmp_path: Path) -> None:
    X = well_separated().X
    gm = GaussianMixture(3, n_init=1, random_state=0).fit(X)
    expected = gm.predict_proba(X)
    with pytest.raises(DataError, match="at least n_components = 3 rows; got 2"):
        gm.fit(as_source(what, X[:2, :2], tmp_path))
    assert gm.n_features_in_ == 3
    assert_array_equal(gm.predict_proba(X), expected)
    with pytest.raises(ValueError, match="X has 2 features"):
        gm.predict(X[:, :2])


# -- printing -------------------------------------------------------------------------------------------------
def test_verbose_prints_every_tenth_pass_or_each(capsys: pytest.CaptureFixture[str]) -> None:
    case = well_separated()
    options = given_start(case) | {"max_iter": 25, "tol": 0}
    GaussianMixture(**options).fit(case.X)
    assert capsys.readouterr().out == ""
    GaussianMixture(**options, verbose=1).fit(case.X)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["mean", "log-lik.", "change"]
    assert head.endswith("(first, last and one in 10 iterations)")
    assert [int(line.split()[1]) for line in lines] == [1, 2, 12, 22, 26, 27]
    gm = GaussianMixture(**options, verbose=1, verbose_interval=4).fit(case.X)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [int(line.split()[1]) for line in lines] == [1, 2, 6, 10, 14, 18, 22, 26, 27]
    GaussianMixture(**options, verbose=2).fit(case.X)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[2] for line in lines] == ["survey", *["em"] * 25, "closing"]
    assert float(lines[1].split()[3]) == pytest.approx(gm.lower_bounds_[0], abs=1e-6)
    assert lines[2].split()[4].startswith("+")
    assert "rows/s" in lines[2]


@pytest.mark.parametrize(("name", "value"), [("verbose_interval", 0), ("verbose", -1), ("verbose", "loud")])
def test_printing_options_are_checked(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be an integer of at least [01]; got {value!r}"):
        GaussianMixture(**{name: value}).fit(np.eye(3))


# -- elsewhere ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_path", [str, Path])
def test_save_and_load_are_exact(kind: str, as_path: Any, tmp_path: Path) -> None:
    X = well_separated(kind).X
    gm = GaussianMixture(3, covariance_type=kind, random_state=5, n_init=2, tol=1e-4).fit(X)
    gm.save(as_path(tmp_path / "model.zarr"))
    loaded = GaussianMixture.load(as_path(tmp_path / "model.zarr"))
    for name in PARAMETERS:
        assert_array_equal(getattr(loaded, name), getattr(gm, name))
    for name in ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "log_likelihood_", "n_passes_", "history_"):
        assert getattr(loaded, name) == getattr(gm, name), name
    assert (loaded.n_features_in_, loaded.n_dropped_) == (3, 0)
    assert loaded.get_params() == gm.get_params()
    assert_array_equal(loaded.predict_proba(X), gm.predict_proba(X))
    assert_array_equal(loaded.fit(X).means_, gm.means_, "the loaded options fit the same mixture again")


def test_the_stored_options_are_those_of_the_fit(tmp_path: Path) -> None:
    X = well_separated().X
    state = np.random.RandomState(3)
    gm = GaussianMixture(2, init_params="random_from_data", random_state=state, max_iter=1, tol=0).fit(X)
    before = state.get_state()[2]
    gm.set_params(max_iter=50, n_components=9)
    gm.save(tmp_path / "m.zarr")
    assert state.get_state()[2] == before, "saving draws no random numbers"
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert (loaded.n_components, loaded.max_iter) == (2, 1)
    loaded.save(tmp_path / "again.zarr")
    again = GaussianMixture.load(tmp_path / "again.zarr").fit(X)
    assert_array_equal(again.means_, gm.means_)


def test_a_start_that_was_given_is_stored_with_the_model(tmp_path: Path) -> None:
    case = well_separated()
    gm = GaussianMixture(**given_start(case), max_iter=0).fit(case.X)
    gm.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert loaded.lower_bound_ == -np.inf
    assert_array_equal(loaded.fit(case.X).means_, gm.means_)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": 5}, {"options": [1]}, {"feature_names": 5}, {"feature_names": ["a"]}, {"feature_names": [1, 2, 3]},
        {"lower_bound": "x"}, {"lower_bound": []}, {"lower_bound": 10**400}, {"lower_bounds": 5},
        {"lower_bounds": ["x"]}, {"lower_bounds": "12x"}, {"log_likelihood": None}, {"log_likelihood": {}},
        {"n_iter": "x"}, {"n_iter": float("inf")}, {"n_passes": float("nan")}, {"n_dropped": []}, {"history": 3},
        {"history": [3]},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_a_record_of_other_types_is_bad_data(changes: dict[str, Any], tmp_path: Path) -> None:
    GaussianMixture(n_init=1, random_state=0).fit(well_separated().X).save(tmp_path / "m.zarr")
    group = zarr.open_group(tmp_path / "m.zarr")
    group.attrs["record"] = {**group.attrs["record"], **changes}
    with pytest.raises(
        DataError, match=r"the model's record must be as daskgmm wrote it; got .*/m\.zarr\. Fit it again"
    ):
        GaussianMixture.load(tmp_path / "m.zarr")


def test_a_model_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    X = well_separated().X
    gm, other = (GaussianMixture(n, n_init=1, random_state=0).fit(X) for n in (2, 3))
    gm.save(tmp_path / "m.zarr")
    with pytest.raises(OutputError, match=r"must not exist yet; got .*m\.zarr, which does\. Choose another path"):
        other.save(tmp_path / "m.zarr")
    assert len(GaussianMixture.load(tmp_path / "m.zarr").weights_) == 2
    other.save(tmp_path / "m.zarr", overwrite=True)
    assert len(GaussianMixture.load(tmp_path / "m.zarr").weights_) == 3
    with pytest.raises(InputMissingError, match="got nothing at"):
        GaussianMixture.load(tmp_path / "none.zarr")
    zarr.create_array(tmp_path / "rows.zarr", data=X)
    with pytest.raises(DataError, match="must be a (daskgmm )?model file; got a Zarr array"):
        GaussianMixture.load(tmp_path / "rows.zarr")


@pytest.mark.parametrize("kind", KINDS)
def test_to_sklearn_gives_the_same_mixture(kind: str) -> None:
    from sklearn.base import clone

    X = well_separated(kind).X
    gm = GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    other = gm.to_sklearn()
    assert type(other) is mixture.GaussianMixture
    assert_array_equal(other.predict(X), gm.predict(X))
    assert_allclose(other.predict_proba(X), gm.predict_proba(X), rtol=1e-9, atol=1e-12)
    assert other.bic(X) == pytest.approx(gm.bic(X), rel=1e-9)
    assert other.aic(X) == pytest.approx(gm.aic(X), rel=1e-9)
    assert (other.n_iter_, other.converged_, other.lower_bound_) == (gm.n_iter_, gm.converged_, gm.lower_bound_)
    assert not hasattr(clone(other), "means_")
    assert clone(other).fit(X).score(X) == pytest.approx(gm.score(X), abs=1e-2)


# -- a mixture that was set by hand ----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left_out", ["", "covariances_", "precisions_cholesky_"])
def test_attributes_set_by_hand_are_a_mixture(kind: str, left_out: str, tmp_path: Path) -> None:
    case = well_separated(kind)
    known = mixture.GaussianMixture(3, covariance_type=kind, random_state=0).fit(case.X)
    gm = GaussianMixture(3, covariance_type=kind, random_state=0)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        if name != left_out:
            setattr(gm, name, getattr(known, name))
    gm.save(tmp_path / "m.zarr")
    loaded, other = GaussianMixture.load(tmp_path / "m.zarr"), gm.to_sklearn()
    for found in (gm, loaded, other):
        assert_array_equal(found.predict(case.X), known.predict(case.X))
        assert_allclose(found.score_samples(case.X), known.score_samples(case.X), rtol=1e-9)
    assert_allclose(gm.predict_proba(da.from_array(case.X, chunks=(50, 2))), known.predict_proba(case.X), atol=1e-9)
    assert gm.bic(case.X) == pytest.approx(known.bic(case.X), rel=1e-9)
    rows, components = gm.sample(1000)
    again = mixture.GaussianMixture(3, covariance_type=kind, random_state=0)
    again.weights_, again.means_, again.covariances_ = known.weights_, known.means_, known.covariances_
    expected, theirs = again.sample(1000)
    assert_array_equal(components, theirs)
    assert_allclose(rows.mean(axis=0), expected.mean(axis=0), atol=1)
    assert gm.set_params(n_init=1).fit(case.X).predict(case.X).shape == (len(case.X),)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"weights_": [1.0], "means_": [[0.0, 0.0]]}, r"covariances_ or precisions_cholesky_ must be set beside"),
        (
            {"weights_": [0.5, 0.5], "means_": [[0.0, 0.0]], "covariances_": [np.eye(2)]},
            r"weights_ must have shape \(1,\); got \(2,\)",
        ),
        (
            {"weights_": [1.0], "means_": [[0.0, 0.0]], "covariances_": np.eye(2)},
            r"covariances_ must have shape \(1, 2, 2\); got \(2, 2\)",
        ),
        (
            {"weights_": [1.0], "means_": [0.0, 0.0], "covariances_": [np.eye(2)]},
            r"means_ must have shape \(n_components, n_features\); got \(2,\)",
        ),
        (
            {"weights_": [1.0], "means_": [[0.0, np.nan]], "covariances_": [np.eye(2)]},
            r"means_ must be finite; got 1 NaN",
        ),
    ],
)
def test_attributes_that_are_no_mixture_are_named(attributes: dict[str, Any], message: str) -> None:
    gm = GaussianMixture()
    for name, value in attributes.items():
        setattr(gm, name, value)
    with pytest.raises(OptionError, match=message):
        gm.predict(np.zeros((3, 2)))


def test_a_mixture_that_was_set_by_hand_names_other_features() -> None:
    gm = GaussianMixture()
    gm.weights_, gm.means_, gm.covariances_ = np.ones(1), np.zeros((1, 2)), np.eye(2)[np.newaxis]
    with pytest.raises(DataError, match=r"X has 3 features, but GaussianMixture is expecting 2 features"):
        gm.predict(np.zeros((3, 3)))


def test_random_state_takes_a_generator_and_refuses_what_is_no_seed() -> None:
    X = np.random.default_rng(0).normal(size=(300, 2))
    one, other = (GaussianMixture(2, random_state=np.random.default_rng(7)).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.sample(5)[0], other.sample(5)[0])
    assert not np.array_equal(one.sample(5)[0], one.sample(5)[0]), "it goes on"
    assert one.to_sklearn().sample(5)[0].shape == (5, 2)
    for wrong in (-1, 2**32, "0", 1.5):
        with pytest.raises(OptionError, match="random_state must be a whole number from 0 to 2\\^32 - 1, a Generator"):
            GaussianMixture(2, random_state=wrong).fit(X)


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_no_base_hides_a_method_of_another(kind: type) -> None:
    left = [name for name in dir(kind) if getattr(getattr(kind, name, None), "__isabstractmethod__", False)]
    assert left == []
