"""What a card is to those that compute on one, and rows on it: as they are stored, and in the layout of the loops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Workspace
from daskgmm.kernels.folds import Fold
from daskgmm.mixture.scaling import Scaling

#: An array on the card: of the card's own type.
OnCard = Any

#: Blocks that are on their way to a card while one is computed.
N_AHEAD = 3
#: Values of the rows of a block at most, and rows.
BLOCK_VALUES, LONGEST, SHORTEST = 1 << 23, 1 << 18, 1 << 8


class Card(ABC):
    """Where the arithmetic is done: one for each process.

    Attributes
    ----------
    xp : module
        Its namespace of arrays.
    work : Workspace
        Buffers, which all passes share: what is launched later waits for what was launched before.
    """

    xp: Any
    work: Workspace

    @abstractmethod
    def using(self) -> AbstractContextManager[Any]:
        """Take the card for this thread, until the block ends; what is launched then may still run."""

    @abstractmethod
    def launch(self, loop: str, n_items: int, *arguments: Any) -> None:
        """Run a loop of `cuda_source.py` over so many items: arrays, and numbers of NumPy's types."""

    @abstractmethod
    def array(self, values: NDArray[Any]) -> OnCard:
        """Return a copy of an array on the card."""

    @abstractmethod
    def host(self, values: OnCard) -> NDArray[Any]:
        """Return a copy of an array of the card, once it is computed."""

    @abstractmethod
    def explained(self) -> AbstractContextManager[Any]:
        """Turn what is said of a full or lost card, while the block runs, into an error of ours."""

    @abstractmethod
    def slot(self, n_rows: int, n_columns: int, dtype: np.dtype[Any]) -> Slot:
        """Return room for the rows of a block on their way to the card."""


class Slot(ABC):
    """Room for a block of rows on its way to the card: filled piece by piece, and then filled again."""

    @abstractmethod
    def begin(self, n_rows: int, *, stays: bool) -> None:
        """Begin a block of so many rows, in memory of its own where it stays."""

    @abstractmethod
    def put(self, at: int, rows: NDArray[Any]) -> None:
        """Send some rows, (n, n_columns), on their way: those from number `at` of the block."""

    @abstractmethod
    def end(self) -> OnCard:
        """Return the block, (n_rows, n_columns): what is launched now waits until it is there."""

    @abstractmethod
    def used(self) -> None:
        """Let the next block come once all that has been launched is done."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until all has come that was sent."""


def block_length(n_features: int) -> int:
    """Return the rows that go to a card at once: a function of n_features alone."""
    return power_of_two(BLOCK_VALUES // n_features)


def power_of_two(most: int) -> int:
    """Return the power of two of rows that is at most so many, within bounds."""
    return int(min(LONGEST, max(SHORTEST, 1 << max(most, 1).bit_length() - 1)))


@dataclass(frozen=True)
class CardTile:
    """Rows on a card, in the layout of the loops.

    Attributes
    ----------
    x : (n_features, n_rows), float64, rows `stride` apart
    weights, counted : (n_rows,), float64, or None
        Row weights, and 1 for rows that count; None means 1 for all.
    """

    card: Card
    x: OnCard
    stride: int
    first_row: int
    weights: OnCard | None = None
    counted: OnCard | None = None
    phi_of: dict[str, Any] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return int(self.x.shape[1])

    @property
    def n_counted(self) -> Any:
        """Number of rows that count."""
        return self.n_rows if self.counted is None else self.counted.sum()

    @property
    def total_weight(self) -> Any:
        return float(self.n_rows) if self.weights is None else self.weights.sum()

    def parts(self, length: int) -> Iterator[CardTile]:
        """Yield the tile in pieces of so many rows, views of it."""
        for low in range(0, self.n_rows, length):
            part = slice(low, low + length)
            weights = None if self.weights is None else self.weights[part]
            counted = None if self.counted is None else self.counted[part]
            yield CardTile(self.card, self.x[:, part], self.stride, self.first_row + low, weights, counted)

    def of(self, fold: Fold | None) -> CardTile:
        """Return the tile with rows outside of a fold of weight 0, and not counted."""
        if fold is None:
            return self
        numbers = self.card.xp.arange(self.first_row, self.first_row + self.n_rows, dtype=np.uint64)
        kept = fold.mask(numbers).astype(np.float64)
        weights = kept if self.weights is None else kept * self.weights
        return replace(self, weights=weights, counted=kept if self.counted is None else kept * self.counted)

    def weighted_sum(self, values: OnCard) -> Any:
        """Return the weighted sum of one value a row; those of rows of weight 0 must be finite."""
        return values.sum() if self.weights is None else self.card.xp.dot(values, self.weights)


@dataclass(frozen=True)
class CardBlock:
    """Rows on a card as they are stored.

    Attributes
    ----------
    stored : (n_rows, n_features), of a dtype that the loops read
    weights : (n_rows,), float64, or None
    checked : bool
        Whether rows that are not finite are to be found, and left out.
    scaling : Scaling or None
        How rows are mapped.
    """

    card: Card
    stored: OnCard
    weights: OnCard | None
    first_row: int
    checked: bool
    scaling: Scaling | None = None

    def tile(self) -> CardTile:
        """Return the rows in double precision, features first, mapped: a buffer, valid until the next call."""
        card, (n_rows, n_features), scaling = self.card, self.stored.shape, self.scaling
        x = card.work.get("x", (n_features, n_rows))
        counted = card.work.get("counted", (n_rows,)) if self.checked else None
        shift, scale = (x, x) if scaling is None else (card.array(scaling.shift), card.array(scaling.scale))
        card.launch(
            f"rows_{self.stored.dtype.name}", n_rows, self.stored, np.int64(n_rows), np.int32(n_features), shift, scale,
            np.int32(scaling is not None), np.int32(self.checked), x, x if counted is None else counted,
        )  # fmt: skip
        weights = self.weights
        if counted is not None:
            weights = counted if weights is None else counted * weights
        return CardTile(card, x, n_rows, self.first_row, weights, counted)
