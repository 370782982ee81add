"""The passes of some models over the same rows: survey, starts on the sample, EM on all rows, closing pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from daskgmm.errors import ChangedDataError, CollapsedComponentError, DataError, OutputError
from daskgmm.fitting.checks import check_folds, check_shape, check_survey
from daskgmm.fitting.evaluate import Evaluator, Request, check_counts, check_weight
from daskgmm.fitting.events import Listener
from daskgmm.fitting.fit import Fit
from daskgmm.fitting.history import History
from daskgmm.fitting.joined import Joined, suspect
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.need import fit_need, in_waves, is_compiled
from daskgmm.fitting.one_component import of_rows, of_sample
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.parallel_start import far_points, parallel_starts
from daskgmm.fitting.polishing import Polishing
from daskgmm.fitting.race import Race
from daskgmm.fitting.remarks import remarks, spikes_of
from daskgmm.fitting.sample import FEW_ROWS, Sample, race_size, sample_size
from daskgmm.fitting.start import starts
from daskgmm.fitting.status import Status
from daskgmm.fitting.successor import split_starts
from daskgmm.kernels.folds import Fold, FoldPass
from daskgmm.kernels.plan import make_plan, precision_called
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.support import support_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from daskgmm.passes.cache import plan_keep
from daskgmm.passes.executor import Executor, current_executor, one_blas_thread
from daskgmm.passes.fingerprint import check_unchanged
from daskgmm.passes.memory import takes_compiled_kernel
from daskgmm.passes.own_memory import check_own_memory
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import Survey, SurveyPass, all_but, sample_threshold
from daskgmm.passes.tree import Passes
from daskgmm.sources.digest import digest
from daskgmm.sources.source import Source
from daskgmm.stores.checkpoint import Checkpoint, Steps
from daskgmm.stores.provenance import provenance

logger = logging.getLogger("daskgmm")


@dataclass(frozen=True)
class Model:
    """A model to be fitted, to all rows or to those outside of a fold."""

    options: FitOptions
    fold: Fold | None = None
    warm: tuple[Parameters, float] | None = None


@contextmanager
def running(
    models: Sequence[Model],
    X: Source,
    *,
    n_folds: int = 0,
    weights: Source | None,
    executor: Executor | None,
    listener: Listener,
    checkpoint: Checkpoint | None = None,
    columns: Mapping[str, Source] | None = None,
) -> Iterator[Run]:
    """Provide the run of some models over the same rows; what metadata tell is checked before anything is read.

    The models' options differ in n_components and covariance_type only. With a checkpoint it goes on from there.
    """
    if executor is None:
        every = [X, *([] if weights is None else [weights]), *(columns or {}).values()]
        executor = current_executor(travels=all(source.travels for source in every))
    for model in models:
        check_shape(X, n_components=model.options.n_components)
        model.options.given(X.n_features)
    rows = Rows.plan(X, weights, columns)
    n_columns = sum(column.n_features for column in rows.columns.values())
    rows, need = in_waves(rows, fit_need([m.options for m in models], X, n_columns=n_columns), executor)
    check_own_memory(rows, need, executor)
    keep = plan_keep(models[0].options.cache, rows, need, executor)
    with one_blas_thread(executor), Passes(rows, executor, keep, checkpoint) as passes:
        try:
            with nullcontext() if checkpoint is None else checkpoint.going_on():
                yield Run(Evaluator(passes, need.state_bytes(X.n_features)), models, n_folds, listener, checkpoint)
        except DataError:
            if checkpoint is not None:
                checkpoint.give_up()
            raise


class Run:
    """The passes of some models over the same rows. Making one surveys them."""

    def __init__(
        self,
        evaluator: Evaluator,
        models: Sequence[Model],
        n_folds: int,
        listener: Listener,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._began, self._checkpoint = perf_counter(), checkpoint
        self._evaluator, self._passes, self._models = evaluator, evaluator.passes, tuple(models)
        rows = self._passes.rows
        self._history = History(
            listener, n_models=len(models), n_rows=rows.X.n_rows, n_bytes=rows.n_bytes,
            n_passes=rows.X.n_counting_passes,
        )  # fmt: skip
        if checkpoint is not None:
            self._go_on(checkpoint)
        self.survey = self._surveyed(n_folds)
        if models[0].options.precision == "single" and _reach(self.survey) > FARTHEST_SINGLE:
            logger.warning("Values are too far apart for single precision, whose squares overflow: double is taken.")
            self._models = tuple(replace(m, options=replace(m.options, precision="double")) for m in models)
        self._sample = Sample.of(self.survey, models[0].options.seed)
        self._ended: dict[int, Candidate] = {}
        self._row_sets = self._of_folds()

    def fits(self, which: Sequence[int]) -> list[Fit]:
        """Return the fits of the models of these numbers.

        Raises
        ------
        CollapsedComponentError, NotFiniteError
            All candidates of one of them are lost: they collapsed, or are not finite.
        """
        found = self.polished({i: self.started(i) for i in which})
        return [_needed(found[i]) for i in which]

    def started(self, i: int) -> list[Candidate]:
        """Return the candidates of a model that go on to all rows; nothing is read for them."""
        model, options = self._models[i], self._models[i].options
        previous = -np.inf
        if model.warm is not None:
            found, previous = [model.warm[0]], model.warm[1]
        elif options.is_closed_form:
            found = [of_rows(self._row_sets[model.fold], options)]
        else:
            # (The steps that led there are let go with it.)
            found = self._once(f"start-{i}", lambda: self._starts(i), instead=f"start-{i}-")
        compiled = is_compiled(options, self._passes.rows.X)
        return [
            Candidate.start(j, p, options, fold=model.fold, previous=previous, compiled=compiled)
            for j, p in enumerate(found)
        ]

    def polished(
        self, started: dict[int, list[Candidate]], *, number: int = 0
    ) -> dict[int, Fit | CollapsedComponentError]:
        """Return the fits to all rows of the candidates of each model, which share every pass, or why there is none.

        `number` counts the rounds of models that go on; what is lost in one of them has its fit of the round before.
        """
        state, suffix = Polishing.start(started), f"-{number}" if number else ""
        saved = None if self._checkpoint is None else self._checkpoint.get(f"polishing{suffix}")
        if saved is not None:
            state = saved.after(state)
        n_noted = self._evaluator.n_passes

        def note(candidates: Sequence[Candidate]) -> None:
            nonlocal n_noted
            n_passes, n_noted = self._evaluator.n_passes - n_noted, self._evaluator.n_passes
            self._history.passed(n_passes, self._evaluator.seconds, zip(state.owners, candidates, strict=True))

        while state.is_running:
            try:
                current = run_em(
                    state.candidates, self._evaluator.statistics, self._row_sets, after_pass=note, n_passes=1
                )
            except ChangedDataError:
                self._check_files()  # (which knows the place, where it is stored rows that were written to)
                self._forget()
                raise
            state = state.after_pass(current)
            self._history.retired(state.with_status(Status.RETIRED))
            self._keep({f"polishing{suffix}": state})
        found: dict[int, Fit | CollapsedComponentError] = {}
        best = {i: state.best(i) for i in started}
        self._ended |= best
        alive = {i: c for i, c in best.items() if not c.status.is_lost}
        for i, failure in ((i, c.failure()) for i, c in best.items() if i not in alive):
            if not isinstance(failure, CollapsedComponentError):
                raise failure  # (it is for the data or the start, and no other model is better off)
            found[i] = failure
        if alive:
            found |= zip(alive, self._closed(list(alive), list(alive.values()), f"closing{suffix}"), strict=True)
        return {i: found[i] for i in started}

    def going_on(self, i: int, *, finest: float, finer: float) -> list[Candidate]:
        """Return the best candidate of a model with a smaller tol, to run on; none where it cannot.

        Its tol is divided by `finer`, and is not below `finest`, nats; max_iter bounds all its passes.
        """
        best = self._ended[i]
        o = best.options
        ended = best.status is not Status.CONVERGED or best.is_closed_form or o.stopping is not None
        if ended or o.tol <= finest or best.n_passes >= o.max_iter:
            return []
        return [best.going_on(max(finest, o.tol / finer))]

    def searched_again(self, i: int, smaller: Parameters, *, tol: float) -> list[Candidate]:
        """Return the best candidate of a model, and others that start from a smaller model's components, split.

        They start where the smaller model has ended, so that a step says little before it is very small: `tol`, nats.
        """
        model, last, X = self._models[i], self._ended[i], self._passes.rows.X
        options, compiled = model.options, is_compiled(model.options, X)

        def starts() -> list[Parameters]:
            sample = self._sample_of(i)
            share = len(sample) / self._n_weighted(self._models[i].fold)
            return split_starts(smaller, sample, options.on_sample(share), compiled=compiled)

        found = self._once(f"again-{i}", starts)
        finer = replace(options, tol=min(options.tol, tol))
        fresh = [
            Candidate.start(options.n_init + j, p, finer, fold=model.fold, compiled=compiled)
            for j, p in enumerate(found)
        ]
        return fresh if last.status.is_lost else [last, *fresh]

    def up_to_date(self, fit: Fit) -> Fit:
        """Return a fit with what all models have taken until now."""
        rows = self._passes.rows
        return replace(
            fit,
            n_passes=self._history.n_passes,
            bytes_read=self._passes.bytes_read + rows.X.n_counting_passes * rows.n_bytes,
            cached_bytes=self._passes.bytes_kept,
            seconds=perf_counter() - self._began,
        )

    def _surveyed(self, n_folds: int) -> Survey:
        rows, options = self._passes.rows, self._models[0].options
        n_rows, n_features = rows.X.n_rows, rows.X.n_features
        searched = [m.options for m in self._models if m.warm is None and not m.options.is_closed_form]
        sizes = [0, *(sample_size(o, n_rows, n_features) for o in searched)]
        threshold = sample_threshold(n_rows, max(sizes)) if max(sizes) else -1
        scatter = any(m.options.family.shape.leaves_common_term() for m in self._models)
        self._work = work = SurveyPass(n_features, scatter, options.seed, threshold, n_folds)
        largest = max(m.options.n_components for m in self._models)

        def run() -> Survey:
            found: Survey = self._read("survey", work, range(len(self._models)))
            check_survey(found, rows, n_components=largest, non_finite=options.non_finite)
            check_folds(found, n_components=largest)
            return found

        # (What is stored is noted before anything is read.)
        survey: Survey = self._once("survey", run, files=self._passes.files)
        if survey.n_dropped == 0:
            self._passes.rows = rows.trusted()
        return survey

    def _read(self, what: str, work: Any, models: Sequence[int]) -> Any:
        """Return the state of all rows after a pass that no candidate has part in."""
        began = perf_counter()
        found = self._passes.run(work, name=what)
        self._history.read(what, perf_counter() - began, models)
        return found

    def _of_folds(self) -> dict[Fold | None, RowSet]:
        """Return what is known of all rows, of those of each fold, and of those outside of it."""
        found: dict[Fold | None, RowSet] = {None: self.survey.row_set}
        for fold in {m.fold for m in self._models if m.fold is not None}:
            found[fold] = all_but(self._work, self.survey, fold.index).row_set
            found[replace(fold, held_out=True)] = self.survey.folds[fold.index].row_set
        return found

    def sample_score(self, i: int, parameters: Parameters) -> Statistics:
        """Return the score of a start on the sample of a model; in a closed form that of the sample's own optimum."""
        sample, options = self._sample_of(i), self._models[i].options
        if options.is_closed_form:
            parameters = of_sample(sample.X, sample.weights, options)
        with sample.passes(options) as passes:
            plan = make_plan(parameters, origin=self.survey.mean, compiled=self._compiled(parameters))
            return Evaluator(passes).scores([Request(plan)])[0]

    def _n_weighted(self, fold: Fold | None) -> int:
        """Return the rows of positive weight of all, or of those outside of a fold."""
        return (self.survey if fold is None else all_but(self._work, self.survey, fold.index)).n_weighted

    def _sample_of(self, i: int) -> Sample:
        """Return the sample that a model starts on: the same whatever other models there are."""
        X, model = self._passes.rows.X, self._models[i]
        threshold = sample_threshold(X.n_rows, sample_size(model.options, X.n_rows, X.n_features))
        return self._sample.within(threshold).outside(model.fold)

    def _compiled(self, p: Parameters) -> bool:
        return p.n_components > 1 and takes_compiled_kernel(
            self._passes.rows.X.n_rows, p.shape, p.n_components, p.n_features
        )

    def _searched(self, i: int) -> list[Parameters]:
        """Return starts that passes over all rows of a model find: small, far groups too."""
        model = self._models[i]

        n_rounds = 0

        def run(work: Any, name: str) -> Any:
            nonlocal n_rounds
            n_rounds += 1
            own = work if model.fold is None else FoldPass(work, model.fold)

            def compute() -> Any:
                found = self._read("search", own, [i])
                check_weight(found.weight, row_set)
                return found

            return self._once(f"search-{i}-{n_rounds}", compute)

        row_set, options = self._row_sets[model.fold], model.options
        points, weights, spread = far_points(
            run, mean=row_set.mean, variances=row_set.variances, n_components=options.n_components, seed=options.seed
        )
        return parallel_starts(points, weights, spread, options, options.n_init)

    def _starts(self, i: int) -> list[Parameters]:
        if self._models[i].options.starts_on_all_rows:
            return self._searched(i)
        options, X = self._models[i].options, self._passes.rows.X
        sample = self._sample if options.start_is_given else self._sample_of(i)
        n_all = self._n_weighted(self._models[i].fold)
        plain = options.n_init == 1 and not options.escape and len(sample) == n_all
        if options.start_is_given or options.max_iter == 0 or plain:
            return starts(sample.X, sample.weights, options, n_features=X.n_features)
        steps = Steps(self._checkpoint, f"start-{i}-", self._spent)
        race = Race(
            sample, options, n_rows=race_size(options, X.n_rows, X.n_features),
            whole=len(sample) == n_all, n_all=n_all, compiled=is_compiled(options, X),
            note=lambda found, n, seconds: self._history.sampled(i, found, n, seconds), step=steps,
        )  # fmt: skip
        del sample  # (the race has a copy of its own, in another order)
        try:
            best = race.run()
        except BaseException:
            with suppress(OutputError):  # (why it was cut short is what counts)
                steps.write()
            raise
        self._history.started(best)
        return [best.parameters]

    def _closed(self, which: Sequence[int], best: Sequence[Candidate], name: str) -> list[Fit]:
        """Return the fits of the models' best candidates, scored on their own rows, and on their fold, in one pass."""
        chosen = [c.parameters for c in best]
        folds = [None if c.fold is None else replace(c.fold, held_out=True) for c in best]
        outside = [j for j, fold in enumerate(folds) if fold is not None]
        own = [(c.parameters, c.fold) for c in best]
        suspects = {j: self._suspect(i, chosen[j]) for j, i in enumerate(which)}
        joined = {j: pair for j, pair in suspects.items() if pair is not None}
        held_out = [(chosen[j], folds[j]) for j in outside]
        merged = [(pair.parameters, best[j].fold) for j, pair in joined.items()]
        scores, n_passes = self._scored(own + held_out + merged, name)
        # Only where a ridge makes EM no ascent can the last step of an accelerated fit be worse than one before.
        worse = [j for j, c in enumerate(best) if _has_fallen(c, scores[j])]
        if worse:
            for j in worse:
                chosen[j] = _seen(best[j])[1]
            better = [j for j in outside if j in worse]
            again = [(chosen[j], best[j].fold) for j in worse] + [(chosen[j], folds[j]) for j in better]
            places = worse + [len(best) + outside.index(j) for j in better]
            found, n_more = self._scored(again, f"{name} again")
            n_passes += n_more
            for place, score in zip(places, found, strict=True):
                scores[place] = score
        self._check_files()
        held = dict(zip(outside, scores[len(best) :], strict=False))
        for j, score in zip(joined, scores[len(best) + len(outside) :], strict=True):
            joined[j] = replace(joined[j], nats=np.inf if j in worse else scores[j].log_sum - score.log_sum)
        means = [s.log_sum / s.weight for s in scores]
        self._history.closed(name, n_passes, self._evaluator.seconds, zip(which, best, means, strict=False))
        return [
            self._fit(i, c, chosen[j], scores[j], held.get(j), joined.get(j))
            for j, (i, c) in enumerate(zip(which, best, strict=True))
        ]

    def _suspect(self, i: int, parameters: Parameters) -> Joined | None:
        """Return a model's mixture with two components as one, where they may be; as few rows of the sample tell."""
        options, weight = self._models[i].options, self._row_sets[self._models[i].fold].weight
        if options.start_is_given or options.is_closed_form:
            return None
        few = sample_threshold(self._passes.rows.X.n_rows, FEW_ROWS)
        return suspect(parameters, self._sample_of(i).within(few), weight=weight)

    def _check_files(self) -> None:
        """Raise a DataError where what is stored has changed since the fit began."""
        try:
            self._passes.check_files(None)
        except DataError:
            self._forget()
            raise

    def _forget(self) -> None:
        """Clear the checkpoint, of which nobody knows what it was computed from."""
        if self._checkpoint is not None:
            self._checkpoint.clear()

    def _scored(self, mixtures: Sequence[tuple[Parameters, Fold | None]], name: str) -> tuple[list[Statistics], int]:
        """Return the scores of some mixtures, each on its rows, and the number of passes that they took.

        They tell what each component is worth too.
        """
        kernel = self._models[0].options.kernel
        plans = [
            make_plan(p, origin=self._row_sets[fold].mean, kernel=kernel, compiled=self._compiled(p))
            for p, fold in mixtures
        ]
        requests = [Request(plan, fold) for plan, (_, fold) in zip(plans, mixtures, strict=True)]

        def run() -> tuple[list[Statistics], int]:
            before = self._evaluator.n_passes
            found = self._evaluator.supports(requests)
            return found, self._evaluator.n_passes - before

        scores, n_passes = self._once(name, run)
        for request, score in zip(requests, scores, strict=True):
            check_counts(score, self._row_sets[request.fold])
        return scores, n_passes

    # -- the checkpoint ------------------------------------------------------------------------------------------------
    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Take up history and counts from a checkpoint, if there is something in it."""
        spent = checkpoint.get("spent")
        if spent is None:
            return
        if spent["cut"] != self._cut:
            raise OutputError(
                "the checkpoint",
                "have partitions as they are now",
                f"others in {checkpoint.place}: another version of daskgmm, or of the input's chunks, wrote it",
                "Remove it to start again.",
            )
        self._history.restore(spent["history"])
        changed = [f"{name} {spent['by'].get(name)}, now {now}" for name, now in provenance().items()
                   if spent["by"].get(name) != now]  # fmt: skip
        if changed:
            logger.warning("%s was written by %s: last bits may differ.", checkpoint.place, "; ".join(changed))
        self._passes.bytes_read, self._began = int(spent["bytes_read"]), self._began - float(spent["seconds"])
        check_unchanged(checkpoint.get("files"), self._passes.files, self._passes.rows, checkpoint=checkpoint.place)
        logger.info("Going on from %s, after pass %d.", checkpoint.place, self._history.n_passes)

    @property
    def _cut(self) -> str:
        """What tells one way to cut the rows into partitions from another."""
        return digest(self._passes.rows.edges)

    def _spent(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside every value."""
        seconds, n_bytes = perf_counter() - self._began, self._passes.bytes_read
        history, by = self._history.state(), provenance()
        return {"spent": {"cut": self._cut, "history": history, "bytes_read": n_bytes, "seconds": seconds, "by": by}}

    def _once(self, name: str, compute: Callable[[], Any], *, instead: str = "", **beside: Any) -> Any:
        """Return what a checkpoint has under a name, or compute and keep it, with other values beside it."""
        if self._checkpoint is None:
            return compute()
        return self._checkpoint.once(name, compute, beside=lambda: {**beside, **self._spent()}, instead=instead)

    def _keep(self, values: dict[str, Any]) -> None:
        if self._checkpoint is not None:
            self._checkpoint.put({**values, **self._spent()})

    def _fit(
        self, i: int, best: Candidate, parameters: Parameters, score: Statistics, held_out: Statistics | None,
        joined: Joined | None,
    ) -> Fit:  # fmt: skip
        options, n_weighted = self._models[i].options, self._n_weighted(best.fold)
        support = support_of(score, parameters, n_rows=n_weighted)
        # (The one E-step of a closed form tells the likelihood of a start that is none of EM's.)
        bounds = (_objective(parameters, score, options),) if best.is_closed_form else best.lower_bounds
        # (One that goes on to a smaller tol, and no further than max_iter, has converged as it was asked to.)
        tol, steps = self._models[i].options.tol, np.abs(np.diff(best.lower_bounds[-2:]))
        went_on = best.options.tol < tol and len(steps) == 1 and steps[0] < tol
        return self.up_to_date(
            Fit(
                parameters=parameters,
                status=Status.CONVERGED if went_on else best.status,
                lower_bounds=bounds,
                lower_bound=bounds[-1] if bounds else best.lower_bound,
                log_likelihood=score.log_sum,
                log_largest=score.log_largest,
                held_out=None if held_out is None else (held_out.log_sum, held_out.weight),
                n_rows=score.n_rows,
                n_dropped=self.survey.n_dropped,
                weight=score.weight,
                n_passes=0,
                bytes_read=0,
                cached_bytes=0,
                seconds=0.0,
                history=tuple(self._history.of_model[i]),
                reach=best.reach,
                n_weighted=n_weighted,
                support=support,
                spikes=spikes_of(parameters, support, options, n_rows=n_weighted),
                remarks=remarks(parameters, support, options, n_rows=n_weighted, joined=joined),
            )
        )


#: Differences from the mean beyond which single precision is not taken: a sum of squares overflows at 1e38.
FARTHEST_SINGLE = 1e15


def _reach(survey: Survey) -> float:
    """Return the largest difference of a value from the mean of its feature."""
    return float(max((survey.maximum - survey.mean).max(), (survey.mean - survey.minimum).max()))


def _seen(candidate: Candidate) -> tuple[float, Parameters]:
    return (-np.inf, candidate.parameters) if candidate.best is None else candidate.best


def _has_fallen(candidate: Candidate, score: Statistics) -> bool:
    """Return whether an accelerated candidate has seen a better mixture than the one that it ended with."""
    objective = _objective(candidate.parameters, score, candidate.options)
    slack = max(1e-9 * abs(objective), precision_called(candidate.options.precision).tolerance)
    return candidate.options.acceleration is not None and _seen(candidate)[0] > objective + slack


def _objective(parameters: Parameters, score: Statistics, options: FitOptions) -> float:
    """Return what EM raises, nats a row, of parameters that a closing pass has scored."""
    return score.log_sum / score.weight + options.whole_prior.log_density(parameters) / score.n_rows


def _needed(found: Fit | CollapsedComponentError) -> Fit:
    if isinstance(found, CollapsedComponentError):
        raise found
    return found
