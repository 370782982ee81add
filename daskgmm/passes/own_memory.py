"""How many bytes this process takes at peak: where it does the work itself, and where it drives workers that do."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from dask.system import CPU_COUNT

from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import (
    COMPILED_BYTES,
    INTERPRETER_BYTES,
    MIB,
    Need,
    check_machine,
    peak_task_bytes,
    peak_worker_bytes,
)
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import MOST_ROOTS

#: What the process of a fit has loaded beyond a worker: scikit-learn's k-means (measured: 170 MiB in all); and what
#: scikit-learn and Dask's arrays load where it is there: pandas, with pyarrow, and xarray (measured: 74 MiB).
START_BYTES, PANDAS_BYTES = 36 * MIB, 76 * MIB
#: A client, and the scheduler of a local cluster; and what both hold of a task.
DRIVER_BYTES, TASK_BYTES = 40 * MIB, 20 << 10


def drives(rows: Rows, executor: Executor) -> bool:
    """Return whether workers do the tasks. (Of one partition there is no graph, and no worker.)"""
    return rows.travels and rows.n_partitions > 1 and executor.n_threads() is not None


def peak_own_bytes(rows: Rows, need: Need, *, driving: bool) -> int:
    """Return the bytes that this process takes at peak, interpreter included.

    The sum of: the interpreter and what it has loaded; the sample and what is begun on it (`Need.own_bytes`); and the
    tasks that run here at once, or, where workers do them, the states that come in and what is kept of each task.
    """
    loaded = INTERPRETER_BYTES + (START_BYTES if need.own_bytes else 0)
    loaded += PANDAS_BYTES if find_spec("pandas") else 0
    if driving:
        states = 2 * min(MOST_ROOTS, rows.n_tasks) * need.state_bytes(rows.X.n_features)
        compiled = COMPILED_BYTES if need.compiled and need.own_bytes else 0
        # (Pieces of the sample come as messages, and are put together.)
        arriving = 2 * need.extra_bytes if need.own_bytes else 0
        return loaded + DRIVER_BYTES + compiled + need.own_bytes + arriving + states + TASK_BYTES * rows.n_partitions
    n_threads = min(CPU_COUNT, rows.n_tasks)
    task = peak_task_bytes(rows, replace(need, extra_bytes=0, compiled=False))
    beside = max(need.own_bytes, n_threads * need.extra_bytes)
    return loaded + (COMPILED_BYTES if need.compiled else 0) + n_threads * task + beside


def check_own_memory(rows: Rows, need: Need, executor: Executor, *, n_workers: int = 0) -> None:
    """Raise a MemoryLimitError where this process would take more memory than the machine has.

    `n_workers` are those that run on this machine too.
    """
    frugal, driving = replace(rows, prefetch=False), n_workers > 0 or drives(rows, executor)
    needed = peak_own_bytes(frugal, need, driving=driving)
    if n_workers:
        needed += n_workers * peak_worker_bytes(frugal, need)
        what, remedy = f"This process and {n_workers} workers", "Take fewer workers, decrease `n_components`, `n_init`"
    else:
        what, remedy = "This process", "Decrease `n_components`, `n_init`"
    check_machine(needed, rows.X, what=what, remedy=remedy)
