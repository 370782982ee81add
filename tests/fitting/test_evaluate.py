"""Waves: as many candidates in a pass as memory and messages hold, and no bit depends on where they are cut."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from daskgmm.data.passes import Passes
from daskgmm.data.rows import Rows
from daskgmm.errors import DataError
from daskgmm.fitting import evaluate
from daskgmm.fitting.evaluate import Evaluator, Request, check_counts
from daskgmm.mixture.folds import Fold
from daskgmm.mixture.kind import RowSet
from daskgmm.mixture.plan import make_plan
from daskgmm.mixture.statistics import Statistics
from tests.data.test_passes import CountingExecutor, Pieces
from tests.fitting.driving import KINDS
from tests.mixture.driving import parameters_of
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
    kind, k = request.plan.kind, request.plan.n_components
    return 8 * k * kind.n_statistics(3, exact=True)


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
