"""Sufficient statistics: a monoid of sums, and the moments that an M-step makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.covariance import RowSet
from daskgmm.mixture.plan import Plan

Floats = NDArray[np.float64]


class Statistics:
    """Sums over rows for one candidate: its panel, log-likelihood, weight and row count. A monoid under `merge`.

    Adding is compensated (Kahan 1965, doi:10.1145/363707.363723): over many blocks a plain sum lost up
    to one and a half digits in the covariances, and this costs nothing beside the products of a block.

    Attributes
    ----------
    values : (n_components * n_statistics + 3,), float64
        The panel (per component: second moments, first moments, count; see `Plan` for the reference point
        and frame of each), then the log-likelihood in nats, the sum of the row weights and the number of rows.
    """

    __slots__ = ("_correction", "_scratch", "values")

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._correction: Floats | None = None
        self._scratch: Floats | None = None

    @classmethod
    def zero(cls, plan: Plan) -> Statistics:
        """Return the neutral element for a candidate with this plan."""
        return cls(np.zeros(plan.n_components * plan.n_statistics + 3))

    def add(self, values: Floats) -> None:
        """Add the sums of one block, in place; `values` is overwritten."""
        if self._correction is None or self._scratch is None:
            self._correction, self._scratch = np.zeros_like(self.values), np.empty_like(self.values)
        values -= self._correction
        np.add(self.values, values, out=self._scratch)
        np.subtract(self._scratch, self.values, out=self._correction)
        self._correction -= values
        self.values, self._scratch = self._scratch, self.values

    def settled(self) -> Statistics:
        """Return the sums alone, as they travel and merge."""
        return Statistics(self.values)

    def merge(self, other: Statistics) -> Statistics:
        """Return the sum of two settled statistics of the same plan."""
        return Statistics(self.values + other.values)

    def __mul__(self, factor: float) -> Statistics:
        """Return the statistics of the same rows with every weight multiplied by `factor`."""
        values = self.values * factor
        values[-1] = self.values[-1]
        return Statistics(values)

    def __reduce__(self) -> tuple[type[Statistics], tuple[Floats]]:
        return (Statistics, (self.values,))

    @property
    def weight(self) -> float:
        """Sum of the row weights."""
        return float(self.values[-2])

    @property
    def n_rows(self) -> int:
        """Number of rows that were counted."""
        return int(self.values[-1])

    def panel(self, n_components: int) -> Floats:
        """Return the sums of the components, (n_components, n_statistics), float64."""
        return self.values[:-3].reshape(n_components, -1)

    def log_likelihood(self, plan: Plan, row_set: RowSet | None) -> float:
        """Return the total log-likelihood of the plan's parameters, nats."""
        common = 0.0
        if plan.by_phi.any():
            common = plan.kind.total_common_term(plan.precisions_cholesky, plan.origin, row_set)
        return float(self.values[-3]) + common


@dataclass(frozen=True)
class Moments:
    """What an M-step works on: counts, means and central second moments in original units.

    Attributes
    ----------
    counts : (n_components,), float64
        Sum of the responsibilities, in units of the row weights.
    means : (n_components, n_features), float64
        Responsible means; the plan's own mean where a component has no rows.
    central : float64
        Covariances before regularisation, in the shape of the kind.
    """

    counts: Floats
    means: Floats
    central: Floats


#: scikit-learn adds this to every count; a component with less than this has no rows.
SMALLEST_COUNT = 10 * float(np.finfo(np.float64).eps)


def moments(statistics: Statistics, plan: Plan, row_set: RowSet | None) -> Moments:
    """Return the moments of each component about its new mean, from sums about the plan's reference points.

    Notes
    -----
    Sums of a component by Phi are about the origin c: mean = c + d and central = E[yy'] - dd' with d = E[y].
    Those of an exact component are about its old mean in units of its old covariance, z = P'(x - mu):
    central = P^-T (E[zz'] - E[z]E[z]') P^-1, which is accurate at any offset.
    """
    kind, n_features = plan.kind, plan.means.shape[1]
    panel = statistics.panel(plan.n_components)
    counts = panel[:, -1] + SMALLEST_COUNT
    first = panel[:, -1 - n_features : -1] / counts[:, np.newaxis]
    central = kind.central_moments(panel[:, : -1 - n_features] / counts[:, np.newaxis], first)
    means = plan.origin + first
    for k in np.flatnonzero(plan.exact):
        shift, central[k] = kind.from_standard(first[k], central[k], kind.component(plan.precisions_cholesky, k))
        means[k] = plan.means[k] + shift
    empty = panel[:, -1] < SMALLEST_COUNT
    means[empty] = plan.means[empty]
    return Moments(counts, means, kind.pool(counts, means, central, row_set))
