"""Where graphs run: the current distributed client, or Dask's local schedulers; with one BLAS thread a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from dask import threaded
from dask.base import get_scheduler

from daskgmm.data.blas import blas_limit
from daskgmm.errors import ClusterError

#: Attempts beyond the first that a task gets where it fails (a store that hiccups, not bad data).
RETRIES = 2


class Executor(Protocol):
    """Computes keys of a graph."""

    def compute(self, graph: dict[Any, Any], keys: list[Any], *, travels: bool) -> list[Any]:
        """Return the values of `keys`; where the input does not travel, computed in this process."""

    def memory_limit(self) -> int | None:
        """Return the bytes that one task may use, the smallest over all workers, or None where nothing limits them."""


class LocalExecutor:
    """Dask's own schedulers in this process: the configured one, threads by default."""

    def compute(self, graph: dict[Any, Any], keys: list[Any], *, travels: bool) -> list[Any]:
        run = (get_scheduler() if travels else None) or threaded.get
        return list(run(graph, keys))

    def memory_limit(self) -> int | None:
        return None


class ClientExecutor:
    """The workers of a distributed client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def compute(self, graph: dict[Any, Any], keys: list[Any], *, travels: bool) -> list[Any]:
        if not travels:
            return list(threaded.get(graph, keys))
        return list(self.client.get(graph, keys, retries=RETRIES))

    def memory_limit(self) -> int | None:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [w["memory_limit"] // w["nthreads"] for w in workers if w["memory_limit"]]
        return min(limits, default=None)


def current_executor() -> Executor:
    """Return the executor that the user's surroundings call for: a current distributed client, else the local one."""
    scheduler = get_scheduler()
    client = getattr(scheduler, "__self__", None)
    if client is not None and hasattr(client, "scheduler_info"):
        if not client.nthreads():
            raise ClusterError(
                f"the cluster at {client.scheduler.address} must have workers; got none. Start some, or wait for "
                "them with client.wait_for_workers(1, timeout=60)."
            )
        return ClientExecutor(client)
    return LocalExecutor()


@contextmanager
def one_blas_thread(executor: Executor | None) -> Iterator[None]:
    """Limit BLAS to one thread a task here and on the workers, and restore what was there at the end.

    The number of threads is part of a result's bits, and two threads on the narrow products of a block are no faster.
    """
    client = executor.client if isinstance(executor, ClientExecutor) else None
    with blas_limit.held():
        if client is None:
            yield
            return
        from daskgmm.data.worker import limit_workers

        with limit_workers(client):
            yield
