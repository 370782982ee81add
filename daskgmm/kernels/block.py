"""What a kernel receives: a block of rows, how long it is, and the buffers that it reuses from block to block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats


@dataclass(frozen=True)
class Block:
    """Rows in the layout of the kernels: features first, so that every operation runs along the rows.

    Attributes
    ----------
    x : (n_features, n_rows), float64, C order
        The rows, one per column. Rows that were dropped as non-finite are zeros of weight 0.
    weights : (n_rows,), float64, or None
        Row weights; None means that every row weighs 1.
    first_row : int
        Row number of the first row in the whole input.
    dropped : (n_rows,), bool, or None
        Rows that hold a NaN or an infinity; None means none of them.
    """

    x: Floats
    weights: Floats | None
    first_row: int
    dropped: NDArray[np.bool_] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows that count: those not dropped."""
        return int(self.x.shape[1] - (0 if self.dropped is None else np.count_nonzero(self.dropped)))

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return float(self.x.shape[1]) if self.weights is None else float(self.weights.sum())

    def tiles(self) -> Iterator[Block]:
        """Yield the block in pieces of `tile_length` rows, views of it."""
        n_features, n_rows = self.x.shape
        length = tile_length(n_features)
        if n_rows <= length:
            yield self
            return
        for low in range(0, n_rows, length):
            part = slice(low, low + length)
            weights = None if self.weights is None else self.weights[part]
            dropped = None if self.dropped is None or not self.dropped[part].any() else self.dropped[part]
            yield Block(self.x[:, part], weights, self.first_row + low, dropped)


#: Tiles of a block.
TILES = 8


def block_length(n_features: int) -> int:
    """Return the number of rows of a block: a function of n_features alone.

    Eight tiles: what the interpreter does for a block (some 30 us) is then little beside its arithmetic.
    """
    return TILES * tile_length(n_features)


def tile_length(n_features: int) -> int:
    """Return the number of rows that go through the arithmetic at once: a function of n_features alone.

    Measured for 1 to 128 features: shorter tiles pay for the interpreter, longer ones fall out of the cache and out of
    what OpenBLAS multiplies without packing (1.1 to 1.4 times slower on either side). Tiles are part of what makes a
    result reproducible to the bit, so nothing at run time may change it.
    """
    return next((length for most, length in ((4, 8192), (32, 1024)) if n_features <= most), 256)


class Workspace:
    """Named buffers, kept from block to block: touching fresh memory costs more than filling it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, Any], NDArray[Any]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
        """Return the buffer `name` as an uninitialised C-ordered array of `shape` and `dtype`."""
        size = prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name, dtype] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)
