"""Graphs in this process, or on processes that Dask's own local scheduler starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask import threaded
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.local import get_sync

from daskgmm.passes.executor import Executor, OnDone, Places, Room, own_room
from daskgmm.passes.pools import DASKS_OWN, pool_of_a_call


class LocalExecutor(Executor):
    """Dask's own schedulers in this process: the configured one, threads by default."""

    def compute(
        self,
        graph: dict[Any, Any],
        keys: list[Any],
        *,
        travels: bool,
        places: Places | None = None,
        on_done: OnDone | None = None,
    ) -> list[Any]:
        return compute_here(self._scheduler(travels), graph, keys, on_done)

    def is_here(self, *, travels: bool) -> bool:
        return runs_here(self._scheduler(travels))

    def rooms(self, *, travels: bool) -> list[Room]:
        run = self._scheduler(travels)
        return own_room(self.memory_limit()) if run in (threaded.get, get_sync) else []

    def _scheduler(self, travels: bool) -> Callable[..., Any]:
        run: Callable[..., Any] = (get_scheduler() if travels else None) or threaded.get
        return run


@contextmanager
def out_of_the_way() -> Iterator[None]:
    """Leave a worker's thread to other tasks while this one waits for them: of one thread it would wait for itself."""
    from distributed import get_worker, rejoin, secede

    try:
        get_worker()
        secede()
    except (ValueError, KeyError):  # this is no task, or one that has left its thread already
        yield
        return
    try:
        yield
    finally:
        rejoin()


class LimitedExecutor(LocalExecutor):
    """Dask's scheduler in this process, or workers that are not started yet, with a limit on the memory of a task."""

    def __init__(self, limit: int | None, *, n_threads: int | None = None) -> None:
        self._limit, self._n_threads = limit, n_threads

    def memory_limit(self) -> int | None:
        return self._limit

    def n_threads(self) -> int | None:
        return self._n_threads


class TaskExecutor(LocalExecutor):
    """One thread of this process: a fit that is itself a task of a worker takes no more than a task does.

    (Its worker's client would wait for other workers, and for this one's threads.)
    """

    def __init__(self, worker: Any) -> None:
        limit, n_threads = worker.memory_manager.memory_limit, worker.state.nthreads
        self._limit = limit // n_threads if limit else None

    def memory_limit(self) -> int | None:
        return self._limit

    def _scheduler(self, travels: bool) -> Callable[..., Any]:
        return threaded.get


def compute_here(run: Callable[..., Any], graph: dict[Any, Any], keys: list[Any], on_done: OnDone | None) -> list[Any]:
    """Return the values of keys, computed by one of Dask's own schedulers."""
    with pool_of_a_call(run) as options:
        if on_done is None:
            return list(run(graph, keys, **options))
        if run not in DASKS_OWN:
            values = list(run(graph, keys, **options))
            for i, value in enumerate(values):
                on_done(i, value)
            return values
        numbers = {key: i for i, key in enumerate(keys)}

        def tell(key: Any, value: Any, *_: Any) -> None:
            if key in numbers:
                on_done(numbers[key], value)

        # (For this call alone: `with Callback(...)` is for the calls of all threads.)
        callbacks = [*Callback.active, (None, None, None, tell, None)]
        return list(run(graph, keys, callbacks=callbacks, **options))


def runs_here(run: Callable[..., Any]) -> bool:
    """Return whether one of Dask's own schedulers is threads of this process, with nothing of the user's in the way."""
    return run is threaded.get and dask.config.get("pool", None) is None and not Callback.active
