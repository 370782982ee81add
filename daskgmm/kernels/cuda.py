"""The E-step on a card: log-densities and sums of a tile of rows, in double precision, by products and a few loops.

The steps are written for a namespace of arrays, CuPy's or NumPy's, and for the loops of `cuda_source.py`; what a card
is, `passes/card.py` says. Where the rule of a plan has components in the exact form they are so here: z by one product
a component, batched, which is as accurate as a triangular solve, and twice as fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.cuda_rows import Card, CardTile, OnCard, block_length, power_of_two
from daskgmm.kernels.cuda_source import NARROW, SUM_ROWS, SUM_VALUES, SUMMED_ROWS
from daskgmm.kernels.cuda_source import RUN as RUN_OF_PHI
from daskgmm.kernels.plan import DOUBLE, Plan
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.shapes.shape import Shape

#: Values of Phi and log-densities of a tile, and of z of some components, at most.
TILE_VALUES, Z_VALUES = 1 << 27, 1 << 25
#: Up to so many features Phi of full covariances is nowhere in memory. (Not measured: by the traffic that it saves.)
WITHOUT_PHI = NARROW
#: Threads of a block of a card.
N_THREADS = 256


def tile_length(shape: Shape, n_components: int, n_features: int) -> int:
    """Return the rows that go through the arithmetic at once: no company of a candidate changes its bits."""
    n_phi = shape.n_statistics(n_features, exact=False)
    return min(block_length(n_features), power_of_two(TILE_VALUES // (n_phi + 2 * n_components)))


def card_bytes(
    shape: Shape, n_components: int, n_features: int, *, n_candidates: int, n_ahead: int, n_threads: int = 1
) -> int:
    """Return the bytes that a pass takes on a card beside rows that stay there.

    Rows of `n_ahead` blocks and one more for each thread, and of one in double precision; Phi, log-densities and z of a
    tile; for each candidate its parameters, its sums with what they lack, those of a tile, and three more of these
    while they are made.
    """
    length, n_sums = tile_length(shape, n_components, n_features), shape.n_statistics(n_features, exact=True)
    rows = (n_threads * (n_ahead + 1) + 1) * block_length(n_features) * (n_features + 3)
    z = max(Z_VALUES, length * n_features)
    tile = length * (shape.n_statistics(n_features, exact=False) + 2 * (n_components + 1) + 4) + 2 * z
    second = max(1, min(n_components, Z_VALUES // (length * n_features))) * n_features**2
    parts = -(-length // SUMMED_ROWS) * n_components * n_sums if n_features <= WITHOUT_PHI else 0
    candidate = 7 * n_components * n_sums + shape.n_factor_values(n_components, n_features)
    return 8 * (rows + tile + second + parts + n_candidates * candidate)


class PlanOnCard:
    """What a plan's densities and sums need, on a card: made once for each process and pass."""

    def __init__(self, plan: Plan, card: Card) -> None:
        self.plan, self.card = plan, card
        n_features, array = plan.means.shape[1], card.array
        self.by_phi, self.exact = np.flatnonzero(~plan.exact), np.flatnonzero(plan.exact)
        self.length = tile_length(plan.shape, plan.n_components, n_features)
        if len(self.by_phi):
            self.origin = array(plan.origin)
            terms = _terms(plan.shape, n_features, exact=False)
            self.terms = [array(each) for each in terms]
            # (Where most are by Phi the rows of the others are written over.)
            self.is_most = 2 * len(self.by_phi) >= plan.n_components
            self.eta = array(plan.natural_parameters if self.is_most else plan.natural_parameters[self.by_phi])
            self.own = array(self.by_phi)
            self.without_phi = self.is_most and n_features <= WITHOUT_PHI and _is_narrow(plan, *terms)
        if plan.shape.leaves_common_term():
            self.factor = array(np.ascontiguousarray(plan.precisions_cholesky.T))
        if len(self.exact):
            self._take_exact(n_features)

    @classmethod
    def of(cls, plan: Plan, card: Card) -> PlanOnCard:
        """Return that of a plan, which keeps it."""
        found = plan.derived.get("card")
        if found is None or found.card is not card:
            found = plan.derived["card"] = cls(plan, card)
        made: PlanOnCard = found
        return made

    def _take_exact(self, n_features: int) -> None:
        plan, array, shape = self.plan, self.card.array, self.plan.shape
        scales = shape.scales(plan.precisions_cholesky)
        self.group = max(1, min(len(self.exact), Z_VALUES // (self.length * n_features)))
        self.groups = [self.exact[low : low + self.group] for low in range(0, len(self.exact), self.group)]
        left, right, starts = _terms(shape, n_features, exact=True)
        self.of_group: list[dict[str, OnCard]] = []
        for own in self.groups:
            found = {
                "own": array(own.astype(np.int32)), "means": array(plan.means[own]),
                "constants": array(np.where(np.isfinite(plan.log_constants), plan.log_constants, 0.0)[own]),
            }  # fmt: skip
            if scales is not None:
                found["scales"] = array(np.broadcast_to(scales, plan.means.shape)[own])
            else:
                factors = [shape.component(plan.precisions_cholesky, int(k)).T for k in own]
                found["factors"] = array(np.stack(factors))
            self.of_group.append(found)
        if scales is None:
            self.flat = array(left.astype(np.int64) * n_features + right)
        else:
            moments = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            self.packing = array((moments[:, np.newaxis] == np.arange(len(starts) - 1)).astype(np.float64))

    # -- log-densities -----------------------------------------------------------------------------------------
    def log_density(self, tile: CardTile, *, complete: bool) -> OnCard:
        """Return log of weight times density, (n_densities, n_rows), nats: a buffer, valid until the next call.

        See `Densities.log_density`.
        """
        plan, card, n = self.plan, self.card, tile.n_rows
        out = card.work.get("log_density", (plan.n_densities, n))
        of_components = out[: plan.n_components]
        if len(self.by_phi) and self.without_phi:
            loop, n_all = f"narrow_density_{len(tile.x)}", np.int32(plan.n_components)
            rows = tile.x, np.int64(tile.stride), np.int64(n)
            card.launch(loop, n, *rows, self.origin, self.eta, n_all, of_components)
        elif len(self.by_phi):
            phi = self._phi(tile)
            if self.is_most:
                card.xp.matmul(self.eta, phi, out=of_components)
            else:
                of_components[self.own] = card.xp.matmul(self.eta, phi)
            if complete and plan.shape.leaves_common_term():
                z = card.xp.matmul(self.factor, phi[-1 - len(tile.x) : -1])
                of_components -= 0.5 * (z * z).sum(axis=0)
        for i in range(len(self.groups) if len(self.exact) else 0):
            z, of_group = self._z(tile, i), self.of_group[i]
            k, d = len(self.groups[i]), len(tile.x)
            card.launch(
                "exact_density", n * k, z, np.int64(n), np.int32(d), np.int32(k), of_group["constants"],
                of_group["own"], of_components,
            )  # fmt: skip
        for k in plan.weightless:
            out[k] = -np.inf
        if plan.log_noise is not None:
            out[-1] = plan.log_noise
        return out

    def _phi(self, tile: CardTile) -> OnCard:
        """Return Phi of the rows about the origin, (n_phi, n_rows): a buffer, which plans share where they can."""
        plan, (n_features, n) = self.plan, tile.x.shape
        key = (plan.shape, plan.origin.tobytes())
        phi = self.card.work.get("phi", (plan.shape.n_statistics(n_features, exact=False), n))
        if tile.phi_of.get("key") != key:
            left, right, starts = self.terms
            n_second = len(starts) - 1
            n_items = n * -(-len(phi) // RUN_OF_PHI)
            self.card.launch(
                "phi", n_items, tile.x, np.int64(tile.stride), np.int64(n), np.int32(n_features), self.origin, left,
                right, starts, np.int32(n_second), phi,
            )  # fmt: skip
            tile.phi_of["key"] = key
        return phi

    def _z(self, tile: CardTile, i: int) -> OnCard:
        """Return z of a group of exact components, (n, n_features, n_rows): a buffer."""
        card, (d, n), of_group = self.card, tile.x.shape, self.of_group[i]
        k, scaled = len(self.groups[i]), "scales" in of_group
        z = card.work.get("z", (k, d, n))
        offsets = z if scaled else card.work.get("offsets", (k, d, n))
        means = of_group["means"]
        card.launch(
            "offsets", k * d * n, tile.x, np.int64(tile.stride), np.int64(n), np.int32(d), np.int32(k), means,
            of_group.get("scales", means), np.int32(scaled), offsets,
        )  # fmt: skip
        if not scaled:
            card.xp.matmul(of_group["factors"], offsets, out=z)
        return z

    # -- sums --------------------------------------------------------------------------------------------------
    def sums(self, tile: CardTile, resp: OnCard, out: OnCard) -> None:
        """Write the sums of each component, (n_components, n_statistics), after `log_density` of the same rows."""
        xp, resp = self.card.xp, resp[: self.plan.n_components]
        if len(self.by_phi) and self.without_phi:
            self._narrow_sums(tile, resp, out)
        elif len(self.by_phi):
            phi = self._phi(tile)
            if self.is_most:
                xp.matmul(resp, phi.T, out=out)
            else:
                out[self.own] = xp.matmul(resp[self.own], phi.T)
        for i in range(len(self.groups) if len(self.exact) else 0):
            # (z of one group alone is still there.)
            z = self.card.work.get("z", (len(self.groups[i]), *tile.x.shape)) if len(self.groups) == 1 else None
            self._exact_sums(tile, i, self._z(tile, i) if z is None else z, resp, out)

    def _narrow_sums(self, tile: CardTile, resp: OnCard, out: OnCard) -> None:
        card, (left, right, starts), n = self.card, self.terms, tile.n_rows
        n_blocks = -(-n // SUMMED_ROWS)
        parts = card.work.get("parts", (n_blocks, out.size))
        card.launch(
            "narrow_sums", n_blocks * N_THREADS, tile.x, np.int64(tile.stride), np.int64(n), np.int64(SUMMED_ROWS),
            np.int32(len(tile.x)), self.origin, left, right, np.int32(len(starts) - 1), resp,
            np.int32(self.plan.n_components), parts,
        )  # fmt: skip
        parts.sum(axis=0, out=out.reshape(-1))

    def _exact_sums(self, tile: CardTile, i: int, z: OnCard, resp: OnCard, out: OnCard) -> None:
        card, (k, d, n), of_group = self.card, z.shape, self.of_group[i]
        xp, own = card.xp, of_group["own"]
        weighted = card.work.get("offsets", (k, d, n))
        card.launch("weighted", k * d * n, z, resp, own, np.int64(n), np.int32(d), np.int32(k), weighted)
        first, count = weighted.sum(axis=2), resp[own].sum(axis=1)
        if "scales" in of_group:
            weighted *= z
            second = xp.matmul(weighted.sum(axis=2), self.packing)
        else:
            matrices = card.work.get("second", (k, d, d))
            for j in range(k):
                xp.matmul(weighted[j], z[j].T, out=matrices[j])
            second = matrices.reshape(k, d * d)[:, self.flat]
        out[own] = xp.concatenate([second, first, count[:, np.newaxis]], axis=1)


def softmax(tile: CardTile, log_density: OnCard) -> tuple[OnCard, OnCard]:
    """Turn log-densities into weighted responsibilities, in place.

    Return log-sum-exp of each row, and the logarithm of its largest responsibility, (n_rows,), nats: buffers.
    """
    card, (k, n) = tile.card, log_density.shape
    log_likelihood, log_largest = card.work.get("log_likelihood", (n,)), card.work.get("log_largest", (n,))
    card.launch(
        "softmax", n, log_density, np.int64(n), np.int32(k), *_weights(tile, log_likelihood),
        np.float64(DOUBLE.smallest_log_resp), log_likelihood, log_largest,
    )  # fmt: skip
    return log_likelihood, log_largest


def leave_out(tile: CardTile, log_density: OnCard) -> tuple[OnCard, ...]:
    """Return what `support.leave_out` does, sums over rows; `log_density` is overwritten."""
    card, (k, n) = tile.card, log_density.shape
    get, xp = card.work.get, card.xp
    log_likelihood, log_largest, lost = get("log_likelihood", (n,)), get("log_largest", (n,)), get("lost", (k, n))
    entropy = get("entropy", (n,))
    card.launch(
        "leave_out", n, log_density, np.int64(n), np.int32(k), *_weights(tile, log_likelihood),
        np.float64(DOUBLE.smallest_log_resp), lost, log_likelihood, log_largest, entropy,
    )  # fmt: skip
    if tile.weights is None:
        return lost.sum(axis=1), log_density.sum(axis=1), log_likelihood, log_largest, entropy
    return xp.matmul(lost, tile.weights), xp.matmul(log_density, tile.weights), log_likelihood, log_largest, entropy


def _weights(tile: CardTile, other: OnCard) -> tuple[OnCard, np.int32]:
    """Return the row weights as loops take them, with whether there are any."""
    return other if tile.weights is None else tile.weights, np.int32(tile.weights is not None)


def _is_narrow(plan: Plan, left: NDArray[Any], right: NDArray[Any], starts: NDArray[Any]) -> bool:
    """Return whether the loops for few features know the terms of Phi, the upper triangle, and have room for it."""
    rows, columns = np.triu_indices(plan.means.shape[1])
    known = len(left) == len(rows) == len(starts) - 1 and bool((left == rows).all() and (right == columns).all())
    height = plan.n_components + len(starts) + plan.means.shape[1]
    return known and height * (SUM_ROWS + 1) <= SUM_VALUES


def _terms(shape: Shape, n_features: int, *, exact: bool) -> tuple[NDArray[np.int32], ...]:
    """Return the features that are multiplied, and where the products of each second moment begin."""
    found = shape.terms(n_features, exact=exact)
    if found is None:
        raise NotImplementedError(f"second moments of {type(shape).__name__} are no sums of products")
    left, right, moments = found
    starts = np.searchsorted(moments, np.arange(shape.n_second(n_features, exact=exact) + 1))
    return left.astype(np.int32), right.astype(np.int32), starts.astype(np.int32)


class CardSums:
    """Sums of a candidate that stay on the card until a partition ends; compensated, as `Statistics` are."""

    def __init__(self, n_values: int) -> None:
        self._n_values = n_values
        self._card: Card | None = None
        self._values = self._lack = None

    def add(self, card: Card, values: OnCard) -> None:
        """Add the sums of one tile."""
        if self._card is None:
            self._card = card
            self._values, self._lack = card.xp.zeros(self._n_values), card.xp.zeros(self._n_values)
        card.launch("add", self._n_values, self._values, self._lack, values, np.int64(self._n_values))

    def settled(self) -> Floats:
        """Return the sums, in this process's memory."""
        if self._card is None:
            return np.zeros(self._n_values)
        with self._card.using():
            return self._card.host(self._values)
