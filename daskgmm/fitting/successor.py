"""Starts of a model from a smaller one of its kind, which is at a higher likelihood: a split cannot be worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from daskgmm.fitting.evaluate import Evaluator
from daskgmm.fitting.growth import grown, halved
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample
from daskgmm.mixture.parameters import Parameters

#: EM steps on the sample, where passes are cheap.
SAMPLE_PASSES, SAMPLE_TOL = 20, 1e-4


def split_starts(smaller: Parameters, sample: Sample, options: FitOptions, *, compiled: bool) -> list[Parameters]:
    """Return starts of `options.n_components` components: what splits find on the sample, and mere halves.

    The first gains on the sample, after EM there; on all rows it may be lower. The second has the smaller mixture's
    density but for rounding, and what EM makes of it is no lower.
    """
    k = options.n_components
    found = [halved(smaller, n_components=k)]
    if len(sample) >= k:
        rng = np.random.RandomState(options.seed)
        seen, floor = sample.seen(smaller, options), options.whole_prior.floor
        split = grown(seen, sample.X, sample.weights, n_components=k, floor=floor, rng=rng)
        if split is not None:
            found.insert(0, _settled(sample.unseen(split, options), sample, options, compiled=compiled))
    return [p for p in found if p is not None]


def _settled(start: Parameters, sample: Sample, options: FitOptions, *, compiled: bool) -> Parameters:
    """Return what EM on the sample makes of a start; the start where that collapses."""
    options = replace(options, tol=min(options.tol, SAMPLE_TOL), stopping=None)
    with sample.passes(options) as passes:
        (end,) = run_em(
            [Candidate.start(0, start, options, compiled=compiled)], Evaluator(passes).statistics,
            {None: sample.row_set(passes, options)}, after_pass=lambda _: None, n_passes=SAMPLE_PASSES,
        )  # fmt: skip
    return start if end.status.is_lost else end.parameters
