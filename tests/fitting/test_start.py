"""The start: scikit-learn's four ways on the seeded sample, the same rows whatever the chunks; rows that are alike."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.errors import CollapsedComponentError, DataError, FitWarning
from daskgmm.fitting import beginning, sample
from daskgmm.fitting.openmp import one_openmp_thread
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import sample_size
from daskgmm.fitting.start import starts
from daskgmm.fitting.unsaid import unsaid
from tests import oracle
from tests.fitting.driving import INIT_PARAMS, KINDS, as_source, given_start, small_partitions, well_separated
from tests.strategies import make_case

__all__ = ["small_partitions"]

X = make_case("full", seed=0, n_rows=400, n_components=3, n_features=2, separation=12.0).X
ONES = np.ones(len(X))


def one_start(rows: Any, weights: Any, **options: Any) -> Any:
    (found,) = starts(rows, weights, FitOptions(**{"n_init": 1} | options), n_features=rows.shape[1])
    return found


# -- the four ways ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_kmeans_starts_with_the_moments_of_its_clusters(kind: str) -> None:
    found = one_start(X, ONES, n_components=3, covariance_type=kind, reg_covar=1e-3)
    labels = np.linalg.norm(X[:, None] - found.means, axis=2).argmin(axis=1)
    resp = np.eye(3)[labels]
    assert_allclose(found.weights, resp.mean(axis=0), rtol=1e-12)
    assert_allclose(found.means, resp.T @ X / resp.sum(axis=0)[:, None], rtol=1e-12)
    assert_allclose(found.covariances, moments_of(kind, resp, 1e-3), rtol=1e-10, atol=1e-12)


def moments_of(kind: str, resp: Any, reg_covar: float) -> Any:
    """Return the regularised covariances that responsibilities give, by the oracle's shapes."""
    counts = resp.sum(axis=0)
    means = resp.T @ X / counts[:, None]
    full = np.stack([(resp[:, k, None] * (X - means[k])).T @ (X - means[k]) / counts[k] for k in range(len(counts))])
    if kind == "full":
        return full + reg_covar * np.eye(2)
    if kind == "tied":
        return np.tensordot(counts / counts.sum(), full, axes=1) + reg_covar * np.eye(2)
    diagonal = np.diagonal(full, axis1=1, axis2=2)
    return (diagonal if kind == "diag" else diagonal.mean(axis=1)) + reg_covar


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
def test_rows_are_starts_of_variance_reg_covar(kind: str, init_params: str) -> None:
    found = one_start(X, ONES, n_components=3, covariance_type=kind, init_params=init_params, reg_covar=0.25)
    assert all((mean == X).all(axis=1).any() for mean in found.means)
    assert len(np.unique(found.means, axis=0)) == 3
    assert_allclose(found.weights, 1 / 3, rtol=1e-12)
    dense = oracle.dense(kind, found.covariances, 3, 2)
    assert_allclose(dense, np.broadcast_to(0.25 * np.eye(2), (3, 2, 2)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_random_starts_near_the_mean_of_all(kind: str) -> None:
    found = one_start(X, ONES, n_components=3, covariance_type=kind, init_params="random")
    assert_allclose(found.means, np.broadcast_to(X.mean(axis=0), (3, 2)), atol=2.0)
    assert len(np.unique(found.means, axis=0)) == 3
    assert found.weights.sum() == pytest.approx(1)
    assert np.abs(found.weights - 1 / 3).max() < 0.05


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_every_restart_has_a_start_of_its_own(init_params: str) -> None:
    options = FitOptions(n_components=3, init_params=init_params, n_init=4, seed=1)
    rows = np.random.default_rng(0).standard_normal((200, 2))
    found = starts(rows, np.ones(200), options, n_features=2)
    again = starts(rows, np.ones(200), options, n_features=2)
    assert len(found) == 4
    assert len({p.means.tobytes() for p in found}) == 4
    assert [p.means.tobytes() for p in found] == [p.means.tobytes() for p in again]


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_row_weights_count_in_a_start(init_params: str) -> None:
    w = np.where(X[:, 0] > np.median(X[:, 0]), 3.0, 0.5)
    found = one_start(X, w, n_components=2, init_params=init_params, seed=2)
    overall = (w @ X) / w.sum()
    assert_allclose(found.weights @ found.means, overall, rtol=1e-9)
    scaled = one_start(X, 1000 * w, n_components=2, init_params=init_params, seed=2)
    assert_allclose(scaled.weights, found.weights, rtol=1e-9)
    assert_allclose(scaled.covariances, found.covariances, rtol=1e-9)


def test_kmeans_counts_row_weights() -> None:
    rows, w = np.repeat([[0.0], [10.0], [16.0]], 3, axis=0), np.repeat([1.0, 100.0, 100.0], 3)
    plain = one_start(rows, np.ones(9), n_components=2, seed=1)
    weighted = one_start(rows, w, n_components=2, seed=1)
    assert_allclose(np.sort(plain.means[:, 0]), [0, 13], rtol=1e-12, atol=1e-12)
    assert_allclose(np.sort(weighted.means[:, 0]), [1000 / 101, 16], rtol=1e-12)


# -- rows that are alike --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_nothing_but_duplicates(kind: str, init_params: str) -> None:
    rows = np.tile([3.0, -2.0], (50, 1))
    gm = GaussianMixture(3, covariance_type=kind, init_params=init_params, reg_covar=0.1, random_state=0).fit(rows)
    assert_allclose(gm.means_, np.tile([3.0, -2.0], (3, 1)), rtol=1e-9)
    dense = oracle.dense(kind, gm.covariances_, 3, 2)
    assert_allclose(dense, np.broadcast_to(0.1 * np.eye(2), (3, 2, 2)), rtol=1e-9, atol=1e-12)
    assert gm.weights_.sum() == pytest.approx(1)
    with pytest.raises(CollapsedComponentError, match="Decrease n_components, increase reg_covar, or rescale or drop"):
        gm.set_params(reg_covar=0).fit(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_fewer_distinct_rows_than_components(kind: str, init_params: str) -> None:
    rows = np.repeat([[0.0, 0.0], [10.0, 10.0]], 20, axis=0)
    gm = GaussianMixture(5, covariance_type=kind, init_params=init_params, random_state=0, max_iter=20, tol=1e-2)
    with np.errstate(all="raise", under="ignore"):
        gm.fit(rows)
    assert np.isfinite(gm.score(rows))
    assert gm.weights_.sum() == pytest.approx(1)
    overall = gm.weights_ @ gm.means_
    assert_allclose(overall, [5.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means||"])
def test_that_rows_are_alike_is_said_once_by_the_fit_and_not_by_k_means(init_params: str) -> None:
    """Filters of warnings are for all threads: those of the user are then as they were."""
    rows, before = np.repeat([[0.0], [1.0]], 5, axis=0), list(warnings.filters)
    with pytest.warns() as said:
        GaussianMixture(3, random_state=0, init_params=init_params).fit(rows)
    assert [one.category for one in said] == [FitWarning]
    assert "holds fewer rows than the 3 numbers that it is made of (0 rows)" in str(said[0].message)
    assert list(warnings.filters) == before
    with pytest.warns(ConvergenceWarning, match="Number of distinct clusters"):
        KMeans(3, n_init=1).fit(rows)


def test_filters_of_warnings_stay_as_they_were_whatever_threads_do() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: _quietly(), range(40)))
    assert list(warnings.filters) == before
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        theirs = list(warnings.filters)
        _quietly()
        assert list(warnings.filters) == theirs, "who asks for the same has it still"


def test_a_filter_that_others_have_kept_goes_with_the_next_start() -> None:
    """As where a thread enters `catch_warnings` meanwhile, and leaves it later."""
    before, others = list(warnings.filters), warnings.catch_warnings()
    with unsaid():
        others.__enter__()
    others.__exit__()
    _quietly()
    assert list(warnings.filters) == before


def test_a_forked_process_has_no_start_underway() -> None:
    program = """
import os, warnings
from daskgmm.fitting.unsaid import unsaid
before = list(warnings.filters)
with unsaid():
    child = os.fork()
    if not child:
        os._exit(0 if list(warnings.filters) == before and not unsaid._n_blocks else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _quietly() -> None:
    with unsaid():
        KMeans(3, n_init=1, max_iter=1).fit(np.zeros((5, 1)))


def test_k_means_has_one_thread_of_openmp_and_others_keep_theirs() -> None:
    with threadpool_limits(3, user_api="openmp"), ThreadPoolExecutor(1) as other:
        with threadpool_limits(2, user_api="openmp"), one_openmp_thread():
            assert _openmp_threads() == {1}
            assert 1 not in other.submit(_openmp_threads).result() or os.cpu_count() == 1
        assert _openmp_threads() == {3}


def _openmp_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"}


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_starts_are_the_same_bits_side_by_side_or_one_after_the_other(init_params: str) -> None:
    options = FitOptions(n_components=3, n_init=5, init_params=init_params, seed=4)
    found = []
    for n_threads in (1, 4):
        with dask.config.set(num_workers=n_threads):
            found.append(starts(X, ONES, options, n_features=2))
    assert len(found[0]) == 5
    for one, other in zip(*found, strict=True):
        assert_array_equal(one.means, other.means)
        assert_array_equal(one.covariances, other.covariances)


def test_a_singular_start_is_left_out_and_the_others_go_on() -> None:
    # Rows that are equal: some starts give them a component of their own, which is then singular.
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [rng.standard_normal((60, 2)), 4 + rng.standard_normal((30, 2)), np.full((6, 2), [6.0, -2.0])]
    )
    singular = []
    for seed in range(12):
        try:
            one_start(rows, np.ones(96), n_components=3, reg_covar=0, seed=seed)
        except CollapsedComponentError:
            singular.append(seed)
    assert 0 < len(singular) < 12, "else this test tests nothing"
    many = starts(rows, np.ones(96), FitOptions(n_components=3, reg_covar=0, n_init=20, seed=singular[0]), n_features=2)
    assert 0 < len(many) < 20


# -- the sample -----------------------------------------------------------------------------------------------------
def test_the_sample_is_all_rows_where_they_are_few_and_bounded_where_they_are_many() -> None:
    assert sample_size(FitOptions(n_components=3), 1000, 2) == 1000
    assert sample_size(FitOptions(n_components=3), 10**9, 2) == 20_000
    assert sample_size(FitOptions(n_components=50, tol=1.0), 10**9, 1) == 20_000
    assert sample_size(FitOptions(n_components=500, tol=1.0), 10**9, 2) == 99_000, "3.3 * 20 p / D"
    assert sample_size(FitOptions(n_components=500), 10**9, 2) == 1_500_000, "p / (2 tol), p = 500 * (1 + 2 + 3)"
    assert sample_size(FitOptions(n_components=50, tol=1e-5), 10**9, 64) == sample.SAMPLE_BYTES // (8 * 64)
    assert sample_size(FitOptions(n_components=50, tol=0), 10**9, 10**7) == 500
    case = well_separated()
    assert sample_size(FitOptions(**given_start(case)), 10**9, 3) == 0


@pytest.mark.parametrize("what", ["numpy", "dask", "zarr", "dask of unknown chunks"])
@pytest.mark.parametrize("chunk", [1000, 333])
@pytest.mark.usefixtures("small_partitions")
def test_the_sample_is_the_same_rows_whatever_the_chunks(
    what: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SAMPLE_BYTES", 8 * 2 * 200)
    taken: list[Any] = []

    def noting(rows: Any, weights: Any, options: Any, **others: Any) -> Any:
        taken.append(rows)
        return starts(rows, weights, options, **others)

    monkeypatch.setattr(beginning, "starts", noting)
    rows = np.random.default_rng(3).standard_normal((2000, 2))
    options = {"n_components": 2, "max_iter": 0}
    for seed in (0, 0, 1):
        source = as_source(what, rows, tmp_path, chunk=chunk, name=f"{len(taken)}")
        GaussianMixture(**options, random_state=seed).fit(source)
    reference = GaussianMixture(**options, random_state=0).fit(rows[:])
    assert 150 < len(taken[0]) < 250
    assert_array_equal(taken[0], taken[1])
    assert_array_equal(taken[0], taken[3])
    assert len(np.intersect1d(taken[0][:, 0], taken[2][:, 0])) < 100, "another seed, other rows"
    numbers = [np.flatnonzero(rows[:, 0] == x)[0] for x in taken[0][:, 0]]
    assert np.all(np.diff(numbers) > 0), "in row order"
    assert np.isfinite(reference.means_).all()


def test_rows_of_no_weight_are_not_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLE_BYTES", 8 * 2 * 100)
    rows = np.random.default_rng(3).standard_normal((1000, 2))
    rows[::2] += 100
    w = np.arange(1000) % 2
    gm = GaussianMixture(2, init_params="random_from_data", max_iter=0, random_state=0).fit(rows, sample_weight=w)
    assert gm.means_.max() < 50


def test_a_sample_that_misses_the_rows_that_weigh_says_what_to_do() -> None:
    with pytest.raises(DataError, match="at least n_components = 3 rows of positive weight; got 2.*sample_weight"):
        starts(X[:2], np.ones(2), FitOptions(n_components=3), n_features=2)
