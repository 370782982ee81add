"""What a person could change where a plan does not fit, or takes longer than it must; each with its gain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from daskgmm.cli.input import Input
from daskgmm.cli.plan_text import duration_of
from daskgmm.cli.planned import Planned
from daskgmm.cli.work import Work
from daskgmm.errors import MemoryLimitError, verbatim
from daskgmm.fitting.forecast import forecast
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.loops import can_compile
from daskgmm.passes.local_executor import LimitedExecutor
from daskgmm.passes.memory import loaded_bytes, mib, peak_task_bytes, promise_memory, stated_bytes
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.sources.partition import MIB, RUN_BYTES

#: What gains less is not worth a sentence.
_WORTH = 0.85
#: Below this share of its core a thread is not alone on it.
_BUSY = 0.75
#: Limits that are named are whole multiples of so many bytes.
_STEP_BYTES = 64 * MIB


def would_fit(work: Work) -> str:
    """Return with which limit, or how many workers, what does not fit would; "" where nothing of that helps."""
    place = work.cluster
    if not isinstance(place, DaskCluster) or place.joins:  # (whose workers run already: the error says what suffices)
        return ""
    least = least_limit(work)
    n_partitions = work.rows.n_partitions
    n = 0 if n_partitions == 1 else place.n_processes(n_partitions)
    limits = [place.memory_limit] if place.memory_limit is None or place.memory_limit >= least else []
    for n_workers in range(n, min(n, 1) - 1, -1):
        for limit in (*limits, least):
            other = replace(place, workers=n_workers or place.workers, memory_limit=limit)
            executor = LimitedExecutor(other.limit_bytes(n_partitions), n_threads=n_workers or None)
            try:
                promise_memory(work.rows, work.need, executor, n_workers=n_workers)
            except MemoryLimitError:
                continue
            changed = [f"`workers` {n_workers}"] if n_workers != n else []
            changed += (
                [f"`memory_limit` {limit // MIB}MiB"] if limit is not None and limit != place.memory_limit else []
            )
            return f"With {' and '.join(changed)} it fits." if changed else ""
    return ""


def least_limit(work: Work) -> int:
    """Return the least limit of a worker, or of this process where it does all, bytes: nothing is read ahead."""
    need = replace(work.need, n_candidates=1)
    cut = work.rows.in_tasks(state_bytes=need.state_bytes(work.rows.X.n_features), n_threads=1)
    return -(-stated_bytes(replace(cut, prefetch=False), need) // _STEP_BYTES) * _STEP_BYTES


def advice(planned: Planned, options: FitOptions, data: Input) -> list[str]:
    """Return what could be better, whole sentences."""
    return [*_of_memory(planned), *_of_machines(planned, options), *_of_the_pass(planned, options, data)]


def _of_memory(planned: Planned) -> Iterator[str]:
    rows, need = planned.rows, planned.need
    if planned.worker_limit is not None and not rows.prefetch:
        n_threads = planned.n_threads // max(1, planned.n_workers)
        ahead = stated_bytes(replace(rows, prefetch=True), need, n_threads=n_threads)
        if ahead <= planned.worker_limit:  # (of which Dask, or others on the worker, leave less)
            ahead = planned.worker_limit + ahead - stated_bytes(rows, need, n_threads=n_threads)
        yield (f"A worker has no memory to read ahead while it computes: --memory-limit {_up(ahead)} or more lets it.")
    if need.n_candidates < planned.wanted.n_candidates:
        yield (
            f"Only {need.n_candidates} of {planned.wanted.n_candidates} candidates go in one pass for lack of memory, "
            f"so that there are more passes: raise --memory-limit above {mib(planned.worker_limit or 0)}, or lower "
            "--restarts."
        )
    if rows.X.chunk_bytes > 2 * RUN_BYTES and rows.n_partitions > 1:
        n_rows = max(1, RUN_BYTES // rows.X.row_bytes)
        yield (
            f"Chunks of {mib(rows.X.chunk_bytes)} are what a worker's memory is taken by. To need less, "
            f"{verbatim(rows.X.rechunking(f'({n_rows}, {rows.X.n_features})'))}"
        )


def _of_machines(planned: Planned, options: FitOptions) -> Iterator[str]:
    n, n_tasks = planned.n_threads, planned.rows.n_tasks
    if planned.n_workers and n > planned.n_workers:
        yield (
            f"Workers have {n / planned.n_workers:.3g} threads each, which wait for one interpreter, and share its "
            "memory: processes of one thread (dask worker --nthreads 1 --nworkers N) are faster."
        )
    if planned.n_workers and n > n_tasks:
        yield (
            f"{n} threads have {n_tasks} tasks, so that {n - n_tasks} are idle: take {n_tasks}, or store the rows in "
            "smaller chunks, where these are larger than 64 MiB."
        )
    spare = planned.n_workers and planned.tried.threads_a_core < 1
    if planned.n_workers and (spare or n > 2 * planned.n_workers or n_tasks >= 2 * n):
        more = replace(planned.tried, threads_a_core=min(1.0, 2 * planned.tried.threads_a_core))
        kept = planned.kept_bytes / planned.rows.n_bytes
        other = forecast(more, planned.rows, planned.need, options, n_threads=2 * n, kept=kept)
        gain = other.em.seconds / planned.forecast.em.seconds
        if gain < _WORTH and planned.forecast.seconds.most > 600:
            yield f"Twice as many workers, on cores of their own, bring a pass to {duration_of(other.em.seconds)}."


def _of_the_pass(planned: Planned, options: FitOptions, data: Input) -> Iterator[str]:
    found, rows, em = planned.tried, planned.rows, planned.forecast.em
    if found.n_spoiled and data.non_finite == "error":
        yield (
            f"{found.n_spoiled:,} of the {found.n_rows:,} rows that were tried hold a NaN or an infinity, which a fit "
            "refuses: --non-finite drop leaves such rows out."
        )
    if found.got < _BUSY:
        yield (
            f"Other processes have the cores, too: the threads of the trial got {found.got:.0%} of theirs. Times are "
            f"as they are now; alone a pass would take some {duration_of(found.got * em.seconds)}."
        )
    if options.precision == "double" and em.binds == "computing" and found.single < _WORTH:
        yield f"--precision single computes in {found.single:.0%} of the time, good to 1e-3 nats a row."
    if em.binds == "computing" and not can_compile() and rows.X.n_features <= 16 and options.n_components > 1:
        yield 'pip install "daskgmm[compiled]" computes up to 1.7 times as fast with so few features.'
    if planned.kept_bytes < rows.n_bytes and rows.X.decodes and em.binds in ("storage", "decoding"):
        n = max(1, planned.n_workers)
        threads = planned.n_threads / n
        # (With more memory rows are read ahead, too.)
        task = peak_task_bytes(replace(rows, prefetch=True), planned.wanted)
        limit = 2 * (rows.n_bytes / n + loaded_bytes(planned.wanted) + threads * task)
        all_kept = forecast(found, rows, planned.need, options, n_threads=planned.n_threads, kept=1.0)
        if all_kept.em.seconds < _WORTH * em.seconds:
            yield (
                f"With --memory-limit {_up(limit)} all decoded rows stay in memory, and a pass after the first takes "
                f"{duration_of(all_kept.em.seconds)}."
            )
    if em.binds == "storage" and planned.n_workers:
        yield "Storage binds: more workers on this machine gain nothing; a nearer or compressed copy does."
    if em.binds == "scheduler":
        yield "The scheduler binds: fewer workers do as well."


def _up(n_bytes: float) -> str:
    return f"{-(-int(n_bytes) // _STEP_BYTES) * _STEP_BYTES // MIB}MiB"
