"""What is to be fitted."""

from __future__ import annotations

from dataclasses import dataclass

from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.folds import Fold
from daskgmm.mixture.parameters import Parameters


@dataclass(frozen=True)
class Model:
    """A model to be fitted, to all rows or to those outside of a fold."""

    options: FitOptions
    fold: Fold | None = None
    warm: tuple[Parameters, float] | None = None
