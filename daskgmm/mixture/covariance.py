"""The four covariance kinds, one class each, and nothing about a kind elsewhere. `kind.py` says what they offer."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtri, dtrtrs

from daskgmm.errors import CollapsedComponentError, OptionError
from daskgmm.mixture.kind import Covariance, RowSet
from daskgmm.mixture.triangular import gram, multiply_triangular

Floats = NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))
DOUBLE_ROUNDOFF = float(np.finfo(np.float64).eps)


class Full(Covariance):
    """Each component has its own covariance matrix."""

    name = "full"
    triangular = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return n_features * (n_features + 1) // 2

    def least_rows(self, n_features: int) -> int:
        return n_features + 1

    def phi_pays(self, n_phi: int, n_features: int) -> bool:
        # Building Phi costs as much as a few components.
        return n_phi >= max(2.0, (n_features - 16) / 8)

    def precisions_cholesky(self, covariances: Floats) -> Floats:
        return np.stack([_precision_cholesky(c, f"component {k}") for k, c in enumerate(covariances)])

    def check_precisions(self, precisions: Floats) -> None:
        for k, precision in enumerate(precisions):
            _check_precision(precision, f" of component {k}")

    def cholesky_of_precisions(self, precisions: Floats) -> Floats:
        # P P' with P upper: the lower Cholesky factor of the matrix with rows and columns reversed, reversed back.
        reversed_factor = np.linalg.cholesky(precisions[..., ::-1, ::-1])
        return np.ascontiguousarray(reversed_factor[..., ::-1, ::-1], dtype=np.float64)

    def precisions(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2)

    def covariances(self, precisions_cholesky: Floats) -> Floats:
        return np.stack([_covariance(p) for p in precisions_cholesky])

    def pack(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky[(..., *_triangle(precisions_cholesky.shape[-1]))]

    def unpack(self, packed: Floats, n_features: int) -> Floats:
        result = np.zeros((*packed.shape[:-1], n_features, n_features))
        result[(..., *_triangle(n_features))] = packed
        return result

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        factors = np.stack([_solved(b, p) for b, p in zip(base, precisions_cholesky, strict=True)])
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
        shifts = [_solved(p, w, transposed=True) for p, w in zip(precisions_cholesky, whitened, strict=True)]
        return np.stack(shifts)

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
        rows, columns = _triangle(n_features)
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
        return _pairs(n_features)

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
        np.take(second.ravel(), _flat_triangle(n_features), out=out[: -1 - n_features], mode="clip")
        np.dot(z, resp, out=out[-1 - n_features : -1])
        out[-1] = resp.sum()

    def component(self, precisions_cholesky: Floats, k: int) -> Floats:
        result: Floats = precisions_cholesky[k]
        return result

    def central_moments(self, second: Floats, first: Floats) -> Floats:
        n_features = first.shape[-1]
        rows, columns = _triangle(n_features)
        packed = second - first[:, rows] * first[:, columns]
        central = np.empty((len(first), n_features, n_features))
        central[:, rows, columns] = packed
        central[:, columns, rows] = packed
        return central

    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats:
        y = x - means[..., np.newaxis]
        found = (y * resp[:, np.newaxis]) @ np.swapaxes(y, -1, -2)
        found += np.swapaxes(found, -1, -2).copy()
        result: Floats = found / (2 * resp.sum(axis=1))[:, np.newaxis, np.newaxis]
        return result

    def from_standard(self, first: Floats, central: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        # x - mu = P^-T z, so its covariance is P^-T C P^-1.
        half = _solved(precision_cholesky, central, transposed=True)
        covariance = _solved(precision_cholesky, half.T, transposed=True)
        return _solved(precision_cholesky, first, transposed=True), (covariance + covariance.T) / 2

    def variances(self, covariances: Floats) -> Floats:
        return np.diagonal(covariances, axis1=-2, axis2=-1)

    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        return covariances + np.eye(covariances.shape[-1]) * variances[..., np.newaxis, :]

    def regularise(self, covariances: Floats, reg_covar: float) -> Floats:
        return covariances + reg_covar * np.eye(covariances.shape[-1])

    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        offsets = means - weights @ means
        whole = np.tensordot(weights, covariances, axes=1) + (weights * offsets.T) @ offsets
        values, vectors = np.linalg.eigh(whole)
        axes = vectors[:, values > 2 * reg_covar]
        if not axes.shape[1]:
            return np.zeros(len(means))
        own, directions = np.linalg.eigh(axes.T @ covariances @ axes)
        there = np.einsum("kij,kij->kj", directions, (axes.T @ whole @ axes) @ directions)
        return _gain(own, there, reg_covar)

    def least_variances(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        n_components, n_features = means.shape
        covariances = np.broadcast_to(covariances, (n_components, n_features, n_features))
        offsets = means - weights @ means
        whole = np.tensordot(weights, covariances, axes=1) + (weights * offsets.T) @ offsets
        axes = _varying(whole - reg_covar * np.eye(n_features), _still(means, reg_covar), reg_covar)
        if not axes.shape[1]:
            return np.full(n_components, np.inf)
        own = np.linalg.eigvalsh(axes.T @ covariances @ axes)
        hidden = 4 * n_features * DOUBLE_ROUNDOFF * own[:, -1] > reg_covar
        return np.where(hidden, np.inf, own[:, 0] - reg_covar)

    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        result: Floats = noise @ np.linalg.cholesky(covariances[k]).T
        return result


class Tied(Full):
    """All components share one covariance matrix.

    By Phi only (x, 1) are needed: the quadratic term is the same for all components and drops out of the
    responsibilities, and the M-step gets it from the scatter of all rows. In the exact form, where that
    difference would cancel, each component's second moments are kept, as for full covariances, and pooled.
    """

    name = "tied"
    pooled = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return super().n_second(n_features, exact=True) if exact else 0

    def least_rows(self, n_features: int) -> int:
        return 2

    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        return np.zeros(len(means))  # what is thin is everybody's

    def phi_pays(self, n_phi: int, n_features: int) -> bool:
        return n_phi > 0

    def precisions_cholesky(self, covariances: Floats) -> Floats:
        return _precision_cholesky(covariances, "all components, which is tied,")

    def check_precisions(self, precisions: Floats) -> None:
        _check_precision(precisions, "")

    def covariances(self, precisions_cholesky: Floats) -> Floats:
        return _covariance(precisions_cholesky)

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

    def common_term(self, x: Floats, precisions_cholesky: Floats, work: Floats) -> Floats | None:
        z = np.dot(precisions_cholesky.T, x, out=work)
        result: Floats = -0.5 * np.einsum("dn,dn->n", z, z)
        return result

    def total_common_term(self, precisions_cholesky: Floats, origin: Floats, row_set: RowSet | None) -> float:
        row_set = _needed(row_set)
        offset = precisions_cholesky.T @ (row_set.mean - origin)
        scatter = precisions_cholesky.T @ row_set.scatter @ precisions_cholesky
        return -0.5 * float(np.trace(scatter) + row_set.weight * offset @ offset)

    def component(self, precisions_cholesky: Floats, k: int) -> Floats:
        return precisions_cholesky

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


class Diagonal(Covariance):
    """Each component has its own variance for each feature."""

    name = "diag"

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return n_features

    def least_rows(self, n_features: int) -> int:
        return 3

    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        own = np.broadcast_to(self.variances(covariances), means.shape)
        whole = weights @ (own + (means - weights @ means) ** 2)
        return _gain(own, np.where(whole > 2 * reg_covar, whole, 0.0), reg_covar)

    def least_variances(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        own = np.broadcast_to(self.variances(covariances), means.shape)
        whole = weights @ (own + (means - weights @ means) ** 2) - reg_covar
        least: Floats = np.where(whole > _still(means, reg_covar), own, np.inf).min(axis=1) - reg_covar
        return least

    def precisions_cholesky(self, covariances: Floats) -> Floats:
        for k, variances in enumerate(covariances):
            if not (np.min(variances) > 0 and np.isfinite(variances).all()):
                raise _collapsed(f"component {k}")
        return 1 / np.sqrt(covariances)

    def check_precisions(self, precisions: Floats) -> None:
        if (precisions <= 0).any():
            raise OptionError(
                f"precisions_init must be positive; got {precisions.min():.6g}. A precision is one over a variance."
            )

    def cholesky_of_precisions(self, precisions: Floats) -> Floats:
        return np.sqrt(precisions)

    def precisions(self, precisions_cholesky: Floats) -> Floats:
        return np.square(precisions_cholesky)

    def covariances(self, precisions_cholesky: Floats) -> Floats:
        return 1 / np.square(precisions_cholesky)

    def pack(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky

    def unpack(self, packed: Floats, n_features: int) -> Floats:
        return packed

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        result: Floats = np.sqrt(2) * np.log(precisions_cholesky / base)
        return result

    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        result: Floats = base * np.exp(relative / np.sqrt(2))
        return result

    def whiten(self, shifts: Floats, precisions_cholesky: Floats) -> Floats:
        return shifts * self._scales(precisions_cholesky)

    def unwhiten(self, whitened: Floats, precisions_cholesky: Floats) -> Floats:
        return whitened / self._scales(precisions_cholesky)

    def log_norm(self, precisions_cholesky: Floats, n_components: int, n_features: int) -> Floats:
        result: Floats = np.log(precisions_cholesky).sum(axis=1) - n_features / 2 * LOG_2PI
        return result

    def bound(self, means: Floats, precisions: Floats, deviations: Floats, origin: Floats) -> Floats:
        result: Floats = ((np.abs(means - origin) / deviations + 1) ** 2).sum(axis=1)
        return result

    def natural_parameters(self, means: Floats, precisions_cholesky: Floats, constant: Floats) -> Floats:
        precisions = self._scales(precisions_cholesky) ** 2
        quadratic = -0.5 * self.precisions(precisions_cholesky).reshape(len(means), -1)
        linear = means * precisions
        return np.column_stack([quadratic, linear, constant - 0.5 * (linear * means).sum(axis=1)])

    def fill_phi(self, phi: Floats, n_features: int) -> None:
        x = phi[-1 - n_features : -1]
        np.multiply(x, x, out=phi[:n_features])

    def products(self, n_features: int) -> NDArray[np.int64] | None:
        return np.stack([np.arange(n_features)] * 2)

    def standardise(self, x: Floats, mean: Floats, precision_cholesky: Floats, out: Floats, work: Floats) -> None:
        np.subtract(x, mean[:, np.newaxis], out=out)
        out *= precision_cholesky[:, np.newaxis]

    def standardise_all(self, x: Floats, means: Floats, precisions_cholesky: Floats) -> Floats:
        return (x - means[..., np.newaxis]) * self._scales(precisions_cholesky)[..., np.newaxis]

    def exact_statistics(self, z: Floats, resp: Floats, out: Floats, work: Floats) -> None:
        n_features = z.shape[0]
        np.multiply(z, z, out=work)
        out[: -1 - n_features] = self._sum_second(work @ resp)
        np.dot(z, resp, out=out[-1 - n_features : -1])
        out[-1] = resp.sum()

    def component(self, precisions_cholesky: Floats, k: int) -> Floats:
        result: Floats = precisions_cholesky[k]
        return result

    def central_moments(self, second: Floats, first: Floats) -> Floats:
        central: Floats = second - first * first
        return central

    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats:
        squares = np.einsum("kdn,kn->kd", (x - means[..., np.newaxis]) ** 2, resp)
        found: Floats = squares / resp.sum(axis=1)[:, np.newaxis]
        return found

    def from_standard(self, first: Floats, central: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        return first / precision_cholesky, central / precision_cholesky**2

    def variances(self, covariances: Floats) -> Floats:
        return covariances

    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        return covariances + variances

    def regularise(self, covariances: Floats, reg_covar: float) -> Floats:
        return covariances + reg_covar

    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        result: Floats = noise * np.sqrt(covariances[k])
        return result

    def _scales(self, precisions_cholesky: Floats) -> Floats:
        """Return one over the standard deviations, broadcastable to (n_components, n_features)."""
        return precisions_cholesky

    def _sum_second(self, second: Floats) -> Floats:
        return second


class Spherical(Diagonal):
    """Each component has one variance, the same for all features."""

    name = "spherical"

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return 1

    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        result: Floats = np.sqrt(2 * n_features) * np.log(precisions_cholesky / base)[:, np.newaxis]
        return result

    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        result: Floats = base * np.exp(relative[:, 0] / np.sqrt(2 * n_features))
        return result

    def log_norm(self, precisions_cholesky: Floats, n_components: int, n_features: int) -> Floats:
        return n_features * (np.log(precisions_cholesky) - LOG_2PI / 2)

    def fill_phi(self, phi: Floats, n_features: int) -> None:
        x = phi[-1 - n_features : -1]
        np.einsum("dn,dn->n", x, x, out=phi[0])

    def products(self, n_features: int) -> NDArray[np.int64] | None:
        return None

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

    def variances(self, covariances: Floats) -> Floats:
        return covariances[:, np.newaxis]

    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        added: Floats = variances.max(axis=1)
        return covariances + added

    def _scales(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky[:, np.newaxis]

    def _sum_second(self, second: Floats) -> Floats:
        total: Floats = second.sum(keepdims=True)
        return total


#: From this many features on, triangular products (half the flops) beat general ones (measured).
TRIANGULAR_FROM = 32

_KINDS = {kind.name: kind for kind in (Full(), Tied(), Diagonal(), Spherical())}


def covariance_kind(name: str) -> Covariance:
    """Return the covariance kind called `name`: full, tied, diag or spherical."""
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise OptionError(f"covariance_type must be one of {', '.join(_KINDS)}; got {name!r}.")
    return kind


@cache
def _triangle(n_features: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the upper triangle, row by row: the order in which second moments are packed."""
    return np.triu_indices(n_features)


@cache
def _pairs(n_features: int) -> NDArray[np.int64]:
    """Return the same as one array, (2, n_features * (n_features + 1) / 2)."""
    return np.stack(_triangle(n_features))


@cache
def _flat_triangle(n_features: int) -> NDArray[np.intp]:
    """Return `_triangle` as positions in the matrix laid flat; taking them is 4 times faster."""
    rows, columns = _triangle(n_features)
    return rows * n_features + columns


def _needed(row_set: RowSet | None) -> RowSet:
    if row_set is None:
        raise ValueError("row_set must be given for a tied mixture by Phi; got None. Make it in the survey.")
    return row_set


def _precision_cholesky(covariance: Floats, who: str) -> Floats:
    # (LAPACK itself: SciPy's checks around it took most of the time of an M-step with few features.)
    lower, failed = dpotrf(covariance, lower=True, clean=True)
    if failed or not np.isfinite(lower).all():
        raise _collapsed(who)
    return np.ascontiguousarray(dtrtri(lower, lower=True)[0].T)


def _solved(upper: Floats, right: Floats, *, transposed: bool = False) -> Floats:
    """Return upper^-1 right, or upper^-T right; infinities where it is singular.

    (LAPACK itself, as above: SciPy's checks take 60 us, which was most of an M-step in the exact form.)
    """
    # For Fortran, upper in C order is its transpose, lower.
    solution, failed = dtrtrs(upper.T, right, lower=1, trans=0 if transposed else 1)
    return np.full_like(right, np.inf) if failed else np.asarray(solution, dtype=np.float64)


def _covariance(precision_cholesky: Floats) -> Floats:
    inverse, _ = dtrtri(precision_cholesky.T, lower=True)
    result: Floats = inverse @ inverse.T
    return result


#: Variance in units of reg_covar below which rows are alike. (Smooth parts of photographs, 7,700 of 40,000 rows,
#: have 1.04 to 10 in 15 directions, and are no point masses.)
POINT_MASS = 1.1


def _gain(own: Floats, whole: Floats, reg_covar: float) -> Floats:
    """Return what directions, the last axis, that are hardly more than reg_covar gain a row together, nats.

    0 where these are not most of them.
    """
    # (None at all, or less, is what rounding leaves where other directions are so wide that it hides reg_covar.)
    counted = (own > 0) & (own < POINT_MASS * reg_covar) & (whole > own)
    gains = 0.5 * np.log(np.where(counted, whole / np.where(counted, own, 1.0), 1.0)).sum(axis=-1)
    return np.where(2 * counted.sum(axis=-1) > own.shape[-1], gains, 0.0)


#: Shares of reg_covar, and of the variances of its features, below which a variance is what rounding leaves of none.
#: (The sum of two features of float32 has a share of 1e-14 that they have not, the direction of the mean of 64 pixels,
#: which was subtracted in float32, 3e-12 to 5e-12.)
_OF_REG_COVAR, _OF_FEATURES = 1e-7, 1e-10


def _still(means: Floats, reg_covar: float) -> Floats:
    """Return the variance up to which a feature counts as constant, (n_features,), float64."""
    result: Floats = _OF_REG_COVAR * reg_covar + (4 * DOUBLE_ROUNDOFF * np.abs(means).max(axis=0)) ** 2
    return result


def _varying(whole: Floats, still: Floats, reg_covar: float) -> Floats:
    """Return the directions in which rows of this covariance, less reg_covar, vary: orthonormal, (n_features, n)."""
    n_features, variances = len(whole), np.diagonal(whole)
    moves = variances > still
    without = np.eye(n_features)[:, ~moves]
    if moves.any():
        # (In units of the features: small ones are none that do not vary.)
        scales = np.sqrt(variances[moves])
        values, vectors = np.linalg.eigh(whole[np.ix_(moves, moves)] / np.outer(scales, scales))
        noise = _OF_FEATURES + 4 * n_features * DOUBLE_ROUNDOFF * reg_covar / variances[moves].min()
        collinear = np.zeros((n_features, int((values <= noise).sum())))
        collinear[moves] = vectors[:, values <= noise] / scales[:, np.newaxis]
        without = np.hstack([without, collinear / np.linalg.norm(collinear, axis=0)])
    basis: Floats = np.linalg.qr(without, mode="complete")[0]
    return basis[:, without.shape[1] :]


def _check_precision(precision: Floats, where: str) -> None:
    if not np.allclose(precision, precision.T, rtol=1e-7, atol=0):
        raise OptionError(f"precisions_init{where} must be symmetric; got a matrix that is not. Use (A + A.T) / 2.")
    try:
        np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(precision)[0]
        raise OptionError(
            f"precisions_init{where} must be positive definite; got a smallest eigenvalue of {smallest:.6g}. "
            "Invert covariance matrices of full rank."
        ) from None


def _collapsed(who: str) -> CollapsedComponentError:
    return CollapsedComponentError(
        f"the covariance of {who} must be positive definite; got a singular one (single or duplicate rows, or a "
        "constant feature). Decrease n_components, increase reg_covar, or rescale or drop the features that hardly "
        "vary."
    )
