"""Known classes of rows: a row with a label belongs to the components of its class, and to no other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Columns

#: The name of the labels among what comes with each row: whole numbers, -1 where nobody knows.
LABELS = "known labels"


def has_labels(columns: Columns) -> bool:
    """Return whether the class of any of the rows is known that these columns come with."""
    return LABELS in columns and bool((columns[LABELS] >= 0).any())


def restrict(log_density: NDArray[Any], labels: NDArray[Any], classes: NDArray[np.int64]) -> None:
    """Make log-densities of components that are not of a row's class minus infinity, in place.

    Parameters
    ----------
    log_density : (n_densities, n_rows)
        Rows beyond the components, that of the noise, are of no class.
    labels : (n_rows,)
    classes : (n_components,), int64
        The class of each component; -1 for none.
    """
    # (A class without a component, as of rows of weight zero alone, says nothing.)
    has_component = np.zeros(max(int(classes.max()), 0) + 2, dtype=bool)
    has_component[classes] = True
    has_component[-1] = False
    numbers = np.clip(labels, -1, len(has_component) - 1).astype(np.int64)
    rows = np.flatnonzero(has_component[numbers])
    if not len(rows):
        return
    of_density = np.full(len(log_density), -1)
    of_density[: len(classes)] = classes
    own = log_density[:, rows]
    own[of_density[:, np.newaxis] != labels[rows]] = -np.inf
    log_density[:, rows] = own
