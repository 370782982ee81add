"""What a component is worth: the log-likelihood that goes with it, and whether that pays for its numbers.

A component that sits on a handful of rows, or on rows that are alike, raises the likelihood as far as the floor of
variances lets it, and says nothing of the rows to come: a *spike*. Its *support* tells it from one that the rows need:

    Delta_k = - sum_i w_i log(1 - r_ik) + n log(1 - pi_k),  nats,

what the log-likelihood loses where component k is left out, the others stay as they are, and their weights are divided
by their sum. n is the sum of the row weights. A component is supported if Delta_k, in units of the mean row weight, is
at least p_k log(N) / 2 (p_k its own free parameters, N the number of rows: what BIC asks for them; the scale of the
weights decides nothing), and if it has more rows than its shape needs. Where in most directions it has no variance but
the floor, a point mass, what it owes to them does not count: that tells how small the floor is, and not how well the
component describes the rows. (Some directions are no reason: of edges and planes in pictures, smooth but for rounding,
components of a quarter of the rows are made, and rows held out agree.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.gap_support import told
from daskgmm.kernels.plan import DOUBLE
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.thin import POINT_MASS

#: Rows whose 1 - r, each at least 1/2, may be multiplied without underflow before one logarithm is taken of them all.
_RUN = 512


@dataclass(frozen=True)
class Support:
    """What each component of a mixture is worth on some rows.

    Attributes
    ----------
    nats : (n_components,), float64
        Delta_k; infinite where nothing is left without the component.
    counts : (n_components,), float64
        Rows of each component: the sum of its responsibilities, in units of the mean row weight.
    row_weight : float
        The mean row weight.
    told : (n_components,), float64, or None
        How many of them tell of the direction that is told of least (`gap_support`); None where none lacks values.
    """

    nats: Floats
    counts: Floats
    row_weight: float = 1.0
    told: Floats | None = None

    @property
    def telling(self) -> Floats:
        """Rows that tell of each component in all directions, (n_components,)."""
        return self.counts if self.told is None else self.told

    def less(self, untold: Floats, parameters: Parameters) -> Support:
        """Return it with what the rows do not tell (`Statistics.untold`)."""
        if not untold.shape[1]:
            return self
        return replace(self, told=told(untold / self.row_weight, self.counts, parameters))

    @classmethod
    def of_sums(
        cls, lost: Floats, resp_sums: Floats, parameters: Parameters, *, weight: float, n_rows: float
    ) -> Support:
        """Return the support from the sums over rows that `leave_out` gives.

        Parameters
        ----------
        lost, resp_sums : (n_components,), float64
        weight : float
            Sum of the row weights.
        """
        noise = 0.0 if parameters.noise is None else parameters.noise.weight
        if parameters.n_components == 1 and not noise > 0:
            return cls(np.full(1, np.inf), resp_sums * (n_rows / weight), weight / n_rows)
        # (Not 1 less the weight: what is left may be less than the rounding of 1.)
        others = (1.0 - np.eye(parameters.n_components)) @ parameters.weights + noise
        with np.errstate(divide="ignore"):
            log_others = np.log(others / (parameters.weights.sum() + noise))
        # Where the others have no weight there is no mixture without the component.
        # And without the only component of a class none for its rows.
        left = (others > 0) & ~parameters.is_alone
        nats = np.where(left, lost + weight * np.maximum(log_others, -1e300), np.inf)
        return cls(nats, resp_sums * (n_rows / weight), weight / n_rows)

    def is_below(self, parameters: Parameters, n_rows: int, owed: Floats | float = 0.0) -> NDArray[np.bool_]:
        """Return which components are worth less than their price, (n_components,), bool.

        Of a sample, whose rows stand for `n_rows`, Delta_k stands for as many times more; `owed`, nats a row, is not
        counted.
        """
        share = min(float(self.counts.sum()) / n_rows, 1.0)
        return np.asarray(self.nats / self.row_weight - owed * self.counts < share * price(parameters, n_rows))


def support_of(score: Statistics, parameters: Parameters, *, n_rows: int) -> Support:
    """Return the support of a mixture from a pass that scored it (`SupportPass`); `n_rows` have a positive weight."""
    lost, resp_sums = score.left_out(parameters.n_components)
    found = Support.of_sums(lost, resp_sums, parameters, weight=score.weight, n_rows=n_rows)
    return found.less(score.untold(parameters.n_components), parameters)


def price(parameters: Parameters, n_rows: int) -> Floats | float:
    """Return what a component must be worth at least, nats in units of the mean row weight: p_k log(n_rows) / 2.

    Numbers that are fixed cost nothing: where there are such it is one of each component, (n_components,).
    """
    n_own = parameters.n_own if parameters.fixed else parameters.family.n_own(parameters.n_features)
    return 0.5 * n_own * float(np.log(n_rows))


def unsupported(parameters: Parameters, support: Support, *, floor: Floats | float, n_rows: int) -> NDArray[np.bool_]:
    """Return which components are spikes, (n_components,), bool: of fixed numbers, or whose covariance is one, none is.

    Parameters
    ----------
    support : Support
        On all rows, or on a sample of them.
    floor : float, or float64 in the shape of one covariance
        What every component has of variance from the prior alone, in squared units.
    n_rows : int
        Number of all rows.
    """
    if parameters.n_components == 1:
        return np.zeros(1, dtype=bool)
    p = parameters
    few = support.telling < p.family.least_rows(p.n_features)
    below = support.is_below(p, n_rows, owed=thin_gain(p, floor))
    return (few | below) & ~_is_known(p)


def _is_known(p: Parameters) -> NDArray[np.bool_]:
    """Return which components have no more free numbers than a weight and a mean, the rest fixed."""
    found: NDArray[np.bool_] = p.has_fixed & (p.n_own <= 1 + p.n_features)
    return found


#: A component with so many times the rows that its shape needs is judged by these rows alone.
SURE = 3


def unproven(parameters: Parameters, support: Support, elsewhere: Support, *, n_rows: int) -> NDArray[np.bool_]:
    """Return which components have few rows, and are of no use to other rows, (n_components,), bool.

    What they are worth on their own rows says little: a covariance of hardly more rows than features fits these rows
    better than any others, and on a sample the gain stands for many more.

    Parameters
    ----------
    support, elsewhere : Support
        On the rows to which the mixture was fitted, and on others.
    n_rows : int
        Number of all rows.
    """
    few = support.telling < SURE * parameters.family.least_rows(parameters.n_features)
    few &= ~_is_known(parameters)
    return np.asarray(few & elsewhere.is_below(parameters, n_rows), dtype=bool)


def thin_gain(parameters: Parameters, floor: Floats | float) -> Floats:
    """Return what each component gains a row from being a point mass, (n_components,), nats: 0 where it is none.

    Directions in which the rows as a whole have no variance of their own do not count. The covariance of all rows is
    that of the mixture, as it is at a fixed point of EM.
    """
    p = parameters.of_components
    if isinstance(floor, np.ndarray):
        covariances, means = p.shape.in_units_of(floor, p.covariances, p.means)
        return p.shape.thin_gain(covariances, p.weights, means, 1.0)
    covariances = p.covariances
    if p.family.shares_shape and floor > 0:
        # The volume l of one that is the floor alone has tr(floor A^-1) / D = l, and so tr(floor S^-1) = D.
        thin = floor * p.shape.variances(p.precisions).mean(axis=1) > 1 / POINT_MASS
        covariances = p.shape.chosen(~thin, covariances, p.shape.regularise(np.zeros_like(covariances), floor))
    return p.shape.thin_gain(covariances, p.weights, p.means, floor)


def leave_out(log_density: Floats, weights: Floats | None) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Return what rows lose without each component, and whose they are; `log_density` is overwritten.

    Parameters
    ----------
    log_density : (n_components, n_rows), float64
        Log of weight times density, nats, complete.
    weights : (n_rows,), float64, or None
        Row weights; None means that every row weighs 1.

    Returns
    -------
    lost : (n_components,), float64
        - sum w log(1 - r_k), nats; of no meaning where the others have no density at all.
    resp_sums : (n_components,), float64
        sum w r_k.
    log_likelihood, log_largest, entropy : (n_rows,), float64
        Log-sum-exp of each row, the logarithm of its largest responsibility, and - sum r log r, nats.

    Notes
    -----
    log(1 - r_k) is the log-sum-exp of the others less that of all, and never 1 - r_k, which rounds to 0. Only for the
    component of the largest density do the two differ: the others have r_k of at most 1/2.

    The entropy is that of the largest against the others, and that within these: with e_k = exp(l_k - l_second), of sum
    S, (1 - r) (log S + sum e_k (l_second - l_k) / S). No term is negative, so that nothing cancels.
    """
    n_components, n_rows = log_density.shape
    if weights is not None:
        log_density[:, weights == 0] = 0.0  # (rows that do not count may have no density that is a number)
    at = np.arange(n_rows)
    top = np.argmax(log_density, axis=0)
    highest = log_density[top, at]
    log_density[top, at] = -np.inf
    second = log_density.max(axis=0)
    base = np.where(np.isfinite(second), second, 0.0)
    # (No denormal numbers, which are slow, and exact zeros; the component of the largest density is one.)
    log_density -= base
    np.maximum(log_density, DOUBLE.smallest_log_resp, out=log_density)
    below = log_density.copy()
    np.exp(log_density, out=log_density)
    log_density -= np.exp(DOUBLE.smallest_log_resp)
    total = log_density.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        others = base + np.log(total)
        within = np.log(total) - np.einsum("kn,kn->n", log_density, below) / total
    log_likelihood = np.logaddexp(highest, others)
    log_density *= np.exp(
        np.where(np.isfinite(second), base - log_likelihood, 0.0)
    )  # responsibilities, but for the largest
    log_largest = highest - log_likelihood
    # (Where nothing is left without a component no sum may become infinite: compensated, it would be no number.)
    largest, least = np.exp(log_largest), np.where(np.isfinite(others), others - log_likelihood, 0.0)
    share = np.where(total > 0, np.exp(least), 0.0)  # (of the others: where it is small 1 less it is not exact)
    exact = np.where(share < 0.5, np.log1p(-np.minimum(share, 0.5)), log_largest)
    entropy = np.where(total > 0, share * (within - least), 0.0) - largest * exact
    if weights is None:
        resp_sums = log_density.sum(axis=1) + np.bincount(top, largest, n_components)
        np.subtract(1.0, log_density, out=log_density)
        starts = np.arange(0, n_rows, _RUN)
        lost = -np.log(np.multiply.reduceat(log_density, starts, axis=1)).sum(axis=1)
        lost -= np.bincount(top, least, n_components)
    else:
        resp_sums = log_density @ weights + np.bincount(top, weights * largest, n_components)
        # (Not log1p, which takes 5 times as long; these are at most 1/2.)
        np.log(np.subtract(1.0, log_density, out=log_density), out=log_density)
        lost = -(log_density @ weights) - np.bincount(top, weights * least, n_components)
    return lost, resp_sums, log_likelihood, log_largest, entropy
