"""The EM loop over a list of candidates: a frozen state each, advanced by one pass for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from daskgmm.errors import CollapsedComponentError, DataError, NotFiniteError
from daskgmm.fitting.evaluate import Request, RowSets, check_counts, check_mean, check_responsibilities
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.status import Status
from daskgmm.fitting.stopping import OnePass, Pass, StoppingRule, Verdict, ask
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.mstep import m_step
from daskgmm.kernels.plan import Plan, make_plan, precision_called
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.sums import log_likelihood
from daskgmm.mixture.acceleration import Accelerator, Advance, Move
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.row_set import RowSet

#: Iterations whose gain says how much there may be left. One change says less: EM is slow where components overlap.
RECENT = 4


@dataclass(frozen=True)
class Candidate(Record):
    """One model being fitted.

    Attributes
    ----------
    index : int
        Number of the restart.
    options : FitOptions
        Of this candidate; those of a selection differ in n_components and covariance_type.
    move : Move
        What the next pass evaluates.
    parameters : Parameters
        The parameters after n_iter iterations: the start, or the EM image of the last accepted point.
    accelerator : Accelerator
    fold : Fold or None
        The rows that it is fitted to; None means all.
    lower_bounds : tuple of float
        Objective, nats a row, of the parameters that went into each iteration: the mean log-likelihood, and what the
        prior adds.
    change : float
        Change of the lower bound in the last iteration that was a plain EM step, nats.
    previous : float
        The lower bound before the first iteration: minus infinity, or that of the fit that is continued.
    n_passes : int
        E-steps so far, those of rejected points included; max_iter bounds them.
    step, objective, accepted : float, float, bool
        Of the last pass: the step length that led to its point (1 for an EM step), the objective that it found,
        nats, and whether the point was accepted.
    compiled : bool
        Whether the compiled kernel does what it can.
    rule : StoppingRule or None
        When it ends; None before that of the options was first asked.
    n_judged : int
        Passes after which it was asked.
    """

    index: int
    options: FitOptions
    move: Move
    parameters: Parameters
    accelerator: Accelerator
    fold: Fold | None = None
    lower_bounds: tuple[float, ...] = ()
    change: float = np.inf
    previous: float = -np.inf
    n_passes: int = 0
    step: float = 1.0
    objective: float = np.nan
    accepted: bool = True
    compiled: bool = False
    rule: StoppingRule | None = None
    n_judged: int = 0
    status: Status = Status.RUNNING
    error: tuple[str, ...] = ()

    @classmethod
    def start(
        cls,
        index: int,
        parameters: Parameters,
        options: FitOptions,
        *,
        fold: Fold | None = None,
        previous: float = -np.inf,
        compiled: bool = False,
    ) -> Candidate:
        """Return a candidate before its first pass."""
        parameters = options.whole_prior.kept(parameters)
        move = Move(parameters, False, 1.0)
        return cls(
            index, options, move, parameters, options.accelerator, fold, previous=previous, compiled=compiled,
        )  # fmt: skip

    def going_on(self, tol: float) -> Candidate:
        """Return it running on to a smaller tol, nats."""
        options = replace(self.options, tol=tol)
        return replace(self, status=Status.RUNNING, options=options, rule=None, n_judged=0)

    def leaping(self, target: Parameters, objective: float) -> Candidate:
        """Return it running on for a pass at a mixture, which is taken if its objective is at least this one, nats."""
        accelerator, move = self.accelerator.leap(self.options.whole_prior.kept(target), objective)
        return replace(
            self, status=Status.RUNNING, accelerator=accelerator, move=move, rule=OnePass(), n_judged=self.n_passes
        )

    @property
    def n_iter(self) -> int:
        return len(self.lower_bounds)

    @property
    def lower_bound(self) -> float:
        return self.lower_bounds[-1] if self.lower_bounds else self.previous

    @property
    def is_closed_form(self) -> bool:
        """Whether one E-step ends at the optimum."""
        return self.options.is_closed_form and self.parameters.n_components == 1

    @property
    def reach(self) -> float:
        """How far the mean log-likelihood may still rise, nats: what the gains of the last passes add up to, or tol.

        Notes
        -----
        Of gains g before and h last, each of `RECENT` iterations, h r / (1 - r) with r = h / g is left if they go on to
        shrink alike (Aitken 1926; Boehning et al. 1994, doi:10.1007/BF01720593). r is taken to be at most 0.9, and 0.75
        where there are too few iterations to tell.
        """
        if self.n_iter and self.is_closed_form:
            return 0.0
        bounds = self.lower_bounds[-1 - 2 * RECENT :]
        if len(bounds) < 2:
            return self.options.tol if self.status is Status.CONVERGED else np.inf
        last = max(bounds[-1] - bounds[-1 - min(RECENT, len(bounds) - 1)], 0.0)
        ratio = 0.75
        if len(bounds) > 2 * RECENT:
            before = bounds[-1 - RECENT] - bounds[-1 - 2 * RECENT]
            ratio = min(last / before, 0.9) if before > 0 else 0.9
        return max(self.options.tol, last * ratio / (1 - ratio))

    @property
    def passes_left(self) -> int | None:
        """How many passes there may still be, where the gains of the last iterations shrink on alike; None: unknown."""
        most = self.options.max_iter - self.n_passes
        tol = self.options.tol if self.options.stopping is None else 0.0
        if self.is_closed_form or self.status is not Status.RUNNING:
            return 0
        if tol == 0:
            return most
        gains = np.diff(self.lower_bounds[-1 - 2 * RECENT :])
        if len(gains) < 2 or gains[-1] <= 0 or gains[0] <= 0:
            return None
        ratio = min((gains[-1] / gains[0]) ** (1 / (len(gains) - 1)), 0.98)
        return int(np.clip(np.ceil(np.log(tol / gains[-1]) / np.log(ratio)), 1, most))

    def failure(self) -> DataError:
        """Return the error that says why the candidate is lost."""
        return (CollapsedComponentError if self.status is Status.COLLAPSED else NotFiniteError)(*self.error)

    def plan(self, row_set: RowSet) -> Plan:
        """Return how the next pass computes it."""
        o = self.options
        return make_plan(
            self.move.parameters, origin=row_set.mean, kernel=o.kernel, precision=precision_called(o.precision),
            compiled=self.compiled, gaps=row_set.share is not None,
        )  # fmt: skip


#: Mean log-likelihoods are alike to so many digits behind the point, nats: rounding must not choose between
#: restarts that have found the same mixture, whose components may be in another order.
ALIKE_DIGITS = 9


def ranked(scores: Sequence[float]) -> list[int]:
    """Return the numbers of the scores, nats, best first; those that are alike in their order."""
    return [int(i) for i in np.argsort(-np.round(scores, ALIKE_DIGITS), kind="stable")]


#: Gives the statistics over their rows for a list of requests, in one pass or in waves.
Evaluate = Callable[[Sequence[Request]], Sequence[Statistics]]


def run_em(
    candidates: Sequence[Candidate],
    evaluate: Evaluate,
    row_sets: RowSets,
    *,
    after_pass: Callable[[Sequence[Candidate]], None],
    n_passes: int | None = None,
) -> list[Candidate]:
    """Return the candidates after EM; each pass advances all that run, and those that have ended cost nothing.

    Parameters
    ----------
    row_sets : mapping of Fold or None to RowSet
        What the survey found of the rows of each candidate: the origin of its passes, and what they must count.
    after_pass : callable
        Receives the candidates after each pass.
    n_passes : int or None
        Passes at most; None runs until every candidate has ended.
    """
    current = [_judge(c) if c.status is Status.RUNNING else c for c in candidates]
    n_done = 0
    while any(c.status is Status.RUNNING for c in current) and (n_passes is None or n_done < n_passes):
        current = advance(current, evaluate, row_sets)
        n_done += 1
        after_pass(current)
    return current


def advance(candidates: Sequence[Candidate], evaluate: Evaluate, row_sets: RowSets) -> list[Candidate]:
    """Return the candidates after one pass for those that run."""
    running = [(i, c) for i, c in enumerate(candidates) if c.status is Status.RUNNING]
    plans = [c.plan(row_sets[c.fold]) for _, c in running]
    found = evaluate([Request(plan, c.fold) for plan, (_, c) in zip(plans, running, strict=True)])
    current = list(candidates)
    for (i, candidate), statistics, plan in zip(running, found, plans, strict=True):
        current[i] = _advance(candidate, statistics, plan, row_sets[candidate.fold])
    return current


def _advance(candidate: Candidate, statistics: Statistics, plan: Plan, row_set: RowSet) -> Candidate:
    """Return the candidate after one pass, from the statistics of its plan."""
    check_counts(statistics, row_set)
    move, options = candidate.move, candidate.options
    candidate = replace(candidate, n_passes=candidate.n_passes + 1, step=move.step, objective=np.nan, accepted=False)
    if not np.isfinite(statistics.values).all():
        return _lost(
            candidate, Status.NOT_FINITE,
            NotFiniteError(
                "the log-likelihood",
                "be finite",
                f"{log_likelihood(statistics, plan, row_set)} in iteration {candidate.n_iter + 1}",
                "Check the given start, and rescale features beyond 1e150.",
            ),
        )  # fmt: skip
    check_responsibilities(statistics, plan)
    check_mean(statistics, plan, row_set)
    try:
        step = m_step(statistics, plan, previous=move.parameters, prior=options.whole_prior, row_set=row_set)
    except CollapsedComponentError as error:
        return _lost(candidate, Status.COLLAPSED, error)
    except NotFiniteError as error:
        return _lost(candidate, Status.NOT_FINITE, error)
    candidate = replace(candidate, objective=step.objective)
    advance = candidate.accelerator.advance(move, step.objective, step.parameters)
    if not advance.accepted:
        return _moved(candidate, advance)
    candidate = replace(
        candidate,
        accepted=True,
        parameters=step.parameters,
        change=np.nan if move.extrapolated else step.objective - candidate.lower_bound,
        lower_bounds=(*candidate.lower_bounds, step.objective),
    )
    return _moved(candidate, advance)


def _lost(candidate: Candidate, status: Status, error: DataError) -> Candidate:
    """Return the candidate after a pass that came to nothing: it goes on from before a leap, or is lost."""
    if candidate.move.extrapolated:
        return _moved(candidate, candidate.accelerator.reject(candidate.move))
    return replace(candidate, status=status, error=error.fields)


def _moved(candidate: Candidate, found: Advance) -> Candidate:
    move = found.move
    if move.extrapolated:  # (an M-step keeps to what the prior allows)
        move = replace(move, parameters=candidate.options.whole_prior.kept(move.parameters))
    return _judge(replace(candidate, accelerator=found.accelerator, move=move))


def _judge(candidate: Candidate) -> Candidate:
    """Return the candidate with the status that its passes give it.

    One component is at its optimum after one step. The rule is asked once after each pass.
    """
    options = candidate.options
    if candidate.n_iter and candidate.is_closed_form:
        return replace(candidate, status=Status.CONVERGED)
    if candidate.n_passes > candidate.n_judged:
        c = candidate
        seen = Pass(c.n_passes, c.n_iter, c.lower_bound, c.change, c.accepted)
        rule, verdict = ask(c.rule or options.rule, seen)
        candidate = replace(candidate, rule=rule, n_judged=candidate.n_passes, status=_STATUS[verdict])
    if candidate.status is Status.RUNNING and candidate.n_passes >= options.max_iter:
        fell = candidate.n_iter > 1 and candidate.change < -max(options.tol, 1e-9 * abs(candidate.lower_bound))
        return replace(candidate, status=Status.FELL if fell else Status.MAX_ITER)
    return candidate


_STATUS = {Verdict.GO_ON: Status.RUNNING, Verdict.CONVERGED: Status.CONVERGED, Verdict.STOP: Status.STOPPED}
