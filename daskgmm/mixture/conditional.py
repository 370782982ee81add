"""Mixtures of some of the features: marginal, and conditional on values of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import family_of_shape
from daskgmm.mixture.parameters import Parameters

Features = NDArray[np.intp]


def marginal(p: Parameters, kept: Features) -> Parameters:
    """Return the mixture of the features `kept`, their numbers in any order, alone; its components are those of `p`."""
    family = family_of_shape(p.shape)
    return Parameters.from_covariances(family, p.weights, p.means[:, kept], p.shape.marginal(p.covariances, kept))


@dataclass(frozen=True)
class Conditional:
    """What a mixture says of the features `kept` where values of the features `given` are known.

    Attributes
    ----------
    known : Parameters
        The marginal mixture of the known features: its responsibilities are the weights of the components.
    means : (n_components, n_kept), float64
        Of the features kept, where known ones are at their own means.
    slopes : (n_components, n_kept, n_given), float64, or (1, ...) where they are common, or None for zeros
        How the means follow the known features.
    covariances : float64
        Of the features kept, in the mixture's shape. They do not depend on the values.
    """

    known: Parameters
    means: Floats
    slopes: Floats | None
    covariances: Floats

    @classmethod
    def of(cls, p: Parameters, given: Features) -> Conditional:
        """Return it for the features `given`, their numbers; the others are kept, in their order."""
        kept = np.setdiff1d(np.arange(p.n_features), given)
        covariances, slopes = p.shape.conditional(p.covariances, kept, given)
        return cls(marginal(p, given), p.means[:, kept], slopes, covariances)

    def at(self, values: Floats) -> Parameters:
        """Return the mixture where the known features have these values, (n_given,)."""
        p, x = self.known, values[:, np.newaxis]
        z = p.shape.standardise_all(x, p.means, p.precisions_cholesky)
        log_norm = p.shape.log_norm(p.precisions_cholesky, p.n_components, p.n_features)
        log_density = p.log_weights + log_norm - 0.5 * np.square(z[:, :, 0]).sum(axis=1)
        weights = np.exp(log_density - np.logaddexp.reduce(log_density))
        means = self.means
        if self.slopes is not None:
            means = means + (self.slopes @ (values - p.means)[:, :, np.newaxis])[:, :, 0]
        return Parameters.from_covariances(family_of_shape(p.shape), weights / weights.sum(), means, self.covariances)
