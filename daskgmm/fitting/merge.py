"""One component less: two become one, or one is dropped; what that costs, and whose rows are whose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.estep import Densities
from daskgmm.kernels.plan import DOUBLE, Plan, make_plan
from daskgmm.kernels.support import Support
from daskgmm.mixture import merging
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.noise_split import splits_beside_noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.mixture.split import Members, Random, Split, mean_row, splits

Integers = NDArray[np.int64]

#: A row belongs to a component for its split if its responsibility is at least this.
SMALLEST_RESP = 0.01
#: How many others each component may be merged with: the nearest.
NEAREST = 3


@dataclass(frozen=True)
class Merge:
    """One component less: i and j become one, or j is dropped where i stays as it is.

    `cost` is the mean log-likelihood that goes with it if the others stay, nats per unit of row weight, and `spread`
    the standard deviation of what goes with a row (0 for one that is dropped); `covariance` is None where that of i
    stays.
    """

    i: int
    j: int
    weight: float
    mean: Floats
    covariance: Floats | None
    cost: float
    spread: float = 0.0

    def write(self, shape: Shape, weights: Floats, means: Floats, covariances: Floats) -> None:
        """Write the one component into the place of i; that of j is left as it is."""
        weights[self.i], means[self.i] = self.weight, self.mean
        if self.covariance is not None:
            shape.put(covariances, self.i, self.covariance)


@dataclass(frozen=True)
class Outlook:
    """What a mixture is on some rows, as moves see it.

    Attributes
    ----------
    merges : list of Merge
    members : list of (rows, resp)
        Of each component: the rows that belong to it, and their responsibilities.
        Those of the noise are last, where there is some.
    support : Support
    completed : (n_rows, n_features), float64
        The rows, with the means of what they lack given the rest.
    """

    merges: list[Merge]
    members: list[Members]
    support: Support
    completed: Floats

    def sparing(self, held: NDArray[np.bool_]) -> Outlook:
        """Return it without merges of components that are held, (n_components,)."""
        return replace(self, merges=[m for m in self.merges if not (held[m.i] or held[m.j])])

    def splits(
        self, parameters: Parameters, w: Floats, *, floor: float, rng: Random, n_fitted: int | None = None
    ) -> list[Split]:
        """Return the splits of its components, and those beside noise where it has some (`splits_beside_noise`)."""
        p = parameters
        how: dict[str, Any] = {"floor": floor, "rng": rng, "n_fitted": n_fitted}
        found = splits(p, self.completed, w, self.members[: p.n_components], **how)
        if p.noise is None:
            return found
        return found + splits_beside_noise(p, self.completed, w, self.members, found, **how)


def look(parameters: Parameters, X: Floats, w: Floats) -> Outlook:
    """Return the ways to do with one component less, and each component's rows, responsibilities and support.

    Costs some two E-steps.

    Parameters
    ----------
    parameters : Parameters
    X : (n_rows, n_features), float64
        NaN where a value is missing.
    w : (n_rows,), float64
        Row weights.
    """
    p, pairs = parameters, _close_pairs(parameters)
    merged = merging.merged(p, pairs) if len(pairs) else None
    if merged is None:
        pairs = pairs[:0]
    missing = np.isnan(X)
    gaps = np.ascontiguousarray(missing.T) if missing.any() else None
    origin = mean_row(X, w) if gaps is None else p.weights @ p.means
    plans = [make_plan(each, origin=origin) for each in (p, merged) if each is not None]
    completed = X if gaps is None else np.empty_like(X)
    (cost, squares), (lost, resp_sums) = np.zeros((2, len(pairs))), np.zeros((2, p.n_components))
    members: list[list[Members]] = [[] for _ in range(plans[0].n_densities)]
    work = Workspace()
    for tile in Block(np.ascontiguousarray(X.T), w, 0, gaps=gaps).tiles():
        own_rows = slice(tile.first_row, tile.first_row + tile.x.shape[1])
        v, densities = w[own_rows], Densities.of(tile, work)
        log_density = densities.log_density(plans[0], keep_z=gaps is not None, complete=True)
        left, sums, log_likelihood, *_ = densities.leave_out(plans[0], log_density.copy(), v)
        lost, resp_sums = lost + left, resp_sums + sums
        resp = np.exp(np.maximum(log_density - log_likelihood, DOUBLE.smallest_log_resp))
        if gaps is not None:
            densities.impute(plans[0], resp / resp.sum(axis=0), completed[own_rows].T)
        for k, r in enumerate(resp):
            own = np.flatnonzero((r > SMALLEST_RESP) & (v > 0))
            members[k].append((tile.first_row + own, r[own]))
        if merged is not None:
            ratios = _ratios(densities, plans[1], resp, log_likelihood, pairs)
            logs = np.log(np.maximum(ratios, np.exp(DOUBLE.smallest_log_resp)))
            cost, squares = cost - logs @ v, squares + np.square(logs) @ v
    total = float(w.sum())
    support = Support.of_sums(lost, resp_sums, p, weight=total, n_rows=len(X))
    merges = [Merge(i, i, p.weights[i], p.means[i], None, float(d)) for i, d in enumerate(support.nats / total)]
    if merged is not None:
        for m, (i, j) in enumerate(pairs):
            covariance = p.shape.component(merged.covariances, m)
            own_cost, spread = float(cost[m] / total), float(np.sqrt(squares[m] / total))
            weight = float(merged.weights[m])
            merges.append(Merge(int(i), int(j), weight, merged.means[m], covariance, own_cost, spread))
    kept = [m for m in merges if np.isfinite(m.cost)]
    return Outlook(kept, [_joined(parts) for parts in members], support, completed)


def without_one(parameters: Parameters, merge: Merge) -> Parameters | None:
    """Return the mixture of one component less; None where that is singular."""
    p, kept = parameters, np.arange(parameters.n_components) != merge.j
    weights, means, covariances = p.weights.copy(), p.means.copy(), p.covariances.copy()
    merge.write(p.shape, weights, means, covariances)
    try:
        weights, covariances = weights[kept], p.shape.subset(covariances, kept)
        left = replace(p, classes=None if p.classes is None else p.classes[kept])
        return left.changed(weights, means[kept], p.family.together(weights / weights.sum(), covariances))
    except CollapsedComponentError:
        return None


#: Two components are alike whose means, and covariances, are so near, squared: in units of their covariances, and in
#: coordinates about one of them (`Family.relative`).
ALIKE = 1e-2


def has_doubles(parameters: Parameters) -> bool:
    """Return whether two components are alike: a saddle of the likelihood of one less, where EM stays long."""
    p = parameters
    near = np.argwhere(np.triu(_distances(p) < ALIKE))
    if not len(near):
        return False
    first, second = (p.shape.subset(p.precisions_cholesky, near[:, i]) for i in (0, 1))
    chart = p.family.relative(first, second, p.n_features)
    return bool((np.square(chart).sum(axis=1) < ALIKE).any())


def _ratios(densities: Densities, plan: Plan, resp: Floats, log_likelihood: Floats, pairs: Integers) -> Floats:
    """Return the density of each row with two components as one over what it is, (n_pairs, n_rows).

    Notes
    -----
    With r the responsibilities: 1 - r_i - r_j + w p(x) / sum_k w_k p_k(x) where i and j become one of weight w and
    density p. Exact while the other components stay.
    """
    both = densities.log_density(plan, complete=True)
    ratios = np.exp(np.minimum(both - log_likelihood, -DOUBLE.smallest_log_resp))
    ratios += np.maximum(1 - resp[pairs[:, 0]] - resp[pairs[:, 1]], 0.0)
    return ratios


def _joined(parts: list[Members]) -> Members:
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([resp for _, resp in parts])


def _close_pairs(parameters: Parameters) -> Integers:
    """Return each component with the nearest others, (n_pairs, 2): |mu_i - mu_j|^2 in units of S_i plus of S_j."""
    n_components, distance = parameters.n_components, _distances(parameters)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(NEAREST, n_components - 1)]
    pairs = np.stack([np.repeat(np.arange(n_components), nearest.shape[1]), nearest.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _distances(parameters: Parameters) -> Floats:
    """Return |mu_i - mu_j|^2 in units of S_i plus of S_j, (n_components, n_components), infinite on the diagonal."""
    p, n_components = parameters, parameters.n_components
    centres = np.ascontiguousarray(p.means.T)
    z, distance = np.empty_like(centres), np.empty((n_components, n_components))
    for k in range(n_components):
        own = p.shape.component(p.precisions_cholesky, k)
        p.shape.standardise(centres, p.means[k], own, z, np.empty_like(centres))
        distance[k] = np.einsum("dn,dn->n", z, z)
    distance += distance.T.copy()
    np.fill_diagonal(distance, np.inf)
    return distance
