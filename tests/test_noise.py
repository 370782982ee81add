"""Noise: a uniform density beside the components, from the reference numbers to the command line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture, select
from daskgmm.cli.commands import gmm
from daskgmm.errors import ChangedDataError, DataError, OptionError
from daskgmm.fitting.evaluate import check_mean, check_responsibilities
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.mstep import m_step
from daskgmm.kernels.plan import DOUBLE, SINGLE, make_plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.sums import log_likelihood
from daskgmm.mixture.family import family_called
from daskgmm.mixture.noise import Noise, box_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge
from daskgmm.sources.opening import open_rows
from daskgmm.stores.model_file import load_model
from tests.kernels.driving import one_pass, row_set_of
from tests.oracle_beside import State, em_step, log_likelihoods
from tests.reference_data import faithful
from tests.strategies import KINDS, make_case
from tests.test_parts import assert_same, fitted_by_parts
from tests.test_seams import went_on

#: The start of the reference numbers: mclust's volume, by the counts of principal axes.
VOLUME = 131.868801
S0: dict[str, Any] = {
    "weights_init": [0.45, 0.45],
    "means_init": [[2, 55], [4.5, 80]],
    "precisions_init": [np.diag([2, 0.02])] * 2,
    "noise": VOLUME,
    "noise_weight_init": 0.1,
    "reg_covar": 0.0,
}


def fitted(X: Any, n_components: int = 2, *, sample_weight: Any = None, **parameters: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(n_components, **{"random_state": 0, "n_init": 3} | parameters).fit(
            X, sample_weight=sample_weight
        )


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of two Gaussians and, a tenth, of a uniform density over a square of area 900, (6000, 2), shuffled."""
    random = np.random.default_rng(7)
    groups = random.standard_normal((3400, 2)), random.standard_normal((2000, 2)) * 0.5 + [6, 2]
    found = np.concatenate([*groups, random.uniform(-15, 15, (600, 2))])
    random.shuffle(found)
    return found


# -- the numbers -------------------------------------------------------------------------------------------------------
def test_the_reference_numbers_of_a_fit_with_noise() -> None:
    first = fitted(faithful(), tol=0, max_iter=4, acceleration=None, **S0)
    assert_allclose(
        np.array(first.lower_bounds_) * 272, [-1263.134400, -1136.076533, -1128.020061, -1126.291213], atol=5e-7
    )
    end = fitted(faithful(), tol=0, max_iter=1000, **S0)
    assert_allclose(end.log_likelihood_, -1125.7512322, atol=5e-8)
    # (These were written down where a step gained 1e-13 of the log-likelihood: their own last digits are not at rest.)
    assert_allclose([end.noise_weight_, *end.weights_], [0.0917060920, 0.3179197486, 0.5903741594], atol=1e-6)
    assert_allclose(end.means_, [[1.9942234022, 54.0498382283], [4.3188993787, 80.1590396721]], rtol=1e-6)
    assert_allclose(end.covariances_[0][np.triu_indices(2)], [0.0420234556, 0.2673792705, 29.9950514709], rtol=3e-6)
    # (And this is what 3,000 steps of NumPy's come to.)
    assert end.noise_weight_ == pytest.approx(0.09170661713933702, abs=1e-12)
    assert end.weights_.sum() + end.noise_weight_ == pytest.approx(1, abs=1e-15)
    assert end.bic(faithful()) == pytest.approx(-2 * end.log_likelihood_ + 13 * np.log(272), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", ["phi", "exact", "rule"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_equals_the_oracles(kind: str, kernel: str, weighted: bool) -> None:
    case = make_case(kind, seed=3, n_rows=300, n_components=3, n_features=3)
    w = np.random.default_rng(0).integers(0, 4, 300).astype(float) if weighted else None
    noise = Noise(0.2, 5.0)
    family = family_called(kind)
    p = Parameters.from_covariances(family, case.weights, case.means, case.covariances).beside_noise(noise)
    state = State(kind, p.weights, p.means, p.covariances, 0.2, 5.0)
    after, total = em_step(case.X, state, row_weights=w), log_likelihoods(case.X, state)
    row_set = row_set_of(case.X, w)
    for precision, digits in ((DOUBLE, 1e-11), (SINGLE, 3e-4)):
        plan = make_plan(p, origin=row_set.mean, kernel=kernel, precision=precision)
        for compiled in (False, True)[: 1 + can_compile()]:
            (found,) = one_pass(case.X, [plan], w, [0, 1, 2, 170, 300], compiled=compiled)
            check_responsibilities(found, plan)
            check_mean(found, plan, row_set)
            expected = float((total * (1 if w is None else w)).sum())
            assert_allclose(log_likelihood(found, plan, row_set), expected, rtol=digits)
            step = m_step(found, plan, previous=p, prior=Ridge(0.0), row_set=row_set).parameters
            assert step.noise is not None
            assert_allclose([step.noise.weight, *step.weights], [after.noise, *after.weights], rtol=10 * digits)
            assert_allclose(step.means, after.means.astype(float), atol=10 * digits)
            assert_allclose(step.covariances, after.covariances.astype(float), rtol=100 * digits, atol=100 * digits)


def test_the_objective_never_falls(rows: np.ndarray) -> None:
    for acceleration in (None, "squarem"):
        found = fitted(rows, noise=True, reg_covar=0.0, tol=0, max_iter=40, escape=False, acceleration=acceleration)
        assert (np.diff(found.lower_bounds_) >= -1e-13 * abs(found.lower_bound_)).all()


def test_squarem_and_plain_em_end_at_one_optimum_and_squarem_sooner() -> None:
    ways = [fitted(faithful(), tol=1e-10, max_iter=3000, acceleration=way, **S0) for way in (None, "squarem")]
    assert_allclose(ways[0].log_likelihood_, ways[1].log_likelihood_, atol=1e-6)
    assert 2 * ways[1].n_iter_ < ways[0].n_iter_


# -- laws --------------------------------------------------------------------------------------------------------------
def test_whole_weights_are_repetitions(rows: np.ndarray) -> None:
    few = rows[:500]
    w = np.random.default_rng(1).integers(0, 3, len(few))
    start = {"weights_init": [0.5, 0.4], "means_init": [[0, 0], [6, 2]], "precisions_init": [np.eye(2)] * 2}
    how = {**start, "noise": 900.0, "noise_weight_init": 0.1, "tol": 1e-12, "max_iter": 500}
    weighted, repeated = fitted(few, sample_weight=w, **how), fitted(np.repeat(few, w, axis=0), **how)
    assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    assert weighted.noise_weight_ == pytest.approx(repeated.noise_weight_, rel=1e-9)
    assert_allclose(weighted.log_likelihood_, repeated.log_likelihood_, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_any_units_and_any_place_give_the_same_noise(kind: str, rows: np.ndarray) -> None:
    """A spherical family knows units: there one for all features."""
    scale = np.array([3.0, 3.0] if kind == "spherical" else [3.0, 0.01])
    found = fitted(rows, covariance_type=kind, noise=True, reg_covar=0.0, tol=1e-7)
    moved = fitted(rows * scale + 1e8, covariance_type=kind, noise=True, reg_covar=0.0, tol=1e-7, standardize=False)
    assert moved._noise.log_volume == pytest.approx(found._noise.log_volume + np.log(scale).sum(), abs=1e-4)
    assert moved.noise_weight_ == pytest.approx(found.noise_weight_, abs=1e-3)
    if kind != "spherical":
        scaled = fitted(rows, covariance_type=kind, noise=True, standardize=True, tol=1e-7)
        assert scaled._noise.log_volume == pytest.approx(found._noise.log_volume, abs=1e-9)
        assert scaled.log_likelihood_ == pytest.approx(found.log_likelihood_, abs=0.1)
        by_number = fitted(rows, covariance_type=kind, noise=900.0, standardize=True, tol=1e-7)
        assert by_number.score(rows) * len(rows) == pytest.approx(by_number.log_likelihood_, rel=1e-12)
        assert by_number._noise.log_volume == pytest.approx(np.log(900), abs=1e-12)


def test_any_chunks_give_the_same_mixture(rows: np.ndarray, tmp_path: Path) -> None:
    whole = fitted(rows, noise=True)
    for chunks in (700, 6000):
        place = tmp_path / f"{chunks}.zarr"
        zarr.create_array(place, data=rows, chunks=(chunks, 2))
        found = fitted(place, noise=True)
        assert_allclose(found.means_, whole.means_, rtol=1e-9)
        assert found.noise_weight_ == pytest.approx(whole.noise_weight_, rel=1e-9)
    one_row = fitted(dask.array.from_array(rows[:60], chunks=(1, 2)), noise=900.0)
    assert_allclose(one_row.means_, fitted(rows[:60], noise=900.0).means_, rtol=1e-7)


def test_single_precision_and_single_numbers_are_close(rows: np.ndarray) -> None:
    found = fitted(rows, noise=True)
    for other in (fitted(rows.astype("f4"), noise=True), fitted(rows, noise=True, precision="single")):
        assert_allclose(other.means_, found.means_, atol=1e-3)
        assert other.noise_weight_ == pytest.approx(found.noise_weight_, abs=1e-4)


# -- the fit finds it --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("init", ["kmeans", "k-means||"])
def test_noise_is_found_and_components_are_not_spread_by_it(init: str, rows: np.ndarray) -> None:
    found = fitted(rows, noise=True, init_params=init)
    order = np.argsort(found.means_[:, 0])
    assert_allclose(found.means_[order], [[0, 0], [6, 2]], atol=0.1)
    assert_allclose([np.sqrt(c[0, 0]) for c in found.covariances_[order]], [1, 0.5], rtol=0.05)
    assert found.noise_weight_ == pytest.approx(0.1, abs=0.02)
    assert found._noise.log_volume == pytest.approx(np.log(900), abs=0.3)
    assert np.isfinite(found.support_).all()
    assert found._unsupported == ()


def test_one_component_beside_noise_is_no_closed_form(rows: np.ndarray) -> None:
    found = fitted(rows, 1, noise=900.0, tol=1e-9, max_iter=500)
    state = State("full", found.weights_, found.means_, found.covariances_, found.noise_weight_, np.log(900))
    after = em_step(rows, state, reg_covar=1e-6)
    assert_allclose(after.means.astype(float), found.means_, atol=1e-5)
    assert float(after.noise) == pytest.approx(found.noise_weight_, abs=1e-6)
    assert np.isfinite(found.support_).all()


def test_rows_of_noise_alone_are_fitted() -> None:
    found = fitted(np.random.default_rng(0).uniform(size=(3000, 3)), noise=1.0, escape=False, tol=1e-6)
    assert found.log_likelihood_ >= 0  # that of the noise alone
    assert found.weights_.sum() + found.noise_weight_ == pytest.approx(1, abs=1e-14)


def test_select_does_not_count_the_noise(rows: np.ndarray) -> None:
    chosen = select(rows, n_components=[1, 2, 3], noise=True, random_state=0, n_init=2)
    assert chosen.best_.n_components == 2
    alone = fitted(rows, 2, noise=True, n_init=2)
    assert_array_equal(chosen.best_.means_, alone.means_)
    assert chosen.best_.noise_weight_ == alone.noise_weight_
    held_out = select(rows, n_components=[1, 2], noise=True, random_state=0, n_init=1, criterion="held_out", n_folds=2)
    assert held_out.best_.n_components == 2


def test_a_fit_goes_on_after_it_was_cut_short(rows: np.ndarray, tmp_path: Path) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(1500, 2))
    for ends_after in (1, 3):
        undisturbed, again = went_on(
            place, FitOptions(2, n_init=1, tol=0, max_iter=6, noise=True), tmp_path, ends_after=ends_after
        )
        assert again.lower_bounds == undisturbed.lower_bounds
        assert_array_equal(again.parameters.means, undisturbed.parameters.means)
        assert again.parameters.noise is not None
        assert undisturbed.parameters.noise is not None
        assert again.parameters.noise.weight == undisturbed.parameters.noise.weight
        assert_array_equal(again.parameters.noise.edges, undisturbed.parameters.noise.edges)


def test_warm_start_keeps_gets_and_loses_noise(rows: np.ndarray) -> None:
    found = GaussianMixture(2, noise=True, random_state=0, warm_start=True).fit(rows)
    volume = found._noise.log_volume
    found.fit(rows[:3000])
    assert found._noise.log_volume == volume
    found.set_params(noise=False).fit(rows)
    assert (found.noise_weight_, found.weights_.sum()) == (0.0, pytest.approx(1))
    found.set_params(noise=True).fit(rows)
    assert found.noise_weight_ == pytest.approx(0.1, abs=0.02)


# -- what comes of it --------------------------------------------------------------------------------------------------
def test_predictions_have_a_column_and_a_label_for_it(rows: np.ndarray) -> None:
    found = fitted(rows, noise=True)
    p = State("full", found.weights_, found.means_, found.covariances_, found.noise_weight_, found._noise.log_volume)
    proba, labels, score = found.predict_proba(rows), found.predict(rows), found.score_samples(rows)
    assert proba.shape == (6000, 3)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(labels, proba.argmax(axis=1))
    assert set(labels) == {0, 1, 2}
    assert_allclose(score[:50], log_likelihoods(rows[:50], p).astype(float), rtol=1e-9)
    assert found.score(rows) == pytest.approx(found.log_likelihood_ / 6000, rel=1e-12)
    lazy = found.predict_proba(dask.array.from_array(rows, chunks=(1000, 2)))
    assert lazy.shape == (6000, 3)
    assert_allclose(lazy.compute(), proba, atol=1e-12)
    assert found.predict(np.array([[300.0, 300.0]])).tolist() == [2]
    dropped = found.set_params(non_finite="drop").predict(np.array([[np.nan, 0.0], [0.0, 0.0], [300.0, 0.0]]))
    assert dropped.tolist()[::2] == [-1, 2]


def test_samples_lie_in_the_box_and_a_volume_has_none(rows: np.ndarray) -> None:
    found = fitted(rows, noise=True)
    X, components = found.sample(20_000)
    of_noise = X[components == 2]
    assert len(of_noise) / 20_000 == pytest.approx(found.noise_weight_, abs=0.01)
    u = (of_noise - found._noise.corner) @ np.linalg.inv(found._noise.edges)
    assert u.min() >= 0
    assert u.max() <= 1
    assert_allclose(u.mean(axis=0), 0.5, atol=0.03)
    by_number = fitted(rows, noise=900.0)
    with pytest.raises(OptionError, match=r"must have a box.*noise over a volume of 900 alone\. Fit with noise=True\."):
        by_number.sample(5)


def test_a_model_file_has_it(rows: np.ndarray, tmp_path: Path) -> None:
    for noise in (True, 900.0):
        found = fitted(rows, noise=noise)
        found.save(tmp_path / f"{noise}.zarr")
        loaded = GaussianMixture.load(tmp_path / f"{noise}.zarr")
        assert loaded.get_params() == found.get_params()
        assert loaded.noise_weight_ == found.noise_weight_
        assert_array_equal(loaded.predict_proba(rows), found.predict_proba(rows))
    assert_array_equal(loaded.predict(rows), found.predict(rows))
    by_hand = GaussianMixture.from_parameters(found.weights_, found.means_, found.covariances_, noise=900)
    assert_allclose(by_hand.predict_proba(rows), found.predict_proba(rows), atol=1e-9)
    with pytest.raises(OptionError, match=r"noise must be False or a positive volume, as there are no rows; got True"):
        GaussianMixture.from_parameters(found.weights_, found.means_, found.covariances_, noise=True)


def test_commands_say_it(rows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows)
    model, labels = str(tmp_path / "m.zarr"), str(tmp_path / "labels.zarr")

    def call(*arguments: str) -> Any:
        done = CliRunner().invoke(gmm, [*arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    found = call("fit", str(tmp_path / "rows.npy"), "-k", "2", "--noise", "yes", "-o", model)
    assert found["noise_weight"] == pytest.approx(0.1, abs=0.02)
    shown = call("inspect", model)
    assert (shown["noise_weight"], shown["noise_volume"]) == (found["noise_weight"], found["noise_volume"])
    assert shown["free_parameters"] == 13
    written = call("predict", model, str(tmp_path / "rows.npy"), "-o", labels)
    assert len(written["rows_by_component"]) == 3
    assert_array_equal(zarr.open_array(labels)[:], GaussianMixture.load(model).predict(rows))
    call("report", model, "-o", str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert "noise" in page
    config = tmp_path / "o.toml"
    config.write_text("[fit]\ncomponents = 2\nnoise = 900\n")
    found = call("fit", str(tmp_path / "rows.npy"), "--config", str(config), "-o", str(tmp_path / "n.zarr"))
    assert found["noise_volume"] == pytest.approx(900)
    done = CliRunner().invoke(gmm, ["fit", str(tmp_path / "rows.npy"), "-k", "2", "--noise", "some", "-o", model])
    assert done.exit_code == 64
    assert "'some' is neither yes, no nor a volume" in " ".join(done.output.split())


# -- the box -----------------------------------------------------------------------------------------------------------
def test_a_box_follows_the_rows_and_not_a_few_of_them() -> None:
    random = np.random.default_rng(0)
    X = random.uniform(size=(5000, 3)) * [10, 1, 0.1] + 1e6
    ones = np.ones(len(X))
    box = box_of(X, ones, weight=0.1)
    assert box is not None
    assert box.log_volume == pytest.approx(np.linalg.slogdet(box.edges)[1], abs=1e-9)
    far = X.copy()
    far[:10] = 1e9 * random.standard_normal((10, 3))
    other = box_of(far, ones, weight=0.1)
    assert other is not None
    assert other.log_volume == pytest.approx(box.log_volume, abs=0.3)
    turned = box_of((X - 1e6) @ np.linalg.qr(random.standard_normal((3, 3)))[0], ones, weight=0.1)
    assert turned is not None
    few = box_of(np.append(X[:40], [[1e9] * 3], axis=0), np.ones(41), weight=0.1)
    assert few is not None
    assert few.log_volume < 3
    w = random.integers(1, 4, len(X)).astype(float)
    repeated = np.repeat(X, w.astype(int), axis=0)
    weighted, plain = box_of(X, w, weight=0.1), box_of(repeated, np.ones(len(repeated)), weight=0.1)
    assert weighted is not None
    assert plain is not None
    assert weighted.log_volume == pytest.approx(plain.log_volume, abs=1e-9)
    assert box_of(np.column_stack([X, X[:, 0]]), ones, weight=0.1) is None
    assert box_of(np.column_stack([X, ones]), ones, weight=0.1) is None
    assert box_of(X[:1], ones[:1], weight=0.1) is None


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_what_is_no_noise_is_refused(rows: np.ndarray) -> None:
    for value in (0, -1.0, np.inf, np.nan, "yes", None):
        with pytest.raises(OptionError, match=r"noise must be False, True or a positive volume; got .*True takes"):
            GaussianMixture(2, noise=value).fit(rows)
    for value, said in ((0, "above 0"), (1, "below 1"), (1.5, "at most 1")):
        with pytest.raises(OptionError, match=rf"noise_weight_init must be .*{said}"):
            GaussianMixture(2, noise=True, noise_weight_init=value).fit(rows)
    said = r"weights_init must sum to 0\.95, beside a noise_weight_init of 0\.05; got 1\. .*multiply them by 0\.95\."
    with pytest.raises(OptionError, match=said):
        GaussianMixture(2, noise=True, weights_init=[0.5, 0.5]).fit(rows)
    GaussianMixture(2, noise=True, weights_init=np.array([0.5, 0.5]) * 0.95, random_state=0).fit(rows)
    flat = np.column_stack([rows, np.zeros(len(rows))])
    with pytest.raises(DataError, match=r"X must vary in each direction .*Give a volume as noise"):
        GaussianMixture(2, noise=True).fit(flat)
    fitted(flat, noise=900.0)


def test_rows_that_come_out_otherwise_are_noticed_where_they_are_far_off() -> None:
    case = make_case("full", seed=3, n_rows=300, n_components=2, n_features=2)
    p = Parameters.from_covariances(family_called("full"), case.weights, case.means, case.covariances)
    plan = make_plan(p.beside_noise(Noise(0.05, 5.0)), origin=np.zeros(2))
    (found,) = one_pass(case.X, [plan])
    with pytest.raises(ChangedDataError, match="must stay the same during a fit"):
        check_mean(found, plan, row_set_of(case.X + 3))
    more = Statistics(found.values * [*np.full(len(found.values) - 3, 1.1), 1, 1, 1])
    with pytest.raises(Exception, match="sum to the weight of its rows"):
        check_responsibilities(more, plan)


def test_what_follows_from_components_alone_says_how_to_have_it(rows: np.ndarray) -> None:
    found = fitted(rows, noise=900.0)
    for call in (
        lambda: found.marginal([0]), lambda: found.condition([0], [1.0]), lambda: found.reduced(1),
        lambda: found.standard_errors(rows), lambda: found.combine(rows, 1), found.to_sklearn,
    ):  # fmt: skip
        with pytest.raises(OptionError, match=r"must have no noise.*from_parameters\(weights_ / weights_\.sum\(\)"):
            call()
    alone = GaussianMixture.from_parameters(
        found.weights_ / found.weights_.sum(), found.means_, covariances=found.covariances_
    )
    assert alone.marginal([0]).means_.shape == (2, 1)


def test_a_fit_by_parts_has_the_same_noise(rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 8192)
    zarr.create_array(tmp_path / "X.zarr", data=rows, chunks=(500, 2))
    typed = ["-k", "2", "--noise", "yes", "--restarts", "1"]
    (tmp_path / "parts").mkdir()
    model, _ = fitted_by_parts(tmp_path / "parts", str(tmp_path / "X.zarr"), 2, *typed)
    options = FitOptions(2, n_init=1, noise=True)
    expected = fit_mixture(open_rows(str(tmp_path / "X.zarr")), options)
    assert_same(model, expected)
    found = load_model(model).parameters.noise
    assert found is not None
    assert expected.parameters.noise is not None
    assert found.weight == expected.parameters.noise.weight
    assert_array_equal(found.edges, expected.parameters.noise.edges)


def _three_groups() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = np.array([[-6, 0, 0], [6, 0, 0], [0, 6, 3.0]])
    rows = centres[rng.choice(3, 3000, p=[0.3, 0.5, 0.2])] + rng.normal(size=(3000, 3))
    strewn = rng.random(3000) < 0.1
    rows[strewn] = rng.uniform(-12, 12, (strewn.sum(), 3))
    return rows


@pytest.mark.parametrize("init_params", ["kmeans", "random", "k-means||", "k-means++", "random_from_data"])
def test_however_a_start_is_found_noise_leaves_the_groups_their_rows(init_params: str) -> None:
    """A component of one row has a variance of reg_covar: beside it the noise would have all others for good."""
    rows = _three_groups()
    fitted = GaussianMixture(3, noise=True, init_params=init_params, random_state=0).fit(rows)
    assert_allclose(np.sort(fitted.weights_), [0.183, 0.268, 0.445], atol=1e-3)
    assert_allclose(fitted.noise_weight_, 0.104, atol=1e-3)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
@pytest.mark.parametrize("seed", [0, 2])
def test_a_start_that_holds_two_groups_leaves_one_of_them_to_the_noise(kind: str, seed: int) -> None:
    """Without moves away from the noise, and to it, three of these four end 83 to 751 nats lower."""
    rows = _three_groups()
    groups = {"means_init": [[-6, 0, 0], [6, 0, 0]], "weights_init": [0.3, 0.4], "noise_weight_init": 0.3}
    precisions = np.ones((2, 3)) if kind == "diag" else np.ones(2)
    planted = fitted(rows, noise=True, covariance_type=kind, precisions_init=precisions, **groups)
    found = GaussianMixture(2, noise=True, covariance_type=kind, random_state=seed).fit(rows)
    assert found.log_likelihood_ == pytest.approx(planted.log_likelihood_, abs=0.5)
    assert found.noise_weight_ == pytest.approx(0.294, abs=1e-3)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("volume", [1e-3, 1e-300])
def test_a_volume_in_which_noise_has_all_rows_is_refused(kind: str, volume: float) -> None:
    rows = _three_groups()
    with pytest.raises(DataError, match=r"noise must leave rows to the components; got a volume of .*True, which"):
        GaussianMixture(2, noise=volume, covariance_type=kind, random_state=0).fit(rows)
    # (The remedy that it names:)
    assert GaussianMixture(2, noise=True, covariance_type=kind, random_state=0).fit(rows).noise_weight_ < 0.6
