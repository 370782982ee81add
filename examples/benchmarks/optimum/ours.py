"""A fit of daskgmm, and what its history says of the way there."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture

#: What the history calls records that are no passes over all rows for a candidate's EM.
NO_PASS = ("survey", "start", "closing")


def _visits(record: dict[str, Any]) -> int:
    """Return the rows that a candidate visited: the survey has none."""
    return 0 if record["candidate"] is None else int(record["rows"])


@dataclass(frozen=True)
class Point:
    """What is known after a pass over all rows.

    Attributes
    ----------
    passes : int
        Passes over all rows since the sample phase, this one included.
    best : float
        Largest mean log-likelihood, nats, of the candidates' parameters that went into this pass or an earlier one.
    visits : float
        Row visits by any candidate until here, sample phase included, over the number of rows.
    seconds : float
        Since the fit began.
    """

    passes: int
    best: float
    visits: float
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A finished fit, and the seconds that it took."""

    mixture: Any
    n_rows: int
    seconds: float

    @property
    def final(self) -> float:
        """Mean log-likelihood of the final parameters, nats."""
        return float(self.mixture.log_likelihood_) / self.n_rows

    @property
    def path(self) -> list[Point]:
        """What was known after each pass.

        The seconds are the whole fit's less those of the later passes, so that whatever happens between passes counts.
        """
        history = self.mixture.history_
        took = {(record["pass"], record["what"]): record["seconds"] for record in history}
        numbers = list(dict.fromkeys(record["pass"] for record in history if self._is_pass(record)))
        visits, at = 0, {}
        best = {number: -float("inf") for number in numbers}
        for record in history:
            visits += _visits(record)
            at[record["pass"]] = visits / self.n_rows
            if self._is_pass(record) and record["mean_log_likelihood"] is not None:
                best[record["pass"]] = max(best[record["pass"]], record["mean_log_likelihood"])
        found, highest = [], -float("inf")
        for i, number in enumerate(numbers):
            highest = max(highest, best[number])
            later = sum(seconds for (other, _), seconds in took.items() if other > number)
            found.append(Point(i + 1, highest, at[number], self.seconds - later))
        return found

    def _is_pass(self, record: dict[str, Any]) -> bool:
        """Whether a record is of a candidate's EM over all rows."""
        return record["what"] not in NO_PASS and _visits(record) >= self.n_rows

    @property
    def visits(self) -> float:
        """Row visits of the whole fit over the number of rows, closing pass included."""
        return sum(_visits(record) for record in self.mixture.history_) / self.n_rows

    @property
    def bytes_read(self) -> int:
        """Decoded bytes that were read in all passes."""
        whole = getattr(self.mixture, "bytes_read_", None)
        return (
            int(whole) if whole is not None else sum({r["pass"]: r["n_bytes"] for r in self.mixture.history_}.values())
        )

    @property
    def pass_seconds(self) -> float:
        """Seconds of the fastest pass."""
        return min(record["seconds"] for record in self.mixture.history_ if self._is_pass(record))

    def until(self, value: float) -> Point | None:
        """Return the first point whose best is at least the value, None where there is none."""
        return next((point for point in self.path if point.best >= value), None)


def fit(X: Any, **options: Any) -> Fitted:
    """Return the fit of the rows with these options."""
    began = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(**options).fit(X)
    return Fitted(fitted, X.shape[0], perf_counter() - began)
