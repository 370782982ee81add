"""The parameters of a mixture, and the checks on those that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import Family
from daskgmm.mixture.noise import N_PARAMETERS, Noise
from daskgmm.mixture.record import Record
from daskgmm.mixture.shapes.full import FULL
from daskgmm.mixture.shapes.shape import Shape


@dataclass(frozen=True)
class Parameters(Record):
    """A mixture of Gaussians. Frozen: an M-step makes a new one.

    Attributes
    ----------
    family : Family
        Of the covariances; its shape knows the next two.
    weights : (n_components,), float64
        Mixing weights; with that of the noise they sum to one.
    means : (n_components, n_features), float64
    covariances, precisions_cholesky : float64
        full (n_components, n_features, n_features); tied (n_features, n_features); diag (n_components,
        n_features); spherical (n_components,). The precision Cholesky P is upper triangular, Sigma^-1 = P P'.
    noise : Noise or None
        A uniform density beside the components.
    classes : (n_components,), int64, or None
        The class of each component, -1 for none, where labels of rows are known: only those rows see it.
    fixed : tuple of int
        How many numbers of each component a fit has left as they were, and last of those that all have in common;
        empty for none.
    """

    family: Family
    weights: Floats
    means: Floats
    covariances: Floats
    precisions_cholesky: Floats
    noise: Noise | None = None
    classes: NDArray[np.int64] | None = None
    fixed: tuple[int, ...] = ()

    @classmethod
    def from_covariances(cls, family: Family, weights: Floats, means: Floats, covariances: Floats) -> Parameters:
        """Return the mixture with these covariances; a CollapsedComponentError names a singular one."""
        return cls(family, weights, means, covariances, family.shape.precisions_cholesky(covariances))

    def subset(self, chosen: Any) -> Parameters:
        """Return the mixture of the chosen components (their numbers, or a mask), whose weights sum to one again."""
        weights, noise = self._summing_to_one(self.weights[chosen])
        covariances, cholesky = (self.shape.subset(a, chosen) for a in (self.covariances, self.precisions_cholesky))
        classes = None if self.classes is None else self.classes[chosen]
        return Parameters(self.family, weights, self.means[chosen], covariances, cholesky, noise, classes)

    def changed(self, weights: Floats, means: Floats, covariances: Floats) -> Parameters:
        """Return the mixture of other components beside the same noise, all weights divided by their sum.

        Raises
        ------
        CollapsedComponentError
            A covariance is singular.
        """
        weights, noise = self._summing_to_one(weights)
        cholesky = self.shape.precisions_cholesky(covariances)
        classes = self.classes
        if classes is not None:  # (a component more has no class)
            classes = np.append(classes, np.full(len(weights) - len(classes), -1))
        return Parameters(self.family, weights, means, covariances, cholesky, noise, classes)

    @property
    def held(self) -> NDArray[np.bool_]:
        """Components of a class, (n_components,), bool: labels hold them where they are."""
        return np.zeros(self.n_components, dtype=bool) if self.classes is None else self.classes >= 0

    @property
    def is_alone(self) -> NDArray[np.bool_]:
        """Components that are the only ones of their class, (n_components,), bool."""
        if self.classes is None:
            return np.zeros(self.n_components, dtype=bool)
        alone: NDArray[np.bool_] = (self.classes[:, np.newaxis] == self.classes).sum(axis=1) == 1
        return alone & self.held

    def beside_noise(self, noise: Noise | None) -> Parameters:
        """Return the mixture, which has no noise, with its weights times what the weight of the noise leaves."""
        if noise is None:
            return self
        return replace(self, weights=self.weights * (1.0 - noise.weight), noise=noise)

    def with_more_noise(self, weight: float) -> Parameters:
        """Return it with a weight added to that of the noise; its weights then sum to one no more."""
        if self.noise is None or weight == 0:
            return self
        return replace(self, noise=self.noise.with_weight(max(self.noise.weight + weight, 0.0)))

    @property
    def of_components(self) -> Parameters:
        """The mixture without its noise, of weights that sum to one; itself where it has none."""
        return self if self.noise is None else replace(self, weights=self.weights / self.weights.sum(), noise=None)

    @property
    def centre(self) -> Floats:
        """Mean of the components, (n_features,), float64."""
        centre: Floats = self.of_components.weights @ self.means
        return centre

    def _summing_to_one(self, weights: Floats) -> tuple[Floats, Noise | None]:
        if self.noise is None:
            return weights / weights.sum(), None
        total = weights.sum() + self.noise.weight
        return weights / total, self.noise.with_weight(self.noise.weight / total)

    def tempered(self, power: float) -> Parameters:
        """Return a mixture of which the responsibilities are those of this one to a power, divided by their sums.

        Log-densities times the power are, up to a constant, those of covariances divided by it and other weights. (Ueda
        and Nakano 1998, doi:10.1016/S0893-6080(97)00133-0.)
        """
        if power == 1.0:
            return self
        shape, n = self.shape, self.n_components
        cholesky = self.precisions_cholesky * np.sqrt(power)
        before, after = (shape.log_norm(p, n, self.n_features) for p in (self.precisions_cholesky, cholesky))
        log_weights = power * (self.log_weights + before) - after
        weights = np.exp(np.maximum(log_weights - log_weights.max(), -700.0))  # (none underflows)
        if self.noise is None:
            weights = weights / weights.sum()
            return replace(self, weights=weights, covariances=self.covariances / power, precisions_cholesky=cholesky)
        of_noise = power * self.noise.log_term + self.noise.log_volume - log_weights.max()
        noise = self.noise.with_weight(np.exp(np.clip(of_noise, -700.0, 700.0)))
        tempered = Parameters(self.family, weights, self.means, self.covariances / power, cholesky, noise, self.classes)
        return tempered.subset(slice(None))

    @property
    def shares(self) -> Parameters:
        """The mixture whose weights are shares of the rows: itself. It has coordinates, in which SQUAREM leaps."""
        return self

    def like(self, shares: Parameters) -> Parameters:
        """Return what such a mixture tells, of the same kind as this one."""
        return shares

    @property
    def attributes(self) -> dict[str, Any]:
        """What an estimator has of it beside weights, means, covariances and precisions, by scikit-learn's names."""
        return {}

    def as_json(self) -> dict[str, Any]:
        """Return what a person may want to see of it beside weights, means and covariances, as JSON values."""
        return {}

    @property
    def shape(self) -> Shape:
        """The shape of the family."""
        return self.family.shape

    @property
    def n_components(self) -> int:
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.means.shape[1])

    @property
    def n_free(self) -> int:
        """Number of free parameters: weights, means, covariances, weight and volume of noise, less what is fixed."""
        n_components, n_features = self.n_components, self.n_features
        n_all = n_components - 1 + n_components * n_features + self.family.n_parameters(n_components, n_features)
        return n_all + (0 if self.noise is None else N_PARAMETERS) - sum(self.fixed)

    @property
    def n_own(self) -> Floats:
        """Free parameters of each component alone, (n_components,), float64."""
        n_own = np.full(self.n_components, float(self.family.n_own(self.n_features)))
        return n_own - np.array(self.fixed[:-1]) if self.fixed else n_own

    @property
    def has_fixed(self) -> NDArray[np.bool_]:
        """Whether anything of each component is fixed, (n_components,), bool."""
        return np.array(self.fixed[:-1], dtype=bool) if self.fixed else np.zeros(self.n_components, dtype=bool)

    @cached_property
    def precisions(self) -> Floats:
        """The precisions P P', in the shape of the covariances."""
        return self.shape.precisions(self.precisions_cholesky)

    @cached_property
    def deviations(self) -> Floats:
        """Standard deviation of each feature, broadcastable to (n_components, n_features)."""
        return np.sqrt(self.shape.variances(self.covariances))

    @cached_property
    def log_weights(self) -> Floats:
        """Logarithm of the mixing weights, (n_components,), float64; minus infinity for a weight of zero."""
        with np.errstate(divide="ignore"):
            return np.log(self.weights)


def parameters_of(
    family: Family, weights: Any, means: Any, *, covariances: Any = None, precisions_cholesky: Any = None
) -> Parameters:
    """Return the mixture of arrays that a user may have set; an OptionError says what is wrong with their shapes.

    Densities come of the precision Cholesky, where both are given, and samples of the covariances (as scikit-learn's).
    """
    given = np.shape(means)
    if len(given) != 2:
        raise OptionError("`means_`", "have shape (n_components, n_features)", given, "Set a row a component.")
    if covariances is None and precisions_cholesky is None:
        raise OptionError("`covariances_` or `precisions_cholesky_`", "be set beside `means_`", "neither", "Set one.")
    (k, d), shape = given, family.shape
    weights, means = array_of(weights, "weights_", (k,)), array_of(means, "means_", given)
    if covariances is not None:
        covariances = array_of(covariances, "covariances_", shape.array_shape(k, d))
    if precisions_cholesky is None:
        precisions_cholesky = shape.precisions_cholesky(covariances)
    precisions_cholesky = array_of(precisions_cholesky, "precisions_cholesky_", shape.array_shape(k, d))
    if covariances is None:
        covariances = shape.covariances(precisions_cholesky)
    return Parameters(family, weights, means, covariances, precisions_cholesky)


def check_weights(weights: Any, n_components: int, *, name: str = "weights_init", beside: float = 0.0) -> Floats:
    """Return given mixing weights as (n_components,) float64; an OptionError says what is wrong with them.

    `beside` is the weight of the noise, which they leave.
    """
    result = array_of(weights, name, (n_components,))
    if (result < 0).any() or (result > 1).any():
        raise OptionError(
            f"`{name}`",
            "lie between 0 and 1",
            f"{result.min():.6g} to {result.max():.6g}",
            "Divide the weights by their sum."
            if result.min() >= 0
            else "A weight is the share of a component in the rows.",
        )
    if beside and not np.isclose(result.sum(), 1.0 - beside, rtol=0, atol=1e-6):
        raise OptionError(
            f"`{name}`",
            f"sum to {1 - beside:.6g}, beside a `noise_weight_init` of {beside:.6g}",
            f"{result.sum():.10g}",
            f"Divide the weights by their sum, and multiply them by {1 - beside:.6g}.",
        )
    if not beside and not np.isclose(result.sum(), 1.0, rtol=0, atol=1e-6):
        raise OptionError(f"`{name}`", "sum to 1", f"{result.sum():.10g}", "Divide the weights by their sum.")
    return result


def check_means(means: Any, n_components: int, n_features: int, *, name: str = "means_init") -> Floats:
    """Return given means as (n_components, n_features) float64; an OptionError says what is wrong with them."""
    return array_of(means, name, (n_components, n_features))


def check_precisions(
    precisions: Any, family: Family, n_components: int, n_features: int, *, name: str = "precisions_init"
) -> Floats:
    """Return given precisions in the shape of `family`, float64; an OptionError says what is wrong with them."""
    shape = family.shape
    result = array_of(precisions, name, shape.array_shape(n_components, n_features))
    shape.check_definite(result, name)
    _check_family(shape.covariances(shape.cholesky_of_precisions(result)), family, n_components, name)
    return result


def check_start(
    precisions: Any, family: Family, n_components: int, n_features: int, *, weights: Floats | None = None
) -> Floats:
    """Return the precisions of a given start in the shape of `family`, float64; an OptionError says what is wrong.

    A family that takes any start has those of (n_components, n_features, n_features) too, whatever its own shape.
    """
    name, dense = "precisions_init", (n_components, n_features, n_features)
    if not family.takes_any_start:
        return check_precisions(precisions, family, n_components, n_features)
    if np.shape(precisions) == family.shape.array_shape(n_components, n_features) != dense:
        result = array_of(precisions, name, np.shape(precisions))
        family.shape.check_definite(result, name)
        return result
    result = array_of(precisions, name, dense)
    FULL.check_definite(result, name)
    share = np.full(n_components, 1 / n_components) if weights is None else weights
    covariances = family.shape.from_matrices(FULL.covariances(FULL.cholesky_of_precisions(result)), share)
    return family.shape.precisions(family.shape.precisions_cholesky(covariances))


def check_covariances(covariances: Any, family: Family, n_components: int, n_features: int) -> Floats:
    """Return given covariances in the shape of `family`, float64; an OptionError says what is wrong with them."""
    result = array_of(covariances, "covariances", family.shape.array_shape(n_components, n_features))
    family.shape.check_definite(result, "covariances")
    _check_family(result, family, n_components, "covariances")
    return result


def _check_family(covariances: Floats, family: Family, n_components: int, name: str) -> None:
    """Raise an OptionError for covariances, or those of precisions, that are none of a family's."""
    if not family.has(covariances, n_components):
        raise OptionError(
            f"`{name}`",
            f"be {'' if name == 'covariances' else 'the precisions of '}{family.name} covariances",
            "others",
            "Leave it out, or take those of a fit with this `covariance_type`.",
        )


def array_of(values: Any, name: str, shape: tuple[int, ...]) -> Floats:
    """Return what a user gave as float64 of this shape; an OptionError says what is wrong with it."""
    try:
        result = np.array(values).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"`{name}`", "be an array of real numbers", type(values).__name__, "Give numbers alone."
        ) from error
    if result.shape != shape:
        raise OptionError(
            f"`{name}`",
            f"have shape {shape}",
            result.shape,
            "The shape follows `n_components`, the number of features and `covariance_type`.",
        )
    if not np.isfinite(result).all():
        raise OptionError(
            f"`{name}`", "be finite", f"{np.count_nonzero(~np.isfinite(result))} NaN or infinite values", "Give others."
        )
    return result
