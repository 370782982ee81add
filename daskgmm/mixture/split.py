"""One component becomes two: the split that EM finds on the component's own rows, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError, NotFiniteError
from daskgmm.mixture.block import Block, Workspace
from daskgmm.mixture.estep import Densities, EStep, softmax
from daskgmm.mixture.mstep import m_step, maximise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.plan import make_plan
from daskgmm.mixture.statistics import Moments

Floats = NDArray[np.float64]
Members = tuple[NDArray[np.int64], Floats]
Random = np.random.Generator | np.random.RandomState

#: Rows of a component that its split is fitted to, at most; more are drawn.
MOST_ROWS = 1000
#: EM iterations of each start of a split, and of the best of them then.
FIRST_ITERATIONS, LAST_ITERATIONS = 3, 7


@dataclass(frozen=True)
class Split:
    """Component k becomes the two components `halves`; `gain` is in nats per unit of row weight."""

    k: int
    halves: Parameters
    gain: float


def mean_row(X: Floats, w: Floats) -> Floats:
    """Return the weighted mean of the rows, (n_features,), exact for rows that are all equal."""
    mean: Floats = X[0] + w @ (X - X[0]) / w.sum()
    return mean


def splits(
    parameters: Parameters,
    X: Floats,
    w: Floats,
    members: list[Members],
    *,
    reg_covar: float,
    rng: Random,
) -> list[Split]:
    """Return the best split of each component that has one with a gain.

    EM with two components on the rows of one, weighted by their responsibilities. The gain is exact for that problem,
    and by Jensen's inequality no more than what the mixture gains if its other components stay.

    Parameters
    ----------
    parameters : Parameters
    X : (n_rows, n_features), float64
    w : (n_rows,), float64
        Row weights.
    members : list of (rows, resp)
        Of each component: its rows, and their responsibilities.
    reg_covar : float
        Added to every variance, in original units squared.
    rng : Generator or RandomState
        Draws rows where a component has more than `MOST_ROWS`.
    """
    found = []
    # Of a half, in units of the mean row weight: rows of a covariance in general position, twice.
    least = 2 * (X.shape[1] + 1) * w.sum() / len(X)
    for k, (rows, resp) in enumerate(members):
        mass = w[rows] @ resp
        if not mass >= 2 * least:
            continue
        if len(rows) > MOST_ROWS:
            drawn = np.sort(rng.permutation(len(rows))[:MOST_ROWS])
            rows, resp = rows[drawn], resp[drawn]
        v = w[rows] * resp
        split = _best_split(parameters, k, X[rows], v, reg_covar=reg_covar, least=least / mass)
        if split is not None:
            found.append(replace(split, gain=split.gain * mass / w.sum()))
    return found


def _best_split(
    parameters: Parameters, k: int, X: Floats, v: Floats, *, reg_covar: float, least: float
) -> Split | None:
    """Return the best split of component k, its gain per unit of the weight v; no half has a share below `least`."""
    block = Block(np.ascontiguousarray(X.T), v, 0)
    one = _components(parameters, [k])
    candidates = []
    for far in _partitions(X, v):
        halves = _settle(_halves(one, X, v, far, reg_covar=reg_covar), block, FIRST_ITERATIONS, reg_covar, least)
        if halves is not None:
            candidates.append((_score(halves, block), halves))
    if not candidates:
        return None
    _, best = max(candidates, key=lambda candidate: candidate[0])
    halves = _settle(best, block, LAST_ITERATIONS, reg_covar, least)
    if halves is None or (_is_thin(halves, reg_covar) and not _is_thin(one, reg_covar)):
        return None
    gain = _score(halves, block) - _score(one, block)
    return Split(k, halves, gain) if np.isfinite(gain) and gain > 0 else None


def _components(parameters: Parameters, chosen: list[int]) -> Parameters:
    p = parameters
    if p.kind.pooled:
        return Parameters(
            p.kind, np.full(len(chosen), 1 / len(chosen)), p.means[chosen], p.covariances, p.precisions_cholesky
        )
    return Parameters(
        p.kind,
        np.full(len(chosen), 1 / len(chosen)),
        p.means[chosen],
        p.covariances[chosen],
        p.precisions_cholesky[chosen],
    )


def _partitions(X: Floats, v: Floats) -> Iterator[NDArray[np.bool_]]:
    """Yield starts of a split: which rows belong to the second half.

    On either side of the mean along the first principal axis, and along the axis with the least kurtosis, which two
    groups side by side have.
    """
    y = X - mean_row(X, v)
    values, vectors = np.linalg.eigh((v * y.T) @ y / v.sum())
    yield y @ _signed(vectors[:, -1]) > 0
    z = y @ (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1] + 1e-300)))
    if X.shape[1] > 1:
        squared = np.einsum("nd,nd->n", z, z)
        _, vectors = np.linalg.eigh((v * squared * z.T) @ z)
        yield z @ _signed(vectors[:, 0]) > 0


def _signed(vector: Floats) -> Floats:
    """Return the eigenvector or its opposite: always the same of the two."""
    return vector if vector[np.argmax(np.abs(vector))] > 0 else -vector


def _halves(one: Parameters, X: Floats, v: Floats, far: NDArray[np.bool_], *, reg_covar: float) -> Parameters | None:
    """Return the M-step for rows that belong to one half or the other; None where one half is empty or singular."""
    kind, n_features = one.kind, one.n_features
    panel, means, counts = (
        np.empty((2, kind.n_statistics(n_features, exact=True))),
        np.empty((2, n_features)),
        np.empty(2),
    )
    for half, own in enumerate((~far, far)):
        counts[half] = v[own].sum()
        if not counts[half] > 0:
            return None
        means[half] = mean_row(X[own], v[own])
        z = np.ascontiguousarray((X[own] - means[half]).T)
        kind.exact_statistics(z, v[own] / counts[half], panel[half], np.empty_like(z))
    central = kind.central_moments(panel[:, : -1 - n_features], np.zeros((2, n_features)))
    try:
        if kind.pooled:
            return Parameters(kind, counts / counts.sum(), means, one.covariances, one.precisions_cholesky)
        return maximise(Moments(counts / counts.sum(), means, central), kind, fallback=central, reg_covar=reg_covar)
    except CollapsedComponentError:
        return None


def _settle(halves: Parameters | None, block: Block, n_iter: int, reg_covar: float, least: float) -> Parameters | None:
    """Return two components after some iterations of EM; None where one is lost. A tied covariance stays."""
    for _ in range(n_iter):
        if halves is None or halves.weights.min() < least:
            return None
        plan = make_plan(halves, origin=halves.means[0], kernel="exact")
        step = EStep([plan])
        (found,) = step.finish(step.update(step.zero(), block))
        try:
            new = m_step(found, plan, previous=halves, reg_covar=reg_covar, row_set=None).parameters
        except (CollapsedComponentError, NotFiniteError):
            return None
        if halves.kind.pooled:
            new = replace(new, covariances=halves.covariances, precisions_cholesky=halves.precisions_cholesky)
        halves = new
    return halves


def _is_thin(parameters: Parameters, reg_covar: float) -> bool:
    """Return whether in some direction more of a component's variance is reg_covar than comes from rows.

    Rows of few distinct values make such components (29 of 50 irises of one species have petals 0.2 wide): their
    likelihood is high, and says nothing.
    """
    kind = parameters.kind
    try:
        kind.precisions_cholesky(kind.regularise(parameters.covariances, -2 * reg_covar))
    except CollapsedComponentError:
        return True
    return False


def _score(parameters: Parameters, block: Block) -> float:
    """Return the mean log-likelihood of the block's rows, nats."""
    plan, work, total = make_plan(parameters, origin=parameters.means[0], kernel="exact"), Workspace(), 0.0
    for tile in block.tiles():
        log_density = Densities(tile.x, work).log_density(plan, complete=True)
        log_likelihood, _ = softmax(log_density, np.empty(tile.x.shape[1]))
        total += float(log_likelihood.sum() if tile.weights is None else log_likelihood @ tile.weights)
    return total / block.total_weight
