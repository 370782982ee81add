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

from daskgmm.kernels.compiled_error_rows import LANES, MOST_FEATURES, N_PARTS, STRIDE, WIDTH, add_rows, density_parts
from daskgmm.kernels.compiled_softmax import SUMS, Reals, _log, compiled
from daskgmm.kernels.error_matrices import SMALLEST
from daskgmm.mixture.arrays import Floats

#: Up to such a part of a tile's rows it pays to gather those that count for a component.
FEW_ROWS = 0.5
#: Pivots, in units of the component's variances: the least, and of two the greatest product.
LEAST, MOST, LOG_2 = 1e-150, 1e300, log(2)
#: Pivots of which the product is taken before its logarithm.
PIVOTS = 8
#: Components that go over a strip while it is in the first cache: more of their sums fall out of the second.
GROUP = 32


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
    """Add sum r, r u and r (u u' - W'W), upper triangle, to sums, (n,), with u = W'y."""
    n_features = len(y)
    sums[0] += _total(resp)
    for a in range(n_features):
        t = u[a]
        for r in range(WIDTH):
            t[r] = 0.0
        _less(t, inverse[a], y, a, n_features)
        total = 0.0
        for r in range(WIDTH):
            total -= resp[r] * t[r]
        sums[1 + a] += total
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
            sums[place] += total
            place += 1


def noisy_form(n_features: int, n_errors: int, n_rows: int) -> tuple[tuple[int, int], tuple[Any, Any]]:
    """Return the shape of strips, and `size` and `entries`, tuples whose types tell the compiler what to do.

    They are of n_features zeros, and of as many as a row has numbers for its errors; both are empty for loops over
    entries.
    """
    sizes = ((0,) * n_features, (0,) * n_errors) if n_features <= MOST_FEATURES else ((), ())
    return (-(-n_rows // WIDTH), (n_features + n_errors) * STRIDE), sizes


def _density(
    size: Any, entries: Any, values: Floats, means: Floats, covariances: Floats, scales: Floats, constants: Floats,
    own: NDArray[np.int64], scratch: Any, out: Reals,
) -> None:  # fmt: skip
    """Write log of weight times density of a strip's rows to out, (n_components, n), for components `own`."""
    raise NotImplementedError


def _density_in_loops(
    size: Any, entries: Any, values: Any, means: Any, covariances: Any, scales: Any, constants: Any,
    own: Any, scratch: Any, out: Any,
) -> None:  # fmt: skip
    n_features = means.shape[1]
    lower, _, y, product = scratch
    strip, found = values.reshape(-1, STRIDE), product[1]
    for k in own:
        _factor(strip[:n_features], strip[n_features:], means[k], covariances[k], lower, y)
        for r in range(WIDTH):
            found[r] = constants[k]
        for begin in range(0, n_features, PIVOTS):
            for r in range(WIDTH):
                product[0, r] = 1.0
            for j in range(begin, min(begin + PIVOTS, n_features)):
                d, z, s = lower[j * (j + 1) // 2 + j], y[j], 1.0 / np.sqrt(scales[k, j])
                for r in range(WIDTH):
                    product[0, r] *= d[r] * s
                    found[r] -= 0.5 * z[r] * z[r]
            for r in range(WIDTH):
                found[r] += np.log(product[0, r])
        for r in range(out.shape[1]):
            out[k, r] = found[r]


def _density_of_few(
    size: Any, entries: Any, values: Any, means: Any, covariances: Any, scales: Any, constants: Any,
    own: Any, scratch: Any, out: Any,
) -> None:  # fmt: skip
    parts = scratch[-1]
    squared, mantissa, power, least, most, flat = parts[0], parts[1], parts[2], parts[3], parts[4], parts.reshape(-1)
    for k in own:
        for r in range(0, WIDTH, LANES):
            density_parts(size, entries, r, values, means[k], covariances[k], scales[k], flat)
        constant = constants[k]
        for r in range(WIDTH):
            value = constant - 0.5 * (squared[r] + (_log(mantissa[r]) + LOG_2 * power[r]))
            squared[r] = value if least[r] > LEAST and most[r] < MOST else np.nan
        for r in range(out.shape[1]):
            out[k, r] = squared[r]


def _sums(
    size: Any, entries: Any, values: Floats, mean: Floats, covariance: Floats, weights: Floats,
    scratch: Any, sums: Floats,
) -> None:  # fmt: skip
    """Add the score sums of a strip, in lanes where features are few, as `add_rows` has them."""
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
    _add(inverse, y, weights, u, sums)


def _sums_of_few(
    size: Any, entries: Any, values: Any, mean: Any, covariance: Any, weights: Any, scratch: Any, sums: Any
) -> None:  # fmt: skip
    for r in range(0, WIDTH, LANES):
        add_rows(size, entries, r, values, mean, covariance, weights, sums)


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
    """Return the buffers of loops over entries: L, its inverse, y and u, which has the parts of densities, too."""
    lower, inverse = np.empty((n_features * (n_features + 1) // 2, STRIDE)), np.empty((n_features, n_features, STRIDE))
    u = _lines(max(n_features, N_PARTS) * STRIDE).reshape(-1, STRIDE)
    return lower, inverse, np.empty((n_features, STRIDE)), u


@compiled
def noisy_strips(x: Floats, given: Floats, strips: Floats) -> bool:
    """Write rows and their errors to strips, (n_strips, (n_features + n) * STRIDE); behind the last row it again.

    Errors, (n_errors, n_rows), are deviations, which are squared, or covariances, flat or packed by rows of the upper
    triangle. False is returned where a variance is negative, a number not finite, or a matrix not symmetric.
    """
    (n_features, n_rows), n_given = x.shape, len(given)
    total, wrong = 0.0, 0
    for place in range(len(strips)):
        low, strip = place * WIDTH, strips[place].reshape(-1, STRIDE)
        n, at = min(WIDTH, n_rows - low), n_features
        for j in range(n_features):
            strip[j, :n] = x[j, low : low + n]
        for j in range(n_features):
            for i in range(j, n_features if n_given > n_features else j + 1):
                row = strip[at, :n]
                if n_given == n_features:
                    source = given[j, low : low + n]
                    for r in range(n):
                        row[r] = source[r] * abs(source[r])
                elif n_given == n_features * n_features:
                    source, other = given[j * n_features + i, low : low + n], given[i * n_features + j, low : low + n]
                    for r in range(n):
                        row[r] = source[r]
                        wrong += source[r] != other[r]
                else:
                    row[:] = given[at - n_features, low : low + n]
                if i == j:
                    for r in range(n):
                        wrong += row[r] < 0
                total += _total(row)
                at += 1
        for j in range(at if n < WIDTH else 0):
            strip[j, n:WIDTH] = strip[j, n - 1]
    return wrong == 0 and np.isfinite(total)


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
    scratch = _scratch(means.shape[1])
    for place in range(len(strips)):
        rows = out[:, place * WIDTH : (place + 1) * WIDTH]
        _density(size, entries, strips[place], means, covariances, scales, constants, own, scratch, rows)


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
    n_sums, lanes = 1 + n_features + n_features * (n_features + 1) // 2, LANES if len(size) else 1
    scratch, few, weights, flat = _scratch(n_features), _lines(strips.shape[1]), _lines(WIDTH), strips.reshape(-1)
    sums = _lines(GROUP * n_sums * lanes).reshape(GROUP, n_sums * lanes)
    places, of_places = np.empty(n_rows + WIDTH, dtype=np.uint64), np.empty(n_rows + WIDTH)
    for begin in range(0, len(own), GROUP):
        group, n_many = own[begin : begin + GROUP], 0
        many = np.empty(len(group), dtype=np.int64)
        sums[:] = 0.0
        for place in range(len(group)):
            k, row = group[place], resp[group[place]]
            least = SMALLEST * _total(row) / n_rows
            if _number_above(row, least) > FEW_ROWS * n_rows:
                many[n_many] = place
                n_many += 1
                continue
            n = 0
            for r in range(n_rows):
                places[n] = r // WIDTH * len(few) + r % WIDTH
                of_places[n] = row[r]
                n += row[r] > least
            places[n : n + WIDTH] = places[max(n - 1, 0)]
            of_places[n : n + WIDTH] = 0.0
            for low in range(0, n, WIDTH):
                for line in range(0, len(few), STRIDE):
                    for r in range(WIDTH):
                        few[line + r] = flat[places[low + r] + np.uint64(line)]
                weights[:] = of_places[low : low + WIDTH]
                _sums(size, entries, few, means[k], covariances[k], weights, scratch, sums[place])
        for number in range(len(strips)):
            for place in many[:n_many]:
                k = group[place]
                part = resp[k, number * WIDTH : (number + 1) * WIDTH]
                for r in range(WIDTH):
                    weights[r] = part[r] if r < len(part) else 0.0
                _sums(size, entries, strips[number], means[k], covariances[k], weights, scratch, sums[place])
        for place in range(len(group)):
            found, at = sums[place].reshape(-1, lanes), 1 + n_features
            counts[begin + place] = _total(found[0])
            for a in range(n_features):
                first[begin + place, a] = _total(found[1 + a])
                for b in range(a, n_features):
                    second[begin + place, a, b] = second[begin + place, b, a] = _total(found[at])
                    at += 1
