"""The passes of some models over the same rows, stage by stage: survey, starts, EM on all rows, closing pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import cast

from daskgmm.errors import ChangedDataError, CollapsedComponentError, DataError, OptionError, verbatim
from daskgmm.fitting.beginning import begun
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.closing import Closing, up_to_date
from daskgmm.fitting.device import device_of_fit, starting_on
from daskgmm.fitting.evaluate import Evaluator, Request
from daskgmm.fitting.events import Listener
from daskgmm.fitting.known import check_known
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.model import Model
from daskgmm.fitting.need import fit_need, is_compiled
from daskgmm.fitting.one_component import of_sample
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.polishing import Polishing
from daskgmm.fitting.progress import Progress
from daskgmm.fitting.prospect import Prospect, can_be_foreseen, foreseen
from daskgmm.fitting.result import Fit
from daskgmm.fitting.status import Status
from daskgmm.fitting.successor import split_starts
from daskgmm.fitting.surveyed import Surveyed, as_seen, precise_enough, surveyed
from daskgmm.kernels.labels import LABELS
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.cache import plan_keep
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import Passes
from daskgmm.sources.source import Source
from daskgmm.stores.checkpoint import Checkpoint


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
    labels: Source | None = None,
    contest: bool = False,
) -> Iterator[Run]:
    """Provide the run of some models over the same rows; what metadata tell is checked before anything is read.

    The models' options differ in n_components and covariance_type only. With a checkpoint it goes on from there.
    In a contest they are to be compared.
    """
    columns = {**(columns or {}), **column_of_labels([m.options for m in models], X, labels)}
    if executor is None:
        every = [X, *([] if weights is None else [weights]), *columns.values()]
        executor = current_executor(travels=all(source.travels for source in every))
    for model in models:
        check_shape(X, n_components=model.least_rows, given=model.has_given_components)
        model.options.family.check(X.n_features)
        model.options.given(X.n_features)
        check_known(model.options, X.n_features)
    rows = Rows.plan(X, weights, columns).checked(models[0].options.non_finite)
    n_columns = sum(column.n_features for column in rows.columns.values())
    given = any(m.has_given_components for m in models)
    need = fit_need(
        [m.options for m in models], X, n_columns=n_columns, labels=labels is not None, given=given, contest=contest
    )
    rows, need = promise_memory(rows, need, executor)
    device = device_of_fit([m.options for m in models], rows, need, executor)
    on_cards = {"card_bytes": device.keep_bytes, "n_cards": device.n_cards}
    keep = plan_keep(models[0].options.cache, rows, need, executor, **on_cards)
    with for_passes(executor), starting_on(device), Passes(rows, executor, keep, checkpoint) as passes:
        try:
            with nullcontext() if checkpoint is None else checkpoint.going_on():
                evaluator = Evaluator(passes, need.state_bytes(X.n_features), device=device)
                progress = Progress(evaluator, len(models), listener, checkpoint)
                known = surveyed(progress, models, n_folds, contest=contest)
                yield Run(progress, known, precise_enough(as_seen(models, known), known.survey))
        except DataError:
            if checkpoint is not None:
                checkpoint.give_up()
            raise


class Run:
    """The stages of a fit after the survey, for some models together.

    Attributes
    ----------
    progress : Progress
    known : Surveyed
    models : sequence of Model
    """

    def __init__(self, progress: Progress, known: Surveyed, models: Sequence[Model]) -> None:
        self.progress, self.known, self.models = progress, known, models
        self._closing = Closing(progress, known, models)
        self._ended: dict[int, Candidate] = {}

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
        """Return the candidates of a model that go on to all rows."""
        return begun(self.progress, self.known, i, self.models[i])

    def polished(
        self, started: dict[int, list[Candidate]], *, number: int = 0
    ) -> dict[int, Fit | CollapsedComponentError]:
        """Return the fits to all rows of the candidates of each model, which share every pass, or why there is none.

        `number` counts the rounds of models that go on; what is lost in one of them has its fit of the round before.
        """
        evaluator = self.progress.evaluator
        state, suffix = Polishing.start(started), f"-{number}" if number else ""
        saved = self.progress.kept(f"polishing{suffix}")
        if saved is not None:
            state = saved.after(state)
        n_noted, called_off = evaluator.n_passes, False

        def note(candidates: Sequence[Candidate]) -> None:
            nonlocal n_noted, called_off
            n_passes, n_noted = evaluator.n_passes - n_noted, evaluator.n_passes
            owned = zip(state.owners, candidates, strict=True)
            called_off = self.progress.history.passed(n_passes, evaluator.seconds, owned)

        while state.is_running:
            try:
                current = run_em(
                    state.candidates, evaluator.statistics, self.known.row_sets, after_pass=note, n_passes=1
                )
            except ChangedDataError:
                self.progress.check_files()  # (which knows the place, where it is stored rows that were written to)
                self.progress.forget()
                raise
            state = state.after_pass(current)
            if called_off:
                state = state.called_off()
                self.progress.history.given_up(state.with_status(Status.CALLED_OFF))
            self.progress.history.given_up(state.with_status(Status.RETIRED))
            self.progress.keep({f"polishing{suffix}": state})
        found: dict[int, Fit | CollapsedComponentError] = {}
        best = {i: state.best(i) for i in started}
        self._ended |= best
        alive = {i: c for i, c in best.items() if not c.status.is_lost}
        for i, failure in ((i, c.failure()) for i, c in best.items() if i not in alive):
            if not isinstance(failure, CollapsedComponentError):
                raise failure  # (it is for the data or the start, and no other model is better off)
            found[i] = failure
        if alive:
            found |= zip(alive, self._closing.fits(list(alive), list(alive.values()), f"closing{suffix}"), strict=True)
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

    def prospect(self, i: int, *, number: int, tol: float, caution: float) -> Prospect | None:
        """Return where a model's best candidate would end, by the sample; None where nobody can tell.

        EM on the sample ends at changes of `tol`, nats; `caution` is how much more than usual holds it back. `number`
        counts the prospects of a model.
        """
        best, model, known = self._ended[i], self.models[i], self.known
        last, ended = best.accelerator.last, best.status is Status.CONVERGED and not best.is_closed_form
        if last is None or not ended or best.n_passes >= best.options.max_iter or not can_be_foreseen(best.options):
            return None

        def look() -> list[Prospect]:
            found = foreseen(
                *last, known.sample_ahead(model), best.options, n_all=known.n_weighted(model.fold), tol=tol,
                caution=caution, compiled=best.compiled,
            )  # fmt: skip
            return [] if found is None else [found]

        # (A list: of None a checkpoint does not know that it was found. It would be sought again, and what there is of
        # the pass that was cut short be let go.)
        found = cast(list[Prospect], self.progress.once(f"prospect-{i}-{number}", look))
        return found[0] if found else None

    def leaping(self, i: int, target: Parameters, fit: Fit) -> list[Candidate]:
        """Return the best candidate of a model, to be tried for a pass at a mixture: it must do better than its fit."""
        volume = self.known.volumes[self.models[i].fold]
        return [self._ended[i].leaping(target, fit.mean_log_likelihood + volume)]

    def has_leapt(self, i: int) -> bool:
        """Return whether the last pass of a model's candidate was at a better mixture."""
        return self._ended[i].accepted

    def searched_again(self, i: int, smaller: Parameters, *, tol: float) -> list[Candidate]:
        """Return the best candidate of a model, and others that start from a smaller model's components, split.

        They start where the smaller model has ended, so that a step says little before it is very small: `tol`, nats.
        (Not where the sample tells what is ahead of them.)
        """
        model, last, X = self.models[i], self._ended[i], self.known.X
        if self.known.scaling is not None:
            smaller = self.known.scaling.mapped(smaller)
        options, compiled = model.options, is_compiled(model.options, X)

        def starts() -> list[Parameters]:
            sample = self.known.sample_of(model)
            share = len(sample) / self.known.n_weighted(model.fold)
            return split_starts(smaller, sample, options.on_sample(share), compiled=compiled)

        found = self.progress.once(f"again-{i}", starts)
        seen = last.accelerator.last is not None and can_be_foreseen(options)
        finer = options if seen else replace(options, tol=min(options.tol, tol))
        fresh = [
            Candidate.start(options.n_init + j, p, finer, fold=model.fold, compiled=compiled)
            for j, p in enumerate(found)
        ]
        return fresh if last.status.is_lost else [last, *fresh]

    def sample_score(self, i: int, parameters: Parameters) -> tuple[Statistics, Parameters]:
        """Return the score of a start on the sample, and the start; in a closed form that is the sample's optimum."""
        sample, options = self.known.sample_of(self.models[i]), self.models[i].options
        if options.is_closed_form:
            parameters = of_sample(sample.filled, sample.weights, options)
        with sample.passes(options) as passes:
            compiled = self.known.is_compiled(parameters)
            plan = make_plan(parameters, origin=self.known.survey.mean, kernel=options.kernel, compiled=compiled)
            return Evaluator(passes).scores([Request(plan)])[0], parameters

    def up_to_date(self, fit: Fit) -> Fit:
        """Return a fit with what all models have taken until now."""
        return up_to_date(fit, self.progress)


def column_of_labels(models: Sequence[FitOptions], X: Source, labels: Source | None) -> dict[str, Source]:
    """Return labels as a column that comes with the rows; none without labels."""
    if labels is None:
        if any(options.label_components is not None for options in models):
            remedy = "Give `labels`, or leave it out."
            raise OptionError("`label_components`", "come with labels of rows", "it alone", remedy)
        return {}
    for options in models:
        if len(options.label_components or ()) > options.n_components:
            raise OptionError(
                "`label_components`",
                f"be classes of `n_components` = {options.n_components} components at most",
                f"those of {len(options.label_components or ())}",
                "Leave the others out, or fit more components.",
            )
    if labels.n_rows != X.n_rows or labels.n_features != 1:
        raise DataError(
            "`labels`",
            f"have shape ({X.n_rows},), one label for each row of {verbatim(X.label)}",
            f"({labels.n_rows}, {labels.n_features}) in {labels.label}",
            "Give -1 to rows whose class nobody knows.",
        )
    return {LABELS: labels}


def _needed(found: Fit | CollapsedComponentError) -> Fit:
    if isinstance(found, CollapsedComponentError):
        raise found
    return found
