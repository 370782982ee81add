"""What a covariance kind must offer: the seam between the kinds and everything that is the same for all of them.

Arrays inside a block are features first. With x the rows of a block measured from an origin c, a kind gives the
features Phi(x) and the natural parameters eta such that the weighted log-density is eta Phi(x) (two matrix products a
pass), and the *exact* form z = P'(x - mu), which costs more and does not cancel. Statistics are packed alike in both
forms, (second moments, first moments, count) of x - c or of z, and the M-step's moments come out of either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowSet:
    """What is common to all rows of a candidate: number, weight, mean and scatter. Tied covariances need the last.

    Attributes
    ----------
    n_rows : int
    weight : float
        Sum of the row weights.
    mean : (n_features,), float64
    scatter : (n_features, n_features) or (n_features,), float64
        Sum of w (x - mean)(x - mean)', or its diagonal alone.
    """

    n_rows: int
    weight: float
    mean: Floats
    scatter: Floats

    @property
    def variances(self) -> Floats:
        """Variance of each feature, (n_features,), float64, over the weights."""
        return (np.diagonal(self.scatter) if self.scatter.ndim == 2 else self.scatter) / self.weight


class Covariance(ABC):
    """A covariance kind. Stateless; get one by `covariance_kind(name)`."""

    name: str
    #: Whether all components must go the same way, by Phi or exact, and by Phi only about the global mean.
    pooled = False
    #: Whether z = P'x with P upper triangular: its first entries depend on the first features alone.
    triangular = False

    # -- shapes ------------------------------------------------------------------------------------------
    @abstractmethod
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of the covariances, the precisions and the precision Cholesky."""

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free parameters in the covariances."""

    @abstractmethod
    def n_second(self, n_features: int, *, exact: bool) -> int:
        """Return the number of packed second moments of a component."""

    def n_own(self, n_features: int) -> int:
        """Return the number of free parameters of one component alone: its weight, mean and own covariance."""
        return 1 + n_features + (0 if self.pooled else self.n_parameters(1, n_features))

    @abstractmethod
    def least_rows(self, n_features: int) -> int:
        """Return the number of rows below which a component is about these rows alone, whatever they gain."""

    def n_statistics(self, n_features: int, *, exact: bool) -> int:
        """Return the length of a component's statistics: second moments, first moments, count."""
        return self.n_second(n_features, exact=exact) + n_features + 1

    def phi_pays(self, n_phi: int, n_features: int) -> bool:
        """Return whether `n_phi` components are enough for two products with Phi to be faster than exact ones."""
        return n_phi > 0

    # -- conversions between covariance, precision and precision Cholesky ------------------------------------
    @abstractmethod
    def precisions_cholesky(self, covariances: Floats) -> Floats:
        """Return P, upper triangular, with Sigma^-1 = P P'; a CollapsedComponentError names a singular one."""

    @abstractmethod
    def check_precisions(self, precisions: Floats) -> None:
        """Raise an OptionError unless the precisions are symmetric and positive definite."""

    @abstractmethod
    def cholesky_of_precisions(self, precisions: Floats) -> Floats:
        """Return P, upper triangular, with P P' equal to the given precisions."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Floats) -> Floats:
        """Return the precisions P P'."""

    @abstractmethod
    def covariances(self, precisions_cholesky: Floats) -> Floats:
        """Return the covariances (P P')^-1."""

    @abstractmethod
    def pack(self, precisions_cholesky: Floats) -> Floats:
        """Return the numbers that travel to the workers: a copy without the zero triangle."""

    @abstractmethod
    def unpack(self, packed: Floats, n_features: int) -> Floats:
        """Return the precision Cholesky that `pack` packed."""

    # -- coordinates about another precision Cholesky --------------------------------------------------------
    @abstractmethod
    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        """Return coordinates of P about P0 = `base`, (n_components, n), or (1, n) where it is pooled; 0 for P = P0.

        For matrices they are the entries of P0^-1 P above the diagonal and sqrt(2) log of those on it, the log-Cholesky
        chart (Lin 2019, doi:10.1137/18M1221084). To second order their squares add up to twice the divergence of the
        two normals, which knows no basis; beyond that they know no units. (The logarithm of P0^-1 P P' P0^-T knows no
        basis at all, but takes eigenvectors: a pass over 10,000 rows at 64 features, for the same number of passes.)
        """

    @abstractmethod
    def from_relative(self, base: Floats, relative: Floats, n_features: int) -> Floats:
        """Return the P that has these coordinates about `base`; a LinAlgError where they overflow."""

    @abstractmethod
    def whiten(self, shifts: Floats, precisions_cholesky: Floats) -> Floats:
        """Return P'v for a shift v of each component, (n_components, n_features)."""

    @abstractmethod
    def unwhiten(self, whitened: Floats, precisions_cholesky: Floats) -> Floats:
        """Return the shifts that `whiten` whitened."""

    # -- a component as the kernels see it -------------------------------------------------------------------
    @abstractmethod
    def log_norm(self, precisions_cholesky: Floats, n_components: int, n_features: int) -> Floats:
        """Return log N(mu | mu, Sigma), (n_components,): -D/2 log 2 pi + log det P, nats."""

    @abstractmethod
    def bound(self, means: Floats, precisions: Floats, deviations: Floats, origin: Floats) -> Floats:
        """Return B_k = v'|Sigma_k^-1|v with v = |mu_k - c| + s_k, (n_components,), dimensionless.

        The error of the log-density by Phi is at most 8 u B_k max(1, q^2) for every row, q its
        Mahalanobis distance and u the unit roundoff (measured: never exceeded). `deviations` are the standard
        deviations s_k of the features, broadcastable to (n_components, n_features).
        """

    @abstractmethod
    def natural_parameters(self, means: Floats, precisions_cholesky: Floats, constant: Floats) -> Floats:
        """Return eta, (n_components, n_phi), for means measured from the origin; `constant` is added to each."""

    @abstractmethod
    def fill_phi(self, phi: Floats, n_features: int) -> None:
        """Complete Phi, (n_phi, n_rows), whose rows before the last hold x - c already and the last ones."""

    def products(self, n_features: int) -> NDArray[np.int64] | None:
        """Return the features whose products `fill_phi` fills in, (2, n_products); None where it does not."""
        return None

    def common_term(self, x: Floats, precisions_cholesky: Floats, work: Floats) -> Floats | None:
        """Return what Phi leaves out of every component's log-density, (n_rows,), nats, for x measured from the origin.

        None where nothing is left out. It drops out of the responsibilities. `work` has the shape of x and is
        overwritten.
        """
        return None

    def total_common_term(self, precisions_cholesky: Floats, origin: Floats, row_set: RowSet | None) -> float:
        """Return the weighted sum of `common_term` over all rows of the row set, nats."""
        return 0.0

    @abstractmethod
    def standardise(self, x: Floats, mean: Floats, precision_cholesky: Floats, out: Floats, work: Floats) -> None:
        """Write z = P'(x - mean) of one component, (n_features, n_rows); `work` has its shape and is overwritten."""

    @abstractmethod
    def standardise_all(self, x: Floats, means: Floats, precisions_cholesky: Floats) -> Floats:
        """Return z of several components at once, (n_components, n_features, n_rows)."""

    @abstractmethod
    def exact_statistics(self, z: Floats, resp: Floats, out: Floats, work: Floats) -> None:
        """Write the statistics of one component: sums of resp times (second moments of z, z, 1).

        `work` has the shape of z and is overwritten.
        """

    @abstractmethod
    def component(self, precisions_cholesky: Floats, k: int) -> Floats:
        """Return component k's own precision Cholesky."""

    # -- from statistics to moments and parameters ------------------------------------------------------------
    @abstractmethod
    def central_moments(self, second: Floats, first: Floats) -> Floats:
        """Return E[xx'] - E[x]E[x]' in this kind's shape from *mean* packed second and first moments."""

    @abstractmethod
    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats:
        """Return the covariance of the rows x, (n_features, n_rows), about each mean, weighted by its row of resp.

        The same as from the statistics, for a few components on a few rows: one call for all of them. A tied kind gives
        each its own.
        """

    @abstractmethod
    def from_standard(self, first: Floats, central: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        """Return one component's first and central moments of x - mu from those of z = P'(x - mu)."""

    def pool(self, counts: Floats, offsets: Floats, central: Floats, row_set: RowSet | None) -> Floats:
        """Return the covariances from the components' central moments; `row_set` where only it has them.

        `offsets` are the components' means less the row set's.
        """
        return central

    @abstractmethod
    def variances(self, covariances: Floats) -> Floats:
        """Return the variances in covariances of this kind, broadcastable to (n_components, n_features)."""

    @abstractmethod
    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        """Return the covariances with (n_components, n_features) variances added."""

    @abstractmethod
    def regularise(self, covariances: Floats, reg_covar: float) -> Floats:
        """Return the covariances with reg_covar added to every variance (original units)."""

    @abstractmethod
    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        """Return what each component gains a row, nats, from having no variance but reg_covar in most directions.

        Half the logarithm of the variance of the mixture there over its own, summed over these directions,
        (n_components,); those in which the mixture as a whole is mostly reg_covar too do not count.
        """

    @abstractmethod
    def least_variances(self, covariances: Floats, weights: Floats, means: Floats, reg_covar: float) -> Floats:
        """Return each component's smallest variance in any direction, less reg_covar, (n_components,).

        Directions in which the mixture as a whole has no variance of its own do not count: those of features that are
        constant or collinear. Infinite where none is left, or rounding hides reg_covar.
        """

    def shrink(self, counts: Floats, central: Floats, n_rows: float) -> Floats:
        """Return central moments as if each component had `n_rows` more rows of the covariance within them all."""
        if self.pooled or not n_rows > 0:
            return central
        within = np.tensordot(counts / counts.sum(), central, axes=1)
        own = (counts / (counts + n_rows)).reshape(-1, *[1] * (central.ndim - 1))
        shrunk: Floats = own * central + (1 - own) * within
        return shrunk

    @abstractmethod
    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        """Return rows of N(0, Sigma_k) from rows of N(0, I), (n_rows, n_features)."""
