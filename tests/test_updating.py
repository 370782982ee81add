"""New rows: `partial_fit`, its laws, groups that are new, and the drift."""

import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import DataError, FitWarning, OptionError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.seen import Past
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint

KINDS = ("full", "tied", "diag", "spherical")
Floats = NDArray[np.float64]


def group(seed: int, mean: tuple[float, float], n: int) -> Floats:
    return np.random.default_rng(seed).normal(mean, 1, (n, 2)) * [1.0, 2.0]


def apart(seed: int, *sizes: int) -> Floats:
    """Groups so far from each other that each row surely belongs to its own."""
    places = [(0, 0), (40, 0), (0, 40)]
    found = np.concatenate([group(seed + i, m, n) for i, (m, n) in enumerate(zip(places, sizes, strict=True))])
    return np.random.default_rng(seed).permutation(found)


def near(seed: int, n: int) -> Floats:
    """Two groups that overlap."""
    return np.concatenate([group(seed, (0, 0), n), group(seed + 1, (3, 0), n // 2)])


def fitted(X: Any, k: int, kind: str = "full", **options: Any) -> GaussianMixture:
    chosen = {"random_state": 0, "tol": 1e-9, "n_init": 2, **options}
    return GaussianMixture(k, covariance_type=kind, **chosen).fit(X)


def going_on(gm: GaussianMixture, X: Any, *, sample_weight: Any = None, **options: Any) -> GaussianMixture:
    """EM on all rows, from where a mixture is."""
    start = {"weights_init": gm.weights_, "means_init": gm.means_, "precisions_init": gm.precisions_}
    made = GaussianMixture(**{**gm.get_params(), **start, **options})
    return made.fit(X, sample_weight=sample_weight)


def assert_same(a: GaussianMixture, b: GaussianMixture, rtol: float = 1e-8) -> None:
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reg_covar", [0.0, 0.1])
def test_it_is_the_fit_to_all_rows_where_these_surely_belong(kind: str, reg_covar: float) -> None:
    old, new = apart(0, 300, 200, 100), apart(10, 30, 150, 90)
    gm = fitted(old, 3, kind, reg_covar=reg_covar)
    both = going_on(gm, np.concatenate([old, new]))
    gm.partial_fit(new)
    assert_same(gm, both)
    # (With a ridge, old rows are not at the maximum of what they would be alone.)
    assert gm.log_likelihood_ == pytest.approx(both.log_likelihood_, rel=1e-9)
    assert gm.lower_bound_ == pytest.approx(both.lower_bound_, rel=1e-9)
    np.testing.assert_allclose(gm.counts_, both.counts_, rtol=1e-9)
    assert (gm.support_ > 0.95 * both.support_).all()
    again, more = apart(20, 50, 50, 50), fitted(old, 3, kind, reg_covar=reg_covar)
    both = going_on(more, np.concatenate([old, new, again]))
    assert_same(more.partial_fit(new).partial_fit(again), both)


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_rises_and_bounds_the_log_likelihood_of_all_rows(kind: str) -> None:
    old, new = near(0, 400), near(5, 300) + np.array([0.5, 0.0])
    gm = fitted(old, 2, kind, reg_covar=0.0, acceleration=None, tol=1e-7, max_iter=2000, escape=False)
    before, log_likelihood = gm.score(old) * len(old), gm.log_likelihood_
    assert log_likelihood == pytest.approx(before, rel=1e-12)
    start = (before + gm.score(new) * len(new)) / (len(old) + len(new))
    gm.partial_fit(new)
    assert (np.diff(gm.lower_bounds_) > -1e-12).all()
    assert gm.lower_bounds_[0] == pytest.approx(start, rel=1e-10)
    truth = gm.score(np.concatenate([old, new])) * (len(old) + len(new))
    assert gm.lower_bounds_[-1] > start + 1e-3
    assert truth - 5 < gm.log_likelihood_ <= truth + 1e-8


def test_weights_are_repetitions() -> None:
    old, new = near(0, 200), near(5, 100) + 1
    times = np.random.default_rng(0).integers(0, 4, len(new))
    one, other = fitted(old, 2, escape=False), fitted(old, 2, escape=False)
    one.partial_fit(new, sample_weight=times)
    other.partial_fit(np.repeat(new, times, axis=0))
    assert_same(one, other)
    assert one.log_likelihood_ == pytest.approx(other.log_likelihood_, rel=1e-9)
    assert one.drift_ is not None
    assert other.drift_ is not None
    assert one.drift_["z"] == pytest.approx(other.drift_["z"], rel=1e-9)


def test_any_chunks_and_float32_and_a_far_origin() -> None:
    old, new = near(0, 200), near(5, 150) + 1
    reference = fitted(old, 2, escape=False).partial_fit(new)
    for chunk in (1, 7, 225):
        found = fitted(old, 2, escape=False).partial_fit(da.from_array(new, chunks=(chunk, 2)))
        assert_same(found, reference, 1e-9)
    single = fitted(old, 2, escape=False).partial_fit(new.astype("f4"))
    assert_same(single, reference, 1e-5)
    far = fitted(old + 1e8, 2, escape=False).partial_fit(new + 1e8)
    np.testing.assert_allclose(far.means_ - 1e8, reference.means_, atol=1e-5)
    np.testing.assert_allclose(far.covariances_, reference.covariances_, rtol=1e-5, atol=1e-6)


def test_forgetting() -> None:
    old, new = near(0, 200), near(5, 100) + 1
    everything = fitted(old, 2, escape=False).partial_fit(new, forgetting=1)
    assert_same(everything, going_on(fitted(old, 2), new))
    assert everything.counts_.sum() == pytest.approx(len(new))
    # Half of each old row, where rows surely belong: a fit with these weights.
    old, new = apart(0, 300, 200, 100), apart(10, 30, 150, 90)
    half = fitted(old, 3).partial_fit(new, forgetting=0.5)
    weights = np.concatenate([np.full(len(old), 0.5), np.ones(len(new))])
    both = going_on(fitted(old, 3), np.concatenate([old, new]), sample_weight=weights)
    assert_same(half, both)
    assert half._model().record["seen"]["weight"] == pytest.approx(weights.sum())
    for wrong in (-0.1, 1.5, "much", True):
        with pytest.raises(OptionError, match=r"forgetting must be 0 .* to 1"):
            fitted(old, 3).partial_fit(new, forgetting=wrong)  # type: ignore[arg-type]


def test_no_rows_one_row_and_the_first_rows() -> None:
    old = near(0, 200)
    gm, first = fitted(old, 2), GaussianMixture(2, random_state=0, tol=1e-9, n_init=2).partial_fit(old)
    assert first.means_.tolist() == gm.means_.tolist()
    assert first.drift_ is None
    before = {name: np.array(value) for name, value in vars(gm).items() if name.endswith("_") and name != "history_"}
    with pytest.raises(DataError, match="at least one row"):
        gm.partial_fit(np.empty((0, 2)))
    assert all(np.array_equal(value, getattr(gm, name)) for name, value in before.items())
    gm.partial_fit(old[:1])
    assert np.abs(gm.means_ - before["means_"]).max() < 0.05
    assert gm.counts_.sum() == pytest.approx(len(old) + 1)


def test_a_saved_model_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    old, new = near(0, 200), near(5, 100) + 1
    gm = fitted(old, 2)
    gm.save(tmp_path / "model.zarr")
    loaded = GaussianMixture.load(tmp_path / "model.zarr").partial_fit(new)
    assert loaded.means_.tolist() == gm.partial_fit(new).means_.tolist()
    gm.save(tmp_path / "updated.zarr")
    assert GaussianMixture.load(tmp_path / "updated.zarr").drift_ == gm.drift_


def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    old, new = apart(0, 300, 200, 100), np.concatenate([near(5, 100), group(9, (80, 80), 60)])
    gm = fitted(old, 4)
    assert gm._seen is not None
    past = Past(gm._parameters(), gm._seen)
    options = FitOptions(n_components=4, tol=1e-9)
    whole = fit_mixture(open_rows(new), options, past=past)
    for last in range(1, whole.n_passes):

        def listen(event: Any, last: int = last) -> bool:
            if event.number == last:
                raise KilledError
            return False

        place = str(tmp_path / f"{last}")
        with pytest.raises(KilledError):
            fit_mixture(open_rows(new), options, past=past, checkpoint=Checkpoint.at(place), listener=listen)
        found = fit_mixture(open_rows(new), options, past=past, checkpoint=Checkpoint.at(place))
        assert found.parameters.means.tolist() == whole.parameters.means.tolist()
        assert found.drift == whole.drift
        assert found.n_passes == whole.n_passes


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_group_gets_the_component_that_is_needed_least(kind: str) -> None:
    old = apart(0, 300, 200, 100)
    new = np.concatenate([apart(10, 30, 20, 10), group(7, (80, 80), 50)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm = fitted(old, 4, kind)
    with pytest.warns(FitWarning, match="The new rows are unlike those before"):
        gm.partial_fit(new)
    assert gm.drift_ is not None
    ((freed, into),) = gm.drift_["moves"]
    np.testing.assert_allclose(gm.means_[freed], new[60:].mean(axis=0), rtol=1e-9)
    assert gm.weights_[freed] == pytest.approx(50 / 710, rel=1e-9)
    labels = gm.predict(old)
    assert freed not in labels
    assert into in labels
    assert len({*labels.tolist()}) == 3
    # The three groups are whole again: as if three components had been fitted to them from the first.
    three = fitted(np.concatenate([old, new[:60]]), 3, kind)
    order = [int(np.argmin(np.abs(gm.means_ - m).sum(axis=1))) for m in three.means_]
    np.testing.assert_allclose(gm.means_[order], three.means_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_group_is_found_among_rows_with_gaps(kind: str) -> None:
    old, new = apart(0, 300, 200, 100), np.concatenate([apart(10, 30, 20, 10), group(7, (80, 80), 50)])
    rows, columns = np.arange(0, 110, 3), np.arange(37) % 2
    new[rows, columns] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        gm = fitted(old, 4, kind, non_finite="marginalize")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FitWarning)
        gm.partial_fit(new)
    assert gm.drift_ is not None
    ((freed, _),) = gm.drift_["moves"]
    assert gm.weights_[freed] == pytest.approx(50 / 710, rel=1e-6)
    np.testing.assert_allclose(gm.means_[freed], np.nanmean(new[60:], axis=0), atol=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_group_is_found_where_no_row_is_complete(kind: str) -> None:
    """Its component is what EM makes of the group's own rows, begun at the truth."""
    rng = np.random.default_rng(0)
    centres = 12.0 * np.array([[0, 0, 0], [2, 0, 1], [0, 3, 1]])
    old = np.concatenate([rng.normal(c, 1, (n, 3)) for c, n in zip(centres, (300, 200, 100), strict=True)])
    new = np.concatenate([*(rng.normal(c, 1, (n, 3)) for c, n in zip(centres, (90, 60, 30), strict=True)),
                          rng.normal((90, 70, 80), 1, (60, 3))])  # fmt: skip
    for X in (old, new):
        X[np.arange(len(X)), rng.integers(0, 3, len(X))] = np.nan
    assert np.isnan(new).any(axis=1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        gm = fitted(old, 4, kind, non_finite="marginalize", tol=1e-6, max_iter=1000).partial_fit(new)
        own = fitted(new[180:], 1, kind, non_finite="marginalize")
    assert gm.drift_ is not None
    ((freed, _),) = gm.drift_["moves"]
    assert gm.weights_[freed] == pytest.approx(60 / 840, rel=1e-6)
    np.testing.assert_allclose(gm.means_[freed], own.means_[0], atol=0.05)
    if kind == "full":
        np.testing.assert_allclose(gm.covariances_[freed], own.covariances_[0], atol=0.05)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_of_a_feature_that_no_new_row_has_the_old_rows_tell(kind: str) -> None:
    """The groups are apart, so that responsibilities, which stay for old rows, are those of a fit to all rows."""
    rng = np.random.default_rng(0)
    covariance = [[1, 0.6, 0], [0.6, 1, 0.3], [0, 0.3, 1]]
    X = 10.0 * rng.integers(0, 2, (1000, 1)) + rng.multivariate_normal(np.zeros(3), covariance, 1000)
    X[600:, 2] = np.nan
    options = {"kind": kind, "non_finite": "marginalize", "tol": 1e-10, "max_iter": 1000}
    gm, whole = fitted(X[:600], 2, **options), fitted(X, 2, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # (nothing is unknown)
        gm.partial_fit(X[600:])
    found, expected = np.argsort(gm.means_[:, 0]), np.argsort(whole.means_[:, 0])
    np.testing.assert_allclose(gm.weights_[found], whole.weights_[expected], rtol=1e-7)
    np.testing.assert_allclose(gm.means_[found], whole.means_[expected], atol=1e-5)
    each = (np.sort(one.covariances_, axis=None) for one in (gm, whole))
    np.testing.assert_allclose(*each, atol=1e-4)
    # (Log-likelihoods of two features and of three are no measure of each other; components' shares are.)
    drift = gm.drift_
    assert drift is not None
    assert (drift["z"], drift["p_value"]) == (None, None)
    assert drift["chi_square_p_value"] > 1e-3
    assert gm.partial_fit(X[:100]).drift_["z"] is not None  # type: ignore[index]
    with pytest.raises(
        DataError, match=r"none of feature 2 in .*Keep some of what the old rows tell: forgetting below"
    ):
        gm.partial_fit(X[600:], forgetting=1)
    gm.partial_fit(X[600:], forgetting=0.999)  # (the remedy)


def test_without_a_component_to_spare_it_is_said() -> None:
    old, new = apart(0, 300, 200, 100), group(7, (80, 80), 20)
    gm = fitted(old, 3)
    with pytest.warns(
        FitWarning, match=r"unlike those before: .*z = -.*compare numbers of components on old and new rows"
    ):
        gm.partial_fit(new)
    # The remedy: a number of components that fits all.
    from daskgmm import select

    found = select(np.concatenate([old, new]), n_components=range(2, 6), random_state=0, n_init=2)
    assert found.best_.n_components == 4


def test_rows_like_the_old_ones_say_nothing() -> None:
    old, new = apart(0, 300, 200, 100), apart(10, 30, 20, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm = fitted(old, 3).partial_fit(new)
    assert gm.drift_ is not None
    assert gm.drift_["moves"] == []
    assert abs(gm.drift_["z"]) < 4


def test_the_drift_is_what_scipy_says() -> None:
    old, new = near(0, 300), near(5, 150) + np.array([0.7, 0.0])
    gm = fitted(old, 2, escape=False)
    was, found, resp, shares = gm.score_samples(old), gm.score_samples(new), gm.predict_proba(new), gm.weights_
    drift = gm.partial_fit(new).drift_
    assert drift is not None
    z = (found.mean() - was.mean()) / (was.std() / np.sqrt(len(new)))
    assert drift["mean_before"] == pytest.approx(was.mean(), rel=1e-10)
    assert drift["deviation_before"] == pytest.approx(was.std(), rel=1e-10)
    assert (drift["mean"], drift["deviation"]) == pytest.approx((found.mean(), found.std()), rel=1e-10)
    assert drift["z"] == pytest.approx(z, rel=1e-9)
    assert drift["p_value"] == pytest.approx(2 * norm.sf(abs(z)), rel=1e-7)
    assert drift["mean_after"] == pytest.approx(gm.score(new), rel=1e-10)
    expected, counts = len(new) * shares, resp.sum(axis=0)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert drift["chi_square"] == pytest.approx(chi_square, rel=1e-8)
    assert drift["chi_square_p_value"] == pytest.approx(chi2.sf(chi_square, 1), rel=1e-7)
    for k, one in enumerate(drift["components"]):
        own = (counts[k] - expected[k]) / np.sqrt(expected[k] * (1 - shares[k]))
        assert (one["found"], one["expected"], one["z"]) == pytest.approx((counts[k], expected[k], own), rel=1e-7)
    # The next update knows how all rows vary, each under the mixture that it was last seen under.
    after = np.concatenate([was, gm.score_samples(new)])
    assert gm._seen is not None
    assert gm._seen.deviation == pytest.approx(after.std(), rel=0.02)


def test_what_does_not_go_together_is_refused() -> None:
    old, new = near(0, 200), near(5, 100)
    gm = fitted(old, 2)
    made = GaussianMixture.from_parameters(gm.weights_, gm.means_, gm.covariances_)
    with pytest.raises(OptionError, match=r"know how many rows it was fitted to.*Fit old and new rows together: fit"):
        made.partial_fit(new)
    standardized = fitted(old, 2, standardize=True)
    with pytest.raises(OptionError, match=r"`?standardize`? of a model that new rows update must be False"):
        standardized.partial_fit(new)
    with pytest.raises(OptionError, match="be without priors and standardized features; got one with some of them"):
        standardized.set_params(standardize=False).partial_fit(new)
    with pytest.raises(OptionError, match=r"have 3 full components, to go on with; got 2 full ones"):
        fitted(old, 2).set_params(n_components=3).partial_fit(new)
    with pytest.raises(DataError):
        fitted(old, 2).partial_fit(new[:, :1])
    # (Remedies: a fit to all; all old rows forgotten needs none of their sums.)
    standardized.set_params(standardize=True, warm_start=True).fit(np.concatenate([old, new]))
    standardized.partial_fit(new, forgetting=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"noise": True}, "noise"),
        ({"covariance_prior": "weak"}, "covariance_prior"),
        ({"covariance_floor": 0.1}, "covariance_floor"),
        ({"covariance_type": "VEV"}, "covariance_type"),
        ({"covariance_type": "lowrank", "n_factors": 1}, "covariance_type"),
    ],
)
def test_moments_that_do_not_follow_are_refused(options: dict[str, Any], named: str) -> None:
    gm = GaussianMixture(2, random_state=0, n_init=2, **options).fit(near(0, 200))
    with pytest.raises(OptionError, match=rf"^{named} of a model that new rows update must be .* together: fit\.$"):
        gm.partial_fit(near(5, 50))


def test_labels_errors_and_bayes_are_refused() -> None:
    old, new = near(0, 200), near(5, 50)
    gm = GaussianMixture(2, random_state=0).fit(old, labels=np.where(np.arange(len(old)) < 9, 0, -1))
    with pytest.raises(OptionError, match="must be of rows without labels; got one .*, as one input, with labels"):
        gm.partial_fit(new)
    assert gm.partial_fit(new, forgetting=1).n_iter_ > 0, "what counts for nothing may have had any"
    measured = GaussianMixture(2, random_state=0).fit(old, errors=0.1 * np.eye(2))
    with pytest.raises(OptionError, match="must be of rows without errors; got one .*, as one input, with errors"):
        measured.partial_fit(new)
    assert not hasattr(BayesianGaussianMixture(2, random_state=0).fit(old), "partial_fit")


def test_one_component() -> None:
    old, new = near(0, 200), near(5, 50)
    both = GaussianMixture(1).fit(np.concatenate([old, new]))
    assert_same(GaussianMixture(1).fit(old).partial_fit(new), both)
    assert_same(GaussianMixture(1).fit(old).partial_fit(new, forgetting=1), GaussianMixture(1).fit(new))
