"""Seams: what a person adds lands in one place. A toy of each kind is defined here, and works through the public door.

The package is not touched, and knows nothing of these toys. Each works in this process, and on a cluster of processes.
"""

from __future__ import annotations

import numpy as np
import pytest

SEED = 20261127


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of three Gaussians in two features, (3000, 2), float64."""
    random = np.random.default_rng(SEED)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return centres[random.integers(3, size=3000)] + random.standard_normal((3000, 2))


# -- options: one declaration gives the estimator's check, the command line and the message ----------------------------


# -- stopping rules and accelerators -----------------------------------------------------------------------------------


# -- families of covariances -------------------------------------------------------------------------------------------


# -- priors ------------------------------------------------------------------------------------------------------------


# -- kernels -----------------------------------------------------------------------------------------------------------


# -- columns -----------------------------------------------------------------------------------------------------------


# -- sources -----------------------------------------------------------------------------------------------------------


# -- places ------------------------------------------------------------------------------------------------------------
