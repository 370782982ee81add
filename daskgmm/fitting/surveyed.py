"""The first stage of a fit: the survey, and what all later ones know of the rows by it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from daskgmm.fitting.checks import check_every_feature, check_folds, check_survey, spoiled_by
from daskgmm.fitting.class_starts import ClassStarts, check_labels, n_classes, with_classes
from daskgmm.fitting.device import Device
from daskgmm.fitting.known import needs_scatter, settled
from daskgmm.fitting.model import Model
from daskgmm.fitting.noise_volume import beside_noise, noise_over
from daskgmm.fitting.progress import Progress
from daskgmm.fitting.sample import Sample, ahead_size, box_size, sample_size, surveyed_size
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.labels import LABELS
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from daskgmm.mixture.scaling import Scaling
from daskgmm.passes.need import takes_compiled_kernel
from daskgmm.passes.survey import Survey, SurveyPass, all_but, sample_threshold
from daskgmm.sources.columns import feature_names
from daskgmm.sources.source import Source

logger = logging.getLogger("daskgmm")

#: Differences from the mean beyond which single precision is not taken: a sum of squares overflows at 1e38.
FARTHEST_SINGLE = 1e15


@dataclass(frozen=True)
class Surveyed:
    """What is known of the rows.

    Attributes
    ----------
    X : Source
    work : SurveyPass
    survey : Survey
    sample : Sample
        Of the largest size that a model asks for.
    row_sets : dict of Fold or None to RowSet
        Of all rows, of those of each fold, and of those outside of it.
    scaling : Scaling or None
        How passes see the rows mapped, and so all that is known of them here; None as they are.
    """

    X: Source
    work: SurveyPass
    survey: Survey
    sample: Sample
    row_sets: dict[Fold | None, RowSet]
    scaling: Scaling | None = None

    @property
    def volumes(self) -> dict[Fold | None, float]:
        """What the mean log-likelihood of each set of rows falls by in units of the data, nats; zero as they are."""
        scaling = self.scaling
        return {fold: 0.0 if scaling is None else scaling.log_volume(rows) for fold, rows in self.row_sets.items()}

    def n_weighted(self, fold: Fold | None) -> int:
        """Return the rows of positive weight of all, or of those outside of a fold."""
        return (self.survey if fold is None else all_but(self.work, self.survey, fold.index)).n_weighted

    def sample_of(self, model: Model) -> Sample:
        """Return the sample that a model starts on: the same whatever other models there are."""
        threshold = sample_threshold(self.X.n_rows, sample_size(model.options, self.X.n_rows, self.X.n_features))
        return self.sample.within(threshold).outside(model.fold)

    def sample_ahead(self, model: Model) -> Sample:
        """Return the rows on which a contest sees the end of a model's fit."""
        threshold = sample_threshold(self.X.n_rows, ahead_size(model.options, self.X.n_rows, self.X.n_features))
        return self.sample.within(threshold).outside(model.fold)

    def class_starts(self, model: Model) -> ClassStarts | None:
        """Return where the components of known classes start; None without labels."""
        classes, survey = model.options.known_classes, self.survey
        if model.fold is not None:
            survey = all_but(self.work, survey, model.fold.index)
        if classes is None or survey.classes is None:
            return None
        return ClassStarts(classes, survey.classes.completed(survey.row_set))

    @cached_property
    def box(self) -> Noise:
        """Noise over the box of the sample, of weight zero."""
        few = self.sample.within(sample_threshold(self.X.n_rows, box_size(self.X.n_rows, self.X.n_features)))
        return noise_over(few, self.X)

    def is_compiled(self, p: Parameters) -> bool:
        """Return whether passes that score a mixture use the compiled kernel."""
        return p.n_components > 1 and takes_compiled_kernel(self.X.n_rows, p.shape, p.n_components, p.n_features)


def surveyed(progress: Progress, models: Sequence[Model], n_folds: int, *, contest: bool = False) -> Surveyed:
    """Return what a survey finds of the rows, of which each is then known to be finite, or left out.

    In a contest its sample is large enough for the ends of fits to be seen on it.
    """
    rows, options = progress.passes.rows, models[0].options
    n_rows, n_features = rows.X.n_rows, rows.X.n_features
    sizes = [0, *(surveyed_size(m.options, n_rows, n_features, contest=contest) for m in models if _is_searched(m))]
    threshold = sample_threshold(n_rows, max(sizes)) if max(sizes) else -1
    scatter = any(m.options.needs_scatter for m in models) or needs_scatter([m.options for m in models])
    labels, shapes = rows.columns.get(LABELS), [m.options.family.shape for m in models]
    work = _survey_on(progress.evaluator.device)(
        n_features, scatter, options.seed, threshold, n_folds, 0 if labels is None else n_classes(models),
        all(shape.n_statistics(n_features, exact=True) <= 3 * n_features for shape in shapes),
        rows.check == "marginalize" and any(shape.correlates for shape in shapes),
    )  # fmt: skip
    largest = max(m.least_rows for m in models)

    def run() -> Survey:
        found: Survey = progress.read("survey", work, range(len(models)))
        given = any(m.has_given_components for m in models)
        check_survey(found, rows, n_components=largest, non_finite=options.non_finite, given=given)
        # (Of what no new row has old ones tell; and nothing need where a mixture is only scored.)
        scored = models[0].past is not None and options.max_iter == 0
        if not (scored or isinstance(options.prior, OldRows)):
            check_every_feature(found, rows, "", follows=models[0].past is not None)
        check_folds(found, rows, work, n_components=largest)
        if labels is not None and found.classes is not None:
            check_labels(found.classes, models, labels.label)
        return found

    # (What is stored is noted before anything is read.)
    survey: Survey = progress.once("survey", run, files=progress.passes.files)
    if survey.n_dropped == 0 and survey.seen is None:
        progress.passes.rows = rows.trusted()
    if survey.n_dropped:
        by = spoiled_by(survey.n_spoiled.tolist(), feature_names(rows.X.column_labels))
        n_dropped = f"{survey.n_dropped:,} of {n_rows:,}"
        logger.info("%s rows are left out, for a NaN or an infinity: %s.", n_dropped, by)
    if survey.seen is not None:
        lacking = spoiled_by(survey.seen.n_missing.tolist(), feature_names(rows.X.column_labels))
        n_incomplete = f"{survey.seen.n_incomplete:,} of {n_rows:,}"
        logger.info("%s rows have gaps, and count by what they have: %s.", n_incomplete, lacking)
    scaling = Scaling.of(survey.row_set) if options.standardize else None
    if scaling is not None:
        survey, progress.history.scaling = survey.standardized(scaling), scaling
        progress.passes.rows = progress.passes.rows.standardized(scaling)
    row_sets: dict[Fold | None, RowSet] = {None: survey.row_set}
    for fold in {m.fold for m in models if m.fold is not None}:
        row_sets[fold] = all_but(work, survey, fold.index).row_set
        row_sets[replace(fold, held_out=True)] = survey.folds[fold.index].row_set
    if scaling is not None:
        size = np.abs(scaling.shift) / scaling.scale
        row_sets = {fold: replace(row_set, rounded=size) for fold, row_set in row_sets.items()}
    known = Surveyed(rows.X, work, survey, Sample.of(survey, options.seed), row_sets, scaling)
    progress.history.volumes = known.volumes
    return known


def _survey_on(device: Device) -> type[SurveyPass]:
    if device.name == "cpu":
        return SurveyPass
    from daskgmm.passes.card_survey import CardSurveyPass

    return CardSurveyPass


def _is_searched(model: Model) -> bool:
    """Return whether a model needs a sample: for a start, or for the volume of noise that it does not go on from."""
    if model.past is not None:
        return model.looks_for_groups
    return model.warm is None or (model.options.noise is True and model.warm[0].noise is None)


def as_seen(models: Sequence[Model], known: Surveyed) -> tuple[Model, ...]:
    """Return the models as passes see the rows: what was given in units of the data, and priors of what rows are."""
    scaling, found = known.scaling, []
    if known.survey.seen is None:
        # (Without gaps all is as without the option.)
        models = [
            replace(m, options=replace(m.options, non_finite="error")) if m.options.non_finite == "marginalize" else m
            for m in models
        ]
    models = tuple(replace(m, options=m.options.knowing(known.row_sets[m.fold])) for m in models)
    models = tuple(beside_noise(model, scaling, lambda: known.box) for model in models)
    models = tuple(with_classes(model, known.survey.classes) for model in models)
    for model in models:
        seen = model if scaling is None else _mapped(model, scaling, known)
        warm = None if seen.warm is None else seen.warm[0]
        options = settled(seen.options, known.row_sets[model.fold], scaling=scaling, warm=warm)
        found.append(replace(seen, options=options))
    return tuple(found)


def _mapped(model: Model, scaling: Scaling, known: Surveyed) -> Model:
    """Return a model with what was given as rows are mapped."""
    options, warm, given = model.options, model.warm, model.options.given(known.X.n_features)
    if given.means is not None:
        options = replace(options, means_init=scaling.values(given.means))
    if given.precisions is not None:
        shape, precisions = options.family.shape, given.precisions
        options = replace(options, precisions_init=shape.rescaled(precisions, precisions, scaling.scale)[0])
    if warm is not None:
        warm = scaling.mapped(warm[0]), warm[1] + known.volumes[model.fold]
    return replace(model, options=options, warm=warm)


def precise_enough(models: Sequence[Model], survey: Survey) -> tuple[Model, ...]:
    """Return the models, in double precision where the squares of values would overflow in single."""
    reach = float(max((survey.maximum - survey.mean).max(), (survey.mean - survey.minimum).max()))
    if models[0].options.precision != "single" or reach <= FARTHEST_SINGLE:
        return tuple(models)
    logger.warning("Values are too far apart for single precision, whose squares overflow: double is taken.")
    return tuple(replace(m, options=replace(m.options, precision="double")) for m in models)
