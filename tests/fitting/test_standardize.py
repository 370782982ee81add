"""standardize: the fit to features in units of their standard deviations, told in units of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from daskgmm import GaussianMixture, select
from daskgmm.errors import OptionError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from tests.clusters import LOCAL
from tests.test_cli import call
from tests.test_seams import MeansNear

SCALES = np.array([1.0, 1000.0, 1e-3])


def rows(n: int = 3000, offset: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(0)
    X = np.concatenate([random.normal(size=(n, 3)), random.normal([3, 2, -1], [1, 0.5, 2], (n // 2, 3))])
    return (random.permutation(X) + offset) * SCALES


X = rows()
SHIFT, SCALE = X.mean(axis=0), X.std(axis=0)
VOLUME = float(np.log(SCALE).sum())


def agree(ours: GaussianMixture, theirs: GaussianMixture, n: int = len(X)) -> None:
    """A standardised fit is the fit to standardised rows, in other units."""
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.weights_, theirs.weights_, rtol=1e-9)
    np.testing.assert_allclose((ours.means_ - SHIFT) / SCALE, theirs.means_, rtol=1e-8, atol=1e-9)
    units = SCALE**2 if ours.covariance_type == "diag" else np.outer(SCALE, SCALE)
    np.testing.assert_allclose(ours.covariances_ / units, theirs.covariances_, rtol=1e-7, atol=1e-9)
    assert ours.log_likelihood_ == pytest.approx(theirs.log_likelihood_ - n * VOLUME, rel=1e-10)
    np.testing.assert_allclose(ours.lower_bounds_, np.array(theirs.lower_bounds_) - VOLUME, rtol=1e-9)
    np.testing.assert_allclose(ours.support_, theirs.support_, rtol=1e-6)
    for mine, other in zip(ours.history_, theirs.history_, strict=True):
        if other["mean_log_likelihood"] is not None:
            assert mine["mean_log_likelihood"] == pytest.approx(other["mean_log_likelihood"] - VOLUME, abs=1e-8)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize(
    "start",
    [{}, {"init_params": "k-means||"}, {"means_init": [[0.0, 0, 0], [3, 2000, -1e-3]]}],
    ids=["sample", "all rows", "given"],
)
def test_it_is_the_fit_to_standardised_rows(kind: str, start: dict[str, Any]) -> None:
    there = {"means_init": (np.array(start["means_init"]) - SHIFT) / SCALE} if "means_init" in start else start
    ours = GaussianMixture(2, covariance_type=kind, standardize=True, random_state=0, **start).fit(X)
    theirs = GaussianMixture(2, covariance_type=kind, random_state=0, **there).fit((X - SHIFT) / SCALE)
    agree(ours, theirs)
    assert ours.score(X) == pytest.approx(ours.log_likelihood_ / len(X), abs=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict((X - SHIFT) / SCALE))
    precisions = ours.precisions_ if kind == "diag" else ours.precisions_ @ ours.covariances_
    np.testing.assert_allclose(
        precisions, 1 / ours.covariances_ if kind == "diag" else np.eye(3) + 0 * precisions, atol=1e-6
    )


def test_given_precisions_are_those_of_the_data() -> None:
    precisions = np.stack([np.diag(1 / SCALE**2)] * 2)
    means = [[0.0, 0, 0], [3, 2000, -1e-3]]
    given = {"weights_init": [0.6, 0.4], "tol": 1e-4, "acceleration": None}
    ours = GaussianMixture(2, standardize=True, means_init=means, precisions_init=precisions, **given)
    plain = GaussianMixture(2, means_init=means, precisions_init=precisions, reg_covar=0, **given)
    for mixture in (ours, plain):
        mixture.fit(X)
    np.testing.assert_allclose(ours.lower_bounds_, plain.lower_bounds_, atol=1e-4)  # (but for reg_covar)
    np.testing.assert_allclose(ours.means_, plain.means_, rtol=1e-3, atol=1e-6)


def test_units_no_longer_matter() -> None:
    """reg_covar of 1e-6 is as large as the variance of the third feature."""
    other = np.array([7.0, 1e-5, 3e4])
    a, b = (GaussianMixture(2, standardize=True, random_state=0).fit(X * units) for units in (np.ones(3), other))
    np.testing.assert_allclose(b.means_ / other, a.means_, rtol=1e-6, atol=1e-9)
    plain = GaussianMixture(2, random_state=0).fit(X)
    assert a.log_likelihood_ > plain.log_likelihood_ + 100


def test_far_from_zero() -> None:
    far = rows(offset=1e8)
    ours = GaussianMixture(2, standardize=True, random_state=0).fit(far)
    near = GaussianMixture(2, standardize=True, random_state=0).fit(far - np.median(far, axis=0))
    np.testing.assert_allclose(ours.covariances_ / near.covariances_, 1, atol=1e-4)
    assert ours.log_likelihood_ == pytest.approx(near.log_likelihood_, rel=1e-7)


def test_weights_dropped_rows_and_a_constant_feature() -> None:
    weights = np.random.default_rng(1).integers(0, 3, len(X)).astype(float)
    spoiled = np.column_stack([X, np.full(len(X), 7.0)])
    spoiled[::50, 1] = np.nan
    ours = GaussianMixture(2, standardize=True, non_finite="drop", covariance_type="diag", random_state=0)
    ours.fit(spoiled, sample_weight=weights)
    kept = np.isfinite(spoiled[:, 1])
    Z, w = X[kept], weights[kept]
    shift = np.average(Z, axis=0, weights=w)
    scale = np.sqrt(np.average((Z - shift) ** 2, axis=0, weights=w))
    ones = np.column_stack([(Z - shift) / scale, np.zeros(len(Z))])
    theirs = GaussianMixture(2, covariance_type="diag", random_state=0).fit(ones, sample_weight=w)
    order, other = np.argsort(ours.means_[:, 0]), np.argsort(theirs.means_[:, 0])
    expected = theirs.means_[other] * [*scale, 1] + [*shift, 7]
    np.testing.assert_allclose(ours.means_[order], expected, rtol=2e-3, atol=2e-5)
    assert ours.n_dropped_ == np.count_nonzero(~kept)


def test_a_selection_and_its_further_search() -> None:
    ours = select(X, n_components=[1, 2], n_folds=2, criterion="held_out",
                  standardize=True, random_state=0)  # fmt: skip
    theirs = select((X - SHIFT) / SCALE, n_components=[1, 2], n_folds=2, criterion="held_out", random_state=0)
    for mine, other in zip(ours.table, theirs.table, strict=True):
        assert mine["n_components"] == other["n_components"]
        assert mine["bic"] == pytest.approx(other["bic"] + 2 * len(X) * VOLUME, abs=0.2)
        assert mine["held_out"] == pytest.approx(other["held_out"] - VOLUME, abs=1e-4)


def test_a_warm_start_goes_on_in_units_of_the_data() -> None:
    options = {"standardize": True, "random_state": 0, "tol": 1e-4, "acceleration": None, "escape": False}
    whole = GaussianMixture(3, max_iter=400, n_init=1, **options).fit(X)
    part = GaussianMixture(3, max_iter=5, n_init=1, **options)
    with pytest.warns(Warning, match="max_iter"):
        part.fit(X)
    part.set_params(warm_start=True, max_iter=400).fit(X)
    assert part.log_likelihood_ == pytest.approx(whole.log_likelihood_, rel=1e-8)


def test_workers_and_a_checkpoint_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(500, 3))
    source, options = open_rows(tmp_path / "X.zarr"), FitOptions(3, standardize=True, tol=0, max_iter=8)
    alone = fit_mixture(source, options)
    assert len(alone.lower_bounds) > 4
    passes = 0

    class KilledError(Exception):
        pass

    def kill(event: Any) -> None:
        nonlocal passes
        passes += event.what == "em"
        if passes == 3:
            raise KilledError

    place = str(tmp_path / "checkpoint")
    with LocalCluster(n_workers=2, threads_per_worker=1, **LOCAL) as cluster, Client(cluster):
        with pytest.raises(KilledError):
            fit_mixture(source, options, checkpoint=Checkpoint.at(place), listener=kill)
        found = fit_mixture(source, options, checkpoint=Checkpoint.at(place))
    np.testing.assert_array_equal(found.parameters.covariances, alone.parameters.covariances)
    np.testing.assert_array_equal(found.parameters.means, alone.parameters.means)
    assert found.log_likelihood == alone.log_likelihood
    assert [r["mean_log_likelihood"] for r in found.history] == [r["mean_log_likelihood"] for r in alone.history]


def test_it_takes_no_pass_more_and_a_dask_array_stays_lazy() -> None:
    lazy = da.from_array(X, chunks=(1000, 3))
    mixture = GaussianMixture(2, standardize=True, random_state=0).fit(lazy)
    assert mixture.n_passes_ == mixture.n_iter_ + 2
    eager = GaussianMixture(2, standardize=True, random_state=0).fit(X)
    np.testing.assert_allclose(mixture.means_, eager.means_, rtol=1e-9, atol=1e-12)


def test_the_command_line_and_the_model_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = call("fit", tmp_path / "x.npy", "-k", 2, "--standardize", "-o", tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert loaded.standardize is True
    assert json.loads(done.stdout)["log_likelihood"] == pytest.approx(loaded.score(X) * len(X), rel=1e-10)
    ours = GaussianMixture(2, standardize=True, random_state=0).fit(X)
    np.testing.assert_allclose(np.sort(loaded.means_[:, 0]), np.sort(ours.means_[:, 0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"covariance_type": "spherical"}, "standardize must be False with covariance_type spherical"),
        ({"standardize": 1}, "standardize must be True or False"),
        ({"prior": MeansNear(10.0)}, "standardize must be False with a prior or a kernel of yours"),
    ],
)
def test_what_it_does_not_go_with(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        GaussianMixture(2, **{"standardize": True, **options}).fit(X)


def test_a_sample_of_few_rows() -> None:
    """There covariances are shrunk to the one within all components, in the units of the sample."""
    random = np.random.default_rng(5)
    X = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 3.0]])[random.integers(3, size=2000)] + random.standard_normal((2000, 3))
    gm = GaussianMixture(3, standardize=True, start_rows=300, n_init=2, random_state=0).fit(X)
    assert sorted(gm.means_.round().tolist()) == [[0, 0, 0], [0, 9, 3], [9, 0, 0]]
