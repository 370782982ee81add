"""What a shape of covariances must offer: how second moments are packed and computed. Kernels and moments know it.

Arrays inside a block are features first. With x the rows of a block measured from an origin c, a shape gives the
features Phi(x) and the natural parameters eta such that the weighted log-density is eta Phi(x) (two matrix products a
pass), and the *exact* form z = P'(x - mu), which costs more and does not cancel. Statistics are packed alike in both
forms, (second moments, first moments, count) of x - c or of z, and the M-step's moments come out of either.

Which of the covariances of a shape an M-step may give is the family's (`family.py`); many families share a shape.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.row_set import RowSet
from daskgmm.mixture.shapes.bounded import Bounded, along
from daskgmm.mixture.shapes.derived import Derived

LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Shape(Bounded, Derived):
    """A shape of covariances, without state: two of one class are equal, and it travels to workers by its class.

    "Covariances" are those of all components, as one array of `array_shape`: by components, unless they are common.
    """

    #: The covariance_type of scikit-learn whose arrays have this shape.
    sklearn_type = "full"
    #: Whether features of a component may be correlated.
    correlates: ClassVar[bool] = True
    #: Halves of a component of which nothing is known lie so many of its standard deviations from its mean. Where it is
    #: a Gaussian, the likelihood falls by (2 x 0.2^4)^2 / 48 = 2e-7 nats a row of its own.
    apart = 0.2

    # -- arrays ----------------------------------------------------------------------------------------------
    @abstractmethod
    def array_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of the covariances, the precisions and the precision Cholesky."""

    @abstractmethod
    def n_second(self, n_features: int, *, exact: bool) -> int:
        """Return the number of packed second moments of a component."""

    def n_statistics(self, n_features: int, *, exact: bool) -> int:
        """Return the length of a component's statistics: second moments, first moments, count."""
        return self.n_second(n_features, exact=exact) + n_features + 1

    @abstractmethod
    def least_rows(self, n_features: int) -> int:
        """Return the number of rows below which a component is about these rows alone, whatever they gain."""

    def n_factor_values(self, n_components: int, n_features: int) -> int:
        """Return how many numbers a worker derives from the precision Cholesky, at most: memory is promised by it."""
        return n_components * n_features**2

    # -- components: the covariances of some of them ---------------------------------------------------------------
    def subset(self, covariances: Floats, chosen: Any) -> Floats:
        """Return the covariances of the chosen components (their numbers, or a mask); common ones stay."""
        result: Floats = covariances[chosen]
        return result

    def component(self, covariances: Floats, k: int) -> Floats:
        """Return component k's own covariance, precision or precision Cholesky."""
        result: Floats = covariances[k]
        return result

    def put(self, covariances: Floats, k: int, own: Floats) -> None:
        """Make `own` the covariance of component k, in place; common ones stay as they are."""
        covariances[k] = own

    def chosen(self, which: NDArray[np.bool_], covariances: Floats, others: Floats) -> Floats:
        """Return the covariances of the components in `which`, (n_components,), and `others` of the others."""
        return np.where(along(which, covariances), covariances, others)

    def joined(self, covariances: Floats, pairs: NDArray[np.int64], share: Floats, between: Floats) -> Floats:
        """Return the covariance of each pair of components as one, common ones as they are.

        Parameters
        ----------
        pairs : (n_pairs, 2), int64
        share : (n_pairs, 2), float64
            Of each in the weight of both.
        between : float64, in this shape
            Covariances of the two means.
        """
        first, second = (along(share[:, i], covariances) * covariances[pairs[:, i]] for i in (0, 1))
        result: Floats = first + second + between
        return result

    def covariance_weights(self, weights: Floats) -> Floats:
        """Return the weight of the rows of which each covariance is, for weights of the components."""
        return weights

    # -- conversions between covariance, precision and precision Cholesky ------------------------------------
    @abstractmethod
    def precisions_cholesky(self, covariances: Floats) -> Floats:
        """Return P, upper triangular, with Sigma^-1 = P P'; a CollapsedComponentError names a singular one."""

    @abstractmethod
    def check_definite(self, matrices: Floats, name: str) -> None:
        """Raise an OptionError unless these precisions or covariances are symmetric and positive definite."""

    @abstractmethod
    def cholesky_of_precisions(self, precisions: Floats) -> Floats:
        """Return P, upper triangular, with P P' equal to the given precisions."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Floats) -> Floats:
        """Return the precisions P P'."""

    @abstractmethod
    def covariances(self, precisions_cholesky: Floats) -> Floats:
        """Return the covariances (P P')^-1."""

    #: Whether a covariance stays one of the shape where each feature gets a unit of its own.
    rescales: ClassVar[bool] = True

    @abstractmethod
    def rescaled(self, covariances: Floats, precisions_cholesky: Floats, scale: Floats) -> tuple[Floats, Floats]:
        """Return both where features are multiplied by `scale`, (n_features,): S C S, and S^-1 P."""

    @abstractmethod
    def pack(self, precisions_cholesky: Floats) -> Floats:
        """Return the numbers that travel to the workers: a copy without the zero triangle."""

    @abstractmethod
    def unpack(self, packed: Floats, n_features: int) -> Floats:
        """Return the precision Cholesky that `pack` packed."""

    @abstractmethod
    def from_matrices(self, matrices: Floats, weights: Floats) -> Floats:
        """Return the covariances of this shape nearest to (n_components, n_features, n_features) ones.

        As an M-step makes them of rows with these covariances, for (n_components,) weights of which one is above 0.
        """

    # -- coordinates about another precision Cholesky --------------------------------------------------------
    @abstractmethod
    def relative(self, base: Floats, precisions_cholesky: Floats, n_features: int) -> Floats:
        """Return coordinates of P about P0 = `base`, (n_components, n), or (1, n) where it is common; 0 for P = P0.

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

    @abstractmethod
    def spread(self, z: Floats, precision_cholesky: Floats) -> Floats:
        """Return P^-T z of one component: offsets from its mean with its own covariance, (n_features, n_rows)."""

    # -- a component as the kernels see it -------------------------------------------------------------------
    def phi_pays(self, n_phi: int, n_features: int) -> bool:
        """Return whether `n_phi` components are enough for two products with Phi to be faster than exact ones."""
        return n_phi > 0

    def by_one_form(self, exact: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which components go by the exact form where these must: all or none where they have all in common."""
        return exact

    def other_origins(
        self, weights: Floats, means: Floats, precisions: Floats, deviations: Floats, *, origin: Floats, smallest: float
    ) -> list[Floats]:
        """Return further origins from which Phi may lose less; none where it must be the mean of the rows.

        The weighted median of the means; and what six steps of weighting by 1 / (smallest + B_k) give, near tight
        components and deaf to outliers, unless that overflows.
        """
        c: Floats | None = origin
        for _ in range(6):
            if c is not None:
                c = self.centre(1 / (smallest + self.bound(means, precisions, deviations, c)), means, precisions)
        median = _weighted_median(means, weights)
        return [median] if c is None or not np.isfinite(c).all() else [median, c]

    @abstractmethod
    def centre(self, w: Floats, means: Floats, precisions: Floats) -> Floats | None:
        """Return (sum w Lambda)^-1 sum w Lambda mu, (n_features,); None where it is singular."""

    def factors(self, precisions_cholesky: Floats) -> Floats | None:
        """Return P of each component as a matrix, whose products can be stacked (`Stack`); None where they cannot."""
        return None

    def scales(self, precisions_cholesky: Floats) -> Floats | None:
        """Return one over the standard deviations, broadcastable to (n_components, n_features).

        None where features of a component are not independent.
        """
        return None

    def pack_squares(self, squares: Floats) -> Floats:
        """Return sums of squares, (n_components, n_features), as second moments are packed, where it has `scales`."""
        return squares

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

    def terms(self, n_features: int, *, exact: bool) -> NDArray[np.int64] | None:
        """Return the second moments as sums of products: two features, and the moment, of each, (3, n), in order."""
        found = self.products(n_features)
        return None if found is None else np.vstack([found, np.arange(found.shape[1])])

    def leaves_common_term(self) -> bool:
        """Return whether Phi leaves out a term of the log-density that all components have in common."""
        return False

    def common_bound(self, precisions: Floats, deviations: Floats) -> float:
        """Return B = s'|Sigma^-1|s of the term that all components have in common, dimensionless: see `bound`."""
        return 0.0

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

    # -- from statistics to moments --------------------------------------------------------------------------
    @abstractmethod
    def central_moments(self, second: Floats, first: Floats) -> Floats:
        """Return E[xx'] - E[x]E[x]' in this shape from *mean* packed second and first moments."""

    def of_points(self, offsets: Floats, shares: Floats) -> Floats:
        """Return the covariance about 0 of points, (n_features, n_points), that have these shares of the rows.

        As that of one component: (1, ...) where components have covariances of their own.
        """
        points = np.ascontiguousarray(offsets)
        n_features = len(points)
        packed = np.empty((1, self.n_statistics(n_features, exact=True)))
        self.exact_statistics(points, shares, packed[0], np.empty_like(points))
        return self.central_moments(packed[:, : -1 - n_features], np.zeros((1, n_features)))

    @abstractmethod
    def weighted_covariances(self, x: Floats, resp: Floats, means: Floats) -> Floats | None:
        """Return the covariance of the rows x, (n_features, n_rows), about each mean, weighted by its row of resp.

        The same as from the statistics, for a few components on a few rows: one call for all of them. None where it is
        common to all components, of which these rows are not all.
        """

    @abstractmethod
    def from_standard(self, first: Floats, central: Floats, precision_cholesky: Floats) -> tuple[Floats, Floats]:
        """Return one component's first and central moments of x - mu from those of z = P'(x - mu)."""

    def lost_on_the_way(self, precision_cholesky: Floats, extent: Floats) -> Floats:
        """Return u^-1 times what rounding makes of offsets of this extent on the way to z and back, (n_features,)."""
        return np.zeros_like(extent)

    def pool(self, counts: Floats, offsets: Floats, central: Floats, row_set: RowSet | None) -> Floats:
        """Return the covariances from the components' central moments; `row_set` where only it has them.

        `offsets` are the components' means less the row set's.
        """
        return central

    def shrink(self, counts: Floats, central: Floats, n_rows: float) -> Floats:
        """Return central moments as if each component had `n_rows` more rows of the covariance within them all."""
        if not n_rows > 0:
            return central
        within = np.tensordot(counts / counts.sum(), central, axes=1)
        own = along(counts / (counts + n_rows), central)
        shrunk: Floats = own * central + (1 - own) * within
        return shrunk

    def shifted(self, counts: Floats, central: Floats, shifts: Floats) -> Floats:
        """Return central moments about means that lie `shifts`, (n_components, n_features), from the rows' own."""
        squares = [self.of_points(shift[:, np.newaxis], np.ones(1)) for shift in shifts]
        moved: Floats = central + np.concatenate(squares)
        return moved

    def mixed(self, counts: Floats, central: Floats, other_counts: Floats, others: Floats) -> Floats:
        """Return central moments of two sets of rows as of one, where the means of each component are the same."""
        own, more = (self.covariance_weights(n / n.sum()) * n.sum() for n in (counts, other_counts))
        share = along(own / (own + more), central)
        result: Floats = share * central + (1 - share) * others
        return result

    @abstractmethod
    def traces(self, precisions: Floats, covariances: Floats, n_features: int) -> Floats:
        """Return tr S^-1 C of each component, (n_components,), or one number where both are common."""

    # -- variances -------------------------------------------------------------------------------------------
    @abstractmethod
    def variances(self, covariances: Floats) -> Floats:
        """Return the variances in covariances of this shape, broadcastable to (n_components, n_features)."""

    @abstractmethod
    def add_variances(self, covariances: Floats, variances: Floats) -> Floats:
        """Return the covariances with (n_components, n_features) variances added."""

    @abstractmethod
    def regularise(self, covariances: Floats, floor: float) -> Floats:
        """Return the covariances with `floor` added to every variance, in squared units."""

    @abstractmethod
    def thin_gain(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        """Return what each component gains a row, nats, from having only the floor as variance in most directions.

        Half the logarithm of the variance of the mixture there over its own, summed over these directions,
        (n_components,); those in which the mixture as a whole is mostly that too do not count.
        """

    @abstractmethod
    def least_variances(self, covariances: Floats, weights: Floats, means: Floats, floor: float) -> Floats:
        """Return each component's smallest variance in any direction, less the floor, (n_components,).

        Directions in which the mixture as a whole has no variance of its own do not count: those of features that are
        constant or collinear. Infinite where none is left, or rounding hides the floor.
        """

    @abstractmethod
    def scale_noise(self, noise: Floats, covariances: Floats, k: int) -> Floats:
        """Return rows of N(0, Sigma_k) from rows of N(0, I), (n_rows, n_features)."""


def collapsed(who: str) -> CollapsedComponentError:
    """Return the error that says that a covariance is singular."""
    return CollapsedComponentError(
        f"the covariance of {who}",
        "be positive definite",
        "a singular one (single or duplicate rows, or a constant feature)",
        "Decrease `n_components`, increase `reg_covar`, or rescale or drop the features that hardly vary.",
    )


def _weighted_median(means: Floats, weights: Floats) -> Floats:
    order = np.argsort(means, axis=0)
    cumulated = np.cumsum(weights[order], axis=0)
    middle = np.argmax(cumulated >= 0.5 * cumulated[-1], axis=0)
    chosen = np.take_along_axis(order, middle[np.newaxis], axis=0)
    median: Floats = np.take_along_axis(means, chosen, axis=0)[0]
    return median
