"""When the EM of a candidate ends: a rule, asked after each of its passes.

To add one, derive from `StoppingRule`, and give an object of the class to `GaussianMixture(stopping=...)`:

    @dataclass(frozen=True)
    class Patient(StoppingRule):  # five iterations in a row that gain less than 1e-4 nats a row
        lower_bound: float = -math.inf
        n_small: int = 0

        def after(self, seen):
            if not seen.accepted:
                return self, Verdict.GO_ON
            n_small = self.n_small + 1 if seen.lower_bound - self.lower_bound < 1e-4 else 0
            return Patient(seen.lower_bound, n_small), Verdict.CONVERGED if n_small == 5 else Verdict.GO_ON

A checkpoint and a model file know the class by its module and name (`daskgmm.mixture.record`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from daskgmm.errors import OptionError, verbatim
from daskgmm.mixture.record import Record


class Verdict(Enum):
    """What a rule says after a pass: STOP ends the fit as one that has not converged, with a warning."""

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
        How far that is above the one before, nats: infinite at first, and NaN after an extrapolation, as is every other
        pass of SQUAREM, whose change is no measure of what EM still has to gain. A rule that counts iterations compares
        lower bounds instead.
    accepted : bool
        Whether the point of this pass was accepted. Else all but `n_passes` is as after the pass before.
    """

    n_passes: int
    n_iter: int
    lower_bound: float
    change: float
    accepted: bool


class StoppingRule(Record, ABC):
    """When a candidate ends, on all rows; on the sample `tol` always rules. Frozen: each pass makes a new one.

    Subclasses are frozen dataclasses. What a rule keeps from pass to pass is in its fields, and in a checkpoint with
    them: so a rule about time keeps the seconds spent so far, as those of a clock mean nothing to the next process.
    `max_iter` bounds the passes whatever a rule says.
    """

    @abstractmethod
    def after(self, seen: Pass) -> tuple[StoppingRule, Verdict]:
        """Return the rule for the next pass, and what to do after this one."""


def ask(rule: StoppingRule, seen: Pass) -> tuple[StoppingRule, Verdict]:
    """Return what a rule says after a pass; an OptionError where that is no rule and verdict."""
    found = rule.after(seen)
    match found:
        case (StoppingRule(), Verdict()):
            return found
    name = verbatim(type(rule).__name__)
    raise OptionError(f"what {name}.after returns", "be the next rule and a Verdict", repr(found), "Return both.")


@dataclass(frozen=True)
class Tolerance(StoppingRule):
    """scikit-learn's rule: converged where the mean log-likelihood changed by less than `tol`, nats."""

    tol: float

    def after(self, seen: Pass) -> tuple[StoppingRule, Verdict]:
        return self, Verdict.CONVERGED if seen.n_iter and abs(seen.change) < self.tol else Verdict.GO_ON


@dataclass(frozen=True)
class OnePass(StoppingRule):
    """For a candidate that has converged, and goes on for a pass."""

    def after(self, seen: Pass) -> tuple[StoppingRule, Verdict]:
        return self, Verdict.CONVERGED
