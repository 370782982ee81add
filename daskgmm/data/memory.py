"""How many bytes a task takes at peak, stated before anything runs, and held against the workers' limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from daskgmm.data.dask_source import DaskSource
from daskgmm.data.executor import Executor
from daskgmm.data.partition import FAN_IN, RUN_BYTES
from daskgmm.data.rows import Rows, row_bytes
from daskgmm.data.source import Source
from daskgmm.errors import MemoryLimitError
from daskgmm.mixture.block import block_length
from daskgmm.mixture.kind import Covariance

MIB = 1 << 20
#: A worker process before its first task: Python, distributed, NumPy, SciPy and Zarr (measured: 95 to 125 MiB).
INTERPRETER_BYTES = 144 * MIB
#: Reading a run holds its rows, the chunks being decoded and their encoded bytes (measured over 15 layouts: at most 2.9
#: times the run), and the allocator keeps that for the next one.
READ_FACTOR = 3


def peak_worker_bytes(rows: Rows, kind: Covariance, n_components: int) -> int:
    """Return the bytes that a worker with one thread takes at peak, interpreter included, in any pass of a fit.

    The sum of: the interpreter; the run that is being read, and with prefetch the one computed on; a block, its
    features and densities, and z of every component (the exact form); the states of a merge.
    """
    return INTERPRETER_BYTES + peak_task_bytes(rows, kind, n_components)


def peak_task_bytes(rows: Rows, kind: Covariance, n_components: int) -> int:
    """Return the bytes that one task takes at peak; `peak_worker_bytes` without the interpreter."""
    total = _read_bytes(rows.X, rows)
    if rows.weights is not None:
        total += _read_bytes(rows.weights, rows)
    return total + _kernel_bytes(kind, n_components, rows.X.n_features)


def check_memory(rows: Rows, kind: Covariance, n_components: int, executor: Executor, *, extra_bytes: int = 0) -> Rows:
    """Return the rows as a worker's memory allows: without prefetch where that is what fits.

    Raises
    ------
    MemoryLimitError
        Where a task does not fit even so; the message has the command that rechunks.
    """
    limit = executor.memory_limit()
    limit = None if limit is None else limit - extra_bytes
    if limit is None or not rows.travels or peak_worker_bytes(rows, kind, n_components) <= limit:
        return rows
    frugal = replace(rows, prefetch=False)
    need = peak_worker_bytes(frugal, kind, n_components)
    if need <= limit:
        return frugal
    X = rows.X
    fitting = (limit - INTERPRETER_BYTES - _kernel_bytes(kind, n_components, X.n_features)) // READ_FACTOR
    remedy = "Give workers more memory (--memory-limit), or decrease n_components."
    if fitting >= 64 * row_bytes(X):
        n_rows = min(int(fitting) // row_bytes(X), max(1, RUN_BYTES // row_bytes(X)))
        remedy = f"Give workers more memory (--memory-limit), or rechunk: {_rechunking(X, n_rows)}"
    raise MemoryLimitError(
        f"A task must fit in a worker's memory, {_mib(limit)} a task; got a need of {_mib(need)} for chunks of "
        f"{_mib(X.chunk_bytes)} in {X.label}. {remedy}"
    )


def _read_bytes(source: Source, rows: Rows) -> int:
    """Return the bytes of a source's rows that a task holds at once."""
    per_row = row_bytes(source)
    if isinstance(source, DaskSource):
        # Blocks of a Dask array are inputs of the task, and stay until it ends.
        return int(np.diff(rows.edges).max()) * per_row
    run = min(max(RUN_BYTES, source.chunk_bytes), max(source.chunk_bytes, source.n_rows * per_row))
    return run * READ_FACTOR * (2 if rows.prefetch else 1)


def _kernel_bytes(kind: Covariance, n_components: int, n_features: int) -> int:
    """Return the bytes of an E-step's buffers, all components in the exact form, and of the states of a merge."""
    n_phi = kind.n_statistics(n_features, exact=False)
    state = n_components * kind.n_statistics(n_features, exact=True) + 3
    columns = n_phi + 2 * n_components + (n_components + 4) * n_features + 8
    return 8 * (block_length(n_features) * columns + (FAN_IN + 5) * state)


def _rechunking(X: Source, n_rows: int) -> str:
    where = X.label if X.travels and not isinstance(X, DaskSource) else "X.zarr"
    return f'dask.array.from_zarr("{where}").rechunk(({n_rows}, {X.n_features})).to_zarr("rechunked.zarr")'


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / MIB:.0f} MiB"
