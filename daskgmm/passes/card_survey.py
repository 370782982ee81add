"""The survey of rows on a card: what `SurveyPass` finds, block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.cuda_rows import CardTile, OnCard
from daskgmm.kernels.folds import fold_of, row_hash
from daskgmm.mixture.arrays import Floats
from daskgmm.passes.survey import Survey, SurveyPass, first_true


class CardSurveyPass(SurveyPass):
    """A survey whose rows come as blocks on a card; of rows without labels and gaps."""

    #: What a task asks, to know which blocks to make.
    on_card = True

    def __reduce__(self) -> tuple[type[SurveyPass], tuple[Any, ...]]:
        return CardSurveyPass, super().__reduce__()[1]

    def update(self, state: Survey, block: Any) -> Survey:
        card = block.card
        with card.using(), np.errstate(over="ignore", invalid="ignore"):
            tile = block.tile()
            n, kept = tile.n_rows, None if tile.counted is None else card.host(tile.counted) > 0
            kept = np.ones(n, dtype=bool) if kept is None else kept
            weights = np.ones(n) if block.weights is None else card.host(block.weights)
            numbers = card.xp.arange(tile.first_row, tile.first_row + n, dtype=np.uint64)
            whole = self._of(tile, numbers, weights, kept)
            if not kept.all():
                lost = card.host(block.stored[card.array(np.flatnonzero(~kept))])
                spoiled = np.count_nonzero(~np.isfinite(lost), axis=0)
                first = first_true(~kept, tile.first_row)
                whole = replace(whole, n_dropped=len(lost), first_dropped=first, n_spoiled=spoiled)
            if self.n_folds:
                of_row = card.host(fold_of(numbers, self.n_folds, self.seed))
                folds = (self._of(tile, numbers, weights, kept & (of_row == i)) for i in range(self.n_folds))
                samples: dict[str, Any] = {"sample": (), "sample_weights": (), "sample_rows": ()}
                whole = replace(whole, folds=tuple(replace(fold, **samples) for fold in folds))
        return self.merge(state, whole)

    def _of(self, tile: CardTile, numbers: OnCard, weights: Floats, kept: NDArray[np.bool_]) -> Survey:
        """Return what is known of the rows of a tile that are kept."""
        card, n_rows = tile.card, int(kept.sum())
        bad = kept & ~(np.isfinite(weights) & (weights >= 0))
        if not n_rows or bad.any():
            first_bad = first_true(bad, tile.first_row)
            return replace(self._empty(), n_rows=n_rows, n_bad_weights=int(bad.sum()), first_bad_weight=first_bad)
        xp, w = card.xp, np.where(kept, weights, 0.0)
        total, there = float(w.sum()), card.array(w)
        # (As on processors: measured from a row, so that a constant feature has its mean exactly.)
        first = tile.x[:, int(np.argmax(kept)), np.newaxis]
        centred = tile.x - first
        shift = xp.matmul(centred, there) / total if total > 0 else xp.zeros(len(tile.x))
        centred -= shift[:, np.newaxis]
        squares = xp.matmul(centred * centred, there)
        scatter = card.host(squares)
        if self.with_scatter:
            scatter = card.host(xp.matmul(centred * there, centred.T))
            np.fill_diagonal(scatter, card.host(squares))
        edges = []
        for far, least in ((np.inf, True), (-np.inf, False)):
            seen = tile.x if kept.all() else xp.where(card.array(kept), tile.x, far)
            edges.append(card.host(seen.min(axis=1) if least else seen.max(axis=1)))
        chosen = self._sampled(tile, numbers) & kept & (w > 0)
        rows = card.array(np.flatnonzero(chosen))
        return replace(
            self._empty(), n_rows=n_rows, weight=total, mean=card.host(first[:, 0] + shift), minimum=edges[0],
            maximum=edges[1], scatter=scatter, sample=(np.ascontiguousarray(card.host(tile.x[:, rows]).T),),
            sample_weights=(w[chosen],), sample_rows=(card.host(numbers[rows]),),
            n_weighted=int(np.count_nonzero(kept & (w > 0))),
        )  # fmt: skip

    def _sampled(self, tile: CardTile, numbers: OnCard) -> NDArray[np.bool_]:
        if self.threshold < 0:
            return np.zeros(tile.n_rows, dtype=bool)
        return tile.card.host(row_hash(numbers, self.seed) <= np.uint64(self.threshold))
