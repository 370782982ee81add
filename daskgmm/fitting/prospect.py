"""Where EM on all rows would end, as the sample shows it: passes over rows in memory in the place of passes over all.

SQUAREM takes tens of passes to the end of a fit whose components overlap. Here EM runs on the sample, its moments
corrected by what all rows have shown at one mixture (`Tilt`). Its end is a leap that one pass over all rows tries, and
what it gains is what the fit may still gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from daskgmm.fitting.evaluate import Evaluator, Request, RowSets
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample
from daskgmm.fitting.status import Status
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.tilt import Tilt

#: The information of n rows about p numbers differs from that of all rows by up to 2 sqrt(p / n) of it, in some
#: direction. So many rows more, 2 sqrt(p n), hold the mixture. Without them a component that splits a Gaussian, about
#: which rows tell next to nothing, is driven to where only the sample has a peak.
HOLD = 2.0
#: Where so many rows a row would hold it, a leap is little more than an EM step, and shows little.
MOST_HELD = 0.5
#: With more of them a leap is tried again where EM on the sample collapses or does not end, or a leap has failed.
MORE, TRIES = 4.0, 3
#: Parts of them that are tried: the least with which half of the sample still finds what gains on the other half.
HOLDS = (1.0, 1 / 4, 1 / 16, 0.0)
#: EM steps on the sample at most, and where it is all rows, so that there is nothing to be afraid of.
MOST_STEPS, STEPS_ON_ALL = 200, 1000


@dataclass(frozen=True)
class Prospect(Record):
    """Where a fit would end.

    Attributes
    ----------
    parameters : Parameters
    gain : float
        How much more the mean log-likelihood of all rows is there, by the sample, nats.
    noise : float
        1 / n - 1 / N of the sample: a parameter that is of no use gains half of it, nats a row, where the fit began at
        the sample's optimum (White 1982, doi:10.2307/1912526).
    """

    parameters: Parameters
    gain: float
    noise: float


def can_be_foreseen(options: FitOptions) -> bool:
    """Return whether M-steps do nothing but take the moments of the rows and add the same to every variance."""
    plain = options.prior is None and not options.has_prior and options.known is None and options.least is None
    own = options.noise or options.stopping is not None or not isinstance(options.kernel, str)
    return plain and not own and options.covariance_floor is None and options.family.is_whole


def foreseen(
    point: Parameters, image: Parameters, sample: Sample, options: FitOptions, *, n_all: float, tol: float,
    caution: float = 1.0, compiled: bool,
) -> Prospect | None:  # fmt: skip
    """Return where EM on all rows would end, from a mixture and its image under it; None where the sample cannot tell.

    Parameters
    ----------
    options : FitOptions
        For which `can_be_foreseen`.
    n_all : float
        Rows that the sample is from.
    tol : float
        Change of the mean log-likelihood at which EM ends, nats.
    caution : float
        Rows that hold each component, in units of what there usually are.
    """
    noise = max(1 / max(len(sample), 1) - 1 / n_all, 0.0)
    usual = HOLD * float(np.sqrt(point.n_free * noise))
    if usual > MOST_HELD or len(sample) < 2:
        return None
    hold = caution * usual
    if noise and caution == 1:
        halves = [_Part(part, point, image, options, compiled, n_all=n_all) for part in sample.halves()]
        hold *= _least_hold(halves, image, tol)
    whole = _Part(sample, point, image, options, compiled, n_all=n_all)
    for _ in range(TRIES if noise else 1):
        end = whole.end(hold, tol)
        gain = float("nan") if end is None else whole.gain(image, end)
        if end is not None and np.isfinite(gain):
            return Prospect(end, max(gain, 0.0), noise)
        hold = MORE * (hold or HOLDS[-2] * usual)
    return None


def _least_hold(halves: Sequence[_Part], image: Parameters, tol: float) -> float:
    """Return the part of the usual hold with which one half of a sample finds what gains most on the other half."""
    first, second = halves
    usual = HOLD * float(np.sqrt(image.n_free * first.noise))
    best, found = 0.0, HOLDS[0]
    for hold in HOLDS:
        end = first.end(hold * usual, tol)
        gain = 0.0 if end is None else second.gain(image, end)
        if not gain > best:
            break
        best, found = gain, hold
    return found


class _Part:
    """EM on some rows of a sample, corrected by what all rows have shown at a mixture."""

    def __init__(
        self, sample: Sample, point: Parameters, image: Parameters, options: FitOptions, compiled: bool,
        *, n_all: float,
    ) -> None:  # fmt: skip
        self.sample, self._point, self._options, self._compiled = sample, point, options, compiled
        self._weight, self.noise = float(sample.weights.sum()), max(1 / len(sample) - 1 / n_all, 0.0)
        (first,) = self._em(point, replace(options, acceleration=None, max_iter=1))
        self._images = image, first.parameters
        self._is_lost = first.status.is_lost

    def end(self, hold: float, tol: float) -> Parameters | None:
        """Return where EM ends, with `hold` rows a row that hold it; None where it collapses, or does not end."""
        if self._is_lost:
            return None
        steps = MOST_STEPS if self.noise else STEPS_ON_ALL
        # (Rows are standardized by now where they are to be; beside a prior that is no option.)
        tilted = replace(self._options, prior=self._tilt(hold), tol=tol, max_iter=steps, standardize=False)
        (end,) = self._em(self._point, tilted)
        return end.parameters if end.status is Status.CONVERGED and end.n_iter > 1 else None

    def gain(self, before: Parameters, after: Parameters) -> float:
        """Return how much more the mean log-likelihood of all rows is at one mixture than at another, nats.

        Not a number where an EM step from the mixture collapses on these rows.
        """
        if self._is_lost:
            return float("nan")
        mixtures, tilt, kernel = (before, after), self._tilt(0.0), self._options.kernel
        with self.sample.passes(self._options) as passes:
            plans = [make_plan(p, origin=p.centre, kernel=kernel, compiled=self._compiled) for p in mixtures]
            scores = Evaluator(passes).scores([Request(plan) for plan in plans])
        here, there = (
            s.log_sum / s.weight + tilt.gained(p) / self._weight for s, p in zip(scores, mixtures, strict=True)
        )
        return there - here

    def _tilt(self, hold: float) -> Tilt:
        floor, weight = self._options.whole_prior.floor, self._weight
        return Tilt.about(self._point, *self._images, weight=weight, floor=floor, held=hold * weight)

    def _em(self, start: Parameters, options: FitOptions) -> list[Candidate]:
        with self.sample.passes(options) as passes:
            row_sets: RowSets = {None: self.sample.row_set(passes, options)}
            candidate = Candidate.start(0, start, options, compiled=self._compiled)
            return run_em([candidate], Evaluator(passes).statistics, row_sets, after_pass=lambda _: None)
