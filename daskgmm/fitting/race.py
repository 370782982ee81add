"""The start: EM of all restarts on the sample, of which fewer and fewer go on, on more and more rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np

from daskgmm.fitting.annealing import annealed
from daskgmm.fitting.class_starts import ClassStarts
from daskgmm.fitting.emptied import emptied
from daskgmm.fitting.escape import exchanges, moved, proposals
from daskgmm.fitting.evaluate import Evaluator, RowSets
from daskgmm.fitting.loop import Candidate, ranked, run_em
from daskgmm.fitting.merge import Outlook, look
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample, enough_rows, own_error
from daskgmm.fitting.start import starts_by, ways
from daskgmm.fitting.worth import RISE, Judge, Worth, alive, latest
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import Split

Found = TypeVar("Found")

#: Stages, each with half of the candidates and twice the rows of the one before, the last with all, and EM steps.
#: (From an eighth of the rows on, with six steps, they cost as much and ended 0.013 nats lower in the mean of six fits
#: of 16 to 50 components: an eighth of the sample was too little to judge by.)
STAGES, STAGE_PASSES = 3, 4
#: k-means of a start need not converge: EM goes on from it.
K_MEANS_ITERATIONS = 50
#: EM steps of the one that is left at most, and the change at which they end, nats: passes are cheap here.
FINAL_PASSES, SAMPLE_TOL = 20, 1e-4
#: On all of the sample a change of this part of the sample's own error ends EM, where it is below tol: the passes over
#: all rows make good the rest with what they make good anyway. (500,000 x 16, K = 32: 4 passes instead of 6 over a
#: quarter of the rows, and as many over all, to the same end. With a twentieth one of ten fits ended 1e-5 lower, with a
#: tenth all did in which components overlap.)
ENOUGH = 0.02
#: Where fewer rows than these are all there are, all restarts go on to the end: so few cost little, and half of the way
#: tells little (digits: 0.02 to 0.4 nats a row below scikit-learn's best of ten in four of ten runs).
SMALL = 2000
#: Of fewer than these they do so always, so that more restarts never end worse; and they are not split: iris takes
#: 60 ms, twice as long as one start of scikit-learn's, and would take 80 more for splits.
FEW = 300
#: Where the sample is all rows, moves start from so many of the best restarts, since the best need not lead highest
#: (digits, full and diag: 0.03 and 0.13 nats a row); scores that are nearer, nats a row, count as one maximum.
FINALISTS, APART = 3, 1e-3
#: Rounds of moves that are made together, EM steps after them, and how often a half of them is tried where all fail.
EXCHANGE_ROUNDS, EXCHANGE_PASSES, HALVINGS = 5, 12, 3
#: Rounds of single moves, whose proposals race: where the sample is all rows, and else; proposals a round.
ESCAPE_ROUNDS, SAMPLE_ROUNDS, ESCAPE_MOVES = 5, 3, 6
#: Rows of the covariance within all components that an M-step adds to each, a feature, where the sample has too few for
#: the model, fewer than 20 D K (photograph patches of 64 features, K = 20: two spikes before the moves, nine without).
#: Where it has enough they cost likelihood: a narrow component is widened by rows that are none of its own (6 x 6
#: patches, 15,000 rows, K = 6: 0.5 nats a row).
SHRINKAGE = 0.25

#: Receives the candidates after a pass over the sample, the rows that it visited, and its seconds.
Note = Callable[[Sequence[Candidate], int, float], None]


def stage_size(stage: int, n: int, least: int) -> int:
    """Return the rows of a stage of a race on n rows, of which no stage has fewer than `least` where there are such."""
    return min(n, max(least, n >> (STAGES - 1 - stage)))


class Step(Protocol):
    """Does a step, or has it from an earlier process that was cut short: the same steps come in the same order."""

    def __call__(self, compute: Callable[[], Found], /) -> Found:
        """Return what `compute` returns: mixtures, candidates, or numbers. All that it notes, it notes in there."""


class Race:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) among the restarts of one model.

    The sample is in random order, and each stage works on its first rows, twice as many as the one before; candidates
    are compared on as many of the next rows, which none of them has seen. The best of the last stage is then split and
    merged where that promises a gain, on three quarters of the rows; what comes of it must be ahead on the others. It
    then goes on alone on all of the sample.

    Parameters
    ----------
    sample : Sample
    n_rows : int
        How many of its rows the race is on; the others are for the winner.
    options : FitOptions
    whole : bool
        Whether the sample is all rows: then nothing unseen is needed to judge by.
    n_all : int
        Number of all rows of positive weight.
    compiled : bool
        Whether the compiled kernel does what it can.
    note : callable
    step : callable
    classes : ClassStarts or None
        Where the components of known classes start.
    """

    def __init__(
        self,
        sample: Sample,
        options: FitOptions,
        *,
        n_rows: int,
        whole: bool,
        n_all: int,
        compiled: bool,
        note: Note,
        step: Step,
        classes: ClassStarts | None = None,
    ) -> None:
        self._classes = classes
        self._all, self._compiled, self._note, self._step = sample.shuffled(), compiled, note, step
        self._sample = self._all.part(0, n_rows)
        # (max_iter bounds passes over all rows; here each stage has its own number.)
        tol, max_iter = min(options.tol, SAMPLE_TOL), max(options.max_iter, FINAL_PASSES)
        self._options = replace(options, tol=tol, max_iter=max_iter, stopping=None)
        self._whole, self._n_all = whole, n_all
        least = ENOUGH * own_error(options, sample.X.shape[1], len(sample), n_all)
        self._last_tol = min(options.tol, max(SAMPLE_TOL, least))
        # (Splits and merges are judged on these last rows. The mixture that they change must not have been fitted to
        # them either, or the comparison is biased.)
        n = len(self._sample)
        self._n_seen = n - n // 4 if options.escape and not whole and not options.may_be_empty else n
        self._judge = Judge(
            self._sample, self._options, n_seen=self._n_seen, n_all=n_all, compiled=compiled,
            note=lambda mixtures, n_rows, seconds: note(self._fresh(mixtures), n_rows, seconds),
        )  # fmt: skip
        n_features = sample.X.shape[1]
        #: Fewer rows tell little of so many parameters; to start from it takes twice as many.
        self._first = enough_rows(options, n_features)
        self._least = self._first // 2
        judged = n if whole else n - self._n_seen
        self._moves = options.escape and n >= FEW and judged >= self._least
        self._last: tuple[Parameters, int | None, Outlook, list[Split]] | None = None

    def run(self) -> Candidate:
        """Return the best candidate, which goes on to all rows.

        Raises
        ------
        CollapsedComponentError, NotFiniteError
            All candidates are lost: they collapsed, or are not finite.
        """
        first = self._sample.part(0, self._size(0, len(self._sample)))
        left = self._fresh(self._step(lambda: self._starts(first)))
        n_left = FINALISTS if self._whole and self._moves else 1
        while True:
            finalists = self._finalists(left, self._n_seen, grows=not self._whole, n_left=n_left)
            standing = alive(finalists)
            if standing and self._options.may_be_empty:
                return self._polished(self._emptied(standing))
            if self._moves and standing:
                return self._polished(self._escaped(standing))
            if standing:
                return self._polished(standing[0] if len(standing) == 1 else self._best(standing)[0])
            # Until it collapses such a candidate is ahead of all others: those race again without it.
            gone = {c.index for c in finalists}
            left = [c for c in left if c.index not in gone]
            if not left:
                raise finalists[0].failure()

    def _starts(self, rows: Sample) -> list[Parameters]:
        """Return the restarts' mixtures, all of them different, after their first EM steps."""
        options = self._options.on_sample(len(rows) / self._n_all)
        several = len(self._sample) >= FEW
        found = starts_by(
            ways(options, few_rows=self._whole), rows.filled, rows.weights, options, classes=self._classes,
            k_means_iterations=K_MEANS_ITERATIONS, distinct=several and options.init_params != "random_from_data",
        )  # fmt: skip
        if not options.any_given:
            found = [(rows.unseen(p, options), schedule) for p, schedule in found]
        if not any(schedule for _, schedule in found):
            return [p for p, _ in found]
        with rows.passes(options) as passes:
            evaluator = Evaluator(passes)
            after = annealed(
                found, evaluator.statistics, rows.row_set(passes, options), options,
                least=self._shrinkage(len(rows)), compiled=self._compiled,
                after_pass=lambda mixtures: self._note(self._fresh(mixtures), len(rows), evaluator.seconds),
            )  # fmt: skip
        return [p for p in after if p is not None] or [p for p, _ in found]

    def _finalists(self, current: Sequence[Candidate], n: int, *, grows: bool, n_left: int = 1) -> list[Candidate]:
        """Return what the stages on the first n rows leave of some candidates, `n_left` at least, after the last EM.

        Those that are lost are among them only if all are.
        """
        small = len(self._sample) < FEW or (self._whole and len(self._sample) < SMALL)
        for stage in range(STAGES):
            if len(current) > n_left and not small:
                size = self._size(stage, n) if grows else n
                current = self._step(partial(self._stage, current, size, n_left))
        n_passes = self._options.max_iter if small else FINAL_PASSES
        return self._step(lambda: self._em(current, n, n_passes))

    def _stage(self, current: Sequence[Candidate], size: int, n_left: int) -> list[Candidate]:
        return self._halved(self._em(current, size, STAGE_PASSES), size, n_left)

    def _size(self, stage: int, n: int) -> int:
        return n if self._whole else stage_size(stage, n, self._first)

    def _fresh(self, found: Sequence[Parameters]) -> list[Candidate]:
        return [Candidate.start(i, p, self._options, compiled=self._compiled) for i, p in enumerate(found)]

    def _shrinkage(self, n_rows: int) -> float:
        """Return the rows of the covariance within all components that M-steps on so many rows add to each."""
        if self._whole or n_rows >= 2 * self._first:
            return 0.0
        return SHRINKAGE * (self._options.family.least_rows(self._sample.X.shape[1]) - 1)

    def _on(self, n_rows: int) -> FitOptions:
        """Return the options of EM on so many rows: the prior weighs as much as on all, and covariances are shrunk."""
        return replace(self._options.on_sample(n_rows / self._n_all), shrunk=self._shrinkage(n_rows))

    def _em(
        self, candidates: Sequence[Candidate], size: int, n_passes: int, *, tol: float | None = None
    ) -> list[Candidate]:
        """Return the candidates after EM on the first rows of the sample, from their parameters."""
        rows = self._all.part(0, size)
        with rows.passes(self._options) as passes:
            evaluator = Evaluator(passes)
            row_sets: RowSets = {None: rows.row_set(passes, self._options)}
            options = self._on(size) if tol is None else replace(self._on(size), tol=tol)
            fresh = [Candidate.start(c.index, c.parameters, options, compiled=self._compiled) for c in candidates]
            return run_em(
                fresh, evaluator.statistics, row_sets, n_passes=n_passes,
                after_pass=lambda found: self._note(latest(found), size, evaluator.seconds),
            )  # fmt: skip

    def _halved(self, candidates: Sequence[Candidate], size: int, n_left: int) -> list[Candidate]:
        """Return the better half, `n_left` at least, judged on rows that they have not seen where there are enough."""
        left = alive(candidates) or list(candidates)
        unseen = self._sample.part(size, min(2 * size, len(self._sample)))
        scores = [c.lower_bound for c in left]
        if len(unseen) >= self._least:
            scores = self._judge.scores([c.parameters for c in left], unseen)
        return [left[i] for i in sorted(ranked(scores)[: max(n_left, len(candidates) // 2)])]

    def _best(self, candidates: Sequence[Candidate]) -> tuple[Candidate, Worth]:
        """Return the best of some candidates that have seen the first rows, and what it is worth."""
        return self._in_order(candidates)[0]

    def _in_order(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Worth]]:
        """Return candidates that have seen the first rows, and what they are worth, the best first."""
        mixtures = [c.parameters for c in candidates]
        worths = [Worth(*found) for found in self._step(lambda: self._judge.worths(mixtures))]
        return [(candidates[i], worths[i]) for i in ranked([w.score for w in worths])]

    def _escaped(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the best of what moves have made of the best candidates; itself where nothing is better."""
        chosen: list[tuple[Candidate, Worth]] = []
        for candidate, worth in self._in_order(candidates):
            if all(abs(worth.score - other.score) > APART for _, other in chosen):
                chosen.append((candidate, worth))
        best, reached = self._moved(*chosen[0])
        for other in chosen[1 : FINALISTS if self._whole else 1]:
            tried, worth = self._moved(*other)
            if worth.beats(reached):
                best, reached = tried, worth
        return best

    def _moved(self, best: Candidate, worth: Worth) -> tuple[Candidate, Worth]:
        """Return what moves have made of a candidate, and what that is worth; itself where nothing is better."""
        if not self._whole or any(worth.spikes):
            best, worth = self._exchanged(best, worth)
        for _ in range(ESCAPE_ROUNDS if self._whole else SAMPLE_ROUNDS):
            proposed = self._step(partial(self._proposed, best))
            if not proposed:
                break
            tried = alive(self._finalists(self._fresh(proposed), self._n_seen, grows=False))
            if not tried:
                break
            child, reached = self._best(tried)
            if not reached.beats(worth):
                break
            best, worth = child, reached
        return best, worth

    def _emptied(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the candidate of the highest bound, with components emptied into others as far as that raises it."""
        best = candidates[ranked([c.lower_bound for c in candidates])[0]]
        rows = self._sample.part(0, self._n_seen)
        for _ in range(self._options.n_components if self._options.escape else 0):
            for child in self._step(partial(emptied, best.parameters, rows.X, rows.weights)):
                (tried,) = self._step(partial(self._em, self._fresh([child]), self._n_seen, EXCHANGE_PASSES))
                if not tried.status.is_lost and tried.lower_bound > best.lower_bound + RISE:
                    best = tried
                    break
            else:
                break
        return best

    def _exchanged(self, best: Candidate, worth: Worth) -> tuple[Candidate, Worth]:
        """Return the candidate after moves made together, and its worth; half of them where all are no gain."""
        for _ in range(EXCHANGE_ROUNDS + sum(worth.spikes)):
            proposed = self._step(partial(self._together, best, worth))
            for child in proposed:
                (tried,) = self._step(partial(self._em, self._fresh([child]), self._n_seen, EXCHANGE_PASSES))
                if tried.status.is_lost:
                    continue
                tried, reached = self._best([tried])
                if reached.beats(worth):
                    best, worth = tried, reached
                    break
            else:
                break
        return best, worth

    def _together(self, best: Candidate, worth: Worth) -> list[Parameters]:
        """Return the mixture after all moves that promise a gain, after the better half of them, and so on."""
        began, p = perf_counter(), best.parameters
        outlook, found_splits = self._looked(p, self._n_seen // 2 if self._whole else self._n_seen)
        moves = exchanges(outlook, found_splits, np.array(worth.spikes))
        numbers = [n for n in (len(moves) >> i for i in range(HALVINGS)) if n]
        found = [moved(self._sample.seen(p, self._options), moves[:n]) for n in numbers]
        self._note([best], self._looks(), perf_counter() - began)
        return [self._sample.unseen(child, self._options) for child in found if child is not None]

    def _looked(self, p: Parameters, n_fitted: int | None) -> tuple[Outlook, list[Split]]:
        """Return what moves see of a mixture, and the splits of its components, fitted to the first rows.

        They follow from the mixture alone, so that a start that goes on after it was cut short finds the same ones; the
        last ones are kept: moves that are made together and single ones look at the same.
        """
        if self._last is None or self._last[0] is not p or self._last[1] != n_fitted:
            rows = self._sample
            seen = rows.seen(p, self._options)
            outlook = look(seen, rows.X, rows.weights)
            found = outlook.splits(
                seen, rows.weights, floor=self._options.whole_prior.floor,
                rng=np.random.RandomState(self._options.seed), n_fitted=n_fitted,
            )  # fmt: skip
            held = np.append(p.held | p.has_fixed, False)  # (labels, or what is fixed of it, say where a component is)
            outlook, found = outlook.sparing(held), [s for s in found if not held[s.k]]
            self._last = p, n_fitted, outlook, found
        return self._last[2], self._last[3]

    def _proposed(self, best: Candidate) -> list[Parameters]:
        """Return single moves away from a candidate."""
        began, p = perf_counter(), best.parameters
        outlook, found = self._looked(p, None if self._whole else self._n_seen)
        proposed = proposals(self._sample.seen(p, self._options), outlook, found, n_most=ESCAPE_MOVES)
        self._note([best], self._looks(), perf_counter() - began)
        return [self._sample.unseen(child, self._options) for child in proposed]

    def _looks(self) -> int:
        """Return how many rows a look visits: two E-steps, and some 26 of two components on 1000 rows of each."""
        return 2 * len(self._sample) + 26 * min(1000, self._n_seen // self._options.n_components)

    def _polished(self, best: Candidate) -> Candidate:
        """Return the winner after EM on all of the sample; as it was where it has seen all, or collapses there."""
        if len(self._all) == self._n_seen:
            return best
        (polished,) = self._step(lambda: self._em([best], len(self._all), FINAL_PASSES, tol=self._last_tol))
        return best if polished.status.is_lost else polished
