"""What a fit sets on the workers of a cluster, and undoes at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from distributed import Client, WorkerPlugin
from threadpoolctl import threadpool_limits


class OneBlasThread(WorkerPlugin):
    """One BLAS thread on a worker while a fit lasts (under a nanny it has one already, else one for each core)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._limits: Any = None

    def setup(self, worker: Any) -> None:
        import scipy.linalg  # noqa: F401  (its own copy of BLAS must be loaded to be limited)

        self._limits = threadpool_limits(limits=1, user_api="blas")

    def teardown(self, worker: Any) -> None:
        if self._limits is not None:
            self._limits.restore_original_limits()


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
