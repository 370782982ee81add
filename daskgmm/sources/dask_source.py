"""Rows of a Dask array: the user's own graph, extended; computed again in each pass."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from dask.base import optimize
from dask.core import flatten, get_dependencies
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, TaskRef
from numpy.typing import NDArray

from daskgmm.errors import DataError, verbatim
from daskgmm.sources.columns import without_columns
from daskgmm.sources.source import Source, checked_shape

logger = logging.getLogger("daskgmm")


class DaskSource(Source):
    """Rows of a Dask array.

    Parameters
    ----------
    array : dask.array.Array
        Of shape (n_rows, n_features) or (n_rows,); its chunks may be unknown along rows.
    argument : str
        What messages call the input.
    """

    decodes = streams = False

    def __init__(self, array: Any, *, argument: str = "X") -> None:
        self.label, self._argument = "Dask array", argument
        self.n_features, self.dtype = checked_array(array, argument), np.dtype(array.dtype)
        array = as_dask_array(array)
        # The source keeps the array for as long as it lives: with it, the futures of a persisted one.
        self.blocks, self.n_counting_passes = array, int(math.isnan(array.shape[0]))
        self._graph: dict[Any, Any] | None = None

    @cached_property
    def _array(self) -> Any:
        """The array with one block of columns and known chunks; computed once, here, where nobody knows them."""
        array = _with_known_rows(self.blocks, self._argument)
        logger.info("%s is a Dask array: it is computed again in each pass, unless it is persisted.", self._argument)
        return array

    @cached_property
    def n_rows(self) -> int:  # type: ignore[override]  # (known without computing anything, or not)
        return checked_shape(self._array.shape, self.dtype, argument=self._argument, label=self.label)[0]

    @property
    def _row_lengths(self) -> NDArray[np.int64]:
        return np.asarray(self._array.chunks[0], dtype=np.int64)

    @property
    def chunk_edges(self) -> NDArray[np.int64]:
        # Blocks without rows (a selection may leave some) are no chunks, and nobody asks for them.
        lengths = self._row_lengths
        return np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64)

    def read_bytes(self, n_bytes: int) -> int:
        # (Nothing is decoded here. But sparse blocks are held beside the dense ones that they become: a number with its
        # place takes 12 to 24 bytes, so that those of which two in three are there take twice as much.)
        return n_bytes if isinstance(getattr(self.blocks, "_meta", None), np.ndarray) else 3 * n_bytes

    def without(self, features: Sequence[int]) -> str:
        named = without_columns(self.column_labels, features)
        return named or f"Leave such features out: X = dask.array.delete(X, {list(features)}, axis=1)."

    def rechunking(self, chunks: str) -> str:
        return f"rechunk: X = X.rechunk({chunks})"

    def arguments(self, bounds: list[tuple[int, int]]) -> tuple[dict[str, Any], list[Any]]:
        """Return the graph that computes the blocks of `bounds`, no others, and a list of them for each range."""
        optimised, keys = self._optimised()
        edges = self.chunk_edges
        arguments, needed = [], []
        for start, stop in bounds:
            first, last = np.searchsorted(edges, [start, stop])
            wanted = keys[first:last]
            needed.extend(wanted)
            arguments.append(List(*(TaskRef(key) for key in wanted)))
        graph = optimised if len(needed) == len(keys) else _culled(optimised, needed)
        return dict(graph), arguments

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kind": "dask", "location": None}

    def rechunked_to(self, edges: NDArray[np.int64]) -> DaskSource:
        """Return the same rows with chunks that begin at `edges`, (n_chunks + 1,), int64; nothing is computed."""
        if np.array_equal(edges, self.chunk_edges):
            return self
        if edges[0] != 0 or edges[-1] != self.n_rows or np.any(np.diff(edges) <= 0):
            raise DataError(
                "Edges",
                f"increase from 0 to the {self.n_rows} rows of the {verbatim(self.label)}",
                f"edges from {edges[0]} to {edges[-1]}",
                "Give inputs of equal length.",
            )
        source = object.__new__(type(self))
        source.__dict__.update(self.__dict__)
        source._array = self._array.rechunk({0: tuple(int(n) for n in np.diff(edges))})
        source._graph = None
        return source

    def _optimised(self) -> tuple[dict[Any, Any], list[Any]]:
        """Return the optimised graph and the keys of its non-empty row blocks; made once, as it may be large."""
        if self._graph is None:
            # Arrays with query planning optimise themselves; `dask.optimize` fails on them (dask 2026.8).
            array = self._array.optimize() if hasattr(self._array, "optimize") else optimize(self._array)[0]
            self._graph = dict(array.__dask_graph__())
            # `optimize` keeps the keys of the array that it was given.
            self._keys = [row[0] if self._array.ndim == 2 else row for row in array.__dask_keys__()]
            self._keys = [key for key, n in zip(self._keys, self._row_lengths, strict=True) if n > 0]
        return self._graph, self._keys


def is_dask_array(data: Any) -> bool:
    """Return whether something is an array of Dask, of whatever package. (By its type: delayed objects have it all.)"""
    kind = type(data)
    found = all(hasattr(kind, name) for name in ("__dask_graph__", "__dask_keys__", "chunks", "dtype"))
    return found and not hasattr(kind, "to_numpy")  # (which arrays of xarray have)


def as_dask_array(array: Any) -> Any:
    """Return an array of another package than Dask as one of Dask's: its optimised graph, and its keys."""
    import dask.array as da

    if isinstance(array, da.Array):
        return array
    optimised = array.optimize() if hasattr(array, "optimize") else array
    name = next(flatten(optimised.__dask_keys__()))[0]
    layers = HighLevelGraph.from_collections(name, dict(optimised.__dask_graph__()), dependencies=())
    meta = getattr(array, "_meta", None)
    return da.Array(layers, name, optimised.chunks, dtype=array.dtype, meta=meta)


def checked_array(array: Any, argument: str) -> int:
    """Return the number of features of a Dask array of rows; its chunks may be unknown along rows.

    Raises
    ------
    DataError
        No mixture can be fitted to such an array.
    """
    if any(math.isnan(n) for n in array.shape[1:]):
        raise DataError(
            f"`{argument}`",
            "have a known number of features",
            f"shape {array.shape} in a Dask array",
            "Call its compute_chunk_sizes() first.",
        )
    shape = tuple(1 if math.isnan(n) else int(n) for n in array.shape)
    return checked_shape(shape, np.dtype(array.dtype), argument=argument, label="Dask array")[1]


def _with_known_rows(array: Any, argument: str) -> Any:
    """Return the array with one block of columns and known chunks."""
    if array.ndim == 2 and len(array.chunks[1]) > 1:
        array = array.rechunk({1: -1})
    if not math.isnan(array.shape[0]):
        return array
    logger.info("%s is a Dask array of unknown chunk sizes: one pass counts its rows.", argument)
    # A copy, because counting changes the array in place, and this one is the user's.
    return (array.copy() if hasattr(array, "copy") else array).compute_chunk_sizes()


def _culled(graph: dict[Any, Any], keys: list[Any]) -> dict[Any, Any]:
    """Return the part of a graph that `keys` need; keys outside it (futures of a persisted array) are let be."""
    kept: dict[Any, Any] = {}
    todo = list(keys)
    while todo:
        key = todo.pop()
        if key in graph and key not in kept:
            kept[key] = graph[key]
            todo.extend(get_dependencies(graph, key))
    return kept
