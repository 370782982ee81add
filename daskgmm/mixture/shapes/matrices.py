"""Triangular matrices, as the shapes whose covariances are matrices pack, factor and solve them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri, dtrtrs

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import collapsed


@cache
def triangle(n_features: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the upper triangle, row by row: the order in which second moments are packed."""
    return np.triu_indices(n_features)


@cache
def pairs(n_features: int) -> NDArray[np.int64]:
    """Return the same as one array, (2, n_features * (n_features + 1) / 2)."""
    return np.stack(triangle(n_features))


@cache
def flat_triangle(n_features: int) -> NDArray[np.intp]:
    """Return `triangle` as positions in the matrix laid flat; taking them is 4 times faster."""
    rows, columns = triangle(n_features)
    return rows * n_features + columns


def precision_cholesky_of(covariance: Floats, who: str) -> Floats:
    """Return P, upper triangular, with the inverse of a covariance matrix P P'; an error says whose is singular."""
    # (LAPACK itself: SciPy's checks around it took most of the time of an M-step with few features.)
    lower, failed = dpotrf(covariance, lower=True, clean=True)
    if failed or not np.isfinite(lower).all():
        raise collapsed(who)
    return np.ascontiguousarray(dtrtri(lower, lower=True)[0].T)


def solved(upper: Floats, right: Floats, *, transposed: bool = False) -> Floats:
    """Return upper^-1 right, or upper^-T right; infinities where it is singular.

    (LAPACK itself, as above: SciPy's checks take 60 us, which was most of an M-step in the exact form.)
    """
    # For Fortran, upper in C order is its transpose, lower.
    solution, failed = dtrtrs(upper.T, right, lower=1, trans=0 if transposed else 1)
    return np.full_like(right, np.inf) if failed else np.asarray(solution, dtype=np.float64)


def covariance_of(precision_cholesky: Floats) -> Floats:
    """Return (P P')^-1."""
    inverse, _ = dtrtri(precision_cholesky.T, lower=True)
    result: Floats = inverse @ inverse.T
    return result
