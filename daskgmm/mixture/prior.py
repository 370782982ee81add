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
from numbers import Real
from typing import Any

import numpy as np

from daskgmm.errors import OptionError, verbatim
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import Family
from daskgmm.mixture.moments import SMALLEST_COUNT, Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.shapes.shape import Shape


class Prior(Record, ABC):
    """A prior on the parameters of a mixture: a frozen dataclass of numbers, texts, tuples and arrays."""

    @abstractmethod
    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        """Return the moments that an M-step works on: those of the rows, and what the prior adds to them.

        Parameters
        ----------
        rows : Moments
            Of the components' rows; counts are sums of their weights. To be returned with other arrays of the same
            shapes: `dataclasses.replace(rows, means=...)`.
        shape : Shape
            How `rows.central` and `previous` are packed. `shape.shifted` gives central moments about other means.
        previous : float64, in this shape
            The covariances that went into the E-step; at a start, those of all rows.
        """

    def log_density(self, parameters: Parameters) -> float:
        """Return the logarithm of the prior's density, nats, up to a constant. EM raises log-likelihood plus this.

        It stands beside the log-likelihood of all rows, which counts each as often as its weight says.

        Accelerated EM compares sums of both, so a density that does not belong to `moments` makes its leaps fail.
        """
        return 0.0

    def scaled(self, share: float) -> Prior:
        """Return the prior for a sample, so many of all rows: it must weigh as much against them as against all."""
        return self

    def posterior(self, rows: Moments, family: Family) -> Parameters | None:
        """Return what these moments and the prior tell of a mixture; None where that is its most likely parameters."""
        return None

    def kept(self, parameters: Parameters) -> Parameters:
        """Return a mixture, of a start or a leap, brought back to what the prior allows; here that is any."""
        return parameters

    @property
    def floor(self) -> float:
        """The variance that every component has in every direction from the prior alone, in squared units."""
        return 0.0

    @property
    def least_covariance(self) -> Floats | float:
        """The same as `floor`; or as a covariance of one component, in its shape, where directions differ."""
        return self.floor


@dataclass(frozen=True)
class OfUser(Prior):
    """A prior of the user's: it gets counts as sums of row weights, and what it returns is looked at."""

    prior: Prior

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        weighed = replace(rows, counts=rows.counts * rows.mean_weight)
        found: Any = self.prior.moments(weighed, shape, previous)
        if not isinstance(found, Moments):
            raise self._wrong("moments", "be Moments", type(found).__name__)
        for name in ("counts", "means", "central"):
            was, now = getattr(rows, name), np.asarray(getattr(found, name))
            if now.shape != was.shape or (np.isfinite(was).all() and not np.isfinite(now).all()):
                raise self._wrong(
                    "moments", f"have finite {name} of shape {was.shape}", f"{' '.join(str(now).split()):.60}"
                )
        return replace(found, counts=found.counts / rows.mean_weight)

    def log_density(self, parameters: Parameters) -> float:
        found: Any = self.prior.log_density(parameters)
        if not isinstance(found, Real):
            raise self._wrong("log_density", "be a number", f"{found!r:.60}")
        return float(found)

    def scaled(self, share: float) -> OfUser:
        found: Any = self.prior.scaled(share)
        if not isinstance(found, Prior):
            raise self._wrong("scaled", "be a Prior", type(found).__name__)
        return OfUser(found)

    @property
    def floor(self) -> float:
        return self.prior.floor

    def _wrong(self, method: str, must: str, got: str) -> OptionError:
        name = f"{type(self.prior).__name__}.{method}"
        return OptionError(f"what {verbatim(name)} returns", must, got, f"Correct {verbatim(name)}.")


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

    def posterior(self, rows: Moments, family: Family) -> Parameters | None:
        found = (prior.posterior(rows, family) for prior in self.priors)
        return next((p for p in found if p is not None), None)

    def kept(self, parameters: Parameters) -> Parameters:
        for prior in reversed(self.priors):  # (what is fixed stays so, below a floor too)
            parameters = prior.kept(parameters)
        return parameters

    @property
    def floor(self) -> float:
        return sum(prior.floor for prior in self.priors)

    @property
    def least_covariance(self) -> Floats | float:
        return sum((prior.least_covariance for prior in self.priors), start=0.0)


def maximise(rows: Moments, family: Family, *, previous: Floats, prior: Prior) -> Parameters:
    """Return the parameters that these moments and the prior give.

    Components without rows, to which the prior gives none either, keep the covariances `previous`.
    """
    found = prior.moments(rows, family.shape, previous)
    posterior = prior.posterior(found, family)
    if posterior is not None:
        return posterior
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
        covariances = family.with_empty(empty, covariances, previous)
    return prior.kept(Parameters.from_covariances(family, found.counts / found.counts.sum(), found.means, covariances))
