"""The small matrices of a row with gaps, of eight components at once: their factors and inverses, compiled by numba."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from daskgmm.kernels.compiled_lanes import less, load, more, over, spread, store, times
from daskgmm.kernels.compiled_softmax import _log
from daskgmm.kernels.gap_lanes import LANES
from daskgmm.mixture.arrays import Floats

#: Pivots of which the product is taken before its logarithm; they are those of matrices with ones on the diagonal.
PIVOTS = 8


@njit(inline="always")
def factor(
    entries: Floats,
    roots: Floats,
    n_features: int,
    features: NDArray[np.int64],
    low: int,
    m: int,
    c: int,
    w: Floats,
    first: int,
    lower: Floats,
    v: Floats,
    gain: Floats,
    pivots: Floats,
    log_det: Floats,
    at: int,
) -> None:
    """Factor A = SLDL'S: m rows and columns, from `features[low]` on, of the matrices of the c-th lanes of components.

    All arrays are flat, lanes last: `entries`, (n_lanes, D, D), and `roots`, (n_lanes, D), which has one over S, the
    root of A's diagonal, so that the first of D is 1. Vectors w are those from number `first` of `w` on. `lower`,
    (m, m), gets L below its diagonal, LD above, and one over D on it, and `v`, (m,), (SL)^-1 w; place `at` of `gain`
    gets w'A^-1 w, and of `log_det` log |D| less that of `pivots`, of which the logarithm is still to be taken.
    """
    one, total, product = spread(1.0), spread(0.0), spread(1.0)
    store(log_det, at, total)
    for i in range(m):
        f, pivot = c * n_features + features[low + i], one
        root = load(roots, f * LANES)
        t = times(load(w, (first + i) * LANES), root)
        for j in range(i):
            g = features[low + j]
            e = times(load(entries, (f * n_features + g) * LANES), root)
            e = times(e, load(roots, (c * n_features + g) * LANES))
            for a in range(j):
                e = less(e, load(lower, (a * m + i) * LANES), load(lower, (j * m + a) * LANES))
            u = times(e, load(lower, (j * m + j) * LANES))
            store(lower, (j * m + i) * LANES, e)
            store(lower, (i * m + j) * LANES, u)
            t, pivot = less(t, u, load(v, j * LANES)), less(pivot, e, u)
        inverse = over(one, pivot)
        store(lower, (i * m + i) * LANES, inverse)
        store(v, i * LANES, t)
        total, product = more(total, times(t, t), inverse), times(product, pivot)
        if i % PIVOTS == PIVOTS - 1:
            store(pivots, at, product)
            product = one
            for k in range(at, at + LANES):
                log_det[k] += _log(pivots[k])
    store(gain, at, total)
    store(pivots, at, product)


@njit(inline="always")
def complete(
    roots: Floats,
    n_features: int,
    features: NDArray[np.int64],
    low: int,
    m: int,
    c: int,
    lower: Floats,
    v: Floats,
    shift: Floats,
    inverse: Floats,
) -> None:
    """Write -A^-1 w to `shift`, (m, LANES), and A^-1 to `inverse`, (m, m, LANES), by the factors of `factor`.

    L^-1 is in the place of L then.
    """
    for i in range(m):
        for j in range(i):
            t = load(lower, (i * m + j) * LANES)
            for a in range(j + 1, i):
                t = more(t, load(lower, (i * m + a) * LANES), load(lower, (a * m + j) * LANES))
            store(lower, (i * m + j) * LANES, times(t, spread(-1.0)))
    for i in range(m):
        root = load(roots, (c * n_features + features[low + i]) * LANES)
        for j in range(i + 1):
            t = load(lower, (i * m + i) * LANES)
            t = t if i == j else times(t, load(lower, (i * m + j) * LANES))
            for a in range(i + 1, m):
                u = times(load(lower, (a * m + i) * LANES), load(lower, (a * m + a) * LANES))
                t = more(t, u, spread(1.0) if a == j else load(lower, (a * m + j) * LANES))
            t = times(times(t, root), load(roots, (c * n_features + features[low + j]) * LANES))
            store(inverse, (i * m + j) * LANES, t)
            store(inverse, (j * m + i) * LANES, t)
        t = times(load(lower, (i * m + i) * LANES), load(v, i * LANES))
        for a in range(i + 1, m):
            u = times(load(lower, (a * m + i) * LANES), load(lower, (a * m + a) * LANES))
            t = more(t, u, load(v, a * LANES))
        store(shift, i * LANES, times(times(t, root), spread(-1.0)))
