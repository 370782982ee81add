"""The first EM steps of a start: shrunk covariances, or tempered responsibilities, less and less of either.

EM never lets go of a component that closes in on a few rows. While covariances are shrunk to the one within all
components none can, and while responsibilities are spread out every component sees rows of its neighbours; what is then
left of either is let go step by step. These are EM steps, so they cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daskgmm.errors import CollapsedComponentError, NotFiniteError
from daskgmm.fitting.evaluate import Request
from daskgmm.fitting.loop import Evaluate
from daskgmm.fitting.merge import has_doubles
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.mstep import m_step
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Shrinkage, Together
from daskgmm.mixture.row_set import RowSet


@dataclass(frozen=True)
class Step:
    """An EM step on the way.

    Attributes
    ----------
    power : float
        Responsibilities are taken to it, and divided by their sums.
    share : float
        Rows of the covariance within all components that each is given, in units of n_rows / n_components.
    """

    power: float
    share: float


Schedule = tuple[Step, ...]

PLAIN: Schedule = ()
SHRUNK: Schedule = tuple(Step(1.0, share) for share in (1.0, 0.6, 0.35, 0.2, 0.1, 0.05, 0.02))
#: Two steps of each power.
TEMPERED: Schedule = tuple(
    Step(power, share)
    for power, share in ((0.2, 0.3), (0.4, 0.2), (0.6, 0.1), (0.75, 0.05), (0.9, 0.02))
    for _ in range(2)
)


def annealed(
    starts: Sequence[tuple[Parameters, Schedule]],
    evaluate: Evaluate,
    row_set: RowSet,
    options: FitOptions,
    *,
    least: float,
    compiled: bool,
    after_pass: Callable[[Sequence[Parameters]], None],
) -> list[Parameters | None]:
    """Return the mixtures after the steps of their schedules, which share passes; None where one is lost.

    Lost is, too, one in which two components have become alike, as tempered responsibilities may make them, unless all
    are so: EM would not part them again.

    Parameters
    ----------
    starts : sequence of (Parameters, Schedule)
    evaluate : callable
        Gives the statistics over the rows of `row_set` for a list of requests.
    least : float
        Rows of the covariance within all that each component is given at least.
    after_pass : callable
        Receives the mixtures that took part in a pass, after it.
    """
    current = {i: p for i, (p, _) in enumerate(starts)}
    unit = row_set.n_rows / options.n_components
    for turn in range(max((len(schedule) for _, schedule in starts), default=0)):
        running = [i for i in current if turn < len(starts[i][1])]
        if not running:
            break  # (those that go by a schedule are lost)
        tempered = [current[i].tempered(starts[i][1][turn].power) for i in running]
        gaps = row_set.share is not None
        plans = [
            make_plan(p, origin=row_set.mean, kernel=options.kernel, compiled=compiled, gaps=gaps) for p in tempered
        ]
        found = evaluate([Request(plan) for plan in plans])
        for i, p, plan, statistics in zip(running, tempered, plans, found, strict=True):
            shrinkage = Shrinkage(max(least, starts[i][1][turn].share * unit))
            try:
                current[i] = m_step(
                    statistics, plan, previous=p, prior=Together((shrinkage, options.whole_prior)), row_set=row_set
                ).parameters
            except (CollapsedComponentError, NotFiniteError):
                del current[i]
        after_pass(tempered)
    doubled = {i for i, p in current.items() if starts[i][1] and not options.may_be_empty and has_doubles(p)}
    if len(doubled) < len(current):
        current = {i: p for i, p in current.items() if i not in doubled}
    return [current.get(i) for i in range(len(starts))]
