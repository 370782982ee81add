"""Splits into a component and noise: the group that EM finds among rows of the noise, or of a component."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import (
    FIRST_ITERATIONS,
    LAST_ITERATIONS,
    NOISE,
    Members,
    Random,
    Split,
    is_thin,
    mean_row,
    rows_of_one,
)

#: Shares of the rows that a group may be, at a start of it, and rows that may be in the midst of one, at most.
SHARES, MOST_CENTRES = (1 / 2, 1 / 4, 1 / 8, 1 / 16), 100


def splits_beside_noise(
    parameters: Parameters,
    X: Floats,
    w: Floats,
    members: list[Members],
    others: list[Split],
    *,
    floor: float,
    rng: Random,
    n_fitted: int | None = None,
) -> list[Split]:
    """Return what may become of the noise, a component and less noise, and of each component together with the noise.

    Of those that gain on the rows that they are fitted to. The rows of the noise may have a group that no component is
    for, and the rows of a component be two groups, of which the noise can have one. Gains are exact, as those of
    `splits`: EM with a component and a uniform density on these rows, weighted by their responsibilities, from where
    they are densest, and from either half of the component.

    Parameters
    ----------
    parameters : Parameters
        A mixture with noise.
    members : list of (rows, resp)
        Rows and their responsibilities, of each component and last of the noise.
    others : list of Split
        The components' splits in two.
    X, w, floor, rng, n_fitted
        As for `splits`.
    """
    found, halves = [], {split.k: split.halves for split in others}
    for k in [*range(parameters.n_components), NOISE]:
        rows, resp = members[k] if k == NOISE else _together(members[k], members[NOISE], len(X))
        one = rows_of_one(parameters, k, (rows, resp), X, w, n_fitted=n_fitted, rng=rng)
        if one is None:
            continue
        origin = mean_row(X[rows], w[rows] * resp) if k == NOISE else parameters.means[k]
        fitted = _Rows.of(one.fitted, X, w, origin)
        em = _Em(parameters, k, floor, one.least)
        best = em.best(fitted, em.of_halves(halves[k], origin) if k in halves else [])
        if best is None:
            continue
        hope = gain = em.gain(fitted, best)
        if one.judged is not None:
            judged = _Rows.of(one.judged, X, w, origin)
            gain = em.gain(judged, best) if judged.weight > 0 else 0.0
        n_rows = fitted.weight * len(X) / w.sum()
        # (A component fitted again, to some of its rows, gains a little on these.)
        paid = 0.0 if k == NOISE else 0.5 * parameters.family.n_own(X.shape[1]) * np.log(n_rows) / n_rows
        if np.isfinite(gain) and hope > paid:
            found.append(Split(k, replace(best, means=origin + best.means), gain * one.scale, hope * one.scale))
    return found


class _Rows(NamedTuple):
    """Rows measured from an origin, (n_features, n_rows), their weights times responsibilities, and these together."""

    x: Floats
    v: Floats
    weight: float

    @classmethod
    def of(cls, members: Members, X: Floats, w: Floats, origin: Floats) -> _Rows:
        rows, resp = members
        v = w[rows] * resp
        return cls(np.ascontiguousarray((X[rows] - origin).T), v, float(v.sum()))


def _together(one: Members, other: Members, n_rows: int) -> Members:
    resp = np.zeros(n_rows)
    for rows, own in (one, other):
        resp[rows] += own
    rows = np.flatnonzero(resp)
    return rows, resp[rows]


class _Em:
    """EM with one component beside noise, its mean measured from the rows' origin. A common covariance stays as it is.

    The rows are those of the noise, or of component k and the noise.
    """

    def __init__(self, whole: Parameters, k: int, floor: float, least: float) -> None:
        if whole.noise is None:
            raise ValueError("the mixture must have noise; got none.")
        like = whole.of_components.subset([int(np.argmax(whole.weights)) if k == NOISE else k])
        share = 0.0 if k == NOISE else float(whole.weights[k] / (whole.weights[k] + whole.noise.weight))
        self._before = replace(
            like, weights=np.array([share]), means=np.zeros_like(like.means), noise=whole.noise.with_weight(1 - share)
        )
        self._log_volume, self._floor, self._least = whole.noise.log_volume, floor, least

    def of_halves(self, halves: Parameters, origin: Floats) -> list[Parameters]:
        """Return what is left of the component where either half is the noise's."""
        shares = self._before.weights * halves.weights
        centred = replace(halves, means=halves.means - origin)
        return [self._beside(centred.subset([half]), float(share)) for half, share in enumerate(shares)]

    def best(self, rows: _Rows, starts: list[Parameters]) -> Parameters | None:
        """Return the best mixture; None where all are lost."""
        found = [self._m_step(rows, own) for own in _dense(rows)]
        after = [self._run(rows, p, FIRST_ITERATIONS) for p in [*found, *starts]]
        started = [p for p in after if p is not None]
        if not started:
            return None
        best = self._run(rows, max(started, key=lambda p: round(self.gain(rows, p), 9)), LAST_ITERATIONS)
        thin = best is not None and is_thin(best, self._floor)
        return None if thin and not (self._before.weights[0] > 0 and is_thin(self._before, self._floor)) else best

    def gain(self, rows: _Rows, p: Parameters) -> float:
        """Return what rows gain over what there was, in the mean, nats."""
        before, after = (np.logaddexp(*self._log_ratios(rows, one)) for one in (self._before, p))
        return float((after - before) @ rows.v) / rows.weight

    def _run(self, rows: _Rows, p: Parameters | None, n_iter: int) -> Parameters | None:
        """Return the mixture after some iterations; None where it is lost."""
        for _ in range(n_iter):
            if p is None or not p.weights[0] >= self._least:
                return None
            of_noise, own = self._log_ratios(rows, p)
            with np.errstate(over="ignore"):
                p = self._m_step(rows, rows.v / (1 + np.exp(of_noise - own)))
        return p

    def _m_step(self, rows: _Rows, own: Floats) -> Parameters | None:
        """Return the M-step for rows of which these weights are the component's; None where it is singular."""
        share = min(float(own.sum()) / rows.weight, 1.0)
        if not share > 0:
            return None
        family, shape, mean = self._before.family, self._before.shape, rows.x @ own / own.sum()
        covariances, weights = self._before.covariances, np.array([share])
        central = shape.weighted_covariances(rows.x, own[np.newaxis], mean[np.newaxis])
        if central is not None:
            covariances = family.maximise(weights * len(rows.v), shape.regularise(central, self._floor), covariances)
        try:
            p = Parameters.from_covariances(family, weights, mean[np.newaxis], covariances)
        except CollapsedComponentError:
            return None
        return self._beside(p, share)

    def _beside(self, p: Parameters, share: float) -> Parameters:
        noise = self._before.noise
        return replace(p, weights=np.array([share]), noise=None if noise is None else noise.with_weight(1 - share))

    def _log_ratios(self, rows: _Rows, p: Parameters) -> tuple[float, Floats]:
        """Return the part of the noise, and the density of the component, over the noise's density: logarithms."""
        z = p.shape.standardise_all(rows.x, p.means, p.precisions_cholesky)
        log_norm = float(p.shape.log_norm(p.precisions_cholesky, 1, p.n_features)[0] + p.log_weights[0])
        own = log_norm - 0.5 * np.einsum("kdn,kdn->n", z, z)
        left = 0.0 if p.noise is None else p.noise.weight
        of_noise = float(np.log(left)) if left > 0 else -np.inf
        return of_noise, own + self._log_volume


def _dense(rows: _Rows) -> Iterator[Floats]:
    """Yield the weights of rows about where they are densest: of the row with so large a share of all nearest to it.

    Distances are in units of the rows' covariance.
    """
    y = rows.x.T - mean_row(rows.x.T, rows.v)
    values, vectors = np.linalg.eigh((rows.v * y.T) @ y / rows.weight)
    y = y @ (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1] + 1e-300)))
    centres = np.unique(np.linspace(0, len(y) - 1, min(len(y), MOST_CENTRES)).astype(int))
    distances = cdist(y[centres], y)
    order = np.argsort(distances, axis=1, kind="stable")
    weight = np.cumsum(rows.v[order], axis=1)
    for share in SHARES:
        last = np.minimum((weight < share * rows.weight).sum(axis=1), len(y) - 1)
        radius = np.take_along_axis(distances, np.take_along_axis(order, last[:, np.newaxis], axis=1), axis=1)[:, 0]
        best = int(np.argmin(radius))
        yield rows.v * (distances[best] <= radius[best])
