"""What a fit sets on the workers of a cluster, and undoes at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from distributed import Client, WorkerPlugin

from daskgmm.errors import SilentSchedulerError
from daskgmm.passes.blas import blas_limit
from daskgmm.sources.heap import reused_heap


class OneBlasThread(WorkerPlugin):
    """One BLAS thread on a worker while a fit lasts (under a nanny it has one already, else one for each core).

    And memory that is used again (without a nanny it is already).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        blas_limit.take()
        reused_heap.take()

    def teardown(self, worker: Any) -> None:
        reused_heap.release()
        blas_limit.release()


@contextmanager
def limit_workers(client: Client) -> Iterator[None]:
    """Limit every worker of the cluster, those that join later too, and restore them at the end."""
    plugin = OneBlasThread(f"daskgmm-one-blas-thread-{uuid4().hex}")
    # An OSError here is of a worker that is just being lost: the scheduler tells all others, and those that come.
    with suppress(OSError):
        client.register_plugin(plugin)
    answers = True
    try:
        yield
    except SilentSchedulerError:  # nobody is there to be asked, and asking might take for ever
        answers = False
        raise
    finally:
        if answers and client.status == "running":
            with suppress(OSError, ValueError):  # a scheduler that was started again knows nothing of it
                client.unregister_worker_plugin(plugin.name)
