"""Predictions as a Zarr array in the order of the rows, one writer a chunk; and the record of a Zarr output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.rows import Rows
from daskgmm.sources.source import Source, regular_edges
from daskgmm.stores.storage import sync_file, sync_folder
from daskgmm.stores.targets import (
    ATTRIBUTE,
    chunk_length,
    even_length,
    incomplete_record,
    refuse_others,
    stored_dtype,
    stored_row_bytes,
)

#: A chunk of zeros is written too: one that is missing is one that was not written.
WHOLE: Any = {"write_empty_chunks": True}


@dataclass(frozen=True)
class RowsTarget:
    """An array whose chunks divide the partitions.

    Attributes
    ----------
    place, token : str
        The array, and which one is meant there: a task that was given up must not write into another one.
    chunk_rows : int
    """

    place: str
    token: str
    chunk_rows: int

    def piece_rows(self, first_row: int) -> int:
        return self.chunk_rows

    def write(self, first_row: int, values: NDArray[Any]) -> None:
        array = zarr.open_array(self.place, mode="r+").with_config(WHOLE)
        refuse_others(token_of(array), self.token, self.place)
        array[first_row : first_row + len(values)] = values
        sync_chunk(array, self.place, (first_row // self.chunk_rows, *(0,) * (array.ndim - 1)))


@dataclass(frozen=True)
class RowsLayout:
    """Predictions of all rows, (n_rows,) or (n_rows, n_components)."""

    predictor: Predictor
    rows: Rows

    @classmethod
    def of(cls, predictor: Predictor, X: Source) -> RowsLayout:
        return cls(predictor, _aligned(Rows.plan(X, None)))

    @property
    def held_bytes(self) -> int:
        # (The chunk being filled, and its encoded bytes while it is written.)
        return 2 * self._chunk_rows * stored_row_bytes(self.predictor)

    def make(self, place: str, token: str) -> RowsTarget:
        shape, chunks = self._shapes
        incomplete_array(place, shape=shape, chunks=chunks, dtype=stored_dtype(self.predictor), token=token)
        return RowsTarget(place, token, self._chunk_rows)

    def found(self, place: str, token: str) -> RowsTarget | None:
        try:
            array = zarr.open_array(place, mode="r+")
        except (OSError, ValueError):  # it was removed
            return None
        is_this = token_of(array) == token and (array.shape, array.chunks) == self._shapes
        return RowsTarget(place, token, self._chunk_rows) if is_this else None

    def complete(self, place: str, record: Mapping[str, Any]) -> None:
        zarr.open_array(place, mode="r+").attrs.put({ATTRIBUTE: dict(record)})

    @property
    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        columns = () if self.predictor.n_columns is None else (self.predictor.n_columns,)
        return (self.rows.X.n_rows, *columns), (self._chunk_rows, *columns)

    @property
    def _chunk_rows(self) -> int:
        """Rows of a chunk: such as divide the partitions, or any where there is only one."""
        partition_rows, row_bytes = int(self.rows.edges[1] - self.rows.edges[0]), stored_row_bytes(self.predictor)
        return (even_length if self.rows.n_partitions == 1 else chunk_length)(partition_rows, row_bytes)


def incomplete_array(
    place: str, *, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, token: str | None = None
) -> zarr.Array[Any]:
    """Return a new array that says from its first object on that it is not complete; what is there is replaced."""
    clear_at_url(place)
    return zarr.create_array(
        place, shape=shape, chunks=chunks, dtype=dtype, overwrite=True, zarr_format=3, config=WHOLE,
        attributes={ATTRIBUTE: incomplete_record(token)},
    )  # fmt: skip


def clear_at_url(place: str) -> None:
    """Remove the chunks of an output at a URL, which says before that it is not complete.

    Objects are removed in any order, and an output without some of its chunks must not pass for a whole one.
    """
    if "://" not in place:
        return
    try:
        old: Any = zarr.open(place, mode="r+")
    except FileNotFoundError:
        return
    old.attrs.put({ATTRIBUTE: incomplete_record(None)})  # (not the token: nobody is to go on with the old one)
    arrays = [old] if isinstance(old, zarr.Array) else [array for _, array in old.arrays()]
    for array in arrays:
        sync(array.store_path.store.delete_dir(f"{array.path}/c".lstrip("/")))


def zarr_record(place: str) -> Any:
    """Return the record of the Zarr array or group at a path or URL; whatever Zarr raises where none is there."""
    node: Any = zarr.open(place, mode="r")
    return dict(node.attrs).get(ATTRIBUTE)


def token_of(node: zarr.Array[Any] | zarr.Group) -> Any:
    """Return the token of an output that is not complete, None for any other."""
    record = node.attrs.get(ATTRIBUTE)
    return record.get("token") if isinstance(record, dict) else None


def sync_chunk(array: zarr.Array[Any], place: str, index: tuple[int, ...]) -> None:
    """Make a chunk of a local output durable, before the state of a task says that it is written."""
    if "://" in place:
        return
    key = array.metadata.encode_chunk_key(index)
    path = os.path.join(place, *array.path.split("/"), *key.split("/"))
    sync_file(path)
    while len(path) > len(place):
        path = os.path.dirname(path)
        sync_folder(path)


def _aligned(rows: Rows) -> Rows:
    """Return the rows with partitions of equal length, as chunks of an array are, except the last."""
    lengths = np.diff(rows.edges)
    if (lengths[:-1] == lengths[0]).all() and lengths[-1] <= lengths[0]:
        return rows
    # (A multiple of 4096, so that chunks of the output can divide it.)
    edges = regular_edges(rows.X.n_rows, -(-int(lengths.max()) // 4096) * 4096)
    return replace(rows, X=rows.X.rechunked_to(edges), edges=edges)
