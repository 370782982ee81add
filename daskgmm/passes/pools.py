"""Pools of threads that outlive a call, for Dask's local schedulers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import local
from typing import Any

import dask
from dask import multiprocessing, threaded
from dask.local import get_sync
from dask.system import CPU_COUNT

#: Schedulers that take callbacks.
DASKS_OWN = (threaded.get, get_sync, multiprocessing.get)


class _Pool(ThreadPoolExecutor):
    """Threads that see what is set for the thread that asks, such as np.errstate; as Dask's own do."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(copy_context().run, call, *args, **kwargs)


#: The threads that the passes of this thread share, "pool"; of this thread alone, since a task may fit in its turn.
_kept = local()


@contextmanager
def threads_kept() -> Iterator[None]:
    """Keep threads from pass to pass while the block runs: starting them takes 3 ms, as long as a pass on few rows."""
    before = getattr(_kept, "pool", None)
    with _Pool(n_workers(), "daskgmm-pass") as pool:
        _kept.pool = pool
        try:
            yield
        finally:
            _kept.pool = before


@contextmanager
def pool_of_a_call(run: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Provide the options by which a scheduler runs: threads that end with the call, or with the fit that it is of.

    Dask's own pool outlives it, and a forked child would wait for ever for its threads, which stay with the parent.
    """
    if run is not threaded.get or dask.config.get("pool", None) is not None:
        yield {}
        return
    kept = getattr(_kept, "pool", None)
    if kept is not None:
        yield {"pool": kept}
        return
    with _Pool(n_workers(), "daskgmm-pass") as pool:
        yield {"pool": pool}


def n_workers() -> int:
    """Return the threads of a call, by Dask's configuration; one where this is a task of a worker, which has one."""
    return 1 if own_task() is not None else int(dask.config.get("num_workers", None) or CPU_COUNT)


def own_task() -> Any:
    """Return the `distributed.Worker` whose task this thread does; None where it does none, as in most programs."""
    distributed = sys.modules.get("distributed")  # (0.4 s, which no task is without)
    try:
        return None if distributed is None else distributed.get_worker()
    except (ValueError, AttributeError):  # (it is just being imported)
        return None
