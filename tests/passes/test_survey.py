"""The survey: what is known of the rows after one pass, however they are cut, and the seeded sample."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm.kernels.block import Block
from daskgmm.kernels.folds import fold_of, row_hash
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import Survey, SurveyPass, all_but, sample_threshold
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.passes.test_tree import CountingExecutor, Pieces
from tests.strategies import LAWS

EVERY_ROW = sample_threshold(1, 1)


def survey_of(
    X: np.ndarray, weights: Any = None, *, step: int = 10**9, with_scatter: bool = True, seed: int = 0,
    threshold: int = -1,
) -> Survey:  # fmt: skip
    """Return the survey of the rows in partitions of `step` rows."""
    source = Pieces(X, step)
    rows = Rows(source, None if weights is None else open_rows(weights), source.chunk_edges)
    work = SurveyPass(source.n_features, with_scatter, seed, threshold)
    return run_pass(work, rows, CountingExecutor(), name="s")


def expected_moments(X: np.ndarray, weights: Any = None) -> tuple[Any, Any, Any]:
    """Return weight, mean and scatter in longdouble, by two plain loops."""
    X = oracle.exactly(X)
    w = X[:, 0] * 0 + 1 if weights is None else oracle.exactly(weights)
    mean = sum(wi * x for wi, x in zip(w, X, strict=True)) / w.sum()
    scatter = sum(wi * np.outer(x - mean, x - mean) for wi, x in zip(w, X, strict=True))
    return w.sum(), mean, scatter


def same_numbers(a: Survey, b: Survey, *, rtol: float = 1e-12) -> None:
    scale = np.abs(b.scatter).max()
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=rtol * np.abs(b.maximum).max())
    assert a.weight == pytest.approx(b.weight, rel=rtol)
    for name in "minimum", "maximum":
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in "n_rows", "n_dropped", "first_dropped", "n_bad_weights", "first_bad_weight":
        assert getattr(a, name) == getattr(b, name), name
    assert a.n_spoiled.tolist() == b.n_spoiled.tolist()


def joined(survey: Survey, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample and its weights as one array each."""
    assert len(survey.sample) <= 1, "one piece when the pass is over"
    return np.concatenate([np.empty((0, n_features)), *survey.sample]), np.concatenate([[], *survey.sample_weights])


X = np.random.default_rng(7).standard_normal((20_000, 3)) * [1, 100, 1e-3] + [5, -3e3, 0]


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("step", [20_000, 7000, 100])
def test_moments_equal_the_oracles(offset: float, weighted: bool, step: int) -> None:
    rows = (X / [1, 100, 1e-3] + offset)[:10_000]
    weights = np.random.default_rng(1).uniform(0, 3, 10_000) if weighted else None
    weight, mean, scatter = expected_moments(rows, weights)
    found = survey_of(rows, weights, step=step)
    assert found.weight == pytest.approx(float(weight), rel=1e-14)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-14, atol=1e-14)
    # What is lost to the offset is the rounding of the parts' means, 1.5e-8 at 1e8, over the root of n_rows.
    atol = float(scatter.max()) * (1e-13 if offset == 0 else 2e-9)
    np.testing.assert_allclose(found.scatter, scatter.astype(float), rtol=1e-12, atol=atol)
    diagonal = survey_of(rows, weights, step=step, with_scatter=False)
    np.testing.assert_allclose(diagonal.scatter, np.diagonal(scatter).astype(float), rtol=1e-12, atol=atol)
    np.testing.assert_allclose(found.row_set.variances, (np.diagonal(scatter) / weight).astype(float), rtol=2e-9)
    assert found.row_set.weight == found.weight
    np.testing.assert_array_equal(found.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=0))
    assert (found.n_rows, found.n_dropped, found.first_dropped) == (10_000, 0, -1)
    assert (found.n_bad_weights, found.first_bad_weight) == (0, -1)


@pytest.mark.parametrize("value", [0.1, 1e8 / 3, -7.7e-300, 1e150])
@pytest.mark.parametrize("weights", [None, np.linspace(0.1, 3, 10_000)])
@pytest.mark.parametrize("step", [10_000, 999, 1])
def test_a_constant_column_has_no_scatter_at_all(value: float, weights: Any, step: int) -> None:
    n_rows = 10_000 if step > 1 else 50
    rows = np.column_stack([np.full(n_rows, value), np.arange(n_rows)])
    found = survey_of(rows, None if weights is None else weights[:n_rows], step=step)
    assert found.mean[0] == value
    assert found.scatter[0].tolist() == [0.0, 0.0]
    assert found.row_set.variances[0] == 0
    assert found.row_set.variances[1] > 0


@LAWS
@given(
    n_rows=st.integers(1, 300), n_features=st.integers(1, 3), step=st.integers(1, 300), seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 1e6]), weighted=st.booleans(), bad=st.booleans(),
)  # fmt: skip
def test_any_cut_gives_the_same_survey(
    n_rows: int, n_features: int, step: int, seed: int, offset: float, weighted: bool, bad: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_rows, n_features)) + offset
    if bad and n_rows > 1:
        rows[rng.integers(1, n_rows, 2), 0] = np.nan
    weights = rng.integers(0, 3, n_rows).astype(float) + (0.5 if n_rows < 3 else 0) if weighted else None
    whole = survey_of(rows, weights, threshold=EVERY_ROW // 2)
    parts = survey_of(rows, weights, step=step, threshold=EVERY_ROW // 2)
    same_numbers(parts, whole, rtol=1e-9 if offset else 1e-12)
    for a, b in zip(joined(parts, n_features), joined(whole, n_features), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pass_travels_and_keeps_its_buffers_to_itself() -> None:
    work = SurveyPass(3, True, 0, 5)
    work.update(work.zero(), Block(np.ascontiguousarray(X[:100].T), None, 0))
    again = pickle.loads(pickle.dumps(work))
    assert again == work
    assert len(pickle.dumps(work)) == len(pickle.dumps(SurveyPass(3, True, 0, 5))) < 200


def test_no_rows_are_neutral() -> None:
    work = SurveyPass(3, True, 0, EVERY_ROW)
    some = survey_of(X[:100], np.arange(100.0), threshold=EVERY_ROW)
    for merged in work.merge(work.zero(), some), work.merge(some, work.zero()):
        for field in fields(Survey):
            found, right = getattr(merged, field.name), getattr(some, field.name)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(right), err_msg=field.name)


def test_integer_weights_are_repetition_and_weight_zero_is_absence() -> None:
    counts = np.random.default_rng(3).integers(0, 4, 1000)
    weighted, repeated = survey_of(X[:1000], counts, step=99), survey_of(np.repeat(X[:1000], counts, axis=0))
    assert weighted.weight == repeated.weight == counts.sum()
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(weighted.scatter, repeated.scatter, rtol=1e-10, atol=1e-9)


def test_partitions_of_weight_zero_change_nothing() -> None:
    weights = np.ones(1000)
    weights[:300] = 0
    weights[600:700] = 0
    found, right = survey_of(X[:1000], weights, step=100), survey_of(X[:1000][weights > 0])
    np.testing.assert_allclose(found.mean, right.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.scatter, right.scatter, rtol=1e-11, atol=1e-10)
    assert found.weight == 600
    assert survey_of(X[:10], np.zeros(10), step=3).weight == 0


# -- what is wrong with the rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [10_000, 1000, 7])
def test_dropped_rows_are_counted_and_the_first_is_named(step: int) -> None:
    rows = X[:10_000].copy()
    rows[[4095, 4096, 9000], [0, 1, 2]] = [np.nan, np.inf, -np.inf]
    found = survey_of(rows, step=step, threshold=EVERY_ROW)
    assert (found.n_rows, found.n_dropped, found.first_dropped) == (9997, 3, 4095)
    kept = rows[np.isfinite(rows).all(axis=1)]
    _, mean, scatter = expected_moments(kept)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-13)
    np.testing.assert_allclose(found.scatter, scatter.astype(float), rtol=1e-11, atol=1e-9)
    np.testing.assert_array_equal(found.minimum, kept.min(axis=0))
    np.testing.assert_array_equal(found.maximum, kept.max(axis=0))
    np.testing.assert_array_equal(joined(found, 3)[0], kept)


@pytest.mark.parametrize("step", [10_000, 999])
def test_dropped_rows_are_counted_by_feature(step: int) -> None:
    """A row counts for each feature that holds a NaN or an infinity, whatever the cut; weights spoil nothing."""
    random, rows = np.random.default_rng(3), X[:10_000].copy()
    bad = random.random(rows.shape) < [0.3, 1e-3, 0]
    rows[bad] = random.choice([np.nan, np.inf, -np.inf], bad.sum())
    for weights in (None, random.random(10_000)):
        found = survey_of(rows, weights, step=step)
        assert found.n_spoiled.tolist() == bad.sum(axis=0).tolist()
        assert found.n_dropped == bad.any(axis=1).sum() < bad.sum()


def test_rows_of_nothing_but_nan() -> None:
    found = survey_of(np.full((5000, 2), np.nan), step=999, threshold=EVERY_ROW)
    assert (found.n_rows, found.n_dropped, found.first_dropped, found.weight) == (0, 5000, 0, 0.0)
    assert found.n_spoiled.tolist() == [5000, 5000]
    assert len(joined(found, 2)[0]) == 0


@pytest.mark.parametrize("value", [-1e-9, -1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [10_000, 1000])
def test_bad_weights_are_counted_and_the_first_is_named(value: float, step: int) -> None:
    weights = np.ones(10_000)
    weights[[5000, 5001, 9999]] = value
    found = survey_of(X[:10_000], weights, step=step)
    assert (found.n_bad_weights, found.first_bad_weight) == (3, 5000)
    assert found.n_rows == 10_000
    assert found.n_dropped == 0


def test_weights_of_dropped_rows_are_not_judged() -> None:
    rows, weights = X[:100].copy(), np.ones(100)
    rows[40], weights[40] = np.nan, -1
    found = survey_of(rows, weights, step=30)
    assert (found.n_bad_weights, found.n_dropped, found.weight) == (0, 1, 99)


# -- the sample ----------------------------------------------------------------------------------------------------


def rows_in_sample(n_rows: int, n_sample: int, seed: int) -> np.ndarray:
    chosen = row_hash(np.arange(n_rows, dtype=np.uint64), seed) <= np.uint64(sample_threshold(n_rows, n_sample))
    return np.flatnonzero(chosen)


@pytest.mark.parametrize("step", [20_000, 6000, 333])
@pytest.mark.parametrize("weighted", [False, True])
def test_sample_is_the_same_rows_in_order_whatever_the_cut(step: int, weighted: bool) -> None:
    weights = np.arange(20_000.0) % 3 if weighted else None
    found = survey_of(X, weights, step=step, seed=5, threshold=sample_threshold(20_000, 1000))
    expected = rows_in_sample(20_000, 1000, seed=5)
    w = np.ones(20_000) if weights is None else weights
    expected = expected[w[expected] > 0]
    rows, row_weights = joined(found, 3)
    np.testing.assert_array_equal(rows, X[expected])
    np.testing.assert_array_equal(row_weights, w[expected])


def test_sample_of_a_store_is_the_same_for_every_chunking_and_scheduler(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = SurveyPass(3, False, 11, sample_threshold(20_000, 500))
    found = []
    for chunk in 700, 4096:
        zarr.create_array(tmp_path / f"{chunk}.zarr", data=X, chunks=(chunk, 3))
        for partition_bytes in 10_000, 200_000:
            monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", partition_bytes)
            rows = Rows.plan(open_rows(tmp_path / f"{chunk}.zarr"), None)
            assert rows.n_partitions > 1
            with dask.config.set(scheduler="threads"):
                found.append(run_pass(work, rows, LocalExecutor(), name="s"))
    found.append(run_pass(work, rows, ClientExecutor(client), name="s"))
    dask_rows = Rows.plan(open_rows(da.from_array(X, chunks=(1234, 2))), None)
    found.append(run_pass(work, dask_rows, LocalExecutor(), name="s"))
    expected = X[rows_in_sample(20_000, 500, seed=11)]
    for survey in found:
        np.testing.assert_array_equal(joined(survey, 3)[0], expected)


@LAWS
@given(n_rows=st.integers(1, 200_000), n_sample=st.integers(1, 30_000), seed=st.integers(0, 2**32 - 1))
def test_sample_has_about_the_number_of_rows_asked_for(n_rows: int, n_sample: int, seed: int) -> None:
    found = rows_in_sample(n_rows, n_sample, seed)
    if n_sample >= n_rows:
        assert len(found) == n_rows, "all of them where they are few"
    else:
        spread = np.sqrt(n_sample * (1 - n_sample / n_rows))
        assert abs(len(found) - n_sample) <= 6 * spread + 1


def test_sample_takes_no_sides() -> None:
    """Rows of a sample are neither periodic nor crowded, and samples of two seeds share no more than chance has it."""
    one, two = (rows_in_sample(200_000, 20_000, seed) for seed in (0, 1))
    for period in 2, 7, 4096:
        counts = np.bincount(one % period, minlength=period)
        expected = 20_000 / period
        chi_squared = ((counts - expected) ** 2 / expected).sum() / 0.9  # drawn without replacement
        assert abs(chi_squared - (period - 1)) < 5 * np.sqrt(2 * period)
    assert abs(len(np.intersect1d(one, two)) - 2000) < 5 * np.sqrt(2000)
    assert not np.array_equal(one, two)
    gaps = np.diff(one)
    assert gaps.mean() == pytest.approx(10, rel=0.05)
    assert (gaps == 1).mean() == pytest.approx(0.1, rel=0.1)


def test_threshold_of_no_sample_takes_none() -> None:
    for step in 5000, 999:
        rows, weights = joined(survey_of(X[:5000], step=step, threshold=-1), 3)
        assert len(rows) == len(weights) == 0


def test_hash_is_fixed_forever() -> None:
    """The rows of a seed are part of a result: a changed hash is a changed result."""
    rows = np.array([0, 1, 2**40], dtype=np.uint64)
    assert row_hash(rows, 0).tolist() == [11427443927115849577, 4835369656235245081, 4136751971839247356]
    assert len(np.unique(row_hash(np.arange(100_000, dtype=np.uint64), 3))) == 100_000


def test_rows_beyond_32_bits_are_told_apart() -> None:
    """A block far into a large input samples by its rows' global numbers."""
    work = SurveyPass(1, False, 0, sample_threshold(10, 5))
    x = np.arange(4096.0)[np.newaxis]
    near = work.update(work.zero(), Block(x, None, 0)).sample[0]
    far = work.update(work.zero(), Block(x, None, 2**33)).sample[0]
    assert 0.4 < len(far) / 4096 < 0.6
    assert not np.array_equal(near, far)


# -- the folds -----------------------------------------------------------------------------------------------------


def surveyed_folds(
    X: np.ndarray, weights: Any = None, *, n_folds: int = 3, step: int = 10**9, with_scatter: bool = True
) -> tuple[SurveyPass, Survey]:
    source = Pieces(X, step)
    rows = Rows(source, None if weights is None else open_rows(weights), source.chunk_edges)
    work = SurveyPass(source.n_features, with_scatter, 4, EVERY_ROW, n_folds)
    return work, run_pass(work, rows, CountingExecutor(), name="s")


def assert_describes(found: Survey, rows: np.ndarray, weights: Any = None) -> None:
    """Hold a survey against the oracle's moments of finite rows."""
    weight, mean, scatter = expected_moments(rows, weights)
    scatter = scatter if found.scatter.ndim == 2 else np.diagonal(scatter)
    assert found.n_rows == len(rows)
    assert found.weight == pytest.approx(float(weight), rel=1e-13)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-12, atol=1e-12)
    scale = float(np.abs(scatter).max())
    np.testing.assert_allclose(found.scatter, scatter.astype(float), rtol=1e-11, atol=1e-12 * scale)
    np.testing.assert_array_equal(found.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=0))
    assert found.sample == found.sample_weights == found.sample_rows == ()


@pytest.mark.parametrize("step", [2000, 777, 10])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_scatter", [False, True])
def test_each_fold_and_what_it_leaves_are_surveyed_too(step: int, weighted: bool, with_scatter: bool) -> None:
    rows = X[:2000] / [1, 100, 1e-3]
    rows[[5, 1000, 1001], 1] = np.nan
    weights = np.random.default_rng(1).integers(0, 3, 2000) * 0.5 if weighted else None
    work, found = surveyed_folds(rows, weights, step=step, with_scatter=with_scatter)
    of_row, finite = fold_of(np.arange(2000, dtype=np.uint64), 3, 4), np.isfinite(rows).all(axis=1)
    assert len(found.folds) == 3
    for i, survey in enumerate(found.folds):
        inside, outside = finite & (of_row == i), finite & (of_row != i)
        assert_describes(survey, rows[inside], None if weights is None else weights[inside])
        assert_describes(all_but(work, found, i), rows[outside], None if weights is None else weights[outside])
    assert sum(s.n_rows for s in found.folds) == found.n_rows == 1997
    assert sum(s.weight for s in found.folds) == pytest.approx(found.weight, rel=1e-13)
    assert (found.n_dropped, found.first_dropped) == (3, 5)


def test_folds_change_nothing_of_the_survey_itself() -> None:
    weights = np.random.default_rng(1).uniform(0, 3, 2000)
    (_, none), (_, some) = (surveyed_folds(X[:2000], weights, n_folds=n, step=300) for n in (0, 5))
    assert none.folds == ()
    for field in fields(Survey):
        if field.name != "folds":
            found, right = getattr(some, field.name), getattr(none, field.name)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(right), err_msg=field.name)


@settings(LAWS, max_examples=15)
@given(n_rows=st.integers(1, 60), step=st.integers(1, 60), n_folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_any_cut_gives_the_same_folds(n_rows: int, step: int, n_folds: int, seed: int) -> None:
    """Folds without rows in a part, or without any, included; and dropped rows and weights of 0."""
    rng = np.random.default_rng(seed)
    rows, weights = rng.standard_normal((n_rows, 2)), rng.integers(0, 3, n_rows).astype(float)
    rows[rng.integers(0, n_rows), 0] = np.inf
    (_, whole), (_, parts) = (surveyed_folds(rows, weights, n_folds=n_folds, step=s) for s in (10**9, step))
    for a, b in zip(parts.folds, whole.folds, strict=True):
        if b.weight > 0:
            same_numbers(a, b)
        else:  # rows that weigh nothing have no mean
            assert (a.n_rows, a.weight, a.scatter.any()) == (b.n_rows, 0, False)


def test_merging_folds_is_associative_and_no_rows_are_neutral() -> None:
    work = SurveyPass(3, True, 4, -1, 3)
    blocks = [Block(np.ascontiguousarray(X[a:b].T), None, a) for a, b in ((0, 5), (5, 300), (300, 301))]
    a, b, c = (work.update(work.zero(), block) for block in blocks)
    left, right = work.merge(work.merge(a, b), c), work.merge(a, work.merge(b, c))
    for i in range(3):
        same_numbers(left.folds[i], right.folds[i])
        same_numbers(work.merge(work.zero(), left).folds[i], left.folds[i])
        same_numbers(work.merge(left, work.zero()).folds[i], left.folds[i])
    again = pickle.loads(pickle.dumps(work))
    assert again == work
    assert len(again.zero().folds) == 3


@pytest.mark.parametrize("fold", [0, 1])
def test_what_one_of_two_folds_leaves_is_the_other(fold: int) -> None:
    work, found = surveyed_folds(X[:500], n_folds=2, step=100)
    assert all_but(work, found, fold) is found.folds[1 - fold]


def test_bad_weights_are_found_with_folds_too() -> None:
    weights = np.ones(1000)
    weights[[500, 700]] = -1
    _, found = surveyed_folds(X[:1000], weights, step=100)
    assert (found.n_bad_weights, found.first_bad_weight) == (2, 500)
    assert sum(s.n_bad_weights for s in found.folds) == 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("step", [10_000, 777])
def test_variances_have_the_same_bits_with_the_products_and_without(weighted: bool, step: int) -> None:
    weights = np.random.default_rng(1).uniform(0, 2, 10_000) if weighted else None
    some, all_of_it = (survey_of(X[:10_000], weights, step=step, with_scatter=s) for s in (False, True))
    np.testing.assert_array_equal(some.row_set.variances, all_of_it.row_set.variances)
    np.testing.assert_array_equal(some.mean, all_of_it.mean)
