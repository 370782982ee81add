"""Gaps where features are independent given the component: what is missing is left out."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.gap_rows import Gaps, Integers
from daskgmm.kernels.gaps import GapForm
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import LOG_2PI


class Scales(GapForm):
    """Each component has one over its standard deviations, (n_components, n_features)."""

    @cached_property
    def scales(self) -> Floats:
        found: Any = self.plan.shape.scales(self.plan.precisions_cholesky)
        return np.broadcast_to(found, self.plan.means.shape)

    @cached_property
    def apart(self) -> Floats:
        """The means less the origin, (n_components, n_features)."""
        return self.plan.means - self.plan.origin

    def density(self, gaps: Gaps, x: Floats, out: NDArray[Any], *, keep: bool) -> None:
        rows, near, missing = gaps.rows, self.near, gaps.mask.astype(np.float64)
        log_norms = np.log(self.scales) - 0.5 * LOG_2PI
        doubtful = np.zeros((len(rows), self.plan.n_components), dtype=bool)
        if len(near):
            squares = np.square(self.apart * self.scales)[near]
            gain, log_norm = squares @ missing, log_norms[near] @ missing
            # (In double, whatever the density's precision is.)
            own = out[np.ix_(near, rows)] + (0.5 * gain - log_norm)
            out[np.ix_(near, rows)] = own
            observed = self.plan.log_constants[near][:, np.newaxis] - log_norm
            doubtful[:, near] = self.doubtful(gain.T, observed.T, own.T, near)
        every = np.arange(len(rows))
        for k in self.far:
            out[k, rows] = self._density(int(k), gaps, x, every, log_norms[k])
        for doubted, at in self.counting(gaps, out, doubtful):
            out[doubted, rows[at]] = self._density(doubted, gaps, x, at, log_norms[doubted])

    def sums(self, gaps: Gaps, x: Floats, resp: NDArray[Any], out: Floats, filled: Floats) -> None:
        own, n_features, shape = np.asarray(resp[:, gaps.rows], dtype=np.float64), len(x), self.plan.shape
        mass = own @ gaps.mask.T
        filled += (mass * self.apart).sum(axis=0)
        k, last = self.by_phi, slice(-1 - n_features, -1)
        if len(k):
            squares = np.square(self.apart[k]) + 1 / np.square(self.scales[k])
            out[k, : -1 - n_features] += shape.pack_squares(mass[k] * squares)
            out[k, last] += mass[k] * self.apart[k]
        sums = np.empty(out.shape[1])
        for j in self.in_own_units:
            at = np.flatnonzero(own[j])
            if len(at):
                z = self._z(int(j), gaps, x, at)
                shape.exact_statistics(z, own[j, at], sums, np.empty_like(z))
                out[j] += sums
                out[j, : -1 - n_features] += shape.pack_squares(mass[j])

    def untold(self, gaps: Gaps, resp: Floats) -> Floats:
        return np.asarray(resp @ gaps.mask.T)

    def complete(self, gaps: Gaps, x: Floats, resp: Floats, out: Floats) -> None:
        means = self.plan.means.T @ resp[:, gaps.rows]
        out[:, gaps.rows] = np.where(gaps.mask, means, x[:, gaps.rows])

    def _z(self, k: int, gaps: Gaps, x: Floats, at: Integers) -> Floats:
        """Return z of some rows, 0 in their gaps, (n_features, n)."""
        z: Floats = (x[:, gaps.rows[at]] - self.plan.means[k][:, np.newaxis]) * self.scales[k][:, np.newaxis]
        z[gaps.mask[:, at]] = 0.0
        return z

    def _density(self, k: int, gaps: Gaps, x: Floats, at: Integers, log_norms: Floats) -> Floats:
        z = self._z(k, gaps, x, at)
        constant: Floats = self.plan.log_constants[k] - log_norms @ gaps.mask[:, at]
        constant -= 0.5 * np.einsum("dn,dn->n", z, z)
        return constant
