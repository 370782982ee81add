"""The E-step of rows with measurement errors, compiled by numba: one factor of T = V + S a row and component.

D^3 / 6 multiplications of the density, and D^3 / 2 of the sums, each along a strip of rows: one by one where features
are few (`compiled_error_rows.py`), and in loops over a matrix's entries else. Formulas are those of `errors.py`; only
last bits differ. Matrices are packed by rows of their lower triangle, errors of their upper one.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from daskgmm.kernels.compiled_error_rows import MOST_FEATURES, STRIDE, WIDTH, add_row, density_parts
from daskgmm.kernels.compiled_softmax import SUMS, Reals, _log, compiled
from daskgmm.kernels.error_matrices import SMALLEST
from daskgmm.mixture.arrays import Floats

#: Up to such a part of a tile's rows it pays to gather those that count for a component.
FEW_ROWS = 0.5
#: Pivots, in units of the component's variances: the least, and of two the greatest product.
LEAST, MOST, LOG_2 = 1e-150, 1e300, log(2)
#: Pivots of which the product is taken before its logarithm.
PIVOTS = 8


@njit(**SUMS)
def _less(t: Floats, a: Floats, b: Floats, first: int, n: int) -> None:
    """Take from t, (WIDTH,), the products of n rows of a, and of b, from `first` on: three at a time."""
    k = first
    while k + 2 < n:
        a0, a1, a2, b0, b1, b2 = a[k], a[k + 1], a[k + 2], b[k], b[k + 1], b[k + 2]
        for r in range(WIDTH):
            t[r] -= a0[r] * b0[r] + a1[r] * b1[r] + a2[r] * b2[r]
        k += 3
    if k + 1 < n:
        a0, a1, b0, b1 = a[k], a[k + 1], b[k], b[k + 1]
        for r in range(WIDTH):
            t[r] -= a0[r] * b0[r] + a1[r] * b1[r]
    elif k < n:
        a0, b0 = a[k], b[k]
        for r in range(WIDTH):
            t[r] -= a0[r] * b0[r]


@njit(**SUMS)
def _factor(x: Floats, noise: Floats, mean: Floats, covariance: Floats, lower: Floats, y: Floats) -> None:
    """Write L with L L' = V + S of each row, its diagonal inverted, and y = L^-1 (x - mu)."""
    n_features = len(x)
    full = len(noise) != n_features
    for j in range(n_features):
        first = j * (j + 1) // 2
        b, d = lower[first : first + j + 1], lower[first + j]
        for i in range(j, n_features):
            a, c = lower[i * (i + 1) // 2 : i * (i + 1) // 2 + i + 1], covariance[i, j]
            t, begin = a[j], 0
            if full or i == j:
                s = noise[j * n_features - j * (j - 1) // 2 + i - j] if full else noise[j]
                for r in range(WIDTH):
                    t[r] = c + s[r]
            elif j > 1:
                a0, a1, b0, b1, begin = a[0], a[1], b[0], b[1], 2
                for r in range(WIDTH):
                    t[r] = c - (a0[r] * b0[r] + a1[r] * b1[r])
            elif j == 1:
                a0, b0, begin = a[0], b[0], 1
                for r in range(WIDTH):
                    t[r] = c - a0[r] * b0[r]
            else:
                for r in range(WIDTH):
                    t[r] = c
            _less(t, a, b, begin, j)
            if i == j:
                for r in range(WIDTH):
                    t[r] = 1.0 / np.sqrt(t[r])
            else:
                for r in range(WIDTH):
                    t[r] *= d[r]
        w, row, m = y[j], x[j], mean[j]
        for r in range(WIDTH):
            w[r] = row[r] - m
        _less(w, b, y, 0, j)
        for r in range(WIDTH):
            w[r] *= d[r]


@njit(**SUMS)
def _invert(lower: Floats, inverse: Floats) -> None:
    """Write W = L^-1, by columns: W[i, j] to inverse[j, i]."""
    n_features = len(inverse)
    for j in range(n_features):
        column = inverse[j]
        for i in range(j, n_features):
            t, row = column[i], lower[i * (i + 1) // 2 : i * (i + 1) // 2 + i + 1]
            d = row[i]
            if i == j:
                for r in range(WIDTH):
                    t[r] = d[r]
                continue
            for r in range(WIDTH):
                t[r] = 0.0
            _less(t, row, column, j, i)
            for r in range(WIDTH):
                t[r] *= d[r]


@njit(**SUMS)
def _add(inverse: Floats, y: Floats, resp: Floats, u: Floats, sums: Floats) -> None:
    """Add sum r, r u and r (u u' - W'W), upper triangle, to sums, (n, STRIDE), in its first lane, with u = W'y."""
    n_features = len(y)
    for r in range(WIDTH):
        sums[0, r] += resp[r]
    for a in range(n_features):
        t = u[a]
        for r in range(WIDTH):
            t[r] = 0.0
        _less(t, inverse[a], y, a, n_features)
        total = 0.0
        for r in range(WIDTH):
            total -= resp[r] * t[r]
        sums[1 + a, 0] += total
    place = 1 + n_features
    for a in range(n_features):
        for b in range(a, n_features):
            v, w, ua, ub, total = inverse[a], inverse[b], u[a], u[b], 0.0
            for r in range(WIDTH):
                total += resp[r] * ua[r] * ub[r]
            i = b
            while i + 1 < n_features:
                v0, w0, v1, w1 = v[i], w[i], v[i + 1], w[i + 1]
                for r in range(WIDTH):
                    total -= resp[r] * (v0[r] * w0[r] + v1[r] * w1[r])
                i += 2
            if i < n_features:
                v0, w0 = v[i], w[i]
                for r in range(WIDTH):
                    total -= resp[r] * (v0[r] * w0[r])
            sums[place, 0] += total
            place += 1


def noisy_form(n_features: int, n_errors: int, n_rows: int) -> tuple[tuple[int, int], tuple[Any, Any]]:
    """Return the shape of strips, and `size` and `entries`, tuples whose types tell the compiler what to do.

    They are of n_features zeros, and of as many as a row has numbers for its errors; both are empty for loops over
    entries.
    """
    sizes = ((0,) * n_features, (0,) * n_errors) if n_features <= MOST_FEATURES else ((), ())
    return (-(-n_rows // WIDTH), (n_features + n_errors) * STRIDE), sizes


def _density(
    size: Any, entries: Any, values: Floats, mean: Floats, covariance: Floats, scales: Floats, constant: float,
    scratch: Any, out: Floats,
) -> None:  # fmt: skip
    """Write log of weight times density of a strip to out, (WIDTH,)."""
    raise NotImplementedError


def _density_in_loops(
    size: Any, entries: Any, values: Any, mean: Any, covariance: Any, scales: Any, constant: Any,
    scratch: Any, out: Any,
) -> None:  # fmt: skip
    n_features = len(mean)
    lower, _, y, product = scratch
    strip = values.reshape(-1, STRIDE)
    _factor(strip[:n_features], strip[n_features:], mean, covariance, lower, y)
    for r in range(WIDTH):
        out[r] = constant
    for begin in range(0, n_features, PIVOTS):
        for r in range(WIDTH):
            product[0, r] = 1.0
        for j in range(begin, min(begin + PIVOTS, n_features)):
            d, z, s = lower[j * (j + 1) // 2 + j], y[j], 1.0 / np.sqrt(scales[j])
            for r in range(WIDTH):
                product[0, r] *= d[r] * s
                out[r] -= 0.5 * z[r] * z[r]
        for r in range(WIDTH):
            out[r] += np.log(product[0, r])


def _density_of_few(
    size: Any, entries: Any, values: Any, mean: Any, covariance: Any, scales: Any, constant: Any, scratch: Any, out: Any
) -> None:  # fmt: skip
    for r in range(WIDTH):
        squared, mantissa, power, least, most = density_parts(size, entries, r, values, mean, covariance, scales)
        value = constant - 0.5 * (squared + (_log(mantissa) + LOG_2 * power))
        out[r] = value if least > LEAST and most < MOST else np.nan


def _sums(
    size: Any, entries: Any, values: Floats, mean: Floats, covariance: Floats, weights: Floats,
    scratch: Any, sums: Floats,
) -> None:  # fmt: skip
    """Add the score sums of a strip to those of lanes, as `add_row` has them."""
    raise NotImplementedError


def _sums_in_loops(
    size: Any, entries: Any, values: Any, mean: Any, covariance: Any, weights: Any,
    scratch: Any, sums: Any,
) -> None:  # fmt: skip
    n_features = len(mean)
    lower, inverse, y, u = scratch
    strip = values.reshape(-1, STRIDE)
    _factor(strip[:n_features], strip[n_features:], mean, covariance, lower, y)
    _invert(lower, inverse)
    _add(inverse, y, weights, u, sums.reshape(-1, STRIDE))


def _sums_of_few(
    size: Any, entries: Any, values: Any, mean: Any, covariance: Any, weights: Any, scratch: Any, sums: Any
) -> None:  # fmt: skip
    for r in range(WIDTH):
        add_row(size, entries, r, values, mean, covariance, weights, sums)


@overload(_density, strict=False)
def _density_by_type(size: Any, *others: Any) -> Any:
    return _density_of_few if len(size) else _density_in_loops


@overload(_sums, strict=False, jit_options=SUMS)
def _sums_by_type(size: Any, *others: Any) -> Any:
    return _sums_of_few if len(size) else _sums_in_loops


@njit(**SUMS)
def _total(resp: Reals) -> float:
    total = 0.0
    for r in range(len(resp)):
        total += np.float64(resp[r])
    return total


@njit
def _number_above(resp: Reals, least: float) -> int:
    n = 0
    for r in range(len(resp)):
        n += resp[r] > least
    return n


@njit(inline="always")
def _lines(n: int) -> Floats:
    """Return a buffer that begins with a line of the cache: what begins elsewhere takes up to a third longer."""
    buffer = np.empty(n + 8)
    begin = -(buffer.ctypes.data // 8) % 8
    return buffer[begin : begin + n]


@njit(inline="always")
def _scratch(n_features: int) -> Any:
    """Return the buffers of loops over entries: L, its inverse, y and u."""
    lower = np.empty((n_features * (n_features + 1) // 2, STRIDE))
    y, u = np.empty((n_features, STRIDE)), np.empty((n_features, STRIDE))
    return lower, np.empty((n_features, n_features, STRIDE)), y, u


@compiled
def noisy_strips(x: Floats, noise: Floats, strips: Floats) -> None:
    """Write rows and their errors to strips, (n_strips, (n_features + n) * STRIDE); behind the last row it again."""
    n_rows = x.shape[1]
    for place in range(len(strips)):
        low, strip = place * WIDTH, strips[place].reshape(-1, STRIDE)
        n = min(WIDTH, n_rows - low)
        for j in range(len(strip)):
            row = x[j] if j < len(x) else noise[j - len(x)]
            for r in range(n):
                strip[j, r] = row[low + r]
            for r in range(n, WIDTH):
                strip[j, r] = row[n_rows - 1]


@compiled
def noisy_density(
    size: Any,
    entries: Any,
    strips: Floats,
    means: Floats,
    covariances: Floats,
    scales: Floats,
    constants: Floats,
    own: NDArray[np.int64],
    out: Reals,
) -> None:
    """Do what `Noisy.log_density` does."""
    scratch, n_rows, found = _scratch(means.shape[1]), out.shape[1], _lines(WIDTH)
    for place in range(len(strips)):
        low = place * WIDTH
        for k in own:
            _density(size, entries, strips[place], means[k], covariances[k], scales[k], constants[k], scratch, found)
            for r in range(min(WIDTH, n_rows - low)):
                out[k, low + r] = found[r]


@compiled
def noisy_sums(
    size: Any,
    entries: Any,
    strips: Floats,
    means: Floats,
    covariances: Floats,
    own: NDArray[np.int64],
    resp: Reals,
    counts: Floats,
    first: Floats,
    second: Floats,
) -> None:
    """Write the score sums of components `own`: (n,), (n, n_features) and (n, n_features, n_features)."""
    n_features, n_rows = means.shape[1], resp.shape[1]
    scratch, few, weights, flat = _scratch(n_features), _lines(strips.shape[1]), _lines(WIDTH), strips.reshape(-1)
    sums = _lines((1 + n_features + n_features * (n_features + 1) // 2) * STRIDE)
    places, of_places = np.empty(n_rows + WIDTH, dtype=np.uint64), np.empty(n_rows + WIDTH)
    for place in range(len(own)):
        k, row = own[place], resp[own[place]]
        sums[:] = 0.0
        least = SMALLEST * _total(row) / n_rows
        if _number_above(row, least) > FEW_ROWS * n_rows:
            for number in range(len(strips)):
                part = row[number * WIDTH : (number + 1) * WIDTH]
                for r in range(WIDTH):
                    weights[r] = part[r] if r < len(part) else 0.0
                _sums(size, entries, strips[number], means[k], covariances[k], weights, scratch, sums)
        else:
            n = 0
            for r in range(n_rows):
                places[n] = r // WIDTH * len(few) + r % WIDTH
                of_places[n] = row[r]
                n += row[r] > least
            places[n : n + WIDTH] = places[max(n - 1, 0)]
            of_places[n : n + WIDTH] = 0.0
            for low in range(0, n, WIDTH):
                for begin in range(0, len(few), STRIDE):
                    for r in range(WIDTH):
                        few[begin + r] = flat[places[low + r] + np.uint64(begin)]
                weights[:] = of_places[low : low + WIDTH]
                _sums(size, entries, few, means[k], covariances[k], weights, scratch, sums)
        counts[place], at = _total(sums[:STRIDE]), 1 + n_features
        for a in range(n_features):
            first[place, a] = _total(sums[(1 + a) * STRIDE : (2 + a) * STRIDE])
            for b in range(a, n_features):
                second[place, a, b] = second[place, b, a] = _total(sums[at * STRIDE : (at + 1) * STRIDE])
                at += 1
