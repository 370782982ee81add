"""Fits to rows with gaps: numbers that are known, and what holds of any."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture, Kernel, select
from daskgmm.errors import DataError, OptionError
from tests.fitting.driving import KINDS, small_partitions
from tests.reference_data import faithful

__all__ = ["small_partitions"]
NAN = np.nan
GAPS: dict[str, Any] = {"non_finite": "marginalize", "random_state": 0}
PLAIN: dict[str, Any] = {**GAPS, "reg_covar": 0.0, "acceleration": None, "tol": 0.0}

#: Cochran and Snedecor 1972, as Little and Rubin have them: size of crop and percentage of wormy fruit.
APPLE = np.array(
    [(8, 59), (6, 58), (11, 56), (22, 53), (14, 50), (17, 45), (18, 43), (24, 42), (19, 39), (23, 38), (26, 30),
     (40, 27), *((n, NAN) for n in (4, 4, 5, 6, 8, 10))]
)  # fmt: skip
#: Draper and Smith 1968, with the gaps of Little and Rubin's example 7.7.
MISSVALS = np.array(
    [
        [7, 1, 11, 11, 7, 11, 3, 1, 2, NAN, NAN, NAN, NAN],
        [26, 29, 56, 31, 52, 55, 71, 31, 54, NAN, NAN, NAN, NAN],
        [6, 15, 8, 8, 6, 9, 17, 22, 18, 4, 23, 9, 8],
        [60, 52, 20, 47, 33, 22, *[NAN] * 7],
        [78.5, 74.3, 104.3, 87.6, 95.9, 109.2, 102.7, 72.5, 93.1, 115.9, 83.8, 113.3, 109.4],
    ]
).T


def faithful_with_gaps() -> np.ndarray:
    X, i = faithful(), np.arange(272)
    X[i % 5 == 0, 1] = NAN
    X[i % 7 == 3, 0] = NAN
    return X


def groups(n_rows: int = 600, n_features: int = 4, *, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Rows of two groups with gaps, and one row of nothing else."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((n_rows, n_features)) + 6.0 * (np.arange(n_rows) % 2)[:, np.newaxis]
    X[random.random(X.shape) < share] = NAN
    X[5] = NAN
    return X


def quiet(mixture: GaussianMixture, X: Any, **how: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(X, **how)


def test_apple() -> None:
    found = GaussianMixture(**{**GAPS, "reg_covar": 0.0, "tol": 1e-14, "max_iter": 1000}).fit(APPLE)
    assert_allclose(found.means_, [[14.7222222, 49.3333326]], rtol=1e-7)
    assert_allclose(found.covariances_[0], [[89.5339506, -90.6967228], [-90.6967228, 114.6949421]], rtol=1e-6)
    assert found.log_likelihood_ == pytest.approx(-101.785632128, abs=1e-8)


def test_missvals() -> None:
    found = GaussianMixture(**{**GAPS, "reg_covar": 0.0, "tol": 1e-15, "max_iter": 3000}).fit(MISSVALS)
    means = [6.65516585, 49.96525912, 11.76923077, 27.04708988, 95.42307692]
    assert_allclose(found.means_, [means], rtol=2e-6)
    variances = [21.82556807, 238.01243925, 37.86982249, 294.18303047, 208.90485207]
    assert_allclose(np.diag(found.covariances_[0]), variances, rtol=1e-5)
    assert_allclose(found.covariances_[0][[0, 1], [1, 3]], [20.86433362, -252.07231079], rtol=1e-5)
    assert found.log_likelihood_ == pytest.approx(-132.925250445, abs=1e-7)


@pytest.mark.parametrize("kernel", ["rule", "exact"])
def test_faithful_step_by_step(kernel: str) -> None:
    X, covariance = faithful_with_gaps(), np.diag([0.5, 50.0])
    assert np.isnan(X).all(axis=1).sum() == 8
    start = {
        "weights_init": [0.5, 0.5], "means_init": [[2, 55], [4.5, 80]],
        "precisions_init": [np.linalg.inv(covariance)] * 2,
    }  # fmt: skip
    found = quiet(GaussianMixture(2, **PLAIN, **start, max_iter=300, kernel=kernel), X)
    bounds = np.array(found.lower_bounds_) * 264
    expected = [-1050.675018, -957.313950, -939.672340, -937.236994, -936.905576]
    assert_allclose(bounds[:5], expected, atol=6e-7)
    assert (np.diff(bounds) > -1e-9).all()
    assert found.log_likelihood_ == pytest.approx(-936.76546675, abs=1e-7)
    # (The reference ended where the log-likelihood changed by 1e-10; the maximum is flat.)
    assert found.weights_[0] == pytest.approx(0.3545989227, abs=3e-8)
    assert_allclose(found.means_, [[2.0383980618, 54.6817614828], [4.2728628592, 80.1696424208]], rtol=3e-8)
    triangles = found.covariances_[:, [0, 0, 1], [0, 1, 1]]
    expected = [[0.0667833502, 0.3779323481, 31.1542767204], [0.1831069881, 1.3670435582, 40.0318748128]]
    assert_allclose(triangles, expected, rtol=1e-6)
    assert found.n_dropped_ == 8
    n_free = 11
    assert found.bic(X) == pytest.approx(-2 * found.log_likelihood_ + n_free * np.log(264), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_without_gaps_the_bits_are_those_without_the_option(kind: str) -> None:
    X = groups(share=0.0)
    X[5] = 1.0
    for k in (1, 2):
        plain, asked = (
            GaussianMixture(k, covariance_type=kind, random_state=0, non_finite=n).fit(X)
            for n in ("error", "marginalize")
        )
        for name in ("weights_", "means_", "covariances_", "log_likelihood_", "lower_bounds_", "n_passes_"):
            assert_array_equal(getattr(asked, name), getattr(plain, name))
        assert_array_equal(asked.score_samples(X), plain.score_samples(X))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_repetition(kind: str) -> None:
    X = groups(200)
    w = np.random.default_rng(1).integers(0, 3, size=len(X))
    start = GaussianMixture(2, covariance_type=kind, **GAPS).fit(X)
    start = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    how = {**PLAIN, "covariance_type": kind, "max_iter": 5, **start}
    weighted = quiet(GaussianMixture(2, **how), X, sample_weight=w)
    repeated = quiet(GaussianMixture(2, **how), np.repeat(X, w, axis=0))
    assert_allclose(weighted.means_, repeated.means_, rtol=1e-10)
    assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-10, atol=1e-12)
    assert weighted.log_likelihood_ == pytest.approx(repeated.log_likelihood_, rel=1e-12)
    assert weighted.score(X, sample_weight=w) == pytest.approx(weighted.log_likelihood_ / weighted_rows(X, w))


def weighted_rows(X: np.ndarray, w: np.ndarray) -> float:
    return float(w[~np.isnan(X).all(axis=1)].sum())


def test_chunks_and_stored_numbers_do_not_matter() -> None:
    X = groups(1000).astype(np.float32)
    whole = GaussianMixture(2, **GAPS).fit(X)
    for chunk in (1000, 130, 1):
        found = GaussianMixture(2, **GAPS).fit(da.from_array(X[:300] if chunk == 1 else X, chunks=(chunk, 4)))
        if chunk != 1:
            assert_allclose(found.means_, whole.means_, rtol=1e-12)
            assert found.log_likelihood_ == pytest.approx(whole.log_likelihood_, rel=1e-12)
        assert np.isfinite(found.log_likelihood_)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["kmeans", "k-means||"])
def test_an_offset_moves_the_mixture_and_nothing_else(kind: str, init: str) -> None:
    X = np.round(groups(400) * 2**20) / 2**20
    near, far = (
        GaussianMixture(2, covariance_type=kind, init_params=init, **{**GAPS, "tol": 1e-9}).fit(X + offset)
        for offset in (0.0, 2.0**27)
    )
    order = [np.argsort(g.means_[:, 0]) for g in (near, far)]
    assert_allclose(far.means_[order[1]] - 2.0**27, near.means_[order[0]], atol=1e-5)
    assert far.log_likelihood_ == pytest.approx(near.log_likelihood_, rel=1e-7)


def test_a_row_without_values_gets_what_the_mixture_says_of_any() -> None:
    X = groups()
    found = GaussianMixture(2, **GAPS).fit(X)
    assert found.score_samples(X)[5] == 0.0
    assert_allclose(found.predict_proba(X)[5], found.weights_, rtol=1e-15)
    assert found.predict(X)[5] == np.argmax(found.weights_)
    without = GaussianMixture(2, **GAPS).fit(np.delete(X, 5, axis=0))
    assert found.log_likelihood_ == pytest.approx(without.log_likelihood_, rel=1e-9)
    n_rows = (~np.isnan(X).all(axis=1)).sum()
    assert found.score(X) == pytest.approx(found.log_likelihood_ / n_rows, rel=1e-12)


def test_imputed_rows_are_conditional_means_and_lazy_where_the_rows_are() -> None:
    X = groups()
    found = GaussianMixture(2, covariance_type="diag", **GAPS).fit(X)
    filled = found.impute(X)
    gaps = np.isnan(X)
    assert_array_equal(filled[~gaps], X[~gaps])
    assert_allclose(filled[gaps], (found.predict_proba(X) @ found.means_)[gaps], rtol=1e-12)
    lazy = found.impute(da.from_array(X, chunks=(100, 4)))
    assert isinstance(lazy, da.Array)
    assert_array_equal(lazy.compute(), filled)
    plain = GaussianMixture(2, covariance_type="diag", random_state=0).fit(groups(share=0.0)[6:])
    assert not np.isnan(plain.impute(X)).any()
    with pytest.raises(DataError, match=r"X must be finite; got NaN or infinity in row \d+.*marginalize"):
        plain.predict(X)


def test_select_tells_the_number_of_groups_by_folds() -> None:
    how = {"covariance_type": "tied", "criterion": "held_out", "n_init": 1, "n_folds": 3, **GAPS}
    found = select(groups(400, 3), n_components=[1, 2, 3], **how)
    assert found.best_.n_components == 2


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_standardized_it_is_the_fit_to_standardized_rows(kind: str) -> None:
    X = groups(share=0.3) * [1.0, 1000.0, 1e-3, 5.0] + [0.0, 0.0, 7.0, 1e4]
    X = np.where(np.arange(4) == 3, np.where(np.arange(600)[:, np.newaxis] % 3 == 0, X, NAN), X)
    shift, scale = np.nanmean(X, axis=0), np.nanstd(X, axis=0)
    how = {**GAPS, "covariance_type": kind}
    ours = GaussianMixture(2, standardize=True, **how).fit(X)
    theirs = GaussianMixture(2, **how).fit((X - shift) / scale)
    assert_allclose((ours.means_ - shift) / scale, theirs.means_, rtol=1e-7, atol=1e-9)
    units = scale**2 if kind == "diag" else np.outer(scale, scale)
    assert_allclose(ours.covariances_ / units, theirs.covariances_, rtol=1e-6, atol=1e-9)
    volume = (~np.isnan(X)).sum(axis=0) @ np.log(scale)
    assert ours.log_likelihood_ == pytest.approx(theirs.log_likelihood_ - volume, rel=1e-10)
    n = np.count_nonzero(~np.isnan(X).all(axis=1))
    assert_allclose(ours.lower_bounds_, np.array(theirs.lower_bounds_) - volume / n, rtol=1e-9)
    assert ours.history_[-1]["mean_log_likelihood"] == pytest.approx(ours.log_likelihood_ / n, rel=1e-12)
    assert ours.score_samples(X).sum() == pytest.approx(ours.log_likelihood_, rel=1e-10)
    before = ours.log_likelihood_
    again = ours.set_params(warm_start=True, max_iter=2).fit(X)
    assert again.log_likelihood_ == pytest.approx(before, rel=1e-5)


def test_standardized_rows_that_are_held_out_count_in_units_of_the_data() -> None:
    X = groups(300, 3) * [1.0, 100.0, 1e-3]
    X[::3, 1] = NAN  # (folds have other shares of the second feature than those that they leave)
    how = {**GAPS, "n_components": [2], "criterion": "held_out", "n_folds": 3, "n_init": 1}
    ours = select(X, standardize=True, **how).table[0]
    scale = np.nanstd(X, axis=0)
    theirs = select((X - np.nanmean(X, axis=0)) / scale, **how).table[0]
    volume = (~np.isnan(X)).sum(axis=0) @ np.log(scale) / np.count_nonzero(~np.isnan(X).all(axis=1))
    assert ours["held_out"] == pytest.approx(theirs["held_out"] - volume, rel=1e-9)


def test_a_kernel_of_the_users_is_refused() -> None:
    class Mine(Kernel):
        def log_density(self, *args: Any) -> None: ...
        def sums(self, *args: Any) -> None: ...

    with pytest.raises(OptionError, match="non_finite must be 'error' or 'drop' with a kernel of yours"):
        GaussianMixture(2, kernel=Mine(), **GAPS).fit(groups())


def test_an_infinity_is_an_error_with_its_place() -> None:
    X = groups()
    X[123, 2] = -np.inf
    with pytest.raises(DataError, match=r"got an infinity in row 123, feature 2, where counting begins with 0"):
        GaussianMixture(2, **GAPS).fit(X)
    with pytest.raises(DataError, match=r"got an infinity in row 123, feature 2"):
        GaussianMixture(2, random_state=0).fit(groups(share=0)[6:]).impute(X)


def test_a_feature_without_a_value_is_an_error() -> None:
    X = groups()
    X[:, 3] = NAN
    with pytest.raises(DataError, match="X must have a value of each feature; got none of feature 3"):
        GaussianMixture(2, **GAPS).fit(X)


def test_features_that_are_never_seen_together_are_warned_of() -> None:
    X = groups(share=0.0)
    X[::2, 0], X[1::2, 3] = NAN, NAN
    with pytest.warns(UserWarning, match=r"No row has values of features 0 and 3 together"):
        GaussianMixture(**GAPS).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(covariance_type="diag", **GAPS).fit(X)


def test_the_log_says_how_many_rows_have_gaps(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="daskgmm"):
        GaussianMixture(2, **GAPS).fit(MISSVALS[:, :3])
    assert "4 of 13 rows have gaps, and count by what they have: feature 1 in 4, feature 2 in 4." in caplog.text


def test_what_knows_of_no_gaps_leaves_none_out_silently() -> None:
    X = groups()
    found = GaussianMixture(2, **GAPS).fit(X)
    with pytest.raises(DataError, match="NaN or infinity"):
        found.standard_errors(X)
    with pytest.raises(DataError, match="NaN or infinity"):
        found.predict_features(X[:, 1:], [1, 2, 3])
    assert set(found.combine(X, 1)) == {0}
