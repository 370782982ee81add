"""A pass that only scores: the log-likelihood of given mixtures, and how surely they assign the rows."""

from __future__ import annotations

import numpy as np

from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import CandidatesPass, Densities, rows_of_each
from daskgmm.kernels.gap_support import n_untold, untold_sums
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.arrays import Floats


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
            densities = Densities.of(tile, self.work)
            for plan, own, total in zip(self.plans, rows_of_each(tile, self.folds), state, strict=True):
                total.add(_scores(plan, densities, own))
        return state


class SupportPass(ScorePass):
    """The pass of a score that also tells what each component is worth.

    The place of the panel has two sums over rows more, of the squares of their log-likelihoods, nats squared, and of
    the entropies of their responsibilities, nats; and two numbers a component: what the rows lose without it, and its
    responsibilities, each summed over the rows (`support.leave_out`). Of a plan for rows with gaps what these do not
    tell of each component follows (`gap_support`).
    """

    def zero(self) -> list[Statistics]:
        """Return the state of no rows."""
        return [Statistics(np.zeros(6 + (2 + n_untold(plan)) * plan.n_components)) for plan in self.plans]

    def update(self, state: list[Statistics], block: Block) -> list[Statistics]:
        """Return the state with the rows of a block added; `state` is changed in place."""
        for tile in block.tiles():
            densities = Densities.of(tile, self.work)
            for plan, own, total in zip(self.plans, rows_of_each(tile, self.folds), state, strict=True):
                log_density = densities.log_density(plan, complete=True)
                untold = untold_sums(plan, densities.gaps, log_density, own.weights)
                lost, resp_sums, log_likelihood, *sure = densities.leave_out(plan, log_density, own.weights)
                log_largest, entropy = (_sum(values, own) for values in sure)
                # (Of squares none overflows, nor does their sum.)
                squares = _sum(np.square(np.clip(log_likelihood, -FARTHEST, FARTHEST)), own)
                counted = _sum(log_likelihood, own), own.total_weight, own.n_rows
                total.add(np.concatenate([(log_largest, squares, entropy), lost, resp_sums, untold, counted]))
        return state


FARTHEST = 1e100


def _sum(values: Floats, tile: Block) -> float:
    if tile.weights is None:
        return float(values.sum())
    counted = tile.weights > 0  # (0 times infinity)
    return float(np.dot(values[counted], tile.weights[counted]))


def _scores(plan: Plan, densities: Densities, tile: Block) -> Floats:
    resp = densities.log_density(plan, complete=True)
    log_likelihood = densities.responsibilities(plan, resp, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_largest = np.log(resp.max(axis=0))
    return np.array([_sum(log_largest, tile), _sum(log_likelihood, tile), tile.total_weight, tile.n_rows])
