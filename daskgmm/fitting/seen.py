"""What a mixture keeps of the rows that it was fitted to, so that others can follow them: sums of the closing pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.support import Support
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record, finite_or_none


@dataclass(frozen=True)
class Seen(Record):
    """Rows that a mixture has seen, by sums over them under it.

    Attributes
    ----------
    n_rows : float
        Rows of positive weight; no whole number where some are forgotten.
    weight : float
        Sum of their weights.
    log_likelihood : float
        Nats; after an update a bound from below (`OldRows.log_density`).
    log_largest : float
        Sum of the logarithms of the largest responsibilities, nats.
    squares : float
        Sum of the squares of the log-likelihoods about their mean, nats squared; NaN where nobody knows.
    lost, resp_sums : (n_components,), float64
        What the rows lose without each component, its weight aside, nats, and the sum of its responsibilities.
    floor : float
        What was added to every variance of their moments, and nothing else was, in squared units; NaN where these do
        not follow from the mixture.
    entropy : float
        Sum of the entropies of the responsibilities, nats; NaN where nobody knows.
    """

    n_rows: float
    weight: float
    log_likelihood: float
    log_largest: float
    squares: float
    lost: Floats
    resp_sums: Floats
    floor: float = np.nan
    entropy: float = np.nan

    @classmethod
    def of(cls, score: Statistics, n_components: int, n_weighted: int, *, floor: float = np.nan) -> Seen:
        """Return the rows of a pass that tells what each component is worth; `n_weighted` have a positive weight."""
        lost, resp_sums = score.left_out(n_components)
        squares = max(score.squares - score.log_sum * (score.log_sum / score.weight), 0.0)
        return cls(
            float(n_weighted), score.weight, score.log_sum, score.log_largest, squares, lost, resp_sums, floor,
            score.entropy,
        )  # fmt: skip

    @property
    def mean(self) -> float:
        """Mean log-likelihood, nats per unit of weight."""
        return self.log_likelihood / self.weight

    @property
    def deviation(self) -> float:
        """Standard deviation of the log-likelihood of a row, nats; NaN where nobody knows."""
        return float(np.sqrt(self.squares / self.weight))

    def support(self, parameters: Parameters) -> Support:
        """Return what each component is worth on the rows."""
        return Support.of_sums(self.lost, self.resp_sums, parameters, weight=self.weight, n_rows=self.n_rows)

    def but(self, forgotten: float) -> Seen:
        """Return them with a share of each row forgotten."""
        kept = 1.0 - forgotten
        return replace(self, **{name: kept * getattr(self, name) for name in _SUMS})

    def under(self, old: OldRows, parameters: Parameters) -> Seen:
        """Return them as the old rows that another mixture goes on from."""
        lost, resp_sums = self.lost.copy(), self.resp_sums.copy()
        for j, i in zip(old.freed, old.into, strict=True):
            for sums in (lost, resp_sums):
                sums[i], sums[j] = sums[i] + sums[j], 0.0
        bound = self.log_likelihood + old.log_density(parameters)
        return replace(self, log_likelihood=bound, lost=lost, resp_sums=resp_sums)

    def __add__(self, new: Seen) -> Seen:
        """Return them and new rows. Where nobody knows how much the old vary, they do as the new."""
        weight = self.weight + new.weight
        squares = self.squares if np.isfinite(self.squares) else new.squares * (self.weight / new.weight)
        between = (self.mean - new.mean) ** 2 * self.weight * (new.weight / weight) if self.weight > 0 else 0.0
        sums = {name: getattr(self, name) + getattr(new, name) for name in _SUMS}
        return replace(new, **{**sums, "squares": squares + new.squares + between})

    def as_json(self) -> dict[str, Any]:
        """Return it as a model file has it: strict JSON."""
        plain = {name: finite_or_none(getattr(self, name)) for name in _NUMBERS}
        return plain | {name: [finite_or_none(value) for value in getattr(self, name)] for name in _ARRAYS}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], n_components: int) -> Seen:
        """Return what `as_json` made JSON of.

        Raises
        ------
        ValueError, TypeError, KeyError
            It is not as it was written.
        """
        # (A file of an earlier version has no entropy.)
        fields: dict[str, Any] = {name: _float({"entropy": None, **found}[name]) for name in _NUMBERS}
        fields |= {name: np.array([_float(value) for value in found[name]]) for name in _ARRAYS}
        made = cls(**fields)
        if not (made.lost.shape == made.resp_sums.shape == (n_components,) and made.weight >= 0):
            raise ValueError("seen of other components, or of a negative weight")
        return made


_NUMBERS = ("n_rows", "weight", "log_likelihood", "log_largest", "squares", "floor", "entropy")
_ARRAYS = ("lost", "resp_sums")
_SUMS = ("n_rows", "weight", "log_likelihood", "log_largest", "squares", "entropy", "lost", "resp_sums")


def _float(value: Any) -> float:
    return np.nan if value is None else float(value)


@dataclass(frozen=True)
class Past:
    """What new rows follow: a mixture, and what it has seen, less what is forgotten.

    Attributes
    ----------
    parameters : Parameters
    seen : Seen
        All of its rows: what new ones are compared with.
    forgotten : float
        Share of each that no longer counts.
    about : mapping
        What there was beside them (`daskgmm.fitting.about`).
    """

    parameters: Parameters
    seen: Seen
    forgotten: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> Seen:
        """What counts of the rows that the mixture has seen."""
        return self.seen.but(self.forgotten)
