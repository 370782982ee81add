"""A pass that only scores: the log-likelihood of given mixtures, and how surely they assign the rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.block import Block
from daskgmm.mixture.estep import CandidatesPass, Densities, rows_of_each
from daskgmm.mixture.plan import Plan
from daskgmm.mixture.statistics import Statistics

Floats = NDArray[np.float64]


class ScorePass(CandidatesPass):
    """The pass of a score; its Statistics have no panels.

    In the place of a panel each has one sum, over rows, of the logarithm of the largest responsibility: nats, 0 where
    every row surely belongs to one component. With it ICL is BIC (see `criteria.icl`). Plans are in double precision.
    """

    def zero(self) -> list[Statistics]:
        """Return the state of no rows."""
        return [Statistics(np.zeros(4)) for _ in self.plans]

    def update(self, state: list[Statistics], block: Block) -> list[Statistics]:
        """Return the state with the rows of a block added; `state` is changed in place."""
        for tile in block.tiles():
            densities = Densities(tile.x, self.work)
            for plan, own, total in zip(self.plans, rows_of_each(tile, self.folds), state, strict=True):
                total.add(_scores(plan, densities, own))
        return state


def _scores(plan: Plan, densities: Densities, tile: Block) -> Floats:
    resp = densities.log_density(plan, complete=True)
    log_likelihood = densities.responsibilities(plan, resp, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_largest = np.log(resp.max(axis=0))
    if tile.weights is None:
        sums = float(log_largest.sum()), float(log_likelihood.sum())
    else:
        counted = tile.weights > 0
        sums = (
            float(np.dot(log_largest[counted], tile.weights[counted])),
            float(np.dot(log_likelihood[counted], tile.weights[counted])),
        )
    return np.array([*sums, tile.total_weight, tile.n_rows])
