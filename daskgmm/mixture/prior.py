"""Priors: what an M-step knows beside the rows, and what that adds to the objective; and the M-step under them.

To add a prior, derive a frozen dataclass from `Prior`, and give an object of it to `GaussianMixture(prior=...)`:

    @dataclass(frozen=True)
    class MoreRows(daskgmm.Prior):  # each component has had so many rows more (a Dirichlet prior on the weights)
        n_rows: float

        def moments(self, rows, shape, previous):
            return replace(rows, counts=rows.counts + self.n_rows)

        def log_density(self, parameters):
            return self.n_rows * np.log(parameters.weights).sum()

        def scaled(self, share):
            return MoreRows(share * self.n_rows)

It is needed nowhere but where the fit runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from daskgmm.errors import OptionError, verbatim
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import Family
from daskgmm.mixture.moments import SMALLEST_COUNT, Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.shapes.shape import Shape


class Prior(Record, ABC):
    """A prior on the parameters of a mixture. Subclasses are frozen dataclasses of numbers, tuples and arrays."""

    @abstractmethod
    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        """Return the moments that an M-step works on: those of the rows, and what the prior adds to them.

        Parameters
        ----------
        rows : Moments
            Of the components' rows.
        shape : Shape
            How `rows.central` and `previous` are packed. `shape.shifted` gives central moments about other means.
        previous : float64, in this shape
            The covariances that went into the E-step; at a start, those of all rows.
        """

    def log_density(self, parameters: Parameters) -> float:
        """Return the logarithm of the prior's density, nats, up to a constant. EM raises log-likelihood plus this.

        Accelerated EM compares sums of both, so a density that does not belong to `moments` makes its leaps fail.
        """
        return 0.0

    def scaled(self, share: float) -> Prior:
        """Return the prior for a sample, so many of all rows: it must weigh as much against them as against all."""
        return self

    @property
    def floor(self) -> float:
        """The variance that every component has in every direction from the prior alone, in squared units."""
        return 0.0


@dataclass(frozen=True)
class Ridge(Prior):
    """`amount` more in every variance, in squared units: scikit-learn's reg_covar.

    It has no density: what it maximises depends on the responsibilities, and EM with it is no ascent.
    """

    amount: float

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        return replace(rows, central=shape.regularise(rows.central, self.amount))

    @property
    def floor(self) -> float:
        return self.amount


@dataclass(frozen=True)
class Shrinkage(Prior):
    """`n_rows` more rows of the covariance within all components for each of them; for starts on few rows."""

    n_rows: float

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        return replace(rows, central=shape.shrink(rows.counts, rows.central, self.n_rows))


@dataclass(frozen=True)
class Together(Prior):
    """Several priors, one after the other."""

    priors: tuple[Prior, ...]

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        for prior in self.priors:
            rows = prior.moments(rows, shape, previous)
        return rows

    def log_density(self, parameters: Parameters) -> float:
        return sum(prior.log_density(parameters) for prior in self.priors)

    def scaled(self, share: float) -> Prior:
        return Together(tuple(prior.scaled(share) for prior in self.priors))

    @property
    def floor(self) -> float:
        return sum(prior.floor for prior in self.priors)


def maximise(rows: Moments, family: Family, *, previous: Floats, prior: Prior) -> Parameters:
    """Return the parameters that these moments and the prior give.

    Components without rows, to which the prior gives none either, keep the covariances `previous`.
    """
    found = prior.moments(rows, family.shape, previous)
    covariances = family.maximise(found.counts, found.central, previous)
    n_bad = np.size(covariances) - np.count_nonzero(np.isfinite(covariances))
    if np.shape(covariances) != found.central.shape or (n_bad and np.isfinite(found.central).all()):
        raise OptionError(
            "what `maximise` of a family returns",
            f"be finite, of shape {found.central.shape}",
            f"shape {np.shape(covariances)}, {n_bad} numbers not finite",
            f"Correct {verbatim(type(family).__name__)}.maximise.",
        )
    empty = found.counts < 2 * SMALLEST_COUNT
    if empty.any():
        covariances = family.shape.chosen(~empty, covariances, previous)
    return Parameters.from_covariances(family, found.counts / found.counts.sum(), found.means, covariances)
