"""Numbers of components as compiled loops take them, eight at once; and what these keep of the gaps of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from daskgmm.mixture.arrays import Floats

#: Numbers that compiled loops compute at once (`compiled_lanes`, which cannot be imported without numba).
LANES = 8
_NONE = np.empty(0)


class Kept(NamedTuple):
    """What densities and sums have in common: rows less the origin, and w of every gap.

    For compiled loops also w'(P_mm)^-1 w, by how much densities change, and the largest of the former for each
    component; and responsibilities so far.
    """

    y: Floats
    pulls: Floats
    gains: Floats = _NONE
    changes: Floats = _NONE
    most_gains: Floats = _NONE
    resp: Floats = _NONE


def n_lanes_of(n: int) -> int:
    """Return how many lanes, each of LANES numbers, n numbers fill."""
    return -(-n // LANES)


def in_lanes(values: Floats, rest: Floats) -> Floats:
    """Return values, (n, ...), as (n_lanes, ..., LANES); `rest`, (...), fills the last."""
    n_lanes = n_lanes_of(len(values))
    found = np.empty((n_lanes * LANES, *values.shape[1:]))
    found[: len(values)], found[len(values) :] = values, rest
    return np.ascontiguousarray(np.moveaxis(found.reshape(n_lanes, LANES, *values.shape[1:]), 1, -1))
