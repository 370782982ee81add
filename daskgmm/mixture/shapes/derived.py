"""What follows from covariances of a shape: those of some features, conditional ones, and what rows tell of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats


class Derived(ABC):
    """The part of a shape that passes of EM do not need."""

    @abstractmethod
    def marginal(self, covariances: Floats, kept: NDArray[np.intp]) -> Floats:
        """Return the covariances of the features `kept` alone, in their order."""

    @abstractmethod
    def conditional(
        self, covariances: Floats, kept: NDArray[np.intp], given: NDArray[np.intp]
    ) -> tuple[Floats, Floats | None]:
        """Return the covariances of the features `kept` where others are `given`, and how their means follow these.

        The latter are the slopes, (n_components, n_kept, n_given), or (1, ...) where they are common; None for zeros.
        """

    def separate(self, covariances: Floats, n_components: int) -> tuple[Any, Floats]:
        """Return the shape in which each component has a covariance of its own, and these covariances in it."""
        return self, covariances

    @abstractmethod
    def scores(self, offsets: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        """Return the derivatives of a component's log-density: by its mean, and by the free numbers of its covariance.

        For rows less its mean, (n_features, n_rows): (n_features, n_rows) and (n, n_rows). The free numbers of a matrix
        are the entries on and above the diagonal.
        """

    @abstractmethod
    def of_free(self, values: Floats, n_features: int) -> Floats:
        """Return one value for each free number of a covariance, (..., n), in the shape of covariances."""

    @abstractmethod
    def packed(self, second: Floats) -> Floats:
        """Return second moments that are matrices, (n_components, n_features, n_features), packed as those of rows."""

    @abstractmethod
    def plus(self, covariances: Floats, errors: Floats) -> Floats:
        """Return the covariances with a matrix more, (n_features, n_features), or what of it is of this shape."""

    @abstractmethod
    def less(self, covariances: Floats, errors: Floats, *, least: float) -> Floats:
        """Return V >= 0 of this shape such that rows of these covariances are the most likely under V + errors.

        Parameters
        ----------
        errors : (n_features, n_features), float64
            Positive semidefinite; what of it is of this shape counts.
        least : float
            The share of the covariances that V has at least, in every direction.

        Notes
        -----
        With C + S = G G' both are diagonal in z, x = G z: c and 1 - c there. V has 2 c - 1 where that is positive, and
        nothing where not: C of eigenvalues c / (1 - c) in units of S, below 1.
        """
