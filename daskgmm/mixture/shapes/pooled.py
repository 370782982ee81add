"""Pooled: all components share one covariance matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.row_set import RowSet
from daskgmm.mixture.shapes.full import FULL, Full, check_definite
from daskgmm.mixture.shapes.matrices import covariance_of, precision_cholesky_of
from daskgmm.mixture.shapes.shape import Shape


class Pooled(Full):
    """All components share one covariance matrix.

    By Phi only (x, 1) are needed: the quadratic term is the same for all components and drops out of the
    responsibilities, and the M-step gets it from the scatter of all rows. In the exact form, where that
    difference would cancel, each component's second moments are kept, as for full covariances, and pooled.
    """

    sklearn_type = "tied"
    #: The covariance stays as it is, so that the density becomes wider: by 4e-8 nats a row.
    apart = 0.02

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return super().n_second(n_features, exact=True) if exact else 0

    def least_rows(self, n_features: int) -> int:
        return 2

    def subset(self, covariances: Floats, chosen: Any) -> Floats:
        return covariances

    def component(self, covariances: Floats, k: int) -> Floats:
        return covariances

    def put(self, covariances: Floats, k: int, own: Floats) -> None:
        pass

    def chosen(self, which: NDArray[np.bool_], covariances: Floats, others: Floats) -> Floats:
        return covariances

    def joined(self, covariances: Floats, pairs: NDArray[np.int64], share: Floats, between: Floats) -> Floats:
        return covariances

    def separate(self, covariances: Floats, n_components: int) -> tuple[Shape, Floats]:
        return FULL, np.repeat(covariances[np.newaxis], n_components, axis=0)

    def of_free(self, values: Floats, n_features: int) -> Floats:
        found: Floats = super().of_free(values, n_features)[0]
        return found

    def covariance_weights(self, weights: Floats) -> Floats:
        return np.ones(1)

    def shrink(self, counts: Floats, central: Floats, n_rows: float) -> Floats:
        return central

    def shifted(self, counts: Floats, central: Floats, shifts: Floats) -> Floats:
        moved: Floats = central + (shifts.T * (counts / counts.sum())) @ shifts
        return moved

    def row_sums(self, counts: Floats) -> Floats:
        total: Floats = counts.sum(keepdims=True)
        return total

    def times(self, factors: Floats, covariances: Floats) -> Floats:
        result: Floats = factors[0] * covariances
        return result

    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats | None:
        return None

    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        return np.zeros(len(means))  # what is thin is everybody's

    def phi_pays(self, n_phi: int, n_features: int) -> bool:
        return n_phi > 0

    def by_one_form(self, exact: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.full_like(exact, exact.any())

    def other_origins(
        self, weights: Floats, means: Floats, precisions: Floats, deviations: Floats, *, origin: Floats, smallest: float
    ) -> list[Floats]:
        return []

    def factors(self, precisions_cholesky: Floats) -> Floats | None:
        return None

    def precisions_cholesky(self, covariances: Floats) -> Floats:
        return precision_cholesky_of(covariances, "all components, which is tied,")

    def check_definite(self, matrices: Floats, name: str) -> None:
        check_definite(matrices, f"`{name}`")

    def covariances(self, precisions_cholesky: Floats) -> Floats:
        return covariance_of(precisions_cholesky)

    def from_matrices(self, matrices: Floats, weights: Floats) -> Floats:
        return np.asarray(np.tensordot(weights / weights.sum(), matrices, axes=1))

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        return super().relative(base[np.newaxis], precisions_cholesky[np.newaxis], n_features)

    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        result: Floats = super().from_relative(base[np.newaxis], relative, n_features)[0]
        return result

    def whiten(self, shifts: Floats, precisions_cholesky: Floats) -> Floats:
        return shifts @ precisions_cholesky

    def unwhiten(self, whitened: Floats, precisions_cholesky: Floats) -> Floats:
        result: Floats = solve_triangular(precisions_cholesky, whitened.T, trans="T").T
        return result

    def natural_parameters(self, means: Floats, precisions_cholesky: Floats, constant: Floats) -> Floats:
        z = means @ precisions_cholesky
        return np.column_stack([z @ precisions_cholesky.T, constant - 0.5 * (z * z).sum(axis=1)])

    def fill_phi(self, phi: Floats, n_features: int) -> None:
        pass

    def products(self, n_features: int) -> NDArray[np.int64] | None:
        return np.empty((2, 0), dtype=np.int64)

    def terms(self, n_features: int, *, exact: bool) -> NDArray[np.int64] | None:
        return FULL.terms(n_features, exact=True) if exact else super().terms(n_features, exact=False)

    def leaves_common_term(self) -> bool:
        return True

    def common_bound(self, precisions: Floats, deviations: Floats) -> float:
        # (The bound with every mean at the origin: what correlation alone costs a sum over rows.)
        nothing = np.zeros(len(precisions))
        return float(self.bound(nothing[np.newaxis], precisions, deviations, nothing)[0])

    def common_term(self, x: Floats, precisions_cholesky: Floats, work: Floats) -> Floats | None:
        z = np.dot(precisions_cholesky.T, x, out=work)
        result: Floats = -0.5 * np.einsum("dn,dn->n", z, z)
        return result

    def total_common_term(self, precisions_cholesky: Floats, origin: Floats, row_set: RowSet | None) -> float:
        row_set = _needed(row_set)
        offset = precisions_cholesky.T @ (row_set.mean - origin)
        scatter = precisions_cholesky.T @ row_set.scatter @ precisions_cholesky
        return -0.5 * float(np.trace(scatter) + row_set.weight * offset @ offset)

    def central_moments(self, second: Floats, first: Floats) -> Floats:
        if not second.shape[-1]:
            return np.empty((len(first), 0, 0))
        return super().central_moments(second, first)

    def pool(self, counts: Floats, offsets: Floats, central: Floats, row_set: RowSet | None) -> Floats:
        total = counts.sum()
        if central.shape[-1]:
            pooled: Floats = np.tensordot(counts / total, central, axes=1)
            return pooled
        row_set = _needed(row_set)
        within: Floats = row_set.scatter / row_set.weight - (offsets.T * (counts / total)) @ offsets
        return within

    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        result: Floats = noise @ np.linalg.cholesky(covariances).T
        return result


def _needed(row_set: RowSet | None) -> RowSet:
    if row_set is None:
        raise ValueError("row_set must be given for a tied mixture by Phi; got None. Make it in the survey.")
    return row_set


POOLED = Pooled()
