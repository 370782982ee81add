"""A glance at the rows of a source: a seeded sample of them for a picture, in one pass."""

from __future__ import annotations

from dataclasses import replace

from daskgmm.fitting.checks import check_shape, check_survey
from daskgmm.fitting.sample import SAMPLE_BYTES, Sample
from daskgmm.fitting.score import scoring_need
from daskgmm.mixture.noise import check_gaps
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import Survey, SurveyPass, sample_threshold
from daskgmm.passes.tree import run_pass
from daskgmm.sources.source import Source

#: Rows of a glance, in expectation: more change no picture.
GLANCE_ROWS = 20_000


def glance(
    parameters: Parameters,
    X: Source,
    *,
    weights: Source | None = None,
    non_finite: str = "error",
    seed: int = 0,
    executor: Executor | None = None,
) -> Sample:
    """Return about 20,000 rows of a source, at most 64 MiB of them: the same ones for the same seed. One pass.

    Raises
    ------
    DataError
        Rows with NaN or infinity (unless dropped), weights that are none, or no rows.
    """
    if executor is None:
        executor = current_executor(travels=X.travels and (weights is None or weights.travels))
    check_gaps(parameters.noise, non_finite)
    check_shape(X, n_components=1)
    rows, _ = promise_memory(Rows.plan(X, weights).checked(non_finite), glance_need(parameters, X), executor)
    work = SurveyPass(X.n_features, False, seed, sample_threshold(X.n_rows, glance_size(X)))
    with for_passes(executor):
        survey: Survey = run_pass(work, rows, executor, name="survey")
    check_survey(survey, rows, n_components=1, non_finite=non_finite)
    return Sample.of(survey, seed)


def glance_size(X: Source) -> int:
    """Return how many rows a glance takes, in expectation."""
    return min(GLANCE_ROWS, max(1, SAMPLE_BYTES // (8 * X.n_features)))


def glance_need(parameters: Parameters, X: Source) -> Need:
    """Return what a glance needs in memory beside the rows: pieces of the sample, and all of it."""
    n_bytes = 8 * (X.n_features + 2) * glance_size(X)
    return replace(scoring_need(parameters, X), compiled=False, extra_bytes=n_bytes, own_bytes=2 * n_bytes)
