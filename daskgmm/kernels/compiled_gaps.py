"""What gaps change, compiled by numba: the small matrices of each row, a component to each lane.

Rows lack other features each, so that NumPy has a call for each entry of the matrices of rows with as many gaps. Here a
row is a loop over entries, each of which is a loop over components: vector code, whatever the row lacks.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from daskgmm.kernels.compiled_softmax import SUMS, Reals, _log, compiled
from daskgmm.mixture.arrays import Floats


@njit(**SUMS)
def _factor(
    entries: Floats, chosen: NDArray[np.int64], w: Floats, lower: Floats, gain: Floats, log_det: Floats
) -> None:
    """Factor A = LDL' of the chosen rows and columns of each component's matrix; v = L^-1 w stays in `w`.

    `lower` has L, and D on its diagonal, (m, m, n), lanes last; `gain` and `log_det`, (n,), get w'A^-1 w and log |A|.
    """
    m, n = len(chosen), entries.shape[2]
    gain[:] = 0.0
    log_det[:] = 0.0
    for i in range(m):
        own = w[i]
        for j in range(i + 1):
            target, source = lower[i, j], entries[chosen[i], chosen[j]]
            for k in range(n):
                target[k] = source[k]
            for a in range(j):
                left, right, pivot = lower[i, a], lower[j, a], lower[a, a]
                for k in range(n):
                    target[k] -= left[k] * right[k] * pivot[k]
            if j < i:
                pivot, before = lower[j, j], w[j]
                for k in range(n):
                    target[k] /= pivot[k]
                    own[k] -= target[k] * before[k]
        pivot = lower[i, i]
        for k in range(n):
            gain[k] += own[k] * own[k] / pivot[k]
            log_det[k] += _log(pivot[k])


@compiled
def correct(
    entries: Floats,
    pulls: Floats,
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    number: NDArray[np.int64],
    rows: NDArray[np.int64],
    near: NDArray[np.int64],
    half_log_2pi: float,
    constants: Floats,
    bound: Floats,
    limit: float,
    density: Reals,
    doubtful: NDArray[np.bool_],
) -> None:
    """Do what `Matrices._corrected` does, in one call, for all rows of which no more than half is missing.

    Row g lacks `features[starts[g] : starts[g + 1]]`, and these gaps have the numbers in the same places of `number`.
    """
    most, n = len(entries) // 2, len(near)
    lower, every = np.empty((most, most, n)), np.empty((most, n))
    gain, log_det = np.empty(n), np.empty(n)
    for g in range(len(rows)):
        i, low, high = rows[g], starts[g], starts[g + 1]
        m = high - low
        if m > most:
            continue
        own, w = features[low:high], every[:m]
        for a in range(m):
            source, target = pulls[number[low + a]], w[a]
            for k in range(n):
                target[k] = source[k]
        _factor(entries, own, w, lower, gain, log_det)
        for k in range(n):
            norm = m * half_log_2pi - 0.5 * log_det[k]
            found = np.float64(density[near[k], i]) + (0.5 * gain[k] + norm)
            density[near[k], i] = found
            risk = gain[k] * bound[k]
            if not risk <= limit:
                q = 2.0 * (constants[k] + norm - found)
                doubtful[g, near[k]] = not risk <= limit * max(1.0, q)


@compiled
def contribute(
    precisions: Floats,
    pulls: Floats,
    place: NDArray[np.int64],
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    number: NDArray[np.int64],
    rows: NDArray[np.int64],
    own: NDArray[np.int64],
    resp: Reals,
    weighted: Floats,
    second: Floats,
) -> None:
    """Add what gaps are, given the rest, for each row and component that counts for it.

    `weighted`, (n_gaps, n_own), gets responsibilities times conditional means less the origin, and `second`, (D, n_own,
    D), sums of products of gaps of the same row, a feature to those that follow.
    """
    most = precisions.shape[1]
    lower, inverse = np.empty((most, most)), np.empty((most, most))
    w, shift = np.empty(most), np.empty(most)
    for g in range(len(rows)):
        low, m = starts[g], starts[g + 1] - starts[g]
        gaps, each = features[low : low + m], number[low : low + m]
        for j in range(len(own)):
            r = np.float64(resp[own[j], rows[g]])
            if not r > 0.0:
                continue
            matrix = precisions[own[j]]
            _invert(matrix, gaps, lower, inverse)
            for a in range(m):
                w[a] = pulls[each[a], place[j]]
            for a in range(m):
                total = 0.0
                for b in range(m):
                    total -= inverse[a, b] * w[b]
                shift[a] = total
                weighted[each[a], j] = r * total
            for a in range(m):
                for b in range(a, m):
                    second[gaps[a], j, gaps[b]] += r * (shift[a] * shift[b] + inverse[a, b])


@njit
def _invert(matrix: Floats, chosen: NDArray[np.int64], lower: Floats, inverse: Floats) -> None:
    """Write the inverse of the chosen rows and columns of a matrix, (m, m), by its Cholesky factor."""
    m = len(chosen)
    for i in range(m):
        for j in range(i + 1):
            rest = matrix[chosen[i], chosen[j]]
            for a in range(j):
                rest -= lower[i, a] * lower[j, a]
            lower[i, j] = np.sqrt(rest) if i == j else rest / lower[j, j]
    for i in range(m):  # L^-1 in place
        lower[i, i] = 1.0 / lower[i, i]
        for j in range(i):
            total = 0.0
            for a in range(j, i):
                total -= lower[i, a] * lower[a, j]
            lower[i, j] = total * lower[i, i]
    for i in range(m):
        for j in range(i + 1):
            total = 0.0
            for a in range(i, m):
                total += lower[a, i] * lower[a, j]
            inverse[i, j] = inverse[j, i] = total


@compiled
def pull(
    y: Floats,
    at: NDArray[np.int64],
    bounds: NDArray[np.int64],
    by_feature: Floats,
    offsets: Floats,
    gathered: Floats,
    out: Floats,
) -> None:
    """Do what `Matrices._pulls` does in one call; `gathered`, (n_rows, D), is a buffer."""
    for j in range(len(by_feature)):
        low, high = bounds[j], bounds[j + 1]
        if high > low:
            for g in range(low, high):
                gathered[g - low] = y[at[g]]
            np.dot(gathered[: high - low], by_feature[j], out[low:high])
            offset = offsets[j]
            for g in range(low, high):
                row = out[g]
                for k in range(len(row)):
                    row[k] -= offset[k]


@compiled
def gather(
    y: Floats,
    at: NDArray[np.int64],
    bounds: NDArray[np.int64],
    weighted: Floats,
    gathered: Floats,
    part: Floats,
    first: Floats,
    second: Floats,
) -> None:
    """Add products of gaps with what is observed of their rows, feature by feature; (n_own, D) `part` is a buffer."""
    n_own, n_features = part.shape
    for j in range(len(bounds) - 1):
        low, high = bounds[j], bounds[j + 1]
        if high > low:
            for g in range(low, high):
                gathered[g - low] = y[at[g]]
                row, total = weighted[g], first[j]
                for k in range(n_own):
                    total[k] += row[k]
            np.dot(weighted[low:high].T, gathered[: high - low], part)
            for k in range(n_own):
                source, target = part[k], second[j, k]
                for b in range(n_features):
                    target[b] += source[b]


@compiled
def add_packed(own: NDArray[np.int64], first: Floats, second: Floats, out: Floats) -> None:
    """Add these to the sums of components `own`: upper triangles row by row, and then the first moments."""
    n_features = len(first)
    for j in range(len(own)):
        sums, begin = out[own[j]], 0
        for a in range(n_features):
            sums[begin] += second[a, j, a]
            for b in range(a + 1, n_features):
                sums[begin + b - a] += second[a, j, b] + second[b, j, a]
            begin += n_features - a
        for a in range(n_features):
            sums[begin + a] += first[a, j]
