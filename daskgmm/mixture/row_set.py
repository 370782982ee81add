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
    rounded : (n_features,), float64, or None
        How large the numbers were that the mean is of, where these rows are what is left of larger ones.
    """

    n_rows: int
    weight: float
    mean: Floats
    scatter: Floats
    rounded: Floats | None = None

    @property
    def variances(self) -> Floats:
        """Variance of each feature, (n_features,), float64, over the weights."""
        return (np.diagonal(self.scatter) if self.scatter.ndim == 2 else self.scatter) / self.weight
