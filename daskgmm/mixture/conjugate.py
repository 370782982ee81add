"""Conjugate priors: Dirichlet for the weights, normal and inverse Wishart for means and covariances; what is fixed.

The prior of Fraley and Raftery (2007, doi:10.1007/s00357-007-0004-5), with their M-steps, and that of the adaptation of
a given mixture (Reynolds, Quatieri and Dunn 2000, doi:10.1006/dspr.1999.0361), which is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import gammaln, multigammaln, xlogy

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.fixed import Fixed
from daskgmm.mixture.moments import SMALLEST_COUNT, Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior
from daskgmm.mixture.shapes.shape import LOG_2PI, Shape


@dataclass(frozen=True)
class Conjugate(Prior):
    """What is known of each component beforehand, as if some rows had been seen before.

    Attributes
    ----------
    concentration : (n_components,), float64, or None
        Of the Dirichlet prior on the weights: each component has had concentration - 1 rows. At least 1.
    mean_precision : (n_components,), float64
        kappa, how many rows the mean of the prior counts as; 0 for no prior on a mean.
    mean : (n_components, n_features), float64
        mu_0.
    degrees_of_freedom : float64, or None
        nu, (n_components,), or (1,) for a common covariance.
    covariance : float64, in the shape of covariances, or None
        Lambda, a sum of squares: the covariances of the prior alone are Lambda over nu and some.
    fixed : Fixed or None
        What no M-step changes.
    share : float
        The power of the prior's density: on a sample of a tenth of all rows it counts a tenth.

    Notes
    -----
    mu ~ N(mu_0, Sigma / kappa) and Sigma ~ IW(nu, Lambda), as a density |Sigma|^-(nu + D + 1)/2 exp(-tr(Lambda
    Sigma^-1) / 2); a variance of a diagonal or spherical covariance has one of order 1, an inverse gamma. Of rows of
    count n, mean x and scatter W, with m the new mean (kappa mu_0 + n x) / (kappa + n), or the fixed one,

        Sigma = (Lambda + W + n (x - m)(x - m)' + kappa (m - mu_0)(m - mu_0)') / (nu + n + D + 1 + [kappa > 0]).

    Without a prior on the covariance its density is flat for kappa = 0, and |Sigma|^1/2 else, so that it divides by n:
    as kappa goes to 0 it becomes plain EM.
    """

    concentration: Floats | None
    mean_precision: Floats
    mean: Floats
    degrees_of_freedom: Floats | None
    covariance: Floats | None
    fixed: Fixed | None = None
    share: float = 1.0

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        n, kappa = rows.counts * rows.mean_weight, self.share * self.mean_precision
        shifts = (kappa / (n + kappa))[:, np.newaxis] * (self.mean - rows.means)
        means = rows.means + shifts
        if self.fixed is not None and self.fixed.means.any():
            held = self.fixed.means[:, np.newaxis]
            means = np.where(held, self.fixed.values.means, means)
            shifts = np.where(held, means - rows.means, shifts)
        central = self._central(n, kappa, shifts, means, rows, shape)
        counts = n if self.concentration is None else n + self.share * (self.concentration - 1)
        counts = counts / rows.mean_weight
        if self.covariance is None:
            central = shape.chosen(rows.counts >= 2 * SMALLEST_COUNT, central, previous)
        else:
            # (So many are no empty component, whose covariance the M-step would leave as it is.)
            counts = np.maximum(counts, 2 * SMALLEST_COUNT)
        if self.fixed is not None and self.fixed.covariances.any():
            own = self.fixed.values.covariances
            free = ~self.fixed.covariances
            central = shape.chosen(free, central, own) if free.any() else own
        return replace(rows, counts=counts, means=means, central=central)

    def _central(self, n: Floats, kappa: Floats, shifts: Floats, means: Floats, rows: Moments, shape: Shape) -> Floats:
        """Return the covariances of the posterior mode."""
        order, draws = shape.wishart(means.shape[1])
        if self.covariance is None and not (shifts.any() or kappa.any()):
            return rows.central
        divisor = draws * shape.row_sums(n)
        total = shape.times(divisor, shape.shifted(n, rows.central, shifts))
        if kappa.any():
            before = shape.shifted(kappa, np.zeros_like(rows.central), means - self.mean)
            total = total + shape.times(draws * shape.row_sums(kappa), before)
        if self.covariance is not None and self.degrees_of_freedom is not None:
            of_means = draws * shape.row_sums(np.where(kappa > 0, 1.0, 0.0))
            total = total + self.share * self.covariance
            divisor = divisor + self.share * (self.degrees_of_freedom + order + 1 + of_means)
        return shape.times(1 / divisor, total)

    def log_density(self, parameters: Parameters) -> float:
        p = parameters
        return self.share * (self._of_weights(p) + self._of_means(p) + self._of_covariances(p))

    def _of_weights(self, p: Parameters) -> float:
        a = self.concentration
        if a is None:
            return 0.0
        return float(gammaln(a.sum()) - gammaln(a).sum() + xlogy(a - 1, p.weights).sum())

    def _of_means(self, p: Parameters) -> float:
        has, kappa = self.mean_precision > 0, self.mean_precision
        if not has.any():
            return 0.0
        d, z = p.n_features, p.shape.whiten(p.means - self.mean, p.precisions_cholesky)
        proper = self.covariance is not None
        heights = p.shape.log_norm(p.precisions_cholesky, p.n_components, d) if proper else -d / 2 * LOG_2PI
        found = heights + d / 2 * np.log(np.where(has, kappa, 1.0)) - kappa / 2 * (z * z).sum(axis=1)
        return float(np.where(has, found, 0.0).sum())

    def _of_covariances(self, p: Parameters) -> float:
        if self.covariance is None or self.degrees_of_freedom is None:
            return 0.0
        shape, d, nu = p.shape, p.n_features, self.degrees_of_freedom
        order, draws = shape.wishart(d)
        n_alike = d // (order * draws)  # inverse Wisharts of this order in one covariance
        own, of_prior = (
            _log_determinants(shape, cholesky, len(nu), d) / draws
            for cholesky in (p.precisions_cholesky, shape.precisions_cholesky(self.covariance))
        )
        constants = nu * order / 2 * np.log(2) + multigammaln_of(nu / 2, order)
        found = nu / 2 * of_prior - (nu + order + 1) / 2 * own - n_alike * constants
        return float(found.sum() - 0.5 * (self.covariance * shape.precisions(p.precisions_cholesky)).sum())

    def scaled(self, share: float) -> Conjugate:
        return replace(self, share=share * self.share)

    def kept(self, parameters: Parameters) -> Parameters:
        return parameters if self.fixed is None else self.fixed.put(parameters)


def multigammaln_of(a: Floats, order: int) -> Floats:
    """Return the logarithm of the multivariate gamma function of some numbers."""
    return np.array([float(multigammaln(each, order)) for each in a])


def _log_determinants(shape: Shape, precisions_cholesky: Floats, n: int, n_features: int) -> Floats:
    """Return log |Sigma| of each of n covariances, (n,)."""
    found: Floats = -2 * shape.log_norm(precisions_cholesky, n, n_features) - n_features * LOG_2PI
    return found
