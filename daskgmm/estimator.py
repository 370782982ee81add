"""`GaussianMixture`: scikit-learn's estimator, on data of any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted

from daskgmm.adapting import Adaptable
from daskgmm.callbacks import CallbackSupport, call_back
from daskgmm.conditional import Conditionable
from daskgmm.deconvolution import Deconvolving
from daskgmm.diagnostics import Diagnosable
from daskgmm.errors import OptionError
from daskgmm.exchange import Convertible
from daskgmm.fitting.events import Listener
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.option import declared
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.score import Score, score_source
from daskgmm.imputing import Imputing
from daskgmm.inputs import (
    constructor,
    opened_columns,
    opened_labels,
    opened_rows,
    opened_weights,
    printing,
    random_numbers,
    seed_of,
    warn_of,
    warn_unless_converged,
)
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.criteria import warn_of_small_weight
from daskgmm.mixture.family import Family, family_of
from daskgmm.mixture.parameters import Parameters, parameters_of
from daskgmm.mixture.sampling import sample
from daskgmm.pictures.pictured import Pictured
from daskgmm.updating import Updatable


class GaussianMixture(
    Adaptable,
    Pictured,
    CallbackSupport,
    Convertible,
    Conditionable,
    Diagnosable,
    Deconvolving,
    Updatable,
    Imputing,
    DensityMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """A Gaussian mixture, fitted by exact EM to data that need not fit in memory.

    Names and meanings are scikit-learn's. `X` may be a NumPy array, a data frame (of Dask too), an array or data set of
    xarray, a Dask array (its chunks may be unknown), an open Zarr array, the path or URL of Zarr, Parquet or `.npy`, or
    what `daskgmm.open_rows` makes of these. Passes run on the current `distributed.Client`, else on Dask's local
    schedulers. An array in memory is fitted in this process.

    Parameters
    ----------
    n_components : int, default=1
    covariance_type : {"full", "tied", "diag", "spherical", "VEE" or another of mclust's, "lowrank"} or Family
        Of mclust's fourteen, VVV is full, EEE tied, VVI diag and VII spherical; `precisions_init` of these and of
        "lowrank" are any full precisions. A family of your own is an object of a subclass of `daskgmm.Family`, or its
        name if it is registered. The default is "full".
    n_factors : int or None
        Of "lowrank": in so many directions each component has its own variance. "lowrank-3" names both.
    factor_noise : {"isotropic", "feature"}, default="isotropic"
        Its variance beside them: one (probabilistic PCA), or each feature's own (factor analysis).
    tol : float, default=1e-3
        The fit has converged when the mean log-likelihood of a row changes by less, nats. With 0 it takes `max_iter`
        iterations.
    reg_covar : float, default=1e-6
        Added to every variance, in squared units of the data.
    prior : Prior or None, default=None
        What is known of the parameters beside the rows: a frozen dataclass of yours, a subclass of `daskgmm.Prior`. The
        fit then maximises log-likelihood plus the prior's log density. reg_covar is added after it.
    covariance_prior : "weak", float, array or None, default=None
        The scale of an inverse Wishart prior on covariances, a sum of squares: for all components, or one each. "weak"
        (Fraley and Raftery 2007) is the rows' covariance over K^(2/D), and sets the next three where they are None: it
        keeps components from closing in on few rows. `lower_bound_` then has the prior's log density in it.
    mean_precision_prior : float, (n_components,) or None, default=None
        How many rows the prior on a mean counts as; 0.01 where `covariance_prior` is "weak".
    mean_prior : (n_features,), (n_components, n_features) or None, default=None
        Where means are expected; None for the mean of the rows.
    degrees_of_freedom_prior : float, (n_components,) or None, default=None
        Of the prior on covariances, above n_features - 1; None for n_features + 2.
    weight_concentration_prior : float, (n_components,) or None, default=None
        Of a Dirichlet prior on weights, at least 1: each component has had so many rows more, less one.
    covariance_floor : float, array, "relative 1e-4" or None, default=None
        What no covariance is below, exactly, so that EM stays an ascent: a variance, a covariance, or a share of the
        rows' covariance. Nothing is added by reg_covar then.
    fixed : dict or None, default=None
        Which of the given parameters stay, to the bit: {"weights": True, "means": mask (n_components,), "covariances":
        ...}, at weights_init, means_init and precisions_init. They are not counted by `bic`.
    max_iter : int, default=100
        Passes of EM over all rows, at most.
    n_init : int, default=10
        Restarts. They compete on the sample, round by round fewer of them on more rows; the best goes on to all rows. A
        start that repeats another one (k-means often finds the same groups) is replaced by rows drawn at random. Where
        the sample is not all rows, and init_params is "kmeans", two in five are started, of several kinds: there splits
        and merges of components gain more in the same time. Where it is all rows, three in five are plain k-means, the
        others tempered EM or k-means of whitened rows, and splits and merges begin with the best three.
    init_params : {"kmeans", "k-means++", "random", "random_from_data", "k-means||"}, default="kmeans"
        How to find a start, on a seeded sample of the rows (all of them where they are few). "k-means||" takes six
        passes over all rows instead, and finds small groups far from the others, which a sample would miss. Its
        restarts share the passes that follow; every four passes the worse half of them retires.
    weights_init : (n_components,), means_init : (n_components, n_features), precisions_init : array-like or None
        Initial parameters that replace those of the start.
    random_state : int, Generator or RandomState of NumPy, or None
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit's parameters.
    verbose : int, default=0
        1 prints a line every `verbose_interval` passes, 2 for each pass.
    verbose_interval : int, default=10
    non_finite : {"error", "drop", "marginalize"}, default="error"
        What to do with rows that hold a NaN or an infinity. Dropped rows are predicted as -1 or NaN. Marginalized, a
        NaN is a missing value, and the rest of its row counts, in `fit`, `predict` and all others: exact EM on what is
        observed. That is right where values are missing at random, given what is observed of the row.
    precision : {"double", "single"}, default="double"
        Precision of the large matrix products. "single" is about 1.8 times faster, and good to 1e-3 nats a row in the
        log-density. Components for which it is not, and the final log-likelihood, are computed in double precision.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        What computes passes, predictions and scores: a card of NVIDIA's by CuPy, in float64; "auto" where one can.
        (This has not been run on a card yet in this version: compare a fit of yours with device="cpu" first.)
    cache : {"auto", True, False}, default="auto"
        Whether rows of a Zarr array stay in memory, decoded, after the first pass. "auto": if all fit in half of the
        workers' memory limits. True: as many as fit. False: none. The bits are the same. (A Dask array: persist it.)
    acceleration : {"squarem", None} or Accelerator, default="squarem"
        SQUAREM reaches the same optimum in fewer passes: it extrapolates EM, and steps back if the log-likelihood
        falls. None is plain EM, with scikit-learn's iterates. An accelerator of your own is a frozen dataclass, a
        subclass of `daskgmm.mixture.acceleration.Accelerator`.
    stopping : StoppingRule or None, default=None
        When a fit ends, instead of `tol`: a frozen dataclass of yours, a subclass of
        `daskgmm.fitting.stopping.StoppingRule`. It is asked after each pass over all rows.
    escape : bool, default=True
        Whether to search for a better optimum by splitting and merging components on the sample. Not of a given start.
    standardize : bool, default=False
        Whether to fit the features in units of their standard deviations, as behind a StandardScaler, which would load
        a Dask array whole. Starts and `reg_covar` then do not depend on units. The parameters are those of the data.
        Not for spherical covariances.
    kernel : {"rule", "phi", "exact"} or Kernel, default="rule"
        The form of the E-step. The rule takes, for each component, the fastest that is exact. Your own is a frozen
        dataclass, a subclass of `daskgmm.Kernel`, for the components that it chooses; `predict`, `score`,
        `bic` and `aic` take the rule's.
    start_rows : int or None
        Rows of the sample at most; None takes as many as a start needs. As many as there are rows, or more, start on
        all of them (64 MiB at most): some times the time of a start, and often a little higher on up to 100,000 rows.
    noise : False, True or float, default=False
        Whether a uniform density stands beside the components, for rows that belong to none of them: over the robust
        box of the sample (between the 0.5 % and 99.5 % quantiles along its principal axes), or over this volume, in
        units of the features multiplied. It holds everywhere, outside of the box too.
    label_components : tuple of int, mapping or None, default=None
        Which components each class has, where `fit` is given labels: (0, 0, 1) or {0: [0, 1], 1: [2]}. None: component
        k is class k. Components without a class, and without rows of it, take unlabelled rows alone.
    noise_weight_init : float, default=0.05
        Weight of the noise at the start; `weights_init` then sums to what it leaves of 1.

    Attributes
    ----------
    weights_ : (n_components,), float64
    noise_weight_ : float
        Weight of the noise; with weights_ it sums to 1.
    means_ : (n_components, n_features), float64
    covariances_, precisions_, precisions_cholesky_ : float64
        full (n_components, n_features, n_features); tied (n_features, n_features); diag (n_components, n_features);
        spherical (n_components,). EII has spherical's shape, EEI, VEI and EVI diag's, and other families full's.
    converged_ : bool
    n_iter_ : int
        Iterations of the best restart.
    lower_bound_ : float
        Mean log-likelihood of a row, nats, of the parameters that went *into* the last iteration, as in scikit-learn;
        with a prior, its log density over the number of rows is in it.
    lower_bounds_ : list of float
    log_likelihood_, entropy_ : float
        Total log-likelihood, nats, of the *final* parameters, from a closing pass; and the entropy of their
        responsibilities, - sum r log r over the rows: 0 where each surely belongs to one component.
    n_passes_ : int
        Sweeps over the data; survey and closing pass count, and so does counting the rows of a Dask array of unknown
        chunk sizes.
    n_dropped_, n_dropped_by_feature_ : int, list of int
        Rows dropped as non-finite, and by the features that hold their NaN or infinity: a row counts for each of these.
    support_ : (n_components,), float64
        How far the log-likelihood of the rows falls without each component, nats; the others stay as they are.
        Infinite for a single component. BIC asks for at least half a component's parameters times the logarithm of the
        number of rows.
    counts_ : (n_components,), float64
        Rows of each component: the sum of its responsibilities, in units of the mean row weight.
    drift_ : dict or None
        After `partial_fit`: how its rows differ from those before, as `daskgmm update` writes it; None after a fit.
    history_ : list of dict
        A record for each pass and restart, as a table: `pandas.DataFrame(gm.history_)`. Its columns: pass; what
        ("survey", "search" for k-means||, "start" for EM on the sample, which reads nothing, "em", "closing");
        candidate; mean_log_likelihood of the parameters that went in, nats; change of it in a plain EM step, nats;
        step, the length of the step that led to them (1: plain EM); accepted; status; rows visited; seconds; n_bytes.
    n_features_in_ : int
    feature_names_in_ : (n_features,), object
        Names of the columns, where X had names that are all text; predictions are refused where theirs are others.
    units_in_ : str
        The attribute units of X, where a Zarr array or one of xarray had it; predictions are refused where theirs is
        another.

    Examples
    --------
    >>> import numpy as np
    >>> from daskgmm import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(gm.means_.round(3).tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    """

    #: Which options its parameters are.
    options_type: ClassVar[type[FitOptions]] = FitOptions

    __init__ = constructor(FitOptions)

    def __init_subclass__(cls, *, options: type[FitOptions] | None = None, **keywords: Any) -> None:
        """Give a class of other options their parameters."""
        super().__init_subclass__(**keywords)
        if options is not None:
            cls.options_type = options
            cls.__init__ = constructor(options)  # type: ignore[misc]

    # -- fitting ---------------------------------------------------------------------------------------------
    def fit(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, columns: Mapping[str, Any] | None = None,
        labels: Any = None, errors: Any = None,
    ) -> Self:  # fmt: skip
        """Return the estimator, fitted to all rows of X.

        Parameters
        ----------
        X : array, Dask array, Zarr array, path or URL
            (n_rows, n_features).
        y : ignored
        sample_weight : array, Dask array, Zarr array, path or URL, optional
            (n_rows,), finite and not negative. A whole number means that often the row; 0 means not at all.
        columns : mapping of str to what X may be, optional
            What else comes with each row, (n_rows,) or (n_rows, n_columns) numbers, for a `kernel` of yours that knows
            it by its name; a data frame is one of each. A NaN in it comes as it is. `fit` alone takes columns.
        labels : array, Dask array, Zarr array, path or URL, optional
            (n_rows,) whole numbers: the class of each row, or -1 where nobody knows. Component k is class k (but see
            `label_components`): it starts at the rows with its label, which belong to no other component nor to the
            noise. `log_likelihood_` and `lower_bound_` take of such a row the terms of its class alone.
        errors : what X may be, optional
            Measurement errors of X, as standard deviations (not variances): (n_features,) for all rows or (n_rows,
            n_features); or covariances: (n_features, n_features) for all rows, or (n_rows, n_features, n_features), or
            (n_rows, n_features^2) as a file; of these the upper triangle, row by row, will do. The mixture is then that
            of the true values (extreme deconvolution).

        Raises
        ------
        daskgmm.errors.DaskgmmError
            OptionError, DataError, MemoryLimitError and others; each is also a ValueError, MemoryError or OSError.
            A fit that fails leaves the estimator as it was.
        """
        before = self.__dict__.copy()
        try:
            beside = sample_weight, columns, labels, errors
            call_back(self, partial(self._fit, X, *beside), X, y, sample_weight, self.max_iter)
        except BaseException:
            self.__dict__ = before
            raise
        if self.max_iter > 0:
            warn_unless_converged(self._status, self.n_iter_, stacklevel=2)
        warn_of(self._remarks, stacklevel=2)
        return self

    def fit_predict(self, X: Any, y: Any = None, *, sample_weight: Any = None, errors: Any = None) -> Any:
        """Return the labels of X after fitting to it; lazy where X is."""
        return self.fit(X, sample_weight=sample_weight, errors=errors).predict(X, errors=errors)

    # -- predictions -----------------------------------------------------------------------------------------
    def predict(self, X: Any, *, errors: Any = None) -> Any:
        """Return the most probable component of each row, (n_rows,), int64; a lazy Dask array unless X is in memory.

        n_components where the row most probably belongs to the noise; -1 where it was dropped.
        """
        return self._predict(X, "label", errors)

    def predict_proba(self, X: Any, *, errors: Any = None) -> Any:
        """Return the responsibilities, (n_rows, n_components), float64; a lazy Dask array unless X is in memory.

        With noise there is a column more, for it.
        """
        return self._predict(X, "proba", errors)

    def score_samples(self, X: Any, *, errors: Any = None) -> Any:
        """Return the log-density of each row, (n_rows,), float64, nats; a lazy Dask array unless X is in memory."""
        return self._predict(X, "score", errors)

    def score(self, X: Any, y: Any = None, *, sample_weight: Any = None, errors: Any = None) -> float:
        """Return the mean log-likelihood of a row (per unit of weight), nats; one pass.

        A mixture that was fitted with errors is of true values: rows with errors score lower unless these are given.
        """
        return self._scored(X, sample_weight, errors).mean_log_likelihood

    def aic(self, X: Any, *, sample_weight: Any = None, errors: Any = None) -> float:
        """Return Akaike's information criterion on X, lower is better; one pass."""
        return self._compared(X, sample_weight, errors).aic

    def bic(self, X: Any, *, sample_weight: Any = None, errors: Any = None) -> float:
        """Return the Bayesian information criterion on X, lower is better; n is the sum of the weights; one pass."""
        return self._compared(X, sample_weight, errors).bic

    def sample(self, n_samples: int = 1) -> tuple[Floats, NDArray[np.int64]]:
        """Return rows of the mixture, (n_samples, n_features) float64, and their components, (n_samples,) int64."""
        check_is_fitted(self, "means_")
        if n_samples < 1:
            raise OptionError("`n_samples`", "be at least 1", n_samples, "Ask for one row or more.")
        return sample(self._parameters(), n_samples, random_numbers(self.random_state))

    # -- inside ----------------------------------------------------------------------------------------------
    def fit_options(self) -> FitOptions:
        """Return the parameters as the options of a fit, checked; a seed is drawn where random_state is no number."""
        known = declared(self.options_type)
        options = {name: getattr(self, name) for name, (_, option) in known.items() if option.of_estimator}
        return self.options_type(**options, seed=seed_of(self.random_state))

    def _fit(
        self, X: Any, sample_weight: Any, columns: Mapping[str, Any] | None, labels: Any, errors: Any, hear: Listener
    ) -> None:
        options, listener = self.fit_options(), printing(self.verbose, self.verbose_interval, also=hear)
        options.check_records()
        source, weights = opened_rows(self, X, reset=True), opened_weights(sample_weight)
        goes_on = bool(self.warm_start) and hasattr(self, "converged_")
        warm = self._warm(source.n_features) if goes_on else None
        beside: dict[str, Any] = {"columns": opened_columns(columns), "labels": opened_labels(labels)}
        of = None if errors is None else Measured.of(errors, source)
        self._assign(fit_mixture(source, options, weights=weights, **beside, errors=of, warm=warm, listener=listener))
        self._fit_options = options.as_json()

    def _warm(self, n_features: int) -> tuple[Parameters, float]:
        p = self._parameters()
        asked = self._asked_family().name
        if (p.family.name, *p.means.shape) != (asked, self.n_components, n_features):
            raise OptionError(
                "`warm_start`",
                "go on from a mixture of the same shape",
                f"one of {p.n_components} {p.family.name} components in {p.n_features} features for "
                f"{self.n_components} {asked} components in {n_features}",
                "Set `warm_start=False` to start anew.",
            )
        return p, float(self.lower_bound_)

    def _scored(self, X: Any, sample_weight: Any, errors: Any) -> Score:
        check_is_fitted(self, "means_")
        source, weights = opened_rows(self, X, reset=False), opened_weights(sample_weight)
        of = None if errors is None else Measured.of(errors, source)
        p, non_finite = self._parameters(), self.non_finite
        return score_source(p, source, weights=weights, errors=of, non_finite=non_finite, device=self.device)

    def _compared(self, X: Any, sample_weight: Any, errors: Any) -> Score:
        found = self._scored(X, sample_weight, errors)
        warn_of_small_weight(found.weight, found.n_weighted, stacklevel=3)
        return found

    def _asked_family(self) -> Family:
        # (Not every class has the other options.)
        factors = {name: getattr(self, name) for name in ("n_factors", "factor_noise") if hasattr(self, name)}
        return family_of(self.covariance_type, **factors)

    def _parameters(self) -> Parameters:
        """Return the mixture that the public attributes are: of a fit, or set by hand as scikit-learn allows."""
        covariances: Any = getattr(self, "covariances_", None)
        cholesky: Any = getattr(self, "precisions_cholesky_", None)
        family, known = self._asked_family(), cholesky if covariances is None else covariances
        # (What was fitted keeps its family when the options change.)
        fitted_as = getattr(self, "_family", family)
        if np.ndim(self.means_) == 2 and np.shape(known) == fitted_as.shape.array_shape(*np.shape(self.means_)):
            family = fitted_as
        p = parameters_of(family, self.weights_, self.means_, covariances=covariances, precisions_cholesky=cholesky)
        noise, fixed = getattr(self, "_noise", None), getattr(self, "_fixed", ())
        if noise is not None:
            p = replace(p, noise=noise.with_weight(self.noise_weight_))
        return replace(p, fixed=fixed) if len(fixed) == p.n_components + 1 else p
