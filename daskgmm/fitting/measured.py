"""Rows with measurement errors: what `errors` may be, and the fit, scores and predictions that it asks for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError, as_typed
from daskgmm.fitting.bayesian_options import BayesianOptions
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.prior_options import PRIORS
from daskgmm.fitting.result import Fit
from daskgmm.kernels.errors import ERRORS, Noisy
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.common_errors import CommonErrors, with_errors, without_errors
from daskgmm.mixture.family import Family
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.mixture.variational import Posterior
from daskgmm.sources.columns import feature_names
from daskgmm.sources.dask_source import is_dask_array
from daskgmm.sources.opening import open_rows
from daskgmm.sources.source import Source

logger = logging.getLogger("daskgmm")

#: Of so many features the log has the meaning of each number of an error.
_LISTED = 3
_SHAPES = (
    "Give standard deviations, (n_features,) for all rows or (n_rows, n_features); or covariances, (n_features, "
    "n_features) for all rows, or (n_rows, n_features, n_features), as a file (n_rows, n_features^2) or upper "
    "triangles."
)


@dataclass(frozen=True)
class Measured:
    """The errors of rows.

    Attributes
    ----------
    common : (n_features, n_features), float64, or None
        The covariance of those of every row, where that is one.
    column : Source or None
        Those of each row: n_features standard deviations, or a covariance, flat or its upper triangle row by row.
    n_features : int
        Of the rows; 0 without errors.
    """

    common: Floats | None = None
    column: Source | None = None
    n_features: int = 0

    @classmethod
    def of(cls, errors: Any, X: Source) -> Measured:
        """Return what is given as `errors` of rows; what their metadata, or an array in memory, tell is checked."""
        if not (hasattr(errors, "shape") or isinstance(errors, str | Source)) and not hasattr(errors, "__fspath__"):
            errors = np.asarray(errors)
        if isinstance(errors, np.ndarray) and (common := _common(errors, X)) is not None:
            return cls(common=common)
        if np.ndim(errors) == 3 and (isinstance(errors, np.ndarray) or is_dask_array(errors)):
            errors = errors.reshape((-1, int(np.prod(errors.shape[1:]))))
        column, d = open_rows(errors, argument=ERRORS), X.n_features
        if column.n_rows == d != X.n_rows and column.n_features in (1, d):  # (a file of errors that all rows have)
            values = column.reader().read(0, d)
            return cls(common=_common(values if column.n_features == d > 1 else values.reshape(d), X))
        if column.n_features not in (d, d * d, d * (d + 1) // 2) or column.n_rows != X.n_rows:
            raise DataError(
                f"`{ERRORS}`",
                f"be {d} standard deviations, or {d * d} numbers of a covariance, for each of {X.n_rows} rows",
                f"shape ({column.n_rows}, {column.n_features}) in {column.label}",
                _SHAPES,
            )
        if column.array is not None:
            _check_values(column.array, d)
        logger.info("Errors are taken for %s.", _taken_for(column, X))
        return cls(column=column, n_features=d)

    @property
    def are_given(self) -> bool:
        """Whether there are any."""
        return self.common is not None or self.column is not None

    @property
    def kind(self) -> str:
        """What they are: "covariance" of all rows, "deviations" of each row, or "covariances"."""
        if self.column is None:
            return "covariance"
        return "deviations" if self.column.n_features == self.n_features else "covariances"

    @property
    def columns(self) -> dict[str, Source]:
        """What comes with each row of a pass."""
        return {} if self.column is None else {ERRORS: self.column}

    @property
    def kernel(self) -> Any:
        """The form of the E-step."""
        return "rule" if self.column is None else Noisy()

    def n_bytes(self, shape: Shape, n_components: int, n_features: int) -> int:
        """Return the bytes that a task takes for it beside the rows."""
        return 0 if self.column is None else Noisy().n_bytes(shape, n_components, n_features)

    def identity(self) -> dict[str, Any]:
        """Return what the record of a model says of them, as JSON."""
        if self.common is not None:
            return {"covariance": self.common.tolist()}
        return {} if self.column is None else self.column.identity()

    def check_gaps(self, non_finite: str) -> None:
        """Raise an OptionError where rows with errors may have gaps."""
        if self.are_given and non_finite == "marginalize":
            must, remedy = "be 'error' or 'drop' with `errors`", "Leave rows with gaps out: 'drop'."
            raise OptionError("`non_finite`", must, "'marginalize'", remedy)

    def asked(self, options: FitOptions, n_features: int) -> FitOptions:
        """Return the options of the fit to all rows that those of a fit with errors mean; an OptionError for others."""
        _check(options, isinstance(options.kernel, Record), "kernel", "'rule' with `errors`, which have a kernel")
        _check(
            options, bool(options.standardize), "standardize", "`False` with `errors`, which are in units of the data"
        )
        _check(options, bool(options.noise), "noise", "`False` with `errors`: its density is one of exact values")
        self.check_gaps(options.non_finite)
        bayesian = isinstance(options, BayesianOptions)
        if bayesian:
            raise OptionError("`errors`", "be left out with variational Bayes", "both", "Take `GaussianMixture`.")
        _check(options, bool(options.fixed), "fixed", "`None` with `errors`")
        if self.common is None:
            return replace(options, kernel=Noisy())
        for name in (*PRIORS, "covariance_floor"):
            _check(
                options,
                getattr(options, name) is not None,
                name,
                "`None` with one covariance as `errors`: give the `errors` of each row",
            )
        prior = options.prior is not None
        _check(options, prior, "prior", "`None` with one covariance as `errors`: it would be on the rows as they are")
        family = options.family
        if not _holds(family, self.common):
            raise OptionError(
                "`errors`",
                f"be a covariance of the kind of `covariance_type`, {family.name}, where one is for all rows",
                "another one",
                "Take `covariance_type` full, or give `errors` for each row.",
            )
        asked = replace(options, prior=CommonErrors(self.common))
        if options.precisions_init is not None:
            given: Any = options.given(n_features).precisions
            true = family.shape.covariances(family.shape.cholesky_of_precisions(given))
            seen = family.shape.precisions_cholesky(family.shape.plus(true, self.common))
            asked = replace(asked, precisions_init=family.shape.precisions(seen))
        return asked

    def seen(self, p: Parameters) -> Parameters:
        """Return the mixture that passes work on, of one of true values; an OptionError for what is no plain one."""
        if self.are_given and (isinstance(p, Posterior) or p.noise is not None):
            what = "noise" if p.noise is not None else "a posterior"
            raise OptionError("`errors`", f"be left out of a mixture with {what}", "both", "Leave `errors` out.")
        return p if self.common is None else with_errors(p, self.common)

    def warm(self, warm: tuple[Parameters, float] | None) -> tuple[Parameters, float] | None:
        """Return parameters to go on from, as passes see them."""
        return None if warm is None else (self.seen(warm[0]), warm[1])

    def of_true_values(self, fit: Fit) -> Fit:
        """Return a fit with the mixture of the true values."""
        if not self.are_given:
            return fit
        fit = replace(fit, about={**fit.about, "errors": self.kind})
        if self.common is None:
            return fit
        return replace(fit, parameters=without_errors(fit.parameters, self.common))


def _taken_for(column: Source, X: Source) -> str:
    """Return what errors of each row are, by the numbers that there are of each."""
    d, n = X.n_features, column.n_features
    if n == d:
        return "standard deviations, not variances, of each row"
    i, j = np.triu_indices(d) if n < d * d else np.divmod(np.arange(n), d)
    errors, features = (feature_names(source.column_labels) for source in (column, X))
    order = "matrices" if n == d * d else "upper triangles"
    if errors is None or features is None or d > _LISTED:
        return f"covariances of each row, {order} row by row"
    each = [features[a] if a == b else f"{features[a]} and {features[b]}" for a, b in zip(i, j, strict=True)]
    listed = ", ".join(f"{name} of {of}" for name, of in zip(errors, each, strict=True))
    return f"covariances of each row, {order} row by row: {listed}"


def _check(options: FitOptions, is_wrong: bool, name: str, must: str) -> None:
    if is_wrong:
        found = getattr(options, name)
        typed = f"{as_typed(found):.60}"
        raise OptionError(f"`{name}`", f"be {must}", f"{found!r:.60}", f"Leave `{name}` out.", typed=typed)


def _holds(family: Family, errors: Floats) -> bool:
    """Return whether the covariances of a family are some of its with the errors in each, and are all such."""
    if type(family).maximise is not Family.maximise:
        return False
    shape: Shape = family.shape
    units = np.full(shape.array_shape(1, len(errors)), 0.0)
    return np.allclose(_as_matrix(shape, shape.plus(units, errors), len(errors)), errors, rtol=1e-12, atol=0)


def _as_matrix(shape: Shape, covariances: Floats, n_features: int) -> Floats:
    """Return the first of some covariances as a matrix, (n_features, n_features)."""
    found: NDArray[Any] = np.zeros((n_features, n_features))
    variances = np.broadcast_to(shape.variances(covariances), (1, n_features))[0]
    if covariances.shape[-2:] == (n_features, n_features) and shape.n_second(2, exact=True) == 3:
        found[...] = covariances.reshape(-1, n_features, n_features)[0]
    np.fill_diagonal(found, variances)
    return found


def _common(errors: NDArray[Any], X: Source) -> Floats | None:
    """Return the covariance that is given for all rows, (n_features, n_features); None for errors of each."""
    d = X.n_features
    if errors.shape not in ((), (d,), (d, d)):
        return None
    of_all = errors.shape != (d,) or d != 1  # (one number for one feature may be that of one row: the same)
    if of_all and errors.shape == (d, d) and d > 1 and X.n_rows == d:
        raise OptionError(
            f"`{ERRORS}`", "say of what they are", f"shape ({d}, {d}) for {d} rows of {d} features",
            "Give a covariance for each row, `(n_rows, n_features, n_features)`.",
        )  # fmt: skip
    values = errors.astype(np.float64)
    found = values if values.ndim == 2 else np.diag(np.broadcast_to(values * np.abs(values), (d,)))
    least = np.linalg.eigvalsh((found + found.T) / 2)[0] if np.isfinite(found).all() else np.nan
    if not least >= -1e-12 * np.abs(found).max() or not np.allclose(found, found.T, rtol=1e-9, atol=0):
        raise DataError(
            f"`{ERRORS}`",
            "be standard deviations of at least 0, or a symmetric, positive semidefinite matrix",
            "one that is not symmetric" if least >= 0 else f"a least eigenvalue of {least:.6g}",
            _SHAPES,
        )
    return found


def _check_values(errors: NDArray[Any], n_features: int) -> None:
    """Raise a DataError for errors in memory, (n_rows, n), that are none."""
    if errors.shape[1] == n_features:
        least = errors
    elif errors.shape[1] == n_features**2:
        least = errors[:, :: n_features + 1]
    else:
        rows, columns = np.triu_indices(n_features)
        least = errors[:, rows == columns]
    wrong = ~(np.isfinite(errors).all(axis=1) & (least >= 0).all(axis=1))
    if wrong.any():
        row = int(np.argmax(wrong))
        values = errors[row][~np.isfinite(errors[row])]
        got = values[0] if len(values) else least[row].min()
        raise DataError(
            f"`{ERRORS}`",
            "be finite and at least 0",
            f"{got:.6g} in row {row}, where counting begins with 0",
            "Give a standard deviation (or a covariance) for each value, 0 for one that is exact; leave rows without "
            "out.",
        )
