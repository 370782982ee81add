"""The E-step on blocks: log-densities, responsibilities, and the statistics of a list of candidates.

Components first throughout (arrays of shape n_components x n_rows): every operation runs along the rows. With Phi the
two matrix products cost 4 N K F flops, F about D^2/2; the exact form costs the same flops in K narrow products.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import local

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.block import Block, Workspace
from daskgmm.mixture.plan import Plan, fill_phi
from daskgmm.mixture.statistics import Statistics

Floats = NDArray[np.float64]

#: Responsibilities below exp(-A) become exact zeros. Denormal numbers made a pass 10 to 100 times slower.
SMALLEST_LOG_RESP = -100.0
SMALLEST_RESP = float(np.exp(SMALLEST_LOG_RESP))


def softmax(log_density: Floats, out_sum: Floats) -> tuple[Floats, Floats]:
    """Return log-sum-exp over the components and the sums of the exponentials, each (n_rows,), for a softmax in place.

    `log_density` (n_components, n_rows) becomes exp(l - max) with exact zeros below exp(-100); dividing
    it by the sums makes it the responsibilities. (The caller divides, since it may multiply by row weights too.)
    """
    highest = log_density.max(axis=0)
    log_density -= highest
    np.maximum(log_density, SMALLEST_LOG_RESP, out=log_density)
    np.exp(log_density, out=log_density)
    log_density -= SMALLEST_RESP
    np.sum(log_density, axis=0, out=out_sum)
    highest += np.log(out_sum)
    return highest, out_sum


class EStep:
    """The pass of an E-step over a list of candidates; a state is a list of Statistics.

    Each candidate has products of its own fixed shape, so its bits do not depend on the others; what they
    share is the reading, the conversion and, where kind and origin agree, Phi of a block.

    Parameters
    ----------
    plans : sequence of Plan
        One for each candidate.
    statistics : bool
        False for a pass that only scores: log-likelihood, weight and row count.
    """

    def __init__(self, plans: Sequence[Plan], *, statistics: bool = True) -> None:
        self.plans = tuple(plans)
        self.statistics = statistics
        self._local = local()

    def __reduce__(self) -> tuple[object, ...]:
        return (_estep, (self.plans, self.statistics))

    def zero(self) -> list[Statistics]:
        """Return the state of no rows."""
        return [Statistics.zero(plan) for plan in self.plans]

    def update(self, state: list[Statistics], block: Block) -> list[Statistics]:
        """Return the state with the rows of a block added; `state` is changed in place."""
        if not hasattr(self._local, "work"):
            self._local.work = Workspace()
        densities = Densities(block.x, self._local.work)
        for plan, total in zip(self.plans, state, strict=True):
            total.add(self._block_values(plan, densities, block))
        return state

    def finish(self, state: list[Statistics]) -> list[Statistics]:
        """Return what leaves a partition."""
        return [total.settled() for total in state]

    def merge(self, state: list[Statistics], other: list[Statistics]) -> list[Statistics]:
        """Return the state of both sets of rows."""
        return [a.merge(b) for a, b in zip(state, other, strict=True)]

    def _block_values(self, plan: Plan, densities: Densities, block: Block) -> Floats:
        work, n_rows = self._local.work, block.x.shape[1]
        values: Floats = work.get("values", (plan.n_components * plan.n_statistics + 3,))
        resp = densities.log_density(plan, keep_z=self.statistics, complete=plan.common_by_row or not self.statistics)
        log_likelihood, total = softmax(resp, work.get("sum", (n_rows,)))
        if block.weights is None:
            values[-3] = log_likelihood.sum()
            np.divide(1.0, total, out=total)
        else:
            values[-3] = np.dot(log_likelihood, block.weights)
            np.divide(block.weights, total, out=total)
        values[-2], values[-1] = block.total_weight, block.n_rows
        if self.statistics:
            resp *= total
            densities.statistics(plan, resp, values[:-3].reshape(plan.n_components, -1))
        else:
            values[:-3] = 0.0
        return values


def _estep(plans: Sequence[Plan], statistics: bool) -> EStep:
    return EStep(plans, statistics=statistics)


class Densities:
    """Log-densities of the rows of one block under any number of plans, which share Phi where they can."""

    def __init__(self, x: Floats, work: Workspace) -> None:
        self._x, self._work = x, work
        self._phi: Floats | None = None
        self._phi_of: tuple[str, bytes] | None = None

    def log_density(self, plan: Plan, *, keep_z: bool = False, complete: bool = False) -> Floats:
        """Return log of weight times density, (n_components, n_rows), nats: a buffer, valid until the next call.

        Parameters
        ----------
        plan : Plan
        keep_z : bool
            Whether to keep z of the exact components for `statistics`; n_exact x n_features x n_rows doubles.
        complete : bool
            Whether to add the term that a tied mixture has in common; responsibilities do not need it, and the total
            log-likelihood only if the plan says so.
        """
        n_rows = self._x.shape[1]
        result = self._work.get("log_density", (plan.n_components, n_rows))
        if plan.any_phi:
            self._by_phi(plan, result, complete=complete)
        if plan.exact_components:
            self._exact(plan, result, keep_z=keep_z)
        for k in plan.weightless:
            result[k] = -np.inf
        return result

    def statistics(self, plan: Plan, resp: Floats, out: Floats) -> None:
        """Write the sums of each component, (n_components, n_statistics), for weighted responsibilities `resp`."""
        if plan.mostly_phi:
            np.dot(resp, self._shared_phi(plan).T, out=out)
        elif plan.any_phi:
            out[plan.by_phi] = resp[plan.by_phi] @ self._shared_phi(plan).T
        exact = plan.exact_components
        z = self._work.get("z", (len(exact), *self._x.shape))
        scratch = self._work.get("scratch", self._x.shape)
        for i, k in enumerate(exact):
            # A far outlier's own component has exact zeros in nearly every block.
            if resp[k].any():
                plan.kind.exact_statistics(z[i], resp[k], out[k], scratch)
            else:
                out[k] = 0.0

    def _by_phi(self, plan: Plan, result: Floats, *, complete: bool) -> None:
        phi = self._shared_phi(plan)
        if plan.mostly_phi:
            # Rows of exact components are written over: cheaper than gathering and scattering the others.
            np.dot(plan.natural_parameters, phi, out=result)
        else:
            result[plan.by_phi] = plan.natural_parameters[plan.by_phi] @ phi
        if complete:
            n_features = self._x.shape[0]
            scratch = self._work.get("scratch", self._x.shape)
            common = plan.kind.common_term(phi[-1 - n_features : -1], plan.precisions_cholesky, scratch)
            if common is not None:
                result += common

    def _exact(self, plan: Plan, result: Floats, *, keep_z: bool) -> None:
        exact = plan.exact_components
        z = self._work.get("z", (len(exact) if keep_z else 1, *self._x.shape))
        scratch = self._work.get("scratch", self._x.shape)
        for i, k in enumerate(exact):
            z_k = z[i if keep_z else 0]
            precision_cholesky = plan.kind.component(plan.precisions_cholesky, k)
            plan.kind.standardise(self._x, plan.means[k], precision_cholesky, z_k, scratch)
            np.einsum("dn,dn->n", z_k, z_k, out=result[k])
            result[k] *= -0.5
            result[k] += plan.log_constants[k]

    def _shared_phi(self, plan: Plan) -> Floats:
        key = (plan.kind.name, plan.origin.tobytes())
        if self._phi is None or self._phi_of != key:
            n_features, n_rows = self._x.shape
            self._phi = self._work.get("phi", (plan.kind.n_statistics(n_features, exact=False), n_rows))
            fill_phi(plan.kind, self._x, plan.origin, self._phi)
            self._phi_of = key
        return self._phi
