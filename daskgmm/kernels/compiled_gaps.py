"""What gaps change, compiled by numba: the small matrices of each row.

Rows lack other features each, so that NumPy has a call for each entry of the matrices of rows with as many gaps. Here a
row is a loop over entries: for densities, which all components need, each of these is a loop over components, vector
code whatever the row lacks; for sums, which few may need, components are the outermost loop.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from daskgmm.kernels.compiled_softmax import SUMS, Reals, _log, compiled
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import LOG_2PI

#: Pivots of which the product is taken before its logarithm; they are those of matrices with ones on the diagonal.
PIVOTS = 8
#: Rows whose densities are written at once, and that are turned from columns: what a line of the cache has.
AT_ONCE = 8


@njit(**SUMS)
def _factor(
    entries: Floats,
    roots: Floats,
    chosen: NDArray[np.int64],
    w: Floats,
    lower: Floats,
    gain: Floats,
    log_det: Floats,
    pivot: Floats,
    product: Floats,
) -> None:
    """Factor A = SLDL'S of the chosen rows and columns of each component's matrix; v = (SL)^-1 w stays in `w`.

    S is the root of A's diagonal, whose inverse is in `roots`, (D, n), so that the first of D is 1. `lower`, (m, m, n),
    lanes last, gets L below its diagonal, LD above, and one over D on it; `gain`, (n,), gets w'A^-1 w, and `log_det`
    log |D|. (No slices here: of loops as short as these, numba's counts of who holds one took a third of the time.)
    """
    m, n = len(chosen), entries.shape[2]
    c = chosen[0]
    for k in range(n):
        w[0, k] *= roots[c, k]
        gain[k] = w[0, k] * w[0, k]
        log_det[k] = 0.0
        product[k] = 1.0
    for i in range(1, m):
        ci = chosen[i]
        for k in range(n):
            w[i, k] *= roots[ci, k]
            pivot[k] = 1.0
        for j in range(i):
            cj = chosen[j]
            if j == 0:  # (whose pivot is 1)
                for k in range(n):
                    t = entries[ci, cj, k] * roots[ci, k] * roots[cj, k]
                    lower[i, j, k] = t
                    lower[j, i, k] = t
                    w[i, k] -= t * w[j, k]
                    pivot[k] -= t * t
            elif j == 1:
                for k in range(n):
                    t = entries[ci, cj, k] * roots[ci, k] * roots[cj, k] - lower[0, i, k] * lower[j, 0, k]
                    u = t * lower[j, j, k]
                    lower[i, j, k] = u
                    lower[j, i, k] = t
                    w[i, k] -= u * w[j, k]
                    pivot[k] -= t * u
            else:
                for k in range(n):
                    lower[j, i, k] = entries[ci, cj, k] * roots[ci, k] * roots[cj, k] - lower[0, i, k] * lower[j, 0, k]
                for a in range(1, j - 1):
                    for k in range(n):
                        lower[j, i, k] -= lower[a, i, k] * lower[j, a, k]
                for k in range(n):
                    t = lower[j, i, k] - lower[j - 1, i, k] * lower[j, j - 1, k]
                    u = t * lower[j, j, k]
                    lower[i, j, k] = u
                    lower[j, i, k] = t
                    w[i, k] -= u * w[j, k]
                    pivot[k] -= t * u
        for k in range(n):
            over = 1.0 / pivot[k]
            lower[i, i, k] = over
            gain[k] += w[i, k] * w[i, k] * over
            product[k] *= pivot[k]
        if i == m - 1 or i % PIVOTS == 0:
            for k in range(n):
                log_det[k] += _log(product[k])
                product[k] = 1.0


@compiled
def correct(
    entries: Floats,
    roots: Floats,
    log_roots: Floats,
    pulls: Floats,
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    number: NDArray[np.int64],
    rows: NDArray[np.int64],
    near: NDArray[np.int64],
    constants: Floats,
    bound: Floats,
    limit: float,
    density: Reals,
    doubtful: NDArray[np.bool_],
) -> None:
    """Do what `Matrices._corrected` does, in one call, for all rows of which no more than half is missing.

    Row g lacks `features[starts[g] : starts[g + 1]]`, and these gaps have the numbers in the same places of `number`.
    Of each feature `roots` has one over the root of the precision, and `log_roots` the logarithm of that and of the
    root of 2 pi, (D, n_near).
    """
    most, n = len(entries) // 2, len(near)
    lower, w = np.empty((most, most, n)), np.empty((most, n))
    gains, norms = np.empty((AT_ONCE, n)), np.empty((AT_ONCE, n))
    log_det, pivot, product = np.empty(n), np.empty(n), np.empty(n)
    for begin in range(0, len(rows), AT_ONCE):
        end, sure = min(begin + AT_ONCE, len(rows)), True
        for g in range(begin, end):
            low, high = starts[g], starts[g + 1]
            gain, norm = gains[g - begin], norms[g - begin]
            gain[:] = 0.0
            norm[:] = 0.0
            if high - low > most:
                continue
            for a in range(high - low):
                at, feature = number[low + a], features[low + a]
                for k in range(n):
                    w[a, k] = pulls[at, k]
                    norm[k] += log_roots[feature, k]
            _factor(entries, roots, features[low:high], w, lower, gain, log_det, pivot, product)
            for k in range(n):
                norm[k] -= 0.5 * log_det[k]
                sure &= gain[k] * bound[k] <= limit
        for k in range(n):
            row = density[near[k]]
            for g in range(begin, end):
                row[rows[g]] = np.float64(row[rows[g]]) + (0.5 * gains[g - begin, k] + norms[g - begin, k])
                if not sure:
                    risk = gains[g - begin, k] * bound[k]
                    q = 2.0 * (constants[k] + norms[g - begin, k] - np.float64(row[rows[g]]))
                    doubtful[g, near[k]] = not risk <= limit * max(1.0, q)


@compiled
def observe(
    covariances: Floats,
    roots: Floats,
    log_roots: Floats,
    means: Floats,
    log_weights: Floats,
    x: Floats,
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    rows: NDArray[np.int64],
    density: Reals,
) -> None:
    """Do what `Matrices._observed` does, in one call, for all rows of which more than half is missing.

    `covariances` are (D, D, n_components), entry by entry; of their diagonals `roots` has one over the root, and
    `log_roots` the logarithm of that less the root of 2 pi; `means`, too, are (D, n_components).
    """
    n_features, n = means.shape
    most = (n_features + 1) // 2
    lower, w, there = np.empty((most, most, n)), np.empty((most, n)), np.empty(most, dtype=np.int64)
    gain, norm, log_det, pivot, product = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for g in range(len(rows)):
        at, high = starts[g], starts[g + 1]
        if 2 * (high - at) <= n_features:
            continue
        m = 0
        norm[:] = log_weights
        for d in range(n_features):
            if at < high and features[at] == d:
                at += 1
                continue
            there[m] = d
            for k in range(n):
                w[m, k] = x[d, rows[g]] - means[d, k]
                norm[k] += log_roots[d, k]
            m += 1
        _factor(covariances, roots, there[:m], w, lower, gain, log_det, pivot, product)
        for k in range(n):
            density[k, rows[g]] = norm[k] - 0.5 * (log_det[k] + gain[k])


@njit(**SUMS)
def _add_outer(
    shift: Floats, features: NDArray[np.int64], low: int, m: int, y: Floats, g: int, t: Floats, out: Floats
) -> None:
    """Add r times s(y + s/2)' to those rows of a matrix; `shift` has s and r times that, (2, m)."""
    n = len(t)
    for b in range(n):
        t[b] = y[g, b]
    for a in range(m):
        t[features[low + a]] += 0.5 * shift[0, a]
    for a in range(m):
        f, factor = features[low + a], shift[1, a]
        for b in range(n):
            out[f, b] += factor * t[b]


@compiled
def add_sums(
    precisions: Floats,
    y: Floats,
    pulls: Floats,
    place: NDArray[np.int64],
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    number: NDArray[np.int64],
    rows: NDArray[np.int64],
    own: NDArray[np.int64],
    resp: Reals,
    out: Floats,
    filled: Floats,
) -> None:
    """Do what `Matrices._add_about_origin` does, in one call.

    A completed row is y + s, with s in its gaps and V the covariance there: its products are more than those of y by
    sy' + ys' + ss' + V, the sum of (y + s/2)s' + V/2 and of the same transposed.
    """
    n_features, most = y.shape[1], 1
    for g in range(len(rows)):
        most = max(most, starts[g + 1] - starts[g])
    lower, inverse, shift = np.empty((most, most)), np.empty((most, most)), np.empty((2, most))
    square, first, t = np.zeros((n_features, n_features)), np.zeros(n_features), np.empty(n_features)
    touched = np.zeros(n_features, dtype=np.bool_)
    for j in range(len(own)):
        k, at, any_row = own[j], place[j], False
        for g in range(len(rows)):
            r = np.float64(resp[k, rows[g]])
            if not r > 0.0:
                continue
            any_row, low, m = True, starts[g], starts[g + 1] - starts[g]
            _factor_one(precisions, k, features, low, m, lower, False)
            _invert_factored(m, lower, inverse)
            for a in range(m):
                total, f = 0.0, features[low + a]
                for b in range(m):
                    total -= inverse[a, b] * pulls[number[low + b], at]
                    square[f, features[low + b]] += 0.5 * r * inverse[a, b]
                shift[0, a], shift[1, a] = total, r * total
                first[f] += r * total
                touched[f] = True
            _add_outer(shift, features, low, m, y, g, t, square)
        if any_row:
            _add_packed(touched, square, first, out[k], filled)


@njit
def _add_packed(touched: NDArray[np.bool_], square: Floats, first: Floats, out: Floats, filled: Floats) -> None:
    """Add a square and its transpose to an upper triangle, row by row, and `first` behind it; make them zeros again."""
    n = len(first)
    moments = out[-1 - n :]
    for a in range(n):
        if touched[a]:
            row, begin = square[a], 0
            for b in range(a):
                out[begin + a - b] += row[b]
                begin += n - b
            row[a] *= 2.0
            panel = out[begin : begin + n - a]
            for b in range(n - a):
                panel[b] += row[a + b]
            row[:] = 0.0
            moments[a] += first[a]
            filled[a] += first[a]
            first[a], touched[a] = 0.0, False


@njit(error_model="numpy")
def _factor_one(
    matrices: Floats, k: int, features: NDArray[np.int64], low: int, m: int, lower: Floats, log_det: bool
) -> float:
    """Factor the chosen rows and columns of matrix k, LDL': one over D on the diagonal, L below, LD above it.

    Returns the logarithm of the determinant where it is asked for.
    """
    total = 0.0
    for i in range(m):
        for j in range(i + 1):
            rest = matrices[k, features[low + i], features[low + j]]
            for a in range(j):
                rest -= lower[a, i] * lower[j, a]
            if j < i:
                lower[j, i] = rest
                lower[i, j] = rest * lower[j, j]
            else:
                lower[i, i] = 1.0 / rest
                if log_det:
                    total += np.log(rest)
    return total


@njit(error_model="numpy")
def _invert_factored(m: int, lower: Floats, inverse: Floats) -> None:
    """Write the inverse of a matrix by its factors, (m, m); L^-1 is in the place of L then."""
    for i in range(m):
        for j in range(i):
            total = lower[i, j]
            for a in range(j + 1, i):
                total += lower[i, a] * lower[a, j]
            lower[i, j] = -total
    for i in range(m):
        for j in range(i + 1):
            total = lower[i, i] * (lower[i, j] if j < i else 1.0)
            for a in range(i + 1, m):
                total += lower[a, i] * lower[a, a] * lower[a, j]
            inverse[i, j] = inverse[j, i] = total


@compiled
def complete_rows(
    precisions: Floats,
    k: int,
    mean: Floats,
    x: Floats,
    rows: NDArray[np.int64],
    at: NDArray[np.int64],
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    resp: Floats,
    y: Floats,
    log_norm: Floats,
    spread: Floats,
) -> None:
    """Do what `Matrices._completed` does, in one call; an empty `resp` asks for no covariance."""
    n_features, most, half_log = len(x), 1, 0.5 * LOG_2PI
    for i in range(len(at)):
        most = max(most, starts[at[i] + 1] - starts[at[i]])
    lower, inverse = np.empty((most, most)), np.empty((most, most))
    own, w = np.empty(n_features), np.empty(most)
    for i in range(len(at)):
        low, m = starts[at[i]], starts[at[i] + 1] - starts[at[i]]
        for d in range(n_features):
            own[d] = x[d, rows[at[i]]] - mean[d]
        for a in range(m):
            own[features[low + a]] = 0.0
        for a in range(m):
            total, f = 0.0, features[low + a]
            for d in range(n_features):
                total += precisions[k, f, d] * own[d]
            w[a] = total
        log_norm[i] = half_log * m - 0.5 * _factor_one(precisions, k, features, low, m, lower, True)
        for a in range(m):
            for b in range(a):
                w[a] -= lower[a, b] * w[b]
        for a in range(m - 1, -1, -1):
            w[a] *= lower[a, a]
            for b in range(a + 1, m):
                w[a] -= lower[b, a] * w[b]
            own[features[low + a]] = -w[a]
        for d in range(n_features):
            y[d, i] = own[d]
        if len(resp):
            _invert_factored(m, lower, inverse)
            for a in range(m):
                for b in range(m):
                    spread[features[low + a], features[low + b]] += resp[i] * inverse[a, b]


@compiled
def pull(
    x: Floats,
    origin: Floats,
    rows: NDArray[np.int64],
    at: NDArray[np.int64],
    bounds: NDArray[np.int64],
    by_feature: Floats,
    offsets: Floats,
    gathered: Floats,
    y: Floats,
    out: Floats,
) -> None:
    """Do what `Matrices._pulls` does in one call; `gathered`, (n_rows, D), is a buffer."""
    for begin in range(0, len(rows), AT_ONCE):
        for d in range(len(x)):
            for g in range(begin, min(begin + AT_ONCE, len(rows))):
                y[g, d] = x[d, rows[g]] - origin[d]
    for j in range(len(by_feature)):
        low, high = bounds[j], bounds[j + 1]
        if high > low:
            for g in range(low, high):
                gathered[g - low] = y[at[g]]
            np.dot(gathered[: high - low], by_feature[j], out[low:high])
            for g in range(low, high):
                for k in range(out.shape[1]):
                    out[g, k] -= offsets[j, k]
