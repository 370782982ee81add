"""The exact form: z = P'(x - mu), accurate at any offset; sums are those of z, about each component's own mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.kernel import Integers, Kernel
from daskgmm.kernels.loops import loops
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.stack import GROUP, PARTS, Stack
from daskgmm.kernels.tile import Tile

Floats = NDArray[np.float64]

#: Up to such a part of a tile's rows it pays to gather those that count for a component.
FEW_ROWS = 0.7


@dataclass(frozen=True)
class Exact(Kernel):
    """Each component by a product of its own."""

    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        z = tile.work.get("z", (len(own) if tile.keeps else 1, *tile.x.shape))
        scratch = tile.work.get("scratch", tile.x.shape)
        for i, k in enumerate(own):
            z_k = z[i if tile.keeps else 0]
            precision_cholesky = plan.shape.component(plan.precisions_cholesky, k)
            plan.shape.standardise(tile.x, plan.means[k], precision_cholesky, z_k, scratch)
            squared = np.einsum("dn,dn->n", z_k, z_k, out=tile.work.get("squared", (tile.x.shape[1],)))
            squared *= -0.5
            squared += plan.log_constants[k]
            out[k] = squared

    def sums(self, plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], out: Floats) -> None:
        z = tile.work.get("z", (len(own), *tile.x.shape))
        for i, k in enumerate(own):
            _own_sums(plan, tile, resp[k], out[k], partial(_rows_of, tile, z[i]))

    def moments(self, plan: Plan, own: Integers, first: Floats, central: Floats) -> None:
        for k in own:
            precision_cholesky = plan.shape.component(plan.precisions_cholesky, int(k))
            first[k], central[k] = plan.shape.from_standard(first[k], central[k], precision_cholesky)

    def shifts(self, plan: Plan, own: Integers, first: Floats) -> Floats:
        whitened = np.zeros_like(first)
        whitened[own] = first[own]
        found: Floats = plan.shape.unwhiten(whitened, plan.precisions_cholesky)[own]
        return found

    def unit(self, plan: Plan, own: Integers) -> Floats:
        return np.ones((1, 1))

    def lost(self, plan: Plan, k: int, extent: Floats) -> Floats:
        return plan.shape.lost_on_the_way(plan.shape.component(plan.precisions_cholesky, k), extent)


@dataclass(frozen=True)
class Stacked(Exact):
    """Many components in few products (`stack.py`)."""

    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        stack, get, (n_features, n_rows), n = _stack(plan), tile.work.get, tile.x.shape, len(own)
        shifted, density = get("ones_and_shifted", (1 + n_features, n_rows)), get("own_density", (n, n_rows))
        shifted[0] = 1.0
        np.subtract(tile.x, plan.origin[:, np.newaxis], out=shifted[1:])
        z = get("stacked", stack.z_shape(n if tile.keeps else min(n, GROUP), n_rows))
        self._density(stack, shifted, z, density)
        out[own] = density

    def _density(self, stack: Stack, shifted: Floats, z: Floats, out: Floats) -> None:
        stack.log_density(shifted, z, out)

    def sums(self, plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], out: Floats) -> None:
        stack, n_rows = _stack(plan), tile.x.shape[1]
        z = tile.work.get("stacked", stack.z_shape(len(own), n_rows))
        few = tile.work.get("few", (PARTS * stack.height * n_rows,))
        for i, k in enumerate(own):
            _own_sums(plan, tile, resp[k], out[k], partial(stack.own, z, i, few))


@dataclass(frozen=True)
class CompiledStacked(Stacked):
    """The same, by compiled loops around the products."""

    def _density(self, stack: Stack, shifted: Floats, z: Floats, out: Floats) -> None:
        loops().stacked_density(shifted, *stack.matrices, stack.log_constants, stack.height, GROUP, z, out)

    def sums(self, plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], out: Floats) -> None:
        stack, (n_features, n_rows) = _stack(plan), tile.x.shape
        z = tile.work.get("stacked", stack.z_shape(len(own), n_rows))
        few = tile.work.get("few", (PARTS * stack.height * n_rows,))
        second = tile.work.get("second", (n_features, n_features))
        loops().exact_sums(z, stack.height, stack.components, resp, few, second, out)


def _stack(plan: Plan) -> Stack:
    """Return the stacked factors of a plan's components, made once."""
    if "stack" not in plan.derived:
        factors = np.asarray(plan.shape.factors(plan.precisions_cholesky))  # (None of a shape that is never stacked)
        plan.derived["stack"] = Stack.of(plan.stacked, plan.means, factors, plan.origin, plan.log_constants)
    found: Stack = plan.derived["stack"]
    return found


def _own_sums(plan: Plan, tile: Tile, resp: NDArray[Any], out: Floats, z_of: Callable[[Any], Floats]) -> None:
    """Write the sums of one component; `z_of` gives z of some rows, or of all for None."""
    # Most responsibilities are exact zeros where features are many, and everywhere for a far outlier's own component:
    # the sums go over the other rows alone.
    rows = np.flatnonzero(resp)
    if not len(rows):
        out[:] = 0.0
        return
    few = rows if len(rows) <= len(resp) * FEW_ROWS else None
    z = z_of(few)
    own = np.asarray(resp if few is None else resp[few], dtype=np.float64)
    plan.shape.exact_statistics(z, own, out, tile.work.get("scratch", z.shape))


def _rows_of(tile: Tile, z: Floats, rows: NDArray[np.intp] | None) -> Floats:
    if rows is None:
        return z
    few: Floats = np.take(z, rows, axis=1, out=tile.work.get("few", (len(z), len(rows))), mode="clip")
    return few
