"""Graphs on the workers of a `distributed` client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from dask import threaded
from dask.base import annotate, get_annotations

from daskgmm.errors import ClusterError, DaskgmmError
from daskgmm.passes.executor import Executor, Held, OnDone, Places, Room, own_room
from daskgmm.passes.local_executor import compute_here, out_of_the_way, runs_here
from daskgmm.passes.provenance import processor
from daskgmm.passes.suspects import WorkersDiedError

#: Attempts beyond the first that a task gets where it fails (a store that hiccups, not bad data).
RETRIES = 2


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
            return compute_here(threaded.get, graph, keys, on_done)
        asked = "workers" in get_annotations()  # (by whoever calls, who knows better)
        near = annotate(workers=_Places(places), allow_other_workers=True) if places and not asked else nullcontext()
        with near:
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

    @out_of_the_way()
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
        return not travels and runs_here(threaded.get)

    def memory_limit(self) -> int | None:
        limits = [room.limit_bytes // room.n_threads for room in self.rooms(travels=True)]
        return min(limits, default=None)

    def task_rooms(self) -> list[Room]:
        rooms = self._limited()
        with _unless_lost():  # (workers that do not answer are taken by their limits)
            told = self.client.run(_own_room, on_error="ignore")
            rooms |= {address: room for address, room in told.items() if address in rooms}
        return list(rooms.values())

    def n_threads(self) -> int | None:
        return int(sum(self.client.nthreads().values()))

    def processors(self) -> list[str]:
        with _unless_lost():
            return list(self.client.run(processor, on_error="ignore").values())
        return []

    def cards(self) -> dict[str, Any]:
        return dict(self.client.run(_own_card, on_error="return"))

    def named(self) -> AbstractContextManager[Any]:
        from distributed import span

        return span("daskgmm")

    def limit_blas(self) -> AbstractContextManager[Any]:
        from daskgmm.passes.worker import limit_workers

        return limit_workers(self.client)

    def rooms(self, *, travels: bool) -> list[Room]:
        if not travels:
            return own_room(None)
        return list(self._limited().values())

    def _limited(self) -> dict[str, Room]:
        """Return the workers that have a limit, by their addresses, as the scheduler knows them.

        `Client.scheduler_info` may tell of none: it returns what the client last heard, and that asks every two
        seconds for no worker at all.
        """
        with _unless_lost():
            workers = self.client.sync(self.client.scheduler.identity)["workers"]
            return {a: Room(w["memory_limit"], w["nthreads"]) for a, w in workers.items() if w["memory_limit"]}
        return {}


@contextmanager
def _unless_lost() -> Iterator[None]:
    """Pass over what is raised of a scheduler, or of workers, that are just being lost; not what we say of them."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DaskgmmError):
            raise


def _own_card(dask_worker: Any) -> Any:
    """Return the card of a worker, with the threads that share it, or why it has none."""
    from daskgmm.passes import card

    found = card.card_here()
    return found if isinstance(found, str) else replace(found, n_threads=dask_worker.state.nthreads)


def _own_room(dask_worker: Any) -> Room:
    """Return what a worker may take, and what it takes when it has given back what is free.

    What it takes while it works on tasks is theirs, and not known.
    """
    from daskgmm.sources.heap import give_back

    give_back()
    manager, state = dask_worker.memory_manager, dask_worker.state
    idle = not state.executing_count
    taken = max(0, dask_worker.monitor.get_process_memory() - state.nbytes) if idle else 0
    share = float(manager.memory_pause_fraction or 1.0)
    return Room(manager.memory_limit or 0, state.nthreads, share, taken)


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
