"""Acceleration of EM: what the next pass evaluates, decided by a frozen state machine.

A pass at a point gives both the objective there and the EM image of the point. An extrapolated point thus costs one
pass: if it is accepted, the EM step from it is known already, and if not, so is the EM image to go on from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from daskgmm.errors import OptionError
from daskgmm.mixture.chart import Chart
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record


@dataclass(frozen=True)
class Move(Record):
    """What the next pass evaluates.

    Attributes
    ----------
    parameters : Parameters
    extrapolated : bool
        False: the EM image of the last accepted point, an EM step.
    step : float
        Step length in units of EM steps; 1.0 for an EM step.
    """

    parameters: Parameters
    extrapolated: bool
    step: float


@dataclass(frozen=True)
class Advance:
    """What a pass led to.

    Attributes
    ----------
    accelerator : Accelerator
        The next state.
    move : Move
        What to evaluate next.
    accepted : bool
        Whether the point of the pass was accepted.
    """

    accelerator: Accelerator
    move: Move
    accepted: bool


class Accelerator(Record, ABC):
    """A way to choose the points of the passes: a frozen dataclass, of which each pass makes a new one."""

    @abstractmethod
    def advance(self, point: Move, objective: float, image: Parameters) -> Advance:
        """Return what follows from a pass at `point`, which gave its objective (nats) and its EM image."""

    @abstractmethod
    def reject(self, point: Move) -> Advance:
        """Return what follows where the pass at an extrapolated point failed: it collapsed, or is not finite."""

    @property
    def last(self) -> tuple[Parameters, Parameters] | None:
        """The last accepted point, and its EM image; None where it is not kept, and there are no leaps from outside."""
        return None

    def leap(self, target: Parameters, objective: float) -> tuple[Accelerator, Move]:
        """Return the state before a pass at a mixture that something else has found, and that pass.

        It is accepted if its objective is at least this one, nats; only where `last` is kept.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Plain(Accelerator):
    """EM as it is: every pass is an EM step."""

    def advance(self, point: Move, objective: float, image: Parameters) -> Advance:
        return Advance(self, _em_step(image), accepted=True)

    def reject(self, point: Move) -> Advance:
        raise ValueError("point must be extrapolated; got an EM step. End the fit there.")


#: The first longest leap of SQUAREM, and by how much it grows.
FACTOR = 4.0


@dataclass(frozen=True)
class Squarem(Accelerator):
    """Squared extrapolation, SQUAREM: an EM step, then a leap; two passes a cycle.

    With r = theta1 - theta0 and v = (theta2 - theta1) - r in coordinates about theta0, the leap goes to
    theta0 + 2 s r + s^2 v with s = |r| / |v|: scheme S3 of Varadhan and Roland (2008,
    doi:10.1111/j.1467-9469.2007.00585.x), whose -alpha is s. At s = 1 that is theta2, an EM step. A leap that lowers
    the objective is undone: its pass is lost, and EM goes on from theta2. The objective is that of the last accepted
    point, the best so far where EM is an ascent.

    Attributes
    ----------
    longest : float
        Most that s may be: four times as much after a leap of that length, and that of a leap that was rejected.
    objective : float
        That of the last accepted point, nats.
    before : Parameters or None
        The last accepted point; None at the start.
    fallback : Parameters or None
        Its EM image.
    rejected : bool
        Whether the last pass was a rejection.
    """

    longest: float = FACTOR
    objective: float = -np.inf
    before: Parameters | None = None
    fallback: Parameters | None = None
    rejected: bool = False

    def advance(self, point: Move, objective: float, image: Parameters) -> Advance:
        if point.extrapolated and _falls(objective, self.objective):
            return self.reject(point)
        state = replace(self, objective=objective, before=point.parameters, fallback=image, rejected=False)
        if point.extrapolated or self.rejected or self.before is None:
            grown = FACTOR * self.longest if point.step >= self.longest else self.longest
            return Advance(replace(state, longest=grown), _em_step(image), accepted=True)
        leap = _leap(self.before, point.parameters, image, longest=self.longest)
        return Advance(state, leap or _em_step(image), accepted=True)

    @property
    def last(self) -> tuple[Parameters, Parameters] | None:
        return None if self.before is None or self.fallback is None else (self.before, self.fallback)

    def leap(self, target: Parameters, objective: float) -> tuple[Accelerator, Move]:
        # (It says nothing of how long leaps of its own may be: accepted it leaves that as it is.)
        state = replace(self, longest=self.longest / FACTOR, objective=max(self.objective, objective))
        return state, Move(target, extrapolated=True, step=state.longest)

    def reject(self, point: Move) -> Advance:
        if not point.extrapolated or self.fallback is None:
            raise ValueError("point must be extrapolated; got an EM step. End the fit there.")
        # Two EM steps follow: where EM is no ascent (under a large ridge) leaps fail, and this loses a pass in three
        # only. With the leap from theta1, theta2 and theta3 it is a pass in two, and elsewhere nothing is gained.
        state = replace(self, longest=point.step, rejected=True)
        return Advance(state, _em_step(self.fallback), accepted=False)


def _leap(theta0: Parameters, theta1: Parameters, theta2: Parameters, *, longest: float) -> Move | None:
    """Return the leap from three points, each the EM image of the one before; None where EM goes as far."""
    point0, point1, point2 = theta0.shares, theta1.shares, theta2.shares
    chart = Chart.about(point0, [point1, point2])
    r = chart.coordinates(point1)
    v = chart.coordinates(point2) - 2 * r
    length, curvature = float(np.linalg.norm(r)), float(np.linalg.norm(v))
    if not (np.isfinite(length) and length > curvature > 0):
        return None
    step = min(length / curvature, longest)
    found = chart.mixture(step * (2 * r + step * v), point2)
    return None if found is None else Move(theta2.like(found), extrapolated=True, step=step)


def _em_step(image: Parameters) -> Move:
    return Move(image, extrapolated=False, step=1.0)


def _falls(objective: float, before: float) -> bool:
    """Return whether an objective is not finite, or lower than before by more than rounding."""
    return not objective >= before - 1e-12 * max(1.0, abs(before))


#: Names of `acceleration`, and what they make.
ACCELERATIONS: dict[str | None, Callable[[], Accelerator]] = {None: Plain, "squarem": Squarem}


def accelerator_called(name: str | None) -> Accelerator:
    """Return the accelerator of this name in its first state; None is plain EM."""
    if name not in ACCELERATIONS:
        raise OptionError("`acceleration`", f"be None or {' or '.join(n for n in ACCELERATIONS if n)}", repr(name))
    return ACCELERATIONS[name]()
