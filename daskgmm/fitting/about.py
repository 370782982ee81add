"""What there was beside the rows of a fit, and what was known beforehand, as JSON values for whoever reads a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.conjugate import Conjugate
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.variational import Posterior
from daskgmm.passes.survey import Survey

#: Numbers of a prior that are listed at most.
_MOST = 12


def about(survey: Survey, options: FitOptions, p: Parameters, *, n_rows: int, weight: float) -> dict[str, Any]:
    """Return what applies to a fit of: gaps, classes, the numbers of a prior, and its log density.

    Parameters
    ----------
    n_rows, weight : int, float
        Rows that counted, and the sum of their weights.
    """
    found: dict[str, Any] = {}
    if survey.seen is not None:
        missing = survey.seen.n_missing / max(n_rows, 1)
        found |= {"incomplete_rows": survey.seen.n_incomplete, "missing_shares": missing.tolist()}
    if survey.classes is not None:
        labelled = survey.classes.weights
        found |= {"rows_by_class": labelled.tolist(), "unlabelled_rows": float(max(weight - labelled.sum(), 0.0))}
    if isinstance(p, Posterior):
        return found  # (whose bound has the prior in it)
    if options.has_prior and isinstance(options.known, Conjugate):
        found["prior"] = _numbers_of(options.known)
    own = options.prior is not None and not isinstance(options.prior, OldRows)
    if options.has_prior or own:
        found["log_prior"] = float(options.whole_prior.log_density(p))
    return found


def _numbers_of(known: Conjugate) -> dict[str, Any]:
    """Return the numbers of a prior by their options' names, one where all are alike; None where they are too many."""
    means = known.mean if (known.mean_precision > 0).any() else None
    values = {
        "weight_concentration_prior": known.concentration,
        "mean_precision_prior": None if means is None else known.mean_precision,
        "mean_prior": means,
        "degrees_of_freedom_prior": known.degrees_of_freedom,
        "covariance_prior": known.covariance,
    }
    return {name: _short(np.asarray(value)) for name, value in values.items() if value is not None}


def _short(values: Any) -> Any:
    if values.size and (values == values.flat[0]).all():
        return float(values.flat[0])
    if values.ndim > 1 and len(values) and (values == values[0]).all():
        values = values[0]
    return values.tolist() if values.size <= _MOST else None
