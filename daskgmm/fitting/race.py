"""The start: EM of all restarts on the sample, of which fewer and fewer go on, on more and more rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.evaluate import Evaluator, Request, RowSets
from daskgmm.fitting.loop import Candidate, ranked, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample, n_free
from daskgmm.fitting.start import starts
from daskgmm.mixture.escape import offspring
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.plan import make_plan

Found = TypeVar("Found")

#: Stages, each with half of the candidates and twice the rows of the one before, the last with all, and EM steps.
#: (From an eighth of the rows on, with six steps, they cost as much and ended 0.013 nats lower in the mean of six fits
#: of 16 to 50 components: an eighth of the sample was too little to judge by.)
STAGES, STAGE_PASSES = 3, 4
#: k-means of a start need not converge: EM goes on from it.
K_MEANS_ITERATIONS = 50
#: EM steps of the one that is left at most, and the change at which they end, nats: passes are cheap here.
FINAL_PASSES, SAMPLE_TOL = 20, 1e-4
#: Fewer rows than these make do with the starts that k-means finds, and are not split: iris takes 60 ms, twice as long
#: as one start of scikit-learn's, and would take 80 more for splits and 100 more for further starts.
FEW = 300
#: Splits and merges: rounds of them, and proposals a round.
ESCAPE_ROUNDS, ESCAPE_MOVES = 5, 6

#: Receives the candidates after a pass over the sample, the rows that it visited, and its seconds.
Note = Callable[[Sequence[Candidate], int, float], None]


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
    compiled : bool
        Whether the compiled kernel does what it can.
    note : callable
    step : callable
    """

    def __init__(
        self, sample: Sample, options: FitOptions, *, n_rows: int, whole: bool, compiled: bool, note: Note, step: Step
    ) -> None:
        self._all, self._compiled, self._note, self._step = sample.shuffled(), compiled, note, step
        self._sample = self._all.part(0, n_rows)
        # (max_iter bounds passes over all rows; here each stage has its own number.)
        self._options = replace(options, tol=min(options.tol, SAMPLE_TOL), max_iter=max(options.max_iter, FINAL_PASSES))
        self._whole = whole
        # (What is to be judged on rows that it has not seen must not have seen them before it is split, either.)
        n = len(self._sample)
        self._n_seen = n - n // 4 if options.escape and not whole else n
        n_features = sample.X.shape[1]
        #: Fewer rows tell little of so many parameters.
        self._least = -(-10 * n_free(options, n_features) // n_features)

    def run(self) -> Candidate:
        """Return the best candidate, which goes on to all rows.

        Raises
        ------
        CollapsedComponentError, NotFiniteError
            All candidates are lost: they collapsed, or are not finite.
        """
        first = self._sample.part(0, self._size(0, len(self._sample)))
        left = self._fresh(self._step(lambda: self._starts(first)))
        while True:
            finalists = self._finalists(left, self._n_seen, grows=not self._whole)
            alive = _alive(finalists)
            if alive:
                best = alive[ranked([c.lower_bound for c in alive])[0]]
                return self._polished(self._escaped(best) if self._options.escape else best)
            # Until it collapses such a candidate is ahead of all others: those race again without it.
            gone = {c.index for c in finalists}
            left = [c for c in left if c.index not in gone]
            if not left:
                raise finalists[0].failure()

    def _starts(self, rows: Sample) -> list[Parameters]:
        """Return the restarts' initial mixtures, all of them different.

        k-means often finds the same groups again, and where they mislead, it misleads every restart alike: what is
        there already makes room for a start from rows drawn at random.
        """
        options, n_features = self._options, rows.X.shape[1]
        found = _distinct(
            starts(rows.X, rows.weights, options, n_features=n_features, k_means_iterations=K_MEANS_ITERATIONS)
        )
        n_missing = options.n_init - len(found)
        if not n_missing or len(self._sample) < FEW or options.init_params == "random_from_data":
            return found
        drawn = replace(options, init_params="random_from_data", n_init=n_missing)
        try:
            return _distinct(found + starts(rows.X, rows.weights, drawn, n_features=n_features))
        except CollapsedComponentError:
            return found  # single rows, and reg_covar is 0

    def _finalists(self, current: Sequence[Candidate], n: int, *, grows: bool) -> list[Candidate]:
        """Return what the stages on the first n rows leave of some candidates, after the last EM.

        Those that are lost are among them only if all are.
        """
        for stage in range(STAGES):
            if len(current) > 1:
                size = self._size(stage, n) if grows else n
                current = self._step(partial(self._stage, current, size))
        return self._step(lambda: self._em(current, n, FINAL_PASSES))

    def _stage(self, current: Sequence[Candidate], size: int) -> list[Candidate]:
        return self._halved(self._em(current, size, STAGE_PASSES), size)

    def _size(self, stage: int, n: int) -> int:
        return n if self._whole else int(min(n, max(self._least, n >> (STAGES - 1 - stage))))

    def _fresh(self, found: Sequence[Parameters]) -> list[Candidate]:
        return [Candidate.start(i, p, self._options, compiled=self._compiled) for i, p in enumerate(found)]

    def _em(self, candidates: Sequence[Candidate], size: int, n_passes: int) -> list[Candidate]:
        """Return the candidates after EM on the first rows of the sample, from their parameters."""
        rows = self._all.part(0, size)
        with rows.passes(self._options) as passes:
            evaluator = Evaluator(passes)
            row_sets: RowSets = {None: rows.row_set(passes, self._options)}
            fresh = [Candidate.start(c.index, c.parameters, self._options, compiled=self._compiled) for c in candidates]
            return run_em(
                fresh, evaluator.statistics, row_sets, n_passes=n_passes,
                after_pass=lambda found: self._note(_latest(found), size, evaluator.seconds),
            )  # fmt: skip

    def _halved(self, candidates: Sequence[Candidate], size: int) -> list[Candidate]:
        """Return the better half of the candidates, judged on rows that they have not seen where there are enough."""
        alive = _alive(candidates) or list(candidates)
        unseen = self._sample.part(size, min(2 * size, len(self._sample)))
        scores = [c.lower_bound for c in alive]
        if len(unseen) >= self._least:
            scores = self._scores(alive, unseen)
        return [alive[i] for i in sorted(ranked(scores)[: max(1, len(candidates) // 2)])]

    def _scores(self, candidates: Sequence[Candidate], rows: Sample) -> list[float]:
        """Return the mean log-likelihood of some rows under each candidate's mixture, nats."""
        if not candidates:
            return []
        mixtures = [c.parameters for c in candidates]
        with rows.passes(self._options) as passes:
            evaluator = Evaluator(passes)
            plans = [make_plan(p, origin=p.weights @ p.means, compiled=self._compiled) for p in mixtures]
            found = evaluator.scores([Request(plan) for plan in plans])
        self._note(candidates, len(rows), evaluator.seconds)
        return [s.log_sum / s.weight for s in found]

    def _escaped(self, best: Candidate) -> Candidate:
        """Return what splits and merges have made of the best candidate; itself where nothing is better."""
        n, rng = len(self._sample), np.random.RandomState(self._options.seed)
        size = self._n_seen
        seen = self._sample.part(0, size)
        unseen = seen if self._whole else self._sample.part(size, n)
        if len(unseen) < self._least or n < FEW:
            return best
        (score,) = self._step(partial(self._scores, [best], unseen))
        for _ in range(ESCAPE_ROUNDS):
            proposed, state = self._step(partial(self._proposed, best, seen, rng))
            _set_state(rng, state)
            if not proposed:
                break
            tried = _alive(self._finalists(self._fresh(proposed), size, grows=False))
            if not tried:
                break
            moved = tried[ranked([c.lower_bound for c in tried])[0]]
            (reached,) = self._step(partial(self._scores, [moved], unseen))
            if reached <= score + GAIN:
                break
            best, score = moved, reached
        return best

    def _proposed(
        self, best: Candidate, seen: Sample, rng: np.random.RandomState
    ) -> tuple[list[Parameters], dict[str, Any]]:
        """Return moves away from a candidate, and the state of the generator after them."""
        began, n_most = perf_counter(), ESCAPE_MOVES
        proposed = offspring(
            best.parameters, seen.X, seen.weights, n_most=n_most, reg_covar=self._options.reg_covar, rng=rng
        )
        # The moves take two E-steps, and some 26 of two components on at most 1000 rows of each component.
        n_visited = 2 * len(seen) + 26 * min(1000, len(seen) // self._options.n_components)
        self._note([best], n_visited, perf_counter() - began)
        return proposed, _state(rng)

    def _polished(self, best: Candidate) -> Candidate:
        """Return the winner after EM on all of the sample; as it was where it has seen all, or collapses there."""
        if len(self._all) == self._n_seen:
            return best
        (polished,) = self._step(lambda: self._em([best], len(self._all), FINAL_PASSES))
        return best if polished.status.is_lost else polished


#: A move must gain so much on rows that it has not seen, nats.
GAIN = 1e-4


def _state(rng: np.random.RandomState) -> dict[str, Any]:
    """Return the state of a generator as plain values."""
    state: dict[str, Any] = rng.get_state(legacy=False)
    twister = state["state"]
    return {
        "key": twister["key"].astype(np.uint64), "pos": int(twister["pos"]), "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }  # fmt: skip


def _set_state(rng: np.random.RandomState, state: dict[str, Any]) -> None:
    rng.set_state(("MT19937", state["key"].astype(np.uint32), state["pos"], state["has_gauss"], state["gauss"]))


def _distinct(found: Sequence[Parameters]) -> list[Parameters]:
    """Return the mixtures without those that are another one in another order of components, as k-means' often are."""
    kept: list[Parameters] = []
    for p in found:
        if not any(
            np.allclose(np.sort(p.weights), np.sort(q.weights), rtol=1e-9, atol=0)
            and np.allclose(np.sort(p.means, axis=0), np.sort(q.means, axis=0), rtol=1e-9, atol=1e-12)
            for q in kept
        ):
            kept.append(p)
    return kept


def _latest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that took part in the last pass: those that ended before are visited no more."""
    n_passes = max(c.n_passes for c in candidates)
    return [c for c in candidates if c.n_passes == n_passes]


def _alive(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [c for c in candidates if not c.status.is_lost]
