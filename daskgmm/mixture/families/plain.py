"""The families that have all covariances of their shape: scikit-learn's four, by its names and by mclust's."""

from __future__ import annotations

from daskgmm.mixture.families.family import Family
from daskgmm.mixture.shapes.diagonal import DIAGONAL
from daskgmm.mixture.shapes.full import FULL
from daskgmm.mixture.shapes.pooled import POOLED
from daskgmm.mixture.shapes.spherical import SPHERICAL


class _Plain(Family):
    """A family under the name that is asked for: scikit-learn's, or mclust's, which takes any start."""

    def __init__(self, name: str, *, takes_any_start: bool = False) -> None:
        self.name, self.takes_any_start = name, takes_any_start

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Full(_Plain):
    """Each component has its own covariance matrix."""

    shape = FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2


class Tied(_Plain):
    """All components share one covariance matrix."""

    shape = POOLED

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2


class Diagonal(_Plain):
    """Each component has its own variance for each feature."""

    shape = DIAGONAL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features


class Spherical(_Plain):
    """Each component has one variance, the same for all features."""

    shape = SPHERICAL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components


#: scikit-learn's names, and mclust's for the same covariances.
PLAIN = (Full("full"), Tied("tied"), Diagonal("diag"), Spherical("spherical"))
VVV, EEE = Full("VVV", takes_any_start=True), Tied("EEE", takes_any_start=True)
VVI, VII = Diagonal("VVI", takes_any_start=True), Spherical("VII", takes_any_start=True)
