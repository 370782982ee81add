"""The EM loop over a list of candidates: a frozen state each, advanced by one pass for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError, DataError
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.kind import RowSet
from daskgmm.mixture.mstep import m_step
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.plan import Plan, make_plan, precision_called
from daskgmm.mixture.statistics import Statistics

Floats = NDArray[np.float64]


class Status(Enum):
    """How a candidate stands; the value is what result and model file say."""

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    FELL = "fell"
    COLLAPSED = "collapsed"

    @property
    def sentence(self) -> str:
        """What the status means, and what to do."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.RUNNING: "The fit goes on.",
    Status.CONVERGED: "The mean log-likelihood changed by less than tol.",
    Status.MAX_ITER: "The fit ended at max_iter without converging. Increase max_iter or tol, or try another start.",
    Status.FELL: (
        "The fit ended at max_iter while the log-likelihood fell by more than tol: reg_covar is large against the "
        "variances, and EM is then no ascent. Decrease reg_covar, or rescale the features."
    ),
    Status.COLLAPSED: (
        "A component collapsed: its covariance is singular. Decrease n_components, increase reg_covar, or rescale or "
        "drop the features that hardly vary."
    ),
}


@dataclass(frozen=True)
class Candidate:
    """One model being fitted.

    Attributes
    ----------
    index : int
        Number of the restart.
    parameters : Parameters
        The parameters after n_iter iterations.
    lower_bounds : tuple of float
        Mean log-likelihood, nats, of the parameters that went into each iteration.
    previous : float
        The lower bound before the first iteration: minus infinity, or that of the fit that is continued.
    """

    index: int
    parameters: Parameters
    lower_bounds: tuple[float, ...] = ()
    previous: float = -np.inf
    status: Status = Status.RUNNING
    error: str = ""

    @property
    def n_iter(self) -> int:
        return len(self.lower_bounds)

    @property
    def lower_bound(self) -> float:
        return self.lower_bounds[-1] if self.lower_bounds else self.previous

    @property
    def change(self) -> float:
        """Change of the lower bound in the last iteration, nats."""
        before = self.lower_bounds[-2] if self.n_iter > 1 else self.previous
        return self.lower_bound - before


#: Gives the statistics over all rows for a list of plans, in one pass or in waves.
Request = Callable[[Sequence[Plan]], Sequence[Statistics]]


def run_em(
    candidates: Sequence[Candidate],
    request: Request,
    options: FitOptions,
    *,
    row_set: RowSet,
    n_rows: int,
    after_pass: Callable[[Sequence[Candidate]], None],
) -> list[Candidate]:
    """Return the candidates after EM; each pass advances all that run, and those that have ended cost nothing.

    Parameters
    ----------
    row_set, n_rows : RowSet, int
        What the survey found: the origin of the passes, and the rows that every pass must count.
    after_pass : callable
        Receives the candidates after each pass.
    """
    current = [_judge(c, options) for c in candidates]
    while any(c.status is Status.RUNNING for c in current):
        running = [c for c in current if c.status is Status.RUNNING]
        precision = precision_called(options.precision)
        plans = [
            make_plan(c.parameters, origin=row_set.mean, kernel=options.kernel, precision=precision) for c in running
        ]
        found = request(plans)
        advanced = {
            c.index: _advance(c, statistics, plan, options, row_set, n_rows)
            for c, statistics, plan in zip(running, found, plans, strict=True)
        }
        current = [advanced.get(c.index, c) for c in current]
        after_pass(current)
    return current


def check_counts(statistics: Statistics, *, row_set: RowSet, n_rows: int) -> None:
    """Raise a DataError unless a pass counted the rows, and the weight, that the survey found."""
    if statistics.n_rows != n_rows or not np.isclose(statistics.weight, row_set.weight, rtol=1e-9, atol=0):
        raise DataError(
            f"the input must stay the same during a fit; got {statistics.n_rows} rows of weight "
            f"{statistics.weight:.12g} in a pass, and {n_rows} of weight {row_set.weight:.12g} in the survey. "
            "Fit a copy that nobody writes to."
        )


def _advance(
    candidate: Candidate,
    statistics: Statistics,
    plan: Plan,
    options: FitOptions,
    row_set: RowSet,
    n_rows: int,
) -> Candidate:
    """Return the candidate after one iteration, from the statistics of its plan."""
    check_counts(statistics, row_set=row_set, n_rows=n_rows)
    if not np.isfinite(statistics.values).all():
        raise DataError(
            f"the log-likelihood must be finite; got {statistics.log_likelihood(plan, row_set)} in iteration "
            f"{candidate.n_iter + 1}. Check the given start, and rescale features beyond 1e150."
        )
    try:
        step = m_step(statistics, plan, previous=candidate.parameters, reg_covar=options.reg_covar, row_set=row_set)
    except CollapsedComponentError as error:
        return replace(candidate, status=Status.COLLAPSED, error=str(error))
    bounds = (*candidate.lower_bounds, step.objective)
    return _judge(replace(candidate, parameters=step.parameters, lower_bounds=bounds), options)


def _judge(candidate: Candidate, options: FitOptions) -> Candidate:
    """Return the candidate with the status that its lower bounds give it (scikit-learn's test of convergence)."""
    if candidate.n_iter and abs(candidate.change) < options.tol:
        return replace(candidate, status=Status.CONVERGED)
    if candidate.n_iter >= options.max_iter:
        fell = candidate.n_iter > 1 and candidate.change < -max(options.tol, 1e-9 * abs(candidate.lower_bound))
        return replace(candidate, status=Status.FELL if fell else Status.MAX_ITER)
    return candidate
