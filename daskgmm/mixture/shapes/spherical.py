"""Spherical: each component has one variance, the same for all features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.diagonal import Diagonal
from daskgmm.mixture.shapes.shape import LOG_2PI


class Spherical(Diagonal):
    """Each component has one variance, the same for all features."""

    sklearn_type = "spherical"
    rescales = False

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return 1

    def marginal(self, covariances: Floats, kept: NDArray[np.intp]) -> Floats:
        return covariances

    def scores(self, offsets: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        precision = np.square(precision_cholesky)
        u: Floats = precision * offsets
        return u, 0.5 * (np.einsum("dn,dn->n", u, u) - len(offsets) * precision)[np.newaxis]

    def of_free(self, values: Floats, n_features: int) -> Floats:
        return values[..., 0]

    def from_matrices(self, matrices: Floats, weights: Floats) -> Floats:
        return np.asarray(super().from_matrices(matrices, weights).mean(axis=1))

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        result: Floats = np.sqrt(2 * n_features) * np.log(precisions_cholesky / base)[:, np.newaxis]
        return result

    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        result: Floats = base * np.exp(relative[:, 0] / np.sqrt(2 * n_features))
        return result

    def log_norm(self, precisions_cholesky: Floats, n_components: int, n_features: int) -> Floats:
        return n_features * (np.log(precisions_cholesky) - LOG_2PI / 2)

    def centre(self, w: Floats, means: Floats, precisions: Floats) -> Floats | None:
        return super().centre(w, means, np.repeat(precisions[:, np.newaxis], means.shape[1], axis=1))

    def fill_phi(self, phi: Floats, n_features: int) -> None:
        x = phi[-1 - n_features : -1]
        np.einsum("dn,dn->n", x, x, out=phi[0])

    def products(self, n_features: int) -> NDArray[np.int64] | None:
        return None

    def terms(self, n_features: int, *, exact: bool) -> NDArray[np.int64] | None:
        each = np.arange(n_features)
        return np.stack([each, each, np.zeros_like(each)])

    def standardise(self, x: Floats, mean: Floats, precision_cholesky: Floats, out: Floats, work: Floats) -> None:
        np.subtract(x, mean[:, np.newaxis], out=out)
        out *= precision_cholesky

    def central_moments(self, second: Floats, first: Floats) -> Floats:
        # E|x|^2 - |E x|^2 is the trace of the covariance; the variance is its mean over the features.
        central: Floats = (second[:, 0] - (first * first).sum(axis=1)) / first.shape[1]
        return central

    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats:
        found: Floats = super().weighted_covariances(x, resp, means).mean(axis=1)
        return found

    def wishart(self, n_features: int) -> tuple[int, int]:
        return 1, n_features

    def traces(self, precisions: Floats, covariances: Floats, n_features: int) -> Floats:
        return n_features * precisions * covariances

    def variances(self, covariances: Floats) -> Floats:
        return covariances[:, np.newaxis]

    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        added: Floats = variances.max(axis=1)
        return covariances + added

    def plus(self, covariances: Floats, errors: Floats) -> Floats:
        added: Floats = covariances + np.diagonal(errors).mean()
        return added

    def less(self, covariances: Floats, errors: Floats, *, least: float) -> Floats:
        found: Floats = np.maximum(covariances - np.diagonal(errors).mean(), least * covariances)
        return found

    def scales(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky[:, np.newaxis]

    def pack_squares(self, squares: Floats) -> Floats:
        total: Floats = squares.sum(axis=-1, keepdims=True)
        return total

    def _sum_second(self, second: Floats) -> Floats:
        total: Floats = second.sum(keepdims=True)
        return total


SPHERICAL = Spherical()
