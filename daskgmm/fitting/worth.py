"""What candidates of a race are worth, and which of them count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskgmm.fitting.evaluate import Evaluator, Request
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample
from daskgmm.kernels.gap_support import has_untold
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.support import support_of, unproven, unsupported
from daskgmm.mixture.parameters import Parameters

#: A move of variational Bayes must raise the bound by so much, nats a row.
RISE = 1e-8
#: A move must gain so much on rows that it has not seen, nats.
GAIN = 1e-4
#: Where spikes have at least this share of the rows, their likelihood counts as any.
MOSTLY = 0.5


class Worth(NamedTuple):
    """What a candidate is worth: its score, nats a row, without its spikes, and which components these are."""

    score: float
    spikes: list[bool]

    def beats(self, other: Worth) -> bool:
        """Return whether it is better, and has no spike more."""
        return self.score > other.score + GAIN and sum(self.spikes) <= sum(other.spikes)


class Judge:
    """Says what mixtures are worth to the rows of a race.

    Parameters
    ----------
    sample : Sample
        The rows of the race.
    options : FitOptions
    n_seen : int
        How many of them, the first ones, the mixtures are fitted to; they are judged on the others, or on these where
        there are no others.
    n_all : int
        Number of all rows of positive weight.
    compiled : bool
        Whether the compiled kernel does what it can.
    note : callable
        Receives mixtures after a pass, the rows that it visited, and its seconds.
    """

    def __init__(
        self,
        sample: Sample,
        options: FitOptions,
        *,
        n_seen: int,
        n_all: int,
        compiled: bool,
        note: Callable[[Sequence[Parameters], int, float], None],
    ) -> None:
        self._sample, self._options, self._n_seen, self._n_all = sample, options, n_seen, n_all
        self._compiled, self._note = compiled, note

    def scores(self, mixtures: Sequence[Parameters], rows: Sample) -> list[float]:
        """Return the mean log-likelihood of some rows under each mixture, nats."""
        return [s.log_sum / s.weight for s in self._scored(mixtures, rows)]

    def worths(self, mixtures: Sequence[Parameters]) -> list[Worth]:
        """Return what mixtures are worth: their spikes on the first rows, and their scores on the rest without them.

        Where they have seen all rows these are the same. Where most rows are of spikes the data are discrete, and the
        likelihood of all components is what there is to go by.
        """
        size, same = self._n_seen, self._n_seen == len(self._sample)
        seen = self._scored(mixtures, self._sample.part(0, size), supports=True)
        rest = self._sample.part(0 if same else size, len(self._sample))
        unseen = seen if same else self._scored(mixtures, rest, supports=True)
        spikes = [self._spikes(p, a, None if same else b) for p, a, b in zip(mixtures, seen, unseen, strict=True)]
        scores = [s.log_sum / s.weight for s in unseen]
        if any(s.any() for s in spikes) and all(
            p.weights[s].sum() < MOSTLY for p, s in zip(mixtures, spikes, strict=True)
        ):
            scores = self.scores([p.subset(~s) if s.any() else p for p, s in zip(mixtures, spikes, strict=True)], rest)
        row_weight = rest.weights.mean()
        priors = [self._options.log_prior(p) / (self._n_all * row_weight) for p in mixtures]  # (nats a row)
        return [
            Worth(score + prior, [bool(b) for b in s]) for score, prior, s in zip(scores, priors, spikes, strict=True)
        ]

    def _scored(self, mixtures: Sequence[Parameters], rows: Sample, *, supports: bool = False) -> list[Statistics]:
        """Return the scores of some rows under each mixture, and on demand what its components are worth to them."""
        with rows.passes(self._options) as passes:
            evaluator = Evaluator(passes)
            kernel = self._options.kernel
            plans = [
                make_plan(
                    p, origin=p.centre, kernel=kernel, compiled=self._compiled,
                    gaps=supports and rows.has_gaps and has_untold(p),
                )
                for p in mixtures
            ]  # fmt: skip
            requests = [Request(plan) for plan in plans]
            found = evaluator.supports(requests) if supports else evaluator.scores(requests)
        self._note(mixtures, len(rows), evaluator.seconds)
        return found

    def _spikes(self, p: Parameters, seen: Statistics, unseen: Statistics | None) -> NDArray[np.bool_]:
        """Return which components the rows, on which the mixture was fitted, and others do not support."""
        if self._options.may_be_empty:
            return np.zeros(p.n_components, dtype=bool)
        own = support_of(seen, p, n_rows=seen.n_rows)  # (no row of a sample has the weight zero)
        found = unsupported(p, own, floor=self._options.whole_prior.least_covariance, n_rows=self._n_all)
        if unseen is not None:
            found = found | unproven(p, own, support_of(unseen, p, n_rows=unseen.n_rows), n_rows=self._n_all)
        return found & ~p.held


def latest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that took part in the last pass: those that ended before are visited no more."""
    n_passes = max(c.n_passes for c in candidates)
    return [c for c in candidates if c.n_passes == n_passes]


def alive(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that are not lost."""
    return [c for c in candidates if not c.status.is_lost]
