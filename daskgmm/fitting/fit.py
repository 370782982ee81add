"""A fit from beginning to end: survey, start, EM on all rows, closing pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.data.cache import plan_keep
from daskgmm.data.executor import Executor, current_executor, one_blas_thread
from daskgmm.data.memory import Need, check_memory, takes_compiled_kernel
from daskgmm.data.passes import Passes
from daskgmm.data.rows import Rows
from daskgmm.data.source import Source
from daskgmm.data.survey import Survey, SurveyPass, sample_threshold
from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.checks import check_shape, check_survey
from daskgmm.fitting.events import Listener, PassDone, ignore
from daskgmm.fitting.loop import Candidate, Status, check_counts, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.start import sample_size, starts
from daskgmm.mixture.criteria import aic, bic
from daskgmm.mixture.estep import EStep
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.plan import Plan, make_plan
from daskgmm.mixture.statistics import Statistics

Floats = NDArray[np.float64]

#: Packed parameters of one pass at most; its graph stays below Dask's limit for a warning, 10 MB. More go in waves.
WAVE_BYTES = 9_000_000


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    Attributes
    ----------
    parameters : Parameters
    status : Status
    lower_bounds : tuple of float
        Mean log-likelihood of the parameters that went into each iteration, nats.
    lower_bound : float
        The last of these: scikit-learn's lower_bound_.
    log_likelihood : float
        Total log-likelihood of the *final* parameters, nats, from the closing pass.
    n_rows, n_dropped : int
        Rows that counted, and rows dropped as non-finite.
    weight : float
        Sum of the row weights.
    n_passes : int
        Sweeps over the data, survey and closing pass included, and the one that counted the rows of a Dask array.
    bytes_read : int
        Decoded bytes that came from the source in all of them; what was kept after the first is read once.
    cached_bytes : int
        Decoded bytes that stayed in memory for the later passes.
    history : tuple of dict
        One record a pass and candidate: pass, what, candidate, mean_log_likelihood, change, status, seconds, bytes.
    """

    parameters: Parameters
    status: Status
    lower_bounds: tuple[float, ...]
    lower_bound: float
    log_likelihood: float
    n_rows: int
    n_dropped: int
    weight: float
    n_passes: int
    bytes_read: int
    cached_bytes: int
    seconds: float
    history: tuple[dict[str, Any], ...]

    @property
    def mean_log_likelihood(self) -> float:
        """Mean log-likelihood of the final parameters per unit of row weight, nats."""
        return self.log_likelihood / self.weight

    @property
    def n_iter(self) -> int:
        return len(self.lower_bounds)

    @property
    def aic(self) -> float:
        return aic(self.log_likelihood, self.parameters.n_free)

    @property
    def bic(self) -> float:
        return bic(self.log_likelihood, self.parameters.n_free, self.weight)


def fit_mixture(
    X: Source,
    options: FitOptions,
    *,
    weights: Source | None = None,
    warm: tuple[Parameters, float] | None = None,
    executor: Executor | None = None,
    listener: Listener = ignore,
) -> Fit:
    """Return the mixture fitted by exact EM to all rows of a source.

    Parameters
    ----------
    X : Source
    options : FitOptions
    weights : Source or None
        Row weights, one for each row of X.
    warm : (Parameters, float) or None
        Parameters to go on from, and their lower bound; replaces the start.
    executor : Executor or None
        Where passes run; None takes the current distributed client, or this process.
    listener : callable
        Receives a `PassDone` after each pass.

    Raises
    ------
    DataError, OptionError, MemoryLimitError, CollapsedComponentError
        Before anything is read where metadata tell it.
    """
    executor = current_executor() if executor is None else executor
    check_shape(X, n_components=options.n_components)
    options.given(X.n_features)
    need = fit_need(options, X)
    rows = Rows.plan(X, weights)
    rows = rows.in_tasks(state_bytes=need.state_bytes(X.n_features), n_threads=executor.n_threads())
    rows = check_memory(rows, need, executor)
    keep = plan_keep(options.cache, rows, need, executor)
    with one_blas_thread(executor), Passes(rows, executor, keep) as passes:
        return _Run(passes, options, listener, compiled=need.compiled).fit(warm)


def fit_need(options: FitOptions, X: Source) -> Need:
    """Return what a fit needs in a worker's memory beside the rows."""
    k, n_features = options.n_components, X.n_features
    packed = 8 * k * (1 + n_features + options.kind.n_second(n_features, exact=True))
    sample = 8 * (n_features + 1) * sample_size(options, X.n_rows, n_features)
    n_candidates = min(options.n_init, max(1, WAVE_BYTES // packed))
    return Need(options.kind, k, n_candidates, sample, takes_compiled_kernel(X.n_rows, options.kind, k, n_features))


def n_counting_passes(X: Source) -> int:
    """Return the passes that opening the source took: one for a Dask array of unknown chunk sizes, else none."""
    return int(getattr(X, "counted", False))


class _Run:
    """The passes of one fit, counted and timed."""

    def __init__(self, passes: Passes, options: FitOptions, listener: Listener, *, compiled: bool) -> None:
        self._passes, self._options, self._listener = passes, options, listener
        rows = passes.rows
        self._n_passes, self._seconds, self._began = n_counting_passes(rows.X), 0.0, perf_counter()
        self._history: list[dict[str, Any]] = []
        self._compiled = compiled

    def fit(self, warm: tuple[Parameters, float] | None) -> Fit:
        survey = self._survey(take_sample=warm is None)
        candidates = self._candidates(survey, warm)
        row_set = survey.row_set
        done = run_em(
            candidates, self._statistics, self._options, row_set=row_set, n_rows=survey.n_rows, after_pass=self._report
        )
        best = _best(done)
        log_likelihood = self._closing(best, survey)
        return Fit(
            parameters=best.parameters,
            status=best.status,
            lower_bounds=best.lower_bounds,
            lower_bound=best.lower_bound,
            log_likelihood=log_likelihood,
            n_rows=survey.n_rows,
            n_dropped=survey.n_dropped,
            weight=survey.weight,
            n_passes=self._n_passes,
            bytes_read=self._passes.bytes_read + n_counting_passes(self._rows.X) * self._rows.n_bytes,
            cached_bytes=self._passes.bytes_kept,
            seconds=perf_counter() - self._began,
            history=tuple(self._history),
        )

    @property
    def _rows(self) -> Rows:
        return self._passes.rows

    def _survey(self, *, take_sample: bool) -> Survey:
        rows, options = self._rows, self._options
        n_rows, n_features = rows.X.n_rows, rows.X.n_features
        n_sample = sample_size(options, n_rows, n_features) if take_sample else 0
        threshold = sample_threshold(n_rows, n_sample) if n_sample else -1
        work = SurveyPass(n_features, options.kind.pooled, options.seed, threshold)
        with self._timed():
            survey = self._passes.run(work, name="survey")
        check_survey(survey, rows, n_components=options.n_components, non_finite=options.non_finite)
        if survey.n_dropped == 0:
            self._passes.rows = rows.trusted()
        self._tell("survey", [])
        return survey

    def _candidates(self, survey: Survey, warm: tuple[Parameters, float] | None) -> list[Candidate]:
        if warm is not None:
            return [Candidate(0, warm[0], previous=warm[1])]
        n_features = self._rows.X.n_features
        X = np.concatenate([np.empty((0, n_features)), *survey.sample])
        weights = np.concatenate([np.empty(0), *survey.sample_weights])
        return [Candidate(i, p) for i, p in enumerate(starts(X, weights, self._options, n_features=n_features))]

    def _statistics(self, plans: Sequence[Plan]) -> list[Statistics]:
        found: list[Statistics] = []
        with self._timed(n_passes=0):
            for wave in _waves(plans):
                self._n_passes += 1
                work = EStep(wave, compiled=self._compiled)
                states: list[Statistics] = self._passes.run(work, name="em")
                found += states
        return found

    def _closing(self, best: Candidate, survey: Survey) -> float:
        plan = make_plan(best.parameters, origin=survey.mean, kernel=self._options.kernel)
        with self._timed():
            work = EStep([plan], statistics=False, compiled=self._compiled)
            (found,) = self._passes.run(work, name="closing")
        check_counts(found, row_set=survey.row_set, n_rows=survey.n_rows)
        log_likelihood = found.log_sum
        self._tell("closing", [best], mean_log_likelihood=log_likelihood / survey.weight)
        return log_likelihood

    @contextmanager
    def _timed(self, *, n_passes: int = 1) -> Iterator[None]:
        began = perf_counter()
        self._n_passes += n_passes
        yield
        self._seconds = perf_counter() - began

    def _report(self, candidates: Sequence[Candidate]) -> None:
        self._tell("em", candidates)

    def _tell(self, what: str, candidates: Sequence[Candidate], *, mean_log_likelihood: float | None = None) -> None:
        rows, running = self._rows, [c for c in candidates if c.status is Status.RUNNING]
        # (The likelihood of a candidate rises without bound before it collapses.)
        alive = [c for c in candidates if c.status is not Status.COLLAPSED] or candidates
        shown = max(alive, key=lambda c: c.lower_bound, default=None)
        if mean_log_likelihood is None and shown is not None and shown.lower_bounds:
            mean_log_likelihood = shown.lower_bound
        left = max((self._options.max_iter - c.n_iter for c in running), default=0) + 1
        event = PassDone(
            number=self._n_passes,
            what=what,
            rows=rows.X.n_rows,
            n_bytes=rows.n_bytes,
            seconds=self._seconds,
            mean_log_likelihood=mean_log_likelihood,
            change=shown.change if shown is not None and what == "em" and np.isfinite(shown.change) else None,
            n_running=len(running),
            remaining_seconds=None if what != "em" else left * self._seconds,
        )
        concerned: Sequence[Candidate | None] = candidates or [None]
        self._history += [_record(event, candidate) for candidate in concerned]
        self._listener(event)


def _record(event: PassDone, candidate: Candidate | None) -> dict[str, Any]:
    """Return what the history keeps of a pass for one candidate: JSON, None where there is no finite number."""
    known = {k: v for k, v in asdict(event).items() if k in ("what", "seconds", "n_bytes")}
    record: dict[str, Any] = {"pass": event.number, **known, "candidate": None, "mean_log_likelihood": None}
    record |= {"change": None, "status": None}
    if candidate is not None:
        record |= {"candidate": candidate.index, "status": candidate.status.value}
        if event.what == "closing":
            record["mean_log_likelihood"] = event.mean_log_likelihood
        elif candidate.lower_bounds:
            record["mean_log_likelihood"] = candidate.lower_bound
            record["change"] = candidate.change if np.isfinite(candidate.change) else None
    return record


def _waves(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Return the plans in order, cut so that the parameters of a wave take at most WAVE_BYTES."""
    waves: list[list[Plan]] = []
    size = 0
    for plan in plans:
        size += plan.n_bytes
        if not waves or size > WAVE_BYTES:
            waves.append([])
            size = plan.n_bytes
        waves[-1].append(plan)
    return waves


def _best(candidates: Sequence[Candidate]) -> Candidate:
    alive = [c for c in candidates if c.status is not Status.COLLAPSED]
    if not alive:
        raise CollapsedComponentError(candidates[0].error)
    return max(alive, key=lambda c: c.lower_bound)
