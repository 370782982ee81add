"""What gaps change, compiled by numba: the small matrices of each row.

Rows lack other features each, so that NumPy has a call for each entry of the matrices of rows with as many gaps. Here a
row is a loop over entries: for densities, which all components need, each of these is a loop over components, vector
code whatever the row lacks; for sums, which few may need, components are the outermost loop.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from daskgmm.kernels.compiled import add
from daskgmm.kernels.compiled_gap_factors import complete, factor
from daskgmm.kernels.compiled_gap_tiles import AT_ONCE
from daskgmm.kernels.compiled_gap_tiles import add_tiles as add_tiles
from daskgmm.kernels.compiled_gap_tiles import correct as correct
from daskgmm.kernels.compiled_gap_tiles import keep as keep
from daskgmm.kernels.compiled_lanes import less, load, load_one, more, spread, store
from daskgmm.kernels.compiled_softmax import Reals, _log, compiled
from daskgmm.kernels.gap_lanes import LANES
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import LOG_2PI


@compiled
def solve(
    entries: Floats,
    roots: Floats,
    log_roots: Floats,
    pulls: Floats,
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    gains: Floats,
    changes: Floats,
    most_gains: Floats,
) -> None:
    """Write w'A^-1 w, and by how much log-densities change, for all rows of which no more than half is missing.

    Both (n, n_rows), n being the number of components in full lanes; for other rows they are zeros; and the largest of
    the former, (n,). Row g lacks `features[starts[g] : starts[g + 1]]`, and `pulls`, (n_lanes, n_gaps, LANES), has w;
    of each feature `roots` has one over the root of the precision, and `log_roots` the logarithm of that and of the
    root of 2 pi, (n_lanes, D, LANES).
    """
    (n_lanes, n_features, _), n_gaps, n_rows = roots.shape, pulls.shape[1], len(starts) - 1
    most = n_features // 2
    all_entries, all_roots, all_logs, w = (
        entries.reshape(-1),
        roots.reshape(-1),
        log_roots.reshape(-1),
        pulls.reshape(-1),
    )
    lower, v = np.empty(most * most * LANES), np.empty(most * LANES)
    gain, norm, log_det, pivots = np.empty((4, AT_ONCE * LANES))
    most_gains[:] = 0.0
    for c in range(n_lanes):
        for begin in range(0, n_rows, AT_ONCE):
            gain[:], norm[:], log_det[:], pivots[:] = 0.0, 0.0, 0.0, 1.0
            n = min(AT_ONCE, n_rows - begin)
            for g in range(n):
                low, m = starts[begin + g], starts[begin + g + 1] - starts[begin + g]
                if m > most:
                    continue
                factor(
                    all_entries, all_roots, n_features, features, low, m, c, w, c * n_gaps + low, lower, v,
                    gain, pivots, log_det, g * LANES,
                )  # fmt: skip
                t = spread(0.0)
                for a in range(low, low + m):
                    t = more(t, spread(1.0), load(all_logs, (c * n_features + features[a]) * LANES))
                store(norm, g * LANES, t)
            for k in range(AT_ONCE * LANES):
                norm[k] += 0.5 * (gain[k] - log_det[k] - _log(pivots[k]))
            for k in range(LANES):
                j = c * LANES + k
                for g in range(n):
                    gains[j, begin + g] = gain[g * LANES + k]
                    changes[j, begin + g] = norm[g * LANES + k]
                    # (What is no number is the largest, and stays it.)
                    found, most_gain = gain[g * LANES + k], most_gains[j]
                    most_gains[j] = most_gain if found <= most_gain or most_gain != most_gain else found


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

    `covariances` are (n_lanes, D, D, LANES), entry by entry; of their diagonals `roots` has one over the root, and
    `log_roots` the logarithm of that less the root of 2 pi; `means`, too, are (n_lanes, D, LANES).
    """
    n_lanes, n_features, _ = means.shape
    most = (n_features + 1) // 2
    all_entries, all_roots = covariances.reshape(-1), roots.reshape(-1)
    lower, v, w = np.empty(most * most * LANES), np.empty(most * LANES), np.empty(most * LANES)
    there, norm = np.empty(most, dtype=np.int64), np.empty(LANES)
    gain, log_det, pivots = np.empty((3, LANES))
    for g in range(len(rows)):
        at, high = starts[g], starts[g + 1]
        if 2 * (high - at) <= n_features:
            continue
        m = 0
        for d in range(n_features):
            if at < high and features[at] == d:
                at += 1
            else:
                there[m] = d
                m += 1
        for c in range(n_lanes):
            norm[:] = 0.0
            for a in range(m):
                for k in range(LANES):
                    w[a * LANES + k] = x[there[a], rows[g]] - means[c, there[a], k]
                    norm[k] += log_roots[c, there[a], k]
            factor(all_entries, all_roots, n_features, there, 0, m, c, w, 0, lower, v, gain, pivots, log_det, 0)
            for k in range(min(LANES, len(log_weights) - c * LANES)):
                total = log_det[k] + _log(pivots[k]) + gain[k]
                density[c * LANES + k, rows[g]] = log_weights[c * LANES + k] + norm[k] - 0.5 * total


@compiled
def add_sums(
    entries: Floats,
    roots: Floats,
    y: Floats,
    pulls: Floats,
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    near: NDArray[np.int64],
    resp: Floats,
    total: Floats,
    correction: Floats,
) -> None:
    """Do what `Matrices._add_about_origin` does, to compensated sums, for responsibilities as `keep` writes them.

    A completed row is y + s, with s in its gaps and V the covariance there: its products are more than those of y by
    sy' + ys' + ss' + V, the sum of sy' + (ss' + V)/2 and of the same transposed. Rows of `y` are in full lanes.
    """
    (n_lanes, n_features, _), (n_rows, width), n_gaps, most = roots.shape, y.shape, pulls.shape[1], 1
    for g in range(n_rows):
        most = max(most, starts[g + 1] - starts[g])
    all_entries, all_roots, w, all_y = entries.reshape(-1), roots.reshape(-1), pulls.reshape(-1), y.reshape(-1)
    lower, inverse = np.empty(most * most * LANES), np.empty(most * most * LANES)
    v, shift = np.empty(most * LANES), np.empty(most * LANES)
    own, log_det, pivots = np.empty((3, LANES))
    squares, first = np.empty((LANES, n_features, width)), np.zeros((LANES, n_features))
    packed = np.empty(n_features * (n_features + 1) // 2)
    all_squares, touched = squares.reshape(-1), np.zeros((LANES, n_features), dtype=np.bool_)
    for c in range(n_lanes):
        at, n = c * LANES, min(LANES, len(near) - c * LANES)
        for g in range(n_rows):
            low, m, counts = starts[g], starts[g + 1] - starts[g], False
            for lane in range(LANES):
                counts |= resp[g, at + lane] > 0.0
            if not counts:
                continue
            factor(
                all_entries, all_roots, n_features, features, low, m, c, w, c * n_gaps + low, lower, v,
                own, pivots, log_det, 0,
            )  # fmt: skip
            complete(all_roots, n_features, features, low, m, c, lower, v, shift, inverse)
            for lane in range(n):
                r = resp[g, at + lane]
                if not r > 0.0:
                    continue
                for a in range(m):
                    s, f = shift[a * LANES + lane], features[low + a]
                    place, scale = (lane * n_features + f) * width, spread(r * s)
                    for b in range(0, width, LANES):
                        value = load(all_squares, place + b) if touched[lane, f] else spread(0.0)
                        store(all_squares, place + b, more(value, scale, load(all_y, g * width + b)))
                    for b in range(m):
                        value = s * shift[b * LANES + lane] + inverse[(a * m + b) * LANES + lane]
                        all_squares[place + features[low + b]] += 0.5 * r * value
                    first[lane, f] += r * s
                    touched[lane, f] = True
        for lane in range(n):
            if touched[lane].any():
                begin, filled = near[at + lane] * (len(packed) + n_features + 1), len(total) - 3 - n_features
                second = begin + len(packed)
                _pack(touched[lane], squares[lane], packed)
                add(total[begin:second], correction[begin:second], packed)
                add(total[second : second + n_features], correction[second : second + n_features], first[lane])
                add(total[filled:-3], correction[filled:-3], first[lane])
                first[lane] = 0.0


@njit
def _pack(touched: NDArray[np.bool_], square: Floats, out: Floats) -> None:
    """Write what is touched of a square, and its transpose, to an upper triangle, row by row."""
    n = len(touched)
    out[:] = 0.0
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
            touched[a] = False


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
    places: NDArray[np.int64],
    entries: Floats,
    offsets: Floats,
    y: Floats,
    out: Floats,
) -> None:
    """Do what `Matrices._pulls` does in one call.

    Rows of `y` are in full lanes, and so are components: `out` is (n_lanes, n_gaps, LANES), gaps row by row, which have
    their `places` where they come feature by feature.
    """
    (n_lanes, n_features, _), n_gaps, width = offsets.shape, len(at), y.shape[1]
    for begin in range(0, len(rows), AT_ONCE):
        for d in range(width):
            for g in range(begin, min(begin + AT_ONCE, len(rows))):
                y[g, d] = x[d, rows[g]] - origin[d] if d < n_features else 0.0
    all_entries, all_offsets, all_y, all_out = entries.reshape(-1), offsets.reshape(-1), y.reshape(-1), out.reshape(-1)
    one = spread(1.0)
    for j in range(n_features):
        high = bounds[j + 1]
        for c in range(n_lanes):
            offset, begin = load(all_offsets, (c * n_features + j) * LANES), (c * n_features + j) * n_features * LANES
            for g in range(bounds[j], high, 4):
                # (The last of four may be the same row.)
                g1, g2, g3 = min(g + 1, high - 1), min(g + 2, high - 1), min(g + 3, high - 1)
                y0, y1, y2, y3 = at[g] * width, at[g1] * width, at[g2] * width, at[g3] * width
                t0, t1, t2, t3 = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
                for d in range(n_features):
                    entry = load(all_entries, begin + d * LANES)
                    t0 = more(t0, entry, load_one(all_y, y0 + d))
                    t1 = more(t1, entry, load_one(all_y, y1 + d))
                    t2 = more(t2, entry, load_one(all_y, y2 + d))
                    t3 = more(t3, entry, load_one(all_y, y3 + d))
                store(all_out, (c * n_gaps + places[g]) * LANES, less(t0, one, offset))
                store(all_out, (c * n_gaps + places[g1]) * LANES, less(t1, one, offset))
                store(all_out, (c * n_gaps + places[g2]) * LANES, less(t2, one, offset))
                store(all_out, (c * n_gaps + places[g3]) * LANES, less(t3, one, offset))
