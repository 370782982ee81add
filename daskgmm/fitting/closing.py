"""The last stage of a fit: the closing pass, which scores what EM has ended with, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from daskgmm.fitting.about import about
from daskgmm.fitting.drift import drift_of, said_of
from daskgmm.fitting.evaluate import Request, check_counts
from daskgmm.fitting.follow import floor_of
from daskgmm.fitting.joined import Joined, suspect
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.model import Model
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.progress import Progress
from daskgmm.fitting.remarks import of_pairs, of_processors, remarks, spikes_of
from daskgmm.fitting.result import Fit
from daskgmm.fitting.sample import FEW_ROWS
from daskgmm.fitting.seen import Seen
from daskgmm.fitting.status import Status
from daskgmm.fitting.surveyed import Surveyed
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.gap_support import has_untold
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.survey import sample_threshold
from daskgmm.sources.columns import feature_names


class Closing:
    """Makes fits of the best candidates of some models."""

    def __init__(self, progress: Progress, known: Surveyed, models: Sequence[Model]) -> None:
        self._progress, self._known, self._models = progress, known, models

    def fits(self, which: Sequence[int], best: Sequence[Candidate], name: str) -> list[Fit]:
        """Return the fits of the models' best candidates, scored on their own rows, and on their fold, in one pass."""
        chosen = [c.parameters for c in best]
        folds = [None if c.fold is None else replace(c.fold, held_out=True) for c in best]
        outside = [j for j, fold in enumerate(folds) if fold is not None]
        own = [(c.parameters, c.fold) for c in best]
        suspects = {j: self._suspect(i, chosen[j]) for j, i in enumerate(which)}
        joined = {j: pair for j, pair in suspects.items() if pair is not None}
        held_out = [(chosen[j], folds[j]) for j in outside]
        merged = [(pair.parameters, best[j].fold) for j, pair in joined.items()]
        pasts = {j: past.parameters for j, i in enumerate(which) if (past := self._models[i].past) is not None}
        before: list[tuple[Parameters, Fold | None]] = [(parameters, None) for parameters in pasts.values()]
        scores, n_passes = self._scored(own + held_out + merged + before, name)
        self._progress.check_files()
        held = dict(zip(outside, scores[len(best) :], strict=False))
        for j, score in zip(joined, scores[len(best) + len(outside) :], strict=False):
            joined[j] = replace(joined[j], nats=scores[j].log_sum - score.log_sum)
        under_past = dict(zip(pasts, scores[len(scores) - len(pasts) :], strict=True))
        means = [s.log_sum / s.weight for s in scores]
        self._progress.history.closed(
            name, n_passes, self._progress.evaluator.seconds, zip(which, best, means, strict=False)
        )
        return [
            self._fit(i, c, chosen[j], scores[j], held.get(j), joined.get(j), under_past.get(j))
            for j, (i, c) in enumerate(zip(which, best, strict=True))
        ]

    @cached_property
    def _processors(self) -> list[str]:
        return self._progress.passes.processors()

    def _suspect(self, i: int, parameters: Parameters) -> Joined | None:
        """Return a model's mixture with two components as one, where they may be; as few rows of the sample tell."""
        options, weight = self._models[i].options, self._known.row_sets[self._models[i].fold].weight
        held = parameters.has_fixed.any() or options.may_be_empty
        # (What new rows do not tell apart, old ones may.)
        if options.start_is_given or options.is_closed_form or held or self._models[i].past is not None:
            return None
        few = sample_threshold(self._known.X.n_rows, FEW_ROWS)
        sample = self._known.sample_of(self._models[i]).within(few)
        if not len(sample):
            return None
        found = suspect(sample.seen(parameters, options), sample, weight=weight)
        return None if found is None else replace(found, parameters=sample.unseen(found.parameters, options))

    def _scored(self, mixtures: Sequence[tuple[Parameters, Fold | None]], name: str) -> tuple[list[Statistics], int]:
        """Return the scores of some mixtures, each on its rows, and the number of passes that they took.

        They tell what each component is worth too.
        """
        kernel = self._models[0].options.kernel
        gaps = self._known.survey.seen is not None
        plans = [
            make_plan(
                p, origin=self._known.row_sets[fold].mean, kernel=kernel, compiled=self._known.is_compiled(p),
                gaps=gaps and has_untold(p),
            )
            for p, fold in mixtures
        ]  # fmt: skip
        requests = [Request(plan, fold) for plan, (_, fold) in zip(plans, mixtures, strict=True)]

        def run() -> tuple[list[Statistics], int]:
            before = self._progress.evaluator.n_passes
            found = self._progress.evaluator.supports(requests)
            return found, self._progress.evaluator.n_passes - before

        scores, n_passes = self._progress.once(name, run)
        for request, score in zip(requests, scores, strict=True):
            check_counts(score, self._known.row_sets[request.fold])
        return scores, n_passes

    def _fit(
        self, i: int, best: Candidate, parameters: Parameters, score: Statistics, held_out: Statistics | None,
        joined: Joined | None, under_past: Statistics | None,
    ) -> Fit:  # fmt: skip
        options = self._models[i].options
        seen, drift, said = self._seen(i, best, parameters, score, under_past)
        support = seen.support(parameters).less(score.untold(parameters.n_components), parameters)
        n_seen = round(seen.n_rows)
        # (The one E-step of a closed form tells the likelihood of a start that is none of EM's.)
        bounds = (_objective(parameters, score, options),) if best.is_closed_form else best.lower_bounds
        past = self._models[i].past
        if past is not None:  # (of all rows, and not of the new ones alone)
            bounds = tuple((past.kept.log_likelihood + bound * score.weight) / seen.weight for bound in bounds)
        # (One that goes on to a smaller tol, and no further than max_iter, has converged as it was asked to.)
        tol, steps = self._models[i].options.tol, np.abs(np.diff(best.lower_bounds[-2:]))
        went_on = best.options.tol < tol and len(steps) == 1 and steps[0] < tol
        fit = up_to_date(
            Fit(
                parameters=parameters,
                status=Status.CONVERGED if went_on else best.status,
                lower_bounds=bounds,
                lower_bound=bounds[-1] if bounds else best.lower_bound,
                log_likelihood=seen.log_likelihood,
                log_largest=seen.log_largest,
                held_out=None if held_out is None else (held_out.log_sum, held_out.weight),
                n_rows=score.n_rows,
                n_dropped=self._known.survey.n_dropped,
                n_dropped_by_feature=tuple(self._known.survey.n_spoiled.tolist()),
                weight=seen.weight,
                n_passes=0,
                bytes_read=0,
                cached_bytes=0,
                seconds=0.0,
                history=tuple(self._progress.history.of_model[i]),
                reach=best.reach,
                n_weighted=n_seen,
                support=support,
                seen=seen,
                drift=drift,
                about=about(self._known.survey, options, parameters, n_rows=score.n_rows, weight=score.weight),
                provenance=self._progress.evaluator.device.record,
                spikes=spikes_of(parameters, support, options, n_rows=n_seen),
                remarks=(
                    *said,
                    *remarks(parameters, support, options, n_rows=n_seen, joined=joined),
                    *self._of_pairs(options, parameters),
                    *of_processors(self._processors),
                ),
            ),
            self._progress,
        )
        if self._known.scaling is None:
            return fit
        volumes = self._known.volumes
        outside = 0.0 if best.fold is None else volumes[replace(best.fold, held_out=True)]
        return fit.in_units(self._known.scaling, volumes[best.fold], held_out=outside)

    def _seen(
        self, i: int, best: Candidate, p: Parameters, score: Statistics, under_past: Statistics | None
    ) -> tuple[Seen, dict[str, Any] | None, list[str]]:
        """Return what is kept of the rows of a model, how new ones differ from those before, and what is said of it."""
        n_weighted, past = self._known.n_weighted(best.fold), self._models[i].past
        new = Seen.of(score, p.n_components, n_weighted, floor=floor_of(best.options))
        if past is None or under_past is None:
            return new, None, []
        old = best.options.prior if isinstance(best.options.prior, OldRows) else None
        gaps = self._known.survey.seen
        drift = drift_of(
            past, Seen.of(under_past, p.n_components, n_weighted), old, after=new.mean,
            has_all_features=gaps is None or bool((gaps.weights > 0).all()),
        )  # fmt: skip
        seen = new if old is None else past.kept.under(old, p) + new
        return seen, drift, list(said_of(drift))

    def _of_pairs(self, options: FitOptions, p: Parameters) -> Iterator[str]:
        """Yield what is said of features that no row has together, where there are no old rows to tell of them."""
        if not isinstance(options.prior, OldRows):
            yield from of_pairs(self._known.survey, feature_names(self._known.X.column_labels), p)


def up_to_date(fit: Fit, progress: Progress) -> Fit:
    """Return a fit with what all models have taken until now."""
    rows = progress.passes.rows
    return replace(
        fit,
        n_passes=progress.history.n_passes,
        bytes_read=progress.passes.bytes_read + rows.X.n_counting_passes * rows.n_bytes,
        cached_bytes=progress.passes.bytes_kept,
        seconds=progress.seconds,
    )


def _objective(parameters: Parameters, score: Statistics, options: FitOptions) -> float:
    """Return what EM raises, nats a row, of parameters that a closing pass has scored."""
    return score.log_sum / score.weight + options.whole_prior.log_density(parameters) / score.weight
