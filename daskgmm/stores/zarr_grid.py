"""Predictions in the shape of a grid whose points are the rows: an array and its coordinates, as xarray opens them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.rows import Rows
from daskgmm.sources.grid import Box, Grid
from daskgmm.sources.source import Source
from daskgmm.stores import targets
from daskgmm.stores.targets import (
    ATTRIBUTE,
    chunk_length,
    incomplete_record,
    refuse_others,
    stored_dtype,
    stored_row_bytes,
)
from daskgmm.stores.zarr_rows import WHOLE, clear_at_url, sync_chunk, token_of

#: Bytes of a coordinate that is copied: of larger ones the log says that they are where they were.
COPIED_BYTES = 8 << 20

logger = logging.getLogger("daskgmm")


def chunk_of(cell: tuple[int, ...], row_bytes: int) -> tuple[int, ...]:
    """Return the shape of an output chunk: the whole cell, or one of the slabs of at most 32 MiB that it is cut into.

    The points of a slab are a run of the cell's, in C order: one index along the dimensions before that which is cut.
    """
    for axis, n in enumerate(cell):
        inner = prod(cell[axis + 1 :]) * row_bytes
        if inner <= targets.CHUNK_BYTES or axis + 1 == len(cell):
            return (*(1 for _ in cell[:axis]), chunk_length(n, inner), *cell[axis + 1 :])
    return cell


@dataclass(frozen=True)
class GridTarget:
    """An array of a grid whose cells are cut into whole chunks.

    Attributes
    ----------
    place, token : str
        The group, and which one is meant there.
    name : str
        Of the array.
    grid : Grid
        The order of the rows.
    chunk : tuple of int
        Points of a chunk of the array along each dimension of the grid.
    """

    place: str
    token: str
    name: str
    grid: Grid
    chunk: tuple[int, ...]

    def piece_rows(self, first_row: int) -> int:
        return prod(part.stop - part.start for part in self._box(first_row))

    def write(self, first_row: int, values: NDArray[Any]) -> None:
        group = zarr.open_group(self.place, mode="r+", use_consolidated=False)
        refuse_others(token_of(group), self.token, self.place)
        array: Any = group[self.name]
        box = self._box(first_row)
        points = tuple(part.stop - part.start for part in box)
        array.with_config(WHOLE)[box] = values.reshape(*points, *values.shape[1:])
        index = tuple(part.start // n for part, n in zip(box, self.chunk, strict=True))
        sync_chunk(array, self.place, (*index, *(0 for _ in values.shape[1:])))

    def _box(self, first_row: int) -> Box:
        """Return the points of the chunk whose first one is a row."""
        grid = self.grid
        cell = grid.cell_of(first_row)
        inside = first_row - int(grid.first_rows(np.array([cell], dtype=np.int64))[0])
        lows = [int(i) * n for i, n in zip(np.unravel_index(cell, grid.counts), grid.cell, strict=True)]
        lengths = [min(n, whole - low) for n, whole, low in zip(grid.cell, grid.shape, lows, strict=True)]
        begins = np.unravel_index(inside, lengths)
        return tuple(
            slice(low + int(begin), low + min(int(begin) + chunk, length))
            for low, begin, chunk, length in zip(lows, begins, self.chunk, lengths, strict=True)
        )


@dataclass(frozen=True)
class GridLayout:
    """Predictions in the shape of the grid whose points are the rows, with its cells as chunks, or parts of them.

    Of probabilities the last dimension is "component".
    """

    predictor: Predictor
    rows: Rows
    grid: Grid

    @classmethod
    def of(cls, predictor: Predictor, X: Source) -> GridLayout | None:
        """Return the layout, None where rows are no points of a grid of several dimensions, or parts are cut apart."""
        rows, grid = Rows.plan(X, None), X.grid
        if grid is None or len(grid.shape) < 2:
            return None
        whole = all(_begins_cell(grid, int(edge)) for edge in rows.edges[:-1])
        return cls(predictor, rows, grid) if whole else None

    @property
    def held_bytes(self) -> int:
        # (The chunk being filled, and its encoded bytes while it is written.)
        return 2 * prod(self._chunk) * stored_row_bytes(self.predictor)

    def make(self, place: str, token: str) -> GridTarget:
        clear_at_url(place)
        group = zarr.create_group(
            place, overwrite=True, zarr_format=3, attributes={ATTRIBUTE: incomplete_record(token)}
        )
        shape, chunks = self._shapes
        group.create_array(
            self.predictor.what, shape=shape, chunks=chunks, dtype=stored_dtype(self.predictor), config=WHOLE,
            dimension_names=self._dims,
        )  # fmt: skip
        return self._target(place, token)

    def found(self, place: str, token: str) -> GridTarget | None:
        try:
            group = zarr.open_group(place, mode="r+", use_consolidated=False)
            array: Any = group[self.predictor.what]
        except (OSError, ValueError, KeyError):  # it was removed
            return None
        is_this = token_of(group) == token and (array.shape, array.chunks) == self._shapes
        return self._target(place, token) if is_this else None

    def complete(self, place: str, record: Mapping[str, Any]) -> None:
        group = zarr.open_group(place, mode="r+", use_consolidated=False)
        self._write_coordinates(group)
        with warnings.catch_warnings():
            # (What xarray looks for first; the standard does not have it yet, as zarr says.)
            warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
            whole = zarr.consolidate_metadata(group.store_path.store, path=group.path)
        whole.attrs.put({ATTRIBUTE: dict(record)})

    def _write_coordinates(self, group: zarr.Group) -> None:
        """Write the coordinates of the grid beside the predictions, and say which others they have."""
        others = []
        for one in self.rows.X.coordinates():
            if one.n_bytes > COPIED_BYTES:
                logger.info("The coordinate %s, of shape %s, stays in %s.", one.name, one.shape, self.rows.X.label)
            elif one.name != self.predictor.what:
                values = np.ascontiguousarray(one.read())
                group.create_array(
                    one.name, data=values, chunks=values.shape, dimension_names=one.dims, attributes=one.attributes,
                    overwrite=True, config=WHOLE,
                )  # fmt: skip
                others += [one.name] if one.dims != (one.name,) else []
        if others:
            group[self.predictor.what].attrs.put({"coordinates": " ".join(others)})

    def _target(self, place: str, token: str) -> GridTarget:
        return GridTarget(place, token, self.predictor.what, self.grid, self._chunk)

    @property
    def _chunk(self) -> tuple[int, ...]:
        return chunk_of(self.grid.cell, stored_row_bytes(self.predictor))

    @property
    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        columns = () if self.predictor.n_columns is None else (self.predictor.n_columns,)
        return (*self.grid.shape, *columns), (*self._chunk, *columns)

    @property
    def _dims(self) -> tuple[str, ...]:
        """Names of the dimensions; those without are called as xarray calls them."""
        names = self.grid.dims or tuple(f"dim_{axis}" for axis in range(len(self.grid.shape)))
        return names if self.predictor.n_columns is None else (*names, self.predictor.dimension)


def _begins_cell(grid: Grid, row: int) -> bool:
    return int(grid.first_rows(np.array([grid.cell_of(row)], dtype=np.int64))[0]) == row
