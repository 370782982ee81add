"""A pass that sums the outer products of the rows' scores: how much they tell of a mixture's parameters."""

from __future__ import annotations

from threading import local

import numpy as np

from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.estep import Densities
from daskgmm.kernels.plan import Plan
from daskgmm.mixture.arrays import Floats


class InformationPass:
    """The pass; a state is the matrix J = sum_i w_i s_i s_i', packed behind the weight and the number of rows.

    A row's score s is the derivative of its log-density by all weights but the last, which is what they leave of one;
    by the means; and by the covariances, where these are not held to be known. J / n estimates Fisher's information
    (McLachlan and Peel 2000, section 2.15).

    Parameters
    ----------
    plan : Plan
        Of the mixture, in double precision.
    with_covariances : bool
    """

    def __init__(self, plan: Plan, *, with_covariances: bool) -> None:
        self.plan, self.with_covariances = plan, with_covariances
        self._local = local()

    def __reduce__(self) -> tuple[object, ...]:
        return _information_pass, (self.plan, self.with_covariances)

    @property
    def n_free(self) -> int:
        """Number of parameters, and of rows of J."""
        n_components, n_features = self.plan.means.shape
        n_covariances = len(self.plan.shape.covariance_weights(np.ones(n_components)))
        own = self.plan.shape.n_second(n_features, exact=True) * n_covariances if self.with_covariances else 0
        return int(n_components - 1 + n_components * n_features + own)

    def zero(self) -> Floats:
        """Return the state of no rows."""
        return np.zeros(2 + self.n_free**2)

    def update(self, state: Floats, block: Block) -> Floats:
        """Return the state with the rows of a block added; `state` is changed in place."""
        if not hasattr(self._local, "work"):
            self._local.work = Workspace()
        work: Workspace = self._local.work
        for tile in block.tiles():
            state[0] += tile.total_weight
            state[1] += tile.n_rows
            scores = self._scores(tile, work)
            weighted = scores if tile.weights is None else scores * tile.weights
            state[2:] += (weighted @ scores.T).ravel()
        return state

    def finish(self, state: Floats) -> Floats:
        """Return what leaves a partition."""
        return state

    def merge(self, state: Floats, other: Floats) -> Floats:
        """Return the state of both sets of rows."""
        return state + other

    def _scores(self, tile: Block, work: Workspace) -> Floats:
        """Return the score of each row, (n_free, n_rows); zeros for rows that do not count."""
        plan, (n_components, n_features) = self.plan, self.plan.means.shape
        densities = Densities(tile.x, work, tile.columns)
        resp = densities.log_density(plan)
        densities.responsibilities(plan, resp, None)
        if tile.left_out is not None:
            resp[:, tile.left_out] = 0.0
        scores = work.get("scores", (self.n_free, tile.x.shape[1]))
        scores[...] = 0.0
        weights = np.exp(plan.log_weights)
        with np.errstate(divide="ignore", invalid="ignore"):  # (a component of weight zero: no number comes of it)
            np.divide(resp[:-1], weights[:-1, np.newaxis], out=scores[: n_components - 1])
            scores[: n_components - 1] -= resp[-1] / weights[-1]
        shape, first = plan.shape, n_components - 1 + n_components * n_features
        n_own = shape.n_second(n_features, exact=True)
        n_covariances = len(shape.covariance_weights(weights))
        for k in range(n_components):
            own = shape.component(plan.precisions_cholesky, k)
            by_mean, by_covariance = shape.scores(tile.x - plan.means[k][:, np.newaxis], own)
            low = n_components - 1 + k * n_features
            np.multiply(by_mean, resp[k], out=scores[low : low + n_features])
            if self.with_covariances:
                low = first + (k if n_covariances > 1 else 0) * n_own
                scores[low : low + n_own] += resp[k] * by_covariance
        return scores


def _information_pass(plan: Plan, with_covariances: bool) -> InformationPass:
    return InformationPass(plan, with_covariances=with_covariances)
