"""Groups of components, from a seeded sample of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.sample import FEW_ROWS, Sample
from daskgmm.fitting.score import check_features, survey_of
from daskgmm.kernels.prediction import Predictor
from daskgmm.mixture.grouping import elbow, grouped
from daskgmm.mixture.noise import refuse_noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.need import Need
from daskgmm.passes.prediction import predict_array
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass, sample_threshold
from daskgmm.sources.source import Source


@dataclass(frozen=True)
class Groups:
    """Groups of a mixture's components.

    Attributes
    ----------
    groups : (n_components,), int64
        The group of each component, numbered by their first ones.
    entropies : tuple of float
        Entropy of the assignment of the sampled rows to 1, 2, ... groups, nats.
    """

    groups: NDArray[np.int64]
    entropies: tuple[float, ...]


def grouped_components(
    p: Parameters,
    X: Source,
    *,
    weights: Source | None = None,
    n_groups: int | None = None,
    seed: int = 0,
    non_finite: str = "error",
    executor: Executor | None = None,
) -> Groups:
    """Return the groups of a mixture's components, from some 20,000 rows of a source: one pass.

    With `n_groups` None there are as many as where the entropy of the assignment begins to rise faster.
    """
    check_features(X, p)
    refuse_noise(p.noise, "which is in no group")
    check_shape(X, n_components=1)
    if executor is None:
        executor = current_executor(travels=X.travels and (weights is None or weights.travels))
    rows, _ = promise_memory(Rows.plan(X, weights).checked(non_finite), grouping_need(p, X), executor)
    work = SurveyPass(X.n_features, False, seed, sample_threshold(X.n_rows, FEW_ROWS))
    with for_passes(executor):
        sample = Sample.of(survey_of(rows, executor, non_finite, work), seed)
    kept = "marginalize" if sample.has_gaps else "error"
    resp = predict_array(sample.X, Predictor.of(p, "proba"), non_finite=kept)
    found = grouped(np.ascontiguousarray(resp.T), sample.weights)[::-1]
    entropies = tuple(entropy for entropy, _ in found)
    wanted = elbow(np.array(entropies)) if n_groups is None else n_groups
    return Groups(found[wanted - 1][1], entropies)


def grouping_need(p: Parameters, X: Source) -> Need:
    """Return what it takes of memory beside the rows: the sample, and its responsibilities twice."""
    n_rows = min(FEW_ROWS, X.n_rows)
    sample = 8 * (X.n_features + 2) * n_rows
    own = sample + 24 * p.n_components * n_rows
    return Need(p.shape, p.n_components, extra_bytes=sample, own_bytes=own, given=True)
