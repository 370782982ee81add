"""Factors of the matrices of rows with measurement errors, by NumPy: each entry's of many rows in one operation.

Rows are those of several components, one behind the other: with few features, where a tile's rows of one component are
few numbers, a call of NumPy takes longer than its arithmetic (twice as long for all at 7 features).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from daskgmm.kernels.block import Workspace, tile_length
from daskgmm.mixture.arrays import Floats

#: Rows, and numbers in their matrices, that are computed at once; those of one component always are.
ROWS, NUMBERS = 8192, 1 << 19

#: Of the mean responsibility of a tile's rows: what less adds to a component's sums is below rounding.
SMALLEST = 1e-20


class Part(NamedTuple):
    """Rows, (n_features, n_rows), their errors, as `variances` gives them, and the component that they are given."""

    x: Floats
    noise: Floats
    mean: Floats
    covariance: Floats


def groups(counts: Sequence[int], n_features: int) -> Iterator[slice]:
    """Yield components that are computed at once, which have so many rows each."""
    begin, n_rows, most = 0, 0, min(ROWS, NUMBERS // n_features**2)
    for i, count in enumerate(counts):
        if i > begin and n_rows + count > most:
            yield slice(begin, i)
            begin, n_rows = i, 0
        n_rows += count
    yield slice(begin, len(counts))


def n_bytes(n_features: int) -> int:
    """Return the bytes of the buffers here, and of the rows that are gathered."""
    n_rows = max(tile_length(n_features), min(ROWS, NUMBERS // n_features**2))
    return 8 * n_rows * (3 * n_features * n_features + 10 * n_features)


def factor(parts: Sequence[Part], work: Workspace) -> Floats:
    """Return the factors of V + S = L D L', by columns, (n_features, n_features + 1, n_rows), a buffer.

    Column j has L from j + 1 on, D at j itself, and last z of L z = x - mu.
    """
    n, n_rows = len(parts[0].x), sum(part.x.shape[1] for part in parts)
    factors: Floats = work.get("factors", (n, n + 1, n_rows))
    scaled, product = work.get("scaled", (2, n + 1, n_rows))
    low = 0
    for x, noise, mean, covariance in parts:
        high, begin = low + x.shape[1], 0
        for j, own in enumerate(covariance):
            target = factors[j, j:n, low:high]
            if len(noise) == n:
                target[...] = own[j:, np.newaxis]
                target[0] += noise[j]
            else:
                np.add(own[j:, np.newaxis], noise[begin : begin + n - j], out=target)
                begin += n - j
        np.subtract(x, mean[:, np.newaxis], out=factors[:, n, low:high])
        low = high
    with np.errstate(invalid="ignore", divide="ignore"):  # (what comes of it is looked at)
        for j, column in enumerate(factors):
            np.divide(column[j + 1 : n], column[j], out=scaled[j + 1 : n])
            for i in range(j + 1, n):
                factors[i, i:] -= np.multiply(column[i:], scaled[i], out=product[i:])
            column[j + 1 : n] = scaled[j + 1 : n]
    return factors


def solve(factors: Floats, work: Workspace) -> Floats:
    """Return u = L'^-1 D^-1 z, (n_features, n_rows), a buffer."""
    n, _, n_rows = factors.shape
    u: Floats = work.get("solved", (n, n_rows))
    product = work.get("product", (n, n_rows))
    np.divide(factors[:, n], np.einsum("iin->in", factors[:, :n]), out=u)
    for i in range(n - 1, 0, -1):
        u[:i] -= np.multiply(factors[:i, i], u[i], out=product[:i])
    return u


def invert(factors: Floats, work: Workspace) -> Floats:
    """Return W = L^-1 by rows, (n_features, n_features, n_rows), a buffer: what it had is left above the diagonal."""
    n, _, n_rows = factors.shape
    inverse: Floats = work.get("inverse", (n, n, n_rows))
    product = work.get("product", (n, n_rows))
    for i in range(n):
        own = inverse[i, :i]
        inverse[i, i] = 1.0
        np.negative(factors[:i, i], out=own)
        for j in range(1, i):
            own[:j] -= np.multiply(inverse[j, :j], factors[j, i], out=product[:j])
    return inverse
