"""What is known of parameters beforehand: priors, adaptation, what is fixed, and floors, through the public door."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import invwishart, multivariate_normal
from sklearn.base import clone

from daskgmm import GaussianMixture, select
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, FitWarning, OptionError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from tests.clusters import LOCAL
from tests.fitting.driving import KINDS, small_partitions
from tests.reference_data import faithful

__all__ = ["small_partitions"]

pytestmark = pytest.mark.filterwarnings("ignore::daskgmm.errors.FitWarning")

X = faithful()
N = len(X)
#: The start S0 of the reference numbers, in each kind, and EM to its end.
PRECISIONS = {
    "full": np.stack([np.diag([2.0, 0.02])] * 2),
    "tied": np.diag([2.0, 0.02]),
    "diag": np.array([[2.0, 0.02]] * 2),
    "spherical": np.array([1 / 25.25] * 2),
}
MEANS = np.array([[2.0, 55.0], [4.5, 80.0]])
TO_THE_END: dict[str, Any] = {"tol": 0, "max_iter": 150, "reg_covar": 0}


def s0(kind: str = "full", **options: Any) -> GaussianMixture:
    start = {"weights_init": [0.5, 0.5], "means_init": MEANS, "precisions_init": PRECISIONS[kind]}
    return GaussianMixture(2, covariance_type=kind, **start, **{**TO_THE_END, **options})


def digits(found: Any, printed: Any) -> None:
    """Eight digits behind the point, or nine in all, as the reference numbers are printed."""
    assert_allclose(np.asarray(found), np.asarray(printed), rtol=5e-9, atol=2e-9)


def fitted(gm: GaussianMixture, rows: Any = X, **keywords: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        return gm.fit(rows, **keywords)


# -- reference numbers: mclust's, and a slow EM's --------------------------------------------------------------


@pytest.mark.parametrize("acceleration", [None, "squarem"])
@pytest.mark.parametrize(
    ("kind", "log_likelihood", "covariances"),
    [
        ("full", -1130.50926367, [0.0706689211, 0.4747686396, 32.0604844267, 0.165608532, 0.9314112062, 34.9063642962]),
        ("tied", -1140.26093548, [0.130917054, 0.7533471279, 34.3866138294]),
        ("spherical", -1709.58082961, [16.8837456504, 15.782785962]),
    ],
)
def test_weak_prior_is_mclusts(
    kind: str, log_likelihood: float, covariances: list[float], acceleration: str | None
) -> None:
    gm = fitted(s0(kind, covariance_prior="weak", acceleration=acceleration))
    assert_allclose(gm.log_likelihood_, log_likelihood, atol=2e-8, rtol=0)
    found = gm.covariances_[..., [0, 0, 1], [0, 1, 1]].ravel() if kind in ("full", "tied") else gm.covariances_
    assert_allclose(found, covariances, rtol=2e-8)
    if kind == "full":
        digits(gm.weights_[0], 0.35607573)
        assert_allclose(gm.means_.ravel(), [2.0370341378, 54.4852650311, 4.2900518575, 79.9728328252], rtol=2e-9)


def test_first_step_under_a_weak_prior_is_mclusts() -> None:
    with pytest.warns(UserWarning, match="max_iter"):
        gm = s0(covariance_prior="weak", acceleration=None, max_iter=1, tol=0).fit(X)
    assert_allclose(gm.log_likelihood_, -1137.083903, atol=1e-6, rtol=0)


def test_mclusts_scalar_for_diagonals_is_to_be_had() -> None:
    """mclust adds one number to all features: the mean variance over K^(2/D), 46.5315102."""
    scalar = X.var(axis=0, ddof=1).mean() / 2
    assert_allclose(scalar, 46.5315102, rtol=1e-9)
    known = {"mean_precision_prior": 0.01, "degrees_of_freedom_prior": 4}
    gm = fitted(s0("diag", covariance_prior=scalar, **known))
    assert_allclose(gm.log_likelihood_, -1229.21568993, atol=2e-8, rtol=0)
    weak = fitted(s0("diag", covariance_prior="weak"))
    assert weak.log_likelihood_ > gm.log_likelihood_ + 80  # (ours is one a feature)
    own = fitted(s0("diag", covariance_prior=X.var(axis=0, ddof=1) / 2, **known, mean_prior=X.mean(axis=0)))
    assert_allclose(own.covariances_, weak.covariances_, rtol=1e-9)


def test_without_a_prior_on_means_is_mclusts() -> None:
    gm = fitted(s0(covariance_prior="weak", mean_precision_prior=0))
    assert_allclose(gm.log_likelihood_, -1130.4565557, atol=1e-7, rtol=0)
    found = gm.covariances_[0][[0, 0, 1], [0, 1, 1]]
    assert_allclose(found, [0.0711446414, 0.4770527074, 32.3436945442], rtol=2e-8)


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_adaptation_is_reynolds(acceleration: str | None) -> None:
    known = {"mean_prior": MEANS, "mean_precision_prior": 16, "fixed": {"weights": True, "covariances": True}}
    one = fitted(s0(acceleration=acceleration, **{**known, "max_iter": 1, "tol": 0}))
    digits(one.means_, [[2.0663333718, 54.8502017309], [4.3217833589, 80.1909805153]])
    gm = fitted(s0(acceleration=acceleration, **known))
    assert_allclose(gm.means_, [[2.0633096281, 54.8097866017], [4.3193348427, 80.1674138181]], rtol=2e-9)
    assert_allclose(gm.log_likelihood_, -1254.20961974, atol=2e-8, rtol=0)
    start = fitted(s0(max_iter=0))
    for name in ("weights_", "covariances_", "precisions_cholesky_"):
        assert_array_equal(getattr(gm, name), getattr(start, name))
    assert_allclose(gm.bic(X), -2 * gm.log_likelihood_ + 4 * np.log(N), rtol=1e-12)  # (four numbers of means)


def test_floor_is_the_constrained_em() -> None:
    gm = fitted(s0(covariance_floor=np.diag([0.1, 35.0]), acceleration=None))
    totals = N * np.array(gm.lower_bounds_)
    assert_allclose(totals[:4], [-1261.447821, -1144.610890, -1140.295814, -1140.030563], atol=1e-6, rtol=0)
    assert (np.diff(totals) > -1e-9).all()
    leapt = fitted(s0(covariance_floor=[0.1, 35.0]))
    for found in (gm, leapt):
        assert_allclose(found.log_likelihood_, -1140.02651903, atol=2e-8, rtol=0)
        upper = found.covariances_[:, [0, 0, 1], [0, 1, 1]].ravel()
        printed = [0.1027933353, 0.0881346689, 37.7808046727, 0.17378586, 0.7361737887, 42.3449282442]
        assert_allclose(upper, printed, rtol=3e-7)


# -- the objective ---------------------------------------------------------------------------------------------


def log_prior(gm: GaussianMixture) -> float:
    """Of the weak prior on full covariances, by SciPy."""
    whole, mean = np.cov(X.T) / 2, X.mean(axis=0)
    return float(
        sum(
            multivariate_normal(mean, c / 0.01).logpdf(m) + invwishart(4, whole).logpdf(c)
            for m, c in zip(gm.means_, gm.covariances_, strict=True)
        )
    )


def test_lower_bound_is_the_mean_objective() -> None:
    gm = fitted(s0(covariance_prior="weak"))
    assert_allclose(gm.lower_bound_, (gm.log_likelihood_ + log_prior(gm)) / N, rtol=1e-10)
    assert_allclose(gm.score(X), gm.log_likelihood_ / N, rtol=1e-12)
    assert_allclose(gm.bic(X), -2 * gm.log_likelihood_ + 11 * np.log(N), rtol=1e-12)


OPTIONS: list[dict[str, Any]] = [
    {"covariance_prior": "weak"},
    {
        "covariance_prior": "weak",
        "weight_concentration_prior": 3,
        "mean_precision_prior": 40,
        "mean_prior": [3.0, 70.0],
    },
    {"mean_precision_prior": [5.0, 50.0], "mean_prior": MEANS},
    {"covariance_floor": "relative 0.12"},
    {"covariance_floor": "relative 0.12", "covariance_prior": "weak"},
    {"fixed": {"means": [True, False]}},
    {"fixed": {"weights": True, "means": [False, True]}, "covariance_prior": "weak"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_objective_never_falls(kind: str, options: dict[str, Any]) -> None:
    plain = fitted(s0(kind, acceleration=None, **{**options, "tol": 1e-12}))
    assert np.diff(plain.lower_bounds_).min() > -1e-12
    fast = fitted(s0(kind, **{**options, "tol": 1e-12}))
    assert np.diff(fast.lower_bounds_).min() > -1e-11
    assert_allclose(fast.lower_bound_, plain.lower_bound_, atol=1e-8, rtol=0)
    assert fast.n_iter_ <= plain.n_iter_


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_weights_are_repetition_and_chunks_are_nothing(
    kind: str, options: dict[str, Any], small_partitions: None
) -> None:
    weights = np.random.default_rng(0).integers(0, 4, N)
    few = {**options, "max_iter": 12, "tol": 0}
    found = fitted(s0(kind, **few), sample_weight=weights)
    again = fitted(s0(kind, **few), np.repeat(X, weights, axis=0))
    cut = fitted(s0(kind, **few), da.from_array(np.repeat(X, weights, axis=0), chunks=(37, 2)))
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        assert_allclose(getattr(again, name), getattr(found, name), rtol=1e-9)
        assert_allclose(getattr(cut, name), getattr(found, name), rtol=1e-9)


def test_strong_prior_is_what_comes_out() -> None:
    scale, nu = np.array([[0.3, 0.2], [0.2, 9.0]]), 1e13
    gm = fitted(
        s0(
            covariance_prior=nu * scale, degrees_of_freedom_prior=nu, mean_precision_prior=1e13, mean_prior=[1.0, 2.0],
            weight_concentration_prior=[1e13, 3e13], tol=1e-6,
        )
    )  # fmt: skip
    assert_allclose(gm.covariances_, [scale, scale], rtol=1e-5)
    assert_allclose(gm.means_, [[1.0, 2.0]] * 2, rtol=1e-5)
    assert_allclose(gm.weights_, [0.25, 0.75], rtol=1e-5)


def test_nothing_known_is_plain_em() -> None:
    plain = fitted(s0(max_iter=20, tol=0))
    for options in (
        {"weight_concentration_prior": 1},
        {"mean_precision_prior": 0},
        {"fixed": {"means": [False, False]}},
    ):
        found = fitted(s0(**{**options, "max_iter": 20, "tol": 0}))
        assert_allclose(found.covariances_, plain.covariances_, rtol=1e-9)
        assert_allclose(found.lower_bounds_, plain.lower_bounds_, rtol=1e-12)


# -- starts, samples, selections, files ------------------------------------------------------------------------


def groups(n_rows: int = 3000, seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 3]])[random.integers(3, size=n_rows)]
    return centres + random.standard_normal((n_rows, 3)) * [1.0, 0.5, 2.0]


@pytest.mark.parametrize("kind", KINDS)
def test_prior_is_of_all_rows_whatever_the_sample(kind: str, small_partitions: None) -> None:
    rows = groups()
    options = {
        "covariance_prior": "weak",
        "covariance_type": kind,
        "tol": 1e-9,
        "reg_covar": 0,
        "random_state": 0,
        "n_init": 3,
    }
    few = fitted(GaussianMixture(3, start_rows=300, **options), rows)
    all_of_them = fitted(GaussianMixture(3, **options), rows)
    order = [np.lexsort(gm.means_.round(1).T) for gm in (few, all_of_them)]
    assert_allclose(few.means_[order[0]], all_of_them.means_[order[1]], rtol=1e-3, atol=1e-3)
    assert_allclose(few.lower_bound_, all_of_them.lower_bound_, rtol=1e-7)


def test_selection_has_a_prior_of_its_own_for_each_number() -> None:
    found = select(
        X, n_components=[1, 2], covariance_type=["full", "diag"], covariance_prior="weak", random_state=0,
        tol=1e-9, max_iter=2000, reg_covar=0, n_init=2,
    )  # fmt: skip
    for row in found.table:
        alone = fitted(
            GaussianMixture(
                row["n_components"], covariance_type=row["covariance_type"], covariance_prior="weak", random_state=0,
                tol=1e-9, max_iter=2000, reg_covar=0, n_init=2,
            )
        )  # fmt: skip
        assert_allclose(row["bic"], alone.bic(X), rtol=1e-6)


def test_weak_prior_keeps_spikes_away() -> None:
    """Rows that repeat: without a prior a component closes in on them as far as reg_covar lets it."""
    random = np.random.default_rng(2)
    rows = np.concatenate([random.standard_normal((400, 2)), np.tile([0.3, 0.1], (30, 1))])
    start = {"weights_init": [0.9, 0.1], "means_init": [[0, 0], [0.3, 0.1]],
             "precisions_init": np.stack([np.eye(2), 1e3 * np.eye(2)]), "tol": 1e-6, "max_iter": 500}  # fmt: skip
    found = [fitted(GaussianMixture(2, **start, **known), rows) for known in ({}, {"covariance_prior": "weak"})]
    smallest = [np.linalg.eigvalsh(gm.covariances_).min() for gm in found]
    assert smallest[0] < 1e-5
    assert smallest[1] > 1e-3


def test_support_knows_the_floor() -> None:
    """A component on rows that are alike is a spike above a floor as above reg_covar, in whatever units."""
    random = np.random.default_rng(2)
    rows = np.concatenate([random.standard_normal((400, 2)), np.tile([0.3, 0.1], (30, 1))]) * [1.0, 100.0]
    start = {"weights_init": [0.9, 0.1], "means_init": [[0, 0], [0.3, 10]],
             "precisions_init": np.stack([np.diag([1, 1e-4]), 1e3 * np.diag([1, 1e-4])]), "tol": 1e-9}  # fmt: skip
    for floor in ("relative 1e-6", [1e-6, 1e-2], [[1e-6, 5e-5], [5e-5, 1e-2]]):
        with pytest.warns(UserWarning, match="no variance but covariance_floor"):
            gm = GaussianMixture(2, **start, covariance_floor=floor).fit(rows)
        assert gm.support_[1] > 100
        assert gm._unsupported == (1,)


def test_fixed_component_stays_where_others_move() -> None:
    """One of three components is known; the others are found, by moves too."""
    rows = groups()
    start = {
        "weights_init": [0.25, 0.5, 0.25], "means_init": [[0, 0.1, 0], [4.0, 4, 1], [5.0, 4, 1]],
        "fixed": {"weights": [True, False, False], "means": [True, False, False]},
    }  # fmt: skip
    gm = fitted(GaussianMixture(3, random_state=0, tol=1e-8, max_iter=500, **start), rows)
    assert gm.weights_[0] == 0.25
    assert_array_equal(gm.means_[0], [0, 0.1, 0])
    assert_allclose(gm.weights_.sum(), 1, rtol=1e-14)
    assert_allclose(sorted(gm.means_[1:].round().tolist()), [[0, 9, 3], [9, 0, 0]], atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    gm = s0(kind, covariance_prior="weak", fixed={"weights": True, "means": [True, False]}, mean_prior=[3, 70])
    gm = fitted(gm)
    gm.save(tmp_path / "m.zarr")
    again = GaussianMixture.load(tmp_path / "m.zarr")
    assert again.fixed == {"weights": True, "means": [True, False]}
    assert again.covariance_prior == "weak"
    assert again.bic(X) == gm.bic(X)
    free = {"full": 2 + 6, "tied": 2 + 3, "diag": 2 + 4, "spherical": 2 + 2}[kind]
    assert_allclose(gm.bic(X), -2 * gm.log_likelihood_ + free * np.log(N), rtol=1e-12)
    assert_array_equal(fitted(clone(again)).means_, gm.means_)


def test_far_from_zero_and_in_single_precision() -> None:
    far = X + np.array([1e8, -1e8])
    known = {"covariance_prior": "weak", "covariance_floor": "relative 1e-4", "tol": 1e-9, "max_iter": 300, "n_init": 2}
    near, away = (fitted(GaussianMixture(2, random_state=0, **known), rows) for rows in (X, far))
    order = [np.argsort(gm.means_[:, 0]) for gm in (near, away)]
    assert_allclose(away.covariances_[order[1]], near.covariances_[order[0]], rtol=1e-4)
    single = fitted(GaussianMixture(2, random_state=0, **known), X.astype("f4"))
    assert_allclose(single.lower_bound_, near.lower_bound_, rtol=1e-5)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_floor_does_not_depend_on_units(kind: str) -> None:
    known = {"covariance_type": kind, "covariance_floor": "relative 0.1", "random_state": 0, "tol": 1e-10, "n_init": 2,
             "max_iter": 900, "standardize": True}  # fmt: skip
    gm, scaled = (fitted(GaussianMixture(2, **known), X * scale) for scale in (1.0, [1e3, 1e-2]))
    grown = gm.covariances_ * (np.outer([1e3, 1e-2], [1e3, 1e-2]) if kind != "diag" else np.square([1e3, 1e-2]))
    assert_allclose(scaled.covariances_, grown, rtol=1e-6)
    least = 0.1 * np.cov(X.T)
    if kind != "diag":
        assert np.linalg.eigvalsh(gm.covariances_ - least).min() > -1e-9
    given = fitted(GaussianMixture(2, **{**known, "covariance_floor": least if kind != "diag" else np.diag(least)}))
    assert_allclose(given.covariances_, gm.covariances_, rtol=1e-6)


# -- what is refused -------------------------------------------------------------------------------------------


class Unread:
    """Rows that must not be read."""

    shape, dtype, ndim = (272, 2), np.dtype("f8"), 2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"weight_concentration_prior": 0.5}, "`weight_concentration_prior` must be None or numbers of at least 1"),
    ({"mean_precision_prior": -1}, "`mean_precision_prior` must be None or numbers of at least 0"),
    ({"mean_precision_prior": [1, 2, 3]}, "`mean_precision_prior` must have shape () or (2,); got (3,)"),
    ({"mean_prior": [1, 2]}, "`mean_prior` must be left out without `mean_precision_prior`"),
    ({"mean_prior": [1, 2, 3], "mean_precision_prior": 1}, "`mean_prior` must have shape () or (2,) or (2, 2)"),
    ({"degrees_of_freedom_prior": 4}, "`degrees_of_freedom_prior` must be left out without `covariance_prior`"),
    ({"degrees_of_freedom_prior": 1, "covariance_prior": 1.0}, "`degrees_of_freedom_prior` must be above 1"),
    ({"covariance_prior": "strong"}, "`covariance_prior` must be None, weak, a positive number"),
    ({"covariance_prior": [[1, 2], [2, 1]]}, "`covariance_prior` of component 0 must be positive definite"),
    ({"covariance_prior": -1.0}, "positive definite"),
    ({"covariance_prior": [1, 2, 3]}, "`covariance_prior` must have shape () or (2, 2) or (2, 2, 2); got (3,)"),
    ({"covariance_prior": "weak", "standardize": True}, "`covariance_prior` must be None with `standardize`"),
    ({"covariance_floor": 0}, "`covariance_floor` must be None, a positive number"),
    ({"covariance_floor": "relative 2"}, "`covariance_floor` must be None, a positive number"),
    ({"covariance_floor": [[1, 2], [2, 1]]}, "`covariance_floor` of component 0 must be positive definite"),
    ({"covariance_floor": np.ones((3, 3))}, "`covariance_floor` must have shape () or (2, 2); got (3, 3)"),
    ({"covariance_floor": [[2, 1], [1, 2]], "covariance_type": "diag"}, "`covariance_floor` must have shape () or (2,"),
    ({"covariance_floor": [2, 1], "covariance_type": "spherical"}, "`covariance_floor` must have shape ()"),
    ({"covariance_floor": 1.0, "reg_covar": 0.1}, "`reg_covar` must be left out with `covariance_floor`"),
    (
        {"fixed": {"weights": True}, "weights_init": [0.5, 0.4], "noise": 100.0, "noise_weight_init": 0.1},
        "`fixed` must be without weights where there is `noise`",
    ),
    ({"covariance_prior": "weak", "covariance_type": "VEE"}, "`covariance_prior` must be None with `covariance_type`"),
    ({"covariance_floor": 1.0, "covariance_type": "lowrank-1"}, "`covariance_floor` must be None with"),
    ({"fixed": {"mean": True}}, "`fixed` must be None, or a dict of True or a mask"),
    ({"fixed": {"means": True}}, "`means_init` says at which the means are fixed"),
    ({"fixed": {"means": [True]}, "means_init": MEANS}, "`fixed` must be of 2 truths, one a component, for means"),
    ({"fixed": {"means": True}, "means_init": MEANS, "standardize": True}, "`fixed` must be None with `standardize`"),
    (
        {"fixed": {"covariances": [True, False]}, "precisions_init": PRECISIONS["tied"], "covariance_type": "tied"},
        "`fixed` must be all or none of the covariances with `covariance_type` tied",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said[:60] for _, said in REFUSED])
def test_what_makes_no_sense_is_refused_before_anything_is_read(options: dict[str, Any], said: str) -> None:
    def never(block: Any) -> Any:
        raise AssertionError("read")

    rows = da.map_blocks(never, da.zeros((272, 2), chunks=100), meta=np.empty((0, 2)))
    options = {"reg_covar": 1e-6, **options}
    with pytest.raises(OptionError, match=re.escape(said.replace("`", ""))):
        GaussianMixture(2, **options).fit(rows)


def test_singular_rows_are_refused() -> None:
    rows = np.column_stack([X, np.ones(N)])
    for name, value in (("covariance_prior", "weak"), ("covariance_floor", "relative 1e-4")):
        with pytest.raises(OptionError, match=rf"{name} must be of rows whose covariance is positive definite"):
            GaussianMixture(2, **{name: value}).fit(rows)
        fitted(GaussianMixture(2, random_state=0, n_init=2, **{name: 0.01}), rows)  # (the remedy)


# -- adaptation ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_adapted_is_reynolds_and_keeps_the_rest_to_the_bit(small_partitions: None) -> None:
    model = fitted(GaussianMixture(2, random_state=0, n_init=1), X)
    rows = X[:60] + np.array([0.3, 3.0])
    one = model.adapted(rows, max_iter=1, tol=0)
    resp = model.predict_proba(rows)
    counts, sums = resp.sum(axis=0), resp.T @ rows
    assert_allclose(one.means_, (sums + 16 * model.means_) / (counts + 16)[:, np.newaxis], rtol=1e-10)
    cut = model.adapted(da.from_array(rows, chunks=(7, 2)), max_iter=1, tol=0)
    assert_allclose(cut.means_, one.means_, rtol=1e-12)
    for name in ("weights_", "covariances_", "precisions_cholesky_"):
        assert_array_equal(getattr(one, name), getattr(model, name))
    assert not one.warm_start
    every = model.adapted(rows, max_iter=1, tol=0, relevance=40, adapt=("weights", "means", "covariances"))
    assert_allclose(every.weights_, (counts + 40 * model.weights_) / (60 + 40), rtol=1e-10)
    for k in range(2):
        away, moved = rows - every.means_[k], model.means_[k] - every.means_[k]
        total = (resp[:, k] * away.T) @ away + 40 * np.outer(moved, moved) + 40 * model.covariances_[k]
        assert_allclose(every.covariances_[k], total / (counts[k] + 40), rtol=1e-9)


def test_adapted_to_next_to_nothing_stays() -> None:
    model = fitted(GaussianMixture(2, random_state=0, n_init=1), X)
    adapted = model.adapted(X[:2], relevance=1e12, adapt=("weights", "means", "covariances"))
    for name in ("weights_", "means_", "covariances_"):
        assert_allclose(getattr(adapted, name), getattr(model, name), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("adapt", [("means",), ("weights", "means", "covariances")])
def test_adapted_to_fewer_rows_than_components(adapt: tuple[str, ...]) -> None:
    """(As a speaker's model is, of a background model of thousands of components.)"""
    model = fitted(GaussianMixture(2, random_state=0, n_init=1), X)
    row = X[:1] + 1.0
    one = model.adapted(row, adapt=adapt, max_iter=1, tol=0)
    resp = model.predict_proba(row)[0]
    assert_allclose(one.means_, (resp[:, None] * row + 16 * model.means_) / (resp + 16)[:, None], rtol=1e-10)
    if "weights" in adapt:
        assert_allclose(one.weights_, (resp + 16 * model.weights_) / 17, rtol=1e-10)
    # What nothing is known of needs rows, and no remedy is a number of components that is given.
    given = {"means_init": model.means_, "weights_init": model.weights_, "precisions_init": model.precisions_}
    said = (
        r"X must have at least n_components = 2 rows; got 1 .*Give more rows: the components are those that it begins"
    )
    for options in (given, {**given, "fixed": {"means": True}}, {"means_init": model.means_}):
        with pytest.raises(DataError, match=said):
            GaussianMixture(2, **options).fit(row)
    with pytest.raises(DataError, match=r"at least n_components = 2 rows; got 1 in .*\. Decrease n_components\.$"):
        GaussianMixture(2).fit(row)
    gaps = np.where(np.arange(3)[:, None] < 2, np.nan, row)
    with pytest.raises(DataError, match=r"= 2 finite rows; got 1 in .*Give more rows: .* Or check the input\.$"):
        GaussianMixture(2, means_init=model.means_, non_finite="drop").fit(gaps)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"relevance": 0}, "relevance must be a number above 0"),
        ({"adapt": "means"}, "adapt must name some of weights, means, covariances"),
        ({"adapt": ("variances",)}, "adapt must name some of weights, means, covariances"),
        ({"adapt": ("covariances",), "relevance": 3}, "relevance must be above 4 where covariances"),
    ],
)
def test_adaptation_refuses(options: dict[str, Any], said: str) -> None:
    model = GaussianMixture.from_parameters([0.5, 0.5], MEANS, np.linalg.inv(PRECISIONS["full"]))
    with pytest.raises(OptionError, match=said):
        model.adapted(X, **options)


def test_a_mixture_with_noise_is_not_adapted() -> None:
    model = GaussianMixture.from_parameters([0.5, 0.4], MEANS, np.stack([np.eye(2)] * 2), noise=100.0)
    with pytest.raises(OptionError, match="have no noise, whose weight takes its share"):
        model.adapted(X)


def test_adapt_as_a_command(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", X[:60] + np.array([0.3, 3.0]))
    model = fitted(GaussianMixture(2, random_state=0, n_init=1), X)
    model.save(tmp_path / "m.zarr")
    places = [str(tmp_path / name) for name in ("m.zarr", "rows.npy", "n.zarr")]
    command = ["adapt", *places[:2], "--output", places[2], "--relevance", "8", "--tol", "1e-6"]
    done = CliRunner().invoke(gmm, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["command"] == "adapt"
    own = GaussianMixture.load(places[2])
    expected = model.adapted(np.load(places[1]), relevance=8, tol=1e-6)
    assert_array_equal(own.means_, expected.means_)
    assert_array_equal(own.covariances_, model.covariances_)
    assert own.bic(X) == expected.bic(X)
    assert json.loads(CliRunner().invoke(gmm, command).stdout)["skipped"]
    inspected = json.loads(CliRunner().invoke(gmm, ["inspect", places[2]]).stdout)
    assert inspected["free_parameters"] == 4
    other = CliRunner().invoke(gmm, [*command, "--relevance", "9"])
    assert other.exit_code == 73


def test_priors_and_floors_as_flags_and_in_files(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", X)
    config = tmp_path / "options.toml"
    config.write_text(
        'covariance_floor = [0.1, 35]\ncovariance_prior = "[[2, 0.5], [0.5, 90]]"\nmean_precision_prior = 0.5\n'
    )
    asked = {"n_init": 1, "covariance_floor": [0.1, 35], "covariance_prior": [[2, 0.5], [0.5, 90]], "random_state": 0}
    flags = [
        "--covariance-floor",
        "0.1,35",
        "--covariance-prior",
        "[[2, 0.5], [0.5, 90]]",
        "--mean-precision-prior",
        "0.5",
    ]
    expected = fitted(GaussianMixture(2, mean_precision_prior=0.5, **asked))
    for i, own in enumerate([flags, ["--config", str(config)]]):
        output = str(tmp_path / f"m{i}.zarr")
        done = CliRunner().invoke(
            gmm, ["fit", str(tmp_path / "rows.npy"), "-k", "2", "--restarts", "1", "-o", output, *own]
        )
        assert done.exit_code == 0, done.output
        assert_array_equal(GaussianMixture.load(output).covariances_, expected.covariances_)
    done = CliRunner().invoke(
        gmm, ["fit", str(tmp_path / "rows.npy"), "-k", "2", "-o", output, "--force", "--restarts", "1",
              "--covariance-floor", "relative 1e-4", "--degrees-of-freedom-prior", "5"],
    )  # fmt: skip
    assert done.exit_code == 64
    assert "--degrees-of-freedom-prior must be left out without --covariance-prior" in done.output


KILLED: list[dict[str, Any]] = [
    {"covariance_prior": "weak", "covariance_floor": "relative 1e-3"},
    {"fixed": {"weights": [True, False], "means": [False, True]}, "weights_init": [0.4, 0.6], "means_init": MEANS,
     "covariance_prior": [[1.0, 0.2], [0.2, 40]]},
]  # fmt: skip


def test_workers_and_a_checkpoint_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 2000)
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(80, 2))
    source = open_rows(tmp_path / "X.zarr")

    class KilledError(Exception):
        pass

    asked = [FitOptions(2, tol=0, max_iter=6, n_init=2, **known) for known in KILLED]
    fits = [fit_mixture(source, options) for options in asked]
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **LOCAL) as cluster, Client(cluster):
        for i in range(len(KILLED)):
            options, passes, alone = asked[i], [0], fits[i]

            def kill(event: Any, passes: list[int] = passes) -> None:
                passes[0] += event.what == "em"
                if passes[0] == 4:  # (after a leap, which the prior brings back)
                    raise KilledError

            checkpoint = Checkpoint.at(str(tmp_path / f"checkpoint{i}"))
            with pytest.raises(KilledError):
                fit_mixture(source, options, checkpoint=checkpoint, listener=kill)
            found = fit_mixture(source, options, checkpoint=Checkpoint.at(str(tmp_path / f"checkpoint{i}")))
            assert_array_equal(found.parameters.covariances, alone.parameters.covariances)
            assert_array_equal(found.parameters.means, alone.parameters.means)
            assert found.log_likelihood == alone.log_likelihood
            assert found.parameters.n_free == alone.parameters.n_free


def test_a_component_of_a_known_covariance_that_few_rows_reach_is_no_spike() -> None:
    X = faithful()
    model = GaussianMixture(2, random_state=0).fit(X)
    with warnings.catch_warnings(action="error", category=FitWarning):
        adapted = model.adapted(X[X[:, 0] > 4][:20], relevance=16)
    assert adapted.means_.shape == (2, 2)
