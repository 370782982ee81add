"""The rows that go through the arithmetic at once, and what kernels share of them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from daskgmm.kernels.block import Columns, Workspace, block_length, tile_length
from daskgmm.kernels.gap_rows import Gaps
from daskgmm.kernels.plan import Plan, fill_phi
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import Shape


class Tile:
    """Rows of one tile, buffers, and Phi of the rows, which plans share where they can.

    Attributes
    ----------
    x : (n_features, n_rows), float64
        The rows.
    work : Workspace
        Buffers by name, which live from tile to tile.
    columns : mapping of str to (n_rows,) or (n_columns, n_rows), int64 or float64
        What else comes with each row, by name.
    gaps : Gaps or None
        The values that are missing; `x` has the origin there of the plan that is computed.
    keeps : bool
        Whether sums follow the log-densities: a kernel may keep what both need.
    complete : bool
        Whether log-densities must have the term that a tied mixture has in common; responsibilities do not need it.
    """

    def __init__(self, x: Floats, work: Workspace, columns: Columns | None = None, gaps: Gaps | None = None) -> None:
        self.x, self.work, self.columns, self.gaps = x, work, columns or {}, gaps
        self.keeps = self.complete = False
        self._phi: NDArray[Any] | None = None
        self._phi_of: tuple[Shape, str, bytes] | None = None

    def phi(self, plan: Plan) -> NDArray[Any]:
        """Return Phi of the rows about the plan's origin, (n_phi, n_rows), in its precision."""
        phi, fill = self.phi_buffer(plan)
        if fill:
            fill_phi(plan.shape, self.x, plan.origin, phi)
        return phi

    def phi_buffer(self, plan: Plan) -> tuple[NDArray[Any], bool]:
        """Return the buffer for the Phi of a plan, and whether it must still be filled (and counts as filled now)."""
        key = (plan.shape, plan.precision.name, plan.origin.tobytes())
        fill = self._phi is None or self._phi_of != key
        if self._phi is None or fill:
            n_features, n_rows = self.x.shape
            n_phi = plan.shape.n_statistics(n_features, exact=False)
            self._phi, self._phi_of = self.work.get("phi", (n_phi, n_rows), plan.precision.dtype), key
        return self._phi, fill


def buffer_bytes(shape: Shape, n_components: int, n_features: int) -> int:
    """Return the bytes of an E-step's buffers, which candidates share, with all components in the exact form."""
    columns = shape.n_statistics(n_features, exact=False) + 2 * n_components + (n_components + 4) * n_features + 8
    return 8 * (tile_length(n_features) * columns + block_length(n_features) * (n_features + 1))
