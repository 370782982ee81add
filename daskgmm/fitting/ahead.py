"""How the models of a contest go on: by leaps to where the sample sees their ends, or by EM to a smaller tol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from math import sqrt

from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.prospect import MORE, TRIES, Prospect
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import Run

#: A round of EM ends at a tol so many times smaller than the one before: most contenders drop out after the first two.
FINER = 10.0
#: The part of what there is to gain that one leap leaves, until two have shown it: and at most.
LEFT, MOST_LEFT = 0.25, 0.95


class Ahead:
    """What the sample has shown of some models.

    Attributes
    ----------
    seen : set of int
        Models that have been looked at since they last went on.
    known : dict of int to Prospect
        What was found of them, where it is of any use.
    """

    def __init__(self, run: Run, finest: float) -> None:
        self._run, self._finest = run, finest
        self.seen = set[int]()
        self.known = dict[int, Prospect]()
        self._before = dict[int, Prospect]()
        self._n_failed = Counter[int]()
        self._n_looks = Counter[int]()

    def look(self, i: int, fit: Fit, *, n_more: int) -> Fit:
        """Return a model's fit with what it may still gain, as the sample shows it.

        `n_more` is how many more parameters it has than the best.
        """
        found, n_failed = None, self._n_failed[i]
        if n_failed < TRIES:
            found = self._run.prospect(i, number=self._n_looks[i], tol=self._finest, caution=MORE**n_failed)
        self._n_looks[i] += 1
        self.seen.add(i)
        if found is None:
            self.known.pop(i, None)
            return fit
        self.known[i] = found
        return replace(fit, reach=max(self._finest, self._reach(i, found, n_more)))

    def further(self, i: int, fit: Fit) -> list[Candidate]:
        """Return the candidate of a model that goes on; none where it has nothing to gain, or cannot."""
        if i not in self.known:
            return self._run.going_on(i, finest=self._finest, finer=FINER)
        if fit.reach <= self._finest:
            return []
        return self._run.leaping(i, self.known[i].parameters, fit)

    def went(self, which: Iterable[int]) -> None:
        """Note that some models went on."""
        for i in which:
            self.seen.discard(i)
            found = self.known.pop(i, None)
            if found is not None and self._run.has_leapt(i):
                self._before[i] = found
            elif found is not None:
                self._n_failed[i] += 1

    def began_anew(self, which: Iterable[int]) -> None:
        """Note that some models were searched again: what was seen of them is of other mixtures."""
        for i in which:
            self.seen.discard(i)
            for seen in (self.known, self._before, self._n_failed):
                seen.pop(i, None)

    def _reach(self, i: int, found: Prospect, n_more: int) -> float:
        """Return how far the mean log-likelihood of a model may still rise, nats.

        Rows that hold the mixture let a leap take a part 1 - q of the way in a direction, and the sample sees so much
        of what there is to gain in it; after it q^2 of that is left. So gains g before and h after tell q, and the gain
        is h / (1 - q). At first it is no less than what parameters that are of no use gain (Wilks 1938,
        doi:10.1214/aoms/1177732360), as the sample stands for all rows: in their directions EM is slow.
        """
        if found.noise == 0:
            return found.gain
        before = self._before.get(i)
        if before is None:
            return max(found.gain / (1 - sqrt(LEFT)), found.noise * max(n_more, 0) / 2)
        left = min(found.gain / before.gain, MOST_LEFT) if before.gain > 0 else 0.0
        return found.gain / (1 - sqrt(left))
