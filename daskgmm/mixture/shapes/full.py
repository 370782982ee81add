"""Full: each component has its own covariance matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.matrices import (
    covariance_of,
    flat_triangle,
    pairs,
    precision_cholesky_of,
    solved,
    triangle,
)
from daskgmm.mixture.shapes.shape import LOG_2PI, Shape
from daskgmm.mixture.shapes.thin import ROUNDOFF, gain, still, varying
from daskgmm.mixture.triangular import gram, multiply_triangular

#: From this many features on, triangular products (half the flops) beat general ones (measured).
TRIANGULAR_FROM = 32


class Full(Shape):
    """Each component has its own covariance matrix; second moments are its upper triangle, row by row."""

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return n_features * (n_features + 1) // 2

    def marginal(self, covariances: Floats, kept: NDArray[np.intp]) -> Floats:
        return np.ascontiguousarray(covariances[..., kept[:, np.newaxis], kept])

    def conditional(
        self, covariances: Floats, kept: NDArray[np.intp], given: NDArray[np.intp]
    ) -> tuple[Floats, Floats | None]:
        # With L L' the covariance of what is given and V = L^-1 S_gk: S_kk - V'V, and slopes V' L^-1.
        lower = np.linalg.cholesky(self.marginal(covariances, given))
        half = np.linalg.solve(lower, covariances[..., given[:, np.newaxis], kept])
        turned = np.swapaxes(half, -1, -2)
        inverse = np.linalg.solve(lower, np.broadcast_to(np.eye(len(given)), lower.shape))
        slopes: Floats = (turned @ inverse).reshape(-1, len(kept), len(given))
        return self.marginal(covariances, kept) - turned @ half, slopes

    def least_rows(self, n_features: int) -> int:
        return n_features + 1

    def n_factor_values(self, n_components: int, n_features: int) -> int:
        # (The precision Cholesky unpacked, and once more where products are stacked.)
        return 2 * n_components * n_features**2

    def phi_pays(self, n_phi: int, n_features: int) -> bool:
        # Building Phi costs as much as a few components.
        return n_phi >= max(2.0, (n_features - 16) / 8)

    def precisions_cholesky(self, covariances: Floats) -> Floats:
        return np.stack([precision_cholesky_of(c, f"component {k}") for k, c in enumerate(covariances)])

    def check_definite(self, matrices: Floats, name: str) -> None:
        for k, matrix in enumerate(matrices):
            check_definite(matrix, f"`{name}` of component {k}")

    def cholesky_of_precisions(self, precisions: Floats) -> Floats:
        # P P' with P upper: the lower Cholesky factor of the matrix with rows and columns reversed, reversed back.
        reversed_factor = np.linalg.cholesky(precisions[..., ::-1, ::-1])
        return np.ascontiguousarray(reversed_factor[..., ::-1, ::-1], dtype=np.float64)

    def scores(self, offsets: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        rows, columns = triangle(len(offsets))
        precision = precision_cholesky @ precision_cholesky.T
        u: Floats = precision @ offsets
        twice = np.where(rows == columns, 0.5, 1.0)[:, np.newaxis]  # (an entry off the diagonal stands twice)
        return u, twice * (u[rows] * u[columns] - precision[rows, columns][:, np.newaxis])

    def of_free(self, values: Floats, n_features: int) -> Floats:
        rows, columns = triangle(n_features)
        found = np.empty((*values.shape[:-1], n_features, n_features))
        found[..., rows, columns] = found[..., columns, rows] = values
        return found

    def precisions(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2)

    def covariances(self, precisions_cholesky: Floats) -> Floats:
        return np.stack([covariance_of(p) for p in precisions_cholesky])

    def rescaled(self, covariances: Floats, precisions_cholesky: Floats, scale: Floats) -> tuple[Floats, Floats]:
        return covariances * np.outer(scale, scale), precisions_cholesky / scale[:, np.newaxis]

    def from_matrices(self, matrices: Floats, weights: Floats) -> Floats:
        return matrices

    def pack(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky[(..., *triangle(precisions_cholesky.shape[-1]))]

    def unpack(self, packed: Floats, n_features: int) -> Floats:
        result = np.zeros((*packed.shape[:-1], n_features, n_features))
        result[(..., *triangle(n_features))] = packed
        return result

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        factors = np.stack([solved(b, p) for b, p in zip(base, precisions_cholesky, strict=True)])
        diagonal = np.einsum("kii->ki", factors)
        diagonal[...] = np.sqrt(2) * np.log(diagonal)
        return self.pack(factors)

    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        factors = self.unpack(relative, n_features)
        diagonal = np.einsum("kii->ki", factors)
        diagonal[...] = np.exp(diagonal / np.sqrt(2))
        result: Floats = base @ factors
        return result

    def whiten(self, shifts: Floats, precisions_cholesky: Floats) -> Floats:
        result: Floats = np.einsum("kij,ki->kj", precisions_cholesky, shifts)
        return result

    def unwhiten(self, whitened: Floats, precisions_cholesky: Floats) -> Floats:
        shifts = [solved(p, w, transposed=True) for p, w in zip(precisions_cholesky, whitened, strict=True)]
        return np.stack(shifts)

    def spread(self, z: Floats, precision_cholesky: Floats) -> Floats:
        return solved(precision_cholesky, z, transposed=True)

    def centre(self, w: Floats, means: Floats, precisions: Floats) -> Floats | None:
        pulls = (precisions @ means[:, :, np.newaxis])[:, :, 0]
        try:
            return np.asarray(np.linalg.solve(np.tensordot(w, precisions, axes=1), w @ pulls), dtype=np.float64)
        except np.linalg.LinAlgError:
            return None

    def factors(self, precisions_cholesky: Floats) -> Floats | None:
        return precisions_cholesky

    def log_norm(self, precisions_cholesky: Floats, n_components: int, n_features: int) -> Floats:
        diagonal = np.diagonal(precisions_cholesky, axis1=-2, axis2=-1)
        return np.broadcast_to(np.log(diagonal).sum(axis=-1) - n_features / 2 * LOG_2PI, (n_components,))

    def bound(self, means: Floats, precisions: Floats, deviations: Floats, origin: Floats) -> Floats:
        v = np.abs(means - origin) + deviations
        with np.errstate(over="ignore"):  # (an infinite bound is one)
            result: Floats = ((v[:, np.newaxis] @ np.abs(precisions))[:, 0] * v).sum(axis=1)
        return result

    def natural_parameters(self, means: Floats, precisions_cholesky: Floats, constant: Floats) -> Floats:
        n_components, n_features = means.shape
        rows, columns = triangle(n_features)
        precisions = self.precisions(precisions_cholesky)
        z = np.einsum("kij,ki->kj", precisions_cholesky, means)
        eta = np.empty((n_components, self.n_statistics(n_features, exact=False)))
        eta[:, : len(rows)] = -precisions[:, rows, columns] * np.where(rows == columns, 0.5, 1.0)
        eta[:, len(rows) : -1] = np.einsum("kij,kj->ki", precisions_cholesky, z)
        eta[:, -1] = constant - 0.5 * (z * z).sum(axis=1)
        return eta

    def fill_phi(self, phi: Floats, n_features: int) -> None:
        x, begin = phi[-1 - n_features : -1], 0
        for i in range(n_features):
            np.multiply(x[i], x[i:], out=phi[begin : begin + n_features - i])
            begin += n_features - i

    def products(self, n_features: int) -> NDArray[np.int64] | None:
        return pairs(n_features)

    def standardise(self, x: Floats, mean: Floats, precision_cholesky: Floats, out: Floats, work: Floats) -> None:
        n_features = x.shape[0]
        if n_features == 1:
            np.multiply(np.subtract(x, mean[0], out=out), precision_cholesky[0, 0], out=out)
        elif n_features < TRIANGULAR_FROM:
            np.dot(precision_cholesky.T, np.subtract(x, mean[:, np.newaxis], out=work), out=out)
        else:
            np.subtract(x, mean[:, np.newaxis], out=out)
            multiply_triangular(precision_cholesky, out)

    def standardise_all(self, x: Floats, means: Floats, precisions_cholesky: Floats) -> Floats:
        result: Floats = np.swapaxes(precisions_cholesky, -1, -2) @ (x - means[..., np.newaxis])
        return result

    def exact_statistics(self, z: Floats, resp: Floats, out: Floats, work: Floats) -> None:
        n_features = z.shape[0]
        if n_features < TRIANGULAR_FROM:
            np.multiply(z, resp, out=work)
            second = work @ z.T
        else:
            np.multiply(z, np.sqrt(resp), out=work)
            second = np.empty((n_features, n_features))
            gram(work, second)
        np.take(second.ravel(), flat_triangle(n_features), out=out[: -1 - n_features], mode="clip")
        np.dot(z, resp, out=out[-1 - n_features : -1])
        out[-1] = resp.sum()

    def central_moments(self, second: Floats, first: Floats) -> Floats:
        n_features = first.shape[-1]
        rows, columns = triangle(n_features)
        packed = second - first[:, rows] * first[:, columns]
        central = np.empty((len(first), n_features, n_features))
        central[:, rows, columns] = packed
        central[:, columns, rows] = packed
        return central

    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats | None:
        y = x - means[..., np.newaxis]
        found = (y * resp[:, np.newaxis]) @ np.swapaxes(y, -1, -2)
        found += np.swapaxes(found, -1, -2).copy()
        result: Floats = found / (2 * resp.sum(axis=1))[:, np.newaxis, np.newaxis]
        return result

    def from_standard(self, first: Floats, central: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        # x - mu = P^-T z, so its covariance is P^-T C P^-1.
        half = solved(precision_cholesky, central, transposed=True)
        covariance = solved(precision_cholesky, half.T, transposed=True)
        return solved(precision_cholesky, first, transposed=True), (covariance + covariance.T) / 2

    def lost_on_the_way(self, precision_cholesky: Floats, extent: Floats) -> Floats:
        # Where rows are far apart along a direction in which a component is narrow, z = P'x is a difference of large
        # numbers: u |P^-T| |P'| |x|.
        found: Floats = np.abs(np.linalg.inv(precision_cholesky)).T @ (np.abs(precision_cholesky).T @ extent)
        return found

    def traces(self, precisions: Floats, covariances: Floats, n_features: int) -> Floats:
        return np.asarray((precisions * covariances).sum(axis=(-2, -1)))

    def variances(self, covariances: Floats) -> Floats:
        return np.diagonal(covariances, axis1=-2, axis2=-1)

    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        return covariances + np.eye(covariances.shape[-1]) * variances[..., np.newaxis, :]

    def regularise(self, covariances: Floats, floor: float) -> Floats:
        return covariances + floor * np.eye(covariances.shape[-1])

    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        offsets = means - weights @ means
        whole = np.tensordot(weights, covariances, axes=1) + (weights * offsets.T) @ offsets
        values, vectors = np.linalg.eigh(whole)
        axes = vectors[:, values > 2 * floor]
        if not axes.shape[1]:
            return np.zeros(len(means))
        own, directions = np.linalg.eigh(axes.T @ covariances @ axes)
        there = np.einsum("kij,kij->kj", directions, (axes.T @ whole @ axes) @ directions)
        return gain(own, there, floor)

    def least_variances(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        n_components, n_features = means.shape
        covariances = np.broadcast_to(covariances, (n_components, n_features, n_features))
        offsets = means - weights @ means
        whole = np.tensordot(weights, covariances, axes=1) + (weights * offsets.T) @ offsets
        axes = varying(whole - floor * np.eye(n_features), still(means, floor), floor)
        if not axes.shape[1]:
            return np.full(n_components, np.inf)
        own = np.linalg.eigvalsh(axes.T @ covariances @ axes)
        hidden = 4 * n_features * ROUNDOFF * own[:, -1] > floor
        return np.where(hidden, np.inf, own[:, 0] - floor)

    def floored(self, covariances: Floats, least: Floats) -> Floats:
        root, inverse = _roots(least)
        values, vectors = np.linalg.eigh(inverse @ covariances @ inverse.T)
        # (Rounding of the largest variance is no breach of the floor: what is above it keeps its bits.)
        above = np.all(values >= 1 - 16 * ROUNDOFF * len(root) * values[..., -1:], axis=-1, keepdims=True)
        axes = (root @ vectors) * np.sqrt(np.maximum(values, 1.0))[..., np.newaxis, :]
        clipped = axes @ np.swapaxes(axes, -1, -2)
        symmetric: Floats = (clipped + np.swapaxes(clipped, -1, -2)) / 2
        return np.where(above[..., np.newaxis], covariances, symmetric)

    def in_units_of(self, least: Floats, covariances: Floats, means: Floats) -> tuple[Floats, Floats]:
        _, inverse = _roots(least)
        return inverse @ covariances @ inverse.T, means @ inverse.T

    def packed(self, second: Floats) -> Floats:
        found: Floats = second.reshape(len(second), -1)[:, flat_triangle(second.shape[-1])]
        return found

    def plus(self, covariances: Floats, errors: Floats) -> Floats:
        return covariances + errors

    def less(self, covariances: Floats, errors: Floats, *, least: float) -> Floats:
        total = covariances + errors
        try:
            lower = np.linalg.cholesky(total)
            half = np.linalg.solve(lower, covariances)
            inside = np.linalg.solve(lower, np.swapaxes(half, -1, -2))
        except np.linalg.LinAlgError:  # (rows that are alike, where they have no error: so are the true values)
            squares, axes = np.linalg.eigh(total)
            lower = axes * np.sqrt(np.maximum(squares, 0.0))[..., np.newaxis, :]
            inverse = np.linalg.pinv(lower, rcond=1e-8)
            inside = inverse @ covariances @ np.swapaxes(inverse, -1, -2)
        values, vectors = np.linalg.eigh((inside + np.swapaxes(inside, -1, -2)) / 2)
        # (Of rows that are alike values are 0 but for rounding.)
        kept = np.maximum(np.maximum(2 * values - 1, least * values), 0.0)
        roots = (lower @ vectors) * np.sqrt(kept)[..., np.newaxis, :]
        found: Floats = roots @ np.swapaxes(roots, -1, -2)
        return found

    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        result: Floats = noise @ np.linalg.cholesky(covariances[k]).T
        return result


def check_definite(matrix: Floats, name: str) -> None:
    """Raise an OptionError unless a matrix is symmetric, but for rounding, and positive definite."""
    # (Rounding of an inverse is relative to the variances, not to an element that may be nearly zero.)
    scale = np.sqrt(np.abs(np.diagonal(matrix)))
    if (np.abs(matrix - matrix.T) > 1e-7 * np.outer(scale, scale)).any():
        raise OptionError(name, "be symmetric", "a matrix that is not", "Use (A + A.T) / 2.")
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix)[0]
        raise OptionError(
            name,
            "be positive definite",
            f"a smallest eigenvalue of {smallest:.6g}",
            "Take covariances of full rank, and their inverses.",
        ) from None


def _roots(least: Floats) -> tuple[Floats, Floats]:
    """Return G with G G' a matrix, lower triangular, and its inverse."""
    root = np.asarray(np.linalg.cholesky(least.reshape(least.shape[-2:])), dtype=np.float64)
    return root, solved(root.T, np.eye(len(root)), transposed=True)


FULL = Full()
