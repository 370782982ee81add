"""Rows with gaps against an oracle that looks at each row by itself: what it has, under the marginal of that."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm.kernels.block import GAP_TILE, Block, Workspace, tile_length
from daskgmm.kernels.estep import Densities, EStep
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.gap_bytes import derived_bytes, gap_bytes
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import SINGLE, Plan, make_plan
from daskgmm.kernels.sums import mean_shift, moments
from daskgmm.kernels.tile import buffer_bytes
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from tests.kernels.driving import KERNELS, KINDS
from tests.oracle import dense

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba is not installed"))]


class Oracle:
    """A mixture that sees each row's observed values alone, in as many digits as mpmath is told."""

    def __init__(self, p: Parameters, *, digits: int = 0) -> None:
        k, d = p.means.shape
        number = float if not digits else mpmath.mpf
        self.matrix = (lambda a: np.array(a, dtype=float)) if not digits else (lambda a: mpmath.matrix(a.tolist()))
        self.number, self.digits = number, digits
        factors = dense(p.family.shape.sklearn_type, p.precisions_cholesky, k, d)
        if digits:
            with mpmath.workdps(digits):
                factors = [mpmath.matrix(f.tolist()) for f in factors]
                self.covariances = [(f * f.T) ** -1 for f in factors]
        else:
            self.covariances = [np.linalg.inv(f @ f.T) for f in factors]
        self.weights, self.means = p.weights, p.means

    def row(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Return log-densities, (K,), the completed row and its covariance for each component, and the log-sum."""
        there = [int(j) for j in np.flatnonzero(~np.isnan(x))]
        gone = [int(j) for j in np.flatnonzero(np.isnan(x))]
        found = []
        for w, mean, cov in zip(self.weights, self.means, self.covariances, strict=True):
            if self.digits:
                with mpmath.workdps(self.digits):
                    found.append(self._mp(x, there, gone, w, mean, cov))
            else:
                found.append(self._np(x, there, gone, w, mean, cov))
        log_density = np.array([float(f[0]) for f in found])
        return log_density, [f[1] for f in found], [f[2] for f in found], np.logaddexp.reduce(log_density)

    def _np(self, x: Any, there: Any, gone: Any, w: float, mean: Any, cov: Any) -> Any:
        oo, mo, mm = cov[np.ix_(there, there)], cov[np.ix_(gone, there)], cov[np.ix_(gone, gone)]
        y = (x - mean)[there]
        _, log_det = np.linalg.slogdet(oo)
        inverse = np.linalg.inv(oo)
        full, within = x.copy(), np.zeros_like(cov)
        full[gone] = mean[gone] + mo @ inverse @ y
        within[np.ix_(gone, gone)] = mm - mo @ inverse @ mo.T
        return np.log(w) - 0.5 * (len(there) * np.log(2 * np.pi) + log_det + y @ inverse @ y), full, within

    def _mp(self, x: Any, there: Any, gone: Any, w: float, mean: Any, cov: Any) -> Any:
        oo = mpmath.matrix([[cov[i, j] for j in there] for i in there])
        y = mpmath.matrix([mpmath.mpf(x[i]) - mpmath.mpf(mean[i]) for i in there])
        q = (y.T * (oo**-1) * y)[0]
        log_det = mpmath.log(mpmath.det(oo))
        return mpmath.log(w) - (len(there) * mpmath.log(2 * mpmath.pi) + log_det + q) / 2, x, None


def mixture(kind: str, n_components: int, n_features: int, *, seed: int = 0, spread: float = 3.0) -> Parameters:
    """Return a mixture of correlated components."""
    random = np.random.default_rng(seed)
    a = random.standard_normal((n_components, n_features, 2 * n_features))
    full = a @ a.swapaxes(1, 2) / (2 * n_features)
    covariances = {
        "full": full, "tied": full[0], "diag": np.einsum("kii->ki", full), "spherical": np.einsum("kii->k", full),
    }[kind]  # fmt: skip
    weights = random.dirichlet(np.full(n_components, 5.0))
    means = spread * random.standard_normal((n_components, n_features))
    return Parameters.from_covariances(family_called(kind), weights, means, covariances)


def rows_of(p: Parameters, n_rows: int, share: float, *, seed: int = 1) -> np.ndarray:
    """Return rows near the components with a share of their values missing; one has none, and one all."""
    random = np.random.default_rng(seed)
    k = random.integers(p.n_components, size=n_rows)
    X = p.means[k] + random.standard_normal((n_rows, p.n_features))
    X[random.random(X.shape) < share] = np.nan
    X[0], X[1] = np.nan, 1.0
    return X


def block_of(X: np.ndarray, weights: np.ndarray | None = None) -> Block:
    """Return rows as a pass has them."""
    mask = np.isnan(X.T)
    empty = mask.all(axis=0)
    w = np.ones(len(X)) if weights is None else weights.copy()
    w[empty] = 0.0
    return Block(np.ascontiguousarray(np.where(mask, 7e7, X.T)), w, 0, non_finite=empty, gaps=mask)


def row_set_of(X: np.ndarray, w: np.ndarray) -> RowSet:
    there = ~np.isnan(X)
    each = w @ there
    total = w[there.any(axis=1)].sum()
    mean = (w @ np.where(there, X, 0.0)) / each
    scatter = w @ np.where(there, (X - mean) ** 2, 0.0)
    return RowSet(int(there.any(axis=1).sum()), total, mean, scatter * total / each, share=each / total)


def one_step(oracle: Oracle, X: np.ndarray, w: np.ndarray) -> tuple[float, Any, Any, Any]:
    """Return log-likelihood, counts, means and covariances (K, D, D) of an EM step, row by row."""
    k, d = oracle.means.shape
    total, counts, first, second = 0.0, np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    rows = [(x, v) for x, v in zip(X, w, strict=True) if not np.isnan(x).all()]
    for x, v in rows:
        log_density, full, within, log_sum = oracle.row(x)
        total += v * log_sum
        for j, r in enumerate(np.exp(log_density - log_sum)):
            y = full[j] - oracle.means[j]
            counts[j] += v * r
            first[j] += v * r * y
            second[j] += v * r * (np.outer(y, y) + within[j])
    shift = first / counts[:, np.newaxis]
    central = second / counts[:, np.newaxis, np.newaxis] - shift[:, :, np.newaxis] * shift[:, np.newaxis]
    return total, counts, oracle.means + shift, central


def plan_of(p: Parameters, row_set: RowSet, kernel: str = "rule", **how: Any) -> Plan:
    return make_plan(p, origin=row_set.mean, kernel=kernel, gaps=True, **how)


def pooled(kind: str, counts: Any, central: Any) -> Any:
    """Return covariances (K, D, D) in the shape of a kind."""
    diagonal = np.einsum("kii->ki", central)
    return {
        "full": central, "tied": np.tensordot(counts / counts.sum(), central, axes=1), "diag": diagonal,
        "spherical": diagonal.mean(axis=1),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_features", "share"), [(3, 0.3), (9, 0.1), (9, 0.7), (34, 0.06)])
def test_a_step_is_that_of_the_oracle(kind: str, kernel: str, n_features: int, share: float, compiled: bool) -> None:
    p = mixture(kind, 4, n_features)
    X = rows_of(p, 70, share)
    w = np.random.default_rng(3).integers(0, 3, size=len(X)).astype(float)
    row_set = row_set_of(X, w)
    plan = plan_of(p, row_set, kernel, compiled=compiled)
    work = EStep([plan])
    (found,) = work.finish(work.update(work.zero(), block_of(X, w)))
    total, counts, means, central = one_step(Oracle(p), X, w)
    assert found.log_sum == pytest.approx(total, rel=1e-11)
    assert found.weight == row_set.weight
    assert found.n_rows == row_set.n_rows
    got = moments(found, plan, row_set)
    assert_allclose(got.counts * got.mean_weight, counts, rtol=1e-9)
    assert_allclose(got.means, means, rtol=1e-9, atol=1e-9)
    assert_allclose(got.central, pooled(kind, counts, central), rtol=1e-8, atol=1e-9)
    shift, scale = mean_shift(found, plan, row_set)
    assert (np.abs(shift) <= 1e-12 * scale).all()


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_densities_and_conditional_means_are_the_oracles(kind: str, compiled: bool) -> None:
    p = mixture(kind, 5, 8, spread=1.0)
    X = rows_of(p, 60, 0.3)
    block, oracle = block_of(X), Oracle(p)
    for kernel in KERNELS:
        plan = make_plan(p, origin=p.weights @ p.means, kernel=kernel, compiled=compiled)
        densities = Densities.of(block, Workspace())
        log_density = densities.log_density(plan, keep_z=True, complete=True).copy()
        resp = np.exp(log_density - np.logaddexp.reduce(log_density))
        completed = np.empty((8, len(X)))
        densities.impute(plan, resp, completed)
        for i in range(1, len(X)):
            expected, full, _, log_sum = oracle.row(X[i])
            assert_allclose(log_density[:, i], expected, rtol=1e-11, atol=1e-11)
            assert_allclose(completed[:, i], np.exp(expected - log_sum) @ np.array(full), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("apart", [1e2, 1e5])
@pytest.mark.parametrize("kind", KINDS)
def test_filled_rows_that_are_far_away_cost_no_digits(kind: str, apart: float, offset: float) -> None:
    """The origin lies `apart` standard deviations from each component: so do the filled rows."""
    p = mixture(kind, 2, 4, spread=0.0)
    means = offset + np.array([[-apart] * 4, [apart] * 4])
    p = Parameters.from_covariances(p.family, np.array([0.5, 0.5]), means, p.covariances)
    X = rows_of(p, 12, 0.4)
    X[1] = np.nan
    X = X[~np.isnan(X).all(axis=1)]
    plan = make_plan(p, origin=p.weights @ p.means, gaps=True)
    densities = Densities.of(block_of(X), Workspace())
    found = densities.log_density(plan, complete=True)
    oracle = Oracle(p, digits=60)
    for i, x in enumerate(X):
        expected, _, _, _ = oracle.row(x)
        k = int(np.argmax(expected))
        assert found[k, i] == pytest.approx(expected[k], rel=1e-9, abs=1e-9)
        assert (found[1 - k, i] < expected[k] - 100) == (expected[1 - k] < expected[k] - 100)


def test_single_precision_is_good_to_its_promise() -> None:
    p = mixture("full", 4, 9)
    X = rows_of(p, 70, 0.1)
    row_set = row_set_of(X, np.ones(len(X)))
    work = EStep([plan_of(p, row_set, precision=SINGLE)])
    (found,) = work.finish(work.update(work.zero(), block_of(X)))
    total, _, _, _ = one_step(Oracle(p), X, np.ones(len(X)))
    assert found.log_sum / found.weight == pytest.approx(total / found.weight, abs=1e-3)


def test_rows_without_gaps_have_the_bits_that_they_have_without_the_option() -> None:
    p = mixture("full", 4, 9)
    X = p.means[np.zeros(500, dtype=int)] + np.random.default_rng(0).standard_normal((500, 9))
    block, origin = Block(np.ascontiguousarray(X.T), None, 0), X.mean(axis=0)
    sums = []
    for gaps in (False, True):
        plan = make_plan(p, origin=origin, gaps=gaps, compiled=can_compile())
        work = EStep([plan])
        (found,) = work.finish(work.update(work.zero(), block))
        sums.append(found.panel(4, plan.n_filled).tobytes())
    assert sums[0] == sums[1]


def test_rows_with_gaps_are_apart_with_all_that_is_theirs() -> None:
    """A pass over folds has the sums of one over the rows of each fold alone, wherever gaps are."""
    p, random = mixture("full", 3, 34), np.random.default_rng(5)
    length = 2 * tile_length(34) + 40
    X = p.means[random.integers(3, size=length)] + random.standard_normal((length, 34))
    X[(random.random(X.shape) < 0.1) & (random.random(length) < 0.1)[:, np.newaxis]] = np.nan
    w, fold = random.random(length), Fold(0, 3, 7)
    first_row = 1000
    kept = fold.mask(np.arange(first_row, first_row + length, dtype=np.uint64))
    plan = plan_of(p, row_set_of(X, w), compiled=can_compile())
    found = []
    for folds, rows, weights in (((fold,), X, w), (None, X[kept], w[kept])):
        work = EStep([plan], folds)
        (sums,) = work.finish(work.update(work.zero(), replace(block_of(rows, weights), first_row=first_row)))
        found.append(sums.values)
    assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
    whole, apart = block_of(X, w), list(block_of(X, w).by_gaps())
    assert [rows.gaps is None for rows in apart] == [True, False]
    assert apart[0].x.shape[1] == tile_length(34) * (int((~np.isnan(X).any(axis=1)).sum()) // tile_length(34)) > 0
    assert sum(rows.x.shape[1] for rows in apart) == length
    for rows in apart:
        assert rows.numbers is not None
        assert_array_equal(rows.x, whole.x[:, rows.numbers])


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("share", "spread"), [(0.05, 0.3), (0.4, 0.3), (0.05, 30.0)])
def test_many_tiles_have_the_sums_of_each_and_company_changes_no_bit(kernel: str, share: float, spread: float) -> None:
    """What compiled loops do for many tiles at once, few or many gaps, is what NumPy does tile by tile.

    With means far apart densities lose digits, and tiles are not done at once from the first on that has such.
    """
    p = mixture("full", 11, 34, spread=spread)
    means = np.where(np.arange(34) == 5, 0.0, p.means)
    p = Parameters.from_covariances(p.family, p.weights, means, p.covariances)
    X = rows_of(p, 3 * tile_length(34) + 40, share)
    X[2 : tile_length(34)] = p.means[0]
    X[2 : tile_length(34), 5] = np.nan
    w = np.random.default_rng(3).random(len(X))
    row_set = row_set_of(X, w)
    plans = [plan_of(each, row_set, kernel, compiled=True) for each in (p, mixture("full", 11, 34, seed=1))]
    plans.append(plan_of(p, row_set, kernel, compiled=False))  # (as a selection has them, for fewer components)
    alone = []
    for plan in plans:
        work = EStep([plan])
        (found,) = work.finish(work.update(work.zero(), block_of(X, w)))
        alone.append(found.values)
    assert_allclose(alone[0], alone[2], rtol=1e-9, atol=1e-9)
    for order in [0, 1, 2], [2, 0, 1], [2, 0]:
        work = EStep([plans[i] for i in order])
        found = work.finish(work.update(work.zero(), block_of(X, w)))
        assert [each.values.tobytes() for each in found] == [alone[i].tobytes() for i in order]


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
def test_candidates_of_one_plan_have_each_their_own_rows() -> None:
    p = mixture("full", 3, 6, spread=0.3)
    X = rows_of(p, 200, 0.2)
    row_set = row_set_of(X, np.ones(len(X)))
    plan, folds = plan_of(p, row_set, "phi", compiled=True), [Fold(i, 2, 0) for i in range(2)]
    work = EStep([plan, plan], folds)
    both = work.finish(work.update(work.zero(), block_of(X)))
    for fold, found in zip(folds, both, strict=True):
        work = EStep([plan], [fold])
        (alone,) = work.finish(work.update(work.zero(), block_of(X)))
        assert found.values.tobytes() == alone.values.tobytes()


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
def test_a_gain_that_is_no_number_is_the_largest_whatever_follows() -> None:
    from daskgmm.kernels.compiled_gaps import solve

    pulls = np.ones((1, 4, 8))
    pulls[0, 1, 2] = np.nan
    roots, found = np.ones((1, 2, 8)), [np.empty((8, 4)), np.empty((8, 4)), np.empty(8)]
    entries = np.moveaxis(np.tile(np.eye(2), (1, 8, 1, 1)), 1, -1).copy()
    solve(entries, roots, np.zeros((1, 2, 8)), pulls, np.arange(5), np.zeros(4, dtype=np.int64), *found)
    assert_array_equal(found[2], np.where(np.arange(8) == 2, np.nan, 1.0))


@pytest.mark.parametrize("compiled", COMPILED)
def test_what_gaps_take_is_no_more_than_is_said(compiled: bool) -> None:
    """Of rows that lack all values but one: their numbers for each component are most of it."""
    n_components, n_features, n_candidates = 100, 64, 2 if compiled else 1
    random = np.random.default_rng(0)
    X = np.full((GAP_TILE, n_features), np.nan)
    X[np.arange(len(X)), random.integers(n_features, size=len(X))] = random.standard_normal(len(X))
    row_set = row_set_of(X, np.ones(len(X)))
    means, matrices = random.standard_normal((n_components, n_features)), np.ones((n_components, n_features))
    p = Parameters.from_covariances(
        family_called("full"), np.full(n_components, 1 / n_components), means, matrices[:, :, None] * np.eye(n_features)
    )
    plans = [plan_of(p, row_set, "phi", compiled=compiled) for _ in range(2 * n_candidates)]
    if compiled:  # (what the compiler takes is none of it)
        few = EStep(plans[n_candidates:])
        few.update(few.zero(), block_of(X[:40]))
    work, block = EStep(plans[:n_candidates]), block_of(X)
    state, size = work.zero(), (p.family.shape, n_components, n_features)
    tracemalloc.start()
    try:
        work.update(state, block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = gap_bytes(*size, n_candidates=n_candidates) + n_candidates * derived_bytes(*size) + buffer_bytes(*size)
    assert said / 3 < peak < said
