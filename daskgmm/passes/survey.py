"""The survey: one pass that learns what a fit must know of its rows, and takes the seeded sample."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.folds import fold_of, row_hash
from daskgmm.kernels.labels import LABELS
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.record import Record
from daskgmm.mixture.row_set import RowSet
from daskgmm.mixture.scaling import Scaling
from daskgmm.passes.known_classes import KnownClasses
from daskgmm.passes.seen import Observed, Seen, merged

Pieces = tuple[Floats | NDArray[np.int64], ...]


@dataclass(frozen=True)
class Survey(Record):
    """What is known of a set of rows. A monoid under `SurveyPass.merge`.

    Attributes
    ----------
    n_rows, n_dropped, first_dropped : int
        Finite rows; rows with a NaN or an infinity; the row number of the first of these, or -1.
    weight : float
        Sum of the row weights over finite rows.
    mean, minimum, maximum : (n_features,), float64
    scatter : (n_features, n_features) or (n_features,), float64
        Sum of w (x - mean)(x - mean)', or its diagonal alone.
    n_bad_weights, first_bad_weight : int
        Weights that are negative or not finite, and the row number of the first, or -1.
    sample, sample_weights, sample_rows : tuple of (n, n_features), (n,), float64, and (n,), uint64
        The seeded sample in row order, in pieces, with weights and row numbers; rows of weight zero are left out.
    sample_columns : dict of str to tuple of (n,) or (n, n_columns), int64 or float64
        What else comes with the sampled rows.
    folds : tuple of Survey
        What is known of each fold's rows; no samples.
    n_weighted : int
        Finite rows of positive weight.
    n_spoiled : (n_features,), int64
        Dropped rows by the features that hold their NaN or infinity: a row counts for each of these.
    classes : KnownClasses or None
        What is known of rows with labels.
    seen : Seen or None
        Which values there are, where rows have gaps: mean, minimum, maximum and scatter are then each feature's own, of
        the rows that have it, and the scatter is its diagonal alone.
    """

    n_rows: int
    n_dropped: int
    first_dropped: int
    weight: float
    mean: Floats
    minimum: Floats
    maximum: Floats
    scatter: Floats
    n_bad_weights: int
    first_bad_weight: int
    sample: tuple[Floats, ...]
    sample_weights: tuple[Floats, ...]
    sample_rows: tuple[NDArray[np.uint64], ...]
    folds: tuple[Survey, ...] = ()
    n_weighted: int = 0
    n_spoiled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    sample_columns: dict[str, Pieces] = field(default_factory=dict)
    classes: KnownClasses | None = None
    seen: Seen | None = None

    def standardized(self, scaling: Scaling) -> Survey:
        """Return what is known of the rows as they are mapped."""
        return replace(
            self,
            mean=scaling.values(self.mean),
            minimum=scaling.values(self.minimum),
            maximum=scaling.values(self.maximum),
            scatter=scaling.scatter(self.scatter),
            sample=tuple(scaling.values(piece) for piece in self.sample),
            folds=tuple(fold.standardized(scaling) for fold in self.folds),
            classes=None if self.classes is None else self.classes.standardized(scaling),
        )

    @property
    def row_set(self) -> RowSet:
        """Number, weight, mean and scatter, as M-steps need them."""
        if self.seen is None:
            return RowSet(self.n_rows, self.weight, self.mean, self.scatter)
        share = self.seen.weights / self.weight
        each = np.where(share > 0, share, 1.0)
        return RowSet(self.n_rows, self.weight, self.mean, self.scatter / each, share=share)


@dataclass(frozen=True)
class SurveyPass:
    """The pass of a survey.

    Attributes
    ----------
    n_features : int
    with_scatter : bool
        Whether the whole scatter matrix is wanted (tied covariances), or its diagonal.
    seed : int
        Seed of the sample: the same rows for the same seed whatever the partitioning.
    threshold : int
        A row is in the sample where its hash, 0 to 2^64 - 1, is at most this; -1 takes none.
    n_folds : int
        Folds to be surveyed one by one too, told apart with the same seed.
    n_classes : int
        Classes that labels may name; 0 where rows have none.
    squares_alone : bool
        Whether of the classes variances alone are wanted.
    with_pairs : bool
        Whether it is wanted which features have values in the same rows.
    """

    n_features: int
    with_scatter: bool
    seed: int
    threshold: int
    n_folds: int = 0
    n_classes: int = 0
    squares_alone: bool = False
    with_pairs: bool = False

    @cached_property
    def _local(self) -> local:
        return local()

    @cached_property
    def _nothing(self) -> NDArray[np.int64]:
        return np.zeros(self.n_features, np.int64)

    def __reduce__(self) -> tuple[type[SurveyPass], tuple[Any, ...]]:
        return SurveyPass, (
            self.n_features, self.with_scatter, self.seed, self.threshold, self.n_folds, self.n_classes,
            self.squares_alone, self.with_pairs,
        )  # fmt: skip

    def zero(self) -> Survey:
        empty = self._empty()
        return replace(empty, folds=(empty,) * self.n_folds)

    def _empty(self) -> Survey:
        d = self.n_features
        scatter = np.zeros((d, d) if self.with_scatter else d)
        edge = np.full(d, np.inf)
        empty = Survey(0, 0, -1, 0.0, np.zeros(d), edge, -edge, scatter, 0, -1, (), (), (), n_spoiled=self._nothing)
        if not self.n_classes:
            return empty
        return replace(empty, classes=KnownClasses.zero(self.n_classes, d, squares_alone=self.squares_alone))

    def update(self, state: Survey, block: Block) -> Survey:
        # Values beyond 1e150, which are refused after the survey by their range, overflow in the scatter.
        with np.errstate(over="ignore", invalid="ignore"):
            for tile in block.tiles():
                found = self._survey(tile)
                if self.n_folds:
                    found = replace(found, folds=self._folds(tile))
                state = self.merge(state, found)
            return state

    def finish(self, state: Survey) -> Survey:
        if not state.sample:
            return state
        return replace(
            state,
            sample=(np.concatenate(state.sample),),
            sample_weights=(np.concatenate(state.sample_weights),),
            sample_rows=(np.concatenate(state.sample_rows),),
            sample_columns={name: _joined(pieces) for name, pieces in state.sample_columns.items()},
        )

    def collected(self, state: Survey) -> Survey:
        """Return the survey with its sample in one piece."""
        return self.finish(state)

    def merge(self, state: Survey, other: Survey) -> Survey:
        """Return the survey of both row sets (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        weight = state.weight + other.weight
        delta, seen = other.mean - state.mean, None
        if state.seen is not None or other.seen is not None:
            seen, mean, scatter = merged(*((self._seen(s), s.mean, s.scatter) for s in (state, other)))
        else:
            if state.weight == 0:
                mean, between = other.mean, 0.0
            else:
                mean = state.mean + delta * (other.weight / weight)
                between = state.weight * other.weight / weight
            product = np.outer(delta, delta) if self.with_scatter else delta * delta
            scatter = state.scatter + other.scatter + between * product
        return Survey(
            state.n_rows + other.n_rows,
            state.n_dropped + other.n_dropped,
            _first(state.first_dropped, other.first_dropped),
            weight,
            mean,
            np.minimum(state.minimum, other.minimum),
            np.maximum(state.maximum, other.maximum),
            scatter,
            state.n_bad_weights + other.n_bad_weights,
            _first(state.first_bad_weight, other.first_bad_weight),
            state.sample + other.sample,
            state.sample_weights + other.sample_weights,
            state.sample_rows + other.sample_rows,
            tuple(self.merge(a, b) for a, b in zip(state.folds, other.folds, strict=True)),
            state.n_weighted + other.n_weighted,
            state.n_spoiled + other.n_spoiled if other.n_dropped else state.n_spoiled,
            {
                name: state.sample_columns.get(name, ()) + other.sample_columns.get(name, ())
                for name in {**state.sample_columns, **other.sample_columns}
            },
            state.classes if state.classes is None or other.classes is None else state.classes.merge(other.classes),
            seen,
        )

    def _seen(self, survey: Survey) -> Seen:
        if survey.seen is not None:
            return survey.seen
        return Seen.whole(self.n_features, survey.weight, with_pairs=self.with_pairs)

    def _folds(self, block: Block) -> tuple[Survey, ...]:
        """Return what is known of each fold's rows of the block, gathered so that each row is looked at once."""
        of_row = fold_of(_row_numbers(block), self.n_folds, self.seed)
        kept = _counted(block)
        found = []
        for fold in range(self.n_folds):
            chosen = np.flatnonzero(kept & (of_row == fold))
            weights = None if block.weights is None else block.weights[chosen]
            gaps = None if block.gaps is None else block.gaps[:, chosen]
            labels = {name: values[chosen] for name, values in block.columns.items() if name == LABELS}
            x = np.ascontiguousarray(block.x[:, chosen])
            rows = Block(x, weights, block.first_row, columns=labels, gaps=gaps)
            survey = self._survey(rows) if len(chosen) else self._empty()
            found.append(replace(survey, sample=(), sample_weights=(), sample_rows=(), sample_columns={}))
        return tuple(found)

    def _survey(self, block: Block) -> Survey:
        x, weights = block.x, block.weights
        kept = _counted(block)
        n_dropped = 0 if block.non_finite is None else int(block.non_finite.sum())
        spoiled = self._nothing if block.spoiled is None else np.count_nonzero(block.spoiled, axis=1)
        bad = np.zeros_like(kept) if weights is None else kept & ~(np.isfinite(weights) & (weights >= 0))
        n_rows = int(kept.sum())
        lost = -1 if block.non_finite is None else first_true(block.non_finite, block.first_row)
        if not n_rows or bad.any():
            empty = self._empty()
            return Survey(
                n_rows, n_dropped, lost, *_between(empty), int(bad.sum()),
                first_true(bad, block.first_row), (), (), (), n_spoiled=spoiled, classes=empty.classes,
            )  # fmt: skip
        if block.gaps is not None and block.gaps[:, kept].any():
            return self._survey_of_gaps(block, block.gaps, kept, n_dropped=n_dropped, lost=lost, spoiled=spoiled)
        # Rows are measured from one of them before their mean is taken: a constant feature then has it exactly.
        first = x[:, [int(np.argmax(kept))]]
        w = np.ones(x.shape[1]) if weights is None else weights
        if not hasattr(self._local, "work"):
            self._local.work = Workspace()
        # (Under a nanny malloc gives memory back at once: with fresh arrays of 128 KiB a survey took 3 times as long.)
        centred, weighted = self._local.work.get("centred", x.shape), self._local.work.get("weighted", x.shape)
        total = float(w.sum())
        np.subtract(x, first, out=centred)
        shift = (centred @ w) / total if total > 0 else np.zeros(len(x))
        centred -= shift[:, np.newaxis]
        # The squares are summed apart: k-means|| scales by them, and their bits are the same with products and without.
        np.multiply(centred, centred, out=weighted)
        squares = weighted @ w
        scatter = np.multiply(centred, w, out=weighted) @ centred.T if self.with_scatter else squares
        if self.with_scatter:
            np.fill_diagonal(scatter, squares)
        weighted_rows = kept & (w > 0)
        chosen = self._chosen(block) & weighted_rows
        finite = x if kept.all() else x[:, kept]
        return Survey(
            n_rows, n_dropped, lost, total, first[:, 0] + shift, finite.min(axis=1), finite.max(axis=1),
            scatter, 0, -1, (np.ascontiguousarray(x[:, chosen].T),), (w[chosen],), (_row_numbers(block)[chosen],),
            n_weighted=int(weighted_rows.sum()), n_spoiled=spoiled,
            sample_columns={name: (values[..., chosen].T,) for name, values in block.columns.items()},
            classes=self._classes(block, kept),
        )  # fmt: skip

    def _classes(self, block: Block, kept: NDArray[np.bool_]) -> KnownClasses | None:
        if not self.n_classes:
            return None
        zero = KnownClasses.zero(self.n_classes, self.n_features, squares_alone=self.squares_alone)
        return zero.of_block(block, block.columns[LABELS], kept)

    def _survey_of_gaps(
        self, block: Block, gaps: NDArray[np.bool_], kept: NDArray[np.bool_], *, n_dropped: int, lost: int,
        spoiled: NDArray[np.int64],
    ) -> Survey:  # fmt: skip
        """Return the survey of rows of which some have gaps, which stay NaN in the sample."""
        found = Observed.of(block, gaps, kept, with_pairs=self.with_pairs)
        w = np.ones(block.x.shape[1]) if block.weights is None else block.weights
        weighted_rows = kept & (w > 0)
        chosen = self._chosen(block) & weighted_rows
        sample = np.where(gaps[:, chosen], np.nan, block.x[:, chosen])
        return Survey(
            int(kept.sum()), n_dropped, lost, float(w[kept].sum()), found.mean, found.minimum, found.maximum,
            found.scatter, 0, -1, (np.ascontiguousarray(sample.T),), (w[chosen],), (_row_numbers(block)[chosen],),
            n_weighted=int(weighted_rows.sum()), n_spoiled=spoiled,
            sample_columns={name: (values[..., chosen].T,) for name, values in block.columns.items()},
            seen=found.seen, classes=self._classes(block, kept),
        )  # fmt: skip

    def _chosen(self, block: Block) -> NDArray[np.bool_]:
        if self.threshold < 0:
            return np.zeros(block.x.shape[1], dtype=bool)
        return row_hash(_row_numbers(block), self.seed) <= np.uint64(self.threshold)


def all_but(work: SurveyPass, survey: Survey, fold: int) -> Survey:
    """Return what is known of the rows outside of a fold."""
    others = [found for i, found in enumerate(survey.folds) if i != fold]
    result = others[0]
    for other in others[1:]:
        result = work.merge(result, other)
    return result


def sample_threshold(n_rows: int, n_sample: int) -> int:
    """Return the largest hash of a row in the sample such that about n_sample of n_rows are in it."""
    if n_sample >= n_rows:
        return (1 << 64) - 1
    return (n_sample * (1 << 64)) // n_rows - 1


def _joined(pieces: Pieces) -> Pieces:
    return (np.concatenate(pieces),)  # type: ignore[return-value]  # (pieces of one column have one dtype)


def _counted(block: Block) -> NDArray[np.bool_]:
    left_out = block.left_out
    return np.ones(block.x.shape[1], dtype=bool) if left_out is None else ~left_out


def _row_numbers(block: Block) -> NDArray[np.uint64]:
    return np.arange(block.first_row, block.first_row + block.x.shape[1], dtype=np.uint64)


def _between(empty: Survey) -> tuple[float, Floats, Floats, Floats, Floats]:
    return empty.weight, empty.mean, empty.minimum, empty.maximum, empty.scatter


def _first(a: int, b: int) -> int:
    found = [n for n in (a, b) if n >= 0]
    return min(found, default=-1)


def first_true(mask: NDArray[np.bool_], first_row: int) -> int:
    """Return the number of the first row of a mask that begins at a row, or -1."""
    return first_row + int(np.argmax(mask)) if mask.any() else -1
