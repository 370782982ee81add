"""Some features of single rows, predicted from the others: the mean of the conditional mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import Block, Workspace, tile_length
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.prediction import Predictor
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.conditional import Conditional


@dataclass(frozen=True)
class Regression(Predictor):
    """Predicts features for blocks of rows of the others; `plan` is of the marginal mixture of these.

    Attributes
    ----------
    means : (n_components, n_kept), float64
        Of the features predicted, where the others are at their own means.
    slopes : (n_components, n_kept, n_given), float64, or (1, ...) where they are common, or None
    called : tuple of str, or None
        Names of the features predicted, where they are others than those of the rows.
    """

    means: Floats
    slopes: Floats | None
    called: tuple[str, ...] | None = None

    @classmethod
    def by(cls, found: Conditional, called: tuple[str, ...] | None = None) -> Regression:
        """Return the predictor of what a mixture says of some features where the others are known."""
        known = found.known
        plan = make_plan(known, origin=known.weights @ known.means)
        return cls(plan, "features", found.means, found.slopes, called)

    @property
    def n_columns(self) -> int:
        """Number of features predicted."""
        return int(self.means.shape[1])

    def names(self, features: Sequence[str] | None) -> Sequence[str] | None:
        return self.called if self.what == "features" else super().names(features)

    @property
    def held_bytes(self) -> int:
        """Bytes of the slopes, and of what is predicted of a tile."""
        n_given = int(self.plan.means.shape[1])
        rows = 8 * tile_length(n_given) * (n_given + 2 * self.n_columns)
        return rows + (0 if self.slopes is None else int(self.slopes.nbytes))

    def _write(self, block: Block, resp: Floats, out: NDArray[Any], work: Workspace) -> None:
        """Write sum_k r_k (m_k + B_k (x - mu_k)), (n_rows, n_kept), for responsibilities (n_components, n_rows)."""
        if self.slopes is None:
            np.matmul(resp.T, self.means, out=out)
            return
        out[...] = 0.0
        offsets = work.get("offsets", block.x.shape)
        for k, mean in enumerate(self.means):
            np.subtract(block.x, self.plan.means[k][:, np.newaxis], out=offsets)
            found = self.slopes[k if len(self.slopes) > 1 else 0] @ offsets
            found += mean[:, np.newaxis]
            found *= resp[k]
            out += found.T
