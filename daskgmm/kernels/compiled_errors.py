"""The E-step of rows with measurement errors, compiled by numba: one Cholesky factor a row and component.

D^3 / 6 multiplications of the density, and D^3 / 2 of the sums, each along a strip of rows. Formulas are those of
`errors.py`; only last bits differ. Matrices are packed by rows of their lower triangle, errors of their upper one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from daskgmm.kernels.compiled_softmax import SUMS, Reals, compiled
from daskgmm.mixture.arrays import Floats

#: Rows that are factored at once. All loops go over as many, the last ones over rows of nothing: of a length that is
#: known the compiler makes vector code. (Of 64 rows a pass takes a fifth longer, though all stay in the first cache.)
WIDTH = 256
#: Of the largest responsibility among a tile's rows: what less adds to a component's sums is below rounding.
SMALLEST = 1e-20
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
def _add(inverse: Floats, y: Floats, resp: Floats, u: Floats, first: Floats, second: Floats) -> None:
    """Add sum r u to first and sum r (u u' - W'W) to the upper triangle of second, with u = W'y."""
    n_features = len(y)
    for a in range(n_features):
        t = u[a]
        for r in range(WIDTH):
            t[r] = 0.0
        _less(t, inverse[a], y, a, n_features)
        total = 0.0
        for r in range(WIDTH):
            total -= resp[r] * t[r]
        first[a] += total
    for a in range(n_features):
        for b in range(a, n_features):
            v, w, ua, ub, i, total = inverse[a], inverse[b], u[a], u[b], b + 1, 0.0
            v0, w0 = v[b], w[b]
            if i + 1 < n_features:
                v1, w1, v2, w2, i = v[i], w[i], v[i + 1], w[i + 1], i + 2
                for r in range(WIDTH):
                    total += resp[r] * (ua[r] * ub[r] - v0[r] * w0[r] - v1[r] * w1[r] - v2[r] * w2[r])
            else:
                for r in range(WIDTH):
                    total += resp[r] * (ua[r] * ub[r] - v0[r] * w0[r])
            while i + 1 < n_features:
                v0, w0, v1, w1 = v[i], w[i], v[i + 1], w[i + 1]
                for r in range(WIDTH):
                    total -= resp[r] * (v0[r] * w0[r] + v1[r] * w1[r])
                i += 2
            if i < n_features:
                v0, w0 = v[i], w[i]
                for r in range(WIDTH):
                    total -= resp[r] * (v0[r] * w0[r])
            second[a, b] += total


@njit(**SUMS)
def _take(x: Floats, rows: NDArray[np.int64], low: int, n: int, out: Floats) -> None:
    """Write columns of x to those of out, and zeros behind."""
    for j in range(len(x)):
        for r in range(WIDTH):
            out[j, r] = x[j, rows[low + r]] if r < n else 0.0


@compiled
def noisy_density(
    x: Floats,
    noise: Floats,
    means: Floats,
    covariances: Floats,
    deviations: Floats,
    constants: Floats,
    own: NDArray[np.int64],
    out: Reals,
) -> None:
    """Do what `Noisy.log_density` does."""
    n_features, n_rows = x.shape
    lower, y = np.empty((n_features * (n_features + 1) // 2, WIDTH)), np.empty((n_features, WIDTH))
    few, few_noise = np.empty((n_features, WIDTH)), np.empty((len(noise), WIDTH))
    quadratic, product, rows = np.empty(WIDTH), np.empty(WIDTH), np.arange(n_rows)
    for low in range(0, n_rows, WIDTH):
        n = min(WIDTH, n_rows - low)
        _take(x, rows, low, n, few)
        _take(noise, rows, low, n, few_noise)
        for k in own:
            _factor(few, few_noise, means[k], covariances[k], lower, y)
            for r in range(WIDTH):
                quadratic[r] = constants[k]
            for begin in range(0, n_features, PIVOTS):
                for r in range(WIDTH):
                    product[r] = 1.0
                for j in range(begin, min(begin + PIVOTS, n_features)):
                    d, z, s = lower[j * (j + 1) // 2 + j], y[j], deviations[k, j]
                    for r in range(WIDTH):
                        product[r] *= d[r] * s
                        quadratic[r] -= 0.5 * z[r] * z[r]
                for r in range(WIDTH):
                    quadratic[r] += np.log(product[r])
            for r in range(n):
                out[k, low + r] = quadratic[r]


@compiled
def noisy_sums(
    x: Floats,
    noise: Floats,
    means: Floats,
    covariances: Floats,
    own: NDArray[np.int64],
    resp: Reals,
    counts: Floats,
    first: Floats,
    second: Floats,
) -> None:
    """Add the score sums of components `own` to zeros: (n,), (n, n_features) and (n, n_features, n_features)."""
    n_features, n_rows = x.shape
    lower = np.empty((n_features * (n_features + 1) // 2, WIDTH))
    inverse = np.empty((n_features, n_features, WIDTH))
    y, u, few = np.empty((n_features, WIDTH)), np.empty((n_features, WIDTH)), np.empty((n_features, WIDTH))
    few_noise, weights = np.empty((len(noise), WIDTH)), np.empty(WIDTH)
    rows = np.empty(n_rows, dtype=np.int64)
    for place in range(len(own)):
        k, n_own, most = own[place], 0, 0.0
        for r in range(n_rows):
            most = max(most, np.float64(resp[k, r]))
        for r in range(n_rows):
            rows[n_own] = r
            n_own += resp[k, r] > SMALLEST * most
        for low in range(0, n_own, WIDTH):
            n = min(WIDTH, n_own - low)
            total = 0.0
            for r in range(WIDTH):
                weights[r] = resp[k, rows[low + r]] if r < n else 0.0
                total += weights[r]
            counts[place] += total
            _take(x, rows, low, n, few)
            _take(noise, rows, low, n, few_noise)
            _factor(few, few_noise, means[k], covariances[k], lower, y)
            _invert(lower, inverse)
            _add(inverse, y, weights, u, first[place], second[place])
        for a in range(n_features):
            for b in range(a):
                second[place, a, b] = second[place, b, a]
