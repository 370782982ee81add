"""What is to be fitted."""

from __future__ import annotations

from dataclasses import dataclass

from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.seen import Past
from daskgmm.kernels.folds import Fold
from daskgmm.mixture.parameters import Parameters


@dataclass(frozen=True)
class Model:
    """A model to be fitted, to all rows or to those outside of a fold.

    With a `past` the rows are new ones, that a mixture of older rows goes on with.
    """

    options: FitOptions
    fold: Fold | None = None
    warm: tuple[Parameters, float] | None = None
    past: Past | None = None

    @property
    def looks_for_groups(self) -> bool:
        """Whether groups that no component explains are looked for, on a sample of the new rows."""
        return self.past is not None and self.options.escape and self.options.n_components > 1

    @property
    def has_given_components(self) -> bool:
        """Whether the number of components is that of a mixture, or of parameters, that it begins with."""
        return self.warm is not None or self.past is not None or self.options.any_given

    @property
    def least_rows(self) -> int:
        """Rows without which it cannot be fitted."""
        return self.options.least_rows if self.past is None else 1
