"""Sufficient statistics: a monoid of sums over rows."""

from __future__ import annotations

import numpy as np

from daskgmm.kernels.plan import Plan
from daskgmm.mixture.arrays import Floats


class Statistics:
    """Sums over rows for one candidate: its panel, log-likelihood, weight and row count. A monoid under `merge`.

    Adding is compensated (Kahan 1965, doi:10.1145/363707.363723): over many blocks a plain sum lost up
    to one and a half digits in the covariances, and this costs nothing beside the products of a block.

    Attributes
    ----------
    values : (n_components * n_statistics + 3,), float64
        The panel (per component: second moments, first moments, count; see `Plan` for the reference point
        and frame of each), then the log-likelihood in nats, the sum of the row weights and the number of rows. Where
        rows may have gaps, n_features numbers more stand before the last three: see `filled`.
    """

    __slots__ = ("_correction", "_scratch", "values")

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._correction: Floats | None = None
        self._scratch: Floats | None = None

    @classmethod
    def zero(cls, plan: Plan) -> Statistics:
        """Return the neutral element for a candidate with this plan."""
        return cls(np.zeros(plan.n_values))

    def add(self, values: Floats) -> None:
        """Add the sums of one block, in place; `values` is overwritten."""
        if self._correction is None or self._scratch is None:
            self._correction, self._scratch = np.zeros_like(self.values), np.empty_like(self.values)
        values -= self._correction
        np.add(self.values, values, out=self._scratch)
        np.subtract(self._scratch, self.values, out=self._correction)
        self._correction -= values
        self.values, self._scratch = self._scratch, self.values

    def compensated(self) -> tuple[Floats, Floats]:
        """Return the sums and what they lack, two buffers for a kernel that adds as `add` does."""
        if self._correction is None:
            self._correction, self._scratch = np.zeros_like(self.values), np.empty_like(self.values)
        return self.values, self._correction

    def settled(self) -> Statistics:
        """Return the sums alone, as they travel and merge."""
        return Statistics(self.values)

    def merge(self, other: Statistics) -> Statistics:
        """Return the sum of two settled statistics of the same plan."""
        return Statistics(self.values + other.values)

    def __mul__(self, factor: float) -> Statistics:
        """Return the statistics of the same rows with every weight multiplied by `factor`."""
        values = self.values * factor
        values[-1] = self.values[-1]
        return Statistics(values)

    def __reduce__(self) -> tuple[type[Statistics], tuple[Floats]]:
        return (Statistics, (self.values,))

    def __sizeof__(self) -> int:
        # By this Dask's scheduler merges where most of the inputs are.
        return object.__sizeof__(self) + self.values.nbytes

    @property
    def weight(self) -> float:
        """Sum of the row weights."""
        return float(self.values[-2])

    @property
    def n_rows(self) -> int:
        """Number of rows that were counted."""
        return int(self.values[-1])

    def panel(self, n_components: int, n_filled: int = 0) -> Floats:
        """Return the sums of the components, (n_components, n_statistics), float64."""
        return self.values[: len(self.values) - 3 - n_filled].reshape(n_components, -1)

    def filled(self, n_features: int) -> Floats:
        """Return the sums of what stands in gaps, less the origin, (n_features,), of a pass over rows with gaps."""
        return self.values[-3 - n_features : -3]

    @property
    def log_sum(self) -> float:
        """Sum of the log-densities as the pass computed them, nats: complete in a pass that only scores."""
        return float(self.values[-3])

    @property
    def log_largest(self) -> float:
        """Sum of the logarithms of the largest responsibilities, nats, of a pass that only scores."""
        return float(self.values[0])

    @property
    def squares(self) -> float:
        """Sum of the squares of the log-likelihoods, nats squared, of a pass that tells what each component is worth.

        (About zero they lose nothing: log-likelihoods are some hundreds, and vary by some tens.)
        """
        return float(self.values[1])

    @property
    def entropy(self) -> float:
        """Sum of the entropies of the responsibilities, - sum r log r, nats, of such a pass."""
        return float(self.values[2])

    def left_out(self, n_components: int) -> Floats:
        """Return two sums a component, (2, n_components), of a pass that scores and tells what each is worth.

        What the rows lose without it, nats, and its responsibilities.
        """
        return self.values[3 : 3 + 2 * n_components].reshape(2, n_components)

    def untold(self, n_components: int) -> Floats:
        """Return what rows with gaps do not tell of each component, of such a pass, (n_components, n_untold)."""
        return self.values[3 + 2 * n_components : -3].reshape(n_components, -1)
