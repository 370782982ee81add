"""mclust's fourteen families: volume, shape and orientation of the covariances are equal, of each component, or none.

Sigma_k = lambda_k D_k A_k D_k' with |A_k| = 1: the three letters of a name say whether the volume lambda, the shape A
and the orientation D are equal (E), variable (V) or none (I: a multiple of the identity, or axes of the features)
(Celeux and Govaert 1995, doi:10.1016/0031-3203(94)00125-6; Banfield and Raftery 1993). With S_k the covariance of the
rows of a component, n_k their number, n = sum n_k, p features:

    EII  lambda = sum n_k tr S_k / np                    EEE  sum n_k S_k / n
    EEI  sum n_k diag S_k / n                            EEV  with the eigenvalues of S_k, largest first, for diag S_k
    VEI  lambda_k = tr(diag S_k A^-1) / p, A in proportion to sum n_k diag S_k / lambda_k, in turns
    VEV  the same of the eigenvalues of S_k              VEE  the same of S_k itself
    EVI  lambda = sum n_k |diag S_k|^(1/p) / n with the own shape of diag S_k
    EVV  the same of S_k itself                          EVE  the same of the diagonal of S_k in common axes
    VVI, VII, VVV: diag, spherical, full                 VVE  diag S_k in common axes (`common_axes.py`)

In logarithms VEI and VEV are convex, and VEE is along geodesics, so the turns end at the only optimum.

A component without rows has no say in what is common, and gets the member nearest to what it was.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.families.common_axes import common_axes, variances_in
from daskgmm.mixture.families.family import Family
from daskgmm.mixture.families.plain import EEE, VII, VVI, VVV
from daskgmm.mixture.moments import SMALLEST_COUNT
from daskgmm.mixture.shapes.diagonal import DIAGONAL
from daskgmm.mixture.shapes.full import FULL
from daskgmm.mixture.shapes.spherical import SPHERICAL

#: The turns of VEI, VEE and VEV end where no volume changes by this share: the likelihood is right to its square.
STILL, MOST_TURNS = 1e-10, 10_000
#: A direction with less than this share of the largest variance is none.
THIN = 1e-15
#: Components whose own axes are tried as common ones, beside those of all rows and those before.
TRIED = 4


class Coupled(Family):
    """A family in which components have parts in common."""

    takes_any_start = True
    #: Whether a component whose rows leave out a direction has none of these covariances.
    needs_all_directions = True
    #: Whether each member stays one where each feature gets a unit of its own.
    knows_no_units = False
    #: Rows below which a component's own part is about these alone; None: as its shape says.
    least: int | None = None

    @property
    def rescales(self) -> bool:
        return self.knows_no_units

    def least_rows(self, n_features: int) -> int:
        return super().least_rows(n_features) if self.least is None else self.least

    def alone(self, counts: Floats, central: Floats, previous: Floats) -> Floats:
        return central  # (one component has nothing in common with others)

    def together(self, weights: Floats, covariances: Floats) -> Floats:
        return self.maximise(weights, covariances, covariances)

    def with_empty(self, empty: NDArray[np.bool_], covariances: Floats, previous: Floats) -> Floats:
        return covariances

    def maximise(self, counts: Floats, central: Floats, previous: Floats) -> Floats:
        empty = counts < 2 * SMALLEST_COUNT
        least = self._least_variances(central)
        singular = ~empty & ~(least > 0)
        if (empty | singular).all():
            return central
        # (A singular one stays so, and is then named by an error.)
        left_out = empty | singular
        n = np.where(left_out, 0.0, counts)
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                found = self.members(n, self.shape.chosen(~left_out, central, previous), previous)
        except (np.linalg.LinAlgError, FloatingPointError):
            return central  # (of which a singular one is then named)
        return self.shape.chosen(~singular, found, central)

    @abstractmethod
    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        """Return the maximum for covariances `S` of which those with a count `n` above 0 are regular.

        A LinAlgError where there is none.
        """

    def _least_variances(self, central: Floats) -> Floats:
        """Return a number of each component that is above 0 where it has such covariances, (n_components,)."""
        if not self.needs_all_directions:
            return np.asarray(self.shape.variances(central).max(axis=1))
        return self._smallest(central)

    def _smallest(self, central: Floats) -> Floats:
        return np.asarray(self.shape.variances(central).min(axis=1))


class InAxesOfFeatures(Coupled):
    """Coupled families of diagonal covariances."""

    shape = DIAGONAL
    knows_no_units = True


class OfMatrices(Coupled):
    """Coupled families of matrices."""

    shape = FULL

    def _smallest(self, central: Floats) -> Floats:
        values = np.linalg.eigvalsh(central)
        return np.where(values[:, 0] > THIN * values[:, -1], values[:, 0], 0.0)


class EII(Coupled):
    """One variance, common to all components and features."""

    name, shape, least = "EII", SPHERICAL, 2

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1

    def _least_variances(self, central: Floats) -> Floats:
        return np.ones(len(central))  # (a component of one row has the variance of the others)

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        return np.full_like(S, n @ S / n.sum())


class EEI(InAxesOfFeatures):
    """One variance for each feature, common to all components."""

    name, least = "EEI", 2

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features

    def _least_variances(self, central: Floats) -> Floats:
        return np.ones(len(central))

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        return np.broadcast_to(n @ S / n.sum(), S.shape).copy()


class VEI(InAxesOfFeatures):
    """Diagonal: own volume, common shape."""

    name, needs_all_directions, least = "VEI", False, 2
    shares_shape = True

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        return _of_one_shape(n, S, _volumes(previous))


class EVI(InAxesOfFeatures):
    """Diagonal: common volume, own shape."""

    name = "EVI"

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1)

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        return S * _to_one_volume(n, _volumes(S))[:, np.newaxis]


class VEE(OfMatrices):
    """Own volume, common shape and orientation: multiples of one matrix."""

    name, needs_all_directions, knows_no_units, least = "VEE", False, True, 2
    shares_shape = True

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        volumes = _volumes_of_matrices(previous)
        for _ in range(MOST_TURNS):
            common = np.tensordot(n / volumes, S, axes=1)
            # (Not positive definite where most rows are of a component in fewer directions: the likelihood has no end.)
            root = np.diagonal(np.linalg.cholesky(common))
            common /= np.exp(2 * np.log(root).mean())
            new = _trace_products(S, np.asarray(np.linalg.inv(common))) / len(common)
            change, volumes = np.abs(np.log(new / volumes)).max(), new
            if not change > STILL:
                break
        result: Floats = volumes[:, np.newaxis, np.newaxis] * common
        return result


class EVE(OfMatrices):
    """Common volume and orientation, own shape."""

    name, least = "EVE", 3

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1) + n_features * (n_features - 1) // 2

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        axes = common_axes(n, S, _starts(n, S, previous), equal_volumes=True)
        variances = variances_in(axes, S)
        return _turned(axes, variances * _to_one_volume(n, _volumes(variances))[:, np.newaxis])


class VVE(OfMatrices):
    """Common orientation, own volume and shape: common principal components."""

    name, least = "VVE", 3

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features + n_features * (n_features - 1) // 2

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        axes = common_axes(n, S, _starts(n, S, previous), equal_volumes=False)
        return _turned(axes, variances_in(axes, S))


class EEV(OfMatrices):
    """Common volume and shape, own orientation."""

    name, least = "EEV", 2

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features + n_components * n_features * (n_features - 1) // 2

    def _least_variances(self, central: Floats) -> Floats:
        return np.ones(len(central))

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        values, axes = _eigen(S)
        return _turned(axes, np.broadcast_to(n @ values / n.sum(), values.shape))


class VEV(OfMatrices):
    """Own volume and orientation, common shape."""

    name, needs_all_directions, least = "VEV", False, 2
    shares_shape = True

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1 + n_components * n_features * (n_features - 1) // 2

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        values, axes = _eigen(S)
        return _turned(axes, _of_one_shape(n, values, _volumes_of_matrices(previous)))


class EVV(OfMatrices):
    """Common volume, own shape and orientation."""

    name, knows_no_units = "EVV", True

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 - n_components + n_components * n_features * (n_features + 1) // 2

    def members(self, n: Floats, S: Floats, previous: Floats) -> Floats:
        result: Floats = S * _to_one_volume(n, _volumes_of_matrices(S))[:, np.newaxis, np.newaxis]
        return result


#: All of them, in mclust's order.
VOLUME_SHAPE_ORIENTATION: tuple[Family, ...] = (
    EII(), VII, EEI(), VEI(), EVI(), VVI, EEE, VEE(), EVE(), VVE(), EEV(), VEV(), EVV(), VVV,
)  # fmt: skip


def _volumes(variances: Floats) -> Floats:
    """Return the geometric mean of each row of variances."""
    result: Floats = np.exp(np.log(variances).mean(axis=1))
    return result


def _volumes_of_matrices(covariances: Floats) -> Floats:
    """Return |S|^(1/p) of each."""
    result: Floats = np.exp(np.linalg.slogdet(covariances)[1] / covariances.shape[-1])
    return result


def _to_one_volume(n: Floats, volumes: Floats) -> Floats:
    """Return by what each covariance is multiplied to have the mean of the volumes."""
    result: Floats = (n @ volumes / n.sum()) / volumes
    return result


def _of_one_shape(n: Floats, variances: Floats, volumes: Floats) -> Floats:
    """Return lambda_k a for variances (n_components, n_features): own volume, common shape."""
    for _ in range(MOST_TURNS):
        common = (n / volumes) @ variances
        if not common.min() > THIN * common.max():
            raise np.linalg.LinAlgError("a common shape without variance in some direction")
        common /= _volumes(common[np.newaxis])[0]
        new = (variances / common).mean(axis=1)
        change, volumes = np.abs(np.log(new / volumes)).max(), new
        if not change > STILL:
            break
    return np.outer(volumes, common)


def _trace_products(covariances: Floats, other: Floats) -> Floats:
    result: Floats = np.einsum("kij,ij->k", covariances, other)
    return result


def _eigen(covariances: Floats) -> tuple[Floats, Floats]:
    """Return eigenvalues, not negative, smallest first, and the axes as columns."""
    values, axes = np.linalg.eigh(covariances)
    return np.maximum(values, 0.0), axes


def _turned(axes: Floats, variances: Floats) -> Floats:
    """Return U diag(v_k) U', symmetric to the last bit, for common axes or one set a component."""
    found = (axes * variances[:, np.newaxis]) @ np.swapaxes(axes, -1, -2)
    result: Floats = (found + np.swapaxes(found, -1, -2)) / 2
    return result


def _starts(n: Floats, S: Floats, previous: Floats) -> list[Floats]:
    """Return axes to begin with: those before, where there were common ones, of all rows, and of large components."""
    largest = np.argsort(-n, kind="stable")[:TRIED]
    # (Weights that no two axes share by chance tell the common axes of several covariances.)
    before = np.tensordot(np.arange(1.0, 1.0 + len(previous)) ** 0.5, previous, axes=1)
    pooled = np.tensordot(n, S, axes=1)
    return [np.linalg.eigh(each)[1] for each in (before, pooled, *S[largest])]
