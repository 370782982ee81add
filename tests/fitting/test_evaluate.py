"""Waves: as many candidates in a pass as memory and messages hold, and no bit depends on where they are cut."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from daskgmm.errors import DataError
from daskgmm.fitting import evaluate
from daskgmm.fitting.evaluate import Evaluator, Request, check_counts, check_mean, check_responsibilities
from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import make_plan, precision_called
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass, all_but
from daskgmm.passes.tree import Passes
from tests.fitting.driving import KINDS
from tests.kernels.driving import parameters_of
from tests.passes.test_tree import CountingExecutor, Pieces
from tests.strategies import make_case

X = make_case("full", seed=0, n_rows=400, n_components=3, n_features=3).X


def requests() -> list[Request]:
    """Return requests of every kind, of two sizes, some on a fold."""
    folds = [None, Fold(0, 3, 1), None, Fold(0, 3, 1, held_out=True)]
    cases = [make_case(k, seed=i, n_rows=1, n_components=n, n_features=3) for i, k in enumerate(KINDS) for n in (2, 5)]
    plans = [make_plan(parameters_of(case), origin=X.mean(axis=0)) for case in cases]
    return [Request(plan, folds[i % 4]) for i, plan in enumerate(plans)]


def evaluator(wave_state_bytes: int | None = None) -> tuple[Evaluator, CountingExecutor]:
    source, executor = Pieces(X, 100), CountingExecutor()
    return Evaluator(Passes(Rows(source, None, source.chunk_edges), executor), wave_state_bytes), executor


def state_bytes(request: Request) -> int:
    shape, k = request.plan.shape, request.plan.n_components
    return 8 * k * shape.n_statistics(3, exact=True)


@pytest.mark.parametrize("what", ["statistics", "scores"])
@pytest.mark.parametrize("by", ["packed", "states"])
@pytest.mark.parametrize("n_waves", [2, 8])
def test_waves_change_no_bit_and_are_counted(what: str, by: str, n_waves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests()
    whole, executor = evaluator()
    expected = getattr(whole, what)(asked)
    assert (whole.n_passes, len(executor.computes)) == (1, 1)
    assert len(expected) == len(asked)
    if by == "packed":
        most = 1 if n_waves == 8 else sum(r.plan.n_bytes for r in asked) * 2 // 3
        monkeypatch.setattr(evaluate, "WAVE_BYTES", most)
        cut, executor = evaluator()
    else:
        cut, executor = evaluator(1 if n_waves == 8 else sum(map(state_bytes, asked)) * 2 // 3)
    found = getattr(cut, what)(asked)
    n_passes = 1 if (what, by) == ("scores", "states") else n_waves  # a score is four numbers
    assert (cut.n_passes, len(executor.computes)) == (n_passes, n_passes)
    for a, b in zip(found, expected, strict=True):
        assert_array_equal(a.values, b.values)
    for request, b in zip(asked, expected, strict=True):
        (alone,) = getattr(evaluator()[0], what)([request])
        assert_array_equal(alone.values, b.values)
    getattr(cut, what)(asked[:1])
    assert cut.n_passes == n_passes + 1
    assert cut.seconds > 0


def waves(asked: list[Request], **options: Any) -> list[list[Request]]:
    cut, executor = evaluator(**options)
    cut.statistics(asked)
    works = [next(node.value for node in graph.values() if hasattr(node, "value")) for graph, _, _ in executor.computes]
    found, start = [], 0
    for work in works:
        found.append(asked[start : start + len(work.plans)])
        start += len(work.plans)
        assert all(a is b.plan for a, b in zip(work.plans, found[-1], strict=True))
        assert work.folds == tuple(r.fold for r in found[-1])
    assert start == len(asked), "every request once, in order"
    return found


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_a_wave_is_as_long_as_its_limits_allow_and_no_longer(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests()
    most = int(share * sum(map(state_bytes, asked)))
    by_state = waves(asked, wave_state_bytes=most)
    sizes = [[state_bytes(r) for r in wave] for wave in by_state]
    assert all(sum(wave) <= most or len(wave) == 1 for wave in sizes)
    assert all(sum(a) + b[0] > most for a, b in pairwise(sizes))
    most = int(share * sum(r.plan.n_bytes for r in asked))
    monkeypatch.setattr(evaluate, "WAVE_BYTES", most)
    sizes = [[r.plan.n_bytes for r in wave] for wave in waves(asked)]
    assert all(sum(wave) <= most or len(wave) == 1 for wave in sizes)
    assert all(sum(a) + b[0] > most for a, b in pairwise(sizes))


def test_the_tighter_limit_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests()
    assert len(waves(asked, wave_state_bytes=1)) == len(asked)
    monkeypatch.setattr(evaluate, "WAVE_BYTES", 1)
    assert len(waves(asked, wave_state_bytes=10**9)) == len(asked)


def test_waves_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    cut, _ = evaluator(1)
    with caplog.at_level(logging.INFO, logger="daskgmm"):
        cut.statistics(requests()[:1])
        assert not caplog.messages
        cut.statistics(requests())
        cut.statistics(requests())
    assert caplog.messages == [
        "8 candidates take 8 waves, each a pass of its own: memory and messages hold no more at once."
    ]


# -- the counts ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n_rows", "weight", "ok"),
    [
        (7, 7.0, True), (7, 7.0 * (1 + 9e-10), True), (7, 7.0 * (1 + 2e-9), False), (8, 7.0, False),
        (7, np.nan, False), (7, 0.0, False),
    ],
)  # fmt: skip
def test_a_pass_must_count_what_the_survey_counted(n_rows: int, weight: float, ok: bool) -> None:
    row_set = RowSet(7, 7.0, np.zeros(1), np.ones(1))
    statistics = Statistics(np.array([0.0, weight, n_rows]))
    if ok:
        check_counts(statistics, row_set)
        return
    message = (
        f"the input must stay the same during a fit; got {n_rows} rows of weight .* and 7 of weight 7 in the survey"
    )
    with pytest.raises(DataError, match=message):
        check_counts(statistics, row_set)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="no numba"))]
)
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("kind", KINDS)
def test_responsibilities_sum_to_the_weight_and_means_to_that_of_the_rows_whatever_these_are(
    kind: str, precision: str, compiled: bool
) -> None:
    case = make_case(kind, seed=0, n_rows=20_000, n_components=3, n_features=3)
    rng = np.random.default_rng(0)
    far = case.X.copy()
    far[::999] *= 1e8
    dropped = rng.random(len(far)) < 0.1
    rows = {
        "ordinary": (case.X, None), "at an offset": (case.X + 1e8, None), "far": (far, None),
        "float32": (case.X.astype(np.float32).astype(float), rng.lognormal(sigma=5, size=len(far))),
        "in part": (np.where(dropped[:, np.newaxis], 0.0, case.X), np.where(dropped, 0.0, rng.random(len(far)))),
    }  # fmt: skip
    for name, (x, weights) in rows.items():
        shift = 1e8 if name == "at an offset" else 0.0
        mixture = Parameters.from_covariances(
            family_called(kind), case.weights, case.means + shift, np.asarray(case.covariances)
        )
        block = Block(np.ascontiguousarray(x.T), weights, 0, dropped if name == "in part" else None)
        fold, survey = Fold(0, 3, 1), SurveyPass(x.shape[1], False, 1, -1, 3)
        found = survey.finish(survey.update(survey.zero(), block))
        sets = {None: found.row_set, fold: all_but(survey, found, 0).row_set}
        plan = make_plan(mixture, origin=found.mean, precision=precision_called(precision), compiled=compiled)
        work = EStep([plan, plan], [None, fold])
        for statistics, own in zip(work.finish(work.update(work.zero(), block)), (None, fold), strict=True):
            check_counts(statistics, sets[own])
            check_responsibilities(statistics, plan)
            check_mean(statistics, plan, sets[own])
            moved = np.array([0, 1000 * plan.precision.count_tolerance * x[:, 1].std(), 0])
            wrong = replace(sets[own], mean=sets[own].mean + moved)
            with pytest.raises(
                DataError, match=r"must stay the same during a fit; got a mean of \S+ for feature 1 in a"
            ):
                check_mean(statistics, plan, wrong)


@pytest.mark.parametrize("weight", [0.5922377289974085, 0.6453397559374898, 0.7461222487279975])
def test_equal_weights_in_single_precision_sum_well_enough(weight: float) -> None:
    """Rounding of a sum of equal numbers goes one way: the worst case of those that were measured, 1.4e-5."""
    mixture = Parameters.from_covariances(family_called("tied"), np.ones(1), np.zeros((1, 1)), np.eye(1))
    plan = make_plan(mixture, origin=np.zeros(1), precision=precision_called("single"))
    work, x = EStep([plan]), np.random.default_rng(0).standard_normal((1, 16384))
    (statistics,) = work.finish(work.update(work.zero(), Block(x, np.full(16384, weight), 0)))
    check_responsibilities(statistics, plan)
