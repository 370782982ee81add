"""The loop: which status ends a candidate, that each goes its own way, and what it makes of a pass that went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from daskgmm.errors import DaskgmmError, DataError, NotFiniteError
from daskgmm.fitting.evaluate import Request, check_counts
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.status import Status
from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import precision_called
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from tests.fitting.driving import KINDS, well_separated


class Passes:
    """Runs each pass over rows in memory, and notes how many candidates asked for it."""

    def __init__(self, X: Any) -> None:
        self.X = np.asarray(X, dtype=float)
        mean = self.X.mean(axis=0)
        self.row_set = RowSet(len(X), float(len(X)), mean, (self.X - mean).T @ (self.X - mean))
        self.asked: list[int] = []
        self.told: list[list[Candidate]] = []

    def __call__(self, requests: Sequence[Request]) -> list[Statistics]:
        self.asked.append(len(requests))
        estep = EStep([request.plan for request in requests])
        return estep.finish(estep.update(estep.zero(), Block(np.ascontiguousarray(self.X.T), None, 0)))

    def run(self, candidates: Sequence[Candidate], **options: Any) -> list[Candidate]:
        candidates = [replace(c, options=FitOptions(acceleration=None, **options)) for c in candidates]
        return run_em(candidates, self, {None: self.row_set}, after_pass=lambda found: self.told.append(list(found)))


def at(index: int, parameters: Parameters, **options: Any) -> Candidate:
    return Candidate.start(index, parameters, FitOptions(acceleration=None), **options)


def candidate(kind: str = "full", *, index: int = 0, shift: float = 0.0) -> tuple[Passes, Candidate]:
    case = well_separated(kind, n_rows=200)
    start = Parameters.from_covariances(family_called(kind), case.weights, case.means + shift, case.covariances)
    return Passes(case.X), at(index, start)


def spherical(means: Any, variances: Any, *, index: int = 0) -> Candidate:
    means = np.array(means, dtype=float)
    weights = np.full(len(means), 1 / len(means))
    kind = family_called("spherical")
    return at(index, Parameters.from_covariances(kind, weights, means, np.array(variances, dtype=float)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_runs_until_it_changes_by_less_than_tol(kind: str) -> None:
    passes, start = candidate(kind)
    (end,) = passes.run([start], tol=1e-4)
    assert end.status is Status.CONVERGED
    assert passes.asked == [1] * end.n_iter
    changes = np.diff(end.lower_bounds)
    assert abs(changes[-1]) < 1e-4
    assert np.all(np.abs(changes[:-1]) >= 1e-4)
    assert end.lower_bound == end.lower_bounds[-1]
    assert end.change == end.lower_bounds[-1] - end.lower_bounds[-2]
    (next_end,) = passes.run([at(0, end.parameters)], tol=0, max_iter=1)
    assert next_end.lower_bound > end.lower_bound, "a lower bound belongs to the parameters that went in"


def test_max_iter_ends_a_candidate_and_zero_asks_for_no_pass() -> None:
    passes, start = candidate()
    (end,) = passes.run([start], max_iter=3, tol=0)
    assert (end.status, end.n_iter) == (Status.MAX_ITER, 3)
    passes.asked.clear()
    (end,) = passes.run([start], max_iter=0)
    assert (end.status, end.n_iter, end.lower_bound, passes.asked) == (Status.MAX_ITER, 0, -np.inf, [])


def test_a_continued_candidate_is_compared_with_the_fit_before() -> None:
    passes, start = candidate()
    (whole,) = passes.run([start], tol=1e-4)
    (first,) = passes.run([start], tol=1e-4, max_iter=whole.n_iter - 1)
    (rest,) = passes.run([at(0, first.parameters, previous=first.lower_bound)], tol=1e-4)
    assert (rest.status, rest.n_iter) == (Status.CONVERGED, 1)
    assert_array_equal(rest.parameters.means, whole.parameters.means)


def test_candidates_share_passes_and_their_bits_do_not_depend_on_company() -> None:
    passes, one = candidate(index=0)
    _, other = candidate(index=1, shift=-4.0)
    together = passes.run([one, other], tol=1e-5)
    asked, told = passes.asked, passes.told
    n = [c.n_iter for c in together]
    assert n[0] != n[1]
    assert asked == [2] * min(n) + [1] * (max(n) - min(n))
    assert [[c.index for c in found] for found in told] == [[0, 1]] * max(n)
    for alone, found in zip((one, other), together, strict=True):
        (end,) = passes.run([alone], tol=1e-5)
        assert end.lower_bounds == found.lower_bounds
        assert_array_equal(end.parameters.covariances, found.parameters.covariances)


def test_a_collapsed_candidate_ends_and_the_others_go_on() -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((60, 2)), np.full((5, 2), 30.0)])
    good = spherical([[0, 0], [5, 5]], [1, 50])
    bad = spherical([[0, 0], [30, 30]], [1, 1], index=1)
    passes = Passes(X)
    end = passes.run([bad, spherical([[-1, 0], [1, 0]], [400, 400], index=2)], tol=1e-6, reg_covar=0)
    assert end[0].status is Status.COLLAPSED
    assert end[0].n_iter < end[1].n_iter
    assert "component 1" in str(end[0].failure())
    assert np.isfinite(end[0].parameters.covariances).all()
    assert "Decrease n_components, increase reg_covar, or rescale or drop" in Status.COLLAPSED.sentence
    (regularised,) = passes.run([good], tol=1e-6, reg_covar=1e-3)
    assert regularised.status is Status.CONVERGED


def test_a_fall_at_the_end_has_its_own_status() -> None:
    # A variance of 1 with reg_covar 1: iterates leave the maximum that they start at.
    X = np.random.default_rng(1).standard_normal((500, 2))
    start = spherical([X.mean(axis=0)], [X.var()])
    (end,) = Passes(X).run([start], tol=1e-6, max_iter=2, reg_covar=1.0, weights_init=[1.0])
    assert end.status is Status.FELL
    assert end.change < -1e-2
    assert "reg_covar is large" in Status.FELL.sentence
    (end,) = Passes(X).run([start], tol=1.0, max_iter=2, reg_covar=1.0)
    assert end.status is Status.CONVERGED, "a fall below tol ends as converged"


@pytest.mark.parametrize(("fall", "status"), [(1e-12, Status.MAX_ITER), (1e-3, Status.FELL)])
def test_a_fall_within_rounding_is_none(fall: float, status: Status) -> None:
    passes, start = candidate()
    fallen = replace(start, lower_bounds=(-5.0, -5.0 - fall), change=-fall, n_passes=2)
    (end,) = passes.run([fallen], max_iter=2, tol=0)
    assert (end.status, passes.asked) == (status, [])


def test_input_that_changes_during_a_fit_is_noticed() -> None:
    passes, start = candidate()
    passes.row_set = replace(passes.row_set, weight=250.0)
    message = r"must stay the same during a fit; got 200 rows of weight 200 in a pass, and 200 of weight 250 in the"
    with pytest.raises(DataError, match=message):
        passes.run([start])
    statistics = Statistics(np.array([0.0, 7.0, 7.0]))
    check_counts(statistics, replace(passes.row_set, n_rows=7, weight=7.0 * (1 + 1e-12)))
    with pytest.raises(DataError, match="got 7 rows of weight 7 in a pass, and 8 of weight 7"):
        check_counts(statistics, replace(passes.row_set, n_rows=8, weight=7.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("precision", "factor"), [("double", 1 + 1e-7), ("single", 1.01), ("double", 0.99)])
def test_responsibilities_that_do_not_sum_to_the_weight_are_noticed(kind: str, precision: str, factor: float) -> None:
    passes, one = candidate(kind)
    _, other = candidate(kind, index=1, shift=0.5)
    options = FitOptions(acceleration=None, precision=precision, tol=1e-4)
    n_passes = 0

    def spoiled(requests: Sequence[Request]) -> list[Statistics]:
        nonlocal n_passes
        n_passes += 1
        found = passes(requests)
        assert {request.plan.precision for request in requests} == {precision_called(precision)}
        if n_passes == 2:
            # (Of the second candidate only: the sums of one say nothing of another.)
            panel = found[1].panel(requests[1].plan.n_components)
            panel *= factor
        return found

    start = [replace(c, options=options) for c in (one, other)]
    message = f"responsibilities of a pass must sum to the weight of its rows; got .* 200 in {precision} precision"
    with pytest.raises(DaskgmmError, match=message) as error:
        run_em(start, spoiled, {None: passes.row_set}, after_pass=lambda found: None)
    assert (n_passes, error.value.exit_code) == (2, 70)
    assert all(c.status is Status.CONVERGED for c in passes.run(start, precision=precision, tol=1e-4))


def _nan(panel: Any) -> None:
    panel[0, 0] = np.nan


def _infinite_variance(panel: Any) -> None:
    """Make the sums finite, and a variance that is not: much about a mean, of hardly any rows."""
    n_features = panel.shape[1] // 2
    panel[0, n_features:] += (1 - 1e-11) * panel[1, n_features:]  # (counts and means of all rows stay what they are)
    panel[1] *= 1e-11
    panel[1, 0] = 1e305


@pytest.mark.parametrize(
    ("spoil", "what"), [(_nan, "the log-likelihood"), (_infinite_variance, "means and covariances")]
)
@pytest.mark.parametrize("n_passes", [1, 2])
def test_a_candidate_that_is_not_finite_ends_and_the_others_go_on(spoil: Any, what: str, n_passes: int) -> None:
    """It raised an error, which ended the candidates beside it too: they had found what they find alone."""
    passes, bad = candidate("diag")
    _, good = candidate("diag", index=1, shift=0.5)
    start = [replace(c, options=FitOptions(acceleration=None, tol=1e-6)) for c in (bad, good)]
    asked = 0

    def spoiled(requests: Sequence[Request]) -> list[Statistics]:
        nonlocal asked
        asked, found = asked + 1, passes(requests)
        if asked == n_passes:
            spoil(found[0].panel(requests[0].plan.n_components))
        return found

    lost, end = run_em(start, spoiled, {None: passes.row_set}, after_pass=lambda found: None)
    assert (lost.status, lost.n_iter, lost.n_passes) == (Status.NOT_FINITE, n_passes - 1, n_passes)
    assert str(lost.failure()).startswith(f"{what} must be finite; got ")
    assert str(lost.failure()).endswith(". Check the given start, and rescale features beyond 1e150.")
    assert type(lost.failure()) is NotFiniteError
    assert np.isfinite(lost.parameters.covariances).all()
    (alone,) = passes.run([good], tol=1e-6)
    assert end.status is alone.status is Status.CONVERGED
    assert end.n_iter > n_passes
    assert end.lower_bounds == alone.lower_bounds
    for name in ("weights", "means", "covariances"):
        assert_array_equal(getattr(end.parameters, name), getattr(alone.parameters, name))


def test_a_leap_that_is_not_finite_is_undone() -> None:
    passes, start = candidate()
    start = Candidate.start(0, start.parameters, FitOptions(acceleration="squarem", tol=1e-6))
    n_spoiled = 0

    def spoiled(requests: Sequence[Request]) -> list[Statistics]:
        nonlocal n_spoiled
        found = passes(requests)
        if passes.told and passes.told[-1][0].move.extrapolated and not n_spoiled:
            n_spoiled += 1
            _nan(found[0].panel(3))
        return found

    (end,) = run_em([start], spoiled, {None: passes.row_set}, after_pass=lambda found: passes.told.append(list(found)))
    assert n_spoiled == 1
    assert end.status is Status.CONVERGED
    assert end.n_passes > end.n_iter


def test_every_status_has_a_sentence() -> None:
    assert all(status.sentence.endswith(".") for status in Status)
    numbers = [s for s in list(Status)[3:] if s is not Status.CALLED_OFF]
    assert all("Decrease" in s.sentence or "Increase" in s.sentence for s in numbers)


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_passes_left_where_gains_shrink_alike(ratio: float) -> None:
    """The change is below tol after the first n with gain * ratio**n < tol."""
    _, start = candidate()
    gains = 0.1 * ratio ** np.arange(12)
    going = replace(start, options=FitOptions(tol=1e-5), lower_bounds=tuple(np.cumsum(gains)), n_passes=12)
    expected = next(n for n in range(1, 200) if gains[-1] * ratio**n < 1e-5)
    assert going.passes_left == min(expected, 100 - 12)


def test_passes_left_where_nothing_is_known_or_all() -> None:
    _, start = candidate()
    assert start.passes_left is None
    assert replace(start, lower_bounds=(-2.0, -1.0, -3.0)).passes_left is None
    assert replace(start, options=FitOptions(tol=0, max_iter=30), n_passes=7).passes_left == 23
    assert replace(start, status=Status.CONVERGED).passes_left == 0
