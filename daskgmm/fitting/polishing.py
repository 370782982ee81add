"""The candidates of some models on all rows, as passes advance them: who runs, who retires, who is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from daskgmm.fitting.loop import Candidate, ranked
from daskgmm.fitting.race import STAGE_PASSES
from daskgmm.fitting.status import Status
from daskgmm.mixture.record import Record


@dataclass(frozen=True)
class Polishing(Record):
    """The candidates of some models.

    Attributes
    ----------
    owners : tuple of int
        The model of each candidate.
    candidates : tuple of Candidate
    since : tuple of int
        Passes of each candidate's model since its candidates were last compared.
    """

    owners: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    since: tuple[int, ...]

    @classmethod
    def start(cls, started: Mapping[int, Sequence[Candidate]]) -> Polishing:
        """Return the candidates of each model before their first pass over all rows."""
        owners = tuple(i for i, candidates in started.items() for _ in candidates)
        return cls(owners, tuple(c for candidates in started.values() for c in candidates), (0,) * len(owners))

    def after(self, start: Polishing) -> Polishing:
        """Return it if passes may have led here from a start: the same models, of the same options and sizes.

        A ValueError where not: the options say when a candidate ends.
        """
        models = [
            [
                (i, c.fold, c.parameters.means.shape, c.options.as_json())
                for i, c in zip(p.owners, p.candidates, strict=True)
            ]
            for p in (self, start)
        ]
        if models[0] != models[1] or len(self.since) != len(self.owners):
            raise ValueError("candidates of other models")
        return self

    @property
    def is_running(self) -> bool:
        return any(c.status is Status.RUNNING for c in self.candidates)

    def with_status(self, status: Status) -> list[tuple[int, Candidate]]:
        """Return the candidates of a status, each with its model."""
        return [(i, c) for i, c in zip(self.owners, self.candidates, strict=True) if c.status is status]

    def after_pass(self, candidates: Sequence[Candidate]) -> Polishing:
        """Return the state with the candidates after one more pass; every few passes half of a model's retire."""
        current, since = list(candidates), list(self.since)
        for owner in {i for i, _ in self.with_status(Status.RUNNING)}:
            own = [j for j, i in enumerate(self.owners) if i == owner]
            n_passes = since[own[0]] + 1
            if n_passes == STAGE_PASSES or not any(current[j].status is Status.RUNNING for j in own):
                n_passes = 0
                for j, c in zip(own, _halved([current[j] for j in own]), strict=True):
                    current[j] = c
            for j in own:
                since[j] = n_passes
        return Polishing(self.owners, tuple(current), tuple(since))

    def called_off(self) -> Polishing:
        """Return the state with all candidates ended, where they stand."""
        ended = [replace(c, status=Status.CALLED_OFF) if c.status is Status.RUNNING else c for c in self.candidates]
        return replace(self, candidates=tuple(ended))

    def best(self, owner: int) -> Candidate:
        """Return a model's candidate of the highest lower bound; a lost one only where all are."""
        own = [c for i, c in zip(self.owners, self.candidates, strict=True) if i == owner]
        alive = [c for c in own if not c.status.is_lost]
        finalists = [c for c in alive if c.status is not Status.RETIRED] or alive or own
        return finalists[ranked([c.lower_bound for c in finalists])[0]]


def _halved(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates of a model with the worse half of those that run retired, by their lower bounds.

    The retired run again where all others are lost: until it collapses, such a candidate is ahead of all others.
    """
    current = list(candidates)
    if all(c.status.is_lost or c.status is Status.RETIRED for c in current):
        return [replace(c, status=Status.RUNNING) if c.status is Status.RETIRED else c for c in current]
    running = [j for j, c in enumerate(current) if c.status is Status.RUNNING]
    order = ranked([current[j].lower_bound for j in running])
    for i in order[-(-len(running) // 2) :]:
        current[running[i]] = replace(current[running[i]], status=Status.RETIRED)
    return current
