"""How many bytes a task takes at peak, stated before anything runs, and held against the workers' limit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import dask
import numpy as np

from daskgmm.errors import MemoryLimitError, verbatim
from daskgmm.kernels.block import block_length, tile_length
from daskgmm.kernels.loops import can_compile
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.passes.executor import Executor
from daskgmm.passes.rows import Rows
from daskgmm.sources.partition import FAN_IN, RUN_BYTES
from daskgmm.sources.source import Source

MIB = 1 << 20
#: A worker process before its first task: Python, distributed, NumPy, SciPy and Zarr (measured: 95 to 125 MiB).
INTERPRETER_BYTES = 144 * MIB
#: What a worker takes beyond all that is counted where others are busy on its machine: messages wait, and the allocator
#: keeps more pieces (measured: up to 12 MiB, over 4 GiB of rows read ahead).
BUSY_BYTES = 32 * MIB
#: Rows times components times numbers of Phi from which on the compiled kernel is taken: 100,000 rows of two features
#: with eight components. numba's start, half a second once a process, is worth more than a first fit gains there, and
#: less than what all later ones do.
COMPILED_FROM = 4_000_000
#: What numba takes in each process (measured: 102 MiB; 139 while it compiles, the first time on a machine).
COMPILED_BYTES = 144 * MIB


@dataclass(frozen=True)
class Need:
    """What a pass needs beside its rows.

    Attributes
    ----------
    shape, n_components : Shape, int
        Of a candidate.
    n_candidates : int
        Candidates that share a pass.
    extra_bytes : int
        Bytes that a worker holds beside: pieces of a sample, a chunk of predictions.
    own_bytes : int
        Bytes that the process holds which begins the passes: the sample, and what is begun on it.
    compiled : bool
        Whether the pass uses the compiled kernel.
    """

    shape: Shape
    n_components: int
    n_candidates: int = 1
    extra_bytes: int = 0
    compiled: bool = False
    own_bytes: int = 0

    def state_bytes(self, n_features: int) -> int:
        """Return the bytes of the states of all candidates, in either form."""
        return self.n_candidates * 8 * (self.n_components * self.shape.n_statistics(n_features, exact=True) + 3)


def takes_compiled_kernel(n_rows: float, shape: Shape, n_components: int, n_features: int) -> bool:
    """Return whether passes use the compiled kernel: a function of data, model and configuration.

    Dask's configuration "daskgmm.compiled" (DASK_DASKGMM__COMPILED in the environment) forces it on or off. A number of
    rows that is not known, NaN, counts as large.
    """
    wanted = dask.config.get("daskgmm.compiled", None)
    if wanted is not None:
        return bool(wanted)
    n_values = n_rows * n_components * shape.n_statistics(n_features, exact=False)
    return not n_values < COMPILED_FROM and can_compile()


def peak_worker_bytes(rows: Rows, need: Need) -> int:
    """Return the bytes that a worker with one thread takes at peak, interpreter included, in any pass.

    The sum of: the interpreter; the run that is being read, and with prefetch the one computed on; a block, its
    features and densities, and z of every component (the exact form); for each candidate its parameters, the state of
    a partition, and the states that wait for a merge; and what the pass holds beside.
    """
    return INTERPRETER_BYTES + BUSY_BYTES + peak_task_bytes(rows, need)


def peak_task_bytes(rows: Rows, need: Need) -> int:
    """Return the bytes that one task takes at peak; `peak_worker_bytes` without the interpreter."""
    total = _read_bytes(rows.X, rows) + need.extra_bytes + (COMPILED_BYTES if need.compiled else 0)
    total += sum(_bytes_beside(each, rows) for each in rows.beside.values())
    total += 8 * block_length(rows.X.n_features) * sum(column.n_features for column in rows.columns.values())
    total += kernel_bytes(need.shape, need.n_components, rows.X.n_features)
    return total + need.n_candidates * _candidate_bytes(rows, need.shape, need.n_components)


def check_memory(rows: Rows, need: Need, executor: Executor) -> Rows:
    """Return the rows as a worker's memory allows: without prefetch where that is what fits.

    Raises
    ------
    MemoryLimitError
        Where a task does not fit even so; the message has the command that rechunks.
    """
    limit = executor.memory_limit() if rows.travels else None
    if limit is None:
        check_machine(peak_worker_bytes(replace(rows, prefetch=False), need), rows.X)
        return rows
    if peak_worker_bytes(rows, need) <= limit:
        return rows
    frugal = replace(rows, prefetch=False)
    needed = peak_worker_bytes(frugal, need)
    if needed <= limit:
        return frugal
    remedy = "Give workers more memory (`memory_limit`), or decrease `n_components`."
    long = _longest_chunks(rows)
    # Chunks below a run's bytes save nothing: a task reads several of them at once.
    saved = long.read_bytes(long.chunk_bytes) - long.read_bytes(RUN_BYTES)
    if long.chunk_bytes > RUN_BYTES and needed - saved <= limit:
        n_rows = max(1, RUN_BYTES // long.row_bytes)
        chunks = f"({n_rows}, {long.n_features})" if long.n_features > 1 else f"{{0: {n_rows}}}"
        remedy = f"Give workers more memory (`memory_limit`), or {verbatim(long.rechunking(chunks))}"
    raise MemoryLimitError(
        "A task",
        f"fit in a worker's memory, {mib(limit)} a task",
        f"a need of {mib(needed)} for chunks of {mib(long.chunk_bytes)} in {long.label}",
        remedy,
    )


#: Below this no machine is asked for its memory, which takes 0.4 s to import.
_NO_QUESTION_BYTES = 1 << 30


def check_machine(needed: int, X: Source, *, what: str = "A task", remedy: str = "Decrease `n_components`") -> None:
    """Raise a MemoryLimitError where what runs on this machine would take more memory than it has."""
    if needed <= _NO_QUESTION_BYTES:
        return
    from distributed.system import MEMORY_LIMIT

    if needed > MEMORY_LIMIT:
        raise MemoryLimitError(
            what,
            f"fit in the memory of this machine, {mib(MEMORY_LIMIT)}",
            f"a need of {mib(needed)} for {X.n_features} features in {X.label}",
            f"{remedy} or the features, or take another `covariance_type`.",
        )


def _longest_chunks(rows: Rows) -> Source:
    """Return the source with the largest chunks, of the rows and of what comes with them."""
    return max(rows.sources, key=lambda source: source.chunk_bytes)


def _read_bytes(source: Source, rows: Rows) -> int:
    """Return the bytes of a source's rows that a task holds at once."""
    if not source.streams:
        return source.read_bytes(int(np.diff(rows.edges).max()) * source.row_bytes)
    total = max(source.chunk_bytes, source.n_rows * source.row_bytes)
    run = min(max(RUN_BYTES, source.chunk_bytes), total)
    return source.read_bytes(min(2 * run, total) if rows.prefetch else run)


def _bytes_beside(column: Source, rows: Rows) -> int:
    """Return the bytes of what comes with the rows that a task holds at once; it is not read ahead."""
    held = int(np.diff(rows.edges).max()) * column.row_bytes
    return column.read_bytes(max(min(held, RUN_BYTES), column.chunk_bytes) if column.streams else held)


def kernel_bytes(shape: Shape, n_components: int, n_features: int) -> int:
    """Return the bytes of an E-step's buffers, which candidates share, with all components in the exact form."""
    columns = shape.n_statistics(n_features, exact=False) + 2 * n_components + (n_components + 4) * n_features + 8
    return 8 * (tile_length(n_features) * columns + block_length(n_features) * (n_features + 1))


def _candidate_bytes(rows: Rows, shape: Shape, n_components: int) -> int:
    """Return the bytes of a candidate on a worker: parameters, packed and derived, and states.

    A worker alone keeps FAN_IN - 1 states at each level of merges until their own, some five in the making (measured,
    50 components of 64 features, 64 partitions: 19.5 states for each of ten candidates; stated 23), three on the way
    up within a merge, and one a level of the binary tree below a task, however many partitions that takes.
    """
    n_features = rows.X.n_features
    state = n_components * shape.n_statistics(n_features, exact=True) + 3
    levels = 0
    while FAN_IN**levels < rows.n_partitions:
        levels += 1
    # (Packed and derived.)
    parameters = 2 * state + shape.n_factor_values(n_components, n_features)
    states = (FAN_IN - 1) * levels + 5 + 3 + (rows.per_task - 1).bit_length()
    return 8 * (states * state + parameters)


def mib(n_bytes: float) -> str:
    """Return a number of bytes in words, in MiB."""
    return f"{n_bytes / MIB:.0f} MiB"
