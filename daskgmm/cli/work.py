"""The rows of a command and the machines for its passes: memory stated before, resources measured after."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from daskgmm.errors import MemoryLimitError
from daskgmm.passes.cache import Cache, kept_worker_bytes
from daskgmm.passes.executor import Executor
from daskgmm.passes.local_executor import LimitedExecutor
from daskgmm.passes.memory import memory_limit, needed_in, peak_own_bytes, promise_memory, stated_bytes, tightest
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.places.log import say
from daskgmm.places.machines import Machines, peak_bytes
from daskgmm.places.place import Place
from daskgmm.sources.columns import feature_names
from daskgmm.sources.partition import MIB
from daskgmm.sources.source import Source


@dataclass(frozen=True)
class Work:
    """What a command goes over.

    Attributes
    ----------
    rows : Rows
    need : Need
        What a task needs beside them.
    cluster : Place
    cache : {"auto", True, False}
        Whether rows stay in memory after the first pass.
    """

    rows: Rows
    need: Need
    cluster: Place
    cache: Cache = False

    @contextmanager
    def on_machines(self, began: float) -> Iterator[Running]:
        """Provide machines for the work; what is found, and the stated peak memory, are logged first.

        Raises
        ------
        MemoryLimitError
            A task does not fit; where limits are known, before anything is started.
        ClusterError
            No scheduler, or no workers in time.
        """
        n_partitions = self.rows.n_partitions
        alone = n_partitions == 1
        if not self.cluster.joins:
            n_local = 0 if alone else self.cluster.n_processes(n_partitions)
            before = LimitedExecutor(self.cluster.limit_bytes(n_partitions), n_threads=n_local or None)
            promise_memory(self.rows, self.need, before, n_workers=n_local)
        say(self._found())
        with self.cluster.machines(n_partitions) as where:
            try:
                rows, need = promise_memory(self.rows, self.need, where.executor)
            except MemoryLimitError as error:
                if not self.cluster.joins:
                    raise
                # (Its workers run already, with limits of their own.)
                remedy = re.sub(
                    r"\(`memory_limit` (\w+)\)", r"where they are started (dask worker --memory-limit \1)", error.remedy
                )
                raise MemoryLimitError(error.argument, error.requirement, error.got, remedy) from error
            rooms = [] if memory_limit(rows, where.executor) is None else where.executor.task_rooms()
            room = tightest(rooms, rows, need) if rooms else None
            limit = None if room is None else room.limit_bytes
            stated = stated_bytes(rows, need) if room is None else needed_in(room, rows, need)
            stated += kept_worker_bytes(self.cache, rows, need, where.executor)
            against = f", of its limit of {size(limit)}" if limit else ""
            place = "this process (one partition) with" if alone else f"{where.where}, each with"
            own = stated if alone else peak_own_bytes(rows, need, driving=True)
            beside = "" if alone else f", and at most {size(own)} in this process"
            say(
                f"Running in {place} at most {size(stated)} of memory{against}{beside}.",
                stated_peak_bytes=stated, stated_driver_bytes=own,
            )  # fmt: skip
            yield Running(where, stated, own, rows, need, began, limit)

    def _found(self) -> str:
        X, n_chunks, n_partitions = self.rows.X, len(self.rows.X.chunk_edges) - 1, self.rows.n_partitions
        weighted = "" if self.rows.weights is None else f", weighted by {self.rows.weights.label}"
        return (
            f"{X.label}: {X.n_rows:,} rows of {count(X.n_features, 'feature')}{_names_of(X)}, {X.dtype}{weighted}; "
            f"{size(self.rows.n_bytes)} in {count(n_chunks, 'chunk')}, read as {count(n_partitions, 'partition')}."
        )


def _names_of(X: Source) -> str:
    """Return the names of features in brackets, the middle ones of many left out, so that a wrong choice is seen."""
    names = feature_names(X.column_labels) or []
    shown = [*names[:4], "...", names[-1]] if len(names) > 6 else names
    return f" ({', '.join(shown)})" if names else ""


@dataclass(frozen=True)
class Running:
    """Work on its machines.

    Attributes
    ----------
    where : Machines
    stated, stated_driver : int
        Bytes that a worker, and this process, take at peak.
    rows, need : Rows, Need
        As tasks, and what these need, as memory allows.
    began : float
    limit : int or None
        Bytes that a worker may take.
    """

    where: Machines
    stated: int
    stated_driver: int
    rows: Rows
    need: Need
    began: float
    limit: int | None

    @property
    def executor(self) -> Executor:
        return self.where.executor

    def resources(self, bytes_read: int) -> dict[str, Any]:
        """Return what the work took, as a part of the result: bytes, seconds since `began`, and processes."""
        own = self.rows.n_partitions == 1
        return {
            "partitions": self.rows.n_partitions,
            "bytes_read": bytes_read,
            "seconds": perf_counter() - self.began,
            "workers": 0 if own else self.where.n_workers,
            "peak_worker_bytes": peak_bytes() if own else self.where.peak_worker_bytes(),
            "stated_peak_bytes": self.stated,
            "peak_driver_bytes": peak_bytes(),
            "stated_driver_bytes": self.stated_driver,
            "memory_limit": self.where.executor.memory_limit() if self.limit is None else self.limit,
        }


def count(number: int, noun: str) -> str:
    """Return so many things in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(n_bytes: int) -> str:
    """Return a number of bytes in words."""
    unit, size = next(((u, s) for u, s in (("GiB", MIB << 10), ("MiB", MIB)) if n_bytes >= s), ("KiB", 1024))
    return f"{n_bytes / size:.3g} {unit}"
