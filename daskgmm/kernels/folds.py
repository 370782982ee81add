"""Rows told apart by a hash of their numbers: the same ones whatever the chunks, partitions and order of reading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block
from daskgmm.mixture.record import Record

#: Added to the seed of a fold's hash, so that folds cut through a sample that is drawn with the same seed.
_OF_FOLDS = 0x5DEECE66D


def row_hash(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return a hash of (seed, row number), uint64: SplitMix64 (Steele et al. 2014, doi:10.1145/2714064.2660195)."""
    with np.errstate(over="ignore"):
        z = rows + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % (1 << 64))
        for _ in range(2):
            z = z * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return z


@dataclass(frozen=True)
class Fold(Record):
    """One of several equal parts of the rows, by a hash of the row number; or what it leaves of them.

    Attributes
    ----------
    index, n_folds : int
        Fold `index`, from 0, of `n_folds`.
    seed : int
    held_out : bool
        True for the rows of the fold, on which a candidate is judged; False for all others, to which it is fitted.
    """

    index: int
    n_folds: int
    seed: int
    held_out: bool = False

    def mask(self, rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of these row numbers belong to it, bool."""
        inside: NDArray[np.bool_] = fold_of(rows, self.n_folds, self.seed) == self.index
        return inside if self.held_out else ~inside

    def of(self, block: Block) -> Block:
        """Return the block with all other rows of weight 0 and not counted; their values stay where they are."""
        numbers = np.arange(block.x.shape[1]) if block.numbers is None else block.numbers
        kept = self.mask((block.first_row + numbers).astype(np.uint64))
        weights = kept.astype(np.float64) if block.weights is None else np.where(kept, block.weights, 0.0)
        outside = ~kept if block.outside is None else ~kept | block.outside
        return replace(block, weights=weights, outside=outside)


class FoldPass:
    """Another pass, over the rows of a fold only."""

    def __init__(self, work: Any, fold: Fold) -> None:
        self.work, self.fold = work, fold
        self.zero, self.finish, self.merge = work.zero, work.finish, work.merge

    def __reduce__(self) -> tuple[type[FoldPass], tuple[Any, Fold]]:
        return FoldPass, (self.work, self.fold)

    def update(self, state: Any, block: Block) -> Any:
        """Return the state with the block's rows of the fold added."""
        return self.work.update(state, self.fold.of(block))


def fold_of(rows: NDArray[np.uint64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold, 0 to n_folds - 1, of each of these row numbers, int64."""
    return (row_hash(rows, seed + _OF_FOLDS) % np.uint64(n_folds)).astype(np.int64)
