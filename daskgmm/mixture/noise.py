"""Noise: a uniform density beside the components, for rows that belong to none of them.

Its density is one over a volume everywhere, outside of any box too (Banfield and Raftery 1993, doi:10.2307/2532201).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.record import Record, finite_or_none

#: Share of the rows that lies beyond each side of the box along each of its axes: what outliers cannot move.
TRIMMED = 0.005
#: Numbers that noise has beside those of the components: its weight and its volume (mclust counts them so).
N_PARAMETERS = 2


@dataclass(frozen=True)
class Noise(Record):
    """The noise of a mixture.

    Attributes
    ----------
    weight : float
        Its mixing weight; with those of the components it sums to one.
    log_volume : float
        Logarithm of the volume, in units of the features multiplied: its log-density is minus this, nats.
    corner, edges : (n_features,), (n_features, n_features), float64, or None
        Its box, where the volume is that of one: the points corner + u edges, each u between 0 and 1.
    """

    weight: float
    log_volume: float
    corner: Floats | None = None
    edges: Floats | None = None

    @property
    def log_term(self) -> float:
        """Logarithm of its weight times its density, nats; minus infinity for a weight of zero."""
        return float(np.log(self.weight)) - self.log_volume if self.weight > 0 else -np.inf

    @property
    def record(self) -> dict[str, float | None]:
        """What results say of it, as JSON values; a volume is None where it is too large a number."""
        with np.errstate(over="ignore"):
            volume = float(np.exp(self.log_volume))
        return {
            "noise_weight": float(self.weight),
            "noise_volume": finite_or_none(volume),
            "noise_log_volume": float(self.log_volume),
        }

    def __str__(self) -> str:
        volume = self.record["noise_volume"]
        size = f"e^{self.log_volume:.6g}" if volume is None else f"{volume:.6g}"
        where = "" if self.corner is None else ", a box of the sample"
        return f"weight {self.weight:.4g} over a volume of {size}{where}"

    @property
    def json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        lists = {k: None if a is None else a.tolist() for k, a in (("corner", self.corner), ("edges", self.edges))}
        return {"weight": float(self.weight), "log_volume": float(self.log_volume), **lists}

    @classmethod
    def of_json(cls, found: Any, n_features: int) -> Noise | None:
        """Return what `json` says; None of None, and a ValueError where it is no noise of so many features."""
        if found is None:
            return None
        corner, edges = (None if found[k] is None else np.array(found[k], np.float64) for k in ("corner", "edges"))
        noise = cls(float(found["weight"]), float(found["log_volume"]), corner, edges)
        shapes = corner is None or edges is None or (*corner.shape, *edges.shape) == (n_features,) * 3
        if not (shapes and 0 <= noise.weight <= 1 and np.isfinite(noise.log_volume)):
            raise ValueError(f"noise of weight {noise.weight:.6g}")
        return noise

    def with_weight(self, weight: float) -> Noise:
        """Return the noise of another weight."""
        return replace(self, weight=float(weight))

    def moved(self, shift: Floats | float, scale: Floats) -> Noise:
        """Return the noise of rows that are mapped to shift + scale x."""
        volume = self.log_volume + float(np.log(scale).sum())
        if self.corner is None or self.edges is None:
            return replace(self, log_volume=volume)
        return replace(self, log_volume=volume, corner=shift + scale * self.corner, edges=self.edges * scale)

    def rows(self, n_rows: int, rng: np.random.RandomState) -> Floats:
        """Return rows drawn from its box, (n_rows, n_features), float64; an OptionError where there is none."""
        if self.corner is None or self.edges is None:
            raise OptionError(
                "a sample of a mixture with noise",
                "have a box to draw rows of the noise from, which a fit with `noise=True` finds",
                f"noise over a volume of {np.exp(self.log_volume):.6g} alone",
                "Fit with `noise=True`.",
            )
        found: Floats = self.corner + rng.uniform(size=(n_rows, len(self.corner))) @ self.edges
        return found


def refuse_noise(noise: Noise | None, why: str) -> None:
    """Raise an OptionError where there is noise, which something cannot be with."""
    if noise is not None:
        raise OptionError(
            "the mixture",
            f"have no noise, {why}",
            f"noise of {noise}",
            "Take its components alone: `from_parameters(weights_ / weights_.sum(), means_, covariances_)`.",
        )


def check_gaps(noise: Noise | None, non_finite: str) -> None:
    """Raise an OptionError where values are missing beside noise, whose density is of all features together."""
    if non_finite == "marginalize":
        refuse_noise(noise, "whose density is of all features, where rows lack some")


def box_of(X: Floats, weights: Floats, *, weight: float) -> Noise | None:
    """Return noise, of a weight, over the robust box of some rows; None where they lie in a subspace.

    Its axes are the principal ones of the rows, each feature in units of its standard deviation and cut off at its
    0.5 % and 99.5 % quantiles; along each axis it reaches from the one quantile to the other. So it follows the rows
    into other units, and a few rows far away do not change it: at least one at each side counts as such.

    Parameters
    ----------
    X : (n_rows, n_features), float64
    weights : (n_rows,), float64
        Row weights, positive.
    """
    if len(X) < 2:
        return None
    origin = X[0]
    low, high = _ends(X - origin, weights)
    cut = np.clip(X - origin, low, high)
    cut -= weights @ cut / weights.sum()
    deviations = np.sqrt(weights @ np.square(cut) / weights.sum())
    if not (deviations > 0).all():
        return None
    cut /= deviations
    values, axes = np.linalg.eigh((weights * cut.T) @ cut / weights.sum())
    # (What is left to rounding is no direction of the rows.)
    if not values[0] > _SMALLEST * values[-1]:
        return None
    low, high = _ends((X - origin) / deviations @ axes, weights)
    if not (high > low).all():
        return None
    edges = (high - low)[:, np.newaxis] * axes.T * deviations
    log_volume = float(np.log(high - low).sum() + np.log(deviations).sum())
    return Noise(weight, log_volume, origin + (axes @ low) * deviations, edges)


#: Of the largest variance: directions of less are constant but for rounding.
_SMALLEST = 1e-12


def _ends(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the lower and the upper end of each column, (n_columns,): beyond it lie `TRIMMED` of the rows, or one.

    Where all others are equal the ends are those of all rows.
    """
    total = weights.sum()
    beyond = max(TRIMMED * total, total / len(values))
    order = np.argsort(values, axis=0, kind="stable")
    each = np.take_along_axis(values, order, axis=0)
    below = np.cumsum(weights[order], axis=0)
    columns = np.arange(values.shape[1])
    first = np.argmax(below > beyond * (1 + 1e-9), axis=0)
    last = len(values) - 1 - np.argmax(((total - below + weights[order]) > beyond * (1 + 1e-9))[::-1], axis=0)
    low, high = each[first, columns], each[last, columns]
    return np.where(low < high, low, each[0]), np.where(low < high, high, each[-1])
