"""Rows of a Dask data frame: its own graph, partition by partition as NumPy arrays."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from uuid import uuid4

import dask
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from daskgmm.errors import DataError
from daskgmm.sources.columns import refuse_twice, select_columns
from daskgmm.sources.dask_source import DaskSource
from daskgmm.sources.pandas_frame import common_dtype, labels_of, numbers_of
from daskgmm.sources.source import checked_shape

logger = logging.getLogger("daskgmm")

#: Bytes that a task holds for each byte of the largest partition's numbers while it makes them. Dask keeps each step of
#: a partition until the last one is done, and Arrow the memory that it decoded into (measured on Parquet of 15 to 61
#: MiB a partition: 5 to 8; nullable and filtered up to 10).
_MAKING_FACTOR = 10
#: What a process takes that has loaded Dask's data frames, with pandas, pyarrow, and xarray and numba where these are
#: there (measured: 178 MiB beyond a worker).
_LIBRARY_BYTES = 180 << 20


class DaskFrameSource(DaskSource):
    """Rows of a data frame or a series of Dask, in the order of its partitions. Index and divisions do not matter.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame or Series
    columns : sequence of str or None
        Names of the columns that are the features, in this order, with wildcards; None takes all. Where the frame was
        read from Parquet, no others are read.
    argument : str
        What messages call the input.

    Notes
    -----
    Dask's own way, `to_dask_array`, makes Python objects of Arrow's and nullable numbers, and merges partitions that
    were projected (its issues 12411 and 12193): so the graph is taken with that optimisation switched off, and each
    partition becomes an array by a task of ours, in which Dask fuses what comes before it.

    How long partitions are Dask may know, of Parquet files from their footers; else a pass counts their rows, in one
    of the columns, when their number first counts. (A prediction does not need it.)
    """

    def __init__(self, frame: Any, *, columns: Sequence[str] | None = None, argument: str = "X") -> None:
        if columns is not None:
            frame = select_columns(frame, columns, argument)
        self.label, self._argument, self._graph = "Dask data frame", argument, None
        self.column_labels = labels_of(frame._meta)  # (series of Dask have `columns` too)
        refuse_twice(self.column_labels, argument)
        self.dtype = common_dtype(frame._meta, argument)
        self.n_features = checked_shape((1, *frame._meta.shape[1:]), self.dtype, argument=argument, label=self.label)[1]
        self._frame, self.blocks = frame, _as_array(frame, self.dtype, argument)

    @cached_property
    def _array(self) -> Any:
        import dask.array as da

        argument = self._argument
        if self._known_lengths is None:
            logger.info("%s is a Dask data frame of unknown lengths: one pass counts its rows.", argument)
        logger.info("%s is a Dask data frame: it is computed again in each pass, unless it is persisted.", argument)
        lengths, array = self._known_lengths or _counted(self._frame), self.blocks
        return da.Array(array.dask, array.name, (lengths, *array.chunks[1:]), dtype=array.dtype, meta=array._meta)

    @cached_property
    def _known_lengths(self) -> tuple[int, ...] | None:
        """Lengths of the partitions, where Dask knows them without computing anything; it reads footers of Parquet."""
        try:
            from dask.dataframe.dask_expr._expr import Lengths, Literal

            found = Lengths(self._frame.expr).simplify()
            lengths = tuple(int(n) for n in found.value) if isinstance(found, Literal) else ()
        except (ImportError, AttributeError, TypeError, ValueError):  # (that is not in Dask's open interface)
            return None
        return lengths if len(lengths) == self.blocks.numblocks[0] else None

    @cached_property
    def n_counting_passes(self) -> int:  # type: ignore[override]
        return int(self._known_lengths is None)

    def read_bytes(self, n_bytes: int) -> int:
        # (Blocks wait while the next one is made.)
        return n_bytes + _MAKING_FACTOR * min(n_bytes, self.chunk_bytes) + _LIBRARY_BYTES

    def rechunking(self, chunks: str) -> str:
        # (Not repartition: that takes whole partitions apart.)
        return (
            "make X of smaller partitions, such as dask.dataframe.read_parquet(path, blocksize='16MiB') has; or give "
            "the path of its Parquet files, which are read bit by bit."
        )

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kind": "dask frame", "columns": self.column_labels}


def _as_array(frame: Any, dtype: np.dtype[Any], argument: str) -> Any:
    """Return the numbers of a data frame as a Dask array, a block of unknown length for each partition."""
    import dask.array as da

    graph, keys = _graph_of(frame)
    name, names = f"daskgmm-frame-{uuid4().hex}", list(frame.columns) if frame.ndim == 2 else None
    n_columns = () if names is None else (len(names),)
    for i, key in enumerate(keys):
        own = (name, i, *(0 for _ in n_columns))
        graph[own] = Task(own, _numbers, TaskRef(key), names, dtype, argument)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=())
    chunks = ((math.nan,) * len(keys), *((n,) for n in n_columns))
    return da.Array(layers, name, chunks, dtype=dtype, meta=np.empty((0,) * len(chunks), dtype))


def _graph_of(frame: Any) -> tuple[dict[Any, Any], list[Any]]:
    """Return the graph of a data frame, optimised, and a key for each of its partitions."""
    # Partitions that were projected would be merged: their number and their lengths would not be the frame's.
    with dask.config.set({"optimization.tune.active": False}):
        optimised = frame.optimize()
        return dict(optimised.__dask_graph__()), list(optimised.__dask_keys__())


def _numbers(part: Any, names: list[Any] | None, dtype: np.dtype[Any], argument: str) -> NDArray[Any]:
    """Return a partition as numbers: what a task does."""
    found = list(part.columns) if hasattr(part, "columns") else None
    if found != names:
        raise DataError(
            f"Partitions of `{argument}`",
            f"have the columns that the data frame declares, {names}",
            f"one with {found}",
            "Correct what makes them, or its `meta`.",
        )
    common_dtype(part, argument)
    return numbers_of(part, dtype, argument)


def _counted(frame: Any) -> tuple[int, ...]:
    """Return the lengths of the partitions of a data frame, which is computed, but for all columns but one."""
    graph, keys = _graph_of(frame[[frame.columns[0]]] if frame.ndim == 2 else frame)
    together = f"daskgmm-lengths-{uuid4().hex}"
    for i, key in enumerate(keys):
        graph[together, i] = Task((together, i), len, TaskRef(key))
    graph[f"{together}-all"] = Task(f"{together}-all", tuple, List(*(TaskRef((together, i)) for i in range(len(keys)))))
    lengths: tuple[int, ...] = Delayed(f"{together}-all", graph).compute()
    return lengths
