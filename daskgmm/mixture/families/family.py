"""What a family of covariances is: the class to derive from. `daskgmm.mixture.family` has those that are known."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import Shape


class Family(ABC):
    """A family of covariances: those of a shape that an M-step may give. Its objects never change.

    Attributes
    ----------
    name : str
        The covariance_type that asks for it, and that a model file and a checkpoint hold.
    shape : Shape
        Their form: FULL, POOLED, DIAGONAL or SPHERICAL, in the files of `daskgmm.mixture.shapes` by these names.
    """

    name: str
    shape: Shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # (as an estimator shows its parameters)

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free parameters in the covariances."""

    def n_own(self, n_features: int) -> int:
        """Return the number of free parameters of one component alone: its weight, mean and own covariance."""
        return 1 + n_features + self.n_parameters(2, n_features) - self.n_parameters(1, n_features)

    def least_rows(self, n_features: int) -> int:
        """Return the number of rows below which a component is about these rows alone, whatever they gain."""
        return self.shape.least_rows(n_features)

    def check(self, n_features: int) -> None:
        """Raise an OptionError where there is no such family of covariances of so many features."""
        return None

    #: Whether a given start may be the precisions (n_components, n_features, n_features) of any covariances: the first
    #: M-step makes members of them. Else it has the family's own shape, and is a member.
    takes_any_start: bool = False

    #: Whether components have a shape in common, and volumes of their own: one of rows that are alike then has
    #: variances on both sides of the floor.
    shares_shape: bool = False

    def maximise(self, counts: Floats, central: Floats, previous: Floats) -> Floats:
        """Return the covariances of the family under which rows of these moments are the most likely: the M-step.

        Without a definition of its own a family has all covariances of its shape, whose maximum the moments are.

        Parameters
        ----------
        counts : (n_components,), float64
            Rows of each component, or their share in all rows.
        central : float64
            Covariances of the components' rows, regularised: of FULL (n_components, n_features, n_features), of POOLED
            one for all of them, (n_features, n_features), of DIAGONAL (n_components, n_features), and of SPHERICAL
            (n_components,).
        previous : float64, of the same shape
            The covariances that went into the E-step; at a start, those of all rows, the same for each component.
            What is returned, of that shape, too, must be at least as likely as these, or EM is no ascent.
        """
        return central

    def has(self, covariances: Floats, n_components: int) -> bool:
        """Return whether covariances of the shape are members, but for rounding."""
        nearest = self.maximise(np.ones(n_components), covariances, covariances)
        rounding = 1e-9 * float(np.nanmax(np.abs(covariances)))
        return bool(np.allclose(nearest, covariances, rtol=1e-6, atol=rounding, equal_nan=True))

    def alone(self, counts: Floats, central: Floats, previous: Floats) -> Floats:
        """Return what `maximise` does, for components that are no mixture together: each is judged by itself."""
        return self.maximise(counts, central, previous)

    def together(self, weights: Floats, covariances: Floats) -> Floats:
        """Return covariances that come from several mixtures as members; each stays where they have nothing in common.

        Parameters
        ----------
        weights : (n_components,), float64
        covariances : float64, of the shape
            Of components that were split, merged or left.
        """
        return covariances

    def with_empty(self, empty: NDArray[np.bool_], covariances: Floats, previous: Floats) -> Floats:
        """Return what `maximise` gave with the covariances of components without rows, in `empty`, as they were."""
        return self.shape.chosen(~empty, covariances, previous)

    @property
    def is_whole(self) -> bool:
        """Whether it has all covariances of its shape."""
        return type(self).maximise is Family.maximise

    @property
    def is_common(self) -> bool:
        """Whether all components have one covariance."""
        return len(self.shape.row_sums(np.ones(2))) == 1

    @property
    def rescales(self) -> bool:
        """Whether each member stays one where each feature gets a unit of its own, as `standardize` gives it."""
        return self.shape.rescales and self.is_whole

    def nearest(self, weights: Floats, covariances: Floats, previous: Floats) -> Floats | None:
        """Return the member that covariances to which a leap led become, by `maximise`; None where they are one.

        A family with coordinates of its own is never left by a leap.
        """
        own = type(self)
        if own.maximise is Family.maximise or own.from_relative is not Family.from_relative:
            return None
        return own.maximise(self, weights, covariances, previous)

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        """Return the coordinates in which SQUAREM leaps, (n_components, n), any n: see `Shape.relative`.

        A leap goes along a line in them. Where a family has none of its own, what such a line leads to is brought back
        to it (`nearest`); in coordinates of its own, of which each is a member, fewer leaps may be lost.

        Parameters
        ----------
        base, precisions_cholesky : float64
            Precision Cholesky P, upper triangular, with inverse covariance P P', in the shape of covariances.
        """
        return self.shape.relative(base, precisions_cholesky, n_features)

    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        """Return the precision Cholesky that has these coordinates about `base`; a LinAlgError where they overflow."""
        return self.shape.from_relative(base, relative, n_features)
