"""The rows that go through the arithmetic at once, and what kernels share of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Workspace
from daskgmm.kernels.plan import Plan, fill_phi
from daskgmm.mixture.shapes.shape import Shape

Floats = NDArray[np.float64]


class Tile:
    """Rows of one tile, buffers, and Phi of the rows, which plans share where they can.

    Attributes
    ----------
    x : (n_features, n_rows), float64
        The rows.
    work : Workspace
        Buffers by name, which live from tile to tile.
    keeps : bool
        Whether sums follow the log-densities: a kernel may keep what both need.
    complete : bool
        Whether log-densities must have the term that a tied mixture has in common; responsibilities do not need it.
    """

    def __init__(self, x: Floats, work: Workspace) -> None:
        self.x, self.work = x, work
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
