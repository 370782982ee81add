"""What a kernel receives: a block of rows, how long it is, and the buffers that it reuses from block to block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats

#: Values beside rows, by name, rows last.
Columns = Mapping[str, NDArray[np.float64] | NDArray[np.int64]]


@dataclass(frozen=True)
class Block:
    """Rows in the layout of the kernels: features first, so that every operation runs along the rows.

    Attributes
    ----------
    x : (n_features, n_rows), float64, C order
        The rows, one per column. Rows that are not finite are zeros of weight 0.
    weights : (n_rows,), float64, or None
        Row weights; None means that every row weighs 1.
    first_row : int
        Row number of the first row in the whole input.
    non_finite : (n_rows,), bool, or None
        Rows that hold a NaN or an infinity; None means none of them.
    outside : (n_rows,), bool, or None
        Rows that are not in the fold that the block was cut to, of weight 0; None means none of them.
    columns : mapping of str to (n_rows,) or (n_columns, n_rows), int64 or float64
        What else comes with each row, by name, for kernels that know it.
    spoiled : (n_features, n_rows), bool, or None
        The values of rows that are not finite that were a NaN or an infinity; None means none of them.
    gaps : (n_features, n_rows), bool, or None
        The values that are missing, where the rest of a row counts; rows that have none at all are not finite. None
        means none of them. `x` has any number there.
    numbers : (n_rows,), int64, or None
        Row numbers, counted from `first_row`; None means that rows follow each other.
    """

    x: Floats
    weights: Floats | None
    first_row: int
    non_finite: NDArray[np.bool_] | None = None
    outside: NDArray[np.bool_] | None = None
    columns: Columns = field(default_factory=dict)
    spoiled: NDArray[np.bool_] | None = None
    gaps: NDArray[np.bool_] | None = None
    numbers: NDArray[np.int64] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows that count: the finite ones of the fold."""
        left_out = self.left_out
        return int(self.x.shape[1] - (0 if left_out is None else np.count_nonzero(left_out)))

    @property
    def left_out(self) -> NDArray[np.bool_] | None:
        """Rows that do not count, (n_rows,), bool; None means none of them."""
        if self.non_finite is None or self.outside is None:
            return self.outside if self.non_finite is None else self.non_finite
        return self.non_finite | self.outside

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return float(self.x.shape[1]) if self.weights is None else float(self.weights.sum())

    def by_gaps(self) -> Iterator[Block]:
        """Yield rows that lack no value, as many as fill tiles, and then the others; else the block as it is."""
        lacks = None if self.gaps is None else np.logical_or.reduce(self.gaps, axis=0)
        length = tile_length(len(self.x))
        n_whole = 0 if lacks is None else np.count_nonzero(~lacks) // length * length
        if lacks is None or not n_whole:
            yield self
            return
        # (Rows that would fill no tile come with the others: short tiles cost more a row.)
        whole = np.flatnonzero(~lacks)[:n_whole]
        lacks[:] = True
        lacks[whole] = False
        yield self._taken(whole)
        if n_whole < len(lacks):
            yield self._taken(np.flatnonzero(lacks))

    def _taken(self, rows: NDArray[np.int64]) -> Block:
        def of(values: Any) -> Any:
            return None if values is None else np.take(values, rows, axis=-1)

        columns = {name: of(values) for name, values in self.columns.items()}
        left_out = _any(self.non_finite, rows), _any(self.outside, rows)
        numbers = rows if self.numbers is None else self.numbers[rows]
        x, w, spoiled, gaps = of(self.x), of(self.weights), of(self.spoiled), _any(self.gaps, rows)
        return Block(x, w, self.first_row, *left_out, columns, spoiled, gaps, numbers)

    def tiles(self, *, at_least: int = 0) -> Iterator[Block]:
        """Yield the block in pieces of `tile_length` rows, or of `at_least` so many, views of it."""
        n_rows, length = self.x.shape[1], max(tile_length(len(self.x)), at_least)
        if n_rows <= length:
            yield self
            return
        for low in range(0, n_rows, length):
            part = slice(low, low + length)
            weights = None if self.weights is None else self.weights[part]
            columns = {name: values[..., part] for name, values in self.columns.items()}
            left_out = _any(self.non_finite, part), _any(self.outside, part)
            spoiled = None if self.spoiled is None else self.spoiled[:, part]
            gaps = _any(self.gaps, part)
            first_row, numbers = (
                (self.first_row + low, None) if self.numbers is None else (self.first_row, self.numbers[part])
            )
            yield Block(self.x[:, part], weights, first_row, *left_out, columns, spoiled, gaps, numbers)

    def runs(self) -> Iterator[Block]:
        """Yield the block as it is where it lacks no more values than one tile may, else tile by tile."""
        n_features = len(self.x)
        few = self.gaps is None or np.count_nonzero(self.gaps) <= n_features * tile_length(n_features)
        return iter((self,)) if few else self.tiles()


def _any(mask: NDArray[np.bool_] | None, part: slice | NDArray[np.int64]) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    # (`take` is 10 times as fast as an index.)
    found: NDArray[np.bool_] = mask[..., part] if isinstance(part, slice) else np.take(mask, part, axis=-1)
    return found if found.any() else None


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


#: Rows of a tile at least where some lack values and NumPy does what gaps need: the interpreter does more for a tile.
#: (At 64 features and 5% of all values missing a pass is 1.26 times as fast as with tiles of 256 rows.)
GAP_TILE = 512


class Workspace:
    """Named buffers, kept from block to block: touching fresh memory costs more than filling it.

    `empty` makes them: NumPy's, or that of a library of arrays elsewhere.
    """

    def __init__(self, empty: Callable[..., Any] = np.empty) -> None:
        self._buffers: dict[tuple[str, Any], NDArray[Any]] = {}
        self._empty = empty

    def get(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
        """Return the buffer `name` as an uninitialised C-ordered array of `shape` and `dtype`."""
        size = prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name, dtype] = self._empty(size, dtype)
        return buffer[:size].reshape(shape)
