"""What happens in a fit, as small records, and the one line that a person reads of each pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from daskgmm.mixture.parameters import Parameters

logger = logging.getLogger("daskgmm")


@dataclass(frozen=True)
class PassDone:
    """A pass over the data has ended.

    Attributes
    ----------
    number : int
        Passes so far, this one included.
    what : str
        "survey", "search" (k-means||), "start" (all of EM on the sample: nothing is read), "em" or "closing".
    rows, n_bytes : int
        Rows and decoded bytes that the pass went over.
    seconds : float
    mean_log_likelihood, change : float or None
        Of the best candidate, nats per unit of row weight; the change since its previous iteration.
    n_running : int
        Candidates that go on.
    remaining_seconds : float or None
        An estimate of the time to the end, as gains of the log-likelihood shrink, or None where nothing is known.
    model : str
        What was started, where there are several models.
    n_iter : int
        Iterations of the best candidate.
    ended : bool
        False where a start on the sample only says that it still works.
    parameters : Parameters or None
        Of the best candidate, after the pass; no part of `fields`.
    """

    number: int
    what: str
    rows: int
    n_bytes: int
    seconds: float
    mean_log_likelihood: float | None = None
    change: float | None = None
    n_running: int = 0
    remaining_seconds: float | None = None
    model: str = ""
    n_iter: int = 0
    ended: bool = True
    parameters: Parameters | None = field(default=None, repr=False, compare=False)

    def fields(self) -> dict[str, Any]:
        """Return what a log line has of it, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}

    def line(self) -> str:
        """Return the line of progress."""
        parts = [f"pass {self.number:3d}  {self.what:7s}"]
        parts.append(f"{'':>15s}" if self.mean_log_likelihood is None else f"{self.mean_log_likelihood:15.6f}")
        parts.append(f"{'':>10s}" if self.change is None else f"{self.change:+10.2e}")
        if not self.ended:
            parts.append(f"{rate(self.rows)} rows seen, and going on")
        elif self.seconds > 0:
            parts.append(f"{rate(self.rows / self.seconds):>7s} rows/s")
        else:
            parts.append("done before")
        if self.seconds > 0 and self.n_bytes:
            parts.append(f"{self.n_bytes / self.seconds / 1e9:6.3f} GB/s")
        if self.model:
            parts.append(self.model)
        if self.n_running > 1:
            parts.append(f"{self.n_running} candidates")
        if self.remaining_seconds is not None:
            parts.append(f"about {duration(self.remaining_seconds)} left")
        return "  ".join(parts)


#: Stands above the lines, as wide as their first columns.
HEADER = f"{'mean log-lik.':>34s}{'change':>12s}"

#: Hears of each pass. Where it returns True after one of EM on all rows, the fit ends there.
Listener = Callable[[PassDone], bool | None]


def ignore(event: PassDone) -> None:
    """Do nothing with an event."""


def rate(number: float) -> str:
    """Return a number with a unit of thousands, in three digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would take."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
