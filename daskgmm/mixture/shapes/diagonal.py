"""Diagonal: each component has its own variance for each feature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import LOG_2PI, Shape, collapsed
from daskgmm.mixture.shapes.thin import gain, still


class Diagonal(Shape):
    """Each component has its own variance for each feature."""

    sklearn_type = "diag"
    correlates = False

    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def n_second(self, n_features: int, *, exact: bool) -> int:
        return n_features

    def marginal(self, covariances: Floats, kept: NDArray[np.intp]) -> Floats:
        return covariances[:, kept]

    def conditional(self, covariances: Floats, kept: NDArray[np.intp], given: NDArray[np.intp]) -> tuple[Floats, None]:
        return self.marginal(covariances, kept), None

    def least_rows(self, n_features: int) -> int:
        return 3

    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        own = np.broadcast_to(self.variances(covariances), means.shape)
        whole = weights @ (own + (means - weights @ means) ** 2)
        return gain(own, np.where(whole > 2 * floor, whole, 0.0), floor)

    def least_variances(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        own = np.broadcast_to(self.variances(covariances), means.shape)
        whole = weights @ (own + (means - weights @ means) ** 2) - floor
        least: Floats = np.where(whole > still(means, floor), own, np.inf).min(axis=1) - floor
        return least

    def precisions_cholesky(self, covariances: Floats) -> Floats:
        for k, variances in enumerate(covariances):
            if not (np.min(variances) > 0 and np.isfinite(variances).all()):
                raise collapsed(f"component {k}")
        return 1 / np.sqrt(covariances)

    def check_definite(self, matrices: Floats, name: str) -> None:
        if (matrices <= 0).any():
            raise OptionError(
                f"`{name}`", "be positive", f"{matrices.min():.6g}", "Give variances, or one over them as precisions."
            )

    def cholesky_of_precisions(self, precisions: Floats) -> Floats:
        return np.sqrt(precisions)

    def scores(self, offsets: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        precision = np.square(precision_cholesky)[:, np.newaxis]
        u: Floats = precision * offsets
        return u, 0.5 * (np.square(u) - precision)

    def of_free(self, values: Floats, n_features: int) -> Floats:
        return values

    def precisions(self, precisions_cholesky: Floats) -> Floats:
        return np.square(precisions_cholesky)

    def covariances(self, precisions_cholesky: Floats) -> Floats:
        return 1 / np.square(precisions_cholesky)

    def rescaled(self, covariances: Floats, precisions_cholesky: Floats, scale: Floats) -> tuple[Floats, Floats]:
        return covariances * scale**2, precisions_cholesky / scale

    def from_matrices(self, matrices: Floats, weights: Floats) -> Floats:
        return np.diagonal(matrices, axis1=1, axis2=2).copy()

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
        return shifts * self.scales(precisions_cholesky)

    def unwhiten(self, whitened: Floats, precisions_cholesky: Floats) -> Floats:
        return whitened / self.scales(precisions_cholesky)

    def spread(self, z: Floats, precision_cholesky: Floats) -> Floats:
        return z / np.reshape(precision_cholesky, (-1, 1))

    def centre(self, w: Floats, means: Floats, precisions: Floats) -> Floats | None:
        with np.errstate(divide="ignore", invalid="ignore"):  # (what comes of it is looked at)
            found: Floats = (w @ (precisions * means)) / (w @ precisions)
        return found

    def log_norm(self, precisions_cholesky: Floats, n_components: int, n_features: int) -> Floats:
        result: Floats = np.log(precisions_cholesky).sum(axis=1) - n_features / 2 * LOG_2PI
        return result

    def bound(self, means: Floats, precisions: Floats, deviations: Floats, origin: Floats) -> Floats:
        result: Floats = ((np.abs(means - origin) / deviations + 1) ** 2).sum(axis=1)
        return result

    def natural_parameters(self, means: Floats, precisions_cholesky: Floats, constant: Floats) -> Floats:
        precisions = self.scales(precisions_cholesky) ** 2
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
        return (x - means[..., np.newaxis]) * self.scales(precisions_cholesky)[..., np.newaxis]

    def exact_statistics(self, z: Floats, resp: Floats, out: Floats, work: Floats) -> None:
        n_features = z.shape[0]
        np.multiply(z, z, out=work)
        out[: -1 - n_features] = self._sum_second(work @ resp)
        np.dot(z, resp, out=out[-1 - n_features : -1])
        out[-1] = resp.sum()

    def central_moments(self, second: Floats, first: Floats) -> Floats:
        central: Floats = second - first * first
        return central

    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats:
        squares = np.einsum("kdn,kn->kd", (x - means[..., np.newaxis]) ** 2, resp)
        found: Floats = squares / resp.sum(axis=1)[:, np.newaxis]
        return found

    def from_standard(self, first: Floats, central: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        return first / precision_cholesky, central / precision_cholesky**2

    def traces(self, precisions: Floats, covariances: Floats, n_features: int) -> Floats:
        return np.asarray((precisions * covariances).sum(axis=1))

    def variances(self, covariances: Floats) -> Floats:
        return covariances

    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        return covariances + variances

    def regularise(self, covariances: Floats, floor: float) -> Floats:
        return covariances + floor

    def wishart(self, n_features: int) -> tuple[int, int]:
        return 1, 1

    def floored(self, covariances: Floats, least: Floats) -> Floats:
        return np.maximum(covariances, least)

    def in_units_of(self, least: Floats, covariances: Floats, means: Floats) -> tuple[Floats, Floats]:
        return covariances / least, means / np.sqrt(self.variances(least))

    def packed(self, second: Floats) -> Floats:
        return np.stack([self._sum_second(np.diagonal(own)) for own in second])

    def plus(self, covariances: Floats, errors: Floats) -> Floats:
        return covariances + np.diagonal(errors)

    def less(self, covariances: Floats, errors: Floats, *, least: float) -> Floats:
        return np.maximum(covariances - np.diagonal(errors), least * covariances)

    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        result: Floats = noise * np.sqrt(covariances[k])
        return result

    def scales(self, precisions_cholesky: Floats) -> Floats:
        return precisions_cholesky

    def _sum_second(self, second: Floats) -> Floats:
        return second


DIAGONAL = Diagonal()
