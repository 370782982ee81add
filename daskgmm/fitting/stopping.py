"""When the EM of a candidate ends: a rule, asked after each of its passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from daskgmm.mixture.record import Record


class Verdict(Enum):
    """What a rule says after a pass."""

    GO_ON = "go on"
    CONVERGED = "converged"
    STOP = "stop"


@dataclass(frozen=True)
class Pass:
    """What a rule knows of a candidate after a pass.

    Attributes
    ----------
    n_passes, n_iter : int
        Passes so far, and those of them whose points were accepted: the iterations.
    lower_bound : float
        Mean log-likelihood of a row, nats, and what the prior adds, of what went into the last iteration.
    change : float
        How far that is above the one before, nats; NaN after an extrapolation, whose change is no measure of what EM
        still has to gain.
    accepted : bool
        Whether the point of this pass was accepted.
    """

    n_passes: int
    n_iter: int
    lower_bound: float
    change: float
    accepted: bool


class StoppingRule(Record, ABC):
    """When a candidate ends, on all rows; on the sample `tol` always rules. Frozen: each pass makes a new one.

    Subclasses are frozen dataclasses. `max_iter` bounds the passes whatever a rule says.
    """

    @abstractmethod
    def after(self, seen: Pass) -> tuple[StoppingRule, Verdict]:
        """Return the rule for the next pass, and what to do after this one."""


@dataclass(frozen=True)
class Tolerance(StoppingRule):
    """scikit-learn's rule: converged where the mean log-likelihood changed by less than `tol`, nats."""

    tol: float

    def after(self, seen: Pass) -> tuple[StoppingRule, Verdict]:
        return self, Verdict.CONVERGED if seen.n_iter and abs(seen.change) < self.tol else Verdict.GO_ON
