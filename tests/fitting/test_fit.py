"""Fits from end to end where that is hard: row weights, restarts that fail, data at the edge of a double's digits."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture
from daskgmm.errors import CollapsedComponentError, DataError, NotFiniteError
from daskgmm.fitting import evaluate, race
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.parallel_start import N_ROUNDS
from daskgmm.fitting.status import Status
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.fitting.driving import (
    KINDS,
    PLAIN,
    SOURCES,
    Blocks,
    as_source,
    given_start,
    small_partitions,
    well_separated,
)
from tests.sources.test_zarr_source import CountingStore

__all__ = ["small_partitions"]

PARAMETERS = ("weights_", "means_", "covariances_")


def assert_close(gm: GaussianMixture, other: Any, *, rtol: float = 1e-10) -> None:
    for name in PARAMETERS:
        expected = getattr(other, name)
        assert_allclose(getattr(gm, name), expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)
    assert_allclose(gm.lower_bounds_, other.lower_bounds_, rtol=rtol)


# -- row weights -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.usefixtures("small_partitions")
def test_whole_weights_repeat_rows_and_zero_removes_them(kind: str, what: str, tmp_path: Path) -> None:
    case = well_separated(kind, n_rows=400)
    w = np.random.default_rng(0).integers(0, 4, 400)
    repeated = np.repeat(case.X, w, axis=0)
    options = PLAIN | given_start(case) | {"tol": 1e-5}
    X = as_source(what, case.X, tmp_path, chunk=100)
    weights = as_source(what, w, tmp_path, chunk=70, name="w")
    gm = GaussianMixture(**options).fit(X, sample_weight=weights)
    other = GaussianMixture(**options).fit(repeated)
    assert_close(gm, other)
    assert gm.n_iter_ == other.n_iter_
    assert gm.log_likelihood_ == pytest.approx(other.log_likelihood_, rel=1e-12)
    for name in ("score", "aic", "bic"):
        found = getattr(gm, name)(X, sample_weight=weights)
        assert found == pytest.approx(getattr(other, name)(repeated), rel=1e-11)


@pytest.mark.parametrize("rows", ["numpy", "dask", "zarr", "dask of unknown chunks"])
@pytest.mark.parametrize("weights", ["numpy", "dask", "zarr", "dask of unknown chunks", "npy path"])
@pytest.mark.usefixtures("small_partitions")
def test_rows_and_weights_may_come_from_different_sources(rows: str, weights: str, tmp_path: Path) -> None:
    case = well_separated("diag", n_rows=400)
    w = np.random.default_rng(1).uniform(0, 3, 400)
    options = PLAIN | given_start(case) | {"tol": 1e-4}
    X = as_source(rows, case.X, tmp_path, chunk=120)
    gm = GaussianMixture(**options).fit(X, sample_weight=as_source(weights, w, tmp_path, chunk=77, name="w"))
    assert_close(gm, GaussianMixture(**options).fit(case.X, sample_weight=w))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1e-18, 1e-6, 250.0])
def test_the_scale_of_the_weights_does_not_matter(kind: str, factor: float) -> None:
    X = well_separated(kind).X
    w = np.random.default_rng(2).uniform(0.1, 2, 600)
    for options in (PLAIN, {"n_init": 3}):
        options = {"n_components": 3, "covariance_type": kind, "random_state": 0, "tol": 1e-4} | options
        gm = GaussianMixture(**options).fit(X, sample_weight=factor * w)
        other = GaussianMixture(**options).fit(X, sample_weight=w)
        assert_close(gm, other, rtol=1e-8)
        assert gm.log_likelihood_ == pytest.approx(factor * other.log_likelihood_, rel=1e-8)


def test_one_em_step_with_weights_is_the_oracles() -> None:
    for kind in KINDS:
        case = well_separated(kind, n_rows=200)
        w = np.random.default_rng(3).uniform(0, 2, 200)
        with pytest.warns(ConvergenceWarning):
            gm = GaussianMixture(**given_start(case), max_iter=1, reg_covar=1e-3).fit(case.X, sample_weight=w)
        truth = oracle.mixture_of_covariances(kind, case.weights, case.means, case.covariances)
        step = oracle.em_step(kind, case.X, truth, reg_covar=1e-3, row_weights=w)
        assert_allclose(gm.means_, step.means.astype(float), rtol=1e-11)
        assert_allclose(gm.weights_, step.weights.astype(float), rtol=1e-11)
        found = oracle.dense(kind, gm.covariances_, 3, 3)
        assert_allclose(found, oracle.dense(kind, step.covariances, 3, 3).astype(float), rtol=1e-10, atol=1e-12)
        assert gm.lower_bound_ == pytest.approx(float(step.log_likelihood / w.sum()), rel=1e-12)


def test_weights_are_not_changed() -> None:
    X = well_separated().X
    X[5] = np.nan
    w = np.random.default_rng(4).uniform(0.5, 1, 600)
    before = w.copy(), X.copy()
    GaussianMixture(2, non_finite="drop", n_init=1, random_state=0).fit(X, sample_weight=w)
    assert_array_equal(w, before[0])
    assert_array_equal(X, before[1])


def test_a_bad_weight_on_a_dropped_row_is_no_matter() -> None:
    X = well_separated().X
    w = np.ones(600)
    X[5], w[5] = np.nan, np.nan
    gm = GaussianMixture(2, non_finite="drop", n_init=1, random_state=0).fit(X, sample_weight=w)
    assert gm.n_dropped_ == 1
    assert gm.score(X, sample_weight=w) == pytest.approx(gm.log_likelihood_ / 599, rel=1e-12)


# -- passes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_init", [1, 4])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("init_params", ["random", "k-means||"])
def test_restarts_share_the_passes(n_init: int, init_params: str) -> None:
    blocks = Blocks(well_separated().X)
    gm = GaussianMixture(3, n_init=n_init, init_params=init_params, max_iter=5, tol=0, random_state=0).fit(blocks.array)
    n_search = 1 + N_ROUNDS if init_params == "k-means||" else 0
    assert gm.n_passes_ == 7 + n_search
    assert blocks.n_rows == gm.n_passes_ * 600
    assert {h["candidate"] for h in gm.history_ if h["what"] == "em"} == set(range(n_init if n_search else 1))


@pytest.mark.parametrize("cache", [False, True, "auto"])
def test_each_chunk_is_read_once_a_pass_or_once_where_it_is_kept(cache: Any) -> None:
    import zarr
    from zarr.storage import MemoryStore

    store = CountingStore(MemoryStore())
    array = zarr.create_array(store, data=well_separated().X, chunks=(100, 3))
    source = open_rows(array)
    store.reads.clear()
    done = fit_mixture(source, FitOptions(n_components=2, cache=cache))
    chunks = [key for key, _ in store.reads if "c/" in key]
    n_reads = 1 if cache else done.n_passes
    assert len(chunks) == 6 * n_reads
    assert done.bytes_read == n_reads * 600 * 24
    assert done.cached_bytes == (600 * 24 if cache else 0)


def test_candidates_that_are_too_large_for_one_graph_go_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    X = open_rows(well_separated().X)
    options = FitOptions(n_components=3, n_init=4, init_params="k-means||", tol=0, max_iter=3)
    together = fit_mixture(X, options)
    monkeypatch.setattr(evaluate, "WAVE_BYTES", 700)
    events: list[PassDone] = []
    waves = fit_mixture(X, options, listener=events.append)
    n_before = 2 + N_ROUNDS
    assert waves.n_passes == n_before + 3 * 2 + 1, "two waves"
    assert [e.number for e in events if e.what in ("em", "closing")] == [n_before + i for i in (2, 4, 6, 7)]
    assert_array_equal(waves.parameters.means, together.parameters.means)
    assert waves.lower_bounds == together.lower_bounds


def test_a_fit_says_what_it_found() -> None:
    X = well_separated().X
    events: list[PassDone] = []
    done = fit_mixture(open_rows(X), FitOptions(n_components=3, acceleration=None), listener=events.append)
    assert done.status is Status.CONVERGED
    assert done.mean_log_likelihood == pytest.approx(done.log_likelihood / 600, rel=1e-15)
    other = mixture.GaussianMixture(3)
    other.weights_, other.means_ = done.parameters.weights, done.parameters.means
    other.precisions_cholesky_ = done.parameters.precisions_cholesky
    assert done.bic == pytest.approx(other.bic(X), rel=1e-12)
    assert done.aic == pytest.approx(other.aic(X), rel=1e-12)
    assert (done.n_rows, done.n_dropped, done.weight) == (600, 0, 600.0)
    assert [e.what for e in events] == ["survey", "start", *["em"] * done.n_iter, "closing"]
    sampled = [h for h in done.history if h["what"] == "start"]
    assert events[1].rows == sum(h["rows"] for h in sampled)
    assert (events[1].number, events[1].n_bytes) == (1, 0), "no pass over the input"
    em = [e for e in events if e.what == "em"]
    assert [e.mean_log_likelihood for e in em] == list(done.lower_bounds)
    assert em[0].change is None
    assert [e.n_running for e in em] == [1] * (done.n_iter - 1) + [0]
    assert events[-1].mean_log_likelihood == done.mean_log_likelihood
    assert em[0].remaining_seconds is None
    assert em[-1].remaining_seconds is not None
    assert done.seconds >= sum(e.seconds for e in events)


def weights_that_change(X: Any, n_passes: int) -> Any:
    """Ones of a Dask array, that are twos when the rows have been read so often."""
    blocks = Blocks(X)
    return da.map_blocks(
        lambda rows: np.where(blocks.n_rows > len(X) * n_passes, 2.0, np.ones(len(rows))), blocks.array, drop_axis=1,
        dtype=float, meta=np.empty(0),
    )  # fmt: skip


@pytest.mark.parametrize("n_passes", [1, 2, 3])
def test_input_that_changes_after_any_pass_is_noticed(n_passes: int) -> None:
    X = well_separated().X
    weights = weights_that_change(X, n_passes)
    with pytest.raises(DataError, match="must stay the same during a fit; got 600 rows of weight .* 600 of weight 600"):
        GaussianMixture(3, max_iter=2, tol=0, n_init=1, random_state=0).fit(X, sample_weight=weights)


@pytest.mark.parametrize("n_passes", [1, 3, N_ROUNDS + 1])
def test_input_that_changes_in_the_rounds_of_a_search_is_noticed_there(n_passes: int) -> None:
    X = well_separated().X
    weights = weights_that_change(X, n_passes)
    events: list[PassDone] = []
    options = FitOptions(n_components=3, init_params="k-means||")
    message = r"must stay the same during a fit; got rows of weight [0-9.]+ in a pass, and of weight 600 in the survey"
    with pytest.raises(DataError, match=message):
        fit_mixture(open_rows(X), options, weights=open_rows(weights), listener=events.append)
    assert [e.what for e in events] == ["survey"] + ["search"] * n_passes


# -- restarts that fail ----------------------------------------------------------------------------------------------
def collapsing() -> Any:
    """Return rows of two features, a fifth of them in a few exact duplicates."""
    rng = np.random.default_rng(5)
    return np.concatenate([rng.standard_normal((40, 2)), np.repeat(rng.uniform(-2, 2, (3, 2)), 4, axis=0)])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_restart_that_collapses_does_not_end_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    X = collapsing()
    gm = GaussianMixture(
        4, n_init=8, reg_covar=0, tol=1e-8, max_iter=400, init_params="k-means||", random_state=1, verbose=2
    )
    gm.fit(X)
    last = {h["candidate"]: h for h in gm.history_ if h["what"] == "em" and h["accepted"]}
    last |= {h["candidate"]: h for h in gm.history_ if h["status"] == "collapsed"}
    statuses = [h["status"] for h in last.values()]
    assert "collapsed" in statuses
    assert "converged" in statuses
    assert last[gm.history_[-1]["candidate"]]["status"] != "collapsed"
    alive = [h["mean_log_likelihood"] for h in last.values() if h["status"] != "collapsed"]
    assert gm.lower_bound_ == max(alive)
    json.dumps(gm.history_, allow_nan=False)
    assert "candidates" in capsys.readouterr().out


@pytest.mark.parametrize(("n_components", "seed"), [(6, 1), (7, 6)])
def test_restarts_that_collapse_after_the_others_were_given_up_do_not_end_them(
    n_components: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likelihood of what is about to collapse is ahead of all others."""
    for few in ("FEW", "SMALL"):  # (of so few rows all go on to the end)
        monkeypatch.setattr(race, few, 0)
    options = {"n_init": 8, "reg_covar": 0, "tol": 1e-8, "max_iter": 400, "init_params": "random"}
    gm = GaussianMixture(n_components, **options, escape=False, random_state=seed).fit(collapsing())
    start = [h for h in gm.history_ if h["what"] == "start"]
    collapsed = {h["candidate"] for h in start if h["status"] == "collapsed"}
    assert 0 < len(collapsed) < 8
    # The first race ended with one that collapsed; the next begins with all that had no part in that end.
    end = next(i for i, h in enumerate(start) if h["status"] == "collapsed")
    assert {h["candidate"] for h in start[end + 1 :]} >= set(range(8)) - collapsed
    assert start[-1]["candidate"] not in collapsed
    assert gm.converged_


@pytest.mark.parametrize(("n_components", "seed"), [(4, 0), (5, 2)])
def test_restarts_that_collapse_do_not_end_the_others_on_few_rows(n_components: int, seed: int) -> None:
    """All go on until they have ended."""
    options = {"n_init": 8, "reg_covar": 0, "tol": 1e-8, "max_iter": 400, "init_params": "random"}
    gm = GaussianMixture(n_components, **options, escape=False, random_state=seed).fit(collapsing())
    collapsed = {h["candidate"] for h in gm.history_ if h["what"] == "start" and h["status"] == "collapsed"}
    assert 0 < len(collapsed) < 8
    assert gm.converged_


def test_restarts_on_all_rows_go_on_where_those_ahead_of_them_collapse() -> None:
    """Last bits decide who collapses when, and they depend on the processor: one seed of some shows it anywhere."""
    options = {"n_init": 8, "reg_covar": 0, "tol": 1e-8, "max_iter": 400, "init_params": "k-means||"}
    gaps = []
    for n_components, seed in [(7, 3), (7, 6), (6, 2), *((k, seed) for k in (7, 6, 8) for seed in range(10))]:
        with suppress(CollapsedComponentError):  # (of all eight)
            gm = GaussianMixture(n_components, **options, random_state=seed).fit(collapsing())
            em = [h for h in gm.history_ if h["what"] == "em"]
            winner = gm.history_[-1]["candidate"]
            gaps.append(max(np.diff([h["pass"] for h in em if h["candidate"] == winner]), default=0))
            assert winner not in {h["candidate"] for h in em if h["status"] == "collapsed"}
            assert gm.converged_
            if gaps[-1] > 1:
                return
    pytest.fail(f"a winner was to be given up for some passes; got gaps of {gaps} passes")


def test_moves_that_collapse_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((200, 2)), 10 + rng.standard_normal((200, 2)), np.full((5, 2), 0.5)])
    kind = family_called("spherical")
    bad = Parameters.from_covariances(kind, np.ones(2) / 2, np.array([[5.0, 5], [0.5, 0.5]]), np.array([50, 1e-6]))
    options = {"covariance_type": "spherical", "n_init": 1, "reg_covar": 0, "random_state": 0}
    plain = GaussianMixture(2, **options, escape=False).fit(X)
    monkeypatch.setattr(race, "proposals", lambda *args, **others: [bad])
    moved = GaussianMixture(2, **options).fit(X)
    assert "collapsed" in {h["status"] for h in moved.history_ if h["what"] == "start"}
    assert moved.score(X) == pytest.approx(plain.score(X), abs=1e-4)


def test_where_all_collapse_the_component_and_the_remedies_are_named() -> None:
    X = np.concatenate([np.random.default_rng(0).standard_normal((50, 2)), np.full((5, 2), 40.0)])
    message = (
        r"the covariance of component \d must be positive definite; got a singular one .*Decrease n_components, "
        "increase reg_covar, or rescale or drop the features that hardly vary"
    )
    with pytest.raises(CollapsedComponentError, match=message):
        GaussianMixture(2, reg_covar=0, n_init=3, random_state=0).fit(X)
    constant = np.column_stack([X[:50], np.full(50, 7.0)])
    for kind in KINDS:
        if kind == "spherical":
            continue
        with pytest.raises(CollapsedComponentError, match="all components" if kind == "tied" else r"component \d"):
            GaussianMixture(2, covariance_type=kind, reg_covar=0, n_init=1, random_state=0).fit(constant)


def test_a_first_pass_in_which_all_collapse_is_still_history() -> None:
    X = np.concatenate([np.random.default_rng(0).standard_normal((50, 2)), np.full((5, 2), 40.0)])
    events: list[PassDone] = []
    start = {"weights_init": [0.5, 0.5], "means_init": [[0, 0], [40, 40]], "precisions_init": [1.0, 1.0]}
    options = FitOptions(n_components=2, covariance_type="spherical", reg_covar=0, **start)
    with pytest.raises(CollapsedComponentError, match="component 1"):
        fit_mixture(open_rows(X), options, listener=events.append)
    assert [e.what for e in events] == ["survey", "em"]
    assert events[1].mean_log_likelihood is None
    assert "nan" not in events[1].line()
    assert "inf" not in events[1].line()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_where_no_candidate_is_finite_the_fit_says_so(kind: str) -> None:
    X = 1e140 * np.random.default_rng(0).standard_normal((300, 2))
    shape = family_called(kind).shape
    precisions = shape.precisions(np.broadcast_to(1e20, shape.array_shape(2, 2)) * _unit(kind))
    start = {"weights_init": [0.5, 0.5], "means_init": [[0, 0], [1, 1]], "precisions_init": precisions}
    events: list[PassDone] = []
    with pytest.raises(NotFiniteError, match="must be finite; got nan in iteration 1. Check the given start"):
        fit_mixture(open_rows(X), FitOptions(n_components=2, covariance_type=kind, **start), listener=events.append)
    assert [e.what for e in events] == ["survey", "em"]


def _unit(kind: str) -> Any:
    return np.eye(2) if kind in ("full", "tied") else 1.0


def test_a_fall_of_the_likelihood_warns_with_its_own_sentence() -> None:
    X = np.random.default_rng(1).standard_normal((500, 2))
    gm = GaussianMixture(
        1, covariance_type="spherical", reg_covar=1.0, max_iter=2, tol=1e-6, weights_init=[1.0],
        means_init=[X.mean(axis=0)], precisions_init=[1 / X.var()],
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match=r"reg_covar is large against the variances.*Decrease reg_covar"):
        gm.fit(X)
    assert gm.history_[-1]["status"] == "fell"
    assert not gm.converged_


# -- nasty data ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["numpy", "dask", "zarr"])
@pytest.mark.usefixtures("small_partitions")
def test_a_large_offset_changes_nothing(kind: str, what: str, tmp_path: Path) -> None:
    case = well_separated(kind)
    near = np.round(case.X * 2**20) / 2**20  # so that adding the offset is exact
    offset = 1e8 * np.array([1.0, -1.0, 0.5])
    X = np.round((near + offset) * 2**20) / 2**20
    assert_array_equal(X - offset, near)
    options = PLAIN | {"n_components": 3, "covariance_type": kind, "random_state": 0, "tol": 1e-4}
    gm = GaussianMixture(**options).fit(as_source(what, X, tmp_path))
    other = GaussianMixture(**options).fit(near)
    assert gm.n_iter_ == other.n_iter_
    assert_allclose(gm.means_ - offset, other.means_, atol=3e-7)
    assert_allclose(gm.covariances_, other.covariances_, rtol=1e-6, atol=1e-7)
    assert_allclose(gm.weights_, other.weights_, rtol=1e-6)
    assert gm.score(X) == pytest.approx(other.score(near), rel=1e-7)
    assert_array_equal(gm.predict(X), other.predict(near))


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_offset_does_not_change_the_optimum_with_the_defaults(kind: str) -> None:
    """Extrapolation amplifies rounding: not the iterates are compared, but where they end."""
    near = np.round(well_separated(kind).X * 2**20) / 2**20
    offset = 1e8 * np.array([1.0, -1.0, 0.5])
    options = {"n_components": 3, "covariance_type": kind, "random_state": 0, "n_init": 3, "tol": 1e-8}
    gm, other = (GaussianMixture(**options).fit(X) for X in (near + offset, near))
    assert gm.score(near + offset) == pytest.approx(other.score(near), abs=1e-6)
    order = np.argsort(gm.means_[:, 0]), np.argsort(other.means_[:, 0])
    labels = order[0].argsort()[gm.predict(near + offset)], order[1].argsort()[other.predict(near)]
    assert (labels[0] == labels[1]).mean() > 0.995


def test_two_numbers_in_single_precision_have_the_variance_of_reg_covar() -> None:
    X = np.array([[9999], [0]], dtype="f4")
    gm = GaussianMixture(2, covariance_type="spherical", reg_covar=0.1, n_init=1, random_state=0).fit(X)
    assert_allclose(gm.covariances_, 0.1, rtol=1e-9)
    assert_allclose(np.sort(gm.means_[:, 0]), [0, 9999], rtol=1e-12)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_far_outliers_make_their_own_component_exact_and_no_other(kind: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 3)) + 4 * rng.integers(0, 2, (20_000, 1))
    X[[77, 9_999]] = [[1e6, 0, 0], [1e6, 3, 3]]
    gm = GaussianMixture(3, covariance_type=kind, n_init=1, random_state=0).fit(X)
    far = int(np.argmax(gm.means_[:, 0]))
    assert gm.weights_[far] == pytest.approx(1e-4, rel=1e-6)
    plan = make_plan(gm._parameters(), origin=X.mean(axis=0))
    assert list(np.flatnonzero(plan.exact)) == [far]
    assert np.isfinite(gm.score_samples(X)).all()
    near = np.delete(X, [77, 9_999], axis=0)
    with pytest.warns(ConvergenceWarning):
        other = GaussianMixture(
            2, covariance_type=kind, max_iter=gm.n_iter_, tol=0,
            weights_init=[0.5, 0.5], means_init=[[0, 0, 0], [4, 4, 4]],
            precisions_init={"full": [np.eye(3)] * 2, "diag": np.ones((2, 3)), "spherical": [1, 1]}[kind],
        ).fit(near)  # fmt: skip
    order = np.argsort(np.delete(gm.means_[:, 0], far))
    assert_allclose(np.delete(gm.means_, far, axis=0)[order], other.means_, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_where_every_density_underflows_have_a_finite_score(kind: str) -> None:
    case = well_separated(kind)
    gm = GaussianMixture(3, covariance_type=kind, n_init=1, random_state=0).fit(case.X)
    far = np.array([[1e9, 0, 0], [-1e7, 1e7, 0]])
    score = gm.score_samples(far)
    assert np.isfinite(score).all()
    assert (score < -1e12).all()
    proba = gm.predict_proba(far)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    truth = oracle.mixture(kind, gm.weights_, gm.means_, gm.precisions_cholesky_)
    assert_allclose(score, oracle.log_likelihoods(far, truth).astype(float), rtol=1e-9)
    assert_array_equal(gm.predict(far), oracle.log_densities(far, truth).argmax(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_is_the_moments_of_the_rows(kind: str) -> None:
    X = np.random.default_rng(6).standard_normal((300, 3)) @ [[1, 2, 0], [0, 2, 1], [0, 0, 3]] + 5
    gm = GaussianMixture(1, covariance_type=kind, reg_covar=0).fit(X)
    full = np.cov(X.T, bias=True)
    expected = {"full": [full], "tied": full, "diag": [np.diag(full)], "spherical": [np.trace(full) / 3]}[kind]
    assert_allclose(gm.means_[0], X.mean(axis=0), rtol=1e-12)
    assert_allclose(gm.covariances_, expected, rtol=1e-10, atol=1e-12)
    assert_array_equal(gm.weights_, [1.0])
    assert_array_equal(gm.predict(X), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["kmeans", "k-means||"])
def test_one_component_takes_one_step_and_no_search(kind: str, init: str) -> None:
    """For 100 rows of 2000 features the race, SQUAREM and probes took 56 s, 17 times as long as scikit-learn."""
    random = np.random.default_rng(6)
    X, weights = random.standard_normal((300, 3)) @ [[1, 2, 0], [0, 2, 1], [0, 0, 3]] + 5, random.integers(0, 3, 300)
    gm = GaussianMixture(1, covariance_type=kind, reg_covar=0.1, tol=0, init_params=init)
    gm.fit(X, sample_weight=weights)
    theirs = mixture.GaussianMixture(1, covariance_type=kind, reg_covar=0.1).fit(np.repeat(X, weights, axis=0))
    assert_allclose(gm.covariances_, theirs.covariances_, rtol=1e-10, atol=1e-12)
    assert [record["what"] for record in gm.history_] == ["survey", "em", "closing"]
    assert (gm.converged_, gm.n_iter_, gm.n_passes_) == (True, 1, 3)
    assert gm.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-12)
    assert_array_equal(gm.lower_bounds_, [gm.lower_bound_])


def test_one_component_from_a_given_start_takes_the_steps_of_scikit_learn() -> None:
    X = np.random.default_rng(6).standard_normal((300, 3))
    start = {"means_init": [[9.0, 9.0, 9.0]], "weights_init": [1.0], "precisions_init": [np.eye(3)]}
    gm, theirs = GaussianMixture(1, **PLAIN, **start).fit(X), mixture.GaussianMixture(1, **start).fit(X)
    assert (gm.n_iter_, gm.converged_) == (theirs.n_iter_, True)
    assert_allclose(gm.lower_bounds_, theirs.lower_bounds_, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_feature_is_as_scikit_learn_has_it(kind: str) -> None:
    X = np.concatenate([np.random.default_rng(7).standard_normal(200), np.random.default_rng(8).normal(4, 2, 100)])
    precisions = {"full": [[[1.0]], [[0.5]]], "tied": [[0.5]], "diag": [[1.0], [0.5]], "spherical": [1, 0.5]}[kind]
    start = {"weights_init": [0.5, 0.5], "means_init": [[0.0], [5.0]], "precisions_init": precisions}
    start = {name: np.asarray(value, dtype=float) for name, value in start.items()}
    options = {"n_components": 2, "covariance_type": kind, "tol": 0, "max_iter": 15} | start
    gm = GaussianMixture(**PLAIN, **options).fit(X)
    assert_close(gm, mixture.GaussianMixture(**options).fit(X[:, np.newaxis]), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_partitions")
def test_partitions_of_one_row(kind: str) -> None:
    case = well_separated(kind, n_rows=60)
    X = da.from_array(case.X, chunks=(1, 3))
    options = PLAIN | given_start(case) | {"tol": 1e-3}
    began = time.perf_counter()
    gm = GaussianMixture(**options).fit(X)
    assert time.perf_counter() - began < 60
    assert_close(gm, GaussianMixture(**options).fit(case.X))
    w = np.arange(60) % 3
    weighted = GaussianMixture(**options).fit(X, sample_weight=w)
    assert_close(weighted, GaussianMixture(**options).fit(case.X, sample_weight=w))


@pytest.mark.parametrize("kind", KINDS)
def test_scales_far_apart(kind: str) -> None:
    case = well_separated(kind)
    scale = np.array([1e-6, 1.0, 1e6]) if kind in ("full", "tied", "diag") else 1e-6
    options = PLAIN | {"n_components": 3, "covariance_type": kind, "reg_covar": 0, "tol": 1e-5}
    given = given_start(case)
    outer = np.outer(scale, scale) if np.ndim(scale) else scale**2
    unit = outer if kind in ("full", "tied") else scale**2
    precisions = given["precisions_init"] / unit
    start = {"weights_init": given["weights_init"], "means_init": given["means_init"] * scale}
    gm = GaussianMixture(**options, **start, precisions_init=precisions).fit(case.X * scale)
    other = GaussianMixture(**options | given).fit(case.X)
    assert gm.n_iter_ == other.n_iter_
    assert_allclose(gm.means_ / scale, other.means_, rtol=1e-8, atol=1e-9)
    assert_allclose(gm.covariances_ / unit, other.covariances_, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("far", [1e8, 1e12, 1e100])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rows_very_far_away_are_no_changed_input(kind: str, far: float) -> None:
    """Rounding of their squares is no sign that somebody writes to the data, and NumPy has nothing to warn of."""
    X = np.concatenate([well_separated(n_rows=2000).X[:, :2], [[far, 0.0], [0.0, -far]]])
    for k in (2, 3):
        with suppress(CollapsedComponentError):  # (tied: all rows but one lie on a line, for a double)
            assert np.isfinite(GaussianMixture(k, covariance_type=kind, random_state=0).fit(X).lower_bound_)


def test_a_sample_that_is_too_small_names_start_rows() -> None:
    X = well_separated(n_rows=3000).X
    with pytest.raises(
        DataError, match=r"start_rows must give a sample of at least n_components = 3 rows; got"
    ) as caught:
        GaussianMixture(3, start_rows=3, random_state=1).fit(da.from_array(X, chunks=(500, -1)))
    advised = int(re.findall(r"Take start_rows of (\d+) or more", str(caught.value))[0])
    for seed in range(5):
        GaussianMixture(3, start_rows=advised, random_state=seed).fit(X)
