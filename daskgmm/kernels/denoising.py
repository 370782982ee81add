"""The means of the true values of single rows with errors, given the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.errors import Noisy, posterior
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.prediction import Predictor
from daskgmm.kernels.tile import Tile
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters


@dataclass(frozen=True)
class Denoising(Predictor):
    """Predicts true values for blocks of rows with their errors."""

    @classmethod
    def by(cls, parameters: Parameters) -> Denoising:
        """Return the predictor of a mixture of true values."""
        origin = parameters.weights @ parameters.means
        return cls(make_plan(parameters, origin=origin, kernel=Noisy()), "denoise")

    @property
    def n_columns(self) -> int:
        """Number of features."""
        return int(self.plan.means.shape[1])

    def _write(self, block: Block, resp: Floats, out: NDArray[Any], work: Workspace) -> None:
        found = work.get("true", block.x.shape)
        posterior(self.plan, Tile(block.x, work, block.columns), resp, found)
        out[...] = found.T
