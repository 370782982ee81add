"""EM with two components on the rows of one, for several starts, and several components, at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.bounded import along
from daskgmm.mixture.shapes.shape import Shape

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class RowsOfSeveral:
    """The rows of some components, beside each other; where one has fewer than the longest, rows of no weight follow.

    Attributes
    ----------
    x : (n_components, n_features, longest), float64
        Measured from each component's mean.
    v : (n_components, longest), float64
        Row weights times responsibilities.
    n_rows, weights : (n_components,), float64
        Rows of each, and the sum of v.
    """

    x: Floats
    v: Floats
    n_rows: Floats
    weights: Floats

    @classmethod
    def of(cls, X: Floats, w: Floats, members: Sequence[tuple[Integers, Floats]], means: Floats) -> RowsOfSeveral:
        """Return the rows of members, (rows, resp) of each component."""
        longest = max(len(own) for own, _ in members)
        x, v = np.zeros((len(members), X.shape[1], longest)), np.zeros((len(members), longest))
        for i, (own, resp) in enumerate(members):
            x[i, :, : len(own)] = (X[own] - means[i]).T
            v[i, : len(own)] = w[own] * resp
        return cls(x, v, np.array([float(len(own)) for own, _ in members]), v.sum(axis=1))

    def of_halves(self, of: Integers) -> Floats:
        """Return the rows for each half of some pairs, (n_halves, n_features, longest); of one component only once."""
        return self.x if len(self.x) == 1 else self.x[np.repeat(of, 2)]


class Pairs(NamedTuple):
    """Pairs of halves, each a mixture of its own.

    of (n_pairs,): the component of each, in its group; weights (n_pairs, 2); means (n_pairs, 2, n_features), measured
    from the component's; covariances and precision Cholesky of all halves in the `shape`.
    """

    of: Integers
    weights: Floats
    means: Floats
    covariances: Floats
    precisions_cholesky: Floats
    shape: Shape

    def only(self, alive: NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        if alive.all():
            return self
        halves, subset = np.repeat(alive, 2), self.shape.subset
        covariances, cholesky = subset(self.covariances, halves), subset(self.precisions_cholesky, halves)
        return Pairs(self.of[alive], self.weights[alive], self.means[alive], covariances, cholesky, self.shape)

    def each(self) -> list[Pairs]:
        """Return the pairs one by one."""
        return [self.only(row) for row in np.eye(len(self.weights), dtype=bool)]

    @classmethod
    def together(cls, found: Sequence[Pairs]) -> Pairs:
        """Return single pairs, one at least, as one."""
        shape = found[0].shape
        of, weights, means, covariances, cholesky = (
            np.concatenate(each) for each in list(zip(*found, strict=True))[:5]
        )  # fmt: skip
        if shape.leaves_common_term():  # (a covariance that is everybody's)
            covariances, cholesky = found[0].covariances, found[0].precisions_cholesky
        return cls(of, weights, means, covariances, cholesky, shape)


class Em:
    """EM with two components on the rows of one, from several starts at once. A common covariance stays as it is.

    Parameters
    ----------
    parameters : Parameters
    which : list of int
        The components whose rows there are.
    floor : float
        What the prior adds to every variance, in squared units.
    least : (n_components,), float64
        The least share of a half.
    shrinkage : float
        Rows of the covariance within both that are added to each half.
    """

    def __init__(
        self, parameters: Parameters, which: list[int], *, floor: float, least: Floats, shrinkage: float
    ) -> None:
        self._ones = replace(parameters.subset(which), weights=np.ones(len(which)))
        self._shape, self._floor, self._least, self._shrinkage = parameters.shape, floor, least, shrinkage

    def of_sides(self, rows: RowsOfSeveral, sides: NDArray[np.bool_], of: Integers) -> Pairs:
        """Return the M-steps for rows that belong to one half or the other, (n_pairs, longest)."""
        v = rows.v[of]
        return self._m_step(rows, rows.of_halves(of), of, np.stack([v * ~sides, v * sides], axis=1))

    def run(self, rows: RowsOfSeveral, pairs: Pairs, n_iter: int) -> Pairs:
        """Return the pairs after some iterations; those that are lost are left out."""
        of: Integers | None = None
        for _ in range(n_iter):
            pairs = pairs.only(pairs.weights.min(axis=1, initial=1.0) >= self._least[pairs.of])
            if not len(pairs.weights):
                break
            if pairs.of is not of:  # (at first, and where a pair is lost)
                of = pairs.of
                x, v = rows.of_halves(of), rows.v[of]
            first, second = np.moveaxis(self._log_density(x, pairs), 1, 0)
            with np.errstate(over="ignore"):  # (what is far away belongs to one half only)
                own = v / (1 + np.exp(first - second))
            pairs = self._m_step(rows, x, of, np.stack([v - own, own], axis=1))
        return pairs

    def scores(self, rows: RowsOfSeveral, pairs: Pairs) -> list[float]:
        """Return the mean log-likelihood of each pair, nats; that of no rows is not a number."""
        if not len(pairs.weights):
            return []
        density = self._log_density(rows.of_halves(pairs.of), pairs)
        return _means(np.logaddexp.reduce(density, axis=1), rows.v[pairs.of], rows.weights[pairs.of])

    def scores_of_ones(self, rows: RowsOfSeveral) -> list[float]:
        """Return the mean log-likelihood of each component itself, nats."""
        p = self._ones
        z = self._shape.standardise_all(rows.x, np.zeros_like(p.means), p.precisions_cholesky)
        density = -0.5 * np.einsum("kdn,kdn->kn", z, z)
        density += self._shape.log_norm(p.precisions_cholesky, p.n_components, p.n_features)[:, np.newaxis]
        return _means(density, rows.v, rows.weights)

    def mixture(self, pair: Pairs) -> Parameters:
        """Return a single pair as a mixture."""
        means = self._ones.means[pair.of] + pair.means[0]
        return Parameters(self._ones.family, pair.weights[0], means, pair.covariances, pair.precisions_cholesky)

    def _log_density(self, x: Floats, pairs: Pairs) -> Floats:
        """Return the weighted log-density of each half, (n_pairs, 2, longest), nats."""
        n_halves, n_features = pairs.weights.size, self._ones.n_features
        means = pairs.means.reshape(n_halves, n_features)
        z = self._shape.standardise_all(x, means, pairs.precisions_cholesky)
        found = np.einsum("kdn,kdn->kn", z, z)
        found *= -0.5
        log_norm = self._shape.log_norm(pairs.precisions_cholesky, n_halves, n_features)
        found += (np.log(pairs.weights).ravel() + log_norm)[:, np.newaxis]
        result: Floats = found.reshape(*pairs.weights.shape, -1)
        return result

    def _m_step(self, rows: RowsOfSeveral, x: Floats, of: Integers, resp: Floats) -> Pairs:
        """Return the pairs that responsibilities, (n_pairs, 2, longest), give; the singular ones are left out."""
        shape, ones = self._shape, self._ones
        counts = resp.sum(axis=2)
        there = counts.min(axis=1) > 0
        if not there.all():
            of, resp, counts = of[there], resp[there], counts[there]
            x = rows.of_halves(of)
        weights = counts / counts.sum(axis=1, keepdims=True)
        resp = resp.reshape(counts.size, x.shape[-1])
        sums = resp @ x[0].T if len(x) == 1 else (x @ resp[:, :, np.newaxis])[:, :, 0]
        means = sums / counts.reshape(-1, 1)
        central = shape.weighted_covariances(x, resp, means) if len(of) else None
        halved = means.reshape(*counts.shape, ones.n_features)
        if central is None:
            own = np.zeros(counts.size, dtype=int)
            covariances, cholesky = shape.subset(ones.covariances, own), shape.subset(ones.precisions_cholesky, own)
            return Pairs(of, weights, halved, covariances, cholesky, shape)
        n_rows = weights * rows.n_rows[of][:, np.newaxis]
        covariances = shape.regularise(_shrunk(n_rows, central, self._shrinkage), self._floor)
        for i, k in enumerate(of):
            pair, previous = slice(2 * i, 2 * i + 2), shape.subset(ones.covariances, [k, k])
            covariances[pair] = ones.family.maximise(n_rows[i], covariances[pair], previous)
        cholesky, regular = _factored(shape, covariances)
        alive = regular.reshape(-1, 2).all(axis=1) & np.isfinite(halved).all(axis=(1, 2))
        return Pairs(of, weights, halved, covariances, cholesky, shape).only(alive)


def _means(values: Floats, v: Floats, weights: Floats) -> list[float]:
    """Return the weighted mean of each row of values."""
    with np.errstate(invalid="ignore"):
        return [float(mean) for mean in np.einsum("pn,pn->p", values, v) / weights]


def _shrunk(n_rows: Floats, central: Floats, shrinkage: float) -> Floats:
    """Return central moments as if each half had `shrinkage` more rows of the covariance within its pair."""
    if not shrinkage > 0:
        return central
    shares = n_rows / n_rows.sum(axis=1, keepdims=True)
    weighted = along(shares.ravel(), central) * central
    within = np.repeat(weighted[::2] + weighted[1::2], 2, axis=0)
    own = along((n_rows / (n_rows + shrinkage)).ravel(), central)
    shrunk: Floats = own * central + (1 - own) * within
    return shrunk


def _factored(shape: Shape, covariances: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the precision Cholesky of each covariance, and which of them are regular."""
    try:
        return shape.precisions_cholesky(covariances), np.ones(len(covariances), dtype=bool)
    except CollapsedComponentError:
        found, regular = np.ones_like(covariances), np.zeros(len(covariances), dtype=bool)
        for k in range(len(covariances)):
            with suppress(CollapsedComponentError):
                found[k], regular[k] = shape.precisions_cholesky(covariances[[k]])[0], True
        return found, regular
