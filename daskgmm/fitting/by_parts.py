"""A fit whose passes others do: it goes on with what a pass has found, up to the next pass that it waits for.

The stages are those of any fit (`run`). Where one asks for a pass that nobody has done yet, the fit ends there, and
what it has come to is a record, which is written and read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError
from daskgmm.fitting.evaluate import Evaluator
from daskgmm.fitting.events import Listener, ignore
from daskgmm.fitting.known import check_known
from daskgmm.fitting.known_source import KnownSource, known_of
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.model import Model
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.progress import Progress
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import Run
from daskgmm.fitting.sample import FEW_ROWS
from daskgmm.fitting.surveyed import as_seen, precise_enough, surveyed
from daskgmm.kernels.errors import ERRORS
from daskgmm.kernels.estep import CandidatesPass, EStep
from daskgmm.kernels.folds import row_hash
from daskgmm.kernels.plan import unpacked
from daskgmm.kernels.score import SupportPass
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.common_errors import without_errors
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.scaling import Scaling
from daskgmm.passes.current import for_passes
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.parts import Subtree
from daskgmm.passes.rows import Rows, check_of
from daskgmm.passes.survey import Survey, SurveyPass, sample_threshold
from daskgmm.passes.task import CollectingPass, Pass, State
from daskgmm.passes.tree import Passes
from daskgmm.sources.digest import digest
from daskgmm.sources.source import Source
from daskgmm.stores.remembered import Remembered

_WORK: dict[str, type[EStep] | type[SupportPass]] = {"em": EStep, "closing": SupportPass}


@dataclass(frozen=True)
class Asked(Record):
    """Which fit it is: of what rows, with which options.

    Attributes
    ----------
    options : FitOptions
        As they are asked for: see `model`.
    input, meaning : dict
        What tells the rows and what comes with them from others, and what a model says of them, as JSON.
    opened : dict
        How the input is opened, as JSON.
    rows, weights : dict or None
        What is known of them by their metadata.
    edges : (n_partitions + 1,), int64
        Rows at which partitions begin, and the end.
    warm : Parameters or None
        A mixture that the fit goes on from.
    columns : dict
        What is known of what else comes with each row, by name.
    common : (n_features, n_features), float64, or None
        The covariance of the measurement errors, where all rows have one.
    """

    options: FitOptions
    input: dict[str, Any]
    meaning: dict[str, Any]
    opened: dict[str, Any]
    rows: dict[str, Any]
    weights: dict[str, Any] | None
    edges: NDArray[np.int64]
    warm: Parameters | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    common: Floats | None = None

    @classmethod
    def of(
        cls, options: FitOptions, rows: Rows, *, input: dict[str, Any], meaning: dict[str, Any], opened: dict[str, Any],
        warm: Parameters | None = None, common: Floats | None = None,
    ) -> Asked:  # fmt: skip
        """Return what is asked of some rows."""
        if options.starts_on_all_rows:
            raise OptionError(
                "`init_params`",
                "be a start on the sample, where a fit goes by parts",
                options.init_params,
                "Choose another one, or fit all in one go, which makes the passes that it takes.",
            )
        check_known(options, rows.X.n_features)
        weights = None if rows.weights is None else known_of(rows.weights)
        columns = {name: known_of(column) for name, column in rows.columns.items()}
        return cls(options, input, meaning, opened, known_of(rows.X), weights, rows.edges, warm, columns, common)

    @property
    def json(self) -> dict[str, Any]:
        """What must be the same in everything that belongs to a fit."""
        return {"options": self.options.as_json(), "input": self.input}

    @property
    def errors(self) -> Measured:
        """The measurement errors of the rows, or none."""
        column = None if ERRORS not in self.columns else KnownSource(self.columns[ERRORS])
        return Measured(self.common, column, self.rows["n_features"])

    @property
    def model(self) -> Model:
        """What is to be fitted."""
        errors, warm = self.errors, None if self.warm is None else (self.warm, -np.inf)
        options = errors.asked(self.options, self.rows["n_features"]) if errors.are_given else self.options
        return Model(options, warm=errors.warm(warm))

    def planned(self) -> Rows:
        """Return the rows as far as they are known, which nobody can read."""
        weights = None if self.weights is None else KnownSource(self.weights)
        columns: dict[str, Source] = {name: KnownSource(known) for name, known in self.columns.items()}
        return Rows(KnownSource(self.rows), weights, self.edges, columns=columns).checked(self.options.non_finite)


@dataclass(frozen=True)
class Awaited(Record):
    """A pass that a fit waits for.

    Attributes
    ----------
    name : str
        "survey", "em" or "closing".
    number : int
        Passes of the fit with it.
    check, scaling
        How it sees the rows: see `Rows`.
    plans : tuple of tuple
        Of a pass over candidates: `Plan.packed` of each.
    chosen : tuple
        Which components a given kernel computes, of each, (n_components,), bool; None where there is none.
    """

    name: str
    number: int
    check: str
    scaling: Scaling | None
    plans: tuple[tuple[Any, ...], ...] = ()
    chosen: tuple[Any, ...] = ()

    def work(self, asked: Asked) -> Pass[Any]:
        """Return what computes it."""
        if self.name == "survey":
            return _survey_pass(asked)
        shape = asked.options.family.shape
        kernel = asked.model.options.kernel
        given = [None if mask is None else (kernel, mask) for mask in self.chosen]
        return _WORK[self.name]([unpacked(shape, *each) for each in zip(self.plans, given, strict=True)])

    def seen(self, rows: Rows) -> Rows:
        """Return rows as it sees them."""
        return replace(rows, check=cast(Any, self.check), scaling=self.scaling)

    @property
    def forms(self) -> str:
        """What sums of candidates mean: their forms and reference points."""
        return _forms(self.plans)

    def key(self, asked: Asked) -> str:
        """What tells it from any other pass of any fit."""
        return digest(
            (self.name, self.number, self.check, self.scaling, self.plans, asked.options.as_json(), asked.edges)
        )


@dataclass(frozen=True)
class Found(Record):
    """What a pass has found.

    Attributes
    ----------
    partial : Partial
    seconds : float
        Of the part that took longest.
    forms : str
        What its sums mean: `Awaited.forms`.
    """

    partial: Any
    seconds: float
    forms: str


@dataclass(frozen=True)
class Standing(Record):
    """What a fit goes on from.

    Attributes
    ----------
    values : dict
        What a checkpoint would hold.
    found : tuple of Found
        What has been found since these were kept, pass after pass.
    stamps : list of str
        The checksum of the stored form of each partition.
    """

    values: dict[str, Any] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    stamps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """What a fit has come to.

    Attributes
    ----------
    standing : Standing
    awaited : Awaited or None
        The pass that it waits for; None where it has ended.
    candidate, parameters : Candidate, Parameters, or None
        The best so far, and its mixture in units of the data; None before the start.
    volume : float
        What its log-likelihoods are above those in units of the data, nats.
    n_passes, bytes_read : int
        Of all parts so far.
    history : tuple of dict
    fit : Fit or None
        What it has ended with.
    """

    standing: Standing
    awaited: Awaited | None
    n_passes: int
    bytes_read: int
    history: tuple[dict[str, Any], ...]
    candidate: Candidate | None = None
    parameters: Parameters | None = None
    volume: float = 0.0
    fit: Fit | None = None


def _forms(plans: Sequence[tuple[Any, ...]]) -> str:
    # (All but the log weights, and the noise's, whose last bits are a processor's own.)
    return digest([packed[2:] for packed in plans])


def first_pass(asked: Asked) -> Awaited:
    """Return the pass that every fit begins with."""
    return Awaited("survey", 1, check_of(asked.options.non_finite), None)


def merge_of(subtrees: tuple[Subtree, ...]) -> Any:
    """Return how states add, where they alone say it; None for a survey's, whose samples stay apart."""
    sums = all(isinstance(each.partial.state, list) for each in subtrees)
    return CandidatesPass(()).merge if sums else None


def go_on(
    asked: Asked, standing: Standing, found: Found | None = None, *, place: str, listener: Listener = ignore
) -> Turn:
    """Return what a fit comes to with what one more pass has found; `place` is what messages say it goes on from.

    Raises
    ------
    DataError, CollapsedComponentError
        As any fit, of what the passes have found.
    """
    done = standing.found if found is None else (*standing.found, found)
    rows, kept = asked.planned(), Remembered(standing.values, place)
    passes = _PassesOfParts(rows, standing.stamps, done)
    with for_passes(None):
        progress = Progress(Evaluator(passes), 1, listener, kept)
        turn, awaited = Turn(standing, None, 0, 0, ()), None
        try:
            known = surveyed(progress, [asked.model], 0)
            run = Run(progress, known, precise_enough(as_seen([asked.model], known), known.survey))
            volume = known.volumes[None]
            best = run.started(0)[0]
            turn = replace(turn, candidate=best, volume=volume)
            turn = replace(turn, fit=asked.errors.of_true_values(run.fits([0])[0]))
        except _NobodyHasDone as missing:
            awaited = missing
        polishing = kept.get("polishing")
        if turn.candidate is not None:
            best = turn.candidate if polishing is None else polishing.best(0)
            scaling = passes.rows.scaling
            parameters = best.parameters if scaling is None else scaling.back(best.parameters)
            parameters = parameters if asked.common is None else without_errors(parameters, asked.common)
            turn = replace(turn, candidate=best, parameters=parameters)
    left = () if kept.n_puts else done
    values = kept.values if turn.candidate is None else _less_sample(kept.values, asked)
    n_passes, history = progress.history.n_passes, tuple(progress.history.of_model[0])
    return replace(
        turn,
        standing=Standing(values, left, standing.stamps),
        awaited=None if awaited is None else _awaited(awaited, n_passes + len(left) + 1),
        n_passes=n_passes,
        bytes_read=passes.bytes_read,
        history=history,
    )


class _NobodyHasDone(BaseException):
    """A pass is asked for that nobody has done. (No failure: what handles failures lets it through.)"""

    def __init__(self, work: Pass[Any], name: str, rows: Rows) -> None:
        super().__init__(name)
        self.work, self.name, self.rows = work, name, rows


class _PassesOfParts(Passes):
    """Passes that were done before, by parts, in the order in which a fit asks for them."""

    def __init__(self, rows: Rows, stamps: list[str], found: tuple[Found, ...]) -> None:
        super().__init__(rows, LocalExecutor())
        self.files, self._found, self._n_asked = stamps, found, 0

    def run(self, work: Pass[State], *, name: str) -> State:
        """Return the state of all rows that a pass has found before."""
        if self._n_asked == len(self._found):
            raise _NobodyHasDone(work, name, self.rows)
        found = self._found[self._n_asked]
        self._n_asked += 1
        if _forms([plan.packed for plan in getattr(work, "plans", ())]) != found.forms:
            raise DataError(
                "The sums of a pass",
                "have the forms that this machine would take",
                "others, of a machine of another kind",
                "Make all steps of a fit but its parts on machines of one kind.",
            )
        self.bytes_read += found.partial.bytes_read
        self.n_repeats += found.partial.n_repeats
        self.seconds = found.seconds
        state: State = found.partial.state
        return work.collected(state) if isinstance(work, CollectingPass) else state

    def check_files(self, checkpoint: str | None) -> None:
        """Do nothing: each part has done so."""


def _awaited(missing: _NobodyHasDone, number: int) -> Awaited:
    plans = getattr(missing.work, "plans", ())
    packed, chosen = (tuple(each) for each in ([p.packed for p in plans], [p.given and p.given[1] for p in plans]))
    return Awaited(missing.name, number, missing.rows.check, missing.rows.scaling, packed, chosen)


def _survey_pass(asked: Asked) -> SurveyPass:
    """Return the pass of the survey, as the stage of a fit asks for it."""
    progress = Progress(Evaluator(_PassesOfParts(asked.planned(), [], ())), 1, ignore, None)
    try:
        surveyed(progress, [asked.model], 0)
    except _NobodyHasDone as missing:
        return cast(SurveyPass, missing.work)
    raise AssertionError("a fit begins with a survey")


def _less_sample(values: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Return what is kept with no more of the sample than the closing pass asks for: it is in each file from now on."""
    survey: Survey = values["survey"]
    if not survey.sample:
        return values
    (numbers,) = survey.sample_rows
    few = sample_threshold(asked.planned().X.n_rows, FEW_ROWS)
    chosen = row_hash(numbers, asked.options.seed) <= np.uint64(few)
    found = replace(
        survey,
        sample=(survey.sample[0][chosen],),
        sample_weights=(survey.sample_weights[0][chosen],),
        sample_rows=(numbers[chosen],),
        sample_columns={name: (values[chosen],) for name, (values,) in survey.sample_columns.items()},
    )
    return {**values, "survey": found}
