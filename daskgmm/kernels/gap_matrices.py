"""Gaps where features are correlated: the entries of each component's precisions that belong to them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.gap_lanes import LANES, Kept, in_lanes, n_lanes_of
from daskgmm.kernels.gap_rows import Gaps, Group, Integers
from daskgmm.kernels.gaps import GapForm, log_norm_of
from daskgmm.kernels.loops import gap_loops
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.matrices import triangle
from daskgmm.mixture.shapes.shape import LOG_2PI

#: Matrices of up to so many rows are factored entry by entry, all of them at once; larger ones one by one, by LAPACK.
SMALL = 6
#: Numbers of matrices that are held at once, at most about.
_AT_ONCE = 1 << 19
_NONE = np.empty(0)


class Solved(NamedTuple):
    """Of matrices A, (...), and vectors w: w'A^-1 w, log |A|, and A^-1 w, (..., n)."""

    gain: Floats
    log_det: Floats
    solution: Floats


class Matrices(GapForm):
    """Each component has a matrix of precisions."""

    @cached_property
    def cholesky(self) -> Floats:
        """P of each component, (n_components, D, D)."""
        n, d = self.plan.means.shape
        return np.broadcast_to(self.plan.precisions_cholesky, (n, d, d))

    @cached_property
    def precisions(self) -> Floats:
        """Precisions of each component, (n_components, D, D)."""
        return np.broadcast_to(self.plan.shape.precisions(self.plan.precisions_cholesky), self.cholesky.shape)

    @cached_property
    def covariances(self) -> Floats:
        """Covariances, entry by entry, (D, D, n_components)."""
        found = np.broadcast_to(self.plan.shape.covariances(self.plan.precisions_cholesky), self.cholesky.shape)
        return self._entries(found)

    @cached_property
    def by_feature(self) -> Floats:
        """The precisions of components near the origin, entry by entry, (D, D, n_near)."""
        return self._entries(self.precisions[self.near])

    def _entries(self, matrices: Floats) -> Floats:
        """Return matrices, (n, D, D), entry by entry, (D, D, n); for compiled loops in lanes, the last with unity."""
        if self.plan.compiled:
            return in_lanes(matrices, np.eye(matrices.shape[1]))
        return np.ascontiguousarray(np.moveaxis(matrices, 0, -1))

    def _vectors(self, vectors: Floats) -> Floats:
        """Return vectors, (n, D), as `_entries` does matrices."""
        return in_lanes(vectors, np.zeros(vectors.shape[1])) if self.plan.compiled else np.ascontiguousarray(vectors.T)

    @staticmethod
    def _diagonals(entries: Floats) -> Floats:
        """Return the diagonals of such matrices as such vectors."""
        return np.ascontiguousarray(np.einsum("...ddk->...dk", entries))

    @cached_property
    def offsets(self) -> Floats:
        """P(mu - c) of these components, (D, n_near)."""
        apart = self.plan.means[self.near] - self.plan.origin
        return self._vectors(np.einsum("kij,kj->ki", self.precisions[self.near], apart))

    @cached_property
    def summed(self) -> NDArray[np.bool_]:
        """Which of these components have sums about the origin."""
        return np.isin(self.near, self.by_phi)

    @cached_property
    def roots(self) -> tuple[Floats, Floats]:
        """One over the roots of their diagonals, (D, n_near); and the logarithm, with that of the root of 2 pi."""
        found = 1 / np.sqrt(self._diagonals(self.by_feature))
        return found, np.log(found) + log_norm_of(1)

    @cached_property
    def deviations(self) -> tuple[Floats, Floats]:
        """One over the deviations, (D, n_components); and the logarithm, less that of the root of 2 pi."""
        found = 1 / np.sqrt(self._diagonals(self.covariances))
        return found, np.log(found) - log_norm_of(1)

    # -- densities ---------------------------------------------------------------------------------------------
    def density(self, gaps: Gaps, x: Floats, out: NDArray[Any], *, keep: bool) -> None:
        rows, near, n_features = gaps.rows, self.near, len(x)
        doubtful = np.zeros((len(rows), self.plan.n_components), dtype=bool)
        if len(near):
            self._kept(gaps, x)
        if len(near) and self.plan.compiled:
            *found, _ = self._kept_of(gaps)
            gap_loops().correct(*found, rows, 0, near, *self.risk, out, doubtful)
        if self.plan.compiled and 2 * gaps.most_missing > n_features:
            gap_loops().observe(
                self.covariances, *self.deviations, self._vectors(self.plan.means), self.plan.log_weights, x,
                gaps.starts, gaps.features, rows, out,
            )  # fmt: skip
        for group in () if self.plan.compiled else gaps.groups:
            if 2 * group.missing.shape[1] > n_features:
                self._observed(gaps, group, x, out)
            elif len(near):
                self._corrected(gaps, group, out, doubtful)
        few = np.flatnonzero(2 * gaps.n_missing <= n_features) if len(self.far) else np.empty(0, dtype=np.int64)
        for k in self.far:
            out[k, rows[few]] = self._density(int(k), gaps, x, few)
        for doubted, at in self.counting(gaps, out, doubtful):
            out[doubted, rows[at]] = self._density(doubted, gaps, x, at)

    def prepare(self, gaps: Gaps, x: Floats) -> None:
        if len(self.near):
            gaps.fill(x, self.plan.origin)
            self._kept(gaps, x)

    def tiles(self, gaps: Gaps) -> tuple[Any, ...] | None:
        n_features = self.plan.means.shape[1]
        if self.plan.shape.leaves_common_term() or not len(self.near) or 2 * gaps.whole.most_missing > n_features:
            return None
        *found, resp = self._kept_of(gaps)
        doubtful = np.zeros((len(gaps.rows), self.plan.n_components), dtype=bool)
        return *found, gaps.rows, self.near, self.summed, *self.risk, doubtful, resp

    @cached_property
    def risk(self) -> tuple[Floats, Floats, float]:
        """What tells whether the densities of these components have lost digits."""
        return self.plan.log_constants[self.near], self.bound[self.near], self.limit

    def _kept_of(self, gaps: Gaps) -> tuple[Floats, Floats, Floats, Floats]:
        """Return gains, changes, largest gains and responsibilities of rows, which may be a part."""
        kept, own = gaps.whole.kept[id(self.plan)], slice(gaps.first, gaps.first + len(gaps.rows))
        return kept.gains[:, own], kept.changes[:, own], kept.most_gains, kept.resp[own]

    def add_kept(self, gaps: Gaps, total: Floats, correction: Floats) -> None:
        # (Of many tiles at once: each has some rows alone that count for a component.)
        if not len(self.by_phi) or not len(gaps.rows):
            return
        kept: Kept = gaps.kept[id(self.plan)]
        gap_loops().add_sums(
            self.by_feature, self.roots[0], kept.y, kept.pulls, gaps.starts, gaps.features, self.near, kept.resp, total,
            correction,
        )  # fmt: skip

    def _kept(self, gaps: Gaps, x: Floats) -> Kept:
        if id(self.plan) not in gaps.whole.kept:
            gaps.kept[id(self.plan)] = self._prepared(gaps, x) if self.plan.compiled else Kept(*self._pulls(gaps, x))
        found: Kept = gaps.whole.kept[id(self.plan)]
        return found

    def _prepared(self, gaps: Gaps, x: Floats) -> Kept:
        """Do what `_pulls` does, and most of `_corrected`, compiled."""
        (at, bounds), name, n_lanes = gaps.pairs, len(gaps.kept), len(self.offsets)
        n_rows, width = len(gaps.rows), LANES * n_lanes_of(len(x))

        def get(what: str, *shape: int) -> Floats:
            found: Floats = gaps.work.get(f"{what} {name}", shape)
            return found

        y, pulls = get("gap_rows", n_rows, width), get("pulls", n_lanes, len(at), LANES)
        n = LANES * n_lanes
        found = get("gains", n, n_rows), get("changes", n, n_rows), get("most_gains", n)
        gap_loops().pull(
            x, self.plan.origin, gaps.rows, at, bounds, gaps.places, self.by_feature, self.offsets, y, pulls
        )
        gap_loops().solve(self.by_feature, *self.roots, pulls, gaps.starts, gaps.features, *found)
        return Kept(y, pulls, *found, get("resp", n_rows, n))

    def _pulls(self, gaps: Gaps, x: Floats) -> tuple[Floats, Floats]:
        """Return the rows less the origin, (n, D), and w of every gap and near component, (n_gaps, n_near).

        One product for each feature: with all rows that lack it, whatever else they lack.
        """
        at, bounds = gaps.pairs
        found: Floats = gaps.work.get("pulls", (len(at), len(self.near)))
        y = np.ascontiguousarray((x[:, gaps.rows] - self.plan.origin[:, np.newaxis]).T)
        for j in np.flatnonzero(np.diff(bounds)):
            own = slice(bounds[j], bounds[j + 1])
            np.dot(y[at[own]], self.by_feature[j], out=found[own])
            found[own] -= self.offsets[j]
        return y, found

    def _corrected(self, gaps: Gaps, group: Group, out: NDArray[Any], doubtful: NDArray[np.bool_]) -> None:
        near, n_missing = self.near, group.missing.shape[1]
        pulls, number = gaps.kept[id(self.plan)].pulls, gaps.number
        for piece in group.pieces(max(1, _AT_ONCE // (len(near) * n_missing**2))):
            own, rows = piece.missing, gaps.rows[piece.at]
            w = pulls[number[piece.at[:, np.newaxis], own]].swapaxes(1, 2)
            gain, log_det, _ = _solved(self.by_feature, own, w)
            log_norm = log_norm_of(n_missing) - 0.5 * log_det
            density = out[np.ix_(near, rows)].T + (0.5 * gain + log_norm)
            out[np.ix_(near, rows)] = density.T
            log_norm += self.plan.log_constants[near]
            doubtful[np.ix_(piece.at, near)] = self.doubtful(gain, log_norm, density, near)

    def _observed(self, gaps: Gaps, group: Group, x: Floats, out: NDArray[Any]) -> None:
        """Write the densities of rows of which most is missing: from the covariances of what is there."""
        n_components, n_there = self.plan.n_components, len(x) - group.missing.shape[1]
        for piece in group.pieces(max(1, _AT_ONCE // (n_components * n_there**2))):
            there, rows = piece.observed(len(x)), gaps.rows[piece.at]
            y = x[there, rows[:, np.newaxis]][:, np.newaxis] - self.plan.means.T[there].swapaxes(1, 2)
            gain, log_det, _ = _solved(self.covariances, there, y)
            out[:, rows] = (self.plan.log_weights - 0.5 * (n_there * LOG_2PI + log_det + gain)).T

    def _density(self, k: int, gaps: Gaps, x: Floats, at: Integers) -> Floats:
        """Return the density of some rows by completing them about the component's own mean."""
        y, log_norm, _ = self._completed(k, gaps, x, at)
        z = self.cholesky[k].T @ y
        return np.asarray(self.plan.log_constants[k] + log_norm - 0.5 * np.einsum("dn,dn->n", z, z))

    def _completed(
        self, k: int, gaps: Gaps, x: Floats, at: Integers, resp: Floats | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Return some rows less the mean, completed; what their densities have for their gaps; and a covariance.

        (D, n), (n,), and (D, D): the sum of `resp` times that of the gaps given the rest.
        """
        if self.plan.compiled:
            y, log_norm, spread = np.empty((len(x), len(at))), np.empty(len(at)), np.zeros((len(x), len(x)))
            gap_loops().complete_rows(
                self.precisions, k, self.plan.means[k], x, gaps.rows, at, gaps.starts, gaps.features,
                _NONE if resp is None else resp, y, log_norm, spread,
            )  # fmt: skip
            return y, log_norm, spread
        mask, precisions = gaps.mask[:, at], self.precisions[k]
        y = x[:, gaps.rows[at]] - self.plan.means[k][:, np.newaxis]
        y[mask] = 0.0
        w = precisions @ y
        log_norm, spread = np.empty(len(at)), np.zeros_like(precisions)
        n_missing = np.count_nonzero(mask, axis=0)
        for n in np.unique(n_missing):
            own = np.flatnonzero(n_missing == n)
            for low in range(0, len(own), max(1, _AT_ONCE // n**2)):
                some = own[low : low + max(1, _AT_ONCE // n**2)]
                missing = np.nonzero(mask[:, some].T)[1].reshape(len(some), n)
                _, log_det, u = _solved(precisions[..., np.newaxis], missing, w[missing, some[:, np.newaxis]][:, None])
                y[missing, some[:, np.newaxis]] = -u[:, 0]
                log_norm[some] = log_norm_of(int(n)) - 0.5 * log_det[:, 0]
                if resp is not None:
                    within = np.linalg.inv(precisions[missing[:, :, np.newaxis], missing[:, np.newaxis]])
                    within *= resp[some][:, np.newaxis, np.newaxis]
                    np.add.at(spread, (missing[:, :, np.newaxis], missing[:, np.newaxis]), within)
        return y, log_norm, spread

    # -- sums --------------------------------------------------------------------------------------------------
    def sums(self, gaps: Gaps, x: Floats, resp: NDArray[Any], out: Floats, filled: Floats) -> None:
        n_features = len(x)
        if len(self.by_phi):
            self._add_about_origin(gaps, resp, out, filled)
        if not len(self.in_own_units):
            return
        sums, own = np.empty(out.shape[1]), np.asarray(resp[:, gaps.rows], dtype=np.float64)
        for k in self.in_own_units:
            at = np.flatnonzero(own[k])
            if len(at):
                y, _, spread = self._completed(int(k), gaps, x, at, own[k, at])
                z = np.ascontiguousarray(self.cholesky[k].T @ y)
                self.plan.shape.exact_statistics(z, own[k, at], sums, np.empty_like(z))
                out[k] += sums
                whitened = self.cholesky[k].T @ spread @ self.cholesky[k]
                out[k, : -1 - n_features] += whitened[triangle(n_features)]
                there = y + (self.plan.means[k] - self.plan.origin)[:, np.newaxis]
                filled += np.where(gaps.mask[:, at], there, 0.0) @ own[k, at]

    def _add_about_origin(self, gaps: Gaps, resp: NDArray[Any], out: Floats, filled: Floats) -> None:
        """Add to the sums of components by Phi, in which the gaps count as zeros: what stands in them is all new."""
        if self.plan.compiled:
            gap_loops().keep(resp, gaps.rows, 0, self.near, self.summed, self._kept_of(gaps)[-1])
            return
        y, k = gaps.kept[id(self.plan)].y, self.by_phi
        n_features = y.shape[1]
        at, bounds = gaps.pairs
        weighted, second = np.zeros((len(at), len(k))), np.zeros((n_features, len(k), n_features))
        first = np.zeros((n_features, len(k)))
        resp, number = np.asarray(resp[:, gaps.rows], dtype=np.float64), gaps.number
        for rows, own, missing, shift, within in self._contributions(gaps, resp, k):
            r = resp[k[own], rows]
            weighted[number[rows[:, np.newaxis], missing], own[:, np.newaxis]] = r[:, np.newaxis] * shift
            within += shift[:, :, np.newaxis] * shift[:, np.newaxis]
            within *= r[:, np.newaxis, np.newaxis]
            a, b = np.triu_indices(missing.shape[1])
            np.add.at(second, (missing[:, a], own[:, np.newaxis], missing[:, b]), within[:, a, b])
        for j in np.flatnonzero(np.diff(bounds)):
            own_gaps = slice(bounds[j], bounds[j + 1])
            first[j] = weighted[own_gaps].sum(axis=0)
            second[j] += weighted[own_gaps].T @ y[at[own_gaps]]
        filled += first.sum(axis=1)
        a, b = triangle(n_features)
        packed = second[a, :, b]
        packed[a != b] += second[b, :, a][a != b]
        out[k, : -1 - n_features] += packed.T
        out[k, -1 - n_features : -1] += first.T

    def _contributions(
        self, gaps: Gaps, resp: Floats, own: Integers
    ) -> Iterator[tuple[Any, Any, Integers, Floats, Floats]]:
        """Yield rows and near components `own` with a responsibility that counts, each with its gaps.

        Rows, (n,); components, as places in `own`, (n,); gaps, (n, n_missing); their conditional means less the origin,
        (n, n_missing); and covariances.
        """
        pulls = gaps.kept[id(self.plan)].pulls
        if self.plan.compiled:  # (to where they are else)
            pulls = np.moveaxis(pulls, 1, 0).reshape(pulls.shape[1], -1)
            pulls = pulls[gaps.places]
        place, number = np.searchsorted(self.near, own), gaps.number
        for group in gaps.groups:
            of_rows, of_own = np.nonzero(resp[own][:, group.at].T)
            step = max(1, _AT_ONCE // group.missing.shape[1] ** 2)
            for low in range(0, len(of_rows), step):
                i, j = of_rows[low : low + step], of_own[low : low + step]
                missing, rows = group.missing[i], group.at[i]
                entries = own[j][:, np.newaxis, np.newaxis], missing[:, :, np.newaxis], missing[:, np.newaxis]
                within: Floats = np.linalg.inv(self.precisions[entries]).astype(np.float64, copy=False)
                w = pulls[number[rows[:, np.newaxis], missing], place[j][:, np.newaxis]]
                yield rows, j, missing, -(within @ w[:, :, np.newaxis])[:, :, 0], within

    def untold(self, gaps: Gaps, resp: Floats) -> Floats:
        a, b = triangle(self.precisions.shape[1])
        sums = np.zeros(self.precisions.shape)
        for group in gaps.groups:
            components, own = np.nonzero(resp[:, group.at])
            step = max(1, _AT_ONCE // group.missing.shape[1] ** 2)
            for low in range(0, len(own), step):
                j, at = components[low : low + step], own[low : low + step]
                missing = group.missing[at]
                entries = j[:, np.newaxis, np.newaxis], missing[:, :, np.newaxis], missing[:, np.newaxis]
                within = np.linalg.inv(self.precisions[entries]) * resp[j, group.at[at]][:, np.newaxis, np.newaxis]
                np.add.at(sums, entries, within)
        return sums[:, a, b]

    # -- completed rows ----------------------------------------------------------------------------------------
    def complete(self, gaps: Gaps, x: Floats, resp: Floats, out: Floats) -> None:
        own = resp[:, gaps.rows]
        found = np.zeros((len(gaps.rows), len(x)))
        if len(self.near):
            for rows, j, missing, shift, _ in self._contributions(gaps, own, self.near):
                centre = self.plan.origin[missing] + shift
                np.add.at(found, (rows[:, np.newaxis], missing), own[self.near[j], rows][:, np.newaxis] * centre)
        for k in self.far:
            at = np.flatnonzero(own[k])
            y, _, _ = self._completed(int(k), gaps, x, at)
            found[at] += ((y + self.plan.means[k][:, np.newaxis]) * own[k, at]).T
        out[:, gaps.rows] = np.where(gaps.mask, found.T, x[:, gaps.rows])


def _solved(entries: Floats, chosen: Integers, w: Floats) -> Solved:
    """Return w'A^-1 w and so on for the chosen rows and columns A of matrices, LDL' where they are small.

    Parameters
    ----------
    entries : (D, D, n_components)
        Matrices, symmetric and positive definite, entry by entry.
    chosen : (n, m), int64
    w : (n, n_components, m)
    """
    n_rows, m = chosen.shape
    if m > SMALL:
        a = np.moveaxis(entries[chosen[:, :, np.newaxis], chosen[:, np.newaxis]], -1, 1)
        diagonal = np.einsum("nkii->nki", np.linalg.cholesky(a))
        solution: Floats = np.linalg.solve(a, w[..., np.newaxis])[..., 0].astype(np.float64, copy=False)
        return Solved(np.einsum("nki,nki->nk", w, solution), 2 * np.log(diagonal).sum(axis=-1), solution)
    lower: list[list[Floats]] = []
    pivots: list[Floats] = []
    v: list[Floats] = []
    gain = log_det = np.zeros((n_rows, 1))
    for i in range(m):
        row: list[Floats] = []
        for j in range(i + 1):
            rest = entries[chosen[:, i], chosen[:, j]]
            for left, right, pivot in zip(row, lower[j] if j < i else row, pivots, strict=False):
                rest = rest - left * right * pivot
            row.append(rest / pivots[j] if j < i else rest)
        pivots.append(row.pop())
        lower.append(row)
        own = w[..., i]
        for left, before in zip(row, v, strict=True):
            own = own - left * before
        v.append(own)
        gain, log_det = gain + own * own / pivots[i], log_det + np.log(pivots[i])
    u: Floats = np.empty(w.shape)
    for i in reversed(range(m)):
        u[..., i] = v[i] / pivots[i]
        for j in range(i + 1, m):
            u[..., i] -= lower[j][i] * u[..., j]
    return Solved(gain, log_det, u)
