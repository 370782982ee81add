"""Rows with gaps beside what else a fit may be: labels, noise, families, priors, Bayes, checkpoints, workers, parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import OptionError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.block import Block
from daskgmm.mixture.row_set import RowSet
from daskgmm.passes.known_classes import KnownClasses
from daskgmm.passes.memory import peak_task_bytes
from daskgmm.passes.rows import Rows
from daskgmm.sources.opening import open_rows
from tests.clusters import LOCAL
from tests.fitting.driving import small_partitions
from tests.fitting.test_gaps import GAPS, PLAIN, groups, quiet
from tests.test_parts import assert_same, fitted_by_parts
from tests.test_seams import went_on

__all__ = ["small_partitions"]


def ascent(mixture: Any, X: Any) -> Any:
    found = quiet(mixture, X)
    assert np.diff(found.lower_bounds_).min() >= -1e-12
    return found


def test_a_row_with_gaps_and_a_label_is_of_its_class() -> None:
    X, at = groups(), np.arange(600)
    labels = np.where(at % 10 < 2, 1 - at % 2, -1)
    found = GaussianMixture(2, **GAPS).fit(X, labels=labels)
    assert_allclose(found.means_, [[6.0] * 4, [0.0] * 4], atol=0.3)


def known_of(X: np.ndarray, labels: np.ndarray, n_block: int) -> KnownClasses:
    zero = found = KnownClasses.zero(2, 4, squares_alone=False)
    for low in range(0, len(X), n_block):
        x = np.ascontiguousarray(X[low : low + n_block].T)
        gaps = np.isnan(x)
        block = Block(np.where(gaps, 0.0, x), None, low, gaps=gaps if gaps.any() else None)
        found = found.merge(zero.of_block(block, labels[low : low + n_block], ~gaps.all(axis=0)))
    return found


@pytest.mark.parametrize("n_block", [600, 70, 1])
def test_moments_of_a_class_are_those_of_the_values_that_are_there(n_block: int) -> None:
    X, at = groups() + 1e8, np.arange(600)
    labels = at % 2
    X[labels == 1, 3] = np.nan
    whole = RowSet(600, 599.0, np.full(4, 7.0), np.full(4, 599.0))
    found = known_of(X, labels, n_block).completed(whole)
    for c in (0, 1):
        own = X[(labels == c) & ~np.isnan(X).all(axis=1)]
        mean, variance = np.nanmean(own[:, :3], axis=0), np.nanvar(own[:, :3] - 1e8, axis=0)
        assert found.weights[c] == len(own)
        assert_allclose(found.means[c, :3] - 1e8, mean - 1e8, atol=1e-6)
        assert_allclose(np.diag(found.scatters[c])[:3] / len(own), variance, rtol=1e-6)
    # (Of a feature that a class lacks all rows tell.)
    assert found.means[1, 3] == 7.0
    assert found.scatters[1, 3, 3] / found.weights[1] == pytest.approx(1.0)


def test_a_label_alone_decides() -> None:
    X = np.array([[0.0, np.nan], [0.1, 0.0], [5.0, 5.0], [5.1, np.nan], [5.2, 5.3], [0.2, 0.1]])
    labels = np.array([0, 0, 1, 1, 0, 1])
    found = quiet(GaussianMixture(2, covariance_type="diag", **{**PLAIN, "max_iter": 1}), X, labels=labels)
    assert_allclose(found.means_[:, 0], [(0.0 + 0.1 + 5.2) / 3, (5.0 + 5.1 + 0.2) / 3])


def test_noise_is_refused_before_anything_is_read() -> None:
    with pytest.raises(OptionError, match="non_finite.*'error' or 'drop' with noise.*leave out"):
        GaussianMixture(2, noise=True, **GAPS).fit("nowhere.zarr")
    X = groups(share=0.0)
    X = X[~np.isnan(X).any(axis=1)]
    found = quiet(GaussianMixture(2, noise=1e4, random_state=0), X).set_params(noise=False, non_finite="marginalize")
    for ask in (found.predict, found.score_samples, found.impute, found.score):
        with pytest.raises(OptionError, match=r"have no noise.*lack some.*from_parameters"):
            ask(X)


@pytest.mark.parametrize(("kind", "more"), [("VEE", {}), ("lowrank", {"n_factors": 1})])
def test_families(kind: str, more: dict[str, Any]) -> None:
    found = ascent(GaussianMixture(2, covariance_type=kind, **{**PLAIN, "max_iter": 15}, **more), groups())
    assert_allclose(np.sort(found.means_[:, 0]), [0.0, 6.0], atol=0.3)


def test_a_weak_prior_is_of_each_feature() -> None:
    X = groups()
    found = ascent(GaussianMixture(2, covariance_prior="weak", **{**PLAIN, "max_iter": 15}), X)
    weight = int((~np.isnan(X)).any(axis=1).sum())
    given = np.diag(np.nanvar(X, axis=0) * weight / (weight - 1) / 2 ** (2 / 4))
    same = quiet(
        GaussianMixture(2, covariance_prior=given, mean_precision_prior=0.01, mean_prior=np.nanmean(X, axis=0),
                        **{**PLAIN, "max_iter": 15}), X,
    )  # fmt: skip
    assert_allclose(found.covariances_, same.covariances_, rtol=1e-8, atol=1e-10)
    X[:, 2] = np.where(np.isnan(X[:, 2]), np.nan, 1.0)
    with pytest.raises(OptionError, match="singular.*Drop the features that are constant"):
        GaussianMixture(2, covariance_prior="weak", **GAPS).fit(X)


def test_what_is_fixed_stays() -> None:
    means = np.array([[0.0] * 4, [6.0] * 4])
    found = quiet(GaussianMixture(2, means_init=means, fixed={"means": True}, **GAPS), groups())
    assert_array_equal(found.means_, means)


@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_variational_bayes(kind: str) -> None:
    found = ascent(BayesianGaussianMixture(3, covariance_type=kind, **{**PLAIN, "max_iter": 15}), groups())
    assert found.effective_n_components_ == 2


def test_the_promise_of_memory_counts_gaps() -> None:
    X, n_components, d = open_rows(da.zeros((10**6, 200), chunks=(1000, 200))), 40, 200
    taken = {}
    for non_finite in ("error", "marginalize"):
        options = FitOptions(n_components=n_components, non_finite=non_finite)
        rows = Rows.plan(X, None).checked(non_finite)
        need = fit_need([options], X)
        taken[non_finite] = peak_task_bytes(rows, need), need.own_bytes
    # Precisions, the same feature by feature, and covariances.
    assert taken["marginalize"][0] - taken["error"][0] > 3 * 8 * n_components * d * d
    assert taken["marginalize"][1] > taken["error"][1]


def test_bits_do_not_depend_on_workers(small_partitions: None) -> None:
    X = da.from_array(groups(1500), chunks=(150, 4))
    bits = set()
    for how in ({"scheduler": "synchronous"}, {"scheduler": "threads", "num_workers": 2}, {"num_workers": 4}):
        with dask.config.set({"scheduler": "threads", **how}):
            found = quiet(GaussianMixture(2, max_iter=5, **GAPS), X)
        bits.add(found.means_.tobytes() + found.covariances_.tobytes())
    assert len(bits) == 1


def test_a_fit_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=groups(), chunks=(150, 4))
    options = FitOptions(2, n_init=1, tol=0, max_iter=5, non_finite="marginalize")
    for ends_after in (1, 3):
        undisturbed, again = went_on(place, options, tmp_path, ends_after=ends_after)
        assert again.lower_bounds == undisturbed.lower_bounds
        assert_array_equal(again.parameters.means, undisturbed.parameters.means)
        assert_array_equal(again.parameters.covariances, undisturbed.parameters.covariances)


def test_a_fit_by_parts_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 8192)
    zarr.create_array(tmp_path / "X.zarr", data=groups(), chunks=(100, 4))
    (tmp_path / "parts").mkdir()
    typed = ["-k", "2", "--non-finite", "marginalize", "--restarts", "1"]
    model, _ = fitted_by_parts(tmp_path / "parts", str(tmp_path / "X.zarr"), 2, *typed)
    options = FitOptions(2, n_init=1, non_finite="marginalize")
    assert_same(model, fit_mixture(open_rows(str(tmp_path / "X.zarr")), options))


@pytest.mark.parametrize("n_workers", [1, 2])
def test_bits_are_those_of_a_cluster(n_workers: int, small_partitions: None) -> None:
    X = da.from_array(groups(1500), chunks=(150, 4))
    alone = quiet(GaussianMixture(2, max_iter=4, n_init=1, **GAPS), X)
    with LocalCluster(n_workers=n_workers, threads_per_worker=1, **LOCAL) as cluster, Client(cluster):
        found = quiet(GaussianMixture(2, max_iter=4, n_init=1, **GAPS), X)
    assert_array_equal(found.means_, alone.means_)
    assert_array_equal(found.covariances_, alone.covariances_)


def test_tempered_starts_on_a_sample_know_gaps() -> None:
    """Where the sample is not all rows, starts of other kinds compete, whose first steps are EM with gaps too."""
    random = np.random.default_rng(3)
    X = np.concatenate([random.normal(0, 1, (2000, 2)), random.normal(8, 1, (2000, 2))])
    X[random.random(X.shape) < 0.1] = np.nan
    gm = GaussianMixture(2, non_finite="marginalize", start_rows=600, random_state=0).fit(X)
    assert_allclose(np.sort(gm.means_, axis=0), [[0, 0], [8, 8]], atol=0.1)
