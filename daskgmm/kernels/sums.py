"""From the sums of a pass to what an M-step works on: log-likelihood, and moments in units of the data."""

from __future__ import annotations

import numpy as np

from daskgmm.kernels.forms import forms
from daskgmm.kernels.kernel import component_variances
from daskgmm.kernels.plan import DOUBLE, Plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import SMALLEST_COUNT, Moments
from daskgmm.mixture.row_set import RowSet


def log_likelihood(statistics: Statistics, plan: Plan, row_set: RowSet | None) -> float:
    """Return the total log-likelihood of an E-step's parameters, nats, with what all components have in common."""
    if plan.common_by_row or not any(kernel.about_origin for kernel, _ in forms(plan)):
        return statistics.log_sum
    return statistics.log_sum + plan.shape.total_common_term(plan.precisions_cholesky, plan.origin, row_set)


def noise_share(statistics: Statistics, plan: Plan) -> float:
    """Return the share of the rows that belong to the noise: what the components leave of their weight."""
    if plan.log_noise is None:
        return 0.0
    own = float(statistics.panel(plan.n_components, plan.n_filled)[:, -1].sum()) / statistics.weight
    return min(max(1.0 - own, 0.0), 1.0)


def mean_shift(statistics: Statistics, plan: Plan, row_set: RowSet) -> tuple[Floats, Floats]:
    """Return how far the mean of a pass's rows lies from the row set's, and what rounding is measured by.

    Both (n_features,), float64, in units of the data.

    Notes
    -----
    Responsibilities sum to one in each row, so sum_k n_k mu_k / n, with mu_k the responsible means, is the mean of the
    rows whatever the parameters. Measured is by the spread of the rows, and of what each component is measured from.
    Where noise takes a share of the rows, the shift is that of the others' part in the mean.
    """
    n_features = plan.means.shape[1]
    panel = statistics.panel(plan.n_components, plan.n_filled)
    share = panel[:, -1] / statistics.weight
    first = panel[:, -1 - n_features : -1] / statistics.weight
    apart = plan.means - plan.origin
    offset = row_set.mean - plan.origin
    scale = np.sqrt(row_set.variances + offset * offset)
    for kernel, own in forms(plan):
        if not kernel.about_origin:
            first[own] = kernel.shifts(plan, own, first) + share[own, np.newaxis] * apart[own]
            scale = scale + share[own] @ (np.abs(apart[own]) + np.sqrt(component_variances(plan))[own])
    found: Floats = first.sum(axis=0)
    present: Floats | float = 1.0 - noise_share(statistics, plan)
    if plan.gaps:
        # What stands in the gaps is for the parameters to say; without it the sum is that of the observed values.
        filled = statistics.filled(n_features) / statistics.weight
        scale = scale + np.abs(filled)
        present, found = row_set.present(n_features), found - filled
    return found - present * offset, scale


def lost_on_the_way(statistics: Statistics, plan: Plan, row_set: RowSet) -> Floats:
    """Return what rounding may make of the mean of a pass's rows on the way to z and back, (n_features,), float64.

    In units of the data.
    """
    share = statistics.panel(plan.n_components, plan.n_filled)[:, -1] / statistics.weight
    found = np.zeros(len(row_set.mean))
    for kernel, own in forms(plan):
        for k in own:
            extent = np.sqrt(row_set.variances) + np.abs(row_set.mean - plan.means[k])
            found += share[k] * kernel.lost(plan, int(k), extent)
    return 8 * DOUBLE.unit_roundoff * found


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
    panel = statistics.panel(plan.n_components, plan.n_filled)
    counts = panel[:, -1] * (statistics.n_rows / statistics.weight)
    empty = counts < SMALLEST_COUNT
    divisor = np.where(empty, 1.0, panel[:, -1])[:, np.newaxis]
    first = panel[:, -1 - n_features : -1] / divisor
    central = shape.central_moments(panel[:, : -1 - n_features] / divisor, first)
    if central.size:
        central = _restored(central, first, plan)
    means = plan.origin + first
    for kernel, own in forms(plan):
        kernel.moments(plan, own, first, central)
        if not kernel.about_origin:
            means[own] = plan.means[own] + first[own]
    means[empty] = plan.means[empty]
    # (Not from `means`: at an offset of 1e8 they are rounded to 1e-8.)
    offsets = first if row_set is None else first + (plan.origin - row_set.mean)
    mean_weight = float(statistics.weight / statistics.n_rows)
    return Moments(counts + SMALLEST_COUNT, means, shape.pool(counts, offsets, central, row_set), mean_weight)


def _restored(central: Floats, first: Floats, plan: Plan) -> Floats:
    """Return central moments, E[xx'] - E[x]E[x]', with variances that were lost to rounding made positive.

    That happens where a mean moves by more than 1e6 of its new standard deviations at once (a start far from the
    rows). With the rounding error itself added the variance stays positive, and the next pass, about the new
    mean, has it right. A move of less than 1e3 *old* ones loses nothing: a collapsed component shows as one.
    """
    roundoff = np.empty((plan.n_components, 1))
    for kernel, own in forms(plan):
        roundoff[own] = kernel.unit_roundoff(plan)
    error = 8 * roundoff * first * first
    variances = plan.shape.variances(central)
    lost = 1e-3 * variances < error
    if not lost.any():
        return central
    old = np.empty_like(first)
    for kernel, own in forms(plan):
        old[own] = kernel.unit(plan, own)
    # In less than double precision any move may lose it; the next pass has such a component in the exact form.
    lost &= (first * first > 1e6 * old) | (roundoff > DOUBLE.unit_roundoff)
    return plan.shape.add_variances(central, np.where(lost, np.maximum(error * first.shape[1], -2 * variances), 0.0))
