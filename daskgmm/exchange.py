"""Mixtures from plain arrays and from scikit-learn, and to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from daskgmm.errors import OptionError
from daskgmm.inputs import random_numbers
from daskgmm.mixture.family import Family, family_of
from daskgmm.mixture.noise import Noise, refuse_noise
from daskgmm.mixture.parameters import Parameters, check_covariances, check_means, check_precisions, check_weights

#: What a fit leaves beside the parameters, in scikit-learn's names.
_OF_A_FIT = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "feature_names_in_")


class Convertible:
    """Makes an estimator of arrays, or of scikit-learn's mixture, and the latter of it."""

    @classmethod
    def from_parameters(
        cls,
        weights: Any,
        means: Any,
        covariances: Any = None,
        *,
        precisions: Any = None,
        covariance_type: Any = "full",
        feature_names: Sequence[str] | None = None,
        **parameters: Any,
    ) -> Self:
        """Return an estimator that predicts by a known mixture.

        Parameters
        ----------
        weights : (n_components,)
            Not negative, with a sum of 1; less where `noise` is a volume, which has the rest of it as its weight.
        means : (n_components, n_features)
        covariances, precisions : array
            One of them, in the shape of `covariances_`: symmetric and positive definite.
        covariance_type : {"full", "tied", "diag", "spherical"} or Family, default="full"
        feature_names : sequence of str, optional
            Names of the columns.
        **parameters
            Of the estimator. To go on fitting from a known mixture, give its arrays as `weights_init`, `means_init` and
            `precisions_init` instead.

        Raises
        ------
        OptionError
            An array says no mixture.
        """
        factors = (parameters.get("n_factors"), parameters.get("factor_noise", "isotropic"))
        family, volume = family_of(covariance_type, *factors), parameters.get("noise", False)
        p = _parameters_from(weights, means, covariances, precisions, family, volume)
        names = _checked_names(feature_names, p.n_features)
        made = cls()
        made.set_params(n_components=p.n_components, covariance_type=covariance_type, **parameters)  # type: ignore[attr-defined]
        made.__dict__ |= attributes_of(p)
        if names is not None:
            made.__dict__["feature_names_in_"] = names
        return made

    @classmethod
    def from_sklearn(cls, mixture: Any) -> Self:
        """Return the estimator with parameters, options and outcome of a fitted sklearn.mixture.GaussianMixture.

        Raises
        ------
        OptionError
            It is another class, or its arrays say no mixture.
        """
        from sklearn.mixture import GaussianMixture

        if not isinstance(mixture, GaussianMixture):
            name = type(mixture).__name__
            hint = "Give its arrays to `from_parameters`."
            if name == "BayesianGaussianMixture":
                hint += " (Its responsibilities are not those of its means.)"
            raise OptionError("`mixture`", "be a sklearn.mixture.GaussianMixture", f"a {name}", hint)
        check_is_fitted(mixture)
        family, (k, d) = family_of(mixture.covariance_type), np.shape(mixture.means_)
        cholesky = np.array(mixture.precisions_cholesky_, dtype=np.float64)  # (gives the densities, to the same bits)
        p = Parameters(
            family,
            check_weights(mixture.weights_, k, name="weights_"),
            check_means(mixture.means_, k, d, name="means_"),
            check_covariances(mixture.covariances_, family, k, d),
            cholesky,
        )
        made = cls()
        known = made.get_params()  # type: ignore[attr-defined]
        made.set_params(**{name: value for name, value in mixture.get_params().items() if name in known})  # type: ignore[attr-defined]
        made.__dict__ |= attributes_of(p) | outcome_of(mixture)
        return made

    def to_sklearn(self) -> Any:
        """Return a fitted sklearn.mixture.GaussianMixture with the same parameters (for skl2onnx, skops and others)."""
        check_is_fitted(self, "means_")
        p, made = self._parameters(), self._sklearn_class()()
        refuse_noise(p.noise, "which scikit-learn's cannot have")
        known = made.get_params()
        made.set_params(**{name: value for name, value in self.get_params().items() if name in known})  # type: ignore[attr-defined]
        if isinstance(made.random_state, np.random.Generator):  # (which scikit-learn does not take)
            made.set_params(random_state=random_numbers(made.random_state))
        made.set_params(n_components=p.n_components, covariance_type=p.shape.sklearn_type)
        made.__dict__ |= {name: value for name, value in attributes_of(p).items() if name not in _NOT_SKLEARNS}
        made.__dict__ |= outcome_of(self)
        return made

    @staticmethod
    def _sklearn_class() -> Any:
        from sklearn.mixture import GaussianMixture

        return GaussianMixture

    @abstractmethod
    def _parameters(self) -> Parameters: ...


def attributes_of(p: Parameters) -> dict[str, Any]:
    """Return what an estimator has of a mixture: scikit-learn's names, and the family."""
    return {
        "weights_": p.weights,
        "means_": p.means,
        "covariances_": p.covariances,
        "precisions_": p.precisions,
        "precisions_cholesky_": p.precisions_cholesky,
        "n_features_in_": p.n_features,
        "noise_weight_": 0.0 if p.noise is None else p.noise.weight,
        "_noise": p.noise,
        "_family": p.family,
        "_fixed": p.fixed,
        **p.attributes,
    }


#: What an estimator has of a mixture that scikit-learn's has not.
_NOT_SKLEARNS = ("noise_weight_", "_noise", "_family", "_fixed", "_posterior")


def outcome_of(estimator: Any) -> dict[str, Any]:
    """Return what an estimator, or scikit-learn's, says of its fit."""
    return {name: getattr(estimator, name) for name in _OF_A_FIT if hasattr(estimator, name)}


def _parameters_from(
    weights: Any, means: Any, covariances: Any, precisions: Any, family: Family, volume: Any
) -> Parameters:
    given, noise = np.shape(means), _noise_of(weights, volume)
    if len(given) != 2 or 0 in given:
        raise OptionError("`means`", "have shape (n_components, n_features)", given, "Give a row a component.")
    if (covariances is None) == (precisions is None):
        got = "neither" if precisions is None else "both"
        raise OptionError("one of `covariances` and `precisions`", "be given", got, "Give one of them.")
    (k, d), shape = given, family.shape
    family.check(d)
    beside = 0.0 if noise is None else noise.weight
    weights, means = check_weights(weights, k, name="weights", beside=beside), check_means(means, k, d, name="means")
    if precisions is None:
        covariances = check_covariances(covariances, family, k, d)
        return Parameters(family, weights, means, covariances, shape.precisions_cholesky(covariances), noise)
    cholesky = shape.cholesky_of_precisions(check_precisions(precisions, family, k, d, name="precisions"))
    return Parameters(family, weights, means, shape.covariances(cholesky), cholesky, noise)


def _noise_of(weights: Any, volume: Any) -> Noise | None:
    """Return noise over a volume, of the weight that those of components leave; None without."""
    if volume is False:
        return None
    if isinstance(volume, bool) or not isinstance(volume, Real) or not 0 < float(volume) < np.inf:
        raise OptionError("`noise`", "be False or a positive volume, as there are no rows", repr(volume), "Give one.")
    return Noise(max(0.0, 1.0 - float(np.sum(weights))), float(np.log(float(volume))))


def _checked_names(names: Sequence[str] | None, n_features: int) -> np.ndarray[Any, Any] | None:
    """Return names of features as an estimator has them; an OptionError unless each feature has one of its own."""
    if names is None:
        return None
    found = list(names)
    if len(found) != n_features or not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
        must = f"be {n_features} texts, none of them twice"
        raise OptionError("`feature_names`", must, repr(found)[:80], "Give one for each column of `means`.")
    return np.array(found, dtype=object)
