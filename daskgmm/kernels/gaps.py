"""Rows with gaps: what is observed of them counts, and nothing else; exact, whichever features each of them lacks.

All forms compute the rows with their gaps filled in by the plan's origin. Then what that has added is taken away again:
with P the precisions of a component, m the gaps of a row, y the filled row less the mean, and w = (P y)_m,

    log p(observed) = log p(filled) + w'(P_mm)^-1 w / 2 + |m| log(2 pi) / 2 - log |P_mm| / 2,

and the row is completed, for the sums, by the conditional mean, y_m - (P_mm)^-1 w, with the covariance (P_mm)^-1 on its
gaps (Ghahramani and Jordan 1994; McCaw, Julienne and Aschard 2022, doi:10.1186/s12859-022-04740-9, in complement form).
So rows need not be grouped by which features they lack, and few gaps cost little: nearly every row may be a pattern of
its own. Where most of a row is missing, it is log p(observed) itself that is computed.

The difference of the two densities cancels where the filled row lies much farther from a component than what is
observed of it. There, and for components that the origin is no place to measure from, each component completes the rows
about its own mean.

A row without any value has no weight, and never comes here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.forms import forms
from daskgmm.kernels.gap_rows import Gaps, Integers, Mask
from daskgmm.kernels.plan import DOUBLE, SAFETY, Plan
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import LOG_2PI


class GapForm(ABC):
    """What a plan does about gaps."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        own = np.zeros(plan.n_components, dtype=bool)
        for kernel, numbers in forms(plan):
            own[numbers] = kernel.about_origin
        #: Components whose sums are about the origin, and the others; those whose densities are corrected.
        self.by_phi, self.near = np.flatnonzero(own), np.flatnonzero(own | plan.stacked)
        self.far = np.flatnonzero(~(own | plan.stacked))
        self.in_own_units = np.flatnonzero(~own)

    @abstractmethod
    def density(self, gaps: Gaps, x: Floats, out: NDArray[Any], *, keep: bool) -> None:
        """Turn log-densities of filled rows, (n_components, n_rows), nats, into those of what is observed, in place.

        `x`, (n_features, n_rows), float64, is filled in by the plan's origin. With `keep`, `sums` or `complete` follow.
        """

    def prepare(self, gaps: Gaps, x: Floats) -> None:
        """Do for rows of several tiles, parts of these gaps, what `density` needs: all at once costs less.

        `x`, (n_features, n_rows), float64, is written to. Forms that gain nothing by it do nothing.
        """
        return

    def tiles(self, gaps: Gaps) -> tuple[Any, ...] | None:
        """Return what `compiled_gap_tiles.add_tiles` takes of prepared gaps, or None where it cannot do these."""
        return None

    def add_kept(self, gaps: Gaps, total: Floats, correction: Floats) -> None:
        """Add what `sums` has left for when all parts of prepared gaps are through to `Statistics.compensated`."""
        return

    @abstractmethod
    def sums(self, gaps: Gaps, x: Floats, resp: NDArray[Any], out: Floats, filled: Floats) -> None:
        """Add what the gaps are, given the rest, to the sums of a tile.

        Parameters
        ----------
        resp : (n_components, n_rows)
            Responsibilities times row weights.
        out : (n_components, n_statistics), float64
            Sums of the filled rows for components by Phi; of rows without gaps alone for the others.
        filled : (n_features,), float64
            Gets the sums of what stands in the gaps now, less the origin: without it the sums have the mean of the
            observed values.
        """

    @abstractmethod
    def complete(self, gaps: Gaps, x: Floats, resp: Floats, out: Floats) -> None:
        """Write the conditional means of the gaps given the rest to `out`, (n_features, n_rows), float64.

        `resp` are responsibilities that sum to 1 in each row.
        """

    @abstractmethod
    def untold(self, gaps: Gaps, resp: Floats) -> Floats:
        """Return the sums of the covariances of the gaps given the rest, times responsibilities (n_components, n).

        (n_components, n_features (n_features + 1) / 2), upper triangles row by row; or, where features are independent
        given the component, (n_components, n_features), in units of its variances: the weight that lacks each.
        """

    @cached_property
    def bound(self) -> Floats:
        """B of each component (`Shape.bound`), (n_components,)."""
        plan = self.plan
        shape, cholesky = plan.shape, plan.precisions_cholesky
        deviations = np.sqrt(shape.variances(shape.covariances(cholesky)))
        found = shape.bound(plan.means, shape.precisions(cholesky), deviations, plan.origin)
        return np.broadcast_to(found, (plan.n_components,))

    @cached_property
    def limit(self) -> float:
        """What B times the gain of a row may be, in units of max(1, q): the rule's own tolerance of the density."""
        return self.plan.precision.tolerance / (SAFETY * self.plan.precision.unit_roundoff)

    def doubtful(self, gain: Floats, log_norm: Floats, density: Floats, own: Integers) -> Mask:
        """Return which densities may have lost digits as differences, all (n, n_own).

        `gain` is what the filled row has more of q, and `log_norm` the density where what is observed is the mean.
        """
        risk = gain * self.bound[own]
        doubt: Mask = risk > self.limit
        if doubt.any():
            doubt &= ~(risk <= self.limit * np.maximum(1.0, 2 * (log_norm - density)))
        return doubt

    def counting(self, gaps: Gaps, out: NDArray[Any], doubtful: Mask) -> Iterator[tuple[int, Integers]]:
        """Yield each component with the rows in doubt that count for it, as places among those with gaps."""
        if doubtful.any():
            own = out[:, gaps.rows]
            counts = doubtful.T & (own >= own.max(axis=0) + DOUBLE.smallest_log_resp)
            for k in np.flatnonzero(counts.any(axis=1)):
                yield int(k), np.flatnonzero(counts[k])


def log_norm_of(n_missing: int) -> float:
    """Return what a density gains by as many features fewer, nats."""
    return 0.5 * LOG_2PI * n_missing
