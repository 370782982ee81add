"""How far a mixture's parameters may be off: standard errors from the scores of all rows, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from daskgmm.errors import DataError, OptionError
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.score import check_features
from daskgmm.kernels.block import tile_length
from daskgmm.kernels.information import InformationPass
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import family_of_shape
from daskgmm.mixture.noise import refuse_noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import run_pass
from daskgmm.sources.source import Source

#: Parameters at most: their information takes 32 MB, and as many for each of some partitions at a time.
MOST_PARAMETERS = 2000


@dataclass(frozen=True)
class StandardErrors:
    """Standard errors of a mixture's parameters, in their units.

    Attributes
    ----------
    weights : (n_components,), float64
    means : (n_components, n_features), float64
    covariances : float64, in the shape of `covariances_`, or None where they were held to be known
    """

    weights: Floats
    means: Floats
    covariances: Floats | None

    def as_json(self) -> dict[str, Any]:
        """Return them as JSON values, nested lists."""
        known = self.weights, self.means, self.covariances
        names = ("weights", "means", "covariances")
        return {name: None if value is None else value.tolist() for name, value in zip(names, known, strict=True)}


@dataclass(frozen=True)
class _Need(Need):
    """A state is a matrix of all parameters."""

    n_parameters: int = 0

    def state_bytes(self, n_features: int) -> int:
        return 8 * (self.n_parameters**2 + 2)


def standard_errors(
    p: Parameters,
    X: Source,
    *,
    weights: Source | None = None,
    with_covariances: bool = True,
    non_finite: str = "error",
    executor: Executor | None = None,
) -> StandardErrors:
    """Return the standard errors of a mixture that was fitted to these rows; one pass.

    Notes
    -----
    The roots of the diagonal of J^-1, J the sum of the outer products of the rows' scores (`InformationPass`). They
    hold where the mixture is the optimum and the rows are of it.
    """
    refuse_noise(p.noise, "whose weight and volume have no standard errors here")
    check_features(X, p)
    check_shape(X, n_components=1)
    if with_covariances and type(p.family) is not type(family_of_shape(p.shape)):
        raise OptionError(
            "`covariance_type`",
            "be full, tied, diag or spherical for standard errors",
            p.family.name,
            "Numbers of its covariances depend on each other: ask for `what='means'`, which takes them as known.",
        )
    if executor is None:
        executor = current_executor(travels=X.travels and (weights is None or weights.travels))
    plan = make_plan(p, origin=p.weights @ p.means)
    work = InformationPass(plan, with_covariances=with_covariances)
    n_free = work.n_free
    if n_free > MOST_PARAMETERS:
        raise OptionError(
            "the mixture",
            f"have at most {MOST_PARAMETERS} parameters for standard errors",
            f"{n_free}",
            "Ask for `what='means'`, which takes covariances as known, or fit diag or spherical covariances.",
        )
    # (Scores of a tile, weighted ones, and a product.)
    beside = 8 * (3 * n_free * tile_length(X.n_features) + n_free**2)
    need = _Need(p.shape, p.n_components, extra_bytes=beside, given=True, n_parameters=n_free)
    rows, _ = promise_memory(Rows.plan(X, weights), need, executor)
    with for_passes(executor):
        found: Floats = run_pass(work, rows, executor, name="information")
    n_rows = found[1]
    if n_rows != X.n_rows and non_finite != "drop":  # (of rows with gaps there are no scores here)
        raise DataError(
            "`X`", "be finite", f"{X.n_rows - int(n_rows)} rows with NaN or infinity in {X.label}",
            "Leave them out by `non_finite='drop' (by set_params)`.",
        )  # fmt: skip
    J = found[2:].reshape(n_free, n_free)
    return _errors(p, _inverse(J, int(n_rows)), with_covariances=with_covariances)


def _inverse(J: Floats, n_rows: int) -> Floats:
    """Return J^-1, its rows and columns in their own units while it is inverted; a DataError where it is singular."""
    scale = np.sqrt(np.diag(J))
    try:
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise np.linalg.LinAlgError
        half = np.linalg.inv(np.linalg.cholesky(J / np.outer(scale, scale)))
    except np.linalg.LinAlgError:
        raise DataError(
            "`X`",
            "tell something of each parameter of the mixture",
            f"{n_rows:,} rows for {len(J):,} parameters, of some of which they tell nothing",
            "Take the rows that it was fitted to; fit fewer components, or diag or spherical covariances.",
        ) from None
    found: Floats = (half.T @ half) / np.outer(scale, scale)
    return found


def _errors(p: Parameters, covariance: Floats, *, with_covariances: bool) -> StandardErrors:
    k, d = p.means.shape
    own = covariance[: k - 1, : k - 1]
    variances = np.append(np.diag(own), own.sum())  # (the last weight is what the others leave)
    errors = np.sqrt(np.diag(covariance))
    means = errors[k - 1 : k - 1 + k * d].reshape(k, d)
    if not with_covariances:
        return StandardErrors(np.sqrt(variances), means, None)
    free = errors[k - 1 + k * d :].reshape(-1, p.shape.n_second(d, exact=True))
    return StandardErrors(np.sqrt(variances), means, p.shape.of_free(free, d))
