"""The log-likelihood of a given mixture on a source: one pass that only scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from daskgmm.errors import DataError
from daskgmm.fitting.checks import check_shape, check_survey
from daskgmm.fitting.device import cards_of, device_for
from daskgmm.fitting.device_options import not_of_rows
from daskgmm.fitting.evaluate import check_counts
from daskgmm.fitting.measured import Measured
from daskgmm.kernels.device import pass_on
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.score import ScorePass
from daskgmm.mixture.criteria import aic, bic
from daskgmm.mixture.noise import check_gaps
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.need import Need, takes_compiled_kernel
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import Survey, SurveyPass
from daskgmm.passes.tree import run_pass
from daskgmm.sources.columns import feature_names, refuse_other_names
from daskgmm.sources.conventions import check_units
from daskgmm.sources.source import Source

logger = logging.getLogger("daskgmm")


@dataclass(frozen=True)
class Score:
    """How well a mixture describes rows.

    Attributes
    ----------
    log_likelihood : float
        Total, nats.
    weight : float
        Sum of the row weights; the number of rows where there are none.
    n_rows, n_dropped : int
        Rows that counted, and rows dropped as non-finite.
    n_free : int
        Free parameters of the mixture.
    n_weighted : int
        Rows of positive weight.
    """

    log_likelihood: float
    weight: float
    n_rows: int
    n_dropped: int
    n_free: int
    n_passes: int
    bytes_read: int
    seconds: float
    n_weighted: int

    @property
    def mean_log_likelihood(self) -> float:
        """Mean log-likelihood per unit of weight, nats."""
        return self.log_likelihood / self.weight

    @property
    def aic(self) -> float:
        return aic(self.log_likelihood, self.n_free)

    @property
    def bic(self) -> float:
        return bic(self.log_likelihood, self.n_free, self.weight)


def score_source(
    parameters: Parameters,
    X: Source,
    *,
    weights: Source | None = None,
    errors: Measured | None = None,
    non_finite: str = "error",
    executor: Executor | None = None,
    device: str = "cpu",
) -> Score:
    """Return the score of a mixture on all rows of a source; one pass, and a survey before it where there are weights.

    `device` is what computes, as an option of a fit says it.

    Raises
    ------
    DataError
        Another number of features, rows with NaN or infinity (unless dropped), or weights that are none.
    """
    began = perf_counter()
    errors = errors or Measured()
    if executor is None:
        every = [X, *([] if weights is None else [weights]), *errors.columns.values()]
        executor = current_executor(travels=all(source.travels for source in every))
    check_features(X, parameters)
    check_gaps(parameters.noise, non_finite)
    check_shape(X, n_components=1)
    errors.check_gaps(non_finite)
    cut = Rows.plan(X, weights, errors.columns).checked(non_finite)
    rows, need = promise_memory(cut, replace(scoring_need(parameters, X, errors), device=device), executor)
    why = not_of_rows(errors.kernel, non_finite)
    on = device_for(device, why, [parameters.shape], cards_of(rows, executor), need, X.n_features)
    parameters = errors.seen(parameters)
    with for_passes(executor):
        surveyed = None if weights is None else survey_of(rows, executor, non_finite)
        plan = make_plan(parameters, origin=parameters.centre, kernel=errors.kernel, compiled=need.compiled)
        (found,) = run_pass(pass_on(on.name, ScorePass)([plan]), rows, executor, name="score")
        if surveyed is None and found.n_rows != X.n_rows and non_finite == "error":
            surveyed = survey_of(rows, executor, non_finite)
    if surveyed is not None:
        check_counts(found, surveyed.row_set)
    if not found.weight > 0:
        raise DataError(
            "`X`",
            "have rows that count",
            f"{X.n_rows} rows in {X.label}, all of them dropped as non-finite or of weight 0",
            "Score other rows.",
        )
    if not np.isfinite(found.log_sum):
        raise DataError(
            "`X`",
            "lie within 1e150, or squares overflow",
            f"a log-likelihood of {found.log_sum} in {X.label}",
            "Rescale or drop the rows beyond.",
        )
    n_passes = X.n_counting_passes + 1 + (weights is not None)
    return Score(
        found.log_sum,
        found.weight,
        found.n_rows,
        X.n_rows - found.n_rows,
        parameters.n_free,
        n_passes,
        n_passes * rows.n_bytes,
        perf_counter() - began,
        found.n_rows if surveyed is None else surveyed.n_weighted,
    )


def scoring_need(parameters: Parameters, X: Source, errors: Measured | None = None) -> Need:
    """Return what scoring needs in a worker's memory beside the rows."""
    shape, k = parameters.shape, parameters.n_components
    beside = 0 if errors is None else errors.n_bytes(shape, k, X.n_features)
    compiled = takes_compiled_kernel(X.n_rows, shape, k, X.n_features)
    return Need(shape, k, extra_bytes=beside, compiled=compiled, given=True)


def check_features(
    X: Source, parameters: Parameters, *, units: object = None, names: Sequence[str] | None = None
) -> None:
    """Raise a DataError unless the source has the features that the mixture was fitted to, by name, in its units."""
    check_units(units, X.beside, X.label)
    now = feature_names(X.column_labels)
    if now is not None and names is not None:
        refuse_other_names(now, names, by_name="leave `columns` out")
    elif names is not None and X.n_features == len(names):
        listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        logger.info("%s has no names of features: its columns are taken for %s, in this order.", X.label, listed)
    if X.n_features != parameters.n_features:
        raise DataError(
            "`X`",
            f"have the {parameters.n_features} features that the mixture was fitted to",
            f"{X.n_features} in {X.label}",
            "Select the same columns in the same order.",
        )


def survey_of(rows: Rows, executor: Executor, non_finite: str, work: SurveyPass | None = None) -> Survey:
    """Return what a survey of its own finds; raise a DataError that names the first bad row or weight."""
    work = work or SurveyPass(rows.X.n_features, False, 0, -1)
    survey: Survey = run_pass(work, rows, executor, name="survey")
    check_survey(survey, rows, n_components=1, non_finite=non_finite)
    return survey
