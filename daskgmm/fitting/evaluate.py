"""Statistics and scores of any number of candidates over the same rows, in as few passes as memory allows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from daskgmm.errors import ChangedDataError, DaskgmmError, verbatim
from daskgmm.fitting.device import Device, device_of_sample
from daskgmm.kernels.device import pass_on
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.score import ScorePass, SupportPass
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.sums import lost_on_the_way, mean_shift, noise_share
from daskgmm.mixture.row_set import RowSet
from daskgmm.passes.tree import Passes

logger = logging.getLogger("daskgmm")

#: Packed parameters of one pass at most; its graph stays below Dask's limit for a warning, 10 MB. More go in waves.
WAVE_BYTES = 9_000_000

RowSets = Mapping[Fold | None, RowSet]


@dataclass(frozen=True)
class Request:
    """One candidate's part in a pass: how it is computed, and on which rows."""

    plan: Plan
    fold: Fold | None = None


class Evaluator:
    """Evaluates candidates over rows, and counts the passes.

    Parameters
    ----------
    passes : Passes
    wave_state_bytes : int or None
        Bytes of the states of all candidates of a pass at most, as the workers' memory allows; None for any number.
    device : Device or None
        What computes; None is what computes on the sample.

    Attributes
    ----------
    n_passes : int
        Passes so far.
    seconds : float
        Time of the last request, all its waves together.
    """

    def __init__(self, passes: Passes, wave_state_bytes: int | None = None, *, device: Device | None = None) -> None:
        self.passes, self._wave_state_bytes = passes, wave_state_bytes
        self.device = device or device_of_sample()
        self.n_passes, self.seconds = 0, 0.0
        self._told = False

    def statistics(self, requests: Sequence[Request]) -> list[Statistics]:
        """Return the sums of an E-step for each candidate."""
        return self._run(requests, EStep, "em")

    def scores(self, requests: Sequence[Request]) -> list[Statistics]:
        """Return the log-likelihood of each candidate, complete, and the sum of its log largest responsibilities."""
        return self._run(requests, ScorePass, "closing")

    def supports(self, requests: Sequence[Request]) -> list[Statistics]:
        """Return the same, and what each component is worth (`Statistics.left_out`)."""
        return self._run(requests, SupportPass, "closing")

    def _run(self, requests: Sequence[Request], work: type[EStep] | type[ScorePass], name: str) -> list[Statistics]:
        self.seconds = 0.0
        found: list[Statistics] = []
        waves = list(self._waves(requests, scoring=issubclass(work, ScorePass)))
        if len(waves) > 1 and not self._told:
            self._told = True
            logger.info(
                "%d candidates take %d waves, each a pass of its own: memory and messages hold no more at once.",
                len(requests), len(waves),
            )  # fmt: skip
        for wave in waves:
            self.n_passes += 1
            own = pass_on(self.device.name, work)([r.plan for r in wave], [r.fold for r in wave])
            states: list[Statistics] = self.passes.run(own, name=name)
            self.seconds += self.passes.seconds
            found += states
        return found

    def _waves(self, requests: Sequence[Request], *, scoring: bool) -> Iterator[list[Request]]:
        """Yield the requests in order, cut so that parameters and states of a wave stay within their limits.

        The states of a pass that only scores are a few numbers each: with folds it has twice as many candidates as an
        E-step had, and is one pass all the same.
        """
        wave: list[Request] = []
        packed = states = 0
        for request in requests:
            plan = request.plan
            own = 0 if scoring else 8 * plan.n_components * plan.shape.n_statistics(plan.means.shape[1], exact=True)
            full = self._wave_state_bytes is not None and states + own > self._wave_state_bytes
            if wave and (full or packed + plan.n_bytes > WAVE_BYTES):
                yield wave
                wave, packed, states = [], 0, 0
            wave.append(request)
            packed, states = packed + plan.n_bytes, states + own
        yield wave


def check_counts(statistics: Statistics, row_set: RowSet, tolerance: float = 1e-9) -> None:
    """Raise a ChangedDataError unless a pass counted the rows, and the weight, that the survey found."""
    if statistics.n_rows != row_set.n_rows or not abs(statistics.weight - row_set.weight) <= tolerance * row_set.weight:
        raise ChangedDataError(
            "the input",
            "stay the same during a fit",
            f"{statistics.n_rows} rows of weight {statistics.weight:.12g} in a pass, and {row_set.n_rows} of "
            f"weight {row_set.weight:.12g} in the survey",
            "Fit a copy that nobody writes to.",
        )


def check_weight(weight: float, row_set: RowSet, tolerance: float = 1e-9) -> None:
    """Raise a ChangedDataError unless a pass that has no candidate summed the weight that the survey found."""
    if not abs(weight - row_set.weight) <= tolerance * row_set.weight:
        raise ChangedDataError(
            "the input",
            "stay the same during a fit",
            f"rows of weight {weight:.12g} in a pass, and of weight {row_set.weight:.12g} in the survey",
            "Fit a copy that nobody writes to.",
        )


def check_responsibilities(statistics: Statistics, plan: Plan) -> None:
    """Raise a DaskgmmError unless the responsibilities of an E-step sum to the weight of its rows, as each row's do.

    Those of the noise are not summed: where there is noise the others must leave it nothing less than nothing.
    """
    total, weight = float(statistics.panel(plan.n_components, plan.n_filled)[:, -1].sum()), statistics.weight
    least = weight if plan.log_noise is None else 0.0
    if not least - plan.precision.count_tolerance * weight <= total <= weight * (1 + plan.precision.count_tolerance):
        raise DaskgmmError(
            "the responsibilities of a pass",
            "sum to the weight of its rows",
            f"{total:.12g} for a weight of {weight:.12g} in {plan.precision.name} precision",
            "Some worker computes wrongly: run it again from the start, on other machines if it happens again."
            if plan.given is None
            else f"Correct {verbatim(type(plan.given[0]).__name__)}, the `kernel`: its sums or its log-densities.",
        )


def check_mean(statistics: Statistics, plan: Plan, row_set: RowSet) -> None:
    """Raise a ChangedDataError unless the rows of an E-step have the mean that the survey found.

    Rows that come out otherwise in each pass (drawn at random, or from a live table) keep their number and weight. What
    else must be the same in all passes is told by `check_counts` and `check_responsibilities`, and for stored rows by
    the checksums of their files; the scatter too is the same, but follows the mean.
    """
    if plan.given is not None and plan.given[0].completes:
        return  # (the means are those of what the rows were completed to)
    shift, scale = mean_shift(statistics, plan, row_set)
    # (A mean far from zero is itself rounded.)
    size = np.abs(row_set.mean) if row_set.rounded is None else row_set.rounded
    allowed = plan.precision.count_tolerance * scale + 1e-14 * size
    share = noise_share(statistics, plan)
    if share > 0:
        # (A part of the rows, whose mean nobody sums, moves that of the others by so many deviations of all at most.)
        allowed += np.sqrt(share * (1 - share) * row_set.variances) + share * size * 1e-14
    wrong = ~(np.abs(shift) <= allowed)
    if wrong.any():
        wrong &= ~(np.abs(shift) <= allowed + lost_on_the_way(statistics, plan, row_set))
    if wrong.any():
        j = int(np.argmax(wrong))
        known = row_set.mean[j]
        raise ChangedDataError(
            "the input",
            "stay the same during a fit",
            f"a mean of {known + shift[j]:.12g} for feature {j} in a pass, and of {known:.12g} in the survey",
            "Fit a copy that nobody writes to: of a Dask array that comes out otherwise each time, X.persist().",
        )
