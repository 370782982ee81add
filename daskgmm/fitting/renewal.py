"""Where an update begins: with the mixture of the old rows, or with a component of it that a new group needs more.

New rows may form a group that no component explains, and EM would stretch the nearest to it. The number of components
stays; so two old ones become one, at the cost that Runnalls' bound tells of their moments, and the one that is free
goes where new rows are that the mixture explains worst. EM on the sample settles it, and the free energy of all rows
says whether that was better.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.evaluate import Evaluator, RowSets
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample
from daskgmm.fitting.start import moments_of
from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.estep import Densities
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.support import price, thin_gain
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.merging import costs, merged
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import maximise
from daskgmm.mixture.record import Record

#: Shares of the sample, of its rows that the mixture explains worst, among which a new group is looked for.
_WORST = (0.5, 0.2, 0.05, 0.01)
#: Pairs of components that cost least as one, and places of new groups that gain most: each is tried with each.
_PAIRS, _PLACES = 3, 2
#: Passes over the sample that settle a proposal.
_PASSES = 12


def renewed(
    parameters: Parameters, old: OldRows, sample: Sample, options: FitOptions, *, weight: float, n_rows: int,
    compiled: bool,
) -> list[Record]:  # fmt: skip
    """Return where EM on new rows begins, Parameters, and the old rows as they then are, OldRows; nothing is read.

    Both are as they were where no move gains more than what BIC asks for a component, and `tol` a row.

    Parameters
    ----------
    parameters : Parameters
        Of the old rows.
    old : OldRows
    sample : Sample
        Of the new rows.
    weight, n_rows : float, int
        Sum of the weights of all new rows, and those of positive weight.
    """
    p, now = parameters, old
    if p.n_components == 1 or not len(sample):
        return [p, now]
    search = _Search(sample, options, share=float(sample.weights.sum()) / weight, compiled=compiled)
    least = max(options.tol * weight, price(p, n_rows) * weight / n_rows)
    for _ in range(p.n_components):
        (current,) = search.settled([(p, now)])
        if current.status.is_lost:
            break
        proposed = list(search.proposals(current.parameters, now))
        children = search.settled([(child, rows) for child, rows, _ in proposed])
        gains = [
            -np.inf if c.status.is_lost else search.gain(c, current, rows.freed[-1]) * weight
            for c, (_, rows, _) in zip(children, proposed, strict=True)
        ]
        if not gains or max(gains) <= least:
            break
        best = int(np.argmax(gains))
        p, now = children[best].parameters, proposed[best][1]
    return [p, now]


class _Search:
    """EM and proposals on the sample of the new rows."""

    def __init__(self, sample: Sample, options: FitOptions, *, share: float, compiled: bool) -> None:
        self._sample, self._options, self._share, self._compiled = sample, options, share, compiled

    def settled(self, starts: list[tuple[Parameters, OldRows]]) -> list[Candidate]:
        """Return candidates after some EM on the sample, against which their old rows weigh as against all new ones."""
        candidates = [
            Candidate.start(i, p, replace(self._options, prior=old.scaled(self._share)), compiled=self._compiled)
            for i, (p, old) in enumerate(starts)
        ]
        with self._sample.passes(self._options) as passes:
            row_sets: RowSets = {None: self._sample.row_set(passes, self._options)}
            run = Evaluator(passes).statistics
            return run_em(candidates, run, row_sets, n_passes=_PASSES, after_pass=lambda _: None)

    def gain(self, child: Candidate, before: Candidate, k: int) -> float:
        """Return what a proposal gains, nats a new row, without what component k owes to the floor alone.

        Minus infinity where it has fewer rows than its covariance needs.
        """
        p, w = child.parameters, self._sample.weights
        log_density, _ = _looked(p, self._sample.X)
        resp = np.exp(log_density[k] - _log_sum(log_density))
        if resp.sum() < p.family.least_rows(p.n_features):
            return -np.inf
        owed = thin_gain(p, self._options.whole_prior.floor)[k] * float(resp @ w) / float(w.sum())
        return child.lower_bound - before.lower_bound - float(owed)

    def proposals(self, p: Parameters, old: OldRows) -> Iterator[tuple[Parameters, OldRows, int]]:
        """Yield mixtures in which two components are one and that which is free has new rows, and the old rows then."""
        found = self._places(p)
        if found is None:
            return
        places, shares = found
        new = float(self._sample.weights.sum()) / self._share
        share_of_new = new / (new + float(old.counts.sum()))
        cost = costs(p)
        for pair in np.argsort(cost, axis=None, kind="stable")[:_PAIRS]:
            i, j = (int(k) for k in np.unravel_index(pair, cost.shape))
            if not np.isfinite(cost[i, j]):
                return
            i, j = (j, i) if p.weights[j] > p.weights[i] else (i, j)
            both = merged(p, np.array([[i, j]]))
            if both is None:
                continue
            for m in range(places.n_components):
                weights, means, covariances = p.weights.copy(), p.means.copy(), p.covariances.copy()
                weights[i], means[i], means[j] = both.weights[0], both.means[0], places.means[m]
                p.shape.put(covariances, i, p.shape.component(both.covariances, 0))
                p.shape.put(covariances, j, p.shape.component(places.covariances, m))
                own = shares[m] * share_of_new
                weights *= 1 - own
                weights[j] = own
                child = Parameters.from_covariances(p.family, weights / weights.sum(), means, covariances)
                yield child, old.joined(p.shape, i, j), m

    def _places(self, p: Parameters) -> tuple[Parameters, Floats] | None:
        """Return components for the new rows that a mixture explains worst, and their shares of the new rows.

        Those that would gain most beside it; None where none gains.
        """
        X, w = self._sample.X, self._sample.weights
        log_density, completed = _looked(p, X)
        now = _log_sum(log_density)
        # (A density of fewer values is another thing: rows are compared as the mixture completes them.)
        likely = now if completed is X else _log_sum(_looked(p, completed)[0])
        members = list(_members(X, likely, least=max(8, 2 * p.family.least_rows(p.n_features))))
        if not members:
            return None
        weights, means = np.empty(len(members)), np.empty((len(members), p.n_features))
        covariances = p.shape.subset(p.covariances, np.zeros(len(members), dtype=np.intp)).copy()
        prior, some = replace(self._options, prior=None).whole_prior, []
        for m, rows in enumerate(members):
            whole = X if completed is X else _filled(X, completed, w, rows)
            moments = moments_of(whole, [(rows, w[rows])], p.shape, np.random.RandomState(0))
            try:
                one = maximise(moments, p.family, previous=p.shape.subset(p.covariances, [0]), prior=prior)
            except CollapsedComponentError:
                continue
            some.append(m)
            weights[m], means[m] = w[rows].sum() / w.sum(), one.means[0]
            p.shape.put(covariances, m, p.shape.component(one.covariances, 0))
        if not some:
            return None
        every = Parameters.from_covariances(
            p.family, np.full(len(some), 1.0), means[some], p.shape.subset(covariances, some)
        )
        log_own, _ = _looked(every, X)
        a = weights[some][:, np.newaxis]
        gains = (np.logaddexp(np.log1p(-a) + now, np.log(a) + log_own) - now) @ w
        best = [int(m) for m in np.argsort(-gains, kind="stable")[:_PLACES] if gains[m] > 0]
        if not best:
            return None
        return every.subset(best), weights[some][best]


def _members(X: Floats, log_likelihood: Floats, *, least: int) -> Iterator[NDArray[np.int64]]:
    """Yield sets of rows that may be a group: of those that are explained worst, the half that is nearest to one.

    Rows that lack values are as near as those which both have tell.
    """
    order = np.argsort(log_likelihood, kind="stable")
    for share in _WORST:
        worst = order[: int(share * len(X))]
        if len(worst) < 2 * least:
            return
        some = X[worst]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # (a feature of which none has a value)
            scale = np.sqrt(some.var(axis=0) if not np.isnan(some).any() else np.nanvar(some, axis=0))
        y = some / np.where(scale > 0, scale, 1.0)
        for centre in (0, len(worst) // 2):
            distances = _distances(y, y[centre])
            yield np.sort(worst[np.argsort(distances, kind="stable")[: len(worst) // 2]]).astype(np.int64)


def _distances(y: Floats, centre: Floats) -> Floats:
    """Return the squared distance of each row to another, of what both have, as of all features; infinite of none."""
    away, both = np.square(y - centre), ~np.isnan(y) & ~np.isnan(centre)
    if both.all():
        found: Floats = away.sum(axis=1)
        return found
    n_both = both.sum(axis=1)
    sums = np.where(both, away, 0.0).sum(axis=1)
    return np.where(n_both > 0, sums * (y.shape[1] / np.maximum(n_both, 1)), np.inf)


def _filled(X: Floats, completed: Floats, w: Floats, rows: NDArray[np.int64]) -> Floats:
    """Return rows of which some have the mean of the others of them where a value is missing, (n_rows, n_features).

    Where all of them lack it, they have what the mixture says.
    """
    gaps, v = np.isnan(X[rows]), w[rows]
    weights = v @ ~gaps
    means = v @ np.where(gaps, 0.0, X[rows]) / np.where(weights > 0, weights, 1.0)
    found = completed.copy()
    found[rows] = np.where(gaps, np.where(weights > 0, means, completed[rows]), X[rows])
    return found


def _looked(p: Parameters, X: Floats) -> tuple[Floats, Floats]:
    """Return log of weight times density of rows, (n_components, n_rows), nats; and the rows.

    In these the means of missing values, given the rest, take their places; where none is missing they are X itself.
    """
    missing = np.isnan(X)
    gaps = np.ascontiguousarray(missing.T) if missing.any() else None
    plan = make_plan(p, origin=X.mean(axis=0) if gaps is None else p.weights @ p.means)
    found, completed, work = np.empty((p.n_components, len(X))), X if gaps is None else np.empty_like(X), Workspace()
    for tile in Block(np.ascontiguousarray(X.T), None, 0, gaps=gaps).tiles():
        own, densities = slice(tile.first_row, tile.first_row + tile.x.shape[1]), Densities.of(tile, work)
        log_density = densities.log_density(plan, keep_z=gaps is not None, complete=True)
        found[:, own] = log_density
        if gaps is not None:
            resp = np.exp(found[:, own] - _log_sum(found[:, own]))
            densities.impute(plan, resp, completed[own].T)
    return found, completed


def _log_sum(log_density: Floats) -> Floats:
    result: Floats = np.logaddexp.reduce(log_density, axis=0)
    return result
