"""The seeded sample of rows that a start is found on, in memory and in random order."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.block import tile_length
from daskgmm.kernels.folds import Fold, row_hash
from daskgmm.kernels.kernel import Kernel
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Check, Rows
from daskgmm.passes.survey import Survey, SurveyPass
from daskgmm.passes.tree import Passes
from daskgmm.sources.array_source import ArraySource

#: Decoded bytes (float64) of the sample at most: it is gathered in one process.
SAMPLE_BYTES = 64 << 20
#: A row of the race is visited about so many times by all restarts together (measured: 50 to 100 with the defaults),
#: which are to be at most two visits to each row of the whole input.
VISITS, VISITS_OF_ALL = 80, 2
#: So few rows cost nothing to visit, and are all in the sample.
FEW_ROWS = 20_000
#: The winner of the race goes on alone on at most this part of all rows: some eight passes there save two over all.
SAMPLE_PART = 4
#: On so many rows at least a contest sees the ends of fits: EM in memory takes a fraction of a second there.
AHEAD_ROWS = 100_000
#: Operations of a candidate that are worth a task of their own.
_TASK_FLOPS = 1e7
#: Tasks of a pass over the sample at most.
MOST_TASKS = 8


def sample_size(options: FitOptions, n_rows: int, n_features: int) -> int:
    """Return the number of rows to sample, in expectation; all of them where they are few.

    Those whose own error is tol are as good as all for a start. Bounds: a quarter of the rows, `start_rows`, and what
    SAMPLE_BYTES hold; but no fewer than race. A `start_rows` of all rows asks for all.
    """
    raced = race_size(options, n_rows, n_features)
    return max(raced, _bounded(min(_as_good(options, n_features), n_rows / SAMPLE_PART), options, n_rows, n_features))


def surveyed_size(options: FitOptions, n_rows: int, n_features: int, *, contest: bool = False) -> int:
    """Return the number of rows that the survey takes, in expectation.

    The sample, or more in a contest, and for the box of the noise.
    """
    size = ahead_size if contest else sample_size
    own = 0 if options.is_closed_form else size(options, n_rows, n_features)
    return max(own, box_size(n_rows, n_features)) if options.noise is True else own


def ahead_size(options: FitOptions, n_rows: int, n_features: int) -> int:
    """Return the number of rows on which a contest sees the ends of fits, in expectation: no fewer than the sample."""
    own = sample_size(options, n_rows, n_features)
    return max(own, int(min(n_rows, AHEAD_ROWS, SAMPLE_BYTES // (8 * n_features)))) if own else 0


def box_size(n_rows: int, n_features: int) -> int:
    """Return the number of rows whose box is that of the noise: the same for all models of a fit."""
    return int(min(n_rows, FEW_ROWS, max(SAMPLE_BYTES // (8 * n_features), 1)))


def race_size(options: FitOptions, n_rows: int, n_features: int) -> int:
    """Return the number of the sample's rows, in expectation, on which all restarts race; zero without a race.

    As many as cost two visits to each row, but no more than are as good as all; and 20,000, 100 a component, and enough
    for the model beside those that moves are judged on, where there are so many.
    """
    wanted = min(_as_good(options, n_features), VISITS_OF_ALL * n_rows / VISITS)
    least = max(FEW_ROWS, 100 * options.n_components, 3.3 * enough_rows(options, n_features))
    return _bounded(max(least, wanted), options, n_rows, n_features)


def enough_rows(options: FitOptions, n_features: int) -> int:
    """Return the rows without which a start is about rows, not groups: 20 a free parameter and feature.

    For full covariances that is 10 D K: ten rows a component for each row that its covariance needs.
    """
    return -(-20 * n_free(options, n_features) // n_features)


def n_free(options: FitOptions, n_features: int) -> int:
    """Return the number of free parameters of a model, the weights counted as if they need not sum to one."""
    k = options.n_components
    return k * (n_features + 1) + options.family.n_parameters(k, n_features)


def own_error(options: FitOptions, n_features: int, n_rows: int, n_all: float) -> float:
    """Return how far a sample's optimum lies below that of all rows, nats a row of all, about.

    Notes
    -----
    p / 2 (1 / n - 1 / N), of p free parameters (White 1982, doi:10.2307/1912526): each is wrong by what is worth half a
    nat on the rows that it is estimated from. More where the model is wrong.
    """
    return n_free(options, n_features) / 2 * (1 / n_rows - 1 / n_all)


def _as_good(options: FitOptions, n_features: int) -> float:
    """Return the number of rows whose optimum is as good as that of all for a start."""
    return own_error(options, n_features, 1, np.inf) / max(options.tol, 1e-6)


def _bounded(wanted: float, options: FitOptions, n_rows: int, n_features: int) -> int:
    """Return a number of rows within what there is, may be taken and can be held; of given starts none is wanted."""
    if options.start_is_given or options.starts_on_all_rows:
        return 0
    asked = options.start_rows
    if asked is not None:
        wanted = n_rows if asked >= n_rows else min(wanted, asked)
    return int(min(n_rows, wanted, max(SAMPLE_BYTES // (8 * n_features), 10 * options.n_components)))


@dataclass(frozen=True)
class Sample:
    """Rows in memory. Any first ones of them are a sample too.

    Attributes
    ----------
    X : (n, n_features), float64
        NaN where a value is missing.
    weights : (n,), float64
        Positive row weights.
    rows : (n,), uint64
        Their numbers in the input.
    seed : int
    columns : dict of str to (n,) or (n, n_columns), int64 or float64
        What else comes with each row.
    """

    X: Floats
    weights: Floats
    rows: NDArray[np.uint64]
    seed: int
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, survey: Survey, seed: int) -> Sample:
        """Return the sample of a survey, in row order."""
        if len(survey.sample) == 1:  # (as a pass leaves it: no copy more of what may take 64 MiB)
            columns: dict[str, NDArray[Any]] = {name: found[0] for name, found in survey.sample_columns.items()}
            return cls(survey.sample[0], survey.sample_weights[0], survey.sample_rows[0], seed, columns)
        X = np.concatenate([np.empty((0, len(survey.mean))), *survey.sample])
        weights = np.concatenate([np.empty(0), *survey.sample_weights])
        columns = {name: np.concatenate(found) for name, found in survey.sample_columns.items()}
        return cls(X, weights, np.concatenate([np.empty(0, dtype=np.uint64), *survey.sample_rows]), seed, columns)

    def __len__(self) -> int:
        return len(self.X)

    @cached_property
    def has_gaps(self) -> bool:
        """Whether values are missing."""
        return bool(np.isnan(self.X).any())

    @property
    def filled(self) -> Floats:
        """The rows with the mean of each feature where its value is missing, (n, n_features), float64."""
        if not self.has_gaps:
            return self.X
        gaps = np.isnan(self.X)
        weights = self.weights @ ~gaps
        means = self.weights @ np.where(gaps, 0.0, self.X) / np.where(weights > 0, weights, 1.0)
        return np.where(gaps, means, self.X)

    def within(self, threshold: int) -> Sample:
        """Return the rows whose hash is at most a threshold, none below 0: the sample of a smaller size, same seed."""
        if threshold < 0:
            return self.part(0, 0)
        chosen = row_hash(self.rows, self.seed) <= np.uint64(threshold)
        return self if chosen.all() else self._rows(chosen)

    def outside(self, fold: Fold | None) -> Sample:
        """Return the rows that are not in a fold."""
        return self if fold is None else self._rows(fold.mask(self.rows))

    def shuffled(self) -> Sample:
        """Return the rows in random order, by another hash: neighbours in the input are no longer neighbours."""
        return self._rows(np.argsort(row_hash(self.rows, self.seed + 1), kind="stable"))

    def halves(self) -> tuple[Sample, Sample]:
        """Return every other row, and the rest, views."""
        return self._rows(slice(0, None, 2)), self._rows(slice(1, None, 2))

    def part(self, begin: int, end: int) -> Sample:
        """Return the rows from `begin` to `end`, views."""
        return self._rows(slice(begin, end))

    def _rows(self, chosen: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Sample:
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Sample(self.X[chosen], self.weights[chosen], self.rows[chosen], self.seed, columns)

    def seen(self, parameters: Parameters, options: FitOptions) -> Parameters:
        """Return the mixture that the rows show as they are, where that is another than the one to be fitted."""
        kernel = options.kernel
        return kernel.seen(parameters, self.columns, self.weights) if isinstance(kernel, Kernel) else parameters

    def unseen(self, parameters: Parameters, options: FitOptions) -> Parameters:
        """Return the parameters to be fitted of a mixture that the rows show as they are."""
        kernel = options.kernel
        return kernel.unseen(parameters, self.columns, self.weights) if isinstance(kernel, Kernel) else parameters

    def passes(self, options: FitOptions) -> Passes:
        """Return passes over the sample, in this process: cut into tasks by its own size and the model's alone."""
        n, n_features = self.X.shape
        weights = None if (self.weights == 1).all() else ArraySource(self.weights)
        n_values = options.n_components * options.family.shape.n_statistics(n_features, exact=False)
        length = tile_length(n_features)
        n_tasks = int(max(1, min(MOST_TASKS, 4 * n * n_values // _TASK_FLOPS, -(-n // length))))
        step = -(-n // (n_tasks * length)) * length if n_tasks > 1 else n
        edges = np.append(np.arange(0, n, step), n).astype(np.int64)
        columns = {name: ArraySource(values) for name, values in self.columns.items()}
        check: Check = "marginalize" if self.has_gaps else "trust"
        return Passes(Rows(ArraySource(self.X), weights, edges, check=check, columns=columns), LocalExecutor())

    def row_set(self, passes: Passes, options: FitOptions) -> RowSet:
        """Return what M-steps need of the sample."""
        return passes.run(
            SurveyPass(self.X.shape[1], options.family.shape.leaves_common_term(), 0, -1), name="survey"
        ).row_set
