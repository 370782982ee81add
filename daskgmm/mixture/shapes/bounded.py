"""Covariances under a prior, and above a floor: what a shape of them must offer for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats


class Bounded(ABC):
    """The part of a shape that priors and floors see."""

    def wishart(self, n_features: int) -> tuple[int, int]:
        """Return the order of the inverse Wishart that each number, or matrix, of a covariance has as its prior.

        And of how many features it is the variance: each row is so many draws for it.
        """
        return n_features, 1

    def row_sums(self, counts: Floats) -> Floats:
        """Return the rows of which each covariance is, (n_covariances,), from those of the components."""
        return counts

    def times(self, factors: Floats, covariances: Floats) -> Floats:
        """Return the covariances times a factor each, (n_covariances,)."""
        result: Floats = along(factors, covariances) * covariances
        return result

    @abstractmethod
    def floored(self, covariances: Floats, least: Floats) -> Floats:
        """Return the covariances above a floor under which rows of these are the most likely.

        Each maximises -log|S| - tr(S^-1 C) over all S with S - least positive semidefinite: C where that is one. (With
        z in units of the floor, as x = G z and least = G G', the eigenvalues below 1 of C become 1.)

        Parameters
        ----------
        least : float64, of `array_shape` for one component
        """

    @abstractmethod
    def in_units_of(self, least: Floats, covariances: Floats, means: Floats) -> tuple[Floats, Floats]:
        """Return covariances and means in coordinates in which a floor is the unit matrix."""


def along(values: NDArray[Any], covariances: Floats) -> NDArray[Any]:
    """Return a value of each component as it multiplies, or chooses, the components' covariances."""
    return values.reshape(-1, *[1] * (covariances.ndim - 1))
