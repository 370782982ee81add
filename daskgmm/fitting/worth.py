"""What candidates of a race are worth, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daskgmm.fitting.loop import Candidate

#: A move of variational Bayes must raise the bound by so much, nats a row.
RISE = 1e-8
#: A move must gain so much on rows that it has not seen, nats.
GAIN = 1e-4


#: Where spikes have at least this share of the rows, their likelihood counts as any.
MOSTLY = 0.5


class Worth(NamedTuple):
    """What a candidate is worth: its score, nats a row, without its spikes, and which components these are."""

    score: float
    spikes: list[bool]

    def beats(self, other: Worth) -> bool:
        """Return whether it is better, and has no spike more."""
        return self.score > other.score + GAIN and sum(self.spikes) <= sum(other.spikes)


def latest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that took part in the last pass: those that ended before are visited no more."""
    n_passes = max(c.n_passes for c in candidates)
    return [c for c in candidates if c.n_passes == n_passes]


def alive(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that are not lost."""
    return [c for c in candidates if not c.status.is_lost]
