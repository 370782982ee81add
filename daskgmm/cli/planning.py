"""What `daskgmm plan` does: it states memory, tries one partition, and says what a fit will take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from daskgmm.cli.advice import advice, would_fit
from daskgmm.cli.given_start import Begun
from daskgmm.cli.input import Input
from daskgmm.cli.jobs import Result, fitting_work
from daskgmm.cli.planned import WORKER_SHARE, Planned
from daskgmm.cli.work import Running, Work
from daskgmm.errors import MemoryLimitError
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.device_options import refuse_cards
from daskgmm.fitting.forecast import forecast
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.need import checkpoint_bytes
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.trial import tried
from daskgmm.passes.cache import kept_worker_bytes, plan_keep
from daskgmm.passes.executor import Executor, Room
from daskgmm.passes.local_executor import LimitedExecutor
from daskgmm.passes.memory import peak_own_bytes, promise_memory, stated_bytes
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.places.place import Place
from daskgmm.sources.partition import MIB
from daskgmm.sources.stamps import stored_bytes

#: Limits are whole multiples of so many bytes.
STEP_BYTES = 64 * MIB


class _Elsewhere(LimitedExecutor):
    """Workers that are not there yet, of one thread each."""

    def rooms(self, *, travels: bool) -> list[Room]:
        return [Room(self._limit or 0, 1)] * (self._n_threads or 0)


def plan(data: Input, options: FitOptions, *, cluster: Place, elsewhere: bool, begun: Begun) -> tuple[Result, Planned]:
    """Return what a fit will take, as JSON, and as it was planned; nothing is written, and one partition is read.

    Parameters
    ----------
    elsewhere : bool
        Whether workers will be those of a cluster that is not there yet: this machine stands for theirs.
    """
    began = perf_counter()
    refuse_cards(options, "where a fit is planned, which tries processors alone")
    (X, weights), labels = data.open(names=begun.record.get("feature_names")), data.open_labels()
    begun.check(X, weights)
    errors = data.measured(X) or Measured()
    check_shape(X, n_components=options.least_rows, given=options.any_given)
    options.family.check(X.n_features)
    local = cluster if isinstance(cluster, DaskCluster) and not cluster.joins else None
    if local is not None:
        elsewhere = elsewhere and Rows.plan(X, weights).n_partitions > 1
        n_here = min(local.workers or CPU_COUNT, CPU_COUNT)
        cluster = replace(local, workers=n_here) if elsewhere else local
    work = fitting_work([options], X, weights, cluster, labels=labels, errors=errors)
    asked = errors.asked(options, X.n_features) if errors.are_given else options
    with _on_machines(work) as running:
        startup = perf_counter() - began
        threads = running.where.client.nthreads() if running.where.client and work.rows.n_partitions > 1 else None
        found = tried(running.rows, asked, running.executor, threads=threads)
        there = _there(running, work, options)
    if elsewhere and local is not None:
        there = _elsewhere(work, options, local)
    rows, need, n_workers, n_threads, worker_bytes, driver_bytes, limit, kept = there
    ahead = forecast(found, rows, need, options, n_threads=max(1, n_threads), kept=kept / rows.n_bytes)
    planned = Planned(
        rows, need, work.need, n_workers, n_threads, worker_bytes, driver_bytes, limit, kept, found, ahead, startup
    )
    return {**_record(planned, options), "advice": advice(planned, options, data)}, planned


_There = tuple[Rows, Need, int, int, int, int, int | None, int]


def _there(running: Running, work: Work, options: FitOptions) -> _There:
    """Return what memory allows on machines that are there, and the workers and threads of these."""
    rows, need, executor = running.rows, running.need, running.executor
    alone = rows.n_partitions == 1
    n_workers = 0 if alone else running.where.n_workers
    n_threads = 1 if alone else executor.n_threads() or CPU_COUNT
    kept = kept_bytes(options, rows, need, executor)
    return rows, need, n_workers, n_threads, running.stated, running.stated_driver, running.limit, kept


def _elsewhere(work: Work, options: FitOptions, cluster: DaskCluster) -> _There:
    """Return the same of workers that are not there yet: with the limit that is given, or one that suffices."""
    n = cluster.workers or CPU_COUNT
    limit = cluster.memory_limit
    if limit is None:
        limit = worker_limit(work.rows, work.need, n_threads=n)
    executor = _Elsewhere(limit, n_threads=n)
    rows, need = promise_memory(work.rows, work.need, executor)
    worker = stated_bytes(rows, need) + kept_worker_bytes(options.cache, rows, need, executor)
    own = peak_own_bytes(rows, need, driving=True)
    return rows, need, n, n, worker, own, limit, kept_bytes(options, rows, need, executor)


def worker_limit(rows: Rows, need: Need, *, n_threads: int) -> int:
    """Return a limit for workers of one thread in which all that a fit may want fits."""
    cut = rows.in_tasks(state_bytes=need.state_bytes(rows.X.n_features), n_threads=n_threads)
    return -(-int(stated_bytes(cut, need) / WORKER_SHARE) // STEP_BYTES) * STEP_BYTES


def kept_bytes(options: FitOptions, rows: Rows, need: Need, executor: Executor) -> int:
    """Return the decoded bytes that stay in memory after the first pass."""
    keep = plan_keep(options.cache, rows, need, executor)
    if keep is None:
        return 0
    rooms = executor.rooms(travels=rows.travels)
    return min(rows.n_bytes, sum(keep.room_bytes(room) for room in rooms))


@contextmanager
def _on_machines(work: Work) -> Iterator[Running]:
    """Provide machines; an error of memory says with what it would fit."""
    try:
        with work.on_machines(perf_counter()) as running:
            yield running
    except MemoryLimitError as error:
        remedy = " ".join(filter(None, (error.remedy, would_fit(work))))
        raise MemoryLimitError(error.argument, error.requirement, error.got, remedy) from error


def _record(planned: Planned, options: FitOptions) -> Result:
    """Return a plan as JSON."""
    rows, found, ahead = planned.rows, planned.tried, planned.forecast
    em, n_bytes = ahead.em, rows.n_bytes
    total = [planned.startup + ahead.seconds.least, planned.startup + ahead.seconds.most]
    return {
        "command": "plan",
        "rows": rows.X.n_rows,
        "features": rows.X.n_features,
        "components": options.n_components,
        "stored_bytes": stored_bytes({place for source in rows.sources for place in source.places}),
        "decoded_bytes": n_bytes,
        "chunks": len(rows.X.chunk_edges) - 1,
        "partitions": rows.n_partitions,
        "tasks": rows.n_tasks,
        "workers": planned.n_workers,
        "threads": planned.n_threads,
        "memory": {
            "stated_peak_bytes": planned.worker_bytes,
            "memory_limit": planned.worker_limit,
            "stated_driver_bytes": planned.driver_bytes,
            "machine_bytes": MEMORY_LIMIT,
            "kept_bytes": planned.kept_bytes,
            "reads_ahead": rows.prefetch,
            "candidates_at_once": planned.need.n_candidates,
        },
        "tried": {
            "partition": found.partition,
            "rows": found.n_rows,
            "bytes_read": found.n_bytes,
            "threads": found.n_shares,
            "share_of_core": found.got,
            "seconds_a_row": found.a_row._asdict(),
        },
        "pass": {
            "seconds": em.seconds,
            "read_seconds": em.read,
            "decode_seconds": em.decode,
            "compute_seconds": em.compute,
            "rows_per_second": rows.X.n_rows / em.seconds,
            "binds": em.binds,
        },
        "survey_seconds": ahead.survey.seconds,
        "start_seconds": ahead.start,
        "start_rows": ahead.start_rows,
        "startup_seconds": planned.startup,
        "passes": [int(ahead.passes.least), int(ahead.passes.most)],
        "total_seconds": total,
        "checkpoint_bytes": checkpoint_bytes(options, rows, planned.need),
    }  # fmt: skip
