"""What a fitted mixture says of single rows: label, responsibilities, log-density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError
from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.estep import Densities, softmax
from daskgmm.kernels.plan import Plan, make_plan
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters

What = Literal["label", "proba", "score", "impute", "denoise", "features"]


def refuse_overflow(score: NDArray[Any], x: Callable[[], Floats], first_row: int) -> None:
    """Raise a DataError where a score of some rows, (n_rows,), nats, is no number; `x` returns these rows."""
    if not np.isfinite(score).all():
        raise DataError(
            "`X`",
            "lie within 1e150, or squares overflow",
            f"{np.abs(x()).max():.3g} near row {first_row}",
            "Rescale or drop such rows.",
        )


@dataclass(frozen=True)
class Predictor:
    """Predicts for blocks of rows.

    Attributes
    ----------
    plan : Plan
    what : {"label", "proba", "score", "impute", "denoise", "features"}
        The most probable component of a row; its responsibilities; its log-density in nats; the row with the means of
        the values that it lacks, given those that it has; the means of its true values (`denoising`); those of other
        features (`regression`). The noise comes after the components.
    """

    plan: Plan
    what: What

    @classmethod
    def of(cls, parameters: Parameters, what: What, *, kernel: Any = "rule") -> Predictor:
        """Return the predictor of a mixture; its plan follows from the parameters alone."""
        return cls(make_plan(parameters, origin=parameters.centre, kernel=kernel), what)

    @property
    def unseen(self) -> Any:
        """The prediction for a row without any value: what the mixture says of any."""
        weights = np.exp(self.plan.log_weights)
        mean = weights @ self.plan.means
        return {"label": np.argmax(weights), "proba": weights, "score": 0.0, "impute": mean}[self.what]

    @property
    def n_columns(self) -> int | None:
        """Number of columns of a prediction; None where it is one number a row."""
        return {"proba": self.plan.n_densities, "impute": self.plan.means.shape[1]}.get(self.what)

    @property
    def dimension(self) -> str:
        """What its columns are."""
        return "component" if self.what == "proba" else "feature"

    def names(self, features: Sequence[str] | None) -> Sequence[str] | None:
        """Return the names of its columns, given those of the features of the rows; None where they have none."""
        return features if self.what in ("impute", "denoise") else None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.intp if self.what == "label" else np.float64)

    @property
    def held_bytes(self) -> int:
        """Bytes that it takes beside an E-step, whatever the number of rows."""
        return 0

    def n_bytes(self, n_rows: int) -> int:
        """Return the bytes of a prediction for n_rows rows."""
        return n_rows * self.dtype.itemsize * (self.n_columns or 1)

    def empty(self, n_rows: int) -> NDArray[Any]:
        """Return an uninitialised prediction for n_rows rows: (n_rows,) or (n_rows, n_columns)."""
        return np.empty((n_rows,) if self.n_columns is None else (n_rows, self.n_columns), dtype=self.dtype)

    def predict(self, block: Block, out: NDArray[Any], work: Workspace) -> None:
        """Write the prediction for a block; -1 or NaN for rows that were dropped as non-finite, and not as gaps.

        Costs 2 n_rows n_components n_phi flops, half of an E-step.
        """
        begin = 0
        for tile in block.tiles():
            n_rows = tile.x.shape[1]
            self._predict(tile, out[begin : begin + n_rows], work)
            begin += n_rows

    def _predict(self, block: Block, out: NDArray[Any], work: Workspace) -> None:
        densities, imputes = Densities.of(block, work), self.what == "impute"
        with np.errstate(over="ignore", invalid="ignore"):  # (what overflows is found below)
            log_density = densities.log_density(self.plan, keep_z=imputes, complete=self.what == "score")
        if self.what == "label":
            score = densities.labels(self.plan, log_density, out)
        else:
            with np.errstate(invalid="ignore"):
                score, total = softmax(log_density, work.get("sum", (block.x.shape[1],)))
        refuse_overflow(score, lambda: block.x, block.first_row)
        if self.what == "score":
            out[...] = score
        elif imputes:
            densities.impute(self.plan, np.divide(log_density, total, out=log_density), out.T)
        elif self.what != "label":
            log_density /= total
            self._write(block, log_density, out, work)
        if block.non_finite is not None and block.gaps is not None:
            out[block.non_finite] = self.unseen
        elif block.non_finite is not None:
            out[block.non_finite] = -1 if self.what == "label" else np.nan

    def _write(self, block: Block, resp: Floats, out: NDArray[Any], work: Workspace) -> None:
        """Write what is made of the responsibilities, (n_components, n_rows)."""
        out[...] = resp.T
