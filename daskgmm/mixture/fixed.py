"""Parameters that a fit leaves as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Fixed(Record):
    """Weights, means and covariances of some components, which no M-step changes.

    Attributes
    ----------
    values : Parameters
        A mixture that has them.
    weights, means, covariances : (n_components,), bool
        Whose. Of a common covariance all or none.
    """

    values: Parameters
    weights: Mask
    means: Mask
    covariances: Mask

    def put(self, parameters: Parameters) -> Parameters:
        """Return a mixture with what is fixed put in its place, to the bit; other weights share what is left."""
        p, values, shape = parameters, self.values, parameters.shape
        covariances, cholesky = p.covariances, p.precisions_cholesky
        if self.covariances.all():
            covariances, cholesky = values.covariances, values.precisions_cholesky
        elif self.covariances.any():
            free = ~self.covariances
            covariances = shape.chosen(free, covariances, values.covariances)
            cholesky = shape.chosen(free, cholesky, values.precisions_cholesky)
        return replace(
            p,
            weights=self._shared(p.weights),
            means=np.where(self.means[:, np.newaxis], values.means, p.means),
            covariances=covariances,
            precisions_cholesky=cholesky,
            fixed=self.numbers,
        )

    def _shared(self, weights: Floats) -> Floats:
        if self.weights.all() or not self.weights.any():
            return self.values.weights if self.weights.any() else weights
        left = max(1.0 - float(self.values.weights[self.weights].sum()), 0.0)
        free = weights * (left / weights[~self.weights].sum())
        return np.where(self.weights, self.values.weights, free)

    @property
    def numbers(self) -> tuple[int, ...]:
        """How many numbers of each component are fixed; and last of those that are common to all."""
        p = self.values
        own = p.family.n_own(p.n_features) - 1 - p.n_features
        common = p.family.n_parameters(1, p.n_features) - own
        found = self.weights * 1 + self.means * p.n_features + self.covariances * own
        # (Weights sum to one: the last one is not free, and not counted among the free.)
        return (*(int(n) for n in found), bool(self.covariances.all()) * common - bool(self.weights.all()))
