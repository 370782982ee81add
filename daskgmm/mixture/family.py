"""Families of covariances: which ones an M-step may give, how many numbers they have, and how SQUAREM leaps in them.

A shape (`shapes/`) says how second moments are packed and computed; many families share one. To add a family, derive
from `Family`, and give an object of the class to `register_family`, or to `covariance_type` itself:

    from daskgmm.mixture.shapes.diagonal import DIAGONAL

    class Floor(daskgmm.Family):  # variances of at least 1
        name, shape = "floor", DIAGONAL

        def n_parameters(self, n_components, n_features):
            return n_components * n_features

        def maximise(self, counts, central, previous):
            return np.maximum(central, 1.0)

Only shapes travel to workers: a family is needed nowhere but where the fit runs.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import numpy as np

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.diagonal import DIAGONAL
from daskgmm.mixture.shapes.full import FULL
from daskgmm.mixture.shapes.pooled import POOLED
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.mixture.shapes.spherical import SPHERICAL


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


class Full(Family):
    """Each component has its own covariance matrix."""

    name, shape = "full", FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2


class Tied(Family):
    """All components share one covariance matrix."""

    name, shape = "tied", POOLED

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2


class Diagonal(Family):
    """Each component has its own variance for each feature."""

    name, shape = "diag", DIAGONAL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features


class Spherical(Family):
    """Each component has one variance, the same for all features."""

    name, shape = "spherical", SPHERICAL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components


_FAMILIES: dict[str, Family] = {family.name: family for family in (Full(), Tied(), Diagonal(), Spherical())}
_OWN = tuple(_FAMILIES)


def register_family(family: Family) -> None:
    """Make a family known by its name: to `covariance_type`, `--covariance`, model files and checkpoints.

    In this process only, where the fit begins: not in the command `daskgmm`, which imports nothing of yours. A family
    that was registered under the name before is replaced.

    Parameters
    ----------
    family : Family
        An object of a class that derives from `daskgmm.Family`.
    """
    if not isinstance(family, Family):
        raise OptionError("family", "be an object of a class derived from daskgmm.Family", repr(family))
    if not (isinstance(getattr(family, "name", None), str) and isinstance(getattr(family, "shape", None), Shape)):
        raise OptionError("a family", "have a name and a shape", repr(family), "Set name, a text, and shape, a Shape.")
    name = family.name
    if not re.fullmatch(r"[\w.-]+", name):
        raise OptionError("name of a family", "be letters, digits, '.', '-' and '_'", repr(name))
    if name in _OWN and _FAMILIES[name] is not family:
        raise OptionError("name of a family", "not be that of one of daskgmm's own", repr(name), "Choose another.")
    _FAMILIES[name] = family


def family_names() -> tuple[str, ...]:
    """Return the names of all families that are known here."""
    return tuple(_FAMILIES)


def family_called(name: str) -> Family:
    """Return the family of this name; an OptionError where none is registered."""
    family = _FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise OptionError(
            "`covariance_type`",
            f"be one of {', '.join(_FAMILIES)}",
            repr(name),
            "Register another family first: daskgmm.register_family. Or give an object of it.",
        )
    return family


def family_of_shape(shape: Shape) -> Family:
    """Return the family that has all covariances of a shape."""
    return next(family for family in _FAMILIES.values() if family.shape == shape and family.name in _OWN)


def family_of(covariance_type: str | Family) -> Family:
    """Return the family that a covariance_type asks for; one that is given itself is registered by that."""
    if isinstance(covariance_type, type) and issubclass(covariance_type, Family):
        raise OptionError(
            "`covariance_type`", "be an object", f"the class {covariance_type.__name__}", "Give an object of it."
        )
    if not isinstance(covariance_type, Family):
        return family_called(covariance_type)
    register_family(covariance_type)
    return covariance_type
