"""Sufficient statistics: a monoid of sums, and the moments that an M-step makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskgmm.kernels.plan import DOUBLE, Plan
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.row_set import RowSet


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

    def compensated(self) -> tuple[Floats, Floats]:
        """Return the sums and what they lack, two buffers for a kernel that adds as `add` does."""
        if self._correction is None:
            self._correction, self._scratch = np.zeros_like(self.values), np.empty_like(self.values)
        return self.values, self._correction

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

    def __sizeof__(self) -> int:
        # By this Dask's scheduler merges where most of the inputs are.
        return object.__sizeof__(self) + self.values.nbytes

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

    @property
    def log_sum(self) -> float:
        """Sum of the log-densities as the pass computed them, nats: complete in a pass that only scores."""
        return float(self.values[-3])

    @property
    def log_largest(self) -> float:
        """Sum of the logarithms of the largest responsibilities, nats, of a pass that only scores."""
        return float(self.values[0])

    def left_out(self, n_components: int) -> Floats:
        """Return two sums a component, (2, n_components), of a pass that scores and tells what each is worth.

        What the rows lose without it, nats, and its responsibilities.
        """
        return self.values[1:-3].reshape(2, n_components)

    def log_likelihood(self, plan: Plan, row_set: RowSet | None) -> float:
        """Return the total log-likelihood of an E-step's parameters, nats, with what all components have in common."""
        if plan.common_by_row or not plan.any_phi:
            return self.log_sum
        return self.log_sum + plan.shape.total_common_term(plan.precisions_cholesky, plan.origin, row_set)


@dataclass(frozen=True)
class Moments:
    """What an M-step works on: counts, means and central second moments in original units.

    Attributes
    ----------
    counts : (n_components,), float64
        Sum of the responsibilities, in units of the mean row weight, plus `SMALLEST_COUNT`.
    means : (n_components, n_features), float64
        Responsible means; the plan's own mean where a component has no rows.
    central : float64
        Covariances before regularisation, in the plan's shape.
    """

    counts: Floats
    means: Floats
    central: Floats


def mean_shift(statistics: Statistics, plan: Plan, row_set: RowSet) -> tuple[Floats, Floats]:
    """Return how far the mean of a pass's rows lies from the row set's, and what rounding is measured by.

    Both (n_features,), float64, in units of the data.

    Notes
    -----
    Responsibilities sum to one in each row, so sum_k n_k mu_k / n, with mu_k the responsible means, is the mean of the
    rows whatever the parameters. Measured is by the spread of the rows, and of what each component is measured from.
    """
    shape, n_features = plan.shape, plan.means.shape[1]
    panel = statistics.panel(plan.n_components)
    share, exact = panel[:, -1] / statistics.weight, plan.exact
    first = panel[:, -1 - n_features : -1] / statistics.weight
    apart = plan.means - plan.origin
    if exact.any():
        own = shape.unwhiten(np.where(exact[:, np.newaxis], first, 0.0), plan.precisions_cholesky)
        first = np.where(exact[:, np.newaxis], own + share[:, np.newaxis] * apart, first)
    offset = row_set.mean - plan.origin
    scale = np.sqrt(row_set.variances + offset * offset)
    if exact.any():
        own = np.sqrt(shape.variances(shape.covariances(plan.precisions_cholesky)))
        scale = scale + share[exact] @ (np.abs(apart[exact]) + np.broadcast_to(own, apart.shape)[exact])
    return first.sum(axis=0) - offset, scale


def lost_on_the_way(statistics: Statistics, plan: Plan, row_set: RowSet) -> Floats:
    """Return what rounding may make of the mean of a pass's rows on the way to z and back, (n_features,), float64.

    In units of the data.
    """
    share = statistics.panel(plan.n_components)[:, -1] / statistics.weight
    found = np.zeros(len(row_set.mean))
    for k in plan.exact_components:
        extent = np.sqrt(row_set.variances) + np.abs(row_set.mean - plan.means[k])
        own = plan.shape.component(plan.precisions_cholesky, k)
        found += share[k] * plan.shape.lost_on_the_way(own, extent)
    return 8 * DOUBLE.unit_roundoff * found


#: scikit-learn adds this to every count; a component with less than this (in rows of mean weight) has no rows.
SMALLEST_COUNT = 10 * float(np.finfo(np.float64).eps)


def moments(statistics: Statistics, plan: Plan, row_set: RowSet | None) -> Moments:
    """Return the moments of each component about its new mean, from sums about the plan's reference points.

    Notes
    -----
    Sums of a component by Phi are about the origin c: mean = c + d and central = E[yy'] - dd' with d = E[y].
    Those of an exact component are about its old mean in units of its old covariance, z = P'(x - mu):
    central = P^-T (E[zz'] - E[z]E[z]') P^-1, which is accurate at any offset.

    Sums are divided by the count itself: with scikit-learn's count + 10 eps the mean of a component with
    count 1e-10 moves by 1e-5 of its distance from the reference point, so by Phi and exact to different places.
    """
    shape, n_features = plan.shape, plan.means.shape[1]
    panel = statistics.panel(plan.n_components)
    counts = panel[:, -1] * (statistics.n_rows / statistics.weight)
    empty = counts < SMALLEST_COUNT
    divisor = np.where(empty, 1.0, panel[:, -1])[:, np.newaxis]
    first = panel[:, -1 - n_features : -1] / divisor
    central = shape.central_moments(panel[:, : -1 - n_features] / divisor, first)
    if central.size:
        central = _restored(central, first, plan)
    means = plan.origin + first
    for k in np.flatnonzero(plan.exact):
        shift, central[k] = shape.from_standard(first[k], central[k], shape.component(plan.precisions_cholesky, int(k)))
        means[k] = plan.means[k] + shift
    means[empty] = plan.means[empty]
    # (Not from `means`: at an offset of 1e8 they are rounded to 1e-8.)
    offsets = first if row_set is None else first + (plan.origin - row_set.mean)
    return Moments(counts + SMALLEST_COUNT, means, shape.pool(counts, offsets, central, row_set))


def _restored(central: Floats, first: Floats, plan: Plan) -> Floats:
    """Return central moments, E[xx'] - E[x]E[x]', with variances that were lost to rounding made positive.

    That happens where a mean moves by more than 1e6 of its new standard deviations at once (a start far from the
    rows). With the rounding error itself added the variance stays positive, and the next pass, about the new
    mean, has it right. A move of less than 1e3 *old* ones loses nothing: a collapsed component shows as one.
    """
    exact = plan.exact[:, np.newaxis]
    error = 8 * np.where(exact, DOUBLE.unit_roundoff, plan.precision.unit_roundoff) * first * first
    variances = plan.shape.variances(central)
    lost = 1e-3 * variances < error
    if not lost.any():
        return central
    old = plan.shape.variances(plan.shape.covariances(plan.precisions_cholesky))
    # In single precision any move may lose it; the next pass has such a component in the exact form.
    moved = first * first > 1e6 * np.where(exact, 1.0, old)
    lost &= moved if plan.precision is DOUBLE else moved | ~exact
    return plan.shape.add_variances(central, np.where(lost, np.maximum(error * first.shape[1], -2 * variances), 0.0))
