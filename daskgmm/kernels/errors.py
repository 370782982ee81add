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
from daskgmm.kernels.error_matrices import SMALLEST, Part, factor, groups, invert, n_bytes, solve
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

    Costs about D^3 / 3 + 2 D^2 flops a row and component for the density, and D^3 + 5 D^2 for the sums of each that is
    not surely another's.
    """

    completes: ClassVar[bool] = True

    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        of = _components(plan)
        if plan.compiled:
            given = _given(tile)
            strips, sizes = _strips(tile)
            if not error_loops().noisy_strips(tile.x, given, strips):
                _check(_noise(tile), len(tile.x))
            constants = np.where(np.isfinite(of.constants), of.constants, 0.0)
            error_loops().noisy_density(
                *sizes, strips, plan.means, of.covariances, of.deviations**-2, constants, own, out
            )
        else:
            noise = _noise(tile)
            _check(noise, len(tile.x))
            _density(plan, own, tile, noise, out)
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
            _score(plan, own, tile, resp, counts, first, second)
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
        n_given = 8 * tile_length(n_features) * (3 * n_features * n_features + 3 * n_features)
        return n_own + n_given + n_bytes(n_features)


#: Of the variance that rows show a start has at least so much: EM is slow to widen what is narrow among large errors.
LEAST_OF_START = 0.05


def _mean(columns: Mapping[str, NDArray[Any]], weights: Floats, n_features: int) -> Floats:
    """Return the mean covariance of errors, (n_features, n_features), of rows in memory."""
    given = np.asarray(columns[ERRORS], dtype=np.float64).reshape(len(weights), -1)
    noise = variances(given.T, n_features)
    _check(noise, n_features)
    mean = noise @ (weights / weights.sum())
    if len(mean) == n_features:
        return np.diag(mean)
    found = np.zeros((n_features, n_features))
    found[triangle(n_features)] = mean
    found += np.triu(found, 1).T
    least, *_, most = np.linalg.eigvalsh(found)
    if least < -1e-9 * most:
        _refuse("be covariances, which are positive semidefinite", "others in some row")
    return found


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
        part = Part(tile.x[:, rows], noise[:, rows], plan.means[k], of.covariances[k])
        found = of.covariances[k] @ solve(factor([part], tile.work), tile.work)
        found += plan.means[k][:, np.newaxis]
        found *= resp[k, rows]
        out[:, rows] += found


def _given(tile: Tile) -> Floats:
    """Return the errors of a tile, (n, n_rows)."""
    if ERRORS not in tile.columns:
        _refuse("come with each row", "none")
    return np.asarray(tile.columns[ERRORS], dtype=np.float64).reshape(-1, tile.x.shape[1])


def _noise(tile: Tile) -> Floats:
    """Return the errors of a tile as `variances` does."""
    return variances(_given(tile), len(tile.x))


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
            _check_finite(square)
            apart, most = np.abs(upper - lower), 1e-9 * np.abs(upper) + 1e-12 * np.abs(square).max()
            if not (apart <= most).all():
                _refuse("be symmetric matrices", "others in some row")
        return np.ascontiguousarray(upper)
    return np.ascontiguousarray(given)


def _check_finite(errors: Floats) -> None:
    if not np.isfinite(errors.sum()):  # (one sum finds any NaN)
        _refuse("be finite", "NaN or infinity in some row")


def _check(noise: Floats, n_features: int) -> None:
    """Raise a DataError for errors that are none."""
    _check_finite(noise)
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


def _density(plan: Plan, own: Integers, tile: Tile, noise: Floats, out: NDArray[Any]) -> None:
    """Do what `Noisy.log_density` does, by NumPy."""
    of, (n_features, n_rows) = _components(plan), tile.x.shape
    constants = np.where(np.isfinite(of.constants), of.constants, 0.0)
    for group in groups([n_rows] * len(own), n_features):
        some = own[group]
        parts = [Part(tile.x, noise, plan.means[k], of.covariances[k]) for k in some]
        factors = factor(parts, tile.work).reshape(n_features, n_features + 1, len(some), n_rows)
        pivots, z = np.einsum("iikn->ikn", factors[:, :-1]), factors[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):  # (what comes of it is looked at)
            z *= z
            z /= pivots
            pivots *= of.deviations[some].T[:, :, np.newaxis] ** -2
            z += np.log(pivots, out=pivots)
        out[some] = constants[some, np.newaxis] - 0.5 * z.sum(axis=0)


def _score(
    plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], counts: Floats, first: Floats, second: Floats
) -> None:
    """Write the sums of r, r u and r (u u' - M) of components, by NumPy."""
    of, noise, (n_features, n_rows) = _components(plan), _noise(tile), tile.x.shape
    rows: list[Any] = [np.flatnonzero(resp[k] > SMALLEST * resp[k].mean()) for k in own]
    rows = [slice(None) if len(some) > FEW_ROWS * n_rows else some for some in rows]
    sizes = [n_rows if isinstance(some, slice) else len(some) for some in rows]
    for group in groups(sizes, n_features):
        which = range(len(own))[group]
        parts = [Part(tile.x[:, rows[i]], noise[:, rows[i]], plan.means[own[i]], of.covariances[own[i]]) for i in which]
        factors = factor(parts, tile.work)
        weights = np.concatenate([np.asarray(resp[own[i], rows[i]], dtype=np.float64) for i in which])
        u, inverse = solve(factors, tile.work), invert(factors, tile.work)
        # M = W' D^-1 W with W = L^-1, whose rows are weighed by roots: a product of all rows for each of W's.
        for j in range(n_features):
            inverse[j, : j + 1] *= np.sqrt(weights / factors[j, j])
        low = 0
        for i in which:
            high = low + sizes[i]
            mine, r = u[:, low:high], weights[low:high]
            counts[i], first[i], second[i] = r.sum(), mine @ r, (mine * r) @ mine.T
            for j in range(n_features):
                part = inverse[j, : j + 1, low:high]
                second[i, : j + 1, : j + 1] -= part @ part.T
            low = high
