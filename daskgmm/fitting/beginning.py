"""The second stage of a fit: the mixtures that EM on all rows begins with."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import numpy as np

from daskgmm.errors import OutputError
from daskgmm.fitting.evaluate import check_weight
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.model import Model
from daskgmm.fitting.need import is_compiled
from daskgmm.fitting.one_component import of_rows
from daskgmm.fitting.parallel_start import far_points, parallel_starts
from daskgmm.fitting.progress import Progress
from daskgmm.fitting.race import Race
from daskgmm.fitting.renewal import renewed
from daskgmm.fitting.sample import race_size
from daskgmm.fitting.seen import Past
from daskgmm.fitting.start import starts
from daskgmm.fitting.surveyed import Surveyed
from daskgmm.kernels.folds import FoldPass
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.stores.steps import Steps

logger = logging.getLogger("daskgmm")


def begun(progress: Progress, known: Surveyed, i: int, model: Model) -> list[Candidate]:
    """Return the candidates of model i that go on to all rows; nothing is read for them but by k-means||."""
    options, previous = model.options, -np.inf
    if model.past is not None:
        return [_renewed(progress, known, i, model)]
    if model.warm is not None:
        found, previous = [model.warm[0]], model.warm[1]
    elif options.is_one_component:
        found = [of_rows(known.row_sets[model.fold], options)]
    else:
        # (The steps that led there are let go with it.)
        def start() -> list[Parameters]:
            find = _searched if options.starts_on_all_rows else _sampled
            return find(progress, known, i, model)

        found = progress.once(f"start-{i}", start, instead=f"start-{i}-")
    compiled = is_compiled(options, known.X)
    return [
        Candidate.start(j, p, options, fold=model.fold, previous=previous, compiled=compiled)
        for j, p in enumerate(found)
    ]


def _renewed(progress: Progress, known: Surveyed, i: int, model: Model) -> Candidate:
    """Return the candidate that goes on from a mixture of older rows, with those as its prior."""
    past, options = cast(Past, model.past), model.options
    compiled = is_compiled(options, known.X)
    found: list[Any] = [past.parameters, options.prior]
    if options.prior is not None and model.looks_for_groups:

        def search() -> list[Any]:
            row_set, n_rows = known.row_sets[None], known.n_weighted(None)
            return list(
                renewed(
                    past.parameters, cast(OldRows, options.prior), known.sample_of(model), options,
                    weight=row_set.weight, n_rows=n_rows, compiled=compiled,
                )
            )  # fmt: skip

        found = progress.once(f"start-{i}", search)
    return Candidate.start(0, found[0], replace(options, prior=found[1]), compiled=compiled)


def _searched(progress: Progress, known: Surveyed, i: int, model: Model) -> list[Parameters]:
    """Return starts that passes over all rows of a model find: small, far groups too."""
    row_set, options, n_rounds = known.row_sets[model.fold], model.options, 0

    def run(work: Any, name: str) -> Any:
        nonlocal n_rounds
        n_rounds += 1
        own = work if model.fold is None else FoldPass(work, model.fold)

        def compute() -> Any:
            found = progress.read("search", own, [i])
            check_weight(found.weight, row_set)
            return found

        return progress.once(f"search-{i}-{n_rounds}", compute)

    points, weights, spread = far_points(
        run, mean=row_set.mean, variances=row_set.variances, n_components=options.n_components, seed=options.seed
    )
    return parallel_starts(points, weights, spread, options, options.n_init, known.class_starts(model))


def _sampled(progress: Progress, known: Surveyed, i: int, model: Model) -> list[Parameters]:
    """Return starts that the sample gives: that of a race, or each as it is."""
    options, X = model.options, known.X
    sample = known.sample if options.start_is_given else known.sample_of(model)
    n_all = known.n_weighted(model.fold)
    plain = options.n_init == 1 and not options.escape and len(sample) == n_all
    if options.start_is_given or options.max_iter == 0 or plain:
        classes = known.class_starts(model)
        found = starts(sample.filled, sample.weights, options, n_features=X.n_features, classes=classes)
        return found if options.any_given else [sample.unseen(p, options) for p in found]
    logger.info(
        "Looking for a start of %d components on a sample of %s rows.", options.n_components, f"{len(sample):,}"
    )
    steps = Steps(progress.checkpoint, f"start-{i}-", progress.spent)
    race = Race(
        sample, options, n_rows=race_size(options, X.n_rows, X.n_features),
        whole=len(sample) == n_all, n_all=n_all, compiled=is_compiled(options, X),
        note=lambda found, n, seconds: progress.history.sampled(i, found, n, seconds), step=steps,
        classes=known.class_starts(model),
    )  # fmt: skip
    del sample  # (the race has a copy of its own, in another order)
    try:
        best = race.run()
    except BaseException:
        with suppress(OutputError):  # (why it was cut short is what counts)
            steps.write()
        raise
    progress.history.started(best)
    return [best.parameters]
