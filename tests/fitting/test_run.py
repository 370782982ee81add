"""Models that share passes: each gets what it gets alone, bit for bit; folds, k-means|| and leaps that are undone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm.errors import CollapsedComponentError, DataError
from daskgmm.fitting import evaluate
from daskgmm.fitting.events import PassDone, ignore
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.history import COLUMNS
from daskgmm.fitting.model import Model
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.race import STAGE_PASSES
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import running
from daskgmm.fitting.status import Status
from daskgmm.kernels.folds import Fold
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.fitting.driving import KINDS, as_source, given_start, small_partitions, well_separated
from tests.kernels.driving import oracle_of

__all__ = ["small_partitions"]


def fits_of(
    models: Sequence[Model], X: Any, *, weights: Any = None, n_folds: int = 0, which: Sequence[int] | None = None,
    listener: Any = ignore,
) -> list[Fit]:  # fmt: skip
    """Return the fits of models that share their passes."""
    source, w = open_rows(X), None if weights is None else open_rows(weights)
    with running(models, source, n_folds=n_folds, weights=w, executor=None, listener=listener) as run:
        return run.fits(range(len(models)) if which is None else which)


def assert_same_fit(a: Fit, b: Fit) -> None:
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        assert_array_equal(getattr(a.parameters, name), getattr(b.parameters, name), err_msg=name)
    assert a.lower_bounds == b.lower_bounds
    assert (a.log_likelihood, a.log_largest, a.held_out) == (b.log_likelihood, b.log_largest, b.held_out)
    assert (a.status, a.n_rows, a.weight) == (b.status, b.n_rows, b.weight)


def records(fit: Fit, what: str) -> list[dict[str, Any]]:
    return [dict(record) for record in fit.history if record["what"] == what]


def options_of(kind: str, k: int, **others: Any) -> FitOptions:
    return FitOptions(
        **{"n_components": k, "covariance_type": kind, "n_init": 2, "tol": 1e-4, "escape": False} | others
    )


def company(kind: str) -> list[Model]:
    """Return a model of the kind, one of a fold of it, and others beside."""
    others = [Model(options_of(other, k)) for other, k in zip(KINDS, (2, 4, 1, 3), strict=True)]
    return [*others[:2], Model(options_of(kind, 3)), *others[2:], Model(options_of(kind, 3), Fold(1, 3, 0))]


# -- alone and in company --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("what", "in_waves"), [("numpy", False), ("zarr", False), ("numpy", True)])
@pytest.mark.usefixtures("small_partitions")
def test_a_model_in_company_is_what_it_is_alone(
    kind: str, what: str, in_waves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = as_source(what, well_separated(n_rows=240).X, tmp_path, chunk=100)
    models = company(kind)
    alone = [fits_of([models[i]], X, n_folds=3)[0] for i in (2, 5)]
    if in_waves:
        monkeypatch.setattr(evaluate, "WAVE_BYTES", 1)
    together = fits_of(models, X, n_folds=3)
    assert_same_fit(together[2], alone[0])
    assert_same_fit(together[5], alone[1])
    assert alone[1].held_out is not None
    assert len({fit.n_passes for fit in together}) == 1
    if not in_waves:
        n_em = max(len({r["pass"] for r in records(fit, "em")}) for fit in together)
        assert together[0].n_passes == 1 + n_em + 1
    else:
        # (A wave of the closing pass is a model, the fold, or a model with two components as one.)
        closing = together[0].n_passes - 1 - sum(len(records(f, "em")) for f in together)
        told = sum("apart" in remark for f in together for remark in f.remarks)
        assert len(models) + 1 + told <= closing <= 2 * len(models) + 1


@pytest.mark.usefixtures("small_partitions")
def test_a_distributed_client_gives_the_same_bits(client: Client, tmp_path: Path) -> None:
    X = as_source("zarr path", well_separated(n_rows=300).X, tmp_path, chunk=100)
    models = [Model(options_of(kind, 3, max_iter=4, tol=0.0), f) for kind in KINDS for f in (None, Fold(0, 2, 0))]
    there = fits_of(models, X, n_folds=2)
    with running(models, open_rows(X), n_folds=2, weights=None, executor=_here(), listener=ignore) as run:
        here = run.fits(range(len(models)))
    for a, b in zip(there, here, strict=True):
        assert_same_fit(a, b)


def _here() -> Any:
    from daskgmm.passes.local_executor import LocalExecutor

    return LocalExecutor()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_partitions")
def test_k_means_parallel_in_company_is_what_it_is_alone(kind: str) -> None:
    """Beside a tied model the survey has all products of the features, else squares alone: the scales are equal."""
    X = np.random.default_rng(0).standard_normal((200, 3)) * [1, 3, 10] + 5
    model = Model(options_of(kind, 3, init_params="k-means||", n_init=3, max_iter=8))
    beside = [Model(options_of(k, 3, init_params="k-means||", n_init=2, max_iter=3)) for k in ("full", "tied")]
    (alone,) = fits_of([model], X)
    together = fits_of([beside[0], model, beside[1]], X)
    assert_same_fit(together[1], alone)


def test_only_the_models_asked_for_are_fitted() -> None:
    X = well_separated().X
    models = company("full")
    some = fits_of(models, X, n_folds=3, which=[4, 0])
    assert [fit.parameters.n_components for fit in some] == [3, 2]
    assert_same_fit(some[1], fits_of([models[0]], X)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_waves_are_told_of_once_a_run(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "WAVE_BYTES", 1)
    with caplog.at_level(logging.INFO, logger="daskgmm"):
        fits_of([Model(options_of(kind, k, n_init=1)) for k in (1, 2)], well_separated(n_rows=100).X)
    assert sum("take 2 waves" in message for message in caplog.messages) == 1


# -- folds -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("small_partitions")
def test_a_fold_is_fitted_to_the_rows_that_it_leaves_alone(kind: str, weighted: bool) -> None:
    """A tied model has the scatter of its own rows; the held-out ones are scored, and are no part of the fit."""
    case = well_separated(kind)
    X = case.X.copy()
    w = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else None
    fold = Fold(0, 3, 0)
    outside = fold.mask(np.arange(len(X), dtype=np.uint64))
    X[~outside] += 5  # else the scatter of all rows is nearly that of the fold
    options = FitOptions(**given_start(case), tol=1e-6)
    (found,) = fits_of([Model(options, fold)], X, weights=w, n_folds=3)
    alone = fit_mixture(
        open_rows(X[outside]), options, weights=None if w is None else open_rows(w[outside])
    )  # fmt: skip
    assert_allclose(found.parameters.means, alone.parameters.means, rtol=1e-8, atol=1e-8)
    assert_allclose(found.parameters.covariances, alone.parameters.covariances, rtol=1e-8, atol=1e-8)
    assert_allclose(found.lower_bounds, alone.lower_bounds, rtol=1e-10)
    assert found.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-10)
    assert (found.n_rows, found.weight) == (alone.n_rows, pytest.approx(alone.weight, rel=1e-12))
    held = oracle.log_likelihood(X[~outside], oracle_of(found.parameters), None if w is None else w[~outside])
    assert found.held_out is not None
    assert found.held_out[0] == pytest.approx(float(held), rel=1e-10)
    assert found.held_out[1] == pytest.approx(np.sum(~outside) if w is None else w[~outside].sum(), rel=1e-12)
    assert alone.held_out is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means||"])
def test_no_held_out_row_is_seen_by_the_start(kind: str, init_params: str) -> None:
    """The held-out rows lie far off: a start that had seen one would have a component there."""
    X, fold = well_separated(n_rows=400).X.copy(), Fold(2, 4, 0)
    held = ~fold.mask(np.arange(400, dtype=np.uint64))
    X[held] += 1000
    models = [Model(options_of(kind, 3, init_params=init_params), f) for f in (fold, None)]
    with running(models, open_rows(X), n_folds=4, weights=None, executor=None, listener=ignore) as run:
        for c in run.started(0):
            assert np.abs(c.parameters.means).max() < 100
        assert any(np.abs(c.parameters.means).max() > 900 for c in run.started(1))


@pytest.mark.parametrize("kind", KINDS)
def test_folds_that_judge_nothing_are_an_error(kind: str) -> None:
    X, numbers = np.random.default_rng(0).standard_normal((60, 2)), np.arange(60, dtype=np.uint64)
    w = Fold(1, 3, 0).mask(numbers).astype(float)
    models = [Model(options_of(kind, 2), Fold(i, 3, 0)) for i in range(3)]
    n = int((w == 0).sum())
    message = rf"got {n} rows of weight 0 in fold 1 of 3, and {60 - n} outside. Decrease n_folds, or take more rows."
    with pytest.raises(DataError, match=message):
        fits_of(models, X, weights=w, n_folds=3)
    with pytest.raises(
        DataError, match=r"n_folds must leave .* n_components = 4 rows outside of it; got 4 rows .* of 2, and 2 outside"
    ):
        fits_of([Model(options_of(kind, 4), Fold(0, 2, 0))], X[:6], n_folds=2)
    with pytest.raises(DataError, match="got 0 rows of weight 0 in fold"):
        fits_of([Model(options_of(kind, 1), Fold(0, 40, 0))], X[:20], n_folds=40)


# -- k-means|| -------------------------------------------------------------------------------------------------------
def rivals(kind: str, n_init: int = 4, **others: Any) -> FitOptions:
    return options_of(kind, 3, init_params="k-means||", n_init=n_init, tol=0.0, max_iter=25, **others)


@pytest.mark.parametrize("kind", KINDS)
def test_rivals_share_passes_and_the_worse_half_is_given_up_in_stages(kind: str) -> None:
    X = np.random.default_rng(0).standard_normal((400, 3))
    (fit,) = fits_of([Model(rivals(kind))], X)
    em = records(fit, "em")
    by_pass = [[r for r in em if r["pass"] == n] for n in sorted({r["pass"] for r in em})]
    assert [len(found) for found in by_pass] == [4] * STAGE_PASSES + [2] * STAGE_PASSES + [1] * (25 - 2 * STAGE_PASSES)
    assert len(records(fit, "search")) == 6
    assert fit.n_passes == 1 + 6 + 25 + 1
    bounds: dict[int, float] = {}
    for stage in (0, 1):
        for found in by_pass[stage * STAGE_PASSES : (stage + 1) * STAGE_PASSES]:
            bounds |= {r["candidate"]: r["mean_log_likelihood"] for r in found if r["accepted"]}
        there = {r["candidate"] for r in by_pass[stage * STAGE_PASSES]}
        left = {r["candidate"] for r in by_pass[(stage + 1) * STAGE_PASSES]}
        assert min(bounds[i] for i in left) >= max(bounds[i] for i in there - left)
    assert fit.lower_bound == pytest.approx(by_pass[-1][0]["mean_log_likelihood"], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_partitions")
def test_searches_with_weights_and_of_dask_arrays_are_those_of_numpy(kind: str, tmp_path: Path) -> None:
    X, w = well_separated(n_rows=300).X, np.random.default_rng(0).integers(0, 3, 300)
    options = options_of(kind, 3, init_params="k-means||", max_iter=5)
    (plain,) = fits_of([Model(options)], X, weights=w)
    for what in ("dask", "zarr", "dask of unknown chunks"):
        source = as_source(what, X, tmp_path, chunk=70)
        weights = as_source(what, w, tmp_path, chunk=90, name="w")
        (fit,) = fits_of([Model(options)], source, weights=weights)
        assert_allclose(fit.parameters.means, plain.parameters.means, rtol=1e-6, atol=1e-8)
        assert fit.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-9)
        assert fit.n_passes == plain.n_passes + what.endswith("unknown chunks")
    rng = np.random.default_rng(1)
    more = np.concatenate([X, 500 + rng.standard_normal((50, 3))])
    (fit,) = fits_of([Model(options)], more, weights=np.append(w, np.zeros(50)))
    assert np.abs(fit.parameters.means).max() < 100, "rows of weight 0 are not searched"


# -- leaps that fail -------------------------------------------------------------------------------------------------
def no_ascent(kind: str, **others: Any) -> tuple[np.ndarray, FitOptions]:
    """Return rows and options for which EM is no ascent: reg_covar is large against the variances."""
    case = well_separated(kind)
    return case.X, FitOptions(**given_start(case), reg_covar=2.0, tol=0.0, **others)


@pytest.mark.parametrize("kind", KINDS)
def test_an_accelerated_fit_without_ascent_ends_where_plain_em_does(kind: str) -> None:
    """The likeliest mixture that it has seen is the start, which knows nothing of the ridge."""
    X, options = no_ascent(kind, max_iter=1000)
    plain, fit = (
        fits_of([Model(replace(options, tol=1e-12, acceleration=acceleration))], X)[0]
        for acceleration in (None, "squarem")
    )
    assert np.min(np.diff(fit.lower_bounds)) < -1e-4, "else this tests nothing"
    assert plain.status is fit.status is Status.CONVERGED
    np.testing.assert_allclose(fit.parameters.means, plain.parameters.means, atol=1e-4)
    np.testing.assert_allclose(fit.parameters.covariances, plain.parameters.covariances, atol=1e-4)
    assert fit.log_likelihood / fit.weight == pytest.approx(fit.lower_bound, abs=1e-6)
    score = float(oracle.log_likelihood(X, oracle_of(fit.parameters)))
    assert fit.log_likelihood == pytest.approx(score, rel=1e-10), "the parameters are those that the score is of"
    (record,) = records(fit, "closing")
    assert record["mean_log_likelihood"] == pytest.approx(fit.log_likelihood / fit.weight, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rejected_step_costs_one_pass_of_its_candidate_alone(kind: str) -> None:
    X, options = no_ascent(kind, max_iter=12)
    gentle = options_of(kind, 2, n_init=1, max_iter=12, tol=0.0)
    bad, good = fits_of([Model(options), Model(gentle)], X)
    em = records(bad, "em")
    rejected = [r for r in em if not r["accepted"]]
    assert rejected, "else this tests nothing"
    assert all(r["step"] > 1 for r in rejected)
    assert len(em) == 12
    assert bad.n_iter == 12 - len(rejected)
    for i, record in enumerate(em[:-1]):
        if not record["accepted"]:
            assert (em[i + 1]["step"], em[i + 1]["accepted"]) == (1.0, True), "EM goes on from the point before"
    assert_same_fit(good, fits_of([Model(gentle)], X)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_collapses_is_an_error_that_names_it(kind: str) -> None:
    X = np.repeat([[0.0, 0.0], [5.0, 1.0]], 20, axis=0)
    means, n = np.array([[0.0, 0], [5, 1]]), 2
    unit = {"full": np.stack([np.eye(2)] * n), "tied": np.eye(2), "diag": np.ones((n, 2)), "spherical": np.ones(n)}[
        kind
    ]
    options = FitOptions(
        n_components=2, covariance_type=kind, weights_init=np.full(2, 0.5), means_init=means, precisions_init=unit,
        reg_covar=0.0,
    )  # fmt: skip
    with pytest.raises(CollapsedComponentError, match="Decrease n_components, increase reg_covar"):
        fits_of([Model(options)], X)


# -- warm and given starts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_model_goes_on_beside_others(kind: str) -> None:
    X = well_separated(kind).X
    (before,) = fits_of([Model(options_of(kind, 3, max_iter=2, tol=0.0))], X)
    warm = Model(options_of(kind, 3), warm=(before.parameters, before.lower_bound))
    _, after = fits_of([Model(options_of("diag", 2)), warm], X)
    assert not records(after, "start")
    assert after.lower_bounds[0] >= before.lower_bound - 1e-9
    assert after.status is Status.CONVERGED


def test_events_and_history_agree_on_the_passes() -> None:
    told: list[PassDone] = []
    fits = fits_of(company("full"), well_separated(n_rows=200).X, n_folds=3, listener=told.append)
    assert told[-1].number == fits[0].n_passes
    assert [e.number for e in told] == sorted(e.number for e in told)
    assert all(tuple(record) == COLUMNS for fit in fits for record in fit.history)


@pytest.mark.parametrize("factor", [1e14, 1e18, 1e30])
def test_values_whose_squares_single_precision_cannot_hold_are_computed_in_double(factor: float) -> None:
    rng = np.random.default_rng(0)
    X = factor * (10 * rng.standard_normal((4, 3))[rng.integers(4, size=2000)] + rng.standard_normal((2000, 3)))
    single, double = (
        fit_mixture(open_rows(X), options_of("full", 4, precision=precision, reg_covar=0.0))
        for precision in ("single", "double")
    )
    assert_allclose(single.log_likelihood / 2000, double.log_likelihood / 2000, atol=1e-3)
    assert_allclose(single.parameters.means, double.parameters.means, rtol=1e-2, atol=1e-2 * factor)
