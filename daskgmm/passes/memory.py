"""The promise of memory: what a pass takes at peak, in a worker and in this process, held against what there is.

It is arithmetic on what others say of themselves, before anything is read: sources (`read_bytes`, `chunk_bytes`),
kernels (`buffer_bytes`, `Kernel.n_bytes`), and each pass (`Need`). `promise_memory` is the one door for passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import ceil

import numpy as np
from dask.system import CPU_COUNT

from daskgmm.errors import MemoryLimitError, verbatim
from daskgmm.kernels.block import block_length
from daskgmm.kernels.gap_bytes import derived_bytes, gap_bytes
from daskgmm.kernels.loops import COMPILED_BYTES
from daskgmm.kernels.tile import buffer_bytes
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.passes.executor import Executor, Room
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.sources.partition import FAN_IN, MIB, MOST_ROOTS, RUN_BYTES
from daskgmm.sources.source import Source

#: A worker process before its first task: Python, distributed, NumPy, SciPy and Zarr (measured: 95 to 125 MiB).
INTERPRETER_BYTES = 144 * MIB
#: What a worker takes beyond all that is counted where others are busy on its machine: messages wait, and the allocator
#: keeps more pieces (measured: up to 12 MiB, over 4 GiB of rows read ahead).
BUSY_BYTES = 32 * MIB
#: What the process of a fit has loaded beyond a worker: scikit-learn's k-means (measured: 170 MiB in all); and what
#: scikit-learn and Dask's arrays load where it is there: pandas, with pyarrow, and xarray (measured: 74 MiB; 95 where
#: the kernel keeps their files in large pages, as it does while they are new on the disk).
START_BYTES, PANDAS_BYTES = 36 * MIB, 100 * MIB
#: What Dask's arrays load where it is there: sparse, with numba (measured: 57 MiB).
SPARSE_BYTES = 64 * MIB
#: A client, and the scheduler of a local cluster; and what both hold of a task.
DRIVER_BYTES, TASK_BYTES = 40 * MIB, 20 << 10
#: What CUDA's libraries take of a process's own memory. (Not measured yet.)
CUDA_BYTES = 1 << 30
#: Below this no machine is asked for its memory, which takes 0.4 s to import.
_NO_QUESTION_BYTES = 1 << 30


def promise_memory(rows: Rows, need: Need, executor: Executor, *, n_workers: int = 0) -> tuple[Rows, Need]:
    """Return the rows as tasks, and what these need, as memory allows.

    All candidates go in one pass, and rows are read ahead, where that fits; else nothing is read ahead; else candidates
    go in waves of half as many. `n_workers` are those that run on this machine too.

    Raises
    ------
    MemoryLimitError
        Where not even one candidate fits. Nothing has been read.
    """
    while True:
        state_bytes = need.state_bytes(rows.X.n_features)
        cut = rows if need.by_partition else rows.in_tasks(state_bytes=state_bytes, n_threads=executor.n_threads())
        try:
            cut = check_memory(cut, need, executor)
        except MemoryLimitError:
            if need.n_candidates == 1:
                raise
            need = replace(need, n_candidates=need.n_candidates // 2)
        else:
            check_own_memory(cut, need, executor, n_workers=n_workers)
            return cut, need


def stated_bytes(rows: Rows, need: Need, *, n_threads: int = 1) -> int:
    """Return the bytes that a process with a share of the tasks takes at peak: this one does a single partition."""
    if rows.n_partitions == 1:
        return peak_own_bytes(rows, need, driving=False)
    return peak_worker_bytes(rows, need, n_threads=n_threads)


def memory_limit(rows: Rows, executor: Executor) -> int | None:
    """Return the bytes that a task may take; None where no worker does it: rows of this process, or one partition."""
    return None if _in_this_process(rows, executor) else executor.memory_limit()


def _in_this_process(rows: Rows, executor: Executor) -> bool:
    return not rows.travels or (rows.n_partitions == 1 and executor.n_threads() is not None)


def tightest(rooms: Sequence[Room], rows: Rows, need: Need) -> Room:
    """Return the process that lacks most for a task of each of its threads, or has least to spare."""
    lacks = _lacks(rooms, rows, need)
    return max(rooms, key=lambda room: lacks[room])


def _lacks(rooms: Sequence[Room], rows: Rows, need: Need) -> dict[Room, int]:
    """Return the bytes that each process lacks; it has what is below zero to spare."""
    stated = {n: stated_bytes(rows, need, n_threads=n) for n in {room.n_threads for room in rooms}}
    return {room: stated[room.n_threads] + _others(room, need) - room.usable_bytes for room in rooms}


def check_memory(rows: Rows, need: Need, executor: Executor) -> Rows:
    """Return the rows as a worker's memory allows: without prefetch where that is what fits.

    What a worker takes already counts. A worker that Dask holds back beyond a share of its limit may wait for ever:
    that share must do.

    Raises
    ------
    MemoryLimitError
        Where a task does not fit even so; the message has the command that rechunks.
    """
    frugal = replace(rows, prefetch=False)
    rooms = [] if _in_this_process(rows, executor) else executor.task_rooms()
    if not rooms:
        check_machine(peak_worker_bytes(frugal, need), rows.X, what="A task", remedy=remedy_here(need, rows))
        return rows
    for found in rows, frugal:
        if max(_lacks(rooms, found, need).values()) <= 0:
            return found
    raise _no_room(tightest(rooms, frugal, need), frugal, need, n_rooms=len(rooms))


def needed_in(room: Room, rows: Rows, need: Need) -> int:
    """Return the bytes that a process takes with a task of each of its threads."""
    return stated_bytes(rows, need, n_threads=room.n_threads) + _others(room, need)


def _others(room: Room, need: Need) -> int:
    """Return the bytes that a process takes already, beyond what is counted with its tasks."""
    return max(0, room.taken_bytes - loaded_bytes(need) - BUSY_BYTES)


def _no_room(room: Room, rows: Rows, need: Need, *, n_rooms: int) -> MemoryLimitError:
    needed, usable, long = needed_in(room, rows, need), room.usable_bytes, _longest_chunks(rows)
    alone = rows.n_partitions == 1
    enough = f"{ceil(needed / room.pause_share / MIB)}MiB"
    remedy = more = f"Give {'' if alone else 'workers '}more memory (`memory_limit` {enough})"
    # Chunks below a run's bytes save nothing: a task reads several of them at once.
    saved = room.n_threads * (long.read_bytes(long.chunk_bytes) - long.read_bytes(RUN_BYTES))
    if long.chunk_bytes > RUN_BYTES and needed - saved <= usable:
        n_rows = max(1, RUN_BYTES // long.row_bytes)
        chunks = f"({n_rows}, {long.n_features})" if long.n_features > 1 else f"{{0: {n_rows}}}"
        remedy = f"{more}, or {verbatim(long.rechunking(chunks))}"
    elif need.may_shrink and needed_in(room, rows, replace(need, n_components=1)) <= usable:
        remedy = f"{more}, or decrease `n_components`."
    else:
        remedy = f"{more}."
    if alone:
        return MemoryLimitError(
            "`memory_limit`", f"be at least the {mib(needed)} that the work takes", mib(usable), remedy
        )
    said = [f"{room.pause_share:.0%} of its limit, where Dask pauses it"] if room.pause_share < 1 else []
    said += ["the smallest worker's"] if n_rooms > 1 else []
    others = _others(room, need)
    said += [f"which has {mib(room.taken_bytes)} of its {mib(room.limit_bytes)} taken already"] if others else []
    of_chunks = f" for chunks of {mib(long.chunk_bytes)}" if long.chunk_bytes > MIB else ""
    return MemoryLimitError(
        "A task",
        f"fit in a worker's memory, {mib(usable / room.n_threads)} a task" + (f" ({'; '.join(said)})" if said else ""),
        f"a need of {mib(needed / room.n_threads)}{of_chunks} in {long.label}",
        remedy,
    )


def check_own_memory(rows: Rows, need: Need, executor: Executor, *, n_workers: int = 0) -> None:
    """Raise a MemoryLimitError where this process would take more memory than the machine has.

    `n_workers` are those that run on this machine too.
    """
    frugal, driving = replace(rows, prefetch=False), n_workers > 0 or drives(rows, executor)
    needed = peak_own_bytes(frugal, need, driving=driving)
    what = "This process"
    if n_workers:
        needed += n_workers * peak_worker_bytes(frugal, need)
        what += f" and {n_workers} worker{'' if n_workers == 1 else 's'}"
    check_machine(needed, rows.X, what=what, remedy=remedy_here(need, rows, n_workers=n_workers))


def remedy_here(need: Need, rows: Rows, *, n_workers: int = 0) -> str:
    """Return, as a sentence, what takes less memory of this machine, of what who asks may change."""
    ways = ["take fewer workers"] if n_workers > 1 else []
    if need.given:
        ways += ["take a machine with more memory"]
        ways += ["store the rows in smaller chunks"] if _longest_chunks(rows).chunk_bytes > RUN_BYTES else []
    else:
        ways += ["decrease `n_components`"] if need.may_shrink else []
        ways += ["decrease `n_init`"] if need.own_bytes and need.may_shrink else []
        ways += ["take fewer features", "take another `covariance_type`"]
    said = ", ".join(ways[:-1]) + (", or " if ways[1:] else "") + ways[-1]
    return f"{said[0].upper()}{said[1:]}."


def check_machine(needed: int, X: Source, *, what: str, remedy: str) -> None:
    """Raise a MemoryLimitError where what runs on this machine would take more memory than it has."""
    if needed <= _NO_QUESTION_BYTES:
        return
    from distributed.system import MEMORY_LIMIT

    if needed > MEMORY_LIMIT:
        raise MemoryLimitError(
            what,
            f"fit in the memory of this machine, {mib(MEMORY_LIMIT)}",
            f"a need of {mib(needed)} for {X.n_features} features in {X.label}",
            remedy,
        )


def peak_worker_bytes(rows: Rows, need: Need, *, n_threads: int = 1) -> int:
    """Return the bytes that a worker takes at peak, interpreter included, in any pass.

    The sum of: the interpreter; the run that is being read, and with prefetch the one computed on; a block, its
    features and densities, and z of every component (the exact form); for each candidate its parameters, the state of
    a partition, and the states that wait for a merge; and what the pass holds beside.
    """
    return BUSY_BYTES + loaded_bytes(need) + n_threads * peak_task_bytes(rows, need)


def loaded_bytes(need: Need) -> int:
    """Return the bytes of the interpreter, and of what a worker loads once."""
    return INTERPRETER_BYTES + (COMPILED_BYTES if need.compiled else 0) + _cuda_bytes(need)


def _cuda_bytes(need: Need) -> int:
    return CUDA_BYTES if need.device == "cuda" else 0


def peak_task_bytes(rows: Rows, need: Need) -> int:
    """Return the bytes that one task takes at peak, beside what its process has loaded."""
    total = _read_bytes(rows.X, rows) + need.extra_bytes
    total += sum(_bytes_beside(each, rows) for each in rows.beside.values())
    total += 8 * block_length(rows.X.n_features) * sum(column.n_features for column in rows.columns.values())
    total += buffer_bytes(need.shape, need.n_components, rows.X.n_features)
    if need.device == "cuda":
        total += card_rows_bytes(rows)
    if rows.check == "marginalize":
        total += need.n_candidates * derived_bytes(need.shape, need.n_components, rows.X.n_features)
        n_candidates = need.n_candidates
        total += gap_bytes(need.shape, need.n_components, rows.X.n_features, n_candidates=n_candidates)
    return total + need.n_candidates * _candidate_bytes(rows, need.shape, need.n_components)


def card_rows_bytes(rows: Rows) -> int:
    """Return the bytes of rows on their way to a card, in memory that it reads, with their weights.

    CuPy takes a power of two of them for each block, and a block has such a number of rows.
    """
    from daskgmm.kernels.cuda_rows import N_AHEAD, block_length
    from daskgmm.kernels.cuda_source import DTYPES

    row_bytes = rows.X.row_bytes if rows.X.dtype.name in DTYPES else 8 * rows.X.n_features
    row_bytes = 1 << (row_bytes - 1).bit_length()
    return (N_AHEAD + 1) * block_length(rows.X.n_features) * (row_bytes + 8)


def drives(rows: Rows, executor: Executor) -> bool:
    """Return whether workers do the tasks. (Of one partition there is no graph, and no worker.)"""
    return rows.travels and rows.n_partitions > 1 and executor.n_threads() is not None


def peak_own_bytes(rows: Rows, need: Need, *, driving: bool) -> int:
    """Return the bytes that this process takes at peak, interpreter included.

    The sum of: the interpreter and what it has loaded; the sample and what is begun on it (`Need.own_bytes`); and the
    tasks that run here at once, or, where workers do them, the states that come in and what is kept of each task.
    """
    loaded = INTERPRETER_BYTES + (START_BYTES if need.own_bytes else 0)
    loaded += _cuda_bytes(need)
    loaded += (PANDAS_BYTES if find_spec("pandas") else 0) + (SPARSE_BYTES if find_spec("sparse") else 0)
    if driving:
        states = 2 * min(MOST_ROOTS, rows.n_tasks) * need.state_bytes(rows.X.n_features)
        compiled = COMPILED_BYTES if need.compiled and need.own_bytes else 0
        # (Pieces of the sample come as messages, and are put together.)
        arriving = 2 * need.extra_bytes if need.own_bytes else 0
        return loaded + DRIVER_BYTES + compiled + need.own_bytes + arriving + states + TASK_BYTES * rows.n_partitions
    n_threads = min(CPU_COUNT, rows.n_tasks)
    task = peak_task_bytes(rows, replace(need, extra_bytes=0))
    beside = max(need.own_bytes, n_threads * need.extra_bytes)
    return loaded + (COMPILED_BYTES if need.compiled else 0) + n_threads * task + beside


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
    """Return a number of bytes in words, in MiB, rounded up: who gives what a message asks for has given enough."""
    return f"{ceil(n_bytes / MIB)} MiB"
