"""`select`: which number of components, and which kind of covariance, describes the rows best."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, overload

from sklearn.base import clone

from daskgmm.errors import OptionError
from daskgmm.estimator import GaussianMixture
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.sweep import Sweep, criterion_of, n_folds_of, select_model, selection_models
from daskgmm.inputs import opened_labels, opened_rows, opened_weights, printing, warn_of, warn_unless_converged
from daskgmm.mixture.family import Family, families_of
from daskgmm.pictures.comparison import by_kind, selection_table, selection_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from daskgmm.pictures.picture import Picture


@dataclass(frozen=True, repr=False)
class Selection:
    """The models of a selection, and which of them is best.

    Printed, it is a table for a person; `plot` draws it.

    Attributes
    ----------
    table : list of dict
        One a model, by kind in the order given, then by number of components: n_components, covariance_type, n_free
        (free parameters), mean_log_likelihood (nats a row), log_likelihood (nats), entropy (of the
        responsibilities, nats), aic, bic, icl, held_out (mean log-likelihood of rows that the model was not fitted to,
        nats a row, or None), converged, n_iter, unsupported (components that the rows do not support), least_support
        (of all components, nats; None for one), chosen; reach
        (an estimate of how far the mean log-likelihood may still rise, nats a row) and resolution (how far the
        criterion then moves, in its units; None where nobody knows), tie (whether the model may still come before the
        best), below (a smaller number of components whose log-likelihood is higher, at optima impossible; or None).
        Those of BayesianGaussianMixture have effective_n_components in the place of n_free, and bound (on the log
        evidence, nats, of all rows) in that of aic, bic, icl, unsupported and least_support.
    estimators : list of GaussianMixture
        The fitted models, in the order of the table. Each has the bits of `GaussianMixture(...).fit(X)` with the same
        parameters, or of further iterations of it: its lower_bounds_ begin with those of that fit. (The exception is a
        model that was searched again from a smaller one.) n_passes_ counts the passes that all of them shared.
    criterion : str
    stopped : dict of str to int
        Kinds whose larger numbers of components were left out, and the largest number that was fitted.
    collapsed : dict of str to list of int
        Kinds, and the numbers of components at which one collapsed onto too few rows: they have no model in the table.
    n_passes : int
        Sweeps over the data, of all models together.
    bytes_read : int
        Decoded bytes that came from the source in all of them.
    seconds : float
    """

    table: list[dict[str, Any]]
    estimators: list[GaussianMixture]
    criterion: str
    stopped: dict[str, int]
    collapsed: dict[str, list[int]]
    n_passes: int
    bytes_read: int
    seconds: float

    @property
    def best_(self) -> GaussianMixture:
        """The model that the criterion chose, fitted."""
        return next(e for e, row in zip(self.estimators, self.table, strict=True) if row["chosen"])

    @property
    def estimator(self) -> GaussianMixture:
        """The same as `best_`."""
        return self.best_

    def text(self) -> str:
        """Return the table as aligned text, the best model marked, and what there is to say of the search."""
        return selection_text(self.table, self.criterion, self.stopped, self.collapsed)

    @overload
    def plot(self, path: str | os.PathLike[str] | None = None, ax: None = None) -> Picture: ...
    @overload
    def plot(self, path: str | os.PathLike[str] | None = None, *, ax: Axes) -> Axes: ...
    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Picture | Axes:
        """Return a plot of the criterion against the number of components, a line a kind: a figure of matplotlib.

        A notebook shows it; in a script, give a path, or call its `savefig` or `show`.

        Parameters
        ----------
        path : path, optional
            Where to write the picture; the end of its name says its format, such as .png.
        ax : matplotlib Axes, optional
            Where to draw. These axes are then returned, so that a notebook shows their figure once.

        Raises
        ------
        OptionError
            matplotlib is missing.
        """
        from daskgmm.pictures.plot import plot_selection

        return plot_selection(self.table, self.criterion, path=path, ax=ax)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table, the best model marked."""
        from daskgmm.pictures.notebook import selection_html

        return selection_html(self.table, self.criterion, self.stopped, self.collapsed)

    def __repr__(self) -> str:
        p = self.best_
        return (
            f"<Selection by {self.criterion}: n_components={p.n_components}, covariance_type={p.covariance_type!r}, "
            f"best of {len(self.table)} models in {self.n_passes} passes>"
        )


def select(
    X: Any,
    *,
    n_components: int | Iterable[int] = range(1, 11),
    covariance_type: str | Family | Sequence[str | Family] | None = None,
    criterion: str | None = None,
    estimator: GaussianMixture | None = None,
    n_folds: int | None = None,
    stop_early: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
    errors: Any = None,
    verbose: int = 0,
    **parameters: Any,
) -> Selection:
    """Return the models of every number of components and covariance kind, and which of them is best.

    All models share every pass over the data, so ten models need about as many passes as the slowest of them alone.
    (Only the six passes of a start by "k-means||" are not shared: each model and each fold has its own.)

    Parameters
    ----------
    X : array, Dask array, Zarr array, path or URL
        (n_rows, n_features), as for `GaussianMixture.fit`.
    n_components : int or iterable of int, default=range(1, 11)
    covariance_type : str, Family, sequence of these or None, default=None
        As for `GaussianMixture`; "mclust" stands for mclust's fourteen families, and "lowrank" for one with each of
        several `n_factors`, such as [1, 2, 3] (McNicholas and Murphy 2008, doi:10.1007/s11222-008-9056-0). None is that
        of the estimator: "full" where there is none.
    criterion : {"bic", "aic", "icl", "held_out", "bound"} or None, default=None
        What is compared. BIC asks for the number of Gaussians, ICL (BIC - 2 sum log max_k r_k, r the responsibilities)
        for that of separate groups, AIC and the log-likelihood of held-out rows for the best density. None is "bic".
        Models by variational Bayes are compared by "bound", their default, or "held_out" (see Notes).
    estimator : GaussianMixture or BayesianGaussianMixture, optional
        The models are like it, but for `n_components` and `covariance_type`; None is GaussianMixture().
    n_folds : int or None
        Number of cross-validation folds. Each model is also fitted with each fold left out, in the same passes, and
        scored on that fold. (A hash of the row number assigns folds of about equal size.) None: 5 where the criterion
        is "held_out", else 0, for no cross-validation.
    stop_early : bool, default=True
        Whether to leave out larger numbers of components once the criterion has clearly turned on the sample. (Starts
        by "k-means||" have no sample: all numbers are fitted.)
    sample_weight : array, Dask array, Zarr array, path or URL, optional
        (n_rows,); criteria count the sum of the weights as rows.
    labels : array, Dask array, Zarr array, path or URL, optional
        (n_rows,), the class of each row or -1, as `GaussianMixture.fit` takes it.
    errors : what X may be, optional
        Measurement errors of X, as for `GaussianMixture.fit`.
    **parameters
        Of each model, as for its class: tol, max_iter, random_state and so on. A converged fit knows its
        criterion to about 2 n_rows tol. So models that may still be the best go on, up to max_iter passes, until only
        one of them may, or theirs is known to 0.1: a sample shows what each may still gain, and where. Models that are
        closer than that are marked as level.
    verbose : int, default=0
        1 prints a line every ten passes, 2 for each pass.

    Raises
    ------
    daskgmm.errors.DaskgmmError
        As `GaussianMixture.fit`.

    Notes
    -----
    The bound is a lower bound on the log evidence, with all its constants: its differences are log Bayes factors, nats,
    as far as it is tight. What a default of the prior takes from the number of components (weight_concentration_prior)
    each model takes from its own: under a Dirichlet process, with 1 / n_components, a larger number is then often a
    little better, as less of the stick is left over. To compare numbers take "dirichlet_distribution", or give one
    concentration for all. Information criteria count parameters, of which a posterior has no number: a
    component without rows costs nothing. The bound is that of one numbering of the components; under a Dirichlet
    distribution the others, each as good, would add log K! at most (Bishop 2006, section 10.2.4).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import daskgmm
    >>> found = daskgmm.select(load_iris().data, n_components=range(1, 5), n_init=2, random_state=0)
    >>> found.best_.n_components
    2
    >>> [round(row["bic"]) for row in found.table[:2]]
    [830, 574]
    >>> like = daskgmm.BayesianGaussianMixture(weight_concentration_prior_type="dirichlet_distribution", tol=1e-5)
    >>> found = daskgmm.select(load_iris().data, n_components=range(1, 5), estimator=like, random_state=0, max_iter=500)
    >>> found.criterion, found.best_.n_components
    ('bound', 2)
    """
    numbers, like = _numbers(n_components), _like(estimator, parameters, verbose)
    families: Any = like.covariance_type if covariance_type is None else covariance_type
    if isinstance(families, str) or not isinstance(families, Iterable):
        families = [families]
    # (Their number is in the name of each family then; not every class has them.)
    factors = {name: default for name, default in _FACTORS.items() if hasattr(like, name)}
    kinds = families_of(families, **{name: getattr(like, name) for name in factors})
    like.set_params(**factors, covariance_type=kinds[0] if kinds else "full")
    if not isinstance(stop_early, bool):
        raise OptionError("`stop_early`", "be True or False", repr(stop_early))
    options, listener = like.fit_options(), printing(like.verbose, like.verbose_interval)
    criterion = criterion_of(options, criterion)
    folds = n_folds_of(criterion) if n_folds is None else n_folds
    asked: dict[str, Any] = {
        "n_components": numbers,
        "covariance_types": kinds,
        "criterion": criterion,
        "n_folds": folds,
    }
    # (What can be known to be wrong is told before Dask counts the rows of chunks of unknown size.)
    selection_models(options, **asked)
    source, weights = opened_rows(like, X, reset=True), opened_weights(sample_weight)
    beside: dict[str, Any] = {"weights": weights, "labels": opened_labels(labels)}
    of = None if errors is None else Measured.of(errors, source)
    sweep = select_model(source, options, **asked, stop_early=stop_early, **beside, errors=of, listener=listener)
    best = sweep.entries[sweep.best].fit
    if options.max_iter > 0:
        warn_unless_converged(best.status, best.n_iter, stacklevel=2)
    warn_of(best.remarks, stacklevel=2)
    return _selection(sweep, like, options)


#: Options that are in the name of a family, and their defaults.
_FACTORS = {"n_factors": None, "factor_noise": "isotropic"}


def _like(estimator: Any, parameters: dict[str, Any], verbose: int) -> GaussianMixture:
    """Return an estimator that is not fitted, of the parameters that all models have."""
    if "warm_start" in parameters:
        raise TypeError("select() got an unexpected keyword argument 'warm_start'")
    if estimator is None:
        plain: GaussianMixture = GaussianMixture(**parameters, verbose=verbose)
        return plain
    if not isinstance(estimator, GaussianMixture):
        got = f"the class {estimator.__name__}" if isinstance(estimator, type) else f"a {type(estimator).__name__}"
        raise OptionError("`estimator`", "be a daskgmm.GaussianMixture or BayesianGaussianMixture", got, "Give one.")
    known = estimator.get_params()
    for name in parameters.keys() - known.keys():
        raise TypeError(f"select() got an unexpected keyword argument '{name}'")
    found: GaussianMixture = clone(estimator)
    found.set_params(**parameters, warm_start=False, verbose=verbose or known["verbose"])
    return found


def _numbers(n_components: Any) -> list[Any]:
    if isinstance(n_components, Integral):
        return [n_components]
    if isinstance(n_components, str) or not isinstance(n_components, Iterable):
        raise OptionError("`n_components`", "be an integer or several", repr(n_components), "Give range(1, 11).")
    # (Numbers of NumPy become plain ones.)
    numbers = list(n_components)
    for k in numbers:
        if not isinstance(k, Integral) or isinstance(k, bool):
            raise OptionError("`n_components`", "be an integer of at least 1", repr(k))
    return [int(k) for k in numbers]


def _selection(sweep: Sweep, like: GaussianMixture, options: FitOptions) -> Selection:
    estimators = [
        estimator_of(like, e.fit, replace(options, n_components=e.n_components, covariance_type=e.covariance_type))
        for e in sweep.entries
    ]
    return Selection(
        table=selection_table(sweep),
        estimators=estimators,
        criterion=sweep.criterion,
        stopped=dict(sweep.stopped),
        collapsed=by_kind(sweep.collapsed),
        n_passes=sweep.n_passes,
        bytes_read=sweep.bytes_read,
        seconds=sweep.seconds,
    )


def estimator_of(like: GaussianMixture, fit: Fit, options: FitOptions) -> GaussianMixture:
    """Return an estimator of the parameters of another one, and of the kind and size of a fit, with that fit."""
    found: GaussianMixture = clone(like)
    found.set_params(n_components=options.n_components, covariance_type=options.covariance_type)
    for name in ("feature_names_in_", "units_in_"):
        if hasattr(like, name):
            setattr(found, name, getattr(like, name))
    found._assign(fit)
    found._fit_options = options.as_json()
    return found
