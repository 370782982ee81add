"""The passes of an E-step, of a score and of what components are worth, over rows on a card; and its predictions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.cuda import CardSums, PlanOnCard, leave_out, softmax
from daskgmm.kernels.cuda_rows import CardBlock, CardTile, OnCard
from daskgmm.kernels.estep import CandidatesPass, EStep
from daskgmm.kernels.plan import Plan
from daskgmm.kernels.prediction import Predictor, refuse_overflow
from daskgmm.kernels.score import FARTHEST, ScorePass, SupportPass
from daskgmm.kernels.statistics import Statistics


class CardPass(CandidatesPass):
    """A pass over a list of candidates whose rows come as blocks on a card; states merge as those of any pass."""

    #: What a task asks, to know which blocks to make.
    on_card = True

    @abstractmethod
    def n_values(self, plan: Plan) -> int:
        """Return the number of sums of a candidate."""

    @abstractmethod
    def write(self, plan: PlanOnCard, tile: CardTile, out: OnCard) -> None:
        """Write the sums of a tile, (n_values,), but for the last two: weight and number of its rows."""

    def zero(self) -> Any:
        return [CardSums(self.n_values(plan)) for plan in self.plans]

    def update(self, state: Any, block: Any) -> Any:
        card = block.card
        with card.using():
            whole, plans = block.tile(), [PlanOnCard.of(plan, card) for plan in self.plans]
            for length in sorted({plan.length for plan in plans}):
                for tile in whole.parts(length):
                    self._tile(state, tile, [i for i, plan in enumerate(plans) if plan.length == length])
        return state

    def _tile(self, state: list[CardSums], tile: CardTile, which: list[int]) -> None:
        card, own = tile.card, {fold: tile.of(fold) for fold in {self.folds[i] for i in which}}
        for i in which:
            plan, rows = self.plans[i], own[self.folds[i]]
            values = card.work.get("values", (self.n_values(plan),))
            self.write(PlanOnCard.of(plan, card), rows, values)
            if rows.weights is None:  # (Each launch counts, where a tile takes less than the interpreter.)
                values[-2:] = rows.n_rows
            else:
                values[-2], values[-1] = rows.total_weight, rows.n_counted
            state[i].add(card, values)

    def finish(self, state: Any) -> list[Statistics]:
        return [Statistics(sums.settled()) for sums in state]


class CardEStep(CardPass, EStep):
    """The pass of an E-step."""

    def n_values(self, plan: Plan) -> int:
        return plan.n_values

    def write(self, plan: PlanOnCard, tile: CardTile, out: OnCard) -> None:
        resp = plan.log_density(tile, complete=plan.plan.common_by_row)
        log_likelihood, _ = softmax(tile, resp)
        plan.sums(tile, resp, out[:-3].reshape(plan.plan.n_components, -1))
        out[-3] = tile.weighted_sum(log_likelihood)


class CardScorePass(CardPass, ScorePass):
    """The pass of a score."""

    def n_values(self, plan: Plan) -> int:
        return 4

    def write(self, plan: PlanOnCard, tile: CardTile, out: OnCard) -> None:
        log_likelihood, log_largest = softmax(tile, plan.log_density(tile, complete=True))
        out[0], out[1] = tile.weighted_sum(log_largest), tile.weighted_sum(log_likelihood)


class CardSupportPass(CardPass, SupportPass):
    """The pass of a score that also tells what each component is worth."""

    def n_values(self, plan: Plan) -> int:
        return 6 + 2 * plan.n_components

    def write(self, plan: PlanOnCard, tile: CardTile, out: OnCard) -> None:
        k = plan.plan.n_components
        log_density = plan.log_density(tile, complete=True)
        lost, resp_sums, log_likelihood, log_largest, entropy = leave_out(tile, log_density)
        out[0] = tile.weighted_sum(log_largest)
        out[1] = tile.weighted_sum(tile.card.xp.square(log_likelihood.clip(-FARTHEST, FARTHEST)))
        out[2] = tile.weighted_sum(entropy)
        out[3 : 3 + k], out[3 + k : 3 + 2 * k] = lost[:k], resp_sums[:k]
        out[-3] = tile.weighted_sum(log_likelihood)


#: The pass on a card for each pass of its kind.
ON_CARD: dict[type[Any], type[Any]] = {EStep: CardEStep, ScorePass: CardScorePass, SupportPass: CardSupportPass}


@dataclass(frozen=True)
class CardPredictor(Predictor):
    """Predicts for blocks of rows on a card, as `Predictor` does for others."""

    #: What a task asks, to know which blocks to make.
    on_card: ClassVar[bool] = True

    def predict_block(self, block: CardBlock, out: NDArray[Any]) -> int | None:
        """Write the prediction for a block; return the number of the first row that is not finite, None without one.

        Such rows are -1 or NaN.
        """
        card, what, first = block.card, self.what, None
        with card.using():
            plan, begin = PlanOnCard.of(self.plan, card), 0
            for tile in block.tile().parts(plan.length):
                own = out[begin : begin + tile.n_rows]
                score, own[...] = self._predicted(plan, tile)
                refuse_overflow(score, partial(card.host, tile.x), tile.first_row)
                if tile.counted is not None:
                    left_out = card.host(tile.counted) == 0
                    own[left_out] = -1 if what == "label" else np.nan
                    if first is None and left_out.any():
                        first = tile.first_row + int(np.argmax(left_out))
                begin += tile.n_rows
        return first

    def _predicted(self, plan: PlanOnCard, tile: CardTile) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the log-density of each row, or the largest of a component's, and the prediction."""
        card, n, what = tile.card, tile.n_rows, self.what
        log_density = plan.log_density(tile, complete=what == "score")
        if what == "label":
            labels, highest = card.work.get("labels", (n,), np.int64), card.work.get("highest", (n,))
            k = np.int32(len(log_density))
            card.launch("label", n, log_density, np.int64(n), k, labels, highest)
            return card.host(highest), card.host(labels)
        # (Rows that do not count have no responsibilities; weights are of no concern.)
        log_likelihood, _ = softmax(CardTile(card, tile.x, tile.stride, tile.first_row), log_density)
        score = card.host(log_likelihood)
        return score, score if what == "score" else card.host(card.xp.ascontiguousarray(log_density.T))
