"""What a fit will take, from what a trial measured: arithmetic, nothing is read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import ceil, log2

import numpy as np
from dask.system import CPU_COUNT

from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.race import FINAL_PASSES, STAGE_PASSES
from daskgmm.fitting.sample import MOST_TASKS, VISITS, race_size, sample_size
from daskgmm.fitting.trial import Tried
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows

#: What a pass takes beyond its parts: threads that wait for a lock, or for the last task (measured: 1.04 to 1.18).
EXCESS = 1.1
#: Seconds of scheduler and client for a task of a cluster, and of what happens between two passes.
TASK_SECONDS, BETWEEN_SECONDS = 1.6e-3, 0.02
#: Passes over all rows until a fit has converged, by `tol`: of nine fits in ten from starts on a sample at least and at
#: most, and how many times as many plain EM takes (examples/benchmarks/optimum: 175 fits of 35 data sets, and 60).
_TOLS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_LEAST, _MOST, _PLAIN = (5, 4, 3, 2, 2, 2), (21, 18, 13, 7, 4, 3), (6.3, 6.3, 4.5, 2.7, 1.8, 1.8)
#: The same from the centres of k-means, which no EM on a sample has prepared.
_LEAST_UNPREPARED, _MOST_UNPREPARED = (7, 7, 7, 6, 4, 3), (31, 30, 29, 24, 17, 9)
#: Rounds of k-means||, each a pass.
_SEARCH_PASSES = 6
#: Rows a second of the race on the sample over those of passes, for each of its threads: its tasks are short, and
#: k-means and moves are not counted as visits.
_RACE_RATE = 0.5


@dataclass(frozen=True)
class Range:
    """A number between two others."""

    least: float
    most: float


@dataclass(frozen=True)
class PassTime:
    """Seconds of a pass.

    Attributes
    ----------
    seconds : float
        By the clock.
    read, decode, compute, schedule : float
        By the clock, if it were all that is done: waiting for storage, decoding, computing on all threads, and
        scheduling.
    """

    seconds: float
    read: float
    decode: float
    compute: float
    schedule: float

    @property
    def binds(self) -> str:
        """What it is that takes longest: "storage", "decoding", "computing" or "scheduler"."""
        parts = {
            "storage": self.read, "decoding": self.decode, "computing": self.compute, "scheduler": self.schedule
        }  # fmt: skip
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class Forecast:
    """What a fit will take.

    Attributes
    ----------
    survey, em : PassTime
        The first pass, and each one of EM, with as many candidates as begin.
    start : float
        Seconds of the start on a sample.
    start_rows : int
        Rows of the sample, in expectation.
    passes : Range
        All passes over the rows: survey, search, EM and closing.
    seconds : Range
        All of it, without what starts the machines.
    """

    survey: PassTime
    em: PassTime
    start: float
    start_rows: int
    passes: Range
    seconds: Range


def forecast(
    found: Tried, rows: Rows, need: Need, options: FitOptions, *, n_threads: int, kept: float = 0.0
) -> Forecast:
    """Return what a fit will take.

    Parameters
    ----------
    rows, need : Rows, Need
        As tasks, and what these need (`passes.memory.promise_memory`).
    n_threads : int
        Of all workers.
    kept : float
        Share of the rows that stays in memory after the first pass.
    """
    n_candidates = options.n_init if options.starts_on_all_rows else 1
    waves = -(-n_candidates // need.n_candidates)
    together = -(-n_candidates // waves)
    survey = pass_time(found, rows, n_threads=n_threads, compute=found.a_row.survey)
    em = pass_time(found, rows, n_threads=n_threads, compute=together * found.a_row.compute, kept=kept)
    alone = pass_time(found, rows, n_threads=n_threads, compute=found.a_row.compute, kept=kept)
    n_search = _SEARCH_PASSES if options.starts_on_all_rows else 0
    n_em = em_passes(options)
    start = start_seconds(found, options, rows.X.n_rows, rows.X.n_features)

    def total(n: float) -> float:
        # (Every few passes half of several candidates retire.)
        crowded = min(n, STAGE_PASSES * log2(n_candidates)) if n_candidates > 1 else 0.0
        of_em = crowded * waves * em.seconds + (n - crowded) * alone.seconds
        return survey.seconds + n_search * survey.seconds + start + of_em + alone.seconds

    n_others = 2 + n_search + rows.X.n_counting_passes
    return Forecast(
        survey,
        em,
        start,
        0 if options.is_closed_form else sample_size(options, rows.X.n_rows, rows.X.n_features),
        Range(n_others + n_em.least, n_others + n_em.most),
        Range(total(n_em.least), total(n_em.most)),
    )


def pass_time(found: Tried, rows: Rows, *, n_threads: int, compute: float, kept: float = 0.0) -> PassTime:
    """Return the seconds of a pass in which computing takes so many seconds a row.

    A thread reads ahead while it computes. What both take of a core they take one after the other where there are as
    many threads as cores.
    """
    read, decode = (1 - kept) * found.a_row.read, (1 - kept) * found.a_row.decode
    longest = longest_share(rows, n_threads)
    if rows.prefetch and rows.X.array is None:
        row = max(read, compute, (decode + compute) * min(1.0, found.threads_a_core))
    else:
        row = read + compute
    schedule = TASK_SECONDS * rows.n_tasks if rows.n_partitions > 1 else 0.0
    seconds = max(EXCESS * longest * row, schedule) + BETWEEN_SECONDS
    waiting, decoding = max(0.0, read - decode), min(read, decode)
    return PassTime(seconds, longest * waiting, longest * decoding, longest * compute, schedule)


def longest_share(rows: Rows, n_threads: int) -> int:
    """Return the rows of the thread that has most of them, where each takes the next task when it is free."""
    begins = np.append(rows.edges[: -1 : rows.per_task], rows.edges[-1])
    threads = [0] * max(1, min(n_threads, rows.n_tasks))
    heapify(threads)
    for n_rows in np.diff(begins).tolist():
        heapreplace(threads, threads[0] + n_rows)
    return max(threads)


def em_passes(options: FitOptions) -> Range:
    """Return how many passes of EM a fit takes, as a range."""
    if options.is_closed_form:
        return Range(1, 1)
    if options.tol == 0 or options.stopping is not None:
        return Range(options.max_iter if options.tol == 0 else 1, options.max_iter)
    i = max(bisect_right(_TOLS, options.tol * 1.001) - 1, 0)
    given = options.start_is_given or options.starts_on_all_rows
    least, most = (_LEAST_UNPREPARED[i], _MOST_UNPREPARED[i]) if given else (_LEAST[i], _MOST[i])
    if options.acceleration is None:
        most = ceil(most * _PLAIN[i])
    return Range(min(least, options.max_iter), min(most, options.max_iter))


def start_seconds(found: Tried, options: FitOptions, n_rows: int, n_features: int) -> float:
    """Return the seconds of the start on the sample, in threads of the process of the fit."""
    if options.is_closed_form or options.start_is_given or options.starts_on_all_rows:
        return 0.0
    raced, whole = race_size(options, n_rows, n_features), sample_size(options, n_rows, n_features)
    # (The winner goes on alone on all of the sample.)
    visits = VISITS * raced * options.n_init / 10 + FINAL_PASSES * whole
    return visits * found.a_row.compute / (_RACE_RATE * min(CPU_COUNT, MOST_TASKS))
