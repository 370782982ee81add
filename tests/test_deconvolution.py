"""Measurement errors, through the public door: reference numbers, laws, any source, predictions, what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from daskgmm import BayesianGaussianMixture, GaussianMixture, open_rows, select
from daskgmm.errors import DataError, OptionError
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.errors import Noisy
from daskgmm.stores.checkpoint import Checkpoint
from tests import errors_oracle as oracle
from tests.reference_data import faithful

#: The start of the reference numbers: mclust's example data, and a mixture near their two groups.
S0: dict[str, Any] = {
    "weights_init": [0.5, 0.5],
    "means_init": [[2.0, 55.0], [4.5, 80.0]],
    "precisions_init": [np.diag([1 / 0.5, 1 / 50.0])] * 2,
}
X = faithful()
COMMON = np.diag([0.01, 9.0])


def each() -> Any:
    """Return S_i = diag(0.01 (1 + i % 3), 4 (1 + i % 2)) as standard deviations."""
    i = np.arange(len(X))
    return np.sqrt(np.stack([0.01 * (1 + i % 3), 4.0 * (1 + i % 2)], axis=1))


def matrices(deviations: Any) -> Any:
    return np.einsum("nd,de->nde", deviations**2, np.eye(deviations.shape[1]))


def fitted(errors: Any, rows: Any = X, n_components: int = 2, **parameters: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weights = parameters.pop("sample_weight", None)
        model = GaussianMixture(n_components, **({"random_state": 0} | parameters))
        return model.fit(rows, errors=errors, sample_weight=weights)


PLAIN: dict[str, Any] = {**S0, "reg_covar": 0.0, "tol": 0.0, "n_init": 1, "acceleration": None}


def test_reference_numbers_of_an_error_a_row() -> None:
    steps = fitted(each(), **PLAIN, max_iter=4).lower_bounds_
    assert_allclose(np.array(steps) * 272, [-1270.607238, -1146.333188, -1135.408321, -1133.365788], atol=6e-7)
    end = fitted(each(), **{**PLAIN, "acceleration": "squarem", "max_iter": 400})
    assert_allclose(end.log_likelihood_, -1132.8829263, rtol=5e-11)
    assert_allclose(end.weights_[0], 0.3558049742, rtol=1e-7)
    assert_allclose(end.means_, [[2.0404725262, 54.475848676], [4.2903559005, 79.9011584927]], rtol=1e-7)
    packed = end.covariances_[:, [0, 0, 1], [0, 1, 1]]
    expected = [[0.0543004114, 0.4304046932, 28.9410898126], [0.1508553362, 0.9563013115, 30.433872257]]
    # (They ended where the likelihood rose no more; `tests/kernels/test_errors.py` has the fixed point itself.)
    assert_allclose(packed, expected, rtol=1e-6)


def test_reference_numbers_of_one_error_for_all_rows() -> None:
    """By the clip a step is plain EM's; Bovy's, with the same error a row, takes others to the same end."""
    by_row = np.tile(COMMON, (272, 1, 1))
    steps = fitted(by_row, **PLAIN, max_iter=3).lower_bounds_
    assert_allclose(np.array(steps) * 272, [-1271.376205, -1143.465710, -1132.400243], atol=6e-7)
    end = fitted(COMMON, **PLAIN, max_iter=40)
    assert_allclose(end.lower_bounds_[0] * 272, -1271.376205, atol=6e-7)
    assert_allclose(end.log_likelihood_, -1130.26396018, rtol=1e-11)
    packed = end.covariances_[:, [0, 0, 1], [0, 1, 1]]
    expected = [[0.0591677, 0.4351669, 24.6973327], [0.1599684, 0.9406092, 27.0462476]]
    assert_allclose(packed, expected, rtol=3e-6)
    slow = fitted(by_row, **{**PLAIN, "acceleration": "squarem", "max_iter": 300})
    assert_allclose(slow.covariances_, end.covariances_, rtol=2e-5)
    assert_allclose(slow.log_likelihood_, end.log_likelihood_, rtol=1e-10)
    plain = fitted(None, **{**PLAIN, "max_iter": 300, "acceleration": "squarem"})
    assert_allclose(plain.covariances_ - COMMON, end.covariances_, rtol=2e-5)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("errors", [np.zeros(X.shape), [0.0, 0.0], np.zeros((2, 2))], ids=["rows", "all", "matrix"])
def test_errors_of_nothing_are_a_plain_fit(errors: Any, kind: str) -> None:
    plain = fitted(None, covariance_type=kind)
    found = fitted(errors, covariance_type=kind)
    assert_allclose(found.lower_bounds_, plain.lower_bounds_, rtol=1e-9)
    assert_allclose(found.covariances_, plain.covariances_, rtol=1e-6)


def simulated(n: int, seed: int = 3) -> tuple[Any, Any, Any, Any]:
    """Return true values of two groups, measured ones, their errors, and the covariances of the truth."""
    rng = np.random.default_rng(seed)
    V = np.array([[[1.0, 0.9], [0.9, 1.0]], [[0.3, 0.0], [0.0, 2.0]]])
    label = rng.integers(2, size=n)
    true = np.array([[0.0, 0.0], [6.0, 2.0]])[label]
    true = true + np.einsum("nij,nj->ni", np.linalg.cholesky(V)[label], rng.normal(size=(n, 2)))
    errors = rng.uniform(0.2, 2.0, size=(n, 2))
    return true, true + errors * rng.normal(size=(n, 2)), errors, V


def test_the_truth_is_found_behind_the_errors() -> None:
    true, seen, errors, V = simulated(20_000)
    found, blind = fitted(errors, seen), fitted(None, seen)
    order, blind_order = np.argsort(found.means_[:, 0]), np.argsort(blind.means_[:, 0])
    assert np.abs(found.covariances_[order] - V).max() < 0.12
    assert np.abs(blind.covariances_[blind_order] - V).max() > 1
    better = found.denoise(seen, errors)
    assert np.square(better - true).mean() < 0.5 * np.square(seen - true).mean()
    assert found.score(seen, errors=errors) > blind.score(seen) + 0.03
    assert (found.predict(seen, errors=errors) != found.predict(seen)).any()


def test_the_objective_never_falls() -> None:
    for kind in ("full", "tied", "diag", "spherical"):
        steps = fitted(each(), **{**PLAIN, "precisions_init": None}, covariance_type=kind, max_iter=60).lower_bounds_
        assert np.diff(steps).min() > -1e-13, kind
    steps = fitted(np.diag([0.09, 30.0]), **PLAIN, max_iter=60).lower_bounds_  # (more than the rows have)
    assert np.diff(steps).min() > -1e-13


def test_weights_are_repetition() -> None:
    weights = 1.0 + np.arange(272) % 3
    often = np.repeat(np.arange(272), weights.astype(int))
    same: dict[str, Any] = {**PLAIN, "max_iter": 5}
    for errors, repeated in ((each(), each()[often]), (COMMON, COMMON)):
        by_weight = fitted(errors, sample_weight=weights, **same)
        by_rows = fitted(repeated, X[often], **same)
        assert_allclose(by_weight.covariances_, by_rows.covariances_, rtol=1e-10)
        assert_allclose(by_weight.lower_bounds_, by_rows.lower_bounds_, rtol=1e-12)


def test_a_component_that_is_a_point_is_one() -> None:
    """All the scatter of one group is error: its covariance goes to nothing, and stays one."""
    rng = np.random.default_rng(0)
    true = np.concatenate([np.zeros((500, 2)), rng.normal(size=(500, 2)) + 10])
    errors = np.full((1000, 2), 0.5)
    seen = true + errors * rng.normal(size=true.shape)
    for given in (errors, np.diag([0.25, 0.25])):
        for reg_covar in (1e-6, 0.0):
            found = fitted(given, seen, reg_covar=reg_covar, tol=1e-6, max_iter=500)
            point = np.argmin(found.means_[:, 0])
            assert np.diagonal(found.covariances_[point]).max() < 0.05
            assert np.diagonal(found.covariances_[1 - point]).min() > 0.7
            assert np.isfinite(found.score_samples(seen, errors=given)).all()


def test_far_from_the_origin_nothing_is_lost() -> None:
    near, far = fitted(each(), **PLAIN, max_iter=5), {**PLAIN, "max_iter": 5}
    far["means_init"] = np.array(S0["means_init"]) + 2.0**26
    moved = fitted(each(), X + 2.0**26, **far)  # (X itself has digits below 2^-26: some are lost before)
    assert_allclose(moved.covariances_, near.covariances_, rtol=1e-5)


@pytest.mark.parametrize("form", ["deviations", "matrices", "packed", "one"])
@pytest.mark.parametrize("source", ["array", "dask", "zarr", "npy", "mixed"])
def test_errors_and_rows_of_any_kind_give_the_same(form: str, source: str, tmp_path: Path) -> None:
    deviations = each()
    S = matrices(deviations)
    errors: Any = {"deviations": deviations, "matrices": S, "packed": S[:, [0, 0, 1], [0, 1, 1]], "one": COMMON}[form]
    stored = errors if form == "one" else errors.reshape(272, -1)
    rows: Any = X
    if source == "dask":
        rows = dask.array.from_array(X, chunks=(100, 2))
        errors = errors if form == "one" else dask.array.from_array(errors, chunks=(70, *errors.shape[1:]))
    elif source != "array":
        suffix = "npy" if source == "npy" else "zarr"
        for name, values in (("x", X), ("e", stored)):
            place = str(tmp_path / f"{name}.{suffix}")
            if suffix == "npy":
                np.save(place, values)
            else:
                zarr.create_array(place, data=values, chunks=(100 if name == "x" else 37, values.shape[1]))
        rows = str(tmp_path / f"x.{suffix}")
        errors = COMMON if form == "one" else str(tmp_path / f"e.{suffix}")
        if source == "mixed" and form != "one":
            errors = stored
    found = fitted(errors, rows, **PLAIN, max_iter=3)
    of = np.tile(COMMON, (272, 1, 1)) if form == "one" else S
    total, resp, b, _ = oracle.e_step(X, of, found.weights_, found.means_, found.covariances_)
    assert_allclose(found.log_likelihood_, total, rtol=1e-12)
    assert_allclose(found.score(rows, errors=errors) * 272, total, rtol=1e-12)
    assert_allclose(found.bic(rows, errors=errors), -2 * total + 11 * np.log(272), rtol=1e-12)
    lazy = found.denoise(rows, errors)
    assert isinstance(lazy, np.ndarray) == (source == "array")
    assert_allclose(np.asarray(lazy), (resp[:, :, np.newaxis] * b).sum(axis=1), rtol=1e-11)
    assert_allclose(np.asarray(found.score_samples(rows, errors=errors)).sum(), total, rtol=1e-12)
    assert_allclose(np.asarray(found.predict_proba(rows, errors=errors)), resp, atol=1e-12)
    assert_array_equal(np.asarray(found.predict(rows, errors=errors)), resp.argmax(axis=1))


def test_the_same_bits_on_any_number_of_workers_and_after_a_kill(client: Client, tmp_path: Path) -> None:
    _, seen, errors, _ = simulated(4000)
    for name, values in (("x", seen), ("e", errors)):
        zarr.create_array(str(tmp_path / f"{name}.zarr"), data=values, chunks=(500, 2))
    source, e = open_rows(str(tmp_path / "x.zarr")), str(tmp_path / "e.zarr")
    options = FitOptions(3, n_init=2, tol=0, max_iter=8, seed=0)
    of = Measured.of(e, source)

    def listener(event: PassDone) -> None:
        if event.what == "em" and event.number > 4:
            raise KeyboardInterrupt

    whole = fit_mixture(source, options, errors=of)
    place = str(tmp_path / "c")
    with pytest.raises(KeyboardInterrupt):
        fit_mixture(source, options, errors=of, listener=listener, checkpoint=Checkpoint.at(place, every=0))
    again = fit_mixture(source, options, errors=of, checkpoint=Checkpoint.at(place, every=0))
    assert again.lower_bounds == whole.lower_bounds
    assert_array_equal(again.parameters.covariances, whole.parameters.covariances)
    here = fit_mixture(source, options, errors=Measured.of(errors, source))
    assert here.lower_bounds == whole.lower_bounds


def test_one_component_takes_more_than_one_step() -> None:
    deviations = each()
    found = fitted(deviations, n_components=1, reg_covar=0.0, tol=1e-10, max_iter=500)
    step = oracle.em_step(X, matrices(deviations), found.weights_, found.means_, found.covariances_)
    assert_allclose(step[3], found.covariances_, rtol=1e-4)
    closed = fitted(COMMON, n_components=1, reg_covar=0.0)
    assert_allclose(closed.covariances_[0], np.cov(X.T, ddof=0) - COMMON, rtol=1e-8)


def test_a_fit_goes_on_from_the_last() -> None:
    for errors in (each(), COMMON):
        model = fitted(errors, tol=1e-8)
        model.set_params(warm_start=True, max_iter=2)
        before = model.covariances_
        assert_allclose(model.fit(X, errors=errors).covariances_, before, rtol=1e-2)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (
            np.ones((271, 2)),
            r"errors must be 2 standard deviations, or 4 numbers .*, for each of 272 rows; got .*271, 2",
        ),
        (np.ones((272, 5)), r"errors must be 2 standard deviations.*got shape \(272, 5\)"),
        (-np.ones((272, 2)), r"errors must be finite and at least 0; got -1 in row 0, where counting"),
        (np.where(np.arange(544).reshape(272, 2) == 21, np.nan, 1), r"errors must be .*; got nan in row 10, "),
        ([1.0, -1.0], r"errors must be standard deviations of at least 0, .* got a least eigenvalue of -1\."),
        ([[1.0, 2.0], [2.0, 1.0]], r"errors must be .*positive semidefinite matrix; got a least eigenvalue of -1\."),
        ([[1.0, 0.5], [0.0, 1.0]], r"errors must be .* got one that is not symmetric"),
    ],
)
def test_errors_that_are_none_are_refused(errors: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted(errors)


def test_errors_of_a_file_that_are_none_are_refused(tmp_path: Path) -> None:
    indefinite = np.tile([1.0, 2.0, 2.0, 1.0], (272, 1))
    for errors, message in ((-each(), r"at least 0; got -2.8"), (indefinite, "positive semidefinite")):
        np.save(tmp_path / "e.npy", errors)
        with pytest.raises(DataError, match=f"errors must be .*{message}"):
            fitted(tmp_path / "e.npy")


def test_a_square_that_may_be_two_things_is_refused() -> None:
    with pytest.raises(OptionError, match=r"errors must say of what they are; got shape \(2, 2\) for 2 rows of 2 feat"):
        fitted(np.eye(2), X[:2], n_components=1)
    fitted(np.tile(np.eye(2), (2, 1, 1)), X[:2], n_components=1)  # (the remedy)


@pytest.mark.parametrize(
    ("parameters", "errors", "message"),
    [
        ({"kernel": Noisy()}, COMMON, r"kernel must be 'rule' with errors, .*Leave kernel out"),
        ({"noise": True}, each(), r"noise must be False with errors: .* Leave noise out"),
        ({"covariance_prior": "weak"}, COMMON, r"covariance_prior must be None with one covariance as errors"),
        ({"covariance_floor": 0.1}, COMMON, r"covariance_floor must be None with one covariance as errors"),
        (
            {"fixed": {"means": True}, "means_init": [[2.0, 55.0], [4.5, 80.0]]},
            each(),
            r"fixed must be None with errors; got .* Leave fixed out",
        ),
        ({"covariance_type": "VEE"}, COMMON, r"errors must be a covariance of the kind of covariance_type, VEE"),
        ({"standardize": True}, each(), r"standardize must be False with errors, which are in units of the data"),
        (
            {"covariance_type": "diag"},
            [[1.0, 0.5], [0.5, 1.0]],
            r"errors must be a covariance of the kind of covariance_type, diag, .* Take covariance_type full, or give",
        ),
        ({"covariance_type": "spherical"}, COMMON, r"of the kind of covariance_type, spherical"),
    ],
)
def test_what_does_not_go_with_errors_is_refused(parameters: Any, errors: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fitted(errors, **parameters)


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        ("full", np.tile([[1.0, 0.5], [0.5, 1.0]], (272, 1, 1))),
        ("diag", each()),
        ("spherical", np.tile(COMMON, (272, 1, 1))),
    ],
)
def test_the_remedies_work(kind: str, errors: Any) -> None:
    assert fitted(errors, covariance_type=kind).converged_


def test_a_peer_ends_at_the_same_mixture() -> None:
    """astroML's loops in Python, from a start of its own."""
    XDGMM = pytest.importorskip("astroML.density_estimation").XDGMM
    peer = XDGMM(2, max_iter=2000, tol=1e-10, random_state=0)
    peer.fit(X, matrices(each()))
    found = fitted(each(), reg_covar=0.0, tol=1e-12, max_iter=2000)
    order, ours = np.argsort(peer.mu[:, 0]), np.argsort(found.means_[:, 0])
    assert_allclose(found.weights_[ours], peer.alpha[order], rtol=1e-5)
    assert_allclose(found.covariances_[ours], peer.V[order], rtol=1e-4)
    assert found.log_likelihood_ >= peer.logL(X, matrices(each())) - 1e-8


def test_labels_and_errors_are_refused_together() -> None:
    with pytest.raises(OptionError, match="labels must be left out with errors"):
        GaussianMixture(2).fit(X, errors=each(), labels=np.full(272, -1))
    with pytest.raises(OptionError, match="labels must be left out with errors"):
        select(X, n_components=2, errors=each(), labels=np.full(272, -1))


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
@pytest.mark.parametrize("one", [False, True])
def test_a_selection_is_of_true_values(criterion: str, *, one: bool) -> None:
    errors = COMMON if one else each()
    kinds = ("full", "diag")
    found = select(
        X, n_components=(1, 2, 3), covariance_type=kinds, criterion=criterion, errors=errors, random_state=0, n_init=2
    )
    best = found.best_
    alone = fitted(errors, n_components=best.n_components, covariance_type=best.covariance_type, tol=1e-7)
    assert best.n_components == 2
    assert_allclose(best.score(X, errors=errors), alone.score(X, errors=errors), atol=2e-4)
    assert_allclose(best.log_likelihood_, best.score(X, errors=errors) * 272, rtol=1e-12)


def test_starts_over_all_rows_take_errors() -> None:
    _, seen, errors, V = simulated(5000)
    found = fitted(errors, seen, init_params="k-means||", n_init=2, tol=1e-5)
    assert np.abs(found.covariances_[np.argsort(found.means_[:, 0])] - V).max() < 0.3


def test_variational_bayes_and_noise_take_no_errors() -> None:
    with pytest.raises(OptionError, match="errors must be left out with variational Bayes"):
        BayesianGaussianMixture(2).fit(X, errors=each())
    posterior = BayesianGaussianMixture(2, random_state=0).fit(X)
    noisy = GaussianMixture(2, noise=True, random_state=0).fit(X)
    for model, what in ((posterior, "a posterior"), (noisy, "noise")):
        for ask in (model.score, model.score_samples):
            with pytest.raises(OptionError, match=f"errors must be left out of a mixture with {what}"):
                ask(X, errors=each())
        with pytest.raises(OptionError, match="errors must be left out of a mixture"):
            model.denoise(X, each())


def test_floors_priors_and_families_are_on_the_true_values() -> None:
    floor = np.diag([0.08, 35.0])
    found = fitted(each(), **{**PLAIN, "reg_covar": 1e-6}, covariance_floor=floor, max_iter=60)
    assert np.diff(found.lower_bounds_).min() > -1e-13
    assert np.linalg.eigvalsh(found.covariances_ - floor).min() > -1e-12
    assert found.score(X, errors=each()) < fitted(each(), tol=1e-8).score(X, errors=each())
    weak = fitted(each(), **PLAIN, covariance_prior="weak", max_iter=60)
    assert np.diff(weak.lower_bounds_).min() > -1e-13
    for kind in ("VEE", "EEV", "EII"):
        steps = fitted(each(), **{**PLAIN, "precisions_init": None}, covariance_type=kind, max_iter=40).lower_bounds_
        assert np.diff(steps)[1:].min() > -1e-10, kind


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("deviations", [(0.1, 0.2), (0.1, 0.0), (0.0, 0.0)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rows_that_are_alike_under_one_error_for_all(kind: str, deviations: tuple[float, float]) -> None:
    """True values then vary by nothing but reg_covar, and rows by the error beside."""
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]], 20, axis=0)
    for k in (3, 5) if min(deviations) else (3,):
        found = GaussianMixture(k, covariance_type=kind, random_state=0).fit(rows, errors=deviations)
        variances = np.square(deviations) + 1e-6
        mean = np.log(1 / 3) - np.log(2 * np.pi) - 0.5 * np.log(variances).sum()
        assert found.score(rows, errors=deviations) == pytest.approx(mean, abs=1e-3)
