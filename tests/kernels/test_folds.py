"""Folds: equal parts of the rows by their numbers, and passes over one of them as if there were no other rows."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep, rows_of_each
from daskgmm.kernels.folds import Fold, FoldPass, fold_of, row_hash
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.score import ScorePass
from tests import oracle
from tests.kernels.driving import KINDS, blocks_of, one_pass, oracle_of, parameters_of
from tests.strategies import LAWS, make_case

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba is not installed"))]


def numbers(n_rows: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n_rows, dtype=np.uint64)


# -- which rows ----------------------------------------------------------------------------------------------------
@LAWS
@given(n_rows=st.integers(1, 500), n_folds=st.integers(2, 10), seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 500))
def test_folds_part_the_rows_whatever_the_blocks(n_rows: int, n_folds: int, seed: int, cut: int) -> None:
    cut = min(cut, n_rows)
    rows = numbers(n_rows, first=2**33)
    held = np.array([Fold(i, n_folds, seed, held_out=True).mask(rows) for i in range(n_folds)])
    assert_array_equal(held.sum(axis=0), np.ones(n_rows))
    for i in range(n_folds):
        assert_array_equal(Fold(i, n_folds, seed).mask(rows), ~held[i])
        halves = [Fold(i, n_folds, seed, held_out=True).mask(part) for part in (rows[:cut], rows[cut:])]
        assert_array_equal(np.concatenate(halves), held[i])


@pytest.mark.parametrize("n_folds", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_folds_have_nearly_equal_sizes_and_no_period(n_folds: int, seed: int) -> None:
    of_row = fold_of(numbers(50_000), n_folds, seed)
    spread = np.sqrt(50_000 * (n_folds - 1)) / n_folds
    assert np.abs(np.bincount(of_row, minlength=n_folds) - 50_000 / n_folds).max() < 5 * spread
    for period in (2, 3, 7, 4096):
        table = np.zeros((period, n_folds))
        np.add.at(table, (np.arange(50_000) % period, of_row), 1)
        expected = np.bincount(np.arange(50_000) % period, minlength=period)[:, np.newaxis] / n_folds
        chi_squared, freedom = ((table - expected) ** 2 / expected).sum(), period * (n_folds - 1)
        assert abs(chi_squared - freedom) < 6 * np.sqrt(2 * freedom)


def test_folds_cut_through_a_sample_of_the_same_seed() -> None:
    """A sample holds the rows of the smallest hashes; a fold of the same hash would be in it or out of it."""
    rows = numbers(50_000)
    for n_folds in (2, 5):
        sampled = rows[row_hash(rows, 3) < np.uint64(2**64 // 10)]
        counts = np.bincount(fold_of(sampled, n_folds, 3), minlength=n_folds)
        assert np.abs(counts - len(sampled) / n_folds).max() < 5 * np.sqrt(len(sampled) / n_folds)
        shuffled_first = np.argsort(row_hash(rows, 4))[:5000]
        counts = np.bincount(fold_of(shuffled_first.astype(np.uint64), n_folds, 3), minlength=n_folds)
        assert np.abs(counts - 5000 / n_folds).max() < 5 * np.sqrt(5000 / n_folds)


def test_another_seed_makes_other_folds_and_the_folds_of_a_seed_are_fixed_forever() -> None:
    agree = fold_of(numbers(10_000), 5, 0) == fold_of(numbers(10_000), 5, 1)
    assert abs(agree.mean() - 0.2) < 0.02
    assert fold_of(numbers(8), 5, 0).tolist() == [4, 4, 1, 2, 0, 3, 0, 0]


# -- a block -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
def test_a_block_of_a_fold_counts_its_rows_alone(held_out: bool, weighted: bool, dropping: bool) -> None:
    n, first = 200, 1_000_003
    rng = np.random.default_rng(0)
    x, dropped = rng.standard_normal((2, n)), None
    weights = rng.uniform(0.5, 2, n) if weighted or dropping else None
    if weighted:
        weights[::7] = 0.0  # rows of weight 0 count as rows
    if dropping:
        dropped = rng.uniform(size=n) < 0.2
        x[:, dropped], weights[dropped] = 0.0, 0.0
    block = Block(x, weights, first, dropped)
    before = x.copy(), None if weights is None else weights.copy()
    fold = Fold(1, 3, 5, held_out)
    own = fold.of(block)
    inside = np.array([fold_of(numbers(1, first + i), 3, 5)[0] == 1 for i in range(n)]) == held_out
    assert own.x is x
    assert own.first_row == first
    assert_array_equal(own.weights, [(1.0 if weights is None else weights[i]) * inside[i] for i in range(n)])
    counted = inside if dropped is None else inside & ~dropped
    assert_array_equal(~own.dropped, counted)
    assert own.n_rows == counted.sum() > 0
    assert own.total_weight == pytest.approx(np.sum((np.ones(n) if weights is None else weights)[inside]), rel=1e-13)
    assert_array_equal(x, before[0])
    assert weights is None or (weights == before[1]).all()
    both = own, replace(fold, held_out=not held_out).of(block)
    assert sum(b.n_rows for b in both) == block.n_rows
    assert sum(b.total_weight for b in both) == pytest.approx(block.total_weight, rel=1e-13)


def test_a_fold_of_a_block_is_told_apart_once() -> None:
    (block,) = blocks_of(np.zeros((10, 1)))
    a, b = Fold(0, 2, 0), Fold(1, 2, 0)
    seen = list(rows_of_each(block, [None, a, b, a, Fold(0, 2, 0), None]))
    assert seen[0] is seen[5] is block
    assert seen[1] is seen[3] is seen[4]
    assert seen[2] is not seen[1]


# -- passes --------------------------------------------------------------------------------------------------------
def in_fold(X: np.ndarray, weights: np.ndarray | None, fold: Fold) -> tuple[np.ndarray, np.ndarray | None]:
    kept = fold.mask(numbers(len(X)))
    return X[kept], None if weights is None else weights[kept]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["phi", "exact"])
@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("weighted", [False, True])
def test_passes_over_a_fold_are_those_over_its_rows_alone(
    kind: str, kernel: str, compiled: bool, weighted: bool
) -> None:
    case = make_case(kind, seed=1, n_rows=700, n_components=3, n_features=3)
    weights = np.random.default_rng(2).integers(0, 3, 700).astype(float) if weighted else None
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel=kernel, compiled=compiled)
    folds = [Fold(1, 3, 0), None, Fold(1, 3, 0, held_out=True)]
    for make in (EStep, ScorePass):
        work, blocks = make([plan] * 3, folds), blocks_of(case.X, weights, [0, 1, 300, 700])
        found = work.zero()
        for block in blocks:
            found = work.update(found, block)
        for fold, statistics in zip(folds, work.finish(found), strict=True):
            X, w = (case.X, weights) if fold is None else in_fold(case.X, weights, fold)
            alone = make([plan])
            (expected,) = alone.finish(alone.update(alone.zero(), blocks_of(X, w)[0]))
            assert_allclose(statistics.values, expected.values, rtol=1e-11, atol=1e-11 * np.abs(expected.values).max())
            assert statistics.n_rows == len(X)
            assert statistics.weight == (len(X) if w is None else w.sum())
            one = make([plan], [fold])  # alone it may take another way through the kernel
            state = one.zero()
            for block in blocks:
                state = one.update(state, block)
            assert_array_equal(one.finish(state)[0].values, statistics.values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_likelihood_of_a_fold_is_the_oracles(kind: str) -> None:
    case = make_case(kind, seed=3, n_rows=300, n_components=2, n_features=2)
    parameters = parameters_of(case)
    fold = Fold(2, 4, 7, held_out=True)
    work = ScorePass([make_plan(parameters, origin=case.X.mean(axis=0))], [fold])
    (found,) = work.finish(work.update(work.zero(), blocks_of(case.X)[0]))
    X, _ = in_fold(case.X, None, fold)
    assert found.log_sum == pytest.approx(float(oracle.log_likelihood(X, oracle_of(parameters))), rel=1e-12)


def test_a_fold_without_rows_in_a_block_adds_nothing() -> None:
    case = make_case("full", seed=1, n_rows=1, n_components=2, n_features=2)
    plan = make_plan(parameters_of(case), origin=np.zeros(2))
    own = int(fold_of(numbers(1), 5, 0)[0])
    work = EStep([plan, plan], [Fold(own, 5, 0), Fold(own, 5, 0, held_out=True)])
    none, all_of_it = work.finish(work.update(work.zero(), blocks_of(case.X)[0]))
    assert not none.values.any()
    assert_allclose(all_of_it.values, one_pass(case.X, [plan])[0].values, rtol=1e-13)


def test_a_fold_pass_is_another_pass_over_the_rows_of_the_fold() -> None:
    case = make_case("diag", seed=1, n_rows=400, n_components=2, n_features=2)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    fold = Fold(0, 3, 1)
    work = pickle.loads(pickle.dumps(FoldPass(EStep([plan]), fold)))
    assert work.fold == fold
    expected = EStep([plan], [fold])
    states = [work.finish(work.update(work.zero(), b)) for b in blocks_of(case.X, cuts=[0, 150, 400])]
    others = [expected.finish(expected.update(expected.zero(), b)) for b in blocks_of(case.X, cuts=[0, 150, 400])]
    assert_array_equal(work.merge(*states)[0].values, expected.merge(*others)[0].values)


def test_passes_with_folds_travel() -> None:
    case = make_case("full", seed=1, n_rows=200, n_components=2, n_features=2)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    folds = [Fold(0, 2, 3), None]
    for work in (EStep([plan] * 2, folds), ScorePass([plan] * 2, folds)):
        copy = pickle.loads(pickle.dumps(work))
        assert copy.folds == tuple(folds)
        (block,) = blocks_of(case.X)
        for a, b in zip(copy.update(copy.zero(), block), work.update(work.zero(), block), strict=True):
            assert_array_equal(a.values, b.values)
