"""Variational Bayes: a prior on all parameters of a mixture, and the posterior that an M-step finds under it.

Each component has a precision matrix of its own with a Wishart prior, and a mean with a normal prior of a precision in
units of it; weights have a Dirichlet prior or are broken from a stick (Attias 2000; Blei and Jordan 2006,
doi:10.1214/06-BA104). The posterior has the same form. Its E-step is that of Gaussians with other log weights, and its
M-step works on the same moments as any other, so no pass knows of it.

The families say what form the scale matrix of the posterior's Wishart distributions has, and not what the components
are: a common one for all components (tied), a diagonal one, or one that is a multiple of the identity. Under these
restrictions what follows is the exact optimum, and what scikit-learn computes; and the lower bound is one on the same
evidence, so that kinds may be compared too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betaln, digamma, gammaln, multigammaln

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import Family
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior
from daskgmm.mixture.shapes.shape import LOG_2PI, Shape


@dataclass(frozen=True)
class Variational(Prior):
    """A conjugate prior on weights, means and precisions, under which an M-step gives a posterior of them.

    Attributes
    ----------
    process : bool
        Whether weights are broken from a stick, a Dirichlet process; else they have a Dirichlet distribution.
    concentration, mean_precision, degrees_of_freedom : float
        scikit-learn's parameters of these names.
    mean : (n_features,), float64
    covariance : float64
        Of one component, in the shape of covariances of one.
    weight : float
        Sum of the weights of all rows. Of a sample each row stands for so many of them as there are.
    share : float
        Share of the rows that the objective is of.
    """

    process: bool
    concentration: float
    mean_precision: float
    mean: Floats
    degrees_of_freedom: float
    covariance: Floats
    weight: float
    share: float = 1.0

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        return rows

    def posterior(self, rows: Moments, family: Family) -> Posterior:
        """Return the posterior that rows of these moments give.

        Notes
        -----
        With n the sums of responsibilities, x their means and S their covariances: mean precision b = b0 + n, degrees
        of freedom v = v0 + n, mean = (b0 m0 + n x) / b, and covariance (C0 + n S + n b0/b (x - m0)(x - m0)') / v. Where
        the covariance is common, n there is the mean of all n, and so is n S of all n S.
        """
        counts = rows.counts * (self.weight / rows.counts.sum())
        whole = self.mean_precision + counts
        shifts = rows.means - self.mean
        means = self.mean + (counts / whole)[:, np.newaxis] * shifts
        apart = np.sqrt(self.mean_precision / whole)[:, np.newaxis] * shifts
        shape, own = family.shape, _rows_of_each(family.shape, counts)
        scatter = shape.times(own, shape.shifted(counts, rows.central, apart))
        covariances = shape.times(1 / (self.degrees_of_freedom + own), self.covariance + scatter)
        return self.known(Parameters.from_covariances(family, counts / self.weight, means, covariances))

    def kept(self, parameters: Parameters) -> Posterior:
        """Return the posterior that rows would give which are as a mixture says; a posterior under this prior."""
        p = parameters
        if isinstance(p, Posterior):
            return p if self.is_like(p.prior) else self.known(p.shares)
        return self.posterior(Moments(p.weights, p.means, p.covariances), p.family)

    def is_like(self, other: Variational) -> bool:
        """Return whether another prior is the same one, whatever its share."""
        a, b = replace(self, share=1.0), replace(other, share=1.0)
        return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(self))

    def known(self, shares: Parameters) -> Posterior:
        """Return the posterior with these means and covariances, whose components have these shares of the rows."""
        counts, p = shares.weights * self.weight, shares
        weights = self.mean_weights(counts)
        own = p.means, p.covariances, p.precisions_cholesky
        return Posterior(p.family, weights, *own, counts=counts, prior=self)

    def log_density(self, parameters: Parameters) -> float:
        """Return minus the divergence of the posterior from the prior: with it the log-likelihood is the bound."""
        return -self.share * parameters.divergence if isinstance(parameters, Posterior) else 0.0

    def scaled(self, share: float) -> Variational:
        return replace(self, share=share * self.share)

    def concentrations(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the parameters of the weights' posterior: of the Beta distribution of each part of the stick.

        Of a Dirichlet distribution they are its own, and nothing.
        """
        if not self.process:
            return self.concentration + counts, np.empty(0)
        later = np.append(np.cumsum(counts[:0:-1])[::-1], 0.0)
        return 1.0 + counts, self.concentration + later

    def mean_weights(self, counts: Floats) -> Floats:
        """Return the posterior means of the weights, (n_components,), which sum to one."""
        first, second = self.concentrations(counts)
        if self.process:
            rest = second / (first + second)
            first = first / (first + second) * np.append(1.0, np.cumprod(rest[:-1]))
        return np.asarray(first / first.sum())

    def mean_log_weights(self, counts: Floats) -> Floats:
        """Return the posterior means of the logarithms of the weights, (n_components,)."""
        first, second = self.concentrations(counts)
        if not self.process:
            return np.asarray(digamma(first) - digamma(first.sum()))
        both = digamma(first + second)
        rest = digamma(second) - both
        return np.asarray(digamma(first) - both + np.append(0.0, np.cumsum(rest[:-1])))

    def weights_divergence(self, counts: Floats) -> float:
        """Return the divergence of the weights' posterior from their prior, nats.

        Of a Dirichlet process all parts of the stick after the last component have the prior as posterior.
        """
        first, second = self.concentrations(counts)
        if self.process:
            gained, later = first - 1.0, second - self.concentration
            found = betaln(1.0, self.concentration) - betaln(first, second) + gained * digamma(first)
            found += later * digamma(second) - (gained + later) * digamma(first + second)
            return float(found.sum())
        k, total = len(first), first.sum()
        norm = gammaln(total) - gammaln(first).sum() - gammaln(k * self.concentration) + k * gammaln(self.concentration)
        return float(norm + (first - self.concentration) @ (digamma(first) - digamma(total)))


@dataclass(frozen=True, kw_only=True)
class Posterior(Parameters):
    """What is known of a mixture: the parameters are posterior means; covariances are inverse mean precisions.

    As a mixture it has the log weights that make its E-step the posterior's.

    Attributes
    ----------
    counts : (n_components,), float64
        Rows of each component, as sums of weights.
    prior : Variational
    """

    counts: Floats
    prior: Variational

    @property
    def shares(self) -> Parameters:
        """The mixture whose weights are shares of the rows, and which tells the posterior."""
        weights = self.counts / self.counts.sum()
        return Parameters(self.family, weights, self.means, self.covariances, self.precisions_cholesky)

    def like(self, shares: Parameters) -> Posterior:
        return self.prior.known(shares)

    @property
    def attributes(self) -> dict[str, Any]:
        prior, shape = self.prior, self.shape
        first, second = prior.concentrations(self.counts)
        v = self.degrees_of_freedom
        return {
            "weight_concentration_": (first, second) if prior.process else first,
            "mean_precision_": self.mean_precision,
            "degrees_of_freedom_": v if len(shape.covariance_weights(np.ones(2))) > 1 else float(v[0]),
            "weight_concentration_prior_": prior.concentration,
            "mean_precision_prior_": prior.mean_precision,
            "mean_prior_": prior.mean,
            "degrees_of_freedom_prior_": prior.degrees_of_freedom,
            "covariance_prior_": shape.component(prior.covariance, 0),
            "_posterior": self,
        }

    def as_json(self) -> dict[str, Any]:
        names = {name.rstrip("_"): value for name, value in self.attributes.items() if name[0] != "_"}
        kind = "dirichlet_process" if self.prior.process else "dirichlet_distribution"
        own: dict[str, Any] = {"weight_concentration_prior_type": kind}
        return {"posterior": own | {name: _listed(value) for name, value in names.items()}}

    def n_effective(self, counts: Floats) -> int:
        """Return how many components have as many of some rows as a covariance of theirs needs, at least."""
        return int((counts >= self.family.least_rows(self.n_features)).sum())

    @property
    def n_free(self) -> int:
        """Number of free parameters of the components that have rows; the others are as the prior says."""
        k = max(self.n_effective(self.counts), 1)
        return self.family.n_parameters(k, self.n_features) + k - 1 + k * self.n_features

    @property
    def mean_precision(self) -> Floats:
        """Precision of each mean in units of the component's own, (n_components,)."""
        return self.prior.mean_precision + self.counts

    @cached_property
    def degrees_of_freedom(self) -> Floats:
        """Of each covariance: (n_components,), or (1,) where it is common."""
        return self.prior.degrees_of_freedom + _rows_of_each(self.shape, self.counts)

    @cached_property
    def log_weights(self) -> Floats:
        """What is added to the log-densities of Gaussians, (n_components,), float64, nats.

        Notes
        -----
        E[log weight] + (sum_i digamma((v - i) / 2) + D log(2 / v) - D / b) / 2, i = 0 ... D - 1: the mean of the
        log-density of a row less that of the Gaussian of the mean precision.
        """
        d, v = self.n_features, self.degrees_of_freedom
        log_det = _multidigamma(v / 2, d) + d * np.log(2 / v)
        found: Floats = self.prior.mean_log_weights(self.counts) + 0.5 * (log_det - d / self.mean_precision)
        return found

    @cached_property
    def divergence(self) -> float:
        """The Kullback-Leibler divergence of the posterior from the prior, nats.

        Notes
        -----
        Of weights, of means given precisions, and of precisions: with V = (v covariance)^-1 the scale of a Wishart,
        (v - v0)/2 psi_D(v/2) - v D/2 + v/2 tr(C0 V) + log Gamma_D(v0/2) - log Gamma_D(v/2) - v0/2 log|C0 V|. Means:
        (D (b0/b - 1 - log b0/b) + b0 (m - m0)' precision (m - m0)) / 2.
        """
        prior, shape, d, k = self.prior, self.shape, self.n_features, self.n_components
        ratio = prior.mean_precision / self.mean_precision
        apart = np.square(shape.whiten(self.means - prior.mean, self.precisions_cholesky)).sum(axis=1)
        of_means = 0.5 * (d * (ratio - 1 - np.log(ratio)) + prior.mean_precision * apart)
        v, v0 = self.degrees_of_freedom, prior.degrees_of_freedom
        root = shape.scale_noise(np.eye(d), prior.covariance, 0)
        trace = np.zeros(k)  # of C0 times each mean precision
        for column in root:
            moved = np.broadcast_to(column, (k, d))
            trace += np.square(shape.whiten(moved, self.precisions_cholesky)).sum(axis=1)
        log_det = 2 * shape.log_norm(self.precisions_cholesky, k, d) + d * LOG_2PI - d * np.log(v)
        log_det0 = -2 * shape.log_norm(shape.precisions_cholesky(prior.covariance), 1, d)[0] - d * LOG_2PI
        of_precisions = 0.5 * ((v - v0) * _multidigamma(v / 2, d) - v * d + trace - v0 * (log_det + log_det0))
        of_precisions += multigammaln(v0 / 2, d) - multigammaln(v / 2, d)
        return float(prior.weights_divergence(self.counts) + of_means.sum() + of_precisions.sum())


def _rows_of_each(shape: Shape, counts: Floats) -> Floats:
    """Return the rows that the posterior of each covariance has seen: of a common one, their mean."""
    own = shape.covariance_weights(counts)
    return counts if len(own) == len(counts) > 1 else np.full(len(own), counts.mean())


def _multidigamma(x: Floats, n_features: int) -> Floats:
    """Return the derivative of multigammaln: the sum of digamma(x - i / 2)."""
    return np.asarray(digamma(x[:, np.newaxis] - np.arange(n_features) / 2).sum(axis=1))


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else np.asarray(value).tolist()
