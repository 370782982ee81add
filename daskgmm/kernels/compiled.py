"""The E-step of a block in one call, compiled by numba: where the extra `compiled` is installed, and only there.

NumPy passes over a block some ten times and takes the interpreter's lock between: with few features, where a pass is
short, two threads are then no faster than one. Here softmax is one sweep (1.5 ns an entry instead of 3.4) and a whole
block one call without the lock (two threads, D = 2, K = 8: 3.1 ns a row and component each instead of 9; D = 8, K = 16:
8 instead of 19). Formulas, guard and statistics are those of `estep.py`; only last bits differ.

Loops run over slices that begin at 0 and call nothing, or LLVM does not make vector code of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from daskgmm.kernels.compiled_softmax import STRIP, SUMS, Reals, add_totals, compiled
from daskgmm.kernels.compiled_softmax import label as label
from daskgmm.kernels.compiled_softmax import leave_out as leave_out
from daskgmm.kernels.compiled_softmax import softmax as softmax
from daskgmm.mixture.arrays import Floats

#: Up to so many numbers in Phi (4 of the data, full) plain loops beat BLAS, by up to 3 times for the sums.
SMALL_PHI = 16


@njit(inline="always")
def _fill(x: Floats, origin: Floats, products: NDArray[np.int64], shifted: Reals, phi: Reals, begin: int) -> None:
    """Fill rows `begin` and on of Phi(x - origin): products of features, then the features, then 1."""
    n_features, n_rows = x.shape
    n_products = products.shape[1]
    if begin == 0:
        for j in range(n_features):
            feature, row = x[j], shifted[j]
            for i in range(n_rows):
                row[i] = feature[i] - origin[j]  # in float64, then rounded
    for f in range(begin, begin + phi.shape[0]):
        row = phi[f - begin]
        if f < n_products:
            a, b = shifted[products[0, f]], shifted[products[1, f]]
            for i in range(n_rows):
                row[i] = a[i] * b[i]
        elif f < n_products + n_features:
            a = shifted[f - n_products]
            for i in range(n_rows):
                row[i] = a[i]
        else:
            for i in range(n_rows):
                row[i] = 1


@compiled
def add(total: Floats, correction: Floats, values: Reals) -> None:
    """Add values to total, all (n,), compensated: `Statistics.add` in one sweep, from float32 too."""
    for i in range(len(total)):
        value = np.float64(values[i]) - correction[i]
        new = total[i] + value
        correction[i] = (new - total[i]) - value
        total[i] = new


@njit(**SUMS)
def _add_squares(z: Floats, first: int, height: int, out: Floats) -> None:
    """Add the squares of z's rows from `first` on to out, (n_rows,)."""
    for d in range(first, first + height):
        row = z[d]
        for i in range(len(out)):
            out[i] += row[i] * row[i]


@compiled
def stacked_density(
    shifted: Floats,
    first: Floats,
    second: Floats,
    third: Floats,
    fourth: Floats,
    log_constants: Floats,
    height: int,
    group: int,
    z: Floats,
    out: Floats,
) -> None:
    """Do what `Stack.log_density` does, of its four matrices, in one call."""
    n, keep = len(out), z.shape[1] == len(out) * height
    out[:] = 0.0
    for low in range(0, n, group):
        high = min(low + group, n)
        begin = low * height if keep else 0
        end, rows = begin + (high - low) * height, slice(low * height, high * height)
        np.dot(first[rows], shifted[: first.shape[1]], z[0, begin:end])
        np.dot(second[rows], shifted[: second.shape[1]], z[1, begin:end])
        np.dot(third[rows], shifted[: third.shape[1]], z[2, begin:end])
        np.dot(fourth[rows], shifted[: fourth.shape[1]], z[3, begin:end])
        for k in range(low, high):
            for part in range(4):
                _add_squares(z[part], begin + (k - low) * height, height, out[k])
            for i in range(out.shape[1]):
                out[k, i] = log_constants[k] - 0.5 * out[k, i]


#: Up to so many rows plain loops add their products up faster than BLAS does.
FEW_FOR_LOOPS = 16


@compiled
def exact_sums(
    z: Floats,
    height: int,
    components: NDArray[np.int64],
    resp: Reals,
    few: Floats,
    second: Floats,
    out: Floats,
) -> None:
    """Write the exact form's sums of stacked components, over the rows whose responsibility is not zero.

    z is what `stacked_density` wrote; `few` (z.size of a component) and `second` (n_features, n_features) are scratch.
    """
    n_features, n_rows = len(second), z.shape[2]
    rows, roots = np.empty(n_rows, dtype=np.int64), np.empty(n_rows)
    for place in range(len(components)):
        own, sums = resp[components[place]], out[components[place]]
        n = 0
        for i in range(n_rows):
            rows[n] = i
            roots[n] = np.sqrt(np.float64(own[i]))
            n += own[i] > 0
        if n == 0:  # (a BLAS may leave the result of an empty product as it was)
            sums[:] = 0.0
            continue
        scaled = few[: n_features * n].reshape(n_features, n)
        for d in range(n_features):
            line, row = z[d // height, place * height + d % height], scaled[d]
            if n == n_rows:
                for i in range(n):
                    row[i] = roots[i] * line[i]
            else:
                for i in range(n):
                    row[i] = roots[i] * line[rows[i]]
        last = len(sums) - 1 - n_features
        np.dot(scaled, roots[:n], sums[last : last + n_features])
        sums[-1] = np.dot(roots[:n], roots[:n])
        if n > FEW_FOR_LOOPS:
            np.dot(scaled, scaled.T, second)
        begin = 0
        for d in range(n_features):
            panel = sums[begin : begin + n_features - d]
            for e in range(d, n_features):
                if n > FEW_FOR_LOOPS:
                    panel[e - d] = second[d, e]
                else:
                    total = 0.0
                    for i in range(n):
                        total += scaled[d, i] * scaled[e, i]
                    panel[e - d] = total
            begin += n_features - d


@njit(**SUMS)
def _small_density(eta: Reals, phi: Reals, density: Reals) -> None:
    """Write eta' Phi to density, four features at a time; the last feature is 1."""
    (n_phi, n_components), n_rows = eta.shape, phi.shape[1]
    for low in range(0, n_rows, STRIP):
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            n, constant = len(row), eta[n_phi - 1, k]
            for i in range(n):
                row[i] = constant
            f = 0
            while f + 4 < n_phi:
                a, b = phi[f, low : low + STRIP], phi[f + 1, low : low + STRIP]
                c, d = phi[f + 2, low : low + STRIP], phi[f + 3, low : low + STRIP]
                p, q, r, s = eta[f, k], eta[f + 1, k], eta[f + 2, k], eta[f + 3, k]
                for i in range(n):
                    row[i] += p * a[i] + q * b[i] + r * c[i] + s * d[i]
                f += 4
            while f + 1 < n_phi:
                a, p = phi[f, low : low + STRIP], eta[f, k]
                for i in range(n):
                    row[i] += p * a[i]
                f += 1


@njit(**SUMS)
def _small_sums(resp: Reals, phi: Reals, sums: Reals) -> None:
    """Write resp Phi' to sums, four features at a time; the last feature is 1."""
    (n_components, n_rows), n_phi = resp.shape, len(phi)
    zero = resp[0, 0] * 0
    sums[...] = 0
    for low in range(0, n_rows, STRIP):
        for k in range(n_components):
            row, out = resp[k, low : low + STRIP], sums[k]
            n, f = len(row), 0
            while f + 4 < n_phi:
                a, b = phi[f, low : low + STRIP], phi[f + 1, low : low + STRIP]
                c, d = phi[f + 2, low : low + STRIP], phi[f + 3, low : low + STRIP]
                p, q, r, s = zero, zero, zero, zero
                for i in range(n):
                    p += row[i] * a[i]
                    q += row[i] * b[i]
                    r += row[i] * c[i]
                    s += row[i] * d[i]
                out[f] += p
                out[f + 1] += q
                out[f + 2] += r
                out[f + 3] += s
                f += 4
            while f + 1 < n_phi:
                a, p = phi[f, low : low + STRIP], zero
                for i in range(n):
                    p += row[i] * a[i]
                out[f] += p
                f += 1
            p = zero
            for i in range(n):
                p += row[i]
            out[n_phi - 1] += p


@compiled
def log_density(
    x: Floats,
    origin: Floats,
    products: NDArray[np.int64],
    fill: bool,
    eta: Reals,
    shifted: Reals,
    phi: Reals,
    part: Reals,
    density: Reals,
) -> None:
    """Write the log of weight times density of a block, eta' Phi, to `density`; parameters as of `add_tile`."""
    (n_phi, n_components), (n_panel, n_rows) = eta.shape, phi.shape
    for begin in range(0, n_phi, n_panel):
        end = min(begin + n_panel, n_phi)
        panel = phi[: end - begin]
        if fill:
            _fill(x, origin, products, shifted, panel, begin)
        if n_phi <= SMALL_PHI:
            _small_density(eta, phi, density)
        elif begin == 0:
            np.dot(eta[begin:end].T, panel, density)
        else:
            more = part[: n_components * n_rows].reshape(n_components, n_rows)
            np.dot(eta[begin:end].T, panel, more)
            for k in range(n_components):
                row, other = density[k], more[k]
                for i in range(n_rows):
                    row[i] += other[i]


@compiled
def add_tile(
    x: Floats,
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
) -> None:
    """Do the E-step of a tile by Phi, and add its sums to those of a candidate.

    Phi is made in panels of as many features as `phi` has rows; where it takes more than one (many features: a whole
    Phi would fall out of the cache) each is made twice, for the density and for the sums.

    Parameters
    ----------
    x : (n_features, n_rows), float64
    origin : (n_features,), float64
    products : (2, n_products), int64
        The features of each product, which come first in Phi.
    fill : bool
        Whether Phi is to be filled; False where another candidate has done it, in one panel.
    eta : (n_phi, n_components), float64 or float32
        Natural parameters, transposed. What follows has its dtype, unless said otherwise.
    shifted, phi, part, density : (n_features, n_rows), (n_panel, n_rows), (n,), (n_components, n_rows)
        Buffers; n is n_components times the larger of n_panel and n_rows. Where there is noise, density has a row more.
    weights, log_likelihood, scratch, smallest
        See `softmax`.
    log_noise : scalar
        Log of weight times density of the noise, where density has a row for it.
    total, correction : (n_components * n_phi + 3,), float64
        The compensated sums of responsibilities, times row weights, times Phi; of log-likelihood and row weights. (The
        last, a number of rows, is left alone.)
    """
    own = density[: eta.shape[1]]
    log_density(x, origin, products, fill, eta, shifted, phi, part, own)
    for k in range(len(own), len(density)):
        row = density[k]
        for i in range(len(row)):
            row[i] = log_noise
    add_densities(
        x, origin, products, eta, shifted, phi, part, density, weights, log_likelihood, scratch, smallest, total,
        correction,
    )  # fmt: skip


@compiled
def add_densities(
    x: Floats,
    origin: Floats,
    products: NDArray[np.int64],
    eta: Reals,
    shifted: Reals,
    phi: Reals,
    part: Reals,
    density: Reals,
    weights: Floats,
    log_likelihood: Floats,
    scratch: Reals,
    smallest: Any,
    total: Floats,
    correction: Floats,
) -> None:
    """Do what is left of `add_tile` once there are densities, which become responsibilities."""
    (n_phi, n_components), n_panel = eta.shape, len(phi)
    own = density[:n_components]
    softmax(density, weights, log_likelihood, scratch, smallest)
    for begin in range(0, n_phi, n_panel):
        end = min(begin + n_panel, n_phi)
        panel = phi[: end - begin]
        if n_panel < n_phi:
            _fill(x, origin, products, shifted, panel, begin)
        sums = part[: n_components * (end - begin)].reshape(n_components, end - begin)
        if n_phi <= SMALL_PHI:
            _small_sums(own, phi, sums)
        else:
            np.dot(own, panel.T, sums)
        for k in range(n_components):
            low, high = k * n_phi + begin, k * n_phi + end
            add(total[low:high], correction[low:high], sums[k])
    add_totals(log_likelihood, weights, total[-3:-1], correction[-3:-1])


@compiled
def add_block(
    x: Floats,
    length: int,
    tile: Floats,
    origin: Floats,
    products: NDArray[np.int64],
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
) -> None:
    """Do `add_tile` for all tiles of a block, (n_features, n_rows), of `length` rows each (the last may have fewer).

    The buffer `tile` is as large as one, flat; the others are those of `add_tile`.
    """
    n_features, n_rows = x.shape
    n_densities, n_panel = len(density), len(phi)
    flat_shifted, flat_phi, flat_density = shifted.reshape(-1), phi.reshape(-1), density.reshape(-1)
    for low in range(0, n_rows, length):
        n = min(length, n_rows - low)
        rows = tile[: n_features * n].reshape(n_features, n)
        for j in range(n_features):
            source, target = x[j, low : low + n], rows[j]
            for i in range(n):
                target[i] = source[i]
        add_tile(
            rows, origin, products, True, eta,
            flat_shifted[: n_features * n].reshape(n_features, n), flat_phi[: n_panel * n].reshape(n_panel, n), part,
            flat_density[: n_densities * n].reshape(n_densities, n), weights[low : low + n], log_likelihood[:n],
            scratch, smallest, log_noise, total, correction,
        )  # fmt: skip
