"""The moments of the components' rows, which an M-step works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskgmm.mixture.arrays import Floats

#: scikit-learn adds this to every count; a component with less than this (in rows of mean weight) has no rows.
SMALLEST_COUNT = 10 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Moments:
    """Counts, means and central second moments of the components, in original units.

    Attributes
    ----------
    counts : (n_components,), float64
        Sum of the responsibilities, in units of the mean row weight, plus `SMALLEST_COUNT`. (A prior of the user's gets
        them as sums of weights: a weight of 2 is two rows, and one of 0 is none.)
    means : (n_components, n_features), float64
        Responsible means; those that went into the E-step where a component has no rows.
    central : float64, in the family's shape
        Covariances of the components' rows; one for all of them where the shape is pooled.
    mean_weight : float
        Mean row weight, which turns counts into sums of weights.
    """

    counts: Floats
    means: Floats
    central: Floats
    mean_weight: float = 1.0
