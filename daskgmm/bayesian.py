"""`BayesianGaussianMixture`: scikit-learn's estimator by variational Bayes, on data of any size."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from daskgmm.errors import OptionError
from daskgmm.estimator import GaussianMixture
from daskgmm.exchange import attributes_of, outcome_of
from daskgmm.fitting.bayesian_options import PROCESS, BayesianOptions
from daskgmm.mixture.family import family_of
from daskgmm.mixture.parameters import Parameters, check_covariances, check_means
from daskgmm.mixture.variational import Posterior, Variational


class _NotOffered:
    """What GaussianMixture has, and says nothing of a posterior: for `hasattr` it is not there."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __get__(self, estimator: Any, cls: type[Any]) -> Any:
        if estimator is None:
            return self
        raise AttributeError(f"BayesianGaussianMixture does not have this: {self._instead}.")


class BayesianGaussianMixture(GaussianMixture, options=BayesianOptions):
    """A Gaussian mixture by variational Bayes: a posterior of its parameters, under a prior that can empty components.

    Names, meanings and defaults of the prior are scikit-learn's, and so are the iterates where `acceleration` is None.
    Everything else is as for `GaussianMixture`: what `X` may be, where passes run, samples, starts and restarts,
    weights, checkpoints. A pass costs the same.

    Parameters
    ----------
    n_components : int, default=1
        Components at most: those that the rows do not need have none.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        The form of the posterior's covariances (see Notes).
    weight_concentration_prior_type : {"dirichlet_process", "dirichlet_distribution"}, default="dirichlet_process"
    weight_concentration_prior : float or None, default=None
        The smaller, the fewer components have rows; None is 1 / n_components.
    mean_precision_prior : float or None, default=None
        How many rows the prior mean counts; None is 1.
    mean_prior : (n_features,) or None, default=None
        None is the mean of all rows.
    degrees_of_freedom_prior : float or None, default=None
        How many rows the prior covariance counts, more than n_features - 1; None is n_features.
    covariance_prior : array or float or None, default=None
        (n_features, n_features) for full and tied, (n_features,) for diag, a number for spherical. None is the
        covariance of all rows (of the sample that starts are found on neither), in this form.
    tol : float, default=1e-3
        The fit has converged when the lower bound of a *row* changes by less, nats. scikit-learn compares the bound of
        all rows with it, so that large data never converge.
    reg_covar : float, default=1e-6
        Added to every variance of the rows of a component, as scikit-learn does. With it the bound may fall a little.
    weights_init, means_init, precisions_init : array-like or None
        A mixture to start from, such as that of a `GaussianMixture`: the first posterior is that of rows like it.
    acceleration : {"squarem", None} or Accelerator, default="squarem"
        SQUAREM leaps between posteriors, and steps back where the bound falls.
    max_iter, n_init, init_params, random_state, warm_start, verbose, verbose_interval, stopping, precision, cache, \
non_finite, kernel, start_rows
        As for `GaussianMixture`.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_
        Posterior means (covariances are the inverses of mean precisions), of the shapes of `GaussianMixture`.
    weight_concentration_ : (n_components,), or two of these for "dirichlet_process"
    mean_precision_, degrees_of_freedom_ : (n_components,); one number where the covariance is tied
    weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_, covariance_prior_
        The prior with what was None.
    lower_bound_ : float
        Lower bound on the log evidence, divided by the weight of the rows: nats a row, of the posterior that went
        *into* the last iteration. All constants are in it, so that fits of other numbers of components and priors to
        the same rows compare. scikit-learn's is a total without constants.
    lower_bounds_ : list of float
    log_likelihood_ : float
        Sum of `score_samples` over the rows, nats, from a closing pass.
    entropy_ : float
        Of the responsibilities of all rows, nats.
    effective_n_components_ : int
        Components with at least as many rows as a covariance of theirs needs (n_features + 1 for full ones).
    counts_ : (n_components,), float64
        Rows of each component.
    converged_, n_iter_, n_passes_, n_dropped_, n_dropped_by_feature_, history_, n_features_in_, feature_names_in_, \
units_in_
        As for `GaussianMixture`.

    Notes
    -----
    The model is that each component has a precision matrix of its own, with a Wishart prior. "tied", "diag" and
    "spherical" restrict the scale matrix of the posterior's Wishart distributions: a common one, a diagonal one, a
    multiple of the identity. Under this restriction scikit-learn's steps are the exact optimum, and the bound is one on
    the same evidence; so "full" has the highest one at its optimum.

    `score_samples` is scikit-learn's: the logarithm of the sum of exp of mean log-densities, which is no density.

    References
    ----------
    Attias (2000), A variational Bayesian framework for graphical models, NeurIPS 12. Blei and Jordan (2006),
    doi:10.1214/06-BA104.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from daskgmm import BayesianGaussianMixture
    >>> found = BayesianGaussianMixture(n_components=10, max_iter=500, random_state=0).fit(load_iris().data)
    >>> found.effective_n_components_ < 10
    True
    """

    parameters_type: ClassVar[type[Parameters]] = Posterior

    aic = bic = _NotOffered("compare lower_bound_, higher is better (select does), or score on other rows")
    partial_fit = _NotOffered("fit to all rows")
    adapted = marginal = condition = reduced = predict_features = standard_errors = _NotOffered(
        "take that of GaussianMixture.from_parameters(weights_, means_, covariances_), the mixture of posterior means"
    )

    @property
    def effective_n_components_(self) -> int:
        check_is_fitted(self, "means_")
        return self._parameters().n_effective(self.counts_)

    @classmethod
    def from_parameters(cls, *args: Any, **parameters: Any) -> NoReturn:
        """Raise an OptionError: weights, means and covariances alone tell no posterior."""
        raise OptionError(
            "the class of `from_parameters`",
            "be GaussianMixture, as a mixture tells no posterior",
            cls.__name__,
            "Give the arrays as `weights_init`, `means_init` and `precisions_init`, to start from them.",
        )

    @classmethod
    def from_sklearn(cls, mixture: Any) -> Self:
        """Return the estimator with posterior and options of a fitted sklearn.mixture.BayesianGaussianMixture.

        Its lower_bound_, a total without constants, comes as it is.

        Raises
        ------
        OptionError
            It is another class, or its arrays say no posterior.
        """
        if not isinstance(mixture, cls._sklearn_class()):
            name = type(mixture).__name__
            raise OptionError("`mixture`", "be a sklearn.mixture.BayesianGaussianMixture", f"a {name}", "Fit one.")
        check_is_fitted(mixture)
        made: Any = cls()
        known = made.get_params()
        made.set_params(**{name: value for name, value in mixture.get_params().items() if name in known})
        made.__dict__ |= attributes_of(_posterior_of(mixture)) | outcome_of(mixture)
        made.counts_ = made._parameters().counts
        found: Self = made
        return found

    @staticmethod
    def _sklearn_class() -> Any:
        from sklearn.mixture import BayesianGaussianMixture as Theirs

        return Theirs

    def _parameters(self) -> Posterior:
        """Return the posterior of the fit, which the public attributes show; an OptionError where they were set."""
        p: Posterior = self._posterior
        names = ("weights", "means", "covariances")
        if not all(np.array_equal(getattr(self, f"{name}_"), getattr(p, name)) for name in names):
            raise OptionError(
                "weights_, means_ and covariances_",
                "be those of the fit, as they alone tell no posterior",
                "others",
                "Fit again, or set them on a GaussianMixture.",
            )
        return p


def _posterior_of(theirs: Any) -> Posterior:
    """Return the posterior in scikit-learn's attributes."""
    family, (k, d) = family_of(theirs.covariance_type), np.shape(theirs.means_)
    shape = family.shape
    counts = np.maximum(np.asarray(theirs.mean_precision_, dtype=np.float64) - theirs.mean_precision_prior_, 0.0)
    prior = Variational(
        process=theirs.weight_concentration_prior_type == PROCESS,
        concentration=float(theirs.weight_concentration_prior_),
        mean_precision=float(theirs.mean_precision_prior_),
        mean=np.array(theirs.mean_prior_, dtype=np.float64),
        degrees_of_freedom=float(theirs.degrees_of_freedom_prior_),
        covariance=np.array(theirs.covariance_prior_, dtype=np.float64).reshape(shape.array_shape(1, d)),
        weight=float(counts.sum()),
    )
    covariances = check_covariances(theirs.covariances_, family, k, d)
    cholesky = np.array(theirs.precisions_cholesky_, dtype=np.float64)
    means = check_means(theirs.means_, k, d, name="means_")
    return prior.known(Parameters(family, counts / counts.sum(), means, covariances, cholesky))
