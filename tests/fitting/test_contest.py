"""A selection goes on until its choice holds, searches again what falls below a smaller model, says what is open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daskgmm.fitting import run as run_module
from daskgmm.fitting import sample
from daskgmm.fitting.contest import SETTLED, settled
from daskgmm.fitting.events import ignore
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.prospect import Prospect, foreseen
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import Run, running
from daskgmm.fitting.status import Status
from daskgmm.fitting.sweep import Sweep, select_model, selection_models
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from tests.faults import Torn
from tests.fitting.driving import KINDS
from tests.stores.test_checkpoint import at, bits

#: A step below this leaves 2 n tol = 160 of BIC open.
OPTIONS = FitOptions(tol=4e-2, n_init=1, escape=False, start_rows=200, seed=1)

FAR = np.array([9.0, 4.0])


def overlapping(n_rows: int = 2000, *, apart: float = 2.4) -> np.ndarray:
    """Rows of two Gaussians in the plane that overlap."""
    random = np.random.default_rng(4)
    X = random.standard_normal((n_rows, 2))
    X[:, 0] += apart * (random.random(n_rows) < 0.5)
    return X


def compared(X: Any, options: FitOptions = OPTIONS, checkpoint: Checkpoint | None = None, **asked: Any) -> Sweep:
    source = ArraySource(X) if isinstance(X, np.ndarray) else open_rows(X)
    given = {"n_components": [1, 2, 3], "covariance_types": ["full"], "executor": LocalExecutor()} | asked
    return select_model(source, options, checkpoint=checkpoint, **given)


def test_the_choice_is_that_of_optima_and_says_how_far_it_holds() -> None:
    X = overlapping()
    options = replace(OPTIONS, start_rows=100)
    found, exact = compared(X, options), compared(X, replace(options, tol=1e-9, max_iter=2000))
    assert found.entries[found.best].name == exact.entries[exact.best].name
    # (A third component is one too many: EM creeps on without end.)
    for entry, other in zip(found.entries[:2], exact.entries[:2], strict=True):
        assert entry.fit.bic - other.fit.bic <= 2 * entry.resolution, "about as close as it says"
    one, *others = found.entries
    assert (one.resolution, one.fit.reach) == (0.0, 0.0), "a closed form"
    assert all(entry.resolution >= SETTLED for entry in others)
    # A fit that ends at tol, as each did before, is nowhere near.
    alone = fit_mixture(ArraySource(X), replace(options, n_components=2), executor=LocalExecutor())
    assert alone.reach >= OPTIONS.tol
    assert alone.bic - exact.entries[1].fit.bic > 20
    assert found.entries[1].fit.lower_bounds[: alone.n_iter] == alone.lower_bounds, "further on the same way"
    assert found.entries[1].fit.n_iter >= alone.n_iter
    assert found.entries[1].fit.status is Status.CONVERGED
    assert {entry.fit.n_passes for entry in found.entries} == {found.n_passes}


def test_what_cannot_be_told_apart_is_level() -> None:
    found = compared(overlapping(), replace(OPTIONS, max_iter=2, start_rows=None))
    best = found.entries[found.best]
    level = [e for e in found.entries if e.tie]
    assert level
    assert best not in level
    assert all(0 < e.fit.bic - best.fit.bic <= e.resolution for e in level)


def test_models_whose_place_is_settled_go_no_further() -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((2000, 2)) + 30 * random.integers(2, size=(2000, 1))
    found = compared(X, replace(OPTIONS, tol=1e-3), n_components=[1, 2])
    alone = fit_mixture(ArraySource(X), replace(OPTIONS, tol=1e-3, n_components=2), executor=LocalExecutor())
    assert found.entries[1].fit.lower_bounds == alone.lower_bounds
    assert not any(e.tie for e in found.entries)


@pytest.mark.parametrize("criterion", ["aic", "icl", "held_out"])
def test_every_criterion_has_a_resolution(criterion: str) -> None:
    asked = {"criterion": criterion, "n_folds": 2 if criterion == "held_out" else 0}
    found = compared(overlapping(1000), n_components=[1, 2], **asked)
    exact = compared(overlapping(1000), replace(OPTIONS, tol=1e-9, max_iter=2000), n_components=[1, 2], **asked)
    for entry, other in zip(found.entries, exact.entries, strict=True):
        n = 1 if criterion == "held_out" else 1000
        moved = abs(entry.value(criterion) - other.value(criterion))
        assert moved <= 2 * entry.resolution + 1e-3 * n
    assert found.entries[found.best].name == exact.entries[exact.best].name


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_a_choice_takes_few_passes_more_than_a_fit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "AHEAD_ROWS", 3000)  # (a quarter of the rows)
    X = np.concatenate([overlapping(6000, apart=4.0), overlapping(6000, apart=4.0) + FAR])
    options = replace(OPTIONS, tol=1e-3, start_rows=3000)
    asked = {"n_components": [3, 4, 5], "covariance_types": [kind]}
    found, exact = compared(X, options, **asked), compared(X, replace(options, tol=1e-9, max_iter=2000), **asked)
    assert found.entries[found.best].name == exact.entries[exact.best].name == (kind, 4)
    alone = fit_mixture(
        ArraySource(X), replace(options, n_components=5, covariance_type=kind), executor=LocalExecutor()
    )
    assert found.n_passes <= alone.n_passes + 4
    assert found.entries[1].fit.bic - exact.entries[1].fit.bic <= 2 * found.entries[1].resolution


def test_features_in_their_own_units_are_foreseen_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "AHEAD_ROWS", 1500)
    X, units = overlapping(6000), np.array([1e-5, 1e7])
    options = replace(OPTIONS, tol=1e-3, start_rows=1500, standardize=True)
    found, mapped = compared(X, options), compared(X * units, options)
    assert mapped.entries[mapped.best].name == found.entries[found.best].name
    assert mapped.n_passes == found.n_passes < compared(X, replace(options, tol=1e-9, max_iter=2000)).n_passes
    for one, other in zip(found.entries, mapped.entries, strict=True):
        assert other.fit.bic - one.fit.bic == pytest.approx(2 * len(X) * np.log(units).sum(), rel=1e-6)


def test_a_ridge_is_left_by_leaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that overlap: EM gains thousands of its last steps yet, and takes hundreds of passes for it."""
    monkeypatch.setattr(sample, "AHEAD_ROWS", 5000)
    X = overlapping(20_000, apart=2.0)
    options = replace(OPTIONS, tol=1e-3, start_rows=5000)
    found, exact = compared(X, options), compared(X, replace(options, tol=1e-9, max_iter=2000))
    assert found.entries[found.best].name == exact.entries[exact.best].name
    assert 3 * found.n_passes < exact.n_passes
    best = found.entries[found.best]
    assert best.fit.bic - exact.entries[exact.best].fit.bic <= 2 * best.resolution


# -- a larger model below a smaller one ----------------------------------------------------------------------------
def contested(kind: str, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[list[Any], list[Fit]]:
    """Return the entries of K = 2 and a K = 3 that starts from three components on one place, and the fits before."""
    X = np.concatenate([overlapping(1500), overlapping(1500) + FAR])
    options = replace(OPTIONS, tol=1e-4)
    models = selection_models(options, n_components=[2, 3], covariance_types=[kind])
    with running(models, ArraySource(X), weights=None, executor=LocalExecutor(), listener=ignore) as run:
        one = np.ones(1)
        whole = family_called(kind)
        spread = {"full": [np.cov(X.T)], "tied": np.cov(X.T), "diag": [X.var(axis=0)], "spherical": [X.var()]}[kind]
        spread = np.asarray(spread)
        means = np.repeat(X.mean(axis=0)[np.newaxis], 3, axis=0)
        same = spread if kind == "tied" else np.repeat(spread, 3, axis=0)
        poor = Parameters.from_covariances(whole, np.repeat(one / 3, 3), means, same)
        if monkeypatch is not None:
            monkeypatch.setattr(Run, "searched_again", lambda self, i, smaller, tol: [self._ended[i]])
        started = {0: run.started(0), 1: [Candidate.start(0, poor, models[1].options)]}
        fits = {i: fit for i, fit in run.polished(started).items() if isinstance(fit, Fit)}
        return settled(run, models, fits, "bic"), list(fits.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_below_a_smaller_one_is_searched_again(kind: str) -> None:
    (two, three), before = contested(kind)
    assert before[1].mean_log_likelihood < before[0].mean_log_likelihood - 0.1, "three components on one place"
    assert three.fit.mean_log_likelihood >= two.fit.mean_log_likelihood - three.fit.reach
    assert (two.below, three.below) == (None, None)
    assert three.fit.status is Status.CONVERGED


def test_what_stays_below_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    (two, three), _ = contested("full", monkeypatch)
    assert (two.below, three.below) == (None, 2)


# -- rounds and checkpoints --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["within passes", "after passes"])
def test_rounds_go_on_from_a_checkpoint_with_the_same_bits(
    every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "AHEAD_ROWS", 600)  # (half of the rows)
    X = overlapping(1200)
    options = replace(OPTIONS, max_iter=30)
    undisturbed = compared(X, options)
    (tmp_path / "counted").mkdir()
    checkpoint, counted = at(tmp_path / "counted", every=every)
    assert bits(compared(X, options, checkpoint)) == bits(undisturbed)
    rounds = {name for name in checkpoint._slots if name.startswith("polishing-")}
    assert len(rounds) > 2, "there are rounds beyond the first passes"
    n = len(counted.done)
    for fault in range(n // 3, n, max(1, n // 4)):
        folder = tmp_path / f"{fault}"
        folder.mkdir()
        broken, _ = at(folder, fault=fault, how="torn", every=every)
        with pytest.raises(Torn):
            compared(X, options, broken)
        again, _ = at(folder, every=every)
        assert bits(compared(X, options, again)) == bits(undisturbed), fault


@pytest.mark.parametrize(("n_ahead", "tells"), [(600, True), (100, False)])
def test_what_a_sample_told_or_did_not_is_asked_only_once(
    n_ahead: int, tells: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "AHEAD_ROWS", n_ahead)
    X, options, told = overlapping(1200), replace(OPTIONS, max_iter=30, start_rows=100), []

    def ask(*args: Any, **named: Any) -> Prospect | None:
        told.append(foreseen(*args, **named))
        return told[-1]

    monkeypatch.setattr(run_module, "foreseen", ask)
    checkpoint, _ = at(tmp_path)
    found = compared(X, options, checkpoint)
    assert {prospect is not None for prospect in told} == {tells}
    told.clear()
    again, _ = at(tmp_path)
    assert bits(compared(X, options, again)) == bits(found)
    assert told == []
