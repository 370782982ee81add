"""What a fit sets on the workers of a cluster, and undoes at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from distributed import Client, WorkerPlugin

from daskgmm.data.blas import blas_limit


class OneBlasThread(WorkerPlugin):
    """One BLAS thread on a worker while a fit lasts (under a nanny it has one already, else one for each core)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        blas_limit.take()

    def teardown(self, worker: Any) -> None:
        blas_limit.release()


@contextmanager
def limit_workers(client: Client) -> Iterator[None]:
    """Limit every worker of the cluster, those that join later too, and restore them at the end."""
    plugin = OneBlasThread(f"daskgmm-one-blas-thread-{uuid4().hex}")
    client.register_plugin(plugin)
    try:
        yield
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(plugin.name)
