"""The sample in memory: smaller ones lie within larger ones, its order is nobody's, and passes over it are passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm.fitting import sample as sample_module
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import Sample, own_error, race_size, sample_size
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.plan import make_plan
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass, sample_threshold
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from tests.fitting.driving import KINDS, given_start
from tests.kernels.driving import one_pass, parameters_of, row_set_of
from tests.passes.test_tree import CountingExecutor, Pieces
from tests.strategies import make_case

X = np.random.default_rng(0).standard_normal((5000, 2))
W = np.random.default_rng(1).integers(0, 3, 5000).astype(float)


def sample_of(threshold: int, *, seed: int = 0, step: int = 700, weights: Any = W) -> Sample:
    source = Pieces(X, step)
    rows = Rows(source, None if weights is None else open_rows(weights), source.chunk_edges)
    return Sample.of(run_pass(SurveyPass(2, False, seed, threshold), rows, CountingExecutor(), name="s"), seed)


def assert_same(a: Sample, b: Sample) -> None:
    assert a.seed == b.seed
    for name in ("X", "weights", "rows"):
        assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_the_optimum_of_a_sample_lies_below_that_of_all_rows_by_its_own_error() -> None:
    """One component, whose optimum is mean and covariance, and whose mean log-likelihood needs no more."""
    rng, n, n_all, d = np.random.default_rng(0), 400, 2000, 4
    lost = []
    for _ in range(400):
        rows = rng.standard_normal((n_all, d))
        mean, covariance = rows.mean(axis=0), np.cov(rows.T, bias=True)
        theirs, own = rows[:n].mean(axis=0), np.cov(rows[:n].T, bias=True)
        about = covariance + np.outer(mean - theirs, mean - theirs)
        logs = np.linalg.slogdet(own)[1] - np.linalg.slogdet(covariance)[1]
        lost.append((logs + np.trace(np.linalg.solve(own, about)) - d) / 2)
    # (Of 15 numbers the one weight is no free one. What is lost is 2 % from its mean by chance, and 4 % above p / 2n.)
    stated = own_error(FitOptions(n_components=1), d, n, n_all)
    assert stated * 14 / 15 == pytest.approx(np.mean(lost), rel=0.08)


# -- which rows ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [10, 500, 2500, 5000])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_smaller_sample_is_the_part_within_a_larger_one(n: int, seed: int) -> None:
    threshold = sample_threshold(5000, n)
    large, small = sample_of(sample_threshold(5000, 5000), seed=seed), sample_of(threshold, seed=seed, step=5000)
    assert_same(large.within(threshold), small)
    assert_same(large.within(threshold).within(threshold), small)


def test_a_sample_knows_its_rows_by_number() -> None:
    found = sample_of(sample_threshold(5000, 1000))
    assert 500 < len(found) < 800, "a third of the rows weigh nothing"
    assert np.all(np.diff(found.rows.astype(int)) > 0)
    assert_array_equal(found.X, X[found.rows])
    assert_array_equal(found.weights, W[found.rows])
    assert np.all(found.weights > 0)


def test_a_sample_of_no_rows_has_their_width() -> None:
    found = sample_of(-1)
    assert (found.X.shape, found.weights.shape, found.rows.shape, found.rows.dtype) == ((0, 2), (0,), (0,), np.uint64)
    assert len(found.shuffled()) == len(found.outside(Fold(0, 2, 0))) == 0


def test_shuffled_is_a_permutation_that_does_not_depend_on_the_order_before() -> None:
    found = sample_of(sample_threshold(5000, 2000))
    shuffled = found.shuffled()
    order = np.argsort(shuffled.rows)
    for name in ("X", "weights", "rows"):
        assert_array_equal(getattr(shuffled, name)[order], getattr(found, name))
    backwards = Sample(found.X[::-1], found.weights[::-1], found.rows[::-1], found.seed)
    assert_same(backwards.shuffled(), shuffled)
    assert_same(shuffled.shuffled(), shuffled)
    ranks = np.argsort(order)
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 4 / np.sqrt(len(ranks)), "no trace of the old order"
    other = sample_of(sample_threshold(5000, 5000), seed=1).shuffled()
    assert abs(np.corrcoef(np.argsort(np.argsort(other.rows)), np.arange(len(other)))[0, 1]) < 4 / np.sqrt(len(other))


def test_the_first_rows_of_a_shuffled_sample_are_no_smaller_sample_of_the_same_hash() -> None:
    """Else all stages of a race would see the rows of the smallest hashes first, which `within` takes too."""
    shuffled = sample_of(sample_threshold(5000, 5000), weights=None).shuffled()
    threshold = sample_threshold(5000, 500)
    among_first = len(shuffled.part(0, 1000).within(threshold))
    assert 60 < among_first < 140


def test_a_part_is_a_view_of_neighbours() -> None:
    found = sample_of(sample_threshold(5000, 2000)).shuffled()
    part = found.part(10, 30)
    assert len(part) == 20
    assert np.shares_memory(part.X, found.X)
    assert_array_equal(part.rows, found.rows[10:30])
    assert len(found.part(10, 10**9)) == len(found) - 10


def test_outside_of_a_fold_are_its_rows_no_more() -> None:
    found = sample_of(sample_threshold(5000, 2000))
    assert found.outside(None) is found
    left = [found.outside(Fold(i, 3, 7)) for i in range(3)]
    for i, part in enumerate(left):
        assert_array_equal(part.rows, found.rows[Fold(i, 3, 7).mask(found.rows)])
        assert_array_equal(part.X, X[part.rows])
    assert sum(len(found) - len(part) for part in left) == len(found)
    assert_same(found.outside(Fold(0, 3, 7)).within(2**62), found.within(2**62).outside(Fold(0, 3, 7)))


# -- passes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_tasks", [False, True])
def test_passes_over_a_sample_are_those_over_an_array(
    kind: str, weighted: bool, in_tasks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_tasks:
        monkeypatch.setattr(sample_module, "_TASK_FLOPS", 1.0)
    case = make_case(kind, seed=1, n_rows=9000, n_components=3, n_features=5)
    weights = np.random.default_rng(2).uniform(0.5, 2, 9000) if weighted else np.ones(9000)
    sample = Sample(case.X, weights, np.arange(9000, dtype=np.uint64), 0)
    options = FitOptions(n_components=3, covariance_type=kind)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    with sample.passes(options) as passes:
        assert passes.rows.n_partitions == (5 if in_tasks else 1)
        assert (passes.rows.weights is None) == (not weighted)
        (found,) = passes.run(EStep([plan]), name="em")
        row_set = sample.row_set(passes, options)
    (right,) = one_pass(case.X, [plan], weights if weighted else None)
    assert_allclose(found.values, right.values, rtol=1e-11, atol=1e-11 * np.abs(right.values).max())
    expected = row_set_of(case.X, weights)
    assert (row_set.n_rows, row_set.weight) == (9000, pytest.approx(weights.sum(), rel=1e-13))
    assert_allclose(row_set.mean, expected.mean, rtol=1e-12, atol=1e-12)
    assert (row_set.scatter.ndim == 2) == (kind == "tied")
    scatter = row_set.scatter if row_set.scatter.ndim == 2 else np.diag(row_set.scatter)
    mask = np.ones((5, 5)) if row_set.scatter.ndim == 2 else np.eye(5)
    assert_allclose(scatter, expected.scatter * mask, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("n_rows", [1, 8191, 8192, 8193, 200_000])
def test_tasks_of_a_sample_are_few_and_cover_it(n_rows: int) -> None:
    """Tasks are whole tiles, at most eight, and a matter of rows and model alone."""
    sample = Sample(np.zeros((n_rows, 8)), np.ones(n_rows), np.arange(n_rows, dtype=np.uint64), 0)
    with sample.passes(FitOptions(n_components=50)) as passes:
        edges = passes.rows.edges
    assert (edges[0], edges[-1]) == (0, n_rows)
    assert np.all(np.diff(edges) > 0)
    assert len(edges) <= 9
    assert np.all(edges[:-1] % 1024 == 0)
    assert len(edges) - 1 == {1: 1, 8191: 4, 8192: 4, 8193: 5, 200_000: 8}[n_rows]


# -- how many rows -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n_rows", "n_features", "options", "raced", "sampled"),
    [
        (1000, 2, {"n_components": 3}, 1000, 1000),  # all, where they are few
        (10**5, 2, {"n_components": 3}, 20_000, 20_000),
        (10**6, 2, {"n_components": 3}, 20_000, 20_000),
        (10**6, 16, {"n_components": 32}, 25_000, 250_000),  # two visits to each row of 80; a quarter
        (10**5, 16, {"n_components": 32, "tol": 1e-6}, 20_196, 25_000),  # two visits to each row: 2,500; 3.3 * 20 p / D
        (10**7, 4, {"n_components": 10, "tol": 1e-3, "covariance_type": "diag"}, 45_000, 45_000),  # p / (2 tol), p = 90
        (10**7, 4, {"n_components": 10, "tol": 1e-3, "covariance_type": "spherical"}, 30_000, 30_000),
        (10**7, 4, {"n_components": 10, "tol": 1e-3, "covariance_type": "tied"}, 30_000, 30_000),
        (10**7, 4, {"n_components": 10, "tol": 1e-3, "covariance_type": "full"}, 75_000, 75_000),
        (10**6, 4, {"n_components": 10, "tol": 1e-3, "covariance_type": "full"}, 25_000, 75_000),
        (10**9, 16, {"n_components": 32, "tol": 1e-3}, 524_288, 524_288),  # 64 MiB
        (10**6, 4, {"n_components": 10, "tol": 0}, 25_000, 250_000),
        (10**7, 4, {"n_components": 10, "tol": 1e-3, "start_rows": 5000}, 5000, 5000),
        (10**6, 16, {"n_components": 32, "start_rows": 100_000}, 25_000, 100_000),
        (100, 4, {"n_components": 10, "start_rows": 5000}, 100, 100),
        (10**5, 4, {"n_components": 10, "start_rows": 10**5}, 10**5, 10**5),  # all, where they are asked for
        (10**9, 4, {"n_components": 10, "start_rows": 10**9}, 2**21, 2**21),  # as far as 64 MiB hold them
        (10**9, 10**6, {"n_components": 10}, 100, 100),  # ten a component, whatever the bytes
        (10**9, 2, {"n_components": 3, "init_params": "k-means||"}, 0, 0),
    ],
)
def test_bounds_of_the_sample_and_of_the_race(
    n_rows: int, n_features: int, options: dict[str, Any], raced: int, sampled: int
) -> None:
    found = FitOptions(**options)
    assert race_size(found, n_rows, n_features) == raced
    assert sample_size(found, n_rows, n_features) == sampled


@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_where_the_start_is_given(kind: str) -> None:
    assert (
        sample_size(FitOptions(**given_start(make_case(kind, seed=0, n_rows=9, n_components=2, n_features=2))), 9, 2)
        == 0
    )
