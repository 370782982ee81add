"""Predictions written as a Zarr array aligned to the input's rows: a pass that writes, one writer a chunk.

What is written stands beside the output until it is whole. With a `Saved` a later process finds it there, and goes on
with the parts of the pass that were not done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from daskgmm.errors import DataError, OutputError
from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.prediction import Predictor, What
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.passes.current import current_executor, one_blas_thread
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.need import Need
from daskgmm.passes.prediction import refuse_dropped, with_kernel
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import Memory, Passes
from daskgmm.sources.credentials import shown
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.source import Source, regular_edges
from daskgmm.sources.stamps import file_stamp
from daskgmm.stores.storage import plain_path, storage_at, sync_file, sync_folder
from daskgmm.stores.writing import explained, publish, remove_unfinished, unfinished_place

#: Bytes of an output chunk, which a task holds until it is full; fewer where the partition is smaller.
CHUNK_BYTES = 32 << 20
ATTRIBUTE = "daskgmm"
#: A chunk of zeros is written too: one that is missing is one that was not written.
WHOLE: Any = {"write_empty_chunks": True}

logger = logging.getLogger("daskgmm")


class Saved(Memory, Protocol):
    """What survives the process; `daskgmm.stores.checkpoint` is one."""

    def get(self, name: str) -> Any:
        """Return a value, None where there is none."""

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep values, and let go of the parts of passes."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    n_rows, n_dropped : int
        Rows predicted, and rows that got -1 or NaN because they hold a NaN or an infinity.
    counts : tuple of int
        Rows by component; empty unless labels were written.
    """

    n_rows: int
    n_dropped: int
    counts: tuple[int, ...]
    bytes_read: int
    seconds: float
    output: str
    n_passes: int = 1


def write_predictions(
    parameters: Parameters,
    X: Source,
    output: str,
    *,
    what: What,
    record: dict[str, Any],
    result: Callable[[Written], Mapping[str, Any]] | None = None,
    non_finite: str = "error",
    executor: Executor | None = None,
    saved: Saved | None = None,
) -> Written:
    """Return what was written: predictions for all rows of X, (n_rows,) or (n_rows, n_components), in bounded memory.

    Labels are int32, responsibilities and log-densities (nats) float64. A local output is written beside its place
    and renamed when it is complete; at a URL its attribute says complete at the end.

    Parameters
    ----------
    output : str
        Path or URL of the Zarr array; what is there is replaced.
    record : dict
        JSON that identifies input, model and options; kept in the attributes.
    result : callable, optional
        Gives what the attributes are to say as "result"; called when all rows are written, and none is in its place.
    saved : Saved, optional
        Where to find, and to leave, what is done where this is cut short. It is of this input, model and output.

    Raises
    ------
    DataError
        A row with NaN or infinity, unless they are to be dropped.
    OutputError
        The output cannot be written.
    """
    began = perf_counter()
    if executor is None:
        executor = current_executor(travels=X.travels)
    predictor = Predictor.of(parameters, what)
    rows, _ = promise_memory(*plan_predictions(predictor, X), executor)
    try:
        with explained(output):
            array, token = _array(output, predictor, rows, saved)
            place, chunk_rows = unfinished_place(output, token), int(array.chunks[0])
            with one_blas_thread(executor), Passes(rows, executor, memory=saved) as passes:
                work = WritePass(with_kernel(predictor, X.n_rows), place, token, chunk_rows, non_finite)
                _ = passes.files  # (as they are before anything is read)
                state = passes.run(work, name="write")
                passes.check_files(None)
            n_rows, counts = sum(state.counts), state.counts if what == "label" else ()
            check_all_rows(X, n_rows + state.n_dropped)
            written = Written(n_rows, state.n_dropped, counts, rows.n_bytes, perf_counter() - began, output)
            found = {} if result is None else {"result": dict(result(written))}
            array.attrs.put({ATTRIBUTE: {"complete": True, **record, **found}})
            if place != plain_path(output):
                publish(place, os.path.abspath(plain_path(output)))
    except BaseException as error:
        if saved is None or isinstance(error, DataError):  # (rows that are mended are others)
            remove_unfinished(output, after_seconds=(0.0, 0.1, 0.4))
        raise
    remove_unfinished(output)
    return written


def check_all_rows(X: Source, n_rows: int) -> None:
    """Raise a DataError unless a pass counted the rows of the input."""
    if n_rows != X.n_rows:
        raise DataError(
            "every row",
            "be counted once in a pass",
            f"{n_rows} of {X.n_rows} rows of {X.label}",
            "Start again, on a copy that nobody writes to.",
        )


def plan_predictions(predictor: Predictor, X: Source) -> tuple[Rows, Need]:
    """Return the rows as the writing pass goes over them, and what it needs beside them; nothing is read."""
    rows = _aligned(Rows.plan(X, None))
    # A task holds the chunk being filled, and its encoded bytes while it is written.
    held = 2 * _chunk_rows(predictor, rows) * _stored_row_bytes(predictor)
    plan = with_kernel(predictor, X.n_rows).plan
    return rows, Need(plan.shape, plan.n_components, extra_bytes=held, compiled=plan.compiled, by_partition=True)


def prediction_record(output: str) -> dict[str, Any] | None:
    """Return the record of the predictions that stand at `output`, None where nothing does.

    Raises
    ------
    OutputError
        Something else stands there.
    """
    output = plain_path(output)
    try:
        for name in () if "://" in output else ("zarr.json", ".zarray"):
            file_stamp(os.path.join(output, name))  # (a pipe would never answer)
        attributes = dict(zarr.open_array(output, mode="r").attrs)
    except FileNotFoundError:
        # (All that is below an output is removed when it is written anew: at a URL too it must be ours.)
        if storage_at(output).names() if "://" in output else os.path.exists(output):
            raise _other(output) from None
        return None
    except Exception as error:
        if "://" in output and (refused(error) or unreachable(error)):
            raise OutputError(
                "the output",
                "be reachable, to see what is there",
                f"{error} for {shown(output)}",
                "Check the address, the network and the credentials.",
            ) from error
        # Whatever a file that is no Zarr array makes Zarr raise.
        raise _other(output) from error
    record = attributes.get(ATTRIBUTE)
    if not isinstance(record, dict):
        raise _other(output)
    return record


@dataclass(frozen=True)
class Progress(Record):
    """The state of the writing pass; `held` is the chunk being filled; neither it nor the buffers leave a partition.

    `counts` are the rows predicted, by component where labels are written.
    """

    n_dropped: int
    counts: tuple[int, ...]
    held: NDArray[Any] | None = None
    first_row: int = 0
    filled: int = 0
    work: Workspace | None = None


class WritePass:
    """The pass that writes predictions: each task fills and writes the chunks of its own partition.

    Parameters
    ----------
    token : str
        Which array at the place is meant: a task that was given up must not write into another one.
    """

    def __init__(self, predictor: Predictor, place: str, token: str, chunk_rows: int, non_finite: str) -> None:
        self._predictor, self._place, self._token = predictor, place, token
        self._chunk_rows, self._non_finite = chunk_rows, non_finite
        self._n_counts = predictor.plan.n_components if predictor.what == "label" else 1

    def zero(self) -> Progress:
        return Progress(0, (0,) * self._n_counts, work=Workspace())

    def update(self, state: Progress, block: Block) -> Progress:
        refuse_dropped(block, self._non_finite)
        n_rows = block.x.shape[1]
        found = self._predictor.empty(n_rows)
        self._predictor.predict(block, found, state.work or Workspace())
        n_dropped = state.n_dropped + n_rows - block.n_rows
        seen = [block.n_rows]
        if self._predictor.what == "label":
            seen = np.bincount(found[found >= 0], minlength=self._n_counts).tolist()
        counts = tuple(int(a + b) for a, b in zip(state.counts, seen, strict=True))
        state = replace(state, n_dropped=n_dropped, counts=counts)
        if state.held is None:
            held = self._predictor.empty(self._chunk_rows).astype(_stored_dtype(self._predictor))
            state = replace(state, held=held, first_row=block.first_row, filled=0)
        taken = 0
        while taken < n_rows:
            n = min(n_rows - taken, self._chunk_rows - state.filled)
            if state.held is not None:
                state.held[state.filled : state.filled + n] = found[taken : taken + n]
            state, taken = replace(state, filled=state.filled + n), taken + n
            if state.filled == self._chunk_rows:
                state = self._flush(state)
        return state

    def finish(self, state: Progress) -> Progress:
        return replace(self._flush(state) if state.filled else state, held=None, work=None)

    def merge(self, state: Progress, other: Progress) -> Progress:
        counts = tuple(a + b for a, b in zip(state.counts, other.counts, strict=True))
        return Progress(state.n_dropped + other.n_dropped, counts)

    def _flush(self, state: Progress) -> Progress:
        stop = state.first_row + state.filled
        if state.held is not None:
            array = zarr.open_array(self._place, mode="r+").with_config(WHOLE)
            if _token_of(array) != self._token:
                raise OutputError(
                    "the output",
                    "be written by one process alone",
                    f"another that writes to {self._place}",
                    "Stop one of them, and run the other again.",
                )
            array[state.first_row : stop] = state.held[: state.filled]
            if "://" not in self._place:
                # Before the task's state says so, it is on disk.
                _sync_chunk(array, self._place, state.first_row // self._chunk_rows)
        return replace(state, first_row=stop, filled=0)


def _stored_dtype(predictor: Predictor) -> np.dtype[Any]:
    return np.dtype(np.int32) if predictor.what == "label" else np.dtype(np.float64)


def _array(output: str, predictor: Predictor, rows: Rows, saved: Saved | None) -> tuple[zarr.Array[Any], str]:
    """Return the array to write to, and its token: the one that an earlier process left, or a new one."""
    token = None if saved is None else saved.get("array")
    if isinstance(token, str) and token.isalnum():
        place = unfinished_place(output, token)
        try:
            array = zarr.open_array(place, mode="r+")
        except (OSError, ValueError):  # it was removed
            pass
        else:
            if _token_of(array) == token and (array.shape, array.chunks) == _layout(predictor, rows):
                logger.info("Going on with %s.", place)
                return array, token
    remove_unfinished(output)
    token = uuid4().hex
    if saved is not None:
        saved.put({"array": token})
    shape, chunks = _layout(predictor, rows)
    place = unfinished_place(output, token)
    if "://" not in place:
        os.makedirs(os.path.dirname(place), exist_ok=True)
    array = incomplete_array(place, shape=shape, chunks=chunks, dtype=_stored_dtype(predictor), token=token)
    return array, token


def incomplete_array(
    place: str, *, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, token: str | None = None
) -> zarr.Array[Any]:
    """Return a new array that says from its first object on that it is not complete; what is there is replaced.

    At a URL the old array says so too before any of it goes: objects are removed in any order, and one without some of
    its chunks must not pass for a whole one.
    """
    record: Any = {"complete": False} if token is None else {"complete": False, "token": token}
    if "://" in place and prediction_record(place) is not None:
        old = zarr.open_array(place, mode="r+")
        old.attrs.put({ATTRIBUTE: {"complete": False}})  # (not the token: nobody is to go on with the old one)
        sync(old.store_path.store.delete_dir("c"))
    return zarr.create_array(
        place, shape=shape, chunks=chunks, dtype=dtype, overwrite=True, zarr_format=3, config=WHOLE,
        attributes={ATTRIBUTE: record},
    )  # fmt: skip


def _layout(predictor: Predictor, rows: Rows) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the output's shape, and its chunks, which divide the partitions."""
    columns = () if predictor.n_columns is None else (predictor.n_columns,)
    return (rows.X.n_rows, *columns), (_chunk_rows(predictor, rows), *columns)


def _token_of(array: zarr.Array[Any]) -> Any:
    """Return the token of an array that is not complete, None for any other."""
    record = array.attrs.get(ATTRIBUTE)
    return record.get("token") if isinstance(record, dict) else None


def _sync_chunk(array: zarr.Array[Any], place: str, number: int) -> None:
    key = array.metadata.encode_chunk_key((number, *(0,) * (array.ndim - 1)))
    path = os.path.join(place, *key.split("/"))
    sync_file(path)
    while len(path) > len(place):
        path = os.path.dirname(path)
        sync_folder(path)


def _stored_row_bytes(predictor: Predictor) -> int:
    return _stored_dtype(predictor).itemsize * (predictor.n_columns or 1)


def _chunk_rows(predictor: Predictor, rows: Rows) -> int:
    """Return the rows of an output chunk: one that divides the partitions, or any where there is only one."""
    partition_rows, row_bytes = int(rows.edges[1] - rows.edges[0]), _stored_row_bytes(predictor)
    if rows.n_partitions == 1:
        return -(-partition_rows // -(-partition_rows * row_bytes // CHUNK_BYTES))
    return chunk_length(partition_rows, row_bytes)


def chunk_length(partition_rows: int, row_bytes: int) -> int:
    """Return the rows of an output chunk: the largest divisor of a partition's rows that takes at most 32 MiB.

    Where no divisor within a factor of 16 does, the whole partition is one chunk.
    """
    least = min(partition_rows, -(-partition_rows * row_bytes // CHUNK_BYTES))
    for n_chunks in range(least, 16 * least + 1):
        if partition_rows % n_chunks == 0:
            return partition_rows // n_chunks
    return partition_rows


def _aligned(rows: Rows) -> Rows:
    """Return the rows with partitions of equal length, as chunks of an array are, except the last."""
    lengths = np.diff(rows.edges)
    if (lengths[:-1] == lengths[0]).all() and lengths[-1] <= lengths[0]:
        return rows
    # (A multiple of 4096, so that chunks of the output can divide it.)
    edges = regular_edges(rows.X.n_rows, -(-int(lengths.max()) // 4096) * 4096)
    return replace(rows, X=rows.X.rechunked_to(edges), edges=edges)


def _other(output: str) -> OutputError:
    return OutputError(
        "the output", "be free, or hold predictions of daskgmm", f"something else at {output}", "Choose another path."
    )
