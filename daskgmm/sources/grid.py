"""Points of a grid as rows, cell by cell: pure planning, integers in, integers out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A range of each dimension.
Box = tuple[slice, ...]
#: Edges at most: no list of them is larger than 8 MiB.
_MAX_EDGES = 2**20


@dataclass(frozen=True)
class Grid:
    """A grid whose points are rows: cells in C order of the grid of cells, and in C order within a cell.

    Attributes
    ----------
    shape : tuple of int
        Points along each dimension, at least one.
    cell : tuple of int
        Points of a cell along each dimension; the last cells may have fewer.
    dims, points : tuple of str
        Names of the dimensions, and a checksum of the coordinates of each, "" where it has none; empty where nobody
        knows them.
    """

    shape: tuple[int, ...]
    cell: tuple[int, ...]
    dims: tuple[str, ...] = ()
    points: tuple[str, ...] = ()

    @cached_property
    def n_rows(self) -> int:
        return prod(self.shape)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Cells along each dimension."""
        return tuple(-(-n // length) for n, length in zip(self.shape, self.cell, strict=True))

    @cached_property
    def n_cells(self) -> int:
        return prod(self.counts)

    @property
    def is_in_c_order(self) -> bool:
        """Whether the rows are the points in C order: before the last dimension that is cut no cell has two points."""
        cut = [axis for axis, n in enumerate(self.counts) if n > 1]
        return not cut or all(min(n, c) == 1 for n, c in zip(self.shape[: cut[-1]], self.cell[: cut[-1]], strict=True))

    def first_rows(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row at which each cell begins; int64."""
        before, width = np.zeros_like(cells), np.ones_like(cells)
        for axis, index in enumerate(np.unravel_index(cells, self.counts)):
            n, length = self.shape[axis], self.cell[axis]
            low = index.astype(np.int64) * length
            before += width * low * prod(self.shape[axis + 1 :])
            width *= np.minimum(length, n - low)
        return before

    def cell_of(self, row: int) -> int:
        """Return the number of the cell that holds a row."""
        width, cell = 1, 0
        for n, length, count, axis in zip(self.shape, self.cell, self.counts, range(len(self.shape)), strict=True):
            slab = width * length * prod(self.shape[axis + 1 :])
            index, row = divmod(row, slab)
            width *= min(length, n - index * length)
            cell = cell * count + index
        return cell

    def edges(self) -> NDArray[np.int64]:
        """Return rows at which cells begin, and the end: int64, increasing; of very many cells each some."""
        step = -(-self.n_cells // _MAX_EDGES)
        return np.append(self.first_rows(np.arange(0, self.n_cells, step, dtype=np.int64)), np.int64(self.n_rows))

    def boxes(self, start: int, stop: int) -> Iterator[tuple[int, Box]]:
        """Yield the boxes that together are the cells of rows start to stop, in order, and the first row of each."""
        for ranges in _boxes(self.cell_of(start), self.cell_of(stop - 1) + 1, self.counts):
            first = np.ravel_multi_index([low for low, _ in ranges], self.counts)
            box = tuple(
                slice(low * length, min(high * length, n))
                for (low, high), length, n in zip(ranges, self.cell, self.shape, strict=True)
            )
            yield int(self.first_rows(np.array([first], dtype=np.int64))[0]), box

    def cells(self, box: Box) -> Iterator[Box]:
        """Yield the cells of a box, in order, as ranges within it."""
        lengths = [part.stop - part.start for part in box]
        if Grid(tuple(lengths), self.cell).is_in_c_order:
            yield tuple(slice(0, n) for n in lengths)
            return
        steps = (range(0, n, length) for n, length in zip(lengths, self.cell, strict=True))
        for lows in product(*steps):
            yield tuple(slice(low, min(low + c, n)) for low, c, n in zip(lows, self.cell, lengths, strict=True))

    def to_grid(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of all rows, (n_rows, ...), as an array of the grid, (*shape, ...)."""
        found = np.empty((*self.shape, *values.shape[1:]), values.dtype)
        for row, box in self.boxes(0, self.n_rows):
            part = found[box]
            for cell in self.cells(box):
                n = prod(one.stop - one.start for one in cell)
                part[cell] = values[row : row + n].reshape(part[cell].shape)
                row += n
        return found


def same_order(one: Grid | None, other: Grid | None) -> bool:
    """Return whether rows of two sources of equal length are of the same points; without a grid they lie in C order."""
    if one is None or other is None:
        grid = one or other
        return grid is None or grid.is_in_c_order
    points = zip(one.points, other.points, strict=False)
    if one.shape != other.shape or any(a and b and a != b for a, b in ((one.dims, other.dims), *points)):
        return False
    alike = replace(one, dims=(), points=()) == replace(other, dims=(), points=())
    return alike or (one.is_in_c_order and other.is_in_c_order)


def _boxes(start: int, stop: int, counts: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the boxes that together are the numbers start to stop in C order, in order, as ranges of each dimension."""
    if len(counts) == 1:
        yield ((start, stop),)
        return
    inner = prod(counts[1:])
    low, high = start // inner, stop // inner
    if start % inner:
        for box in _boxes(start % inner, min(inner, stop - low * inner), counts[1:]):
            yield ((low, low + 1), *box)
        low += 1
    if low < high:
        yield ((low, high), *((0, n) for n in counts[1:]))
    if stop % inner and low <= high:
        for box in _boxes(0, stop % inner, counts[1:]):
            yield ((high, high + 1), *box)
