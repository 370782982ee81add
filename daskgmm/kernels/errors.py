"""Rows with measurement errors: each is drawn with a covariance of its own beside its component's.

A row is x = v + e with the true values v from the mixture and e from N(0, S), S known for the row. With T = V_k + S,
u = T^-1 (x - mu_k) and M = T^-1 the sums that EM needs are those of r, r u and r (u u' - M): E[v - mu_k] = V_k u, and
the covariance of v about that is V_k - V_k M V_k (Bovy, Hogg and Roweis 2011, doi:10.1214/10-AOAS439). V is inverted
nowhere but where its factor comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError
from daskgmm.kernels.exact import FEW_ROWS, Exact
from daskgmm.kernels.kernel import Integers
from daskgmm.kernels.loops import error_loops
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.tile import Tile
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.common_errors import with_errors, without_errors
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.matrices import triangle
from daskgmm.mixture.shapes.shape import LOG_2PI, Shape

#: The column of errors beside the rows: n_features standard deviations each, or covariances, flat or packed.
ERRORS = "errors"


class Components(NamedTuple):
    """What the kernel derives from a plan: V = R R', (n_components, n_features, n_features), and what a density has."""

    roots: Floats
    covariances: Floats
    deviations: Floats
    constants: Floats


@dataclass(frozen=True)
class Noisy(Exact):
    """The E-step of rows that come with their errors, in the column ERRORS.

    Costs about D^3 / 3 + D^2 flops a row and component for the density, and D^3 + 3 D^2 for the sums of each that is
    not surely another's.
    """

    completes: ClassVar[bool] = True

    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        of, noise = _components(plan), _noise(tile)
        _check(noise, len(tile.x))
        if plan.compiled:
            strips, sizes = _strips(tile)
            error_loops().noisy_strips(tile.x, noise, strips)
            constants = np.where(np.isfinite(of.constants), of.constants, 0.0)
            error_loops().noisy_density(
                *sizes, strips, plan.means, of.covariances, of.deviations**-2, constants, own, out
            )
        else:
            for k in own:
                y, lower = _factored(plan, of, k, tile.x, noise, tile)
                density = -0.5 * np.einsum("dn,dn->n", y, y)
                for j in range(len(tile.x)):
                    density -= np.log(lower[j, j] / of.deviations[k, j])
                out[k] = density + (of.constants[k] if np.isfinite(of.constants[k]) else 0.0)
        if not np.isfinite((out if len(own) == len(out) else out[own]).sum()):
            _refuse(
                "be covariances, which are positive semidefinite, and values lie within 1e150", "others in some row"
            )

    def sums(self, plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], out: Floats) -> None:
        of, n_features = _components(plan), len(tile.x)
        counts, first = np.zeros(len(own)), np.zeros((len(own), n_features))
        second = np.zeros((len(own), n_features, n_features))
        if plan.compiled:
            strips, sizes = _strips(tile)
            error_loops().noisy_sums(*sizes, strips, plan.means, of.covariances, own, resp, counts, first, second)
        else:
            noise = _noise(tile)
            for i, k in enumerate(own):
                counts[i], first[i], second[i] = _score(plan, of, k, tile, noise, np.asarray(resp[k], dtype=np.float64))
        # In units of the component, z = P'(v - mu), as those of the exact form: z = R'u, of covariance 1 - R'M R.
        roots = of.roots[own]
        turned = np.swapaxes(roots, -1, -2)
        about = turned @ second @ roots
        np.einsum("kii->ki", about)[...] += counts[:, np.newaxis]
        out[own, : -1 - n_features] = plan.shape.packed(about)
        out[own, -1 - n_features : -1] = np.einsum("kji,kj->ki", roots, first)
        out[own, -1] = counts

    def seen(self, parameters: Parameters, columns: Mapping[str, NDArray[Any]], weights: Floats) -> Parameters:
        return with_errors(parameters, _mean(columns, weights, parameters.n_features))

    def unseen(self, parameters: Parameters, columns: Mapping[str, NDArray[Any]], weights: Floats) -> Parameters:
        return without_errors(parameters, _mean(columns, weights, parameters.n_features), least=LEAST_OF_START)

    def n_bytes(self, shape: Shape, n_components: int, n_features: int) -> int:
        from daskgmm.kernels.block import tile_length

        n_own = 8 * n_components * (3 * n_features * n_features + 3 * n_features)
        return n_own + 8 * tile_length(n_features) * (3 * n_features * n_features + 8 * n_features)


#: Of the variance that rows show a start has at least so much: EM is slow to widen what is narrow among large errors.
LEAST_OF_START = 0.05


def _mean(columns: Mapping[str, NDArray[Any]], weights: Floats, n_features: int) -> Floats:
    """Return the mean covariance of errors, (n_features, n_features), of rows in memory."""
    given = np.asarray(columns[ERRORS], dtype=np.float64).reshape(len(weights), -1)
    noise = variances(given.T, n_features)
    mean = noise @ (weights / weights.sum())
    if len(mean) == n_features:
        return np.diag(mean)
    found = np.zeros((n_features, n_features))
    found[triangle(n_features)] = mean
    return found + np.triu(found, 1).T


def posterior(plan: Plan, tile: Tile, resp: Floats, out: Floats) -> None:
    """Write the means of the true values given the rows, (n_features, n_rows), for responsibilities.

    Notes
    -----
    sum_k r_k (mu_k + V_k u_k).
    """
    of, noise = _components(plan), _noise(tile)
    out[...] = 0.0
    for k in range(plan.n_components):
        rows = np.flatnonzero(resp[k])
        if not len(rows):
            continue
        y, lower = _factored(plan, of, k, tile.x[:, rows], noise[:, rows], tile)
        found = of.covariances[k] @ _backwards(lower, y)
        found += plan.means[k][:, np.newaxis]
        found *= resp[k, rows]
        out[:, rows] += found


def _noise(tile: Tile) -> Floats:
    """Return the errors of a tile as `variances` does."""
    n_features, n_rows = tile.x.shape
    if ERRORS not in tile.columns:
        _refuse("come with each row", "none")
    return variances(np.asarray(tile.columns[ERRORS], dtype=np.float64).reshape(-1, n_rows), n_features)


def _strips(tile: Tile) -> tuple[Floats, tuple[Any, Any]]:
    """Return the buffer of a tile's rows and errors as compiled loops take them, and what tells these of sizes."""
    n_features, n_rows = tile.x.shape
    n_errors = n_features if tile.columns[ERRORS].size == tile.x.size else n_features * (n_features + 1) // 2
    shape, sizes = error_loops().noisy_form(n_features, n_errors, n_rows)
    buffer = tile.work.get("strips", (shape[0] * shape[1] + 8,))
    begin = -(buffer.ctypes.data // 8) % 8  # (where a line of the cache begins)
    return buffer[begin : begin + shape[0] * shape[1]].reshape(shape), sizes


def variances(given: Floats, n_features: int) -> Floats:
    """Return errors, (n, n_rows), as variances, (n_features, n_rows), or upper triangles of covariances, packed."""
    if len(given) == n_features:
        return np.ascontiguousarray(given * np.abs(given))  # (a negative one stays negative)
    if len(given) == n_features**2:
        square = given.reshape(n_features, n_features, -1)
        rows, columns = triangle(n_features)
        upper, lower = square[rows, columns], square[columns, rows]
        if (upper != lower).any():
            apart, most = np.abs(upper - lower), 1e-9 * np.abs(upper) + 1e-12 * np.abs(square).max()
            if not (apart <= most).all():
                _refuse("be symmetric matrices", "others in some row")
        return np.ascontiguousarray(upper)
    return np.ascontiguousarray(given)


def _check(noise: Floats, n_features: int) -> None:
    """Raise a DataError for errors that are none. (One sum finds any NaN.)"""
    if not np.isfinite(noise.sum()):
        _refuse("be finite", "NaN or infinity in some row")
    if len(noise) == n_features:
        least = noise.min()
    else:
        rows, columns = triangle(n_features)
        least = noise[rows == columns].min()
    if least < 0:
        what = -np.sqrt(-least) if len(noise) == n_features else least
        _refuse("be at least 0", f"{what:.6g} in some row")


def _refuse(must: str, got: str) -> None:
    raise DataError(
        "`errors`",
        must,
        got,
        "Give a standard deviation (or a covariance) for each value, 0 for one that is exact; leave rows without out.",
    )


def _components(plan: Plan) -> Components:
    """Return what the kernel derives from a plan, once for each process and pass."""
    if "noisy" not in plan.derived:
        n_components, n_features = plan.means.shape
        roots = np.empty((n_components, n_features, n_features))
        for k in range(n_components):
            roots[k] = plan.shape.spread(np.eye(n_features), plan.shape.component(plan.precisions_cholesky, k))
        covariances = roots @ np.swapaxes(roots, -1, -2)
        deviations = np.sqrt(np.einsum("kii->ki", covariances))
        constants = plan.log_weights - n_features / 2 * LOG_2PI - np.log(deviations).sum(axis=1)
        plan.derived["noisy"] = Components(roots, covariances, deviations, constants)
    found: Components = plan.derived["noisy"]
    return found


def _factored(plan: Plan, of: Components, k: int, x: Floats, noise: Floats, tile: Tile) -> tuple[Floats, Floats]:
    """Return y = L^-1 (x - mu), (n_features, n_rows), and L with L L' = V + S, (n_features, n_features, n_rows)."""
    n_features, n_rows = x.shape
    lower: Floats = tile.work.get("factors", (n_features, n_features, n_rows))
    y: Floats = tile.work.get("scaled", (n_features, n_rows))
    lower[...] = of.covariances[k][:, :, np.newaxis]
    if len(noise) == n_features:
        np.einsum("iin->in", lower)[...] += noise
    else:
        rows, columns = triangle(n_features)
        for place, (i, j) in enumerate(zip(rows, columns, strict=True)):
            lower[j, i] += noise[place]
    np.subtract(x, plan.means[k][:, np.newaxis], out=y)
    with np.errstate(invalid="ignore", divide="ignore"):  # (what comes of it is looked at)
        for j in range(n_features):
            column = lower[j:, j]
            if j:
                column -= np.einsum("ikn,kn->in", lower[j:, :j], lower[j, :j])
                y[j] -= np.einsum("kn,kn->n", lower[j, :j], y[:j])
            np.sqrt(column[0], out=column[0])
            column[1:] /= column[0]
            y[j] /= column[0]
    return y, lower


def _backwards(lower: Floats, y: Floats) -> Floats:
    """Return u = L'^-1 y; y is overwritten."""
    for j in range(len(y) - 1, -1, -1):
        y[j] -= np.einsum("kn,kn->n", lower[j + 1 :, j], y[j + 1 :])
        y[j] /= lower[j, j]
    return y


def _score(plan: Plan, of: Components, k: int, tile: Tile, noise: Floats, resp: Floats) -> tuple[float, Floats, Floats]:
    """Return the sums of r, r u and r (u u' - M) of a component."""
    n_features, rows = len(tile.x), np.flatnonzero(resp)
    x = tile.x
    if len(rows) <= FEW_ROWS * len(resp):
        x, noise, resp = x[:, rows], noise[:, rows], resp[rows]
    if not len(rows):
        return 0.0, np.zeros(n_features), np.zeros((n_features, n_features))
    y, lower = _factored(plan, of, k, x, noise, tile)
    # M = W'W with W = L^-1, whose rows are weighed by the roots of responsibilities: one product of all rows.
    n_rows, roots = x.shape[1], np.sqrt(resp)
    inverse = tile.work.get("inverse", (n_features, n_features, n_rows))  # (W transposed: [j, i] is W of row i)
    inverse[...] = 0.0
    for i in range(n_features):
        inverse[i, i] = 1.0
        if i:
            inverse[:i, i] = -np.einsum("kn,jkn->jn", lower[i, :i], inverse[:i, :i])
        inverse[: i + 1, i] /= lower[i, i]
    u = _backwards(lower, y)
    first = u @ resp
    u *= roots
    inverse *= roots
    flat = inverse.reshape(n_features, -1)
    return float(resp.sum()), first, u @ u.T - flat @ flat.T
