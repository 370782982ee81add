"""What a kernel is: one form of the E-step, for some components of a mixture.

`forms.py` says which kernel computes which components. Softmax couples them: all log-densities of a tile come first,
then responsibilities, then each kernel's sums. To add a kernel, derive a frozen dataclass from `Kernel`, and give an
object of it to `GaussianMixture(kernel=...)`. It travels to workers within each plan, so they must have its class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.plan import DOUBLE, Plan
from daskgmm.kernels.tile import Tile
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.shapes.shape import Shape

Integers = NDArray[np.int64]


class Kernel(Record, ABC):
    """One form of the E-step; a frozen dataclass, whose objects hold no mixture and no rows."""

    #: Whether sums are about the plan's origin; else they are about each component's own mean.
    about_origin = False
    #: Whether sums are not those of the rows as they are, but of what is completed from them: their mean is then not
    #: that of the rows, and one component takes more than one step.
    completes: ClassVar[bool] = False

    def chosen(self, parameters: Parameters, origin: Floats) -> NDArray[np.bool_]:
        """Return the components of a mixture that this kernel computes, (n_components,), bool; others go by the rule.

        Where all components share a covariance, one takes all with it.
        """
        return np.ones(parameters.n_components, dtype=bool)

    @abstractmethod
    def log_density(self, plan: Plan, own: Integers, tile: Tile, out: NDArray[Any]) -> None:
        """Write log of weight times density, nats, of components `own` to their rows of `out`, (n_components, n_rows).

        A kernel of the user's writes to no other rows: it comes after daskgmm's own, which may. A component of weight
        zero need not be treated in any way.

        Parameters
        ----------
        plan : Plan
            The mixture. What is derived from it stays in `plan.derived`, once for each process and pass.
        own : (n,), int64
        tile : Tile
            Rows, `tile.x`, (n_features, n_rows), and `tile.columns`, what else comes with each, by name.
        """

    @abstractmethod
    def sums(self, plan: Plan, own: Integers, tile: Tile, resp: NDArray[Any], out: Floats) -> None:
        """Write the sums of components `own` to their rows of `out`, (n_components, n_statistics), float64.

        Packed second moments about the reference point, as `plan.shape` packs them; first moments; and the count:
        `plan.shape.exact_statistics(tile.x - plan.means[k][:, None], resp[k], out[k], buffer)` writes all three, with a
        buffer as large as its first argument. What follows below has defaults that are right for such sums.

        Parameters
        ----------
        resp : (n_components, n_rows)
            Responsibilities times row weights.
        """

    def moments(self, plan: Plan, own: Integers, first: Floats, central: Floats) -> None:
        """Convert moments of components `own` to units of the data, in place; here they are so already.

        Parameters
        ----------
        first : (n_components, n_features), float64
            Means of the components' rows, less the reference point.
        central : float64, (n_components, ...) of the plan's shape
            Their covariances.
        """

    def shifts(self, plan: Plan, own: Integers, first: Floats) -> Floats:
        """Return the first of these alone, for components `own`: (n, n_features), in units of the data."""
        return first[own]

    def unit(self, plan: Plan, own: Integers) -> Floats:
        """Return the variances before, in the units of the sums, broadcastable to (n, n_features)."""
        return component_variances(plan)[own]

    def unit_roundoff(self, plan: Plan) -> float:
        """Return the unit roundoff of the sums' products."""
        return DOUBLE.unit_roundoff

    def lost(self, plan: Plan, k: int, extent: Floats) -> Floats:
        """Return u^-1 times what rounding makes of offsets of this extent, (n_features,), before they are summed."""
        return np.zeros_like(extent)

    def seen(self, parameters: Parameters, columns: Mapping[str, NDArray[Any]], weights: Floats) -> Parameters:
        """Return the mixture that rows with these columns show as they are, roughly; here it is that of the parameters.

        Starts and moves look at rows as they are. Their mixtures come back by `unseen`.

        Parameters
        ----------
        columns : mapping of str to (n_rows,) or (n_rows, n_columns)
        weights : (n_rows,), float64
        """
        return parameters

    def unseen(self, parameters: Parameters, columns: Mapping[str, NDArray[Any]], weights: Floats) -> Parameters:
        """Return the parameters of a mixture that rows with these columns show as they are, roughly."""
        return parameters

    def n_bytes(self, shape: Shape, n_components: int, n_features: int) -> int:
        """Return the bytes that a task takes for it beside what all forms of daskgmm's own take."""
        return 0


def component_variances(plan: Plan) -> Floats:
    """Return the variances of each component of a plan, (n_components, n_features)."""
    found = plan.shape.variances(plan.shape.covariances(plan.precisions_cholesky))
    return np.broadcast_to(found, plan.means.shape)
