"""A trial: rows of one partition are read, decoded and computed on, where the work will run, and each is timed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter, process_time, thread_time
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from dask.system import CPU_COUNT
from dask.task_spec import DataNode, Task, TaskRef
from numpy.typing import NDArray

from daskgmm.fitting.evaluate import Evaluator, RowSets
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.need import is_compiled
from daskgmm.fitting.one_component import of_sample
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample, sample_size
from daskgmm.fitting.start import moments_of, spread_of
from daskgmm.kernels.block import Block, block_length
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import Plan, make_plan, precision_called
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import maximise
from daskgmm.mixture.scaling import Scaling
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.current import for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.rows import Check, Cut, Rows, blocks, check_of
from daskgmm.passes.survey import SurveyPass, sample_threshold
from daskgmm.passes.travel import check_travel
from daskgmm.sources.partition import RUN_BYTES, runs_of
from daskgmm.sources.source import Reader, as_reader

#: Decoded bytes of the share of a thread: at least, where more threads could have one, and at most, but for a chunk.
LEAST_BYTES, MOST_BYTES = 4 << 20, 2 * RUN_BYTES
#: Rows that a mixture is found on, by so many EM steps: like enough to a fit's for its passes to cost the same.
_FEW_ROWS, _STEPS = 8192, 3


class Costs(NamedTuple):
    """Seconds: of reading by the clock, what decoding takes of it as CPU time, the survey, and a candidate's E-step."""

    read: float
    decode: float
    survey: float
    compute: float


@dataclass(frozen=True)
class Tried:
    """What rows cost that some threads went over at once, each its own share.

    Attributes
    ----------
    partition : int
        Number of the partition that they are of.
    n_shares : int
        Threads that took part.
    n_rows, n_bytes : int
        All rows that were read, and their decoded bytes.
    n_spoiled : int
        Those of them that hold a NaN or an infinity.
    a_row : Costs
        Seconds a row.
    single : float
        Time of an E-step in single precision over that; 1 where it is asked for, or gains nothing.
    got : float
        CPU time of the E-steps over their time by the clock: less than 1 where other processes have the cores, too.
    threads_a_core : float
        Of the machine with most threads for its cores: all threads of a pass, not those of the trial.
    """

    partition: int
    n_shares: int
    n_rows: int
    n_bytes: int
    n_spoiled: int
    a_row: Costs
    single: float
    got: float
    threads_a_core: float


@dataclass(frozen=True)
class Share:
    """What a thread found; what was timed leaves out the first run where there are more."""

    n_rows: int
    n_bytes: int
    n_spoiled: int
    n_timed: int
    took: Costs
    single: float
    got: float
    n_cores: int


@dataclass(frozen=True)
class Job:
    """What each thread does; travels with the tasks.

    Attributes
    ----------
    options : FitOptions
    n_features : int
    n_rows : int
        Of the whole input.
    compiled : bool
    columns : tuple of (str, int)
        What else comes with each row: names, and how many numbers.
    """

    options: FitOptions
    n_features: int
    n_rows: int
    compiled: bool
    columns: tuple[tuple[str, int], ...] = ()

    @property
    def check(self) -> Check:
        """How passes look at rows before it is known what they hold."""
        return check_of(self.options.non_finite)

    @property
    def survey(self) -> SurveyPass:
        o = self.options
        size = 0 if o.is_closed_form else sample_size(o, self.n_rows, self.n_features)
        threshold = sample_threshold(self.n_rows, size) if size else -1
        pairs = self.check == "marginalize" and o.family.shape.correlates
        return SurveyPass(self.n_features, o.family.shape.leaves_common_term(), o.seed, threshold, with_pairs=pairs)

    def plan(self, mixture: Mixture, *, precision: str | None = None) -> Plan:
        """Return how a pass computes a mixture."""
        return make_plan(
            mixture.parameters, origin=mixture.origin, kernel=self.options.kernel,
            precision=precision_called(precision or self.options.precision), compiled=self.compiled,
            gaps=self.check == "marginalize",
        )  # fmt: skip


class Mixture(NamedTuple):
    """A mixture, and the mean of the rows that it is of."""

    parameters: Parameters
    origin: Floats


def tried(rows: Rows, options: FitOptions, executor: Executor, *, threads: Mapping[str, int] | None = None) -> Tried:
    """Return what rows of one partition cost; no others are read, and none twice.

    Parameters
    ----------
    rows : Rows
        Of the fit.
    executor : Executor
        That of its passes.
    threads : mapping of str to int, optional
        Threads of each worker, by address; None does it in this process.
    """
    X = rows.X
    # (One in the middle: the last may be short, and the first may hold what a writer began with.)
    partition = (rows.n_partitions - 1) // 2
    start, stop = rows.edges[partition : partition + 2].tolist()
    n_threads = 1 if threads is None else sum(threads.values())
    bounds = shares(X.run_edges, start, stop, row_bytes=X.row_bytes, n_threads=n_threads)
    columns = tuple((name, each.n_features) for name, each in rows.columns.items())
    job = Job(options, X.n_features, X.n_rows, is_compiled(options, X), columns)
    workers = [] if threads is None else spread(threads)
    beside = 1 if threads is None else -(-len(bounds) // len(threads))
    check_travel(rows.sources, executor)
    with for_passes(executor):
        # (What is imported and compiled first would be timed, and others would read and compute alone meanwhile.)
        warm = min(len(threads or [0]), 64)
        _computed(executor, warmed, [(job,)] * warm, rows, list(threads or {}))
        args: list[list[Any]] = []
        graph: dict[Any, Any] = {}
        for source in rows.sources:
            nodes, found = source.arguments(bounds)
            graph.update(nodes)
            args.append(found)
        runs = runs_of(X.run_edges, np.unique(np.array(bounds)), row_bytes=X.row_bytes)
        names = tuple(rows.beside)
        items = [
            (job, tuple(own), beside, names, *each) for own, each in zip(runs, zip(*args, strict=True), strict=True)
        ]
        found_shares: list[Share] = _computed(executor, go_over, items, rows, workers, graph)
    return _together(found_shares, partition, threads)


def shares(
    run_edges: NDArray[np.int64], start: int, stop: int, *, row_bytes: int, n_threads: int
) -> list[tuple[int, int]]:
    """Return the neighbouring row ranges that threads go over at once, whole runs of the rows `start` to `stop`."""
    inside = run_edges[(run_edges > start) & (run_edges < stop)]
    edges = np.concatenate([[start], inside, [stop]])
    n = max(1, min(n_threads, len(edges) - 1, (stop - start) * row_bytes // LEAST_BYTES))
    length = min(-(-(stop - start) // n), max(1, MOST_BYTES // row_bytes))
    cut = [0]
    for i in range(1, n + 1):
        nearest = int(np.searchsorted(edges, start + i * length, side="right")) - 1
        cut.append(min(max(nearest, cut[-1] + 1), len(edges) - 1 - (n - i)))
    return list(pairwise(edges[cut].tolist()))


def spread(threads: Mapping[str, int]) -> list[str]:
    """Return the workers that threads belong to, one of each worker first."""
    return [address for i in range(max(threads.values())) for address, n in threads.items() if i < n]


def _computed(
    executor: Executor, call: Any, items: Sequence[tuple[Any, ...]], rows: Rows, workers: Sequence[str],
    graph: Mapping[Any, Any] | None = None,
) -> list[Any]:  # fmt: skip
    """Return the results of a call for each of some arguments, at once, each on its own worker."""
    name = f"daskgmm-trial-{uuid4().hex}"
    graph = dict(graph or {})
    keys = [(name, i) for i in range(len(items))]
    job = f"{name}-job"
    graph[job] = DataNode(job, items[0][0])
    for key, (_, *others) in zip(keys, items, strict=True):
        graph[key] = Task(key, call, TaskRef(job), *others)
    places = {key: [workers[i % len(workers)]] for i, key in enumerate(keys)} if workers else None
    return executor.compute(graph, keys, travels=rows.travels, places=places)


def warmed(job: Job) -> int:
    """Do the arithmetic once on rows out of nothing: what is imported, and compiled, is there then."""
    random = np.random.default_rng(0)
    x = random.standard_normal((job.n_features, max(256, 4 * job.options.n_components)))
    with blas_limit.held():
        estep = EStep([job.plan(_mixture(job, x.T))])
        columns = {name: np.ones((n, x.shape[1])) for name, n in job.columns}
        gaps = np.arange(x.size).reshape(x.shape) % 7 == 0 if job.check == "marginalize" else None
        estep.update(estep.zero(), Block(x, None, 0, columns=columns, gaps=gaps))
    return os.getpid()


def go_over(job: Job, runs: Sequence[int], n_beside: int, names: Sequence[str], x: Any, *beside: Any) -> Share:
    """Return what the rows of some runs cost, read one after the other, of which none is kept.

    `n_beside` shares are gone over in this process at once.
    """
    reader = as_reader(x, runs[0])
    others = {name: as_reader(each, runs[0]) for name, each in zip(names, beside, strict=True)}
    plan: Plan | None = None
    scaling: Scaling | None = None
    several, n_spoiled, n_bytes, n_timed, single = len(runs) > 2, 0, 0, 0, 1.0
    took, on_core = np.zeros(4), 0.0
    with blas_limit.held():
        for i, (start, stop) in enumerate(pairwise(runs)):
            began, cpu = perf_counter(), process_time()
            run = _touched(reader.read(start, stop))
            held = {name: _touched(each.read(start, stop)) for name, each in others.items()}
            read, decode = perf_counter() - began, (process_time() - cpu) / n_beside
            n_bytes += run.nbytes + sum(values.nbytes for values in held.values())
            cut = Cut(0, (start, stop), job.n_features, job.check, prefetch=False)
            in_memory = _Held(run, start), {name: _Held(values, start) for name, values in held.items()}
            began, work = perf_counter(), job.survey
            state = work.zero()
            for block in blocks(cut, *in_memory):
                state = work.update(state, block)
            survey, spoiled = perf_counter() - began, state.n_dropped
            n_spoiled += spoiled
            if plan is None:
                scaling = Scaling.of(state.row_set) if job.options.standardize and state.n_rows else None
                X = _finite(run, job)
                mixture = _mixture(job, X if scaling is None else scaling.values(X))
                plan, single = job.plan(mixture), _single(job, mixture, X)
            cut = replace(cut, check=job.check if spoiled or state.seen is not None else "trust", scaling=scaling)
            began, cpu, estep = perf_counter(), thread_time(), EStep([plan])
            sums = estep.zero()
            for block in blocks(cut, *in_memory):
                sums = estep.update(sums, block)
            if i or not several:
                n_timed, on_core = n_timed + stop - start, on_core + thread_time() - cpu
                took += [read, decode, survey, perf_counter() - began]
            del run, held, in_memory
    costs = Costs(*map(float, took))
    got = min(1.0, on_core / costs.compute)
    return Share(runs[-1] - runs[0], n_bytes, n_spoiled, n_timed, costs, single, got, CPU_COUNT)


class _Held(Reader):
    """Rows of a run, in memory."""

    def __init__(self, run: NDArray[Any], start: int) -> None:
        self._run, self._start = run, start

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self._run[start - self._start : stop - self._start]


def _touched(run: NDArray[Any]) -> NDArray[Any]:
    """Return rows that are in memory: of a mapped file they would be read only where they are computed on."""
    if isinstance(run, np.memmap) or isinstance(run.base, np.memmap):
        run.reshape(-1)[:: max(1, 4096 // run.itemsize)].sum()
    return run


def _finite(run: NDArray[Any], job: Job) -> Floats:
    """Return finite rows of a run, from all over it, gaps filled in; where there are none, rows out of nothing."""
    found = np.asarray(run[:: max(1, len(run) // _FEW_ROWS)], dtype=np.float64).reshape(-1, job.n_features)
    if job.check == "marginalize":
        found = Sample(found, np.ones(len(found)), np.arange(len(found), dtype=np.uint64), 0).filled
    found = found[np.isfinite(found).all(axis=1)]
    return found if len(found) else np.random.default_rng(0).standard_normal((256, job.n_features))


def _mixture(job: Job, X: Floats) -> Mixture:
    """Return a mixture that is like one fitted to such rows."""
    options, weights, origin = job.options, np.ones(len(X)), X.mean(axis=0)
    if options.is_closed_form:
        return Mixture(of_sample(X, weights, options), origin)
    k, shape, random = options.n_components, options.family.shape, np.random.RandomState(options.seed)
    scale = X.std(axis=0)
    Y = (X - origin) / np.where(scale > 0, scale, 1.0)
    centres = Y[random.choice(len(Y), size=k, replace=len(Y) < k)]
    labels = (Y @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)
    members = [(rows, weights[rows]) for rows in (np.flatnonzero(labels == j) for j in range(k))]
    # (So few rows make no covariances of their own.)
    options = replace(
        options, shrunk=float(options.family.least_rows(X.shape[1])), standardize=False, stopping=None, tol=0.0,
        max_iter=_STEPS, acceleration=None, kernel="rule" if job.columns else options.kernel,
    )  # fmt: skip
    spread = shape.regularise(spread_of(X, weights, shape, k), options.whole_prior.floor)
    found = moments_of(X, members, shape, random)
    start = maximise(found, options.family, previous=spread, prior=options.whole_prior)
    sample = Sample(X, weights, np.arange(len(X), dtype=np.uint64), options.seed)
    with sample.passes(options) as passes:
        row_sets: RowSets = {None: sample.row_set(passes, options)}
        fresh = Candidate.start(0, start, options, compiled=job.compiled)
        (after,) = run_em([fresh], Evaluator(passes).statistics, row_sets, after_pass=lambda _: None)
    return Mixture(start if after.status.is_lost else after.parameters, origin)


def _single(job: Job, mixture: Mixture, X: Floats) -> float:
    """Return the time of an E-step on a block in single precision, over that in double; 1 where it is asked for."""
    if job.options.precision == "single" or job.columns:
        return 1.0
    block = Block(np.ascontiguousarray(X[: block_length(job.n_features)].T), None, 0)
    seconds = []
    for precision in ("double", "single"):
        work = EStep([job.plan(mixture, precision=precision)])
        state = work.update(work.zero(), block)
        began = perf_counter()
        work.update(state, block)
        seconds.append(perf_counter() - began)
    return min(1.0, seconds[1] / seconds[0])


def _together(found: Sequence[Share], partition: int, threads: Mapping[str, int] | None) -> Tried:
    """Return what all shares say: seconds a row, by the rows of each."""
    n_timed = sum(share.n_timed for share in found)
    a_row = Costs(*(sum(seconds) / n_timed for seconds in zip(*(share.took for share in found), strict=True)))
    single, got = (
        sum(each * share.n_timed for each, share in zip(values, found, strict=True)) / n_timed
        for values in ([share.single for share in found], [share.got for share in found])
    )
    n_threads = 1 if threads is None else sum(threads.values())
    n_machines = len({address.rsplit(":", 1)[0] for address in threads or ("",)})
    return Tried(
        partition, len(found), sum(share.n_rows for share in found), sum(share.n_bytes for share in found),
        sum(share.n_spoiled for share in found), a_row, single, got,
        n_threads / n_machines / min(share.n_cores for share in found),
    )  # fmt: skip
