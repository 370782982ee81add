"""The E-step on blocks: log-densities, responsibilities, and the statistics of a list of candidates.

Components first throughout (arrays of shape n_components x n_rows): every operation runs along the rows. With Phi the
two matrix products cost 4 N K F flops, F about D^2/2; the exact form costs the same flops in K narrow products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.kernels.block import GAP_TILE, Block, Workspace
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.forms import forms, one_call
from daskgmm.kernels.gap_forms import gap_form
from daskgmm.kernels.gap_rows import Gaps
from daskgmm.kernels.labels import LABELS, restrict
from daskgmm.kernels.loops import loops
from daskgmm.kernels.plan import DOUBLE, Plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.kernels.support import leave_out
from daskgmm.kernels.tile import Tile
from daskgmm.mixture.arrays import Floats

#: Log of the smallest responsibility, as a part of the largest, of rows with gaps whose sums are made: each costs as
#: much as a row, and what is less is lost in rounding.
NEGLIGIBLE = -46.0
_NO_WEIGHTS = np.empty(0)


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
        # (What gaps keep is told by the plan that it is of: each candidate has one of its own.)
        first = [next(i for i, one in enumerate(plans) if one is plan) for plan in plans]
        self.plans = tuple(plan if i == first[i] else replace(plan) for i, plan in enumerate(plans))
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

    @property
    def carried(self) -> tuple[Any, ...]:
        """Kernels that a user has given: workers must have their classes."""
        return tuple(plan.given[0] for plan in self.plans if plan.given is not None)

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
        for rows in block.by_gaps():
            self._add(state, rows)
        return state

    def _add(self, state: list[Statistics], block: Block) -> None:
        plan, work = self.plans[0], self.work
        whole = one_call(plan, block) if block.gaps is None else None
        if whole is not None and len(self.plans) == 1 and plan.shape.products(len(block.x)) is not None:
            # The same sums, tile by tile, but without the interpreter between.
            (own,) = rows_of_each(block, self.folds)
            whole.add(plan, Tile(block.x, work), own, state[0], tiled=True)
            return
        everyone = range(len(self.plans))
        if block.gaps is None:
            for tile in block.tiles():
                self._add_each(state, tile, everyone)
            return
        # (Loops and NumPy cut rows with gaps otherwise: a candidate is computed as it is alone, whatever others are.)
        by_loops = [i for i in everyone if self.plans[i].compiled]
        others = [i for i in everyone if not self.plans[i].compiled]
        for run in block.runs() if by_loops else ():
            if run.gaps is None:
                self._add_each(state, run, by_loops)
            else:
                self._add_run(state, run, Gaps(run.gaps, work), by_loops)
        for tile in block.tiles(at_least=GAP_TILE) if others else ():
            self._add_each(state, tile, others)

    def _each(
        self, state: list[Statistics], rows: Block, own: Sequence[int]
    ) -> Iterator[tuple[Plan, Block, Statistics]]:
        """Yield the plans of some candidates, by their numbers, each with its rows and its sums."""
        for i, each in zip(own, rows_of_each(rows, [self.folds[i] for i in own]), strict=True):
            yield self.plans[i], each, state[i]

    def _add_each(self, state: list[Statistics], tile: Block, own: Sequence[int]) -> None:
        """Add a tile to the sums of some candidates."""
        densities = Densities.of(tile, self.work)
        for plan, rows, total in self._each(state, tile, own):
            whole = one_call(plan, tile) if tile.gaps is None else None
            if whole is not None:
                whole.add(plan, densities, rows, total)
            else:
                _add_tile(plan, densities, rows, total)

    def _add_run(self, state: list[Statistics], run: Block, gaps: Gaps, own: Sequence[int]) -> None:
        """Add rows of which some lack values, by compiled loops: what gaps need is done for many tiles at once."""
        for i in own:
            gap_form(self.plans[i]).prepare(gaps, run.x)
        low = 0
        # (What candidates share is a tile.)
        for rows in (run,) if len(own) == 1 else run.tiles():
            high = low + rows.x.shape[1]
            part = gaps.part(low, high)
            densities = Densities(rows.x, self.work, rows.columns, part)
            for plan, each, total in self._each(state, rows, own):
                _add_with_gaps(plan, densities, part, each, total)
            low = high
        for i in own:
            gap_form(self.plans[i]).add_kept(gaps, *state[i].compensated())


def _add_with_gaps(plan: Plan, densities: Densities, gaps: Gaps, rows: Block, total: Statistics) -> None:
    """Add rows some of which lack values: tiles at once, and from where densities have lost digits on one by one."""
    done, n_rows, doubted = 0, rows.x.shape[1], gaps.whole.doubted
    whole, of_gaps = one_call(plan, rows), gap_form(plan).tiles(gaps) if id(plan) not in doubted else None
    if whole is not None and of_gaps is not None and plan.shape.products(len(rows.x)) is not None:
        gaps.fill(rows.x, plan.origin)
        done = whole.add_gaps(plan, densities, rows, total, of_gaps, max(plan.precision.smallest_log_resp, NEGLIGIBLE))
        if done < n_rows:
            doubted.add(id(plan))
    low = 0
    for tile in rows.tiles() if done < n_rows else ():
        high = low + tile.x.shape[1]
        if low >= done:
            alone = high - low == n_rows
            own = densities if alone else Densities(tile.x, densities.work, tile.columns, gaps.part(low, high))
            _add_tile(plan, own, tile, total)
        low = high


def _add_tile(plan: Plan, densities: Densities, tile: Block, total: Statistics) -> None:
    values = _tile_values(plan, densities, tile, densities.work)
    if plan.compiled:
        loops().add(*total.compensated(), values)
    else:
        total.add(values)


def rows_of_each(block: Block, folds: Sequence[Fold | None]) -> Iterator[Block]:
    """Yield the block as each candidate sees it; a fold is told apart once."""
    found: dict[Fold | None, Block] = {None: block}
    for fold in folds:
        if fold is not None and fold not in found:
            found[fold] = fold.of(block)
        yield found[fold]


def _tile_values(plan: Plan, densities: Densities, tile: Block, work: Workspace) -> Floats:
    values: Floats = work.get("values", (plan.n_values,))
    resp = densities.log_density(plan, keep_z=True, complete=plan.common_by_row)
    log_likelihood = densities.responsibilities(plan, resp, tile.weights)
    n_sums = plan.n_components * plan.n_statistics
    densities.statistics(plan, resp, values[:n_sums].reshape(plan.n_components, -1), values[n_sums:-3])
    total = log_likelihood.sum() if tile.weights is None else np.dot(log_likelihood, tile.weights)
    values[-3:] = float(total), tile.total_weight, tile.n_rows
    return values


class Densities(Tile):
    """Log-densities of the rows of one tile under any number of plans, which share Phi where they can."""

    @classmethod
    def of(cls, tile: Block, work: Workspace) -> Densities:
        """Return those of a tile, which is short; where it has gaps its x is written to."""
        return cls(tile.x, work, tile.columns, None if tile.gaps is None else Gaps(tile.gaps, work))

    def log_density(self, plan: Plan, *, keep_z: bool = False, complete: bool = False) -> NDArray[Any]:
        """Return log of weight times density, (n_densities, n_rows), nats: a buffer, valid until the next call.

        That of the noise is last. It has the dtype of the plan's precision.

        Parameters
        ----------
        plan : Plan
        keep_z : bool
            Whether `statistics` follows, so that kernels keep what both need (z of the exact form).
        complete : bool
            Whether to add the term that a tied mixture has in common; responsibilities do not need it, and the total
            log-likelihood only if the plan says so.
        """
        self.keeps, self.complete = keep_z, complete
        if self.gaps is not None:
            # (A density of fewer features has no term that all components have in common.)
            self.complete = True
            self.gaps.fill(self.x, plan.origin)
        result: NDArray[Any] = self.work.get("log_density", (plan.n_densities, self.x.shape[1]), plan.precision.dtype)
        of_components = result[: plan.n_components]
        for kernel, own in forms(plan):
            kernel.log_density(plan, own, self, of_components)
        if self.gaps is not None and len(self.gaps.rows):
            gap_form(plan).density(self.gaps, self.x, of_components, keep=keep_z)
        for k in plan.weightless:
            result[k] = -np.inf
        if plan.log_noise is not None:
            result[-1] = plan.log_noise
        if plan.classes is not None and LABELS in self.columns:
            restrict(result, self.columns[LABELS], plan.classes)
        return result

    def responsibilities(self, plan: Plan, log_density: NDArray[Any], weights: Floats | None) -> Floats:
        """Return log-sum-exp of each row, (n_rows,), nats, and turn `log_density` into weighted responsibilities."""
        n_rows, smallest = log_density.shape[1], plan.precision.smallest_log_resp
        if self.keeps and self.gaps is not None and len(self.gaps.rows):
            smallest = max(smallest, NEGLIGIBLE)
        if plan.compiled:
            log_likelihood: Floats = self.work.get("log_likelihood", (n_rows,))
            scratch = self.work.get("softmax", (2, n_rows), log_density.dtype.type)
            low = log_density.dtype.type(smallest)
            w = _NO_WEIGHTS if weights is None else weights
            loops().softmax(log_density, w, log_likelihood, scratch, low)
            return log_likelihood
        total = self.work.get("sum", (n_rows,), log_density.dtype.type)
        highest, total = softmax(log_density, total, smallest)
        log_density *= np.divide(1.0 if weights is None else weights, total, out=total, casting="same_kind")
        return np.asarray(highest, dtype=np.float64)

    def leave_out(self, plan: Plan, log_density: Floats, weights: Floats | None) -> tuple[Floats, ...]:
        """Return what `support.leave_out` does, of complete log-densities in double precision; they are overwritten."""
        n_components, n_rows = log_density.shape
        if not plan.compiled:
            lost, resp_sums, *of_rows = leave_out(log_density, weights)
            return lost[: plan.n_components], resp_sums[: plan.n_components], *of_rows
        get = self.work.get
        log_likelihood, log_largest = get("log_likelihood", (n_rows,)), get("log_largest", (n_rows,))
        entropy = get("entropy", (n_rows,))
        lost, resp_sums = np.empty((2, n_components))
        loops().leave_out(
            log_density, _NO_WEIGHTS if weights is None else weights, log_likelihood, log_largest, entropy,
            get("left_out", (3, n_rows)), get("top", (n_rows,), np.int64), DOUBLE.smallest_log_resp, lost, resp_sums,
        )  # fmt: skip
        return lost[: plan.n_components], resp_sums[: plan.n_components], log_likelihood, log_largest, entropy

    def labels(self, plan: Plan, log_density: NDArray[Any], out: NDArray[np.intp]) -> NDArray[Any]:
        """Write the component of the largest log-density of each row, (n_rows,), the first of equal ones.

        That of the noise is n_components.

        Return these largest ones, (n_rows,), a buffer.
        """
        highest: NDArray[Any] = self.work.get("highest", out.shape, log_density.dtype.type)
        if plan.compiled:
            loops().label(log_density, highest, out)
        else:
            np.argmax(log_density, axis=0, out=out)
            np.max(log_density, axis=0, out=highest)
        return highest

    def statistics(self, plan: Plan, resp: NDArray[Any], out: Floats, filled: Floats | None = None) -> None:
        """Write the sums of each component, (n_components, n_statistics), for weighted responsibilities `resp`.

        Of a plan for rows with gaps, `filled` gets what now stands in them: see `GapForm.sums`.
        """
        if filled is not None:
            filled[:] = 0.0
        gaps = self.gaps if self.gaps is not None and len(self.gaps.rows) else None
        whole = resp = resp[: plan.n_components]
        if gaps is not None and not all(kernel.about_origin for kernel, _ in forms(plan)):
            # (Rows with gaps are summed completed, and not corrected, where sums are in units of a component.)
            whole = resp.copy()
            whole[:, gaps.rows] = 0.0
        for kernel, own in forms(plan):
            kernel.sums(plan, own, self, resp if kernel.about_origin else whole, out)
        if gaps is not None and filled is not None:
            gap_form(plan).sums(gaps, self.x, resp, out, filled)

    def impute(self, plan: Plan, resp: Floats, out: Floats) -> None:
        """Write the rows with the means of their gaps given the rest, (n_features, n_rows), for responsibilities."""
        out[...] = self.x
        if self.gaps is not None and len(self.gaps.rows):
            gap_form(plan).complete(self.gaps, self.x, resp, out)
