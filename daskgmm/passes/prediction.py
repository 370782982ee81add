"""Predictions for rows: at once for an array in memory, lazily for anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT
from dask.task_spec import DataNode, Task, TaskRef
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError
from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.gap_bytes import derived_bytes, gap_bytes
from daskgmm.kernels.prediction import Predictor
from daskgmm.kernels.tile import buffer_bytes
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.memory import check_machine, check_own_memory
from daskgmm.passes.need import Need, takes_compiled_kernel
from daskgmm.passes.rows import Cut, Rows, blocks, check_of, cuts
from daskgmm.passes.travel import check_travel
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.dask_source import DaskSource
from daskgmm.sources.partition import PARTITION_BYTES, Edges, partition_edges, runs_of
from daskgmm.sources.source import Reader, Source, as_reader, other_length, plain_rows

if TYPE_CHECKING:
    import dask.array as da


def predict_rows(
    X: Source, predictor: Predictor, *, non_finite: str, columns: Mapping[str, Source] | None = None
) -> Any:
    """Return the prediction for a source: of an array in memory at once, of anything else a Dask array.

    `columns` are what else comes with each row, for a kernel that knows it.
    """
    if X.array is not None:
        with for_passes(None):
            beside = {} if not columns else Rows.plan(X, None, columns).columns
            readers = {name: as_reader([_in_memory(each)], 0) for name, each in beside.items()}
            return predict_array(X.array, predictor, non_finite=non_finite, beside=readers)
    if columns:
        return predict_source(X, predictor, non_finite=non_finite, columns=columns)
    if X.blocks is not None:
        return predict_blocks(X.blocks, predictor, non_finite=non_finite)
    return predict_source(X, predictor, non_finite=non_finite)


def _in_memory(source: Source) -> NDArray[Any]:
    """Return all values of a column, for rows that are in memory too."""
    if source.array is not None:
        return plain_rows(source.array)
    if source.blocks is not None:
        return plain_rows(source.blocks.compute())
    return source.reader().read(0, source.n_rows)


def predict_array(
    X: NDArray[Any], predictor: Predictor, *, non_finite: str, beside: Mapping[str, Reader] | None = None
) -> NDArray[Any]:
    """Return the prediction for rows in memory, (n_rows,) or (n_rows, n_components), by as many threads as cores.

    Beside the result each thread holds one block.
    """
    predictor, n_rows, X = with_kernel(predictor, len(X)), len(X), plain_rows(X)
    plan = predictor.plan
    size = plan.shape, plan.n_components, X.shape[1]
    of_thread, of_plan = buffer_bytes(*size), 0
    if non_finite == "marginalize":
        of_thread, of_plan = of_thread + gap_bytes(*size), derived_bytes(*size)
    needed = predictor.n_bytes(n_rows) + of_plan + CPU_COUNT * of_thread
    check_machine(needed, ArraySource(X), what="The prediction", remedy="Predict fewer rows at once.")
    result, reader = predictor.empty(n_rows), as_reader([X], 0)
    # (Edges that lie on those of blocks.)
    starts = np.append(np.arange(0, n_rows, 8192), n_rows)
    edges = partition_edges(starts, row_bytes=_widest(X, predictor), travels=False)

    def part(start: int, stop: int) -> None:
        _predict(
            Cut(0, (start, stop), X.shape[1], check_of(non_finite), False),
            reader,
            predictor,
            non_finite,
            result[start:stop],
            beside,
        )

    if len(edges) == 2:
        part(0, n_rows)
        return result
    with ThreadPoolExecutor(CPU_COUNT, thread_name_prefix="daskgmm-predict") as threads:
        for done in [threads.submit(part, a, b) for a, b in pairwise(edges.tolist())]:
            done.result()
    return result


def with_kernel(predictor: Predictor, n_rows: float) -> Predictor:
    """Return the predictor as so many rows call for: with the compiled kernel or without."""
    plan = predictor.plan
    compiled = takes_compiled_kernel(n_rows, plan.shape, plan.n_components, plan.means.shape[1])
    return replace(predictor, plan=replace(plan, compiled=compiled))


def _widest(X: NDArray[Any] | Source | da.Array, predictor: Predictor) -> int:
    """Return the bytes of a row or of its prediction, whichever takes more."""
    n_features = X.n_features if isinstance(X, Source) else X.shape[1]
    return max(int(n_features * X.dtype.itemsize), predictor.dtype.itemsize * (predictor.n_columns or 1))


def _predict(
    cut: Cut,
    reader: Reader,
    predictor: Predictor,
    non_finite: str,
    out: NDArray[Any],
    beside: Mapping[str, Reader] | None = None,
) -> None:
    """Write the prediction for the rows of one partition."""
    start, work = cut.runs[0], Workspace()
    if getattr(predictor, "on_card", False):
        _predict_on_card(cut, reader, predictor, non_finite, out)
        return
    for block in blocks(cut, reader, beside):
        refuse_dropped(block, non_finite, predictor)
        low = block.first_row - start
        predictor.predict(block, out[low : low + block.x.shape[1]], work)


def _predict_on_card(cut: Cut, reader: Reader, predictor: Any, non_finite: str, out: NDArray[Any]) -> None:
    from daskgmm.passes import card, card_rows  # (CuPy comes with the card alone)

    start, here = cut.runs[0], card.the_card()
    with here.explained():
        for block in card_rows.card_blocks(cut, reader, {}, here):
            low = block.first_row - start
            refuse_row(predictor.predict_block(block, out[low : low + len(block.stored)]), non_finite)


def refuse_dropped(block: Block, non_finite: str, predictor: Predictor) -> None:
    """Raise a DataError for rows with NaN or infinity, unless they are to be dropped."""
    if block.non_finite is not None:
        row = block.first_row + int(np.argmax(block.non_finite))
        refuse_row(row, non_finite, gaps=predictor.what not in ("denoise", "features"))


def refuse_row(row: int | None, non_finite: str, *, gaps: bool = True) -> None:
    """Raise a DataError for the first row with NaN or infinity, None without one, unless these are to be dropped.

    `gaps` says whether rows may have them, for what is asked.
    """
    if row is not None and non_finite == "error":
        raise DataError(
            "`X`",
            "be finite",
            f"NaN or infinity in row {row}, where counting begins with 0",
            "Take `non_finite='drop' (by set_params)`: such rows get the label -1, or NaN."
            + (
                " With `non_finite='marginalize'` a NaN is a missing value, and the rest of its row counts."
                if gaps
                else ""
            ),
        )


def predict_blocks(X: da.Array, predictor: Predictor, *, non_finite: str) -> da.Array:
    """Return the lazy prediction for a Dask array, in its own chunks, which may be unknown; computes nothing.

    Chunks whose prediction would take more than 64 MiB are split. Of unknown chunks nobody knows what they take.
    """
    import dask.array as da  # (it loads pandas and more, which a worker that writes predictions need not)

    if X.ndim == 2 and len(X.chunks[1]) > 1:
        X = X.rechunk({1: -1})
    rows = X if X.ndim == 2 else X[:, np.newaxis]
    predictor, n_columns = with_kernel(predictor, rows.shape[0]), predictor.n_columns
    edges, row_bytes = np.append(0, np.cumsum(rows.chunks[0])), _widest(rows, predictor)
    if np.diff(edges).max() * row_bytes > PARTITION_BYTES:  # (unknown chunks are NaN, and stay)
        pieces = [np.arange(a, b, PARTITION_BYTES // row_bytes) for a, b in pairwise(edges.tolist())]
        rows = rows.rechunk({0: tuple(np.diff([*np.concatenate(pieces), edges[-1]]).tolist())})
    if not np.isnan(rows.shape[0]) and len(rows):
        source = DaskSource(rows)
        _check_memory(replace(Rows.plan(source, None).checked(non_finite), edges=source.chunk_edges), predictor)
    chunks = (rows.chunks[0],) if n_columns is None else (rows.chunks[0], (n_columns,))
    result: da.Array = da.map_blocks(
        _predict_block,
        rows,
        predictor,
        non_finite,
        dtype=predictor.dtype,
        chunks=chunks,
        drop_axis=1 if n_columns is None else None,
        meta=np.empty((0,) * len(chunks), dtype=predictor.dtype),
    )
    return result


def predict_source(
    X: Source, predictor: Predictor, *, non_finite: str, columns: Mapping[str, Source] | None = None
) -> da.Array:
    """Return the lazy prediction for a stored source in chunks of at most some 64 MiB; reads nothing."""
    import dask.array as da  # (as above)

    executor = current_executor(travels=X.travels)
    if not X.travels and isinstance(executor, ClientExecutor):
        raise OptionError(
            "`X`",
            "be readable by the workers of the current client",
            f"{X.label}, which only this process can read",
            "Predict on dask.array.from_array(X), or store `X` at a path or URL.",
        )
    columns = columns or {}
    check_travel([X, *columns.values()], executor)
    rows, predictor = Rows.plan(X, None, columns).checked(non_finite), with_kernel(predictor, X.n_rows)
    rows = rows.recut(_bounded_edges(rows, predictor))
    _check_memory(rows, predictor)
    name = f"daskgmm-predict-{uuid4().hex}"
    bounds = [(int(a), int(b)) for a, b in zip(rows.edges[:-1], rows.edges[1:], strict=True)]
    nodes, arguments = X.arguments(bounds)
    names, beside = tuple(rows.columns), list[list[Any]]()
    for column in rows.columns.values():
        more, each = column.arguments(bounds)
        nodes, beside = {**nodes, **more}, [*beside, each]
    graph: dict[Any, Any] = {**nodes, f"{name}-predictor": DataNode(f"{name}-predictor", predictor)}
    for cut, argument, *own in zip(cuts(rows), arguments, *beside, strict=True):
        key = (name, cut.index) if predictor.n_columns is None else (name, cut.index, 0)
        graph[key] = Task(key, _predict_task, cut, argument, TaskRef(f"{name}-predictor"), non_finite, names, *own)
    chunks: tuple[tuple[int, ...], ...] = (tuple(int(n) for n in np.diff(rows.edges)),)
    if predictor.n_columns is not None:
        chunks = (*chunks, (predictor.n_columns,))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=())
    return da.Array(layers, name, chunks, dtype=predictor.dtype)


def _check_memory(rows: Rows, predictor: Predictor) -> None:
    """Raise a MemoryLimitError where this process would take more memory than there is; reads nothing."""
    held, plan = predictor.n_bytes(int(np.diff(rows.edges).max())), predictor.plan
    need = Need(plan.shape, plan.n_components, extra_bytes=held, compiled=plan.compiled, given=True)
    check_own_memory(rows, need, current_executor(travels=rows.travels))


def _bounded_edges(rows: Rows, predictor: Predictor) -> Edges:
    """Return the edges of the partitions, or closer ones where a prediction would take more than 64 MiB."""
    row_bytes = _widest(rows.X, predictor)
    if np.diff(rows.edges).max() * row_bytes <= PARTITION_BYTES:
        return rows.edges
    (edges,) = runs_of(rows.X.chunk_edges, rows.edges[[0, -1]], row_bytes=row_bytes)
    return np.array(edges[:])


def _predict_task(
    cut: Cut, argument: Any, predictor: Predictor, non_finite: str, names: Sequence[str], *beside: Any
) -> NDArray[Any]:
    result = predictor.empty(cut.runs[-1] - cut.runs[0])
    readers = {name: as_reader(each, cut.runs[0]) for name, each in zip(names, beside, strict=True)}
    with blas_limit.held():  # (threads of BLAS beside those of Dask take 1.7 times as long)
        _predict(cut, as_reader(argument, cut.runs[0]), predictor, non_finite, result, readers)
    return result


def _predict_block(X: Any, predictor: Predictor, non_finite: str, block_info: Any = None) -> NDArray[Any]:
    X = plain_rows(X)
    start, stop = block_info[0]["array-location"][0]  # (Dask says it; NaN where nobody knows)
    if len(X) != stop - start and not np.isnan(stop - start):
        raise other_length(start, start + len(X), start, stop)
    result = predictor.empty(len(X))
    if len(X):  # a selection may leave blocks of a Dask array without rows
        with blas_limit.held():
            n_features = predictor.plan.means.shape[1]  # (blocks may be others than a Dask array declares)
            cut = Cut(0, (0, len(X)), n_features, check_of(non_finite), False)
            _predict(cut, as_reader([X], 0), predictor, non_finite, result)
    return result
