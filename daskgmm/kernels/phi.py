"""The form by Phi: log-densities and sums are two wide products with the features of the rows about one origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block, tile_length
from daskgmm.kernels.kernel import Integers, Kernel
from daskgmm.kernels.loops import gap_loops, loops
from daskgmm.kernels.plan import DOUBLE, Plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.tile import Tile
from daskgmm.mixture.arrays import Floats

#: Up to so many features (64 of the data, full) Phi is kept whole, and shared; above, the compiled kernel makes panels.
LONGEST_WHOLE_PHI = 2304
PANEL = 512

_NO_WEIGHTS = np.empty(0)
_NO_PRODUCTS = np.empty((2, 0), dtype=np.int64)


@dataclass(frozen=True)
class Phi(Kernel):
    """By NumPy's products."""

    about_origin = True

    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        phi = tile.phi(plan)
        if _is_most(plan, own):
            # The rows of the others are written over: cheaper than gathering and scattering these.
            np.dot(plan.natural_parameters, phi, out=out)
        else:
            out[own] = plan.natural_parameters[own] @ phi
        if tile.complete:
            n_features = len(tile.x)
            scratch = tile.work.get("scratch", tile.x.shape)
            common = plan.shape.common_term(phi[-1 - n_features : -1], plan.precisions_cholesky, scratch)
            if common is not None:
                out += common

    def sums(self, plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], out: Floats) -> None:
        if not _is_most(plan, own):
            out[own] = resp[own] @ tile.phi(plan).T
        elif plan.precision is DOUBLE:
            np.dot(resp, tile.phi(plan).T, out=out)
        else:
            out[...] = resp @ tile.phi(plan).T

    def unit_roundoff(self, plan: Plan) -> float:
        return plan.precision.unit_roundoff


@dataclass(frozen=True)
class CompiledPhi(Phi):
    """The same, by compiled loops: the log-densities in one call, or a whole block where nothing stands beside them."""

    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        leaves_term = plan.shape.leaves_common_term()
        whole = _is_most(plan, own) and len(plan.transposed_parameters) <= LONGEST_WHOLE_PHI
        # (Where others stand beside them the sums are products with Phi, which then must be there as a whole.)
        if (whole and not leaves_term) or (is_all(plan, own) and not (leaves_term and tile.complete)):
            *rest, _ = _arguments(plan, tile, tile.x.shape[1])
            loops().log_density(*rest, out)
        else:
            super().log_density(plan, own, tile, out)

    def add(self, plan: Plan, tile: Tile, block: Block, total: Statistics, *, tiled: bool = False) -> None:
        """Add the rows of a tile to the sums of a candidate: density, softmax and sums in one call.

        With `tiled` they are a block, which may be long, and the loops cut it into tiles themselves.
        """
        dtype, n_features = plan.precision.dtype, len(tile.x)
        get, length = tile.work.get, tile_length(n_features) if tiled else tile.x.shape[1]
        values, correction = total.compensated()
        x, origin, products, fill, *rest = _arguments(plan, tile, length)
        others = (
            *rest, _NO_WEIGHTS if block.weights is None else block.weights, get("log_likelihood", (length,)),
            get("softmax", (2, length), dtype), dtype(plan.precision.smallest_log_resp),
            dtype(0.0 if plan.log_noise is None else plan.log_noise), values, correction,
        )  # fmt: skip
        if tiled:
            loops().add_block(x, length, get("tile", (n_features * length,)), origin, products, *others)
        else:
            loops().add_tile(x, origin, products, fill, *others)
        values[-1] += block.n_rows

    def add_gaps(
        self, plan: Plan, tile: Tile, block: Block, total: Statistics, of_gaps: tuple[Any, ...], smallest: float
    ) -> int:
        """Do what `add` does for rows of which some lack values, up to the first tile that must be done otherwise.

        Returns how many rows are done. `of_gaps` is what `GapForm.tiles` returns.
        """
        dtype, (n_features, n_rows), get = plan.precision.dtype, tile.x.shape, tile.work.get
        length = min(n_rows, tile_length(n_features))
        x, origin, products, fill, *rest = _arguments(plan, tile, length)
        values, correction = total.compensated()
        n: int = gap_loops().add_tiles(
            x, length, get("tile", (n_features * length,)), origin, products, fill, *rest,
            _NO_WEIGHTS if block.weights is None else block.weights, get("log_likelihood", (length,)),
            get("softmax", (2, length), dtype), dtype(smallest),
            dtype(0.0 if plan.log_noise is None else plan.log_noise), values, correction, *of_gaps,
        )  # fmt: skip
        left_out = block.left_out
        values[-1] += n - (0 if left_out is None else np.count_nonzero(left_out[:n]))
        return n


def is_all(plan: Plan, own: Integers) -> bool:
    """Return whether these are all components, with nothing to add to them by row: then a block is one call."""
    return len(own) == plan.n_components and not (plan.weightless or plan.common_by_row)


def _is_most(plan: Plan, own: Integers) -> bool:
    return 2 * len(own) >= plan.n_components


def _arguments(plan: Plan, tile: Tile, length: int) -> tuple[Any, ...]:
    """Return what the loops take first, from the rows to the log-density, for tiles of `length` rows."""
    x, dtype, get = tile.x, plan.precision.dtype, tile.work.get
    n_phi = len(plan.transposed_parameters)
    products, fill = plan.shape.products(len(x)), True
    if products is None:
        phi, products, fill = tile.phi(plan), _NO_PRODUCTS, False
    elif n_phi > LONGEST_WHOLE_PHI:
        phi = get("panel", (PANEL, length), dtype)
    elif length < x.shape[1]:
        phi = get("phi", (n_phi, length), dtype)
    else:
        phi, fill = tile.phi_buffer(plan)
    return (
        x, plan.origin, products, fill, plan.transposed_parameters, get("shifted", (len(x), length), dtype), phi,
        get("part", (plan.n_components * max(len(phi), length),), dtype),
        get("log_density", (plan.n_densities, length), dtype),
    )  # fmt: skip
