"""One component becomes two: the split that EM finds on the component's own rows, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.mstep import maximise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.statistics import Moments

Floats = NDArray[np.float64]
Members = tuple[NDArray[np.int64], Floats]
Random = np.random.Generator | np.random.RandomState

#: Rows of a component that its split is fitted to, at most, and for each feature; more are drawn.
MOST_ROWS, MOST_A_FEATURE = 1000, 120
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
    on_other_rows: bool = False,
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
        Draws rows where a component has more than a split is fitted to.
    on_other_rows : bool
        Whether the gain is measured on rows that the split was not fitted to: it then has no part that is due to the
        freedom of a component more. Half of a component's rows are left for it.
    """
    found = []
    # Of a half, in units of the mean row weight: rows of a covariance in general position, twice.
    least = 2 * (X.shape[1] + 1) * w.sum() / len(X)
    most = max(MOST_ROWS, MOST_A_FEATURE * X.shape[1]) if on_other_rows else MOST_ROWS
    for k, (rows, resp) in enumerate(members):
        mass = float(w[rows] @ resp)
        n_fitted = min(most, len(rows) // 2) if on_other_rows else min(most, len(rows))
        share = n_fitted / len(rows) if on_other_rows else 1.0
        if not mass * share >= 2 * least:
            continue
        order = rng.permutation(len(rows)) if n_fitted < len(rows) else np.arange(len(rows))
        own, others = np.sort(order[:n_fitted]), np.sort(order[n_fitted : 2 * n_fitted])
        shrinkage = float(X.shape[1]) if on_other_rows else 0.0
        fitted = _Rows(X[rows[own]], w[rows[own]] * resp[own], shrinkage)
        judged = _Rows(X[rows[others]], w[rows[others]] * resp[others]) if on_other_rows else fitted
        split = _best_split(parameters, k, fitted, judged, reg_covar=reg_covar, least=least / (mass * share))
        if split is not None:
            found.append(replace(split, gain=split.gain * mass / w.sum()))
    return found


def _best_split(
    parameters: Parameters, k: int, rows: _Rows, judged: _Rows, *, reg_covar: float, least: float
) -> Split | None:
    """Return the best split of component k, its gain per unit of weight; no half has a share below `least`."""
    one = replace(parameters.subset([k]), weights=np.ones(1))
    candidates = []
    for far in _partitions(rows.X, rows.v):
        halves = rows.em(_halves(one, rows, far, reg_covar=reg_covar), FIRST_ITERATIONS, reg_covar, least)
        if halves is not None:
            candidates.append((rows.score(halves), halves))
    if not candidates:
        return None
    # (Of starts that lead to the same halves, in either order, rounding must not choose.)
    _, best = max(candidates, key=lambda candidate: round(candidate[0], 9))
    halves = rows.em(best, LAST_ITERATIONS, reg_covar, least)
    if halves is None or (_is_thin(halves, reg_covar) and not _is_thin(one, reg_covar)):
        return None
    gain = judged.score(halves) - judged.score(one)
    return Split(k, halves, gain) if np.isfinite(gain) and gain > 0 else None


class _Rows:
    """Rows of one component, weighted, and the buffers of EM with two components on them.

    `shrinkage` rows of the covariance within both are added to each half.
    """

    def __init__(self, X: Floats, v: Floats, shrinkage: float = 0.0) -> None:
        self.X, self.v, self.weight, self.shrinkage = X, v, float(v.sum()), shrinkage
        self._x = np.ascontiguousarray(X.T)
        self._z, self._work = np.empty((2, *self._x.shape)), np.empty_like(self._x)

    def em(self, halves: Parameters | None, n_iter: int, reg_covar: float, least: float) -> Parameters | None:
        """Return two components after some iterations of EM; None where one is lost. A tied covariance stays."""
        for _ in range(n_iter):
            if halves is None or halves.weights.min() < least:
                return None
            halves = self._step(halves, reg_covar)
        return halves

    def score(self, p: Parameters) -> float:
        """Return the mean log-likelihood, nats."""
        return float(self.v @ np.logaddexp.reduce(self._log_density(p), axis=0)) / self.weight

    def _log_density(self, p: Parameters) -> Floats:
        constants = p.log_weights + p.kind.log_norm(p.precisions_cholesky, p.n_components, p.n_features)
        found = np.empty((p.n_components, len(self.v)))
        for k, z in enumerate(self._z[: p.n_components]):
            p.kind.standardise(self._x, p.means[k], p.kind.component(p.precisions_cholesky, k), z, self._work)
            np.einsum("dn,dn->n", z, z, out=found[k])
        found *= -0.5
        found += constants[:, np.newaxis]
        return found

    def _step(self, p: Parameters, reg_covar: float) -> Parameters | None:
        kind, n_features = p.kind, p.n_features
        log_density = self._log_density(p)
        with np.errstate(over="ignore"):  # (what is far away belongs to one half only)
            second = self.v / (1 + np.exp(log_density[0] - log_density[1]))
        panel = np.empty((2, kind.n_statistics(n_features, exact=True)))
        for k, resp in enumerate((self.v - second, second)):
            kind.exact_statistics(self._z[k], resp, panel[k], self._work)
        counts = panel[:, -1].copy()
        if not counts.min() > 0:
            return None
        panel /= counts[:, np.newaxis]
        first = panel[:, -1 - n_features : -1]
        central = kind.central_moments(panel[:, : -1 - n_features], first)
        means = p.means.copy()
        for k in range(2):
            shift, central[k] = kind.from_standard(first[k], central[k], kind.component(p.precisions_cholesky, k))
            means[k] += shift
        if not (np.isfinite(means).all() and np.isfinite(central).all()):
            return None
        return self.two(p, counts / counts.sum(), means, central, reg_covar)

    def two(
        self, like: Parameters, weights: Floats, means: Floats, central: Floats, reg_covar: float
    ) -> Parameters | None:
        """Return the M-step of two components; None where one is singular. A tied covariance stays as it is."""
        if like.kind.pooled:
            return Parameters(like.kind, weights, means, like.covariances, like.precisions_cholesky)
        found = Moments(weights * len(self.v), means, central)
        try:
            return maximise(found, like.kind, fallback=central, reg_covar=reg_covar, shrinkage=self.shrinkage)
        except CollapsedComponentError:
            return None


def _partitions(X: Floats, v: Floats) -> Iterator[NDArray[np.bool_]]:
    """Yield starts of a split: which rows belong to the second half.

    On either side of the mean along the first principal axis, and along the axis with the least kurtosis, which two
    groups side by side have; and the outer half of the rows, for a narrow group within a wide one.
    """
    y = X - mean_row(X, v)
    values, vectors = np.linalg.eigh((v * y.T) @ y / v.sum())
    yield y @ _signed(vectors[:, -1]) > 0
    z = y @ (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1] + 1e-300)))
    squared = np.einsum("nd,nd->n", z, z)
    if X.shape[1] > 1:
        _, vectors = np.linalg.eigh((v * squared * z.T) @ z)
        yield z @ _signed(vectors[:, 0]) > 0
    order = np.argsort(squared, kind="stable")
    middle = order[min(np.searchsorted(np.cumsum(v[order]), v.sum() / 2), len(order) - 1)]
    yield squared > squared[middle]


def _signed(vector: Floats) -> Floats:
    """Return the eigenvector or its opposite: always the same of the two."""
    return vector if vector[np.argmax(np.abs(vector))] > 0 else -vector


def _halves(one: Parameters, rows: _Rows, far: NDArray[np.bool_], *, reg_covar: float) -> Parameters | None:
    """Return the M-step for rows that belong to one half or the other; None where one half is empty or singular."""
    kind, n_features = one.kind, one.n_features
    panel = np.empty((2, kind.n_statistics(n_features, exact=True)))
    means, counts = np.empty((2, n_features)), np.empty(2)
    for half, own in enumerate((~far, far)):
        X, v = rows.X[own], rows.v[own]
        counts[half] = v.sum()
        if not counts[half] > 0:
            return None
        means[half] = mean_row(X, v)
        z = np.ascontiguousarray((X - means[half]).T)
        kind.exact_statistics(z, v / counts[half], panel[half], np.empty_like(z))
    central = kind.central_moments(panel[:, : -1 - n_features], np.zeros((2, n_features)))
    return rows.two(one, counts / counts.sum(), means, central, reg_covar)


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
