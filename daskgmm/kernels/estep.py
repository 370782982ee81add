"""The E-step on blocks: log-densities, responsibilities, and the statistics of a list of candidates.

Components first throughout (arrays of shape n_components x n_rows): every operation runs along the rows. With Phi the
two matrix products cost 4 N K F flops, F about D^2/2; the exact form costs the same flops in K narrow products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from threading import local
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import ClusterError
from daskgmm.kernels.block import Block, Workspace, tile_length
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.plan import DOUBLE, Plan, fill_phi
from daskgmm.kernels.stack import GROUP, PARTS, Stack
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.support import leave_out
from daskgmm.mixture.shapes.shape import Shape

Floats = NDArray[np.float64]

#: Up to so many features (64 of the data, full) Phi is kept whole, and shared; above, the compiled kernel makes panels.
LONGEST_WHOLE_PHI = 2304
PANEL = 512
#: Up to such a part of a tile's rows it pays to gather those that count for a component in the exact form.
FEW_ROWS = 0.7

_NO_WEIGHTS = np.empty(0)
_NO_PRODUCTS = np.empty((2, 0), dtype=np.int64)


def softmax(log_density: NDArray[Any], out_sum: NDArray[Any], smallest: float = DOUBLE.smallest_log_resp) -> Any:
    """Return log-sum-exp over the components and the sums of the exponentials, each (n_rows,), for a softmax in place.

    `log_density` (n_components, n_rows) becomes exp(l - max) with exact zeros below exp(smallest); dividing
    it by the sums makes it the responsibilities. (The caller divides, since it may multiply by row weights too.)
    """
    highest = log_density.max(axis=0)
    log_density -= highest
    np.maximum(log_density, smallest, out=log_density)
    np.exp(log_density, out=log_density)
    log_density -= np.exp(log_density.dtype.type(smallest))
    np.sum(log_density, axis=0, out=out_sum)
    highest += np.log(out_sum)
    return highest, out_sum


def can_compile() -> bool:
    """Return whether the compiled kernel can be used in this process: whether numba is installed."""
    return find_spec("numba") is not None


def _compiled() -> ModuleType:
    try:
        from daskgmm.kernels import compiled
    except ImportError as error:
        raise ClusterError(
            "Workers",
            "have numba where the process that starts the fit has it",
            error,
            "Install daskgmm[compiled] there too, or switch the compiled kernel off: DASK_DASKGMM__COMPILED=False.",
        ) from error
    return compiled


class CandidatesPass:
    """A pass over a list of candidates, each on its own rows; a state is a list of Statistics.

    Each candidate has products of its own fixed shape, so its bits do not depend on the others; what they
    share is the reading, the conversion and, where shape and origin agree, Phi of a block.

    Parameters
    ----------
    plans : sequence of Plan
        One for each candidate.
    folds : sequence of Fold or None, optional
        The rows of each candidate; None means all of them.
    """

    def __init__(self, plans: Sequence[Plan], folds: Sequence[Fold | None] | None = None) -> None:
        self.plans = tuple(plans)
        self.folds = tuple(folds) if folds is not None else (None,) * len(self.plans)
        self._local = local()

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.plans, self.folds))

    @property
    def work(self) -> Workspace:
        """The buffers of this thread."""
        if not hasattr(self._local, "work"):
            self._local.work = Workspace()
        found: Workspace = self._local.work
        return found

    def finish(self, state: list[Statistics]) -> list[Statistics]:
        """Return what leaves a partition."""
        return [total.settled() for total in state]

    def merge(self, state: list[Statistics], other: list[Statistics]) -> list[Statistics]:
        """Return the state of both sets of rows."""
        return [a.merge(b) for a, b in zip(state, other, strict=True)]


class EStep(CandidatesPass):
    """The pass of an E-step: the sums of responsibilities that an M-step needs."""

    def zero(self) -> list[Statistics]:
        """Return the state of no rows."""
        return [Statistics.zero(plan) for plan in self.plans]

    def update(self, state: list[Statistics], block: Block) -> list[Statistics]:
        """Return the state with the rows of a block added; `state` is changed in place."""
        plan, work = self.plans[0], self.work
        if len(self.plans) == 1 and _in_one_call(plan) and plan.shape.products(len(block.x)) is not None:
            # The same sums, tile by tile, but without the interpreter between.
            (own,) = rows_of_each(block, self.folds)
            Densities(block.x, work).add_in_one_call(plan, own, state[0], tiled=True)
            return state
        for tile in block.tiles():
            densities = Densities(tile.x, work)
            for plan, own, total in zip(self.plans, rows_of_each(tile, self.folds), state, strict=True):
                if _in_one_call(plan):
                    densities.add_in_one_call(plan, own, total)
                    continue
                values = _tile_values(plan, densities, own, work)
                if plan.compiled:
                    _compiled().add(*total.compensated(), values)
                else:
                    total.add(values)
        return state


def rows_of_each(block: Block, folds: Sequence[Fold | None]) -> Iterator[Block]:
    """Yield the block as each candidate sees it; a fold is told apart once."""
    found: dict[Fold | None, Block] = {None: block}
    for fold in folds:
        if fold is not None and fold not in found:
            found[fold] = fold.of(block)
        yield found[fold]


def _in_one_call(plan: Plan) -> bool:
    return plan.compiled and plan.one_call


def _beside_exact_ones(plan: Plan) -> bool:
    """Whether the compiled kernel can do all log-densities by Phi, of which some are then replaced."""
    return plan.compiled and plan.mostly_phi and not plan.shape.leaves_common_term()


def _tile_values(plan: Plan, densities: Densities, tile: Block, work: Workspace) -> Floats:
    values: Floats = work.get("values", (plan.n_components * plan.n_statistics + 3,))
    resp = densities.log_density(plan, keep_z=True, complete=plan.common_by_row)
    log_likelihood = densities.responsibilities(plan, resp, tile.weights)
    densities.statistics(plan, resp, values[:-3].reshape(plan.n_components, -1))
    total = log_likelihood.sum() if tile.weights is None else np.dot(log_likelihood, tile.weights)
    values[-3:] = float(total), tile.total_weight, tile.n_rows
    return values


class Densities:
    """Log-densities of the rows of one tile under any number of plans, which share Phi where they can."""

    def __init__(self, x: Floats, work: Workspace) -> None:
        self._x, self._work = x, work
        self._phi: NDArray[Any] | None = None
        self._phi_of: tuple[Shape, str, bytes] | None = None

    def log_density(self, plan: Plan, *, keep_z: bool = False, complete: bool = False) -> NDArray[Any]:
        """Return log of weight times density, (n_components, n_rows), nats: a buffer, valid until the next call.

        It has the dtype of the plan's precision.

        Parameters
        ----------
        plan : Plan
        keep_z : bool
            Whether to keep z of the exact components for `statistics`; n_exact x n_features x n_rows doubles.
        complete : bool
            Whether to add the term that a tied mixture has in common; responsibilities do not need it, and the total
            log-likelihood only if the plan says so.
        """
        result = self._density_buffer(plan)
        if _in_one_call(plan) and not (complete and plan.shape.leaves_common_term()):
            _compiled().log_density(*self._compiled_arguments(plan, self._x.shape[1]))
            return result
        if _beside_exact_ones(plan) and len(plan.transposed_parameters) <= LONGEST_WHOLE_PHI:
            # Rows of exact components are written over: cheaper than gathering and scattering the others.
            _compiled().log_density(*self._compiled_arguments(plan, self._x.shape[1]))
        elif plan.any_phi:
            self._by_phi(plan, result, complete=complete)
        if plan.exact_components:
            self._exact(plan, result, keep_z=keep_z)
        for k in plan.weightless:
            result[k] = -np.inf
        return result

    def responsibilities(self, plan: Plan, log_density: NDArray[Any], weights: Floats | None) -> Floats:
        """Return log-sum-exp of each row, (n_rows,), nats, and turn `log_density` into weighted responsibilities."""
        n_rows, smallest = log_density.shape[1], plan.precision.smallest_log_resp
        if plan.compiled:
            log_likelihood: Floats = self._work.get("log_likelihood", (n_rows,))
            scratch = self._work.get("softmax", (2, n_rows), log_density.dtype.type)
            low = log_density.dtype.type(smallest)
            w = _NO_WEIGHTS if weights is None else weights
            _compiled().softmax(log_density, w, log_likelihood, scratch, low)
            return log_likelihood
        total = self._work.get("sum", (n_rows,), log_density.dtype.type)
        highest, total = softmax(log_density, total, smallest)
        log_density *= np.divide(1.0 if weights is None else weights, total, out=total, casting="same_kind")
        return np.asarray(highest, dtype=np.float64)

    def leave_out(self, plan: Plan, log_density: Floats, weights: Floats | None) -> tuple[Floats, ...]:
        """Return what `support.leave_out` does, of complete log-densities in double precision; they are overwritten."""
        if not plan.compiled:
            return leave_out(log_density, weights)
        n_components, n_rows = log_density.shape
        get = self._work.get
        log_likelihood, log_largest = get("log_likelihood", (n_rows,)), get("log_largest", (n_rows,))
        lost, resp_sums = np.empty((2, n_components))
        _compiled().leave_out(
            log_density, _NO_WEIGHTS if weights is None else weights, log_likelihood, log_largest,
            get("left_out", (3, n_rows)), get("top", (n_rows,), np.int64), DOUBLE.smallest_log_resp, lost, resp_sums,
        )  # fmt: skip
        return lost, resp_sums, log_likelihood, log_largest

    def add_in_one_call(self, plan: Plan, block: Block, total: Statistics, *, tiled: bool = False) -> None:
        """Add the block to the sums of a candidate: density, softmax and sums in one call of the compiled kernel.

        With `tiled` the block may be long, and the kernel cuts it into tiles itself.
        """
        dtype, kernel, n_features = plan.precision.dtype, _compiled(), len(self._x)
        get, length = self._work.get, tile_length(n_features) if tiled else self._x.shape[1]
        values, correction = total.compensated()
        x, origin, products, fill, *rest = self._compiled_arguments(plan, length)
        others = (
            *rest, _NO_WEIGHTS if block.weights is None else block.weights, get("log_likelihood", (length,)),
            get("softmax", (2, length), dtype), dtype(plan.precision.smallest_log_resp), values, correction,
        )  # fmt: skip
        if tiled:
            kernel.add_block(x, length, get("tile", (n_features * length,)), origin, products, *others)
        else:
            kernel.add_tile(x, origin, products, fill, *others)
        values[-1] += block.n_rows

    def labels(self, plan: Plan, log_density: NDArray[Any], out: NDArray[np.intp]) -> NDArray[Any]:
        """Write the component of the largest log-density of each row, (n_rows,), the first of equal ones.

        Return these largest ones, (n_rows,), a buffer.
        """
        highest: NDArray[Any] = self._work.get("highest", out.shape, log_density.dtype.type)
        if plan.compiled:
            _compiled().label(log_density, highest, out)
        else:
            np.argmax(log_density, axis=0, out=out)
            np.max(log_density, axis=0, out=highest)
        return highest

    def _compiled_arguments(self, plan: Plan, length: int) -> tuple[Any, ...]:
        """Return what the compiled kernel takes first, from the rows to the log-density, for tiles of `length` rows."""
        x, dtype, get = self._x, plan.precision.dtype, self._work.get
        n_phi = len(plan.transposed_parameters)
        products, fill = plan.shape.products(len(x)), True
        if products is None:
            phi, products, fill = self._shared_phi(plan), _NO_PRODUCTS, False
        elif n_phi > LONGEST_WHOLE_PHI:
            phi = get("panel", (PANEL, length), dtype)
        elif length < x.shape[1]:
            phi = get("phi", (n_phi, length), dtype)
        else:
            phi, fill = self._phi_buffer(plan)
        return (
            x, plan.origin, products, fill, plan.transposed_parameters, get("shifted", (len(x), length), dtype), phi,
            get("part", (plan.n_components * max(len(phi), length),), dtype),
            get("log_density", (plan.n_components, length), dtype),
        )  # fmt: skip

    def statistics(self, plan: Plan, resp: NDArray[Any], out: Floats) -> None:
        """Write the sums of each component, (n_components, n_statistics), for weighted responsibilities `resp`."""
        if plan.mostly_phi and plan.precision is DOUBLE:
            np.dot(resp, self._shared_phi(plan).T, out=out)
        elif plan.mostly_phi:
            out[...] = resp @ self._shared_phi(plan).T
        elif plan.any_phi:
            out[plan.by_phi] = resp[plan.by_phi] @ self._shared_phi(plan).T
        if plan.stack is not None:
            self._stacked_statistics(plan, plan.stack, resp, out)
        z = self._work.get("z", (len(plan.alone), *self._x.shape))
        for i, k in enumerate(plan.alone):
            self._own_statistics(plan, resp[k], out[k], partial(self._rows_of, z[i]))

    def _stacked_statistics(self, plan: Plan, stack: Stack, resp: NDArray[Any], out: Floats) -> None:
        n_features, n_rows = self._x.shape
        z = self._work.get("stacked", stack.z_shape(len(stack.components), n_rows))
        few = self._work.get("few", (PARTS * stack.height * n_rows,))
        if plan.compiled:
            second = self._work.get("second", (n_features, n_features))
            _compiled().exact_sums(z, stack.height, stack.components, resp, few, second, out)
            return
        for i, k in enumerate(stack.components):
            self._own_statistics(plan, resp[k], out[k], partial(stack.own, z, i, few))

    def _own_statistics(self, plan: Plan, resp: NDArray[Any], out: Floats, z_of: Callable[[Any], Floats]) -> None:
        """Write the sums of a component in the exact form; `z_of` gives z of some rows, or of all for None."""
        # Most responsibilities are exact zeros where features are many, and everywhere for a far outlier's own
        # component: the sums go over the other rows alone.
        rows = np.flatnonzero(resp)
        if not len(rows):
            out[:] = 0.0
            return
        few = rows if len(rows) <= len(resp) * FEW_ROWS else None
        z = z_of(few)
        own = np.asarray(resp if few is None else resp[few], dtype=np.float64)
        plan.shape.exact_statistics(z, own, out, self._work.get("scratch", z.shape))

    def _rows_of(self, z: Floats, rows: NDArray[np.intp] | None) -> Floats:
        if rows is None:
            return z
        few: Floats = np.take(z, rows, axis=1, out=self._work.get("few", (len(z), len(rows))), mode="clip")
        return few

    def _density_buffer(self, plan: Plan) -> NDArray[Any]:
        return self._work.get("log_density", (plan.n_components, self._x.shape[1]), plan.precision.dtype)

    def _by_phi(self, plan: Plan, result: NDArray[Any], *, complete: bool) -> None:
        phi = self._shared_phi(plan)
        if plan.mostly_phi:
            # Rows of exact components are written over: cheaper than gathering and scattering the others.
            np.dot(plan.natural_parameters, phi, out=result)
        else:
            result[plan.by_phi] = plan.natural_parameters[plan.by_phi] @ phi
        if complete:
            n_features = self._x.shape[0]
            scratch = self._work.get("scratch", self._x.shape)
            common = plan.shape.common_term(phi[-1 - n_features : -1], plan.precisions_cholesky, scratch)
            if common is not None:
                result += common

    def _exact(self, plan: Plan, result: NDArray[Any], *, keep_z: bool) -> None:
        if plan.stack is not None:
            self._stacked(plan, plan.stack, result, keep_z=keep_z)
        z = self._work.get("z", (len(plan.alone) if keep_z else 1, *self._x.shape))
        scratch = self._work.get("scratch", self._x.shape)
        for i, k in enumerate(plan.alone):
            z_k = z[i if keep_z else 0]
            precision_cholesky = plan.shape.component(plan.precisions_cholesky, k)
            plan.shape.standardise(self._x, plan.means[k], precision_cholesky, z_k, scratch)
            squared = np.einsum("dn,dn->n", z_k, z_k, out=self._work.get("squared", (self._x.shape[1],)))
            squared *= -0.5
            squared += plan.log_constants[k]
            result[k] = squared

    def _stacked(self, plan: Plan, stack: Stack, result: NDArray[Any], *, keep_z: bool) -> None:
        get, (n_features, n_rows), n = self._work.get, self._x.shape, len(stack.components)
        shifted, own = get("ones_and_shifted", (1 + n_features, n_rows)), get("own_density", (n, n_rows))
        shifted[0] = 1.0
        np.subtract(self._x, plan.origin[:, np.newaxis], out=shifted[1:])
        z = get("stacked", stack.z_shape(n if keep_z else min(n, GROUP), n_rows))
        if plan.compiled:
            _compiled().stacked_density(shifted, *stack.matrices, stack.log_constants, stack.height, GROUP, z, own)
        else:
            stack.log_density(shifted, z, own)
        result[stack.components] = own

    def _shared_phi(self, plan: Plan) -> NDArray[Any]:
        phi, fill = self._phi_buffer(plan)
        if fill:
            fill_phi(plan.shape, self._x, plan.origin, phi)
        return phi

    def _phi_buffer(self, plan: Plan) -> tuple[NDArray[Any], bool]:
        """Return the buffer for the Phi of a plan, and whether it must still be filled (and counts as filled now)."""
        key = (plan.shape, plan.precision.name, plan.origin.tobytes())
        fill = self._phi is None or self._phi_of != key
        if self._phi is None or fill:
            n_features, n_rows = self._x.shape
            n_phi = plan.shape.n_statistics(n_features, exact=False)
            self._phi, self._phi_of = self._work.get("phi", (n_phi, n_rows), plan.precision.dtype), key
        return self._phi, fill
