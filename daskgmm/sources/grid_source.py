"""Points of a grid as rows: several stored arrays of one shape, a feature each, or one feature for each index."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError, verbatim
from daskgmm.sources.boxed import BoxedReader, BoxReader, StoredArray
from daskgmm.sources.conventions import Beside
from daskgmm.sources.coordinates import Coordinate
from daskgmm.sources.digits import refuse_lost_digits
from daskgmm.sources.failures import retried
from daskgmm.sources.grid import Box, Grid
from daskgmm.sources.source import Reader, Source, checked_shape
from daskgmm.sources.stamps import Stamper


@dataclass(frozen=True)
class Column:
    """One array of a grid.

    Attributes
    ----------
    stored : StoredArray
        The array.
    axis : int or None
        Its dimension along which features lie; None where all of it are points of the grid.
    labels : tuple of str
        Names of its features.
    """

    stored: StoredArray
    axis: int | None
    labels: tuple[str, ...]

    def points(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Return what belongs to the grid of one number for each dimension of the array."""
        return tuple(n for axis, n in enumerate(lengths) if axis != self.axis)

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of its features of a row."""
        return len(self.labels) * self.stored.dtype.itemsize

    def padded_bytes(self, cell: tuple[int, ...]) -> int:
        """Return the bytes of a cell's chunks, decoded whole: also where they reach beyond the array."""
        lengths = list(cell)
        if self.axis is not None:
            lengths.insert(self.axis, len(self.labels))
        whole = (-(-n // chunk) * chunk for n, chunk in zip(lengths, self.stored.chunks, strict=True))
        return prod(whole) * self.stored.dtype.itemsize


class GridSource(Source):
    """Rows that are the points of a grid, of stored arrays that are its features.

    Parameters
    ----------
    columns : sequence of Column
        The arrays, in order.
    kind : str
        What they are stored as.
    root : str
        Path or URL of their group, without secrets.
    argument : str
        What messages call the input.
    beside : callable, optional
        Gives the coordinates of the grid, when they are asked for.

    Notes
    -----
    Rows are in the order of the chunks: chunks in C order, points of a chunk in C order. So a task reads whole chunks,
    each once. Where arrays have chunks of several shapes, the largest along each dimension make the cells in whose
    order rows come, and the others must divide them.

    What comes of the rows, such as labels, is in this order, too: `to_grid` brings it back to the grid. What comes with
    them, such as weights, is an array of the same grid, opened by `columns` as well.
    """

    grid: Grid

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        kind: str,
        root: str,
        argument: str = "X",
        beside: Callable[[Grid], list[Coordinate]] | None = None,
    ) -> None:
        self.label = self.root = root
        self._coordinates = beside
        self._kind = kind
        self._columns = tuple(columns)
        self.column_labels = [label for column in columns for label in column.labels]
        self.dtype = np.result_type(*(column.stored.dtype for column in columns))
        n_points = prod(columns[0].points(columns[0].stored.shape))
        self.n_rows, self.n_features = checked_shape(
            (n_points, len(self.column_labels)), self.dtype, argument=argument, label=self.label
        )
        self.grid = _grid_of(self._columns, argument)
        self.travels = all(column.stored.travels for column in columns)
        units = {column.stored.beside.units for column in columns}
        along = self._columns[0].points(tuple(range(len(self._columns[0].stored.shape))))
        names = self._columns[0].stored.dimensions
        self.beside = Beside(
            names[along[0]] if len(along) == 1 and names else None, units.pop() if len(units) == 1 else None
        )
        self._more_edges = np.empty(0, np.int64)

    def coordinates(self) -> Sequence[Coordinate]:
        return () if self._coordinates is None else self._coordinates(self.grid)

    @property
    def places(self) -> list[str]:
        return list(dict.fromkeys(column.stored.place for column in self._columns))

    def reader(self) -> GridReader:
        columns = tuple((c.stored.reader, c.axis, c.labels) for c in self._columns)
        return GridReader(self.grid, columns, self.dtype.str)

    @cached_property
    def chunk_edges(self) -> NDArray[np.int64]:
        return np.union1d(self.grid.edges(), self._more_edges)

    @cached_property
    def chunk_rows(self) -> int:
        return prod(self.grid.cell)

    @property
    def chunk_bytes(self) -> int:
        cells = -(-int(np.diff(self.chunk_edges).max()) // self.chunk_rows)
        padded = sum(
            column.padded_bytes(self.grid.cell) * self.dtype.itemsize // column.stored.dtype.itemsize
            for column in self._columns
        )
        return cells * padded

    def read_bytes(self, n_bytes: int) -> int:
        # (The rows; and what reading an array holds, one after the other, with a copy in the order of the rows.)
        shares = ((c.stored, -(-n_bytes * c.row_bytes // self.row_bytes)) for c in self._columns)
        return n_bytes + max(stored.read_bytes(share) + share for stored, share in shares)

    def without(self, features: Sequence[int]) -> str:
        along = any(column.axis is not None for column in self._columns)
        return "Store its arrays anew without them." if along else super().without(features)

    def rechunking(self, chunks: str) -> str:
        return "store its arrays anew, in chunks of fewer points."

    def rechunked_to(self, edges: NDArray[np.int64]) -> GridSource:
        """Return the same rows with edges at `edges`, too: partitions of equal length may begin within a cell."""
        if np.isin(edges, self.chunk_edges).all():
            return self
        found = copy.copy(self)
        found.__dict__.pop("chunk_edges", None)
        found._more_edges = edges
        return found

    def identity(self) -> dict[str, Any]:
        arrays = [
            {**c.stored.identity(), "shape": list(c.stored.shape), "dtype": c.stored.dtype.str, "features": c.axis}
            for c in self._columns
        ]
        return {
            **super().identity(),
            "kind": f"{self._kind} grid",
            "location": self.label if self.travels else None,
            "chunks": list(self.grid.cell),
            "columns": self.column_labels,
            "arrays": arrays,
        }

    def stamper(self) -> Stamper | None:
        return self.reader() if self.travels else None


class GridReader(Reader, Stamper):
    """Reads the points of a grid in a task: array after array, each by a reader of its own.

    Parameters
    ----------
    grid : Grid
        The grid, in whose order rows are.
    columns : tuple of (BoxedReader, int or None, tuple of str)
        Who reads each array, the dimension along which its features lie, and their names.
    dtype : str
        Of the rows.
    """

    def __init__(
        self, grid: Grid, columns: tuple[tuple[BoxedReader, int | None, tuple[str, ...]], ...], dtype: str
    ) -> None:
        self._grid, self._columns, self._dtype = grid, columns, dtype

    def __str__(self) -> str:
        return ", ".join(str(reader) for reader, _, _ in self._columns)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), Fortran ordered.

        Raises
        ------
        DataError
            A chunk of an array cannot be decoded, or is not there.
        """
        # (A feature is contiguous, as it comes, and as kernels want it.)
        found = np.empty((sum(len(labels) for _, _, labels in self._columns), stop - start), self._dtype)
        low = 0
        for reader, axis, labels in self._columns:
            own = found[low : low + len(labels)]
            low += len(labels)
            for row, box in self._grid.boxes(start, stop):
                asked = BoxReader(reader, _in_array(box, axis, len(labels)))
                values = retried(asked.read, asked, start, stop)
                if own.dtype.kind == "f":
                    refuse_lost_digits(values, first_row=None, column=repr(labels[0]))
                self._fill(own, row - start, values if axis is None else np.moveaxis(values, axis, 0), box)
        return found.T

    def _fill(self, own: NDArray[Any], row: int, values: NDArray[Any], box: Box) -> None:
        """Put the values of a box, whose first row is `row` of these, where they belong: (n_features, n_rows)."""
        values = values.reshape(len(own), *(part.stop - part.start for part in box))
        for cell in self._grid.cells(box):
            part = values[(slice(None), *cell)]
            n = prod(part.shape[1:])
            if row >= 0 and row + n <= own.shape[1]:
                own[:, row : row + n].reshape(part.shape)[...] = part  # (a view: nothing is copied twice)
            else:  # (the first cell and the last may reach beyond what is asked for)
                inside = part.reshape(len(own), n)[:, max(0, -row) : own.shape[1] - row]
                own[:, max(0, row) : max(0, row) + inside.shape[1]] = inside
            row += n

    def may_pass(self, error: Exception) -> bool:
        return False  # (each array has been asked again already)

    @property
    def far(self) -> bool:
        return any(reader.far for reader, _, _ in self._columns)

    def form(self) -> str:
        return "\n".join(retried(reader.form, reader, 0, self._grid.n_rows) for reader, _, _ in self._columns)

    def stamp(self, start: int, stop: int) -> list[str]:
        found: list[str] = []
        for reader, axis, labels in self._columns:
            for _, box in self._grid.boxes(start, stop):
                asked = BoxReader(reader, _in_array(box, axis, len(labels)))
                found += retried(partial(reader.stamp_box, asked.box), asked, start, stop)
        return found


def _in_array(box: Box, axis: int | None, n_features: int) -> Box:
    """Return a box of the grid as one of an array, with all its features."""
    return box if axis is None else (*box[:axis], slice(0, n_features), *box[axis:])


def _grid_of(columns: tuple[Column, ...], argument: str) -> Grid:
    """Return the grid that arrays share.

    Raises
    ------
    DataError
        They have several shapes, or chunks of which one does not divide the other.
    """
    first, *others = columns
    shape, named = first.points(first.stored.shape), first.points(tuple(range(len(first.stored.shape))))
    names = [first.stored.dimensions[axis] for axis in named if first.stored.dimensions]
    for other in others:
        axes = other.points(tuple(range(len(other.stored.shape))))
        theirs = [other.stored.dimensions[axis] for axis in axes if other.stored.dimensions]
        if other.points(other.stored.shape) != shape or (names and theirs and names != theirs):
            raise DataError(
                f"Arrays that are features of `{argument}`",
                "lie on one grid",
                f"{_described(first)}, and {_described(other)}",
                "Name arrays of one shape, by the same dimensions.",
            )
    cell = []
    for axis, n in enumerate(shape):
        lengths = [min(n, column.points(column.stored.chunks)[axis]) for column in columns]
        longest = max(lengths)
        at_odds = next((i for i, length in enumerate(lengths) if longest < n and longest % length), None)
        if at_odds is not None:
            most = columns[lengths.index(longest)]
            raise DataError(
                f"Arrays that are features of `{argument}`",
                "have chunks of one shape, or of which the largest are multiples of the others",
                f"{_chunked(most)}, and {_chunked(columns[at_odds])}",
                f"Store {verbatim(repr(columns[at_odds].stored.name))} anew in chunks of {most.stored.chunks}, under "
                "another name, and name that.",
            )
        cell.append(longest)
    return Grid(shape, tuple(cell), tuple(names))


def _described(column: Column) -> str:
    stored = column.stored
    by = f" by {' and '.join(map(repr, stored.dimensions))}" if stored.dimensions else ""
    return f"{stored.name!r} of shape {stored.shape}{by}"


def _chunked(column: Column) -> str:
    return f"chunks {column.stored.chunks} of {column.stored.name!r}"


def check_features(features: str | None, dims: Mapping[str, Sequence[str]], argument: str, label: str) -> None:
    """Raise an OptionError where features are to lie along a dimension that no array has.

    Parameters
    ----------
    dims : mapping of str to sequence of str
        Names of the dimensions of each array.
    """
    if features is None or any(features in names for names in dims.values()):
        return
    near = get_close_matches(features, sorted({one for names in dims.values() for one in names}))
    said = (f"{name!r} by {' and '.join(map(repr, names)) or 'none with names'}" for name, names in dims.items())
    raise OptionError(
        "`features`",
        f"name a dimension of what `{argument}` is",
        f"{features!r} for {', '.join(said)} in {label}",
        f"Did you mean {verbatim(' or '.join(map(repr, near)))}?" if near else "Name one of these.",
    )


def labels_along(name: str, dimension: str, n: int, values: Any = None) -> tuple[str, ...]:
    """Return names of an array's n features: by their coordinates, "T[depth=10.0]", or numbered, "T[0]".

    Coordinates, (n,), are of no use where one is not finite, or stands twice.
    """
    if values is not None and np.isfinite(values).all() and len(np.unique(values)) == n:
        return tuple(f"{name}[{dimension}={value}]" for value in values)
    return tuple(f"{name}[{i}]" for i in range(n))
