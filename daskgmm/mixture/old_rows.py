"""Rows that are not read again, as a prior of those that are: their moments stay as one block of an incremental EM.

EM may take the responsibilities of some rows anew and leave those of others as they are: the free energy of all rows
still rises (Neal and Hinton 1998, doi:10.1007/978-94-011-5014-9_12). What stays are sums, and these are a prior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior
from daskgmm.mixture.shapes.shape import Shape


@dataclass(frozen=True)
class OldRows(Prior):
    """The old rows of each component, by their moments.

    Attributes
    ----------
    counts : (n_components,), float64
        Sums of their weights.
    means : (n_components, n_features), float64
    central : float64, in the family's shape
        Their covariances, each about its own mean, so that nothing cancels; one for all where the shape is pooled.
    base : float
        What their expected log-likelihood was at the mixture that they are of, nats, with what is lost by `joined`.
    freed, into : tuple of int
        Components whose old rows have become those of another one, and this one.
    """

    counts: Floats
    means: Floats
    central: Floats
    base: float = 0.0
    freed: tuple[int, ...] = ()
    into: tuple[int, ...] = ()

    @classmethod
    def of(cls, parameters: Parameters, *, weight: float, floor: float) -> OldRows:
        """Return the old rows of a mixture that they have been fitted to: the M-step, backwards.

        Parameters
        ----------
        parameters : Parameters
            Of a family that has all covariances of its shape.
        weight : float
            Sum of the rows' weights.
        floor : float
            What was added to every variance, in squared units.
        """
        p = parameters
        made = cls(weight * p.weights, p.means, p.shape.regularise(p.covariances, -floor))
        return replace(made, base=made.log_density(p))

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        """Return the moments of old and new rows together."""
        counts = self.counts + rows.counts
        apart = self.means - rows.means
        means = rows.means + (self.counts / counts)[:, np.newaxis] * apart
        between = (np.sqrt(self.counts * rows.counts) / counts)[:, np.newaxis] * apart
        within = shape.mixed(rows.counts, rows.central, self.counts, self.central)
        return replace(rows, counts=counts, means=means, central=shape.shifted(counts, within, between))

    def log_density(self, parameters: Parameters) -> float:
        """Return how the old rows' part of the free energy has changed since the mixture that they are of, nats.

        Notes
        -----
        sum_k n_k (log w_k - (D log 2 pi + log|S_k| + tr S_k^-1 (C_k + d d')) / 2) less what it was, d = mu_k - m_k.
        With their log-likelihood at that mixture it bounds that at this one from below.
        """
        p, (k, d) = parameters, parameters.means.shape
        offsets = np.square(p.shape.whiten(p.means - self.means, p.precisions_cholesky)).sum(axis=1)
        squares = p.shape.traces(p.precisions, self.central, d) + offsets
        own = self.counts > 0  # (0 times minus infinity)
        each = (p.log_weights + p.shape.log_norm(p.precisions_cholesky, k, d) - 0.5 * squares)[own]
        return float(self.counts[own] @ each) - self.base

    def scaled(self, share: float) -> OldRows:
        return replace(self, counts=share * self.counts, base=share * self.base)

    def joined(self, shape: Shape, i: int, j: int) -> OldRows:
        """Return them with component j's old rows as component i's, and none for j.

        With m = n_i + n_j rows the free energy loses the entropy between the two, at most that of their shares, which
        is what it loses here; the log-density stays a bound from below. (At the best i it falls by m times the bound of
        Runnalls 2007, doi:10.1109/TAES.2007.4383588.)
        """
        both = np.array([i, j])
        total = float(self.counts[both].sum())
        share = self.counts[both] / total if total > 0 else np.array([1.0, 0.0])
        counts, means, shifts = self.counts.copy(), self.means.copy(), np.zeros_like(self.means)
        means[i] = self.means[i] + share[1] * (self.means[j] - self.means[i])
        shifts[both] = means[i] - self.means[both]
        central = shape.shifted(self.counts, self.central, shifts)
        one = share[0] * shape.component(central, i) + share[1] * shape.component(central, j)
        shape.put(central, i, one)
        counts[i], counts[j] = total, 0.0
        entropy = -total * float(sum(s * np.log(s) for s in share if s > 0))
        return OldRows(counts, means, central, self.base + entropy, (*self.freed, j), (*self.into, i))
