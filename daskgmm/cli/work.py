"""The rows of a command and the machines for its passes: memory stated before, resources measured after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from daskgmm.errors import MemoryLimitError
from daskgmm.passes.cache import Cache, kept_worker_bytes
from daskgmm.passes.executor import Executor
from daskgmm.passes.local_executor import LimitedExecutor
from daskgmm.passes.memory import MIB, Need, check_memory, peak_worker_bytes
from daskgmm.passes.own_memory import check_own_memory, peak_own_bytes
from daskgmm.passes.rows import Rows
from daskgmm.places.log import say
from daskgmm.places.machines import Machines, peak_bytes
from daskgmm.places.place import Place


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
            before = LimitedExecutor(self.cluster.limit_bytes(n_partitions))
            work = self._checked(before)
            n_local = 0 if alone else self.cluster.n_processes(n_partitions)
            check_own_memory(work.rows, work.need, before, n_workers=n_local)
        say(self._found())
        with self.cluster.machines(n_partitions) as where:
            try:
                work = self._checked(where.executor)
            except MemoryLimitError as error:
                if not self.cluster.joins:
                    raise
                # (Its workers run already, with limits of their own.)
                there = "where they are started (dask worker --memory-limit)"
                remedy = error.remedy.replace("(`memory_limit`)", there)
                raise MemoryLimitError(error.argument, error.requirement, error.got, remedy) from error
            if self.cluster.joins:
                check_own_memory(work.rows, work.need, where.executor)
            stated = work._stated() + kept_worker_bytes(self.cache, work.rows, work.need, where.executor)
            limit = where.executor.memory_limit()
            against = f", of its limit of {_size(limit)}" if limit else ""
            place = "this process (one partition) with" if alone else f"{where.where}, each with"
            own = stated if alone else peak_own_bytes(work.rows, work.need, driving=True)
            beside = "" if alone else f", and at most {_size(own)} in this process"
            say(
                f"Running in {place} at most {_size(stated)} of memory{against}{beside}.",
                stated_peak_bytes=stated, stated_driver_bytes=own,
            )  # fmt: skip
            yield Running(where, stated, own, n_partitions, began)

    def _checked(self, executor: Executor) -> Work:
        """Return the work as the workers' memory allows: in waves of fewer candidates, or without prefetch."""
        try:
            work = replace(self, rows=check_memory(self.rows, self.need, executor))
        except MemoryLimitError:
            if self.need.n_candidates == 1 or self.rows.n_partitions == 1:
                raise
            return self._halved()._checked(executor)
        stated, limit = work._stated(), executor.memory_limit()
        if limit is not None and limit < stated and work.rows.prefetch:
            work = replace(work, rows=replace(work.rows, prefetch=False))
            stated = work._stated()
        if limit is not None and limit < stated:
            raise MemoryLimitError(
                "A worker's memory" if self.cluster.joins else "`memory_limit`",
                f"be at least the {_size(stated)} that the work takes",
                _size(limit),
                "Give more memory.",
            )
        return work

    def _halved(self) -> Work:
        """Return the work in waves of half as many candidates."""
        need = replace(self.need, n_candidates=self.need.n_candidates // 2)
        rows = self.rows.in_tasks(state_bytes=need.state_bytes(self.rows.X.n_features), n_threads=1)
        return replace(self, rows=rows, need=need)

    def _stated(self) -> int:
        """Return the bytes that a process of the work takes at peak."""
        if self.rows.n_partitions == 1:
            return peak_own_bytes(self.rows, self.need, driving=False)
        return peak_worker_bytes(self.rows, self.need)

    def _found(self) -> str:
        X, n_chunks, n_partitions = self.rows.X, len(self.rows.X.chunk_edges) - 1, self.rows.n_partitions
        weighted = "" if self.rows.weights is None else f", weighted by {self.rows.weights.label}"
        return (
            f"{X.label}: {X.n_rows:,} rows of {_count(X.n_features, 'feature')}, {X.dtype}{weighted}; "
            f"{_size(self.rows.n_bytes)} in {_count(n_chunks, 'chunk')}, read as {_count(n_partitions, 'partition')}."
        )


@dataclass(frozen=True)
class Running:
    """Work on its machines."""

    where: Machines
    stated: int
    stated_driver: int
    n_partitions: int
    began: float

    @property
    def executor(self) -> Executor:
        return self.where.executor

    def resources(self, bytes_read: int) -> dict[str, Any]:
        """Return what the work took, as a part of the result: bytes, seconds since `began`, and processes."""
        own = self.n_partitions == 1
        return {
            "partitions": self.n_partitions,
            "bytes_read": bytes_read,
            "seconds": perf_counter() - self.began,
            "workers": 0 if own else self.where.n_workers,
            "peak_worker_bytes": peak_bytes() if own else self.where.peak_worker_bytes(),
            "stated_peak_bytes": self.stated,
            "peak_driver_bytes": peak_bytes(),
            "stated_driver_bytes": self.stated_driver,
            "memory_limit": self.where.executor.memory_limit(),
        }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(n_bytes: int) -> str:
    unit, size = next(((u, s) for u, s in (("GiB", MIB << 10), ("MiB", MIB)) if n_bytes >= s), ("KiB", 1024))
    return f"{n_bytes / size:.3g} {unit}"
