"""Input that cannot be fitted: each message with its numbers, and before any row is read where the metadata tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from zarr.storage import MemoryStore

from daskgmm import GaussianMixture, select
from daskgmm.errors import DataError, InputMissingError
from tests.fitting.driving import SOURCES, Blocks, as_source, computed, given_start, small_partitions, well_separated
from tests.sources.test_zarr_source import CountingStore

__all__ = ["small_partitions"]

LAZY = [s for s in SOURCES if s != "numpy"]


def stored(X: Any) -> tuple[Any, CountingStore]:
    """Return rows as a Zarr array, and the store that counts what is read of it."""
    store = CountingStore(MemoryStore())
    X = np.asarray(X)
    array = zarr.create_array(store, shape=X.shape, dtype=X.dtype, chunks=tuple(max(1, min(n, 100)) for n in X.shape))
    array[...] = X
    store.reads.clear()
    return array, store


METADATA: list[tuple[Any, str, str]] = [
    (np.zeros((4, 3, 2)), r"3 dimensions, shape \(\d, 3, 2\)", r"3 dimensions, shape \(4, 3, 2\)"),
    (
        np.zeros((0, 3)),
        r"at least one row and one feature; got shape \(0, 3\)",
        r"at least one row and one feature; got shape \(0, 3\)",
    ),
    (
        np.zeros((4, 0)),
        r"at least one row and one feature; got shape \(\d, 0\)",
        r"at least one row and one feature; got shape \(4, 0\)",
    ),
    (np.zeros((2, 3)), r"at least n_components = 3 rows; got 2 in", r"at least n_components = 3 rows; got 2 in"),
    (np.zeros((9, 3), "c16"), r"real numbers .*; got dtype complex128", r"Complex data not supported|real numbers"),
]


@pytest.mark.parametrize(("X", "lazily", "in_memory"), METADATA)
def test_metadata_are_checked_before_anything_is_read(X: Any, lazily: str, in_memory: str) -> None:
    gm = GaussianMixture(3)
    with pytest.raises(ValueError, match=in_memory):
        gm.fit(X)
    blocks = Blocks(X)
    with pytest.raises(DataError, match=lazily):
        gm.fit(blocks.array)
    assert blocks.n_rows == 0
    array, store = stored(X)
    with pytest.raises(DataError, match=lazily):
        gm.fit(array)
    assert store.reads == []


def test_rows_of_objects_are_refused() -> None:
    X = np.full((5, 2), "a", dtype=object)
    with pytest.raises(ValueError, match="could not convert string to float: 'a'"):
        GaussianMixture().fit(X)
    blocks = Blocks(X)
    with pytest.raises(DataError, match="real numbers .*; got dtype object in Dask array"):
        GaussianMixture().fit(blocks.array)
    assert blocks.n_rows == 0


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    for name in ("none.zarr", "none.npy"):
        with pytest.raises(InputMissingError, match=f"{tmp_path}/{name}"):
            GaussianMixture().fit(tmp_path / name)


# -- NaN and infinity -------------------------------------------------------------------------------------------
def spoiled() -> tuple[Any, Any]:
    """Return 600 rows of which four hold a NaN or an infinity, the first number 312, and which are finite."""
    X = well_separated().X.copy()
    X[312, 1], X[313, 0], X[500], X[599, 2] = np.nan, np.inf, -np.inf, np.nan
    return X, np.isfinite(X).all(axis=1)


@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.usefixtures("small_partitions")
def test_non_finite_rows_are_counted_and_the_first_is_named(what: str, tmp_path: Path) -> None:
    X, _ = spoiled()
    partition = 3 if what in ("npy path", "numpy") else 2
    by = "feature 1 in 2, feature 2 in 2, feature 3 in 2"
    message = rf"got 4 rows with NaN or infinity in .* \({by}\), the first in partition {partition}, row 312\. Drop"
    with pytest.raises(DataError, match=message):
        # Chunks of an array without any are 2048 bytes here, 85 rows.
        GaussianMixture(3).fit(as_source(what, X, tmp_path, chunk=150))


@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.usefixtures("small_partitions")
def test_dropping_rows_is_fitting_the_others(what: str, tmp_path: Path) -> None:
    X, finite = spoiled()
    case = well_separated()
    options = given_start(case) | {"tol": 1e-6}
    gm = GaussianMixture(**options, non_finite="drop").fit(as_source(what, X, tmp_path))
    clean = GaussianMixture(**options).fit(X[finite])
    assert (gm.n_dropped_, gm.n_dropped_by_feature_) == (4, [2, 2, 2])
    for name in ("weights_", "means_", "covariances_"):
        assert_allclose(getattr(gm, name), getattr(clean, name), rtol=1e-10, atol=1e-11)
    assert gm.n_iter_ == clean.n_iter_
    assert gm.log_likelihood_ == pytest.approx(clean.log_likelihood_, rel=1e-12)
    source = as_source(what, X, tmp_path, name="again")
    assert gm.bic(source) == pytest.approx(clean.bic(X[finite]), rel=1e-12)
    labels = computed(gm.predict(source))
    assert_array_equal(labels[~finite], -1)
    assert_array_equal(labels[finite], clean.predict(X[finite]))
    for name in ("predict_proba", "score_samples"):
        found = computed(getattr(gm, name)(source))
        assert np.isnan(found[~finite]).all()
        assert_allclose(found[finite], getattr(clean, name)(X[finite]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("what", SOURCES)
def test_predicting_and_scoring_refuse_non_finite_rows(what: str, tmp_path: Path) -> None:
    X, finite = spoiled()
    gm = GaussianMixture(3, n_init=1, random_state=0).fit(X[finite])
    source = as_source(what, X, tmp_path)
    for name in ("predict", "predict_proba", "score_samples"):
        with pytest.raises(DataError, match=r"X must be finite; got NaN or infinity in row \d+.*non_finite='drop'"):
            computed(getattr(gm, name)(source))
    for name in ("score", "aic", "bic"):
        with pytest.raises(DataError, match=r"X must be finite; got 4 rows .*row 312"):
            getattr(gm, name)(source)


def test_too_few_finite_rows_are_too_few() -> None:
    X = np.full((10, 2), np.nan)
    X[:2] = [[0, 1], [1, 0]]
    with pytest.raises(DataError, match=r"at least n_components = 3 finite rows; got 2 in NumPy array \(8 dropped\)"):
        GaussianMixture(3, non_finite="drop").fit(X)


def test_no_row_left_to_score() -> None:
    gm = GaussianMixture(2, n_init=1, random_state=0, non_finite="drop").fit(well_separated().X)
    with pytest.raises(DataError, match="X must have rows that count; got 5 rows in NumPy array, all of them dropped"):
        gm.score(np.full((5, 3), np.nan))
    assert_array_equal(gm.predict(np.full((5, 3), np.nan)), -1)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_numbers_whose_squares_overflow_are_refused() -> None:
    X = well_separated().X * 1e160
    with pytest.raises(DataError, match=r"X must lie within 1e150, or squares overflow; got \d.*e\+160 in NumPy array"):
        GaussianMixture(2).fit(X)


# -- row weights -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["numpy", "dask", "zarr", "npy path"])
@pytest.mark.usefixtures("small_partitions")
def test_bad_weights_are_counted_and_the_first_is_named(what: str, tmp_path: Path) -> None:
    X = as_source("dask", well_separated().X, tmp_path)
    w = np.ones(600)
    w[[301, 302, 599]] = [-1.0, np.nan, np.inf]
    message = (
        r"sample_weight must be finite and not negative; got 3 other values in .*, the first in partition 2, row 301\."
    )
    weights = as_source(what, w, tmp_path, chunk=70, name="w")
    with pytest.raises(DataError, match=message):
        GaussianMixture(2).fit(X, sample_weight=weights)
    gm = GaussianMixture(2, n_init=1, random_state=0).fit(X)
    with pytest.raises(DataError, match=message):
        gm.score(X, sample_weight=weights)


@pytest.mark.parametrize("what", SOURCES)
def test_weights_that_are_all_zero_are_refused(what: str, tmp_path: Path) -> None:
    w = as_source(what, np.zeros(600), tmp_path, name="w")
    with pytest.raises(DataError, match="sample_weight must not be zero for all rows; got a sum of 0 over 600 rows"):
        GaussianMixture(2).fit(well_separated().X, sample_weight=w)


@pytest.mark.parametrize("shape", [(599,), (600, 2)])
def test_weights_of_another_shape_are_refused_before_anything_is_read(shape: tuple[int, ...]) -> None:
    X, w = Blocks(well_separated().X), Blocks(np.ones(shape))
    got = rf"\({shape[0]}, {2 if len(shape) == 2 else 1}\)"
    message = rf"sample_weight must have shape \(600,\), one weight for each row of Dask array; got {got} in Dask array"
    gm = GaussianMixture(2, n_init=1, random_state=0)
    with pytest.raises(DataError, match=message):
        gm.fit(X.array, sample_weight=w.array)
    assert X.n_rows == w.n_rows == 0
    gm.fit(X.array)
    X.n_rows = 0
    with pytest.raises(DataError, match=message):
        gm.score(X.array, sample_weight=w.array)
    assert X.n_rows == w.n_rows == 0


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "k-means||"])
def test_the_scale_of_weights_matters_to_nothing_but_criteria(init_params: str) -> None:
    X, w = well_separated().X, np.random.default_rng(0).uniform(0.5, 2, 600)
    gm = GaussianMixture(3, init_params=init_params, n_init=2, random_state=0, tol=1e-4)
    expected = gm.fit(X, sample_weight=w).get_params(), gm.n_iter_, gm.weights_, gm.means_, gm.score(X, sample_weight=w)
    for scale in (2.0**-400, 1e-100, 1e-3, 1e100, 2.0**400):
        gm.fit(X, sample_weight=scale * w)
        assert gm.n_iter_ == expected[1]
        assert_allclose(gm.weights_, expected[2], rtol=1e-6)
        assert_allclose(gm.means_, expected[3], rtol=1e-6)
        assert gm.score(X, sample_weight=scale * w) == pytest.approx(expected[4], rel=1e-9)


@pytest.mark.parametrize("weight", [1e300, 1e-310, 5e-324, 1.7e308, 1e148])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_weights_near_the_ends_of_the_floats_are_named(weight: float) -> None:
    X = well_separated().X * (1e80 if weight == 1e148 else 1)
    message = (
        r"sample_weight must sum to between 1e-150 and 1e\+150.*; got .* for 600 rows .* Divide sample_weight by its"
    )
    with pytest.raises(DataError, match=message):
        GaussianMixture(3).fit(X, sample_weight=np.full(600, weight))
    gm = GaussianMixture(3, n_init=1, random_state=0, reg_covar=1e-6 * X.var()).fit(X)
    with pytest.raises(DataError, match=message):
        gm.score(X, sample_weight=np.full(600, weight))


def test_criteria_of_weights_that_are_shares_are_warned_of() -> None:
    X, options = well_separated().X, {"n_init": 1, "random_state": 0}
    shares, message = np.full(600, 1 / 600), r"got 1 for 600 rows of positive weight.* Multiply .* = 600 to compare"
    gm = GaussianMixture(3, **options).fit(X, sample_weight=shares)
    gm.score(X, sample_weight=shares)
    for criterion in (gm.bic, gm.aic):
        with pytest.warns(UserWarning, match=message):
            criterion(X, sample_weight=shares)
    with pytest.warns(UserWarning, match=message):
        select(X, n_components=[1, 3, 9], sample_weight=shares, **options)
    assert select(X, n_components=[1, 3, 9], sample_weight=600 * shares, **options).best_.n_components == 3


def test_too_few_rows_of_positive_weight() -> None:
    w = np.zeros(600)
    w[:2] = 1
    with pytest.raises(DataError, match="at least n_components = 3 rows of positive weight; got 2"):
        GaussianMixture(3).fit(well_separated().X, sample_weight=w)


# -- features ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["predict", "predict_proba", "score_samples", "score", "aic", "bic"])
def test_another_number_of_features_is_refused_before_anything_is_read(name: str) -> None:
    X = well_separated().X
    gm = GaussianMixture(2, n_init=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3 features"):
        getattr(gm, name)(X[:, :2])
    message = "X has 2 features, but GaussianMixture is expecting 3 features as input. Select the same columns"
    blocks = Blocks(X[:, :2])
    with pytest.raises(DataError, match=message):
        getattr(gm, name)(blocks.array)
    assert blocks.n_rows == 0
    array, store = stored(X[:, :2])
    with pytest.raises(DataError, match=message):
        getattr(gm, name)(array)
    assert store.reads == []


@pytest.mark.parametrize("name", ["predict", "score"])
def test_one_row_is_not_taken_for_one_feature(name: str) -> None:
    X = well_separated().X
    gm = GaussianMixture(2, n_init=1, random_state=0).fit(X)
    with pytest.raises(DataError, match=r"X has 1 features, but GaussianMixture is expecting 3 .*Reshape your data"):
        getattr(gm, name)(X[0])
    with pytest.raises(DataError, match="X has 1 features, but GaussianMixture is expecting 3"):
        getattr(gm, name)(da.from_array(X[0]))
