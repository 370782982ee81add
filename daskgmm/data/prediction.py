"""Predictions for rows: at once for an array in memory, lazily for anything else."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, Task, TaskRef
from numpy.typing import NDArray

from daskgmm.data.executor import ClientExecutor, current_executor
from daskgmm.data.rows import Cut, Rows, blocks, cuts
from daskgmm.data.source import Reader, Source, as_reader
from daskgmm.errors import DataError, OptionError
from daskgmm.mixture.block import Block, Workspace
from daskgmm.mixture.prediction import Predictor


def predict_array(X: NDArray[Any], predictor: Predictor, *, non_finite: str) -> NDArray[Any]:
    """Return the prediction for rows in memory, (n_rows,) or (n_rows, n_components), holding one block at a time."""
    cut = Cut(0, (0, len(X)), X.shape[1] if X.ndim == 2 else 1, "scan", False)
    return predict_partition(cut, as_reader([X], 0), predictor, non_finite)


def predict_partition(cut: Cut, reader: Reader, predictor: Predictor, non_finite: str) -> NDArray[Any]:
    """Return the prediction for the rows of one partition."""
    start, work = cut.runs[0], Workspace()
    result = predictor.empty(cut.runs[-1] - start)
    if not len(result):
        return result  # a selection may leave blocks of a Dask array without rows
    for block in blocks(cut, reader, None):
        refuse_dropped(block, non_finite)
        low = block.first_row - start
        predictor.predict(block, result[low : low + block.x.shape[1]], work)
    return result


def refuse_dropped(block: Block, non_finite: str) -> None:
    """Raise a DataError for rows with NaN or infinity, unless they are to be dropped."""
    if block.dropped is not None and non_finite == "error":
        row = block.first_row + int(np.argmax(block.dropped))
        raise DataError(
            f"X must be finite; got NaN or infinity in row {row}, where counting begins with 0. Predict with "
            "non_finite='drop' (--non-finite drop): such rows get the label -1, or NaN."
        )


def predict_blocks(X: da.Array, predictor: Predictor, *, non_finite: str) -> da.Array:
    """Return the lazy prediction for a Dask array, in its own chunks, which may be unknown; computes nothing."""
    if X.ndim == 2 and len(X.chunks[1]) > 1:
        X = X.rechunk({1: -1})
    rows = X if X.ndim == 2 else X[:, np.newaxis]
    n_columns = predictor.n_columns
    chunks = (rows.chunks[0],) if n_columns is None else (rows.chunks[0], (n_columns,))
    result: da.Array = da.map_blocks(
        predict_array,
        rows,
        predictor,
        non_finite=non_finite,
        dtype=predictor.dtype,
        chunks=chunks,
        drop_axis=1 if n_columns is None else None,
        meta=np.empty((0,) * len(chunks), dtype=predictor.dtype),
    )
    return result


def predict_source(X: Source, predictor: Predictor, *, non_finite: str) -> da.Array:
    """Return the lazy prediction for a stored source, one chunk a partition; reads nothing."""
    if not X.travels and isinstance(current_executor(), ClientExecutor):
        raise OptionError(
            f"X must be readable by the workers of the current client; got {X.label}, which only this process can "
            "read. Predict on dask.array.from_array(X), or store X at a path or URL."
        )
    rows = Rows.plan(X, None)
    name = f"daskgmm-predict-{uuid4().hex}"
    nodes, arguments = X.arguments([(int(a), int(b)) for a, b in zip(rows.edges[:-1], rows.edges[1:], strict=True)])
    graph: dict[Any, Any] = {**nodes, f"{name}-predictor": DataNode(f"{name}-predictor", predictor)}
    for cut, argument in zip(cuts(rows), arguments, strict=True):
        key = (name, cut.index) if predictor.n_columns is None else (name, cut.index, 0)
        graph[key] = Task(key, _predict_task, cut, argument, TaskRef(f"{name}-predictor"), non_finite)
    chunks: tuple[tuple[int, ...], ...] = (tuple(int(n) for n in np.diff(rows.edges)),)
    if predictor.n_columns is not None:
        chunks = (*chunks, (predictor.n_columns,))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=())
    return da.Array(layers, name, chunks, dtype=predictor.dtype)


def _predict_task(cut: Cut, argument: Any, predictor: Predictor, non_finite: str) -> NDArray[Any]:
    return predict_partition(cut, as_reader(argument, cut.runs[0]), predictor, non_finite)
