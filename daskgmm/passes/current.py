"""Which executor runs passes: one that was chosen, the current distributed client's, or this process's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import dask
from dask.base import get_scheduler

from daskgmm.errors import ClusterError, OptionError, verbatim
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.client_executor import ClientExecutor, workers_asked_for
from daskgmm.passes.executor import Executor
from daskgmm.passes.local_executor import LocalExecutor, TaskExecutor
from daskgmm.passes.pools import own_task, threads_kept

_chosen: ContextVar[Executor | None] = ContextVar("daskgmm-executor", default=None)


@contextmanager
def running_by(executor: Executor) -> Iterator[None]:
    """Have an executor run the passes of each fit, selection and score in the block, in place of Dask's current one.

    (Predictions are a Dask array, which whoever computes it runs where Dask says.)
    """
    if not isinstance(executor, Executor):
        raise OptionError("executor", "be an object of a class derived from Executor", repr(executor), "Give one.")
    token = _chosen.set(executor)
    try:
        yield
    finally:
        _chosen.reset(token)


def current_executor(*, travels: bool) -> Executor:
    """Return the executor that the user's surroundings call for: a current distributed client, else the local one.

    One that `running_by` names comes first. In a task of a worker it is the task's own thread, unless the task asks for
    more with `distributed.worker_client`.

    Where the input travels, a cluster must have workers: those of one that adapts are asked for, and waited for as long
    as Dask's configuration "daskgmm.workers-timeout" says, 60 s by default.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    worker = own_task()
    if worker is not None and not _asks_for_more():
        return TaskExecutor(worker)
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


def _asks_for_more() -> bool:
    """Return whether a task has entered `distributed.worker_client`, which makes its client the current one there."""
    from distributed import Client

    try:
        return Client.current(allow_global=False) is not None
    except ValueError:
        return False


@contextmanager
def for_passes(executor: Executor | None) -> Iterator[None]:
    """Limit BLAS to one thread a task here and on the workers, and restore what was there at the end.

    Dashboards show the passes as one. The number of threads is part of a result's bits, and two threads on the narrow
    products of a block are no faster. Passes in this process share their threads meanwhile.
    """
    if executor is None:
        with blas_limit.held(), threads_kept():
            yield
    else:
        with blas_limit.held(), executor.limit_blas(), executor.named():
            yield
