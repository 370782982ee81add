"""What is common to all rows of a candidate, once for all passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskgmm.mixture.arrays import Floats


@dataclass(frozen=True)
class RowSet:
    """Number, weight, mean and scatter of all rows of a candidate. A pooled shape needs the last.

    Attributes
    ----------
    n_rows : int
    weight : float
        Sum of the row weights.
    mean : (n_features,), float64
    scatter : (n_features, n_features) or (n_features,), float64
        Sum of w (x - mean)(x - mean)', or its diagonal alone.
    share : (n_features,), float64, or None
        The part of the weight whose rows have a value of each feature; None where all have. Mean and scatter are those
        of the values that are there, the scatter in units of the whole weight.
    rounded : (n_features,), float64, or None
        How large the numbers were that the mean is of, where these rows are what is left of larger ones.
    """

    n_rows: int
    weight: float
    mean: Floats
    scatter: Floats
    rounded: Floats | None = None
    share: Floats | None = None

    def present(self, n_features: int) -> Floats:
        """Return the part of the weight whose rows have a value of each feature, (n_features,), float64."""
        return np.ones(n_features) if self.share is None else self.share

    @property
    def variances(self) -> Floats:
        """Variance of each feature, (n_features,), float64, over the weights."""
        return (np.diagonal(self.scatter) if self.scatter.ndim == 2 else self.scatter) / self.weight
