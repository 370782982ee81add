"""What an input must be for a fit: by its metadata before anything is read, and by its survey."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskgmm.errors import DataError, verbatim
from daskgmm.kernels.errors import ERRORS
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import Survey, SurveyPass, all_but
from daskgmm.sources.columns import feature_names
from daskgmm.sources.source import Source

#: Sums of the row weights beyond which sums of weights times squares might be no numbers, or denormal ones.
LEAST_WEIGHT, MOST_WEIGHT = 1e-150, 1e150
#: Features that a message lists at most.
_LISTED = 8


def check_shape(X: Source, *, n_components: int, given: bool = False) -> None:
    """Raise a DataError where the metadata of the input tell that it cannot be fitted.

    `given` says that the components are those of a mixture which there is.
    """
    if X.n_rows < 1 or X.n_features < 1:
        raise DataError("`X`", "have rows and features", f"shape ({X.n_rows}, {X.n_features}) in {X.label}")
    if X.n_rows < n_components:
        raise DataError(
            "`X`",
            f"have at least `n_components` = {n_components} rows",
            f"{X.n_rows} in {X.label}",
            _too_few(given),
        )


def _too_few(given: bool) -> str:
    return "Give more rows: the components are those that it begins with." if given else "Decrease `n_components`."


def check_survey(survey: Survey, rows: Rows, *, n_components: int, non_finite: str, given: bool = False) -> None:
    """Raise a DataError for rows or weights that cannot be fitted."""
    label = rows.X.label
    if survey.n_dropped and non_finite == "error":
        raise DataError(
            "`X`",
            "be finite",
            f"{survey.n_dropped} rows with NaN or infinity in {label}{verbatim(_by_feature(survey, rows))}, the first "
            f"in partition {_partition_of(survey.first_dropped, rows)}, row {survey.first_dropped}",
            "Drop them with `non_finite='drop'`"
            + (
                "."
                if ERRORS in rows.columns
                else "; or take NaN as missing values, and the rest of their rows as it is, with "
                "`non_finite='marginalize'`."
            ),
        )
    if survey.n_bad_weights and rows.weights is not None:
        raise DataError(
            "`sample_weight`",
            "be finite and not negative",
            f"{survey.n_bad_weights} other values in {rows.weights.label}, the first in partition "
            f"{_partition_of(survey.first_bad_weight, rows)}, row {survey.first_bad_weight}",
            "Give unwanted rows the weight 0.",
        )
    if survey.n_rows < n_components:
        raise DataError(
            "`X`",
            f"have at least `n_components` = {n_components} finite rows",
            f"{survey.n_rows} in {label} ({survey.n_dropped} dropped)",
            f"{_too_few(given)} Or check the input." if survey.n_rows else "Check the input: no row of it counts.",
        )
    if not survey.weight > 0:
        raise DataError(
            "`sample_weight`",
            "not be zero for all rows",
            f"a sum of {survey.weight:.6g} over {survey.n_rows} rows",
            "Give some rows a weight.",
        )
    ends = np.abs(np.concatenate([survey.minimum, survey.maximum]))
    # (Of a feature that is nowhere there are none.)
    largest = float(ends[np.isfinite(ends)].max(initial=0.0) if survey.seen is not None else ends.max())
    if largest > 1e150:
        raise DataError("`X`", "lie within 1e150, or squares overflow", f"{largest:.3g} in {label}", "Rescale `X`.")
    # (Sums of weights times squares must be numbers too, and no denormal ones. A number for each row is always right.)
    beyond = survey.weight > survey.n_rows and survey.weight * max(1.0, largest * largest) > 1e300
    if beyond or not LEAST_WEIGHT <= survey.weight <= MOST_WEIGHT:
        raise DataError(
            "`sample_weight`",
            f"sum to between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}, and less where `X` is large",
            f"{survey.weight:.6g} for {survey.n_weighted} rows of positive weight and values up to {largest:.3g}",
            "Divide `sample_weight` by its mean.",
        )


def check_every_feature(survey: Survey, rows: Rows, where: str, *, follows: bool = False) -> None:
    """Raise a DataError for a feature of which no row that weighs has a value: nothing could be said of it.

    `follows` says whether the rows are new ones of a model, of whose old rows all is forgotten.
    """
    empty = [] if survey.seen is None else np.flatnonzero(~(survey.seen.weights > 0)).tolist()
    if empty:
        names = feature_names(rows.X.column_labels)
        listed = ", ".join(f"feature {j}" if names is None else str(names[j]) for j in empty[:_LISTED])
        more = f" and {len(empty) - _LISTED} more" if len(empty) > _LISTED else ""
        others = rows.X.without(empty) if len(empty) < rows.X.n_features else "Check the input."
        if follows:
            others = "Keep some of what the old rows tell: `forgetting` below 1."
        remedy = "Decrease `n_folds`." if where else others
        raise DataError(
            "`X`",
            f"have a value of each feature{where}",
            f"none of {verbatim(listed)}{more} in {rows.X.label}",
            remedy,
        )


def check_folds(survey: Survey, rows: Rows, work: SurveyPass, *, n_components: int) -> None:
    """Raise a DataError for a fold that nothing can be judged by, or that leaves too few rows to fit."""
    if survey.seen is not None:
        for i in range(len(survey.folds)):
            check_every_feature(all_but(work, survey, i), rows, f" outside of fold {i} of {len(survey.folds)}")
    for i, fold in enumerate(survey.folds):
        others = survey.n_rows - fold.n_rows
        if not fold.weight > 0 or others < n_components:
            raise DataError(
                "`n_folds`",
                f"leave rows that weigh in each fold, and `n_components` = {n_components} rows outside of it",
                f"{fold.n_rows} rows of weight {fold.weight:.6g} in fold {i} of {len(survey.folds)}, and {others} "
                "outside",
                "Decrease `n_folds`, or take more rows.",
            )


def _by_feature(survey: Survey, rows: Rows) -> str:
    """Return which features hold what makes rows non-finite, as a part of a sentence; nothing where there is one."""
    said = spoiled_by(survey.n_spoiled.tolist(), feature_names(rows.X.column_labels))
    return f" ({said})" if rows.X.n_features > 1 else ""


def spoiled_by(n_spoiled: Sequence[int], names: Sequence[str] | None) -> str:
    """Return which features hold a NaN or an infinity in how many rows, those with the most first: "a in 3, b in 1"."""
    named = [f"feature {i + 1}" for i in range(len(n_spoiled))] if names is None else names
    found = sorted(((n, -i) for i, n in enumerate(n_spoiled) if n), reverse=True)
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(f"{named[-i]} in {n:,}" for n, i in found[:_LISTED]) + more


def _partition_of(row: int, rows: Rows) -> int:
    return int(np.searchsorted(rows.edges, row, side="right")) - 1
