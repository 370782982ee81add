"""Where graphs run: the current distributed client, or Dask's local schedulers; with one BLAS thread a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from threading import local
from typing import Any, Protocol

import dask
from dask import multiprocessing, threaded
from dask.base import annotate, get_scheduler
from dask.callbacks import Callback
from dask.local import get_sync
from dask.system import CPU_COUNT
from dask.task_spec import DataNode

from daskgmm.errors import ClusterError, OptionError, verbatim
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.suspects import WorkersDiedError

#: Addresses of workers by the keys of tasks or results.
Places = Mapping[Any, Sequence[str]]

#: Receives the number of a key, and its value, as soon as that is there.
OnDone = Callable[[int, Any], None]

#: Attempts beyond the first that a task gets where it fails (a store that hiccups, not bad data).
RETRIES = 2


@dataclass(frozen=True)
class Room:
    """A process that runs tasks: the bytes that it may take, and its threads."""

    limit_bytes: int
    n_threads: int


class Held(Protocol):
    """Results that stay where they were computed, as inputs of later graphs."""

    def nodes(self) -> dict[Any, Any]:
        """Return the nodes that a graph needs to refer to the results by their keys."""

    def places(self) -> Places:
        """Return the addresses of the workers that hold each key; empty where there are no workers."""

    def release(self) -> None:
        """Let the results go."""


class Executor(ABC):
    """Computes keys of a graph. Only `compute` must be defined: the other methods have defaults."""

    @abstractmethod
    def compute(
        self,
        graph: dict[Any, Any],
        keys: list[Any],
        *,
        travels: bool,
        places: Places | None = None,
        on_done: OnDone | None = None,
    ) -> list[Any]:
        """Return the values of `keys`; where the input does not travel, computed in this process.

        Tasks named in `places` run on one of these workers while one of them lives.
        """

    def hold(
        self, graph: dict[Any, Any], keys: list[Any], held: list[Any], *, travels: bool, on_done: OnDone | None = None
    ) -> tuple[list[Any], Held]:
        """Return the values of `keys`, and the results of the tasks `held` where they are."""
        told = None if on_done is None else _first(len(keys), on_done)
        values = self.compute(graph, keys + held, travels=travels, on_done=told)
        return values[: len(keys)], HeldHere(dict(zip(held, values[len(keys) :], strict=True)))

    def is_here(self, *, travels: bool) -> bool:
        """Return whether tasks are done by threads of this process, and nobody asks to see a graph of them."""
        return False

    def map(self, call: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of a call for each of some arguments, in order, by the threads of this process."""
        return _mapped(call, items)

    def memory_limit(self) -> int | None:
        """Return the bytes that one task may use, the smallest over all workers, or None where nothing limits them."""
        return None

    def n_threads(self) -> int | None:
        """Return the threads of all workers, or None where states stay in this process."""
        return None

    def rooms(self, *, travels: bool) -> list[Room]:
        """Return the processes whose memory is known, and in which a result can stay."""
        return []

    def limit_blas(self) -> AbstractContextManager[Any]:
        """Limit BLAS to one thread a task in other processes while the block runs; passes in this one share threads."""
        return _threads_kept()


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
        return _compute_here(_local_scheduler(travels), graph, keys, on_done)

    def is_here(self, *, travels: bool) -> bool:
        return _is_here(_local_scheduler(travels))

    def rooms(self, *, travels: bool) -> list[Room]:
        run = _local_scheduler(travels)
        return _own_room(self.memory_limit()) if run in (threaded.get, get_sync) else []


@contextmanager
def _out_of_the_way() -> Iterator[None]:
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


class ClientExecutor(Executor):
    """The workers of a distributed client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def compute(
        self,
        graph: dict[Any, Any],
        keys: list[Any],
        *,
        travels: bool,
        places: Places | None = None,
        on_done: OnDone | None = None,
    ) -> list[Any]:
        if not travels:
            return _compute_here(threaded.get, graph, keys, on_done)
        with annotate(workers=_Places(places), allow_other_workers=True) if places else nullcontext():
            futures = self.client.get(graph, keys, retries=RETRIES, sync=False)
        return self._gathered(graph, futures, on_done)

    def hold(
        self, graph: dict[Any, Any], keys: list[Any], held: list[Any], *, travels: bool, on_done: OnDone | None = None
    ) -> tuple[list[Any], Held]:
        if not travels:
            return super().hold(graph, keys, held, travels=False, on_done=on_done)
        futures = self.client.get(graph, keys + held, retries=RETRIES, sync=False)
        kept = HeldFutures(self.client, futures[len(keys) :])
        try:
            return self._gathered(graph, futures[: len(keys)], on_done), kept
        except BaseException:
            kept.release()
            raise

    @_out_of_the_way()
    def _gathered(self, graph: dict[Any, Any], futures: list[Any], on_done: OnDone | None) -> list[Any]:
        """Return the values of a graph's futures, which are released then; each is told of when it comes."""
        from distributed.client import FutureCancelledError, FuturesCancelledError
        from distributed.scheduler import KilledWorker

        try:
            if on_done is None:
                return list(self.client.gather(futures))
            from distributed import as_completed

            numbers, values = {future.key: i for i, future in enumerate(futures)}, [None] * len(futures)
            with self.client.as_current():
                for future, value in as_completed(futures, with_results=True):
                    if isinstance(value, BaseException):  # so comes what was cancelled: the scheduler is lost
                        raise value
                    values[numbers[future.key]] = value
                    on_done(numbers[future.key], value)
            return values
        except (FutureCancelledError, FuturesCancelledError) as error:
            if "lost dependencies" not in str(error):
                raise
            raise ClusterError(
                "`X`",
                "stay on the workers until the end",
                "blocks that were lost with one, and that nothing can compute again: they were scattered",
                "Make `X` anew of what can be read again, a path or a Dask array of it, persisted or not.",
            ) from error
        except KilledWorker as error:
            states = self.client.sync(self.client.scheduler.get_task_status, keys=list(graph))
            others = [key for key in graph if states[key] == "erred" and key != error.task]
            raise WorkersDiedError.at([error.task, *others]) from error
        finally:
            for future in futures:
                future.release()

    def is_here(self, *, travels: bool) -> bool:
        return not travels and _is_here(threaded.get)

    def memory_limit(self) -> int | None:
        limits = [room.limit_bytes // room.n_threads for room in self.rooms(travels=True)]
        return min(limits, default=None)

    def n_threads(self) -> int | None:
        return int(sum(self.client.nthreads().values()))

    def limit_blas(self) -> AbstractContextManager[Any]:
        from daskgmm.passes.worker import limit_workers

        return limit_workers(self.client)

    def rooms(self, *, travels: bool) -> list[Room]:
        if not travels:
            return _own_room(None)
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return [Room(w["memory_limit"], w["nthreads"]) for w in workers if w["memory_limit"]]


class LimitedExecutor(LocalExecutor):
    """Dask's scheduler in this process, with a limit on the memory that a task may take."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def memory_limit(self) -> int | None:
        return self._limit


class HeldHere:
    """Results in this process."""

    def __init__(self, results: dict[Any, Any]) -> None:
        self._results = results

    def nodes(self) -> dict[Any, Any]:
        return {key: DataNode(key, value) for key, value in self._results.items()}

    def places(self) -> Places:
        return {}

    def release(self) -> None:
        self._results = {}


class HeldFutures:
    """Results on workers: the scheduler computes again what is lost with one of them, and nothing else."""

    def __init__(self, client: Any, futures: list[Any]) -> None:
        self._client, self._futures = client, futures

    def nodes(self) -> dict[Any, Any]:
        return {}  # a scheduler knows the keys of its futures

    def places(self) -> Places:
        found: Places = self._client.who_has(self._futures)
        return found

    def release(self) -> None:
        for future in self._futures:
            future.release()
        self._futures = []


class _Places:
    """The workers of each task, as an annotation: distributed calls it with the key."""

    def __init__(self, places: Places) -> None:
        self._places = dict(places)

    def __call__(self, key: Any) -> list[str]:
        return list(self._places.get(key, ()))


_chosen: ContextVar[Executor | None] = ContextVar("daskgmm-executor", default=None)


@contextmanager
def running_by(executor: Executor) -> Iterator[None]:
    """Have an executor run the passes of every fit and prediction in the block, in place of Dask's current one."""
    token = _chosen.set(executor)
    try:
        yield
    finally:
        _chosen.reset(token)


def current_executor(*, travels: bool) -> Executor:
    """Return the executor that the user's surroundings call for: a current distributed client, else the local one.

    One that `running_by` names comes first.

    Where the input travels, a cluster must have workers: those of one that adapts are asked for, and waited for as long
    as Dask's configuration "daskgmm.workers-timeout" says, 60 s by default.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    try:
        scheduler = get_scheduler()
    except RuntimeError as error:
        if "asynchronous" not in str(error):
            raise
        raise OptionError(
            "the current client",
            "not be asynchronous where its event loop runs",
            "one that is",
            "Call from a thread, in which it may wait: await asyncio.to_thread(mixture.fit, X).",
        ) from error
    client = getattr(scheduler, "__self__", None)
    if client is None or not hasattr(client, "scheduler_info"):
        return LocalExecutor()
    timeout = float(dask.config.get("daskgmm.workers-timeout", 60.0))
    if travels and not workers_asked_for(client, timeout):
        raise ClusterError(
            f"the cluster at {verbatim(client.scheduler.address)}",
            "have workers",
            f"none in {timeout:g} s",
            "Start some, or let it adapt: cluster.adapt(minimum=1). To wait longer: "
            'dask.config.set({"daskgmm.workers-timeout": 600}).',
        )
    return ClientExecutor(client)


def workers_asked_for(client: Any, timeout: float) -> bool:
    """Return whether a cluster has a worker within so many seconds; one that adapts starts workers for tasks alone."""
    if client.nthreads():
        return True
    task = client.submit(int, pure=False)
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError:
        return bool(client.nthreads())
    finally:
        task.release()
    return True


@contextmanager
def one_blas_thread(executor: Executor | None) -> Iterator[None]:
    """Limit BLAS to one thread a task here and on the workers, and restore what was there at the end.

    The number of threads is part of a result's bits, and two threads on the narrow products of a block are no faster.
    Passes in this process share their threads meanwhile.
    """
    with blas_limit.held(), _threads_kept() if executor is None else executor.limit_blas():
        yield


def _local_scheduler(travels: bool) -> Callable[..., Any]:
    run: Callable[..., Any] = (get_scheduler() if travels else None) or threaded.get
    return run


def _compute_here(run: Callable[..., Any], graph: dict[Any, Any], keys: list[Any], on_done: OnDone | None) -> list[Any]:
    with _pool_of_a_call(run) as options:
        if on_done is None:
            return list(run(graph, keys, **options))
        if run not in _DASKS_OWN:
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


#: Schedulers that take callbacks.
_DASKS_OWN = (threaded.get, get_sync, multiprocessing.get)


class _Pool(ThreadPoolExecutor):
    """Threads that see what is set for the thread that asks, such as np.errstate; as Dask's own do."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(copy_context().run, call, *args, **kwargs)


#: The threads that the passes of this thread share, "pool"; of this thread alone, since a task may fit in its turn.
_kept = local()


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Keep threads from pass to pass while the block runs: starting them takes 3 ms, as long as a pass on few rows."""
    before = getattr(_kept, "pool", None)
    with _Pool(_n_workers(), "daskgmm-pass") as pool:
        _kept.pool = pool
        try:
            yield
        finally:
            _kept.pool = before


@contextmanager
def _pool_of_a_call(run: Callable[..., Any]) -> Iterator[dict[str, Any]]:
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
    with _Pool(_n_workers(), "daskgmm-pass") as pool:
        yield {"pool": pool}


def _is_here(run: Callable[..., Any]) -> bool:
    return run is threaded.get and dask.config.get("pool", None) is None and not Callback.active


def _mapped(call: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results in order, each as soon as it and those before it are there.

    (Dask's scheduler takes 3 ms for a dozen tasks, as long as a pass over 100,000 rows of two features.)
    """
    with _pool_of_a_call(threaded.get) as options:
        futures = deque(options["pool"].submit(call, *item) for item in items)
        try:
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()


def _n_workers() -> int:
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def _first(n: int, on_done: OnDone) -> OnDone:
    """Return a listener to the first n of some keys."""
    return lambda i, value: on_done(i, value) if i < n else None


def _own_room(limit: int | None) -> list[Room]:
    from distributed.system import MEMORY_LIMIT  # (0.4 s, which only a fit that may keep rows pays)

    return [Room(limit or MEMORY_LIMIT, _n_workers())]
