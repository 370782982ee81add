"""Tiles of rows some of which have gaps, compiled by numba: what `compiled.py` does, between what gaps need."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.compiled import add_densities, log_density
from daskgmm.kernels.compiled_softmax import Reals, compiled
from daskgmm.mixture.arrays import Floats

#: Rows that are turned from columns at once, or solved: what a line of the cache has.
AT_ONCE = 8


@compiled
def correct(
    gains: Floats,
    changes: Floats,
    most_gains: Floats,
    rows: NDArray[np.int64],
    first_row: int,
    near: NDArray[np.int64],
    constants: Floats,
    bound: Floats,
    limit: float,
    density: Reals,
    doubtful: NDArray[np.bool_],
) -> bool:
    """Change log-densities of rows by what `solve` has found, and return whether any may have lost digits.

    Which, (n_rows, n_components), is written to `doubtful`, zeros before (`GapForm.doubtful`). Rows count from
    `first_row`.
    """
    any_doubt = False
    for k in range(len(near)):
        row, change, gain = density[near[k]], changes[k], gains[k]
        for g in range(len(rows)):
            i = rows[g] - first_row
            row[i] = np.float64(row[i]) + change[g]
        if not most_gains[k] * bound[k] <= limit:
            for g in range(len(rows)):
                q = 2.0 * (constants[k] + change[g] - 0.5 * gain[g] - np.float64(row[rows[g] - first_row]))
                doubtful[g, near[k]] = not gain[g] * bound[k] <= limit * max(1.0, q)
                any_doubt |= doubtful[g, near[k]]
    return any_doubt


@compiled
def keep(
    resp: Reals,
    rows: NDArray[np.int64],
    first_row: int,
    near: NDArray[np.int64],
    summed: NDArray[np.bool_],
    out: Floats,
) -> None:
    """Write the responsibilities of rows of those near components that are summed to out, (n, n_near in full lanes)."""
    for begin in range(0, len(rows), AT_ONCE):
        for k in range(out.shape[1]):
            if k < len(near) and summed[k]:
                row = resp[near[k]]
                for g in range(begin, min(begin + AT_ONCE, len(rows))):
                    out[g, k] = row[rows[g] - first_row]
            else:
                for g in range(begin, min(begin + AT_ONCE, len(rows))):
                    out[g, k] = 0.0


@compiled
def add_tiles(
    x: Floats,
    length: int,
    tile: Floats,
    origin: Floats,
    products: NDArray[np.int64],
    fill: bool,
    eta: Reals,
    shifted: Reals,
    phi: Reals,
    part: Reals,
    density: Reals,
    weights: Floats,
    log_likelihood: Floats,
    scratch: Reals,
    smallest: Any,
    log_noise: Any,
    total: Floats,
    correction: Floats,
    gains: Floats,
    changes: Floats,
    most_gains: Floats,
    rows: NDArray[np.int64],
    near: NDArray[np.int64],
    summed: NDArray[np.bool_],
    constants: Floats,
    bound: Floats,
    limit: float,
    doubtful: NDArray[np.bool_],
    resp: Floats,
) -> int:
    """Do what `compiled.add_block` does, for densities that are corrected, and `keep` responsibilities.

    Returns the first row of the first tile with densities that may have lost digits, which is left alone like all
    that follow it; else the number of rows.
    """
    n_features, n_rows = x.shape
    n_densities, n_phi, first = len(density), len(phi), 0
    flat_shifted, flat_phi, flat_density = shifted.reshape(-1), phi.reshape(-1), density.reshape(-1)
    for low in range(0, n_rows, length):
        n = min(length, n_rows - low)
        last, some = first, tile[: n_features * n].reshape(n_features, n)
        while last < len(rows) and rows[last] < low + n:
            last += 1
        for j in range(n_features):
            source, target = x[j, low : low + n], some[j]
            for i in range(n):
                target[i] = source[i]
        own_shifted, own_phi = (
            flat_shifted[: n_features * n].reshape(n_features, n),
            flat_phi[: n_phi * n].reshape(n_phi, n),
        )
        own = flat_density[: n_densities * n].reshape(n_densities, n)
        log_density(some, origin, products, fill, eta, own_shifted, own_phi, part, own[: eta.shape[1]])
        own[eta.shape[1] :] = log_noise
        if correct(
            gains[:, first:last], changes[:, first:last], most_gains, rows[first:last], low, near, constants, bound,
            limit, own, doubtful[first:last],
        ):  # fmt: skip
            return low
        add_densities(
            some, origin, products, eta, own_shifted, own_phi, part, own, weights[low : low + n], log_likelihood[:n],
            scratch, smallest, total, correction,
        )  # fmt: skip
        keep(own, rows[first:last], low, near, summed, resp[first:last])
        first = last
    return int(n_rows)
