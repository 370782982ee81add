"""Rounds of k-means||: the rows that sorting all keys gives, however they are cut; and what lies nearest to each."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.kernels.block import Block
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.far_rows import Centres, FarRows, FarRowsPass, Nearest, NearestPass, uniform
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from tests.passes.test_tree import CountingExecutor, Pieces
from tests.strategies import LAWS

random = np.random.default_rng(11)
X = random.standard_normal((5000, 3)) * [1, 100, 1e-3] + [5, -3e3, 0]
WEIGHTS = random.integers(0, 4, len(X)).astype(float)


def centres_of(rows: Any, points: Any = None) -> Centres:
    """Return centres, the mean if none are given, in units of the standard deviations of the finite rows."""
    rows = np.asarray(rows, dtype=float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    mean = rows[0] + (rows - rows[0]).mean(axis=0)  # exact where a feature is constant
    return Centres(mean[np.newaxis] if points is None else np.asarray(points), mean, (rows - mean).var(axis=0))


def run(work: Any, rows: Any, weights: Any = None, *, step: int = 10**9) -> Any:
    """Return the state of a pass over the rows in partitions of `step` rows."""
    source = Pieces(rows, step)
    return run_pass(
        work,
        Rows(source, None if weights is None else open_rows(weights), source.chunk_edges),
        CountingExecutor(),
        name="p",
    )


def squared_distances(rows: Any, centres: Centres) -> Any:
    """Return squared distances from each row to each centre, (n_rows, n_centres), slowly and obviously."""
    scales = np.sqrt(np.where(centres.variances > 0, centres.variances, 1.0))
    scaled, points = (rows - centres.mean) / scales, (centres.points - centres.mean) / scales
    return sum(np.square(scaled[:, [j]] - points[:, j]) for j in range(scaled.shape[1]))


def expected_rows(rows: Any, weights: Any, work: FarRowsPass) -> Any:
    """Return the numbers of the rows that a round takes, by sorting the keys of all rows, and their cost."""
    rows = np.asarray(rows, dtype=float)
    numbers = np.arange(len(rows))
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
    w = np.where(np.isfinite(rows).all(axis=1), w, 0.0)
    cost = w * squared_distances(np.where(w[:, None] > 0, rows, 0.0), work.centres).min(axis=1)
    u = uniform(numbers.astype(np.uint64), work.seed)
    keys = {i: np.log(u[i]) / cost[i] for i in numbers if cost[i] > 0}
    return sorted(keys, key=lambda i: (-keys[i], i))[: work.n_taken], cost.sum()


def same_rows(a: FarRows, b: FarRows) -> None:
    """Check that two rounds took exactly the same rows, with the same bits."""
    for name in "keys", "numbers", "points":
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.n_rows == b.n_rows
    assert a.weight == pytest.approx(b.weight, rel=1e-12)
    assert a.cost == pytest.approx(b.cost, rel=1e-9)


# -- the rows that a round takes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("n_centres", [1, 40])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("step", [5000, 700])
def test_a_round_takes_the_rows_of_the_largest_keys(n_centres: int, weighted: bool, dropped: bool, step: int) -> None:
    rows, weights = X.copy(), WEIGHTS if weighted else None
    if dropped:
        rows[[0, 77, 4999], [0, 1, 2]] = [np.nan, np.inf, -np.inf]
    work = FarRowsPass(centres_of(rows, None if n_centres == 1 else X[100:140]), 26, seed=3)
    found = run(work, rows, weights, step=step)
    numbers, cost = expected_rows(rows, weights, work)
    assert found.numbers.tolist() == numbers
    np.testing.assert_array_equal(found.points, rows[numbers])
    assert np.all(np.diff(found.keys) <= 0)
    kept = np.isfinite(rows).all(axis=1)
    w = WEIGHTS if weighted else np.ones(len(X))
    assert (found.n_rows, found.weight) == (np.count_nonzero(w[kept]), w[kept].sum())
    assert found.cost == pytest.approx(cost, rel=1e-12)


@LAWS
@given(
    n_rows=st.integers(2, 300), n_features=st.integers(1, 4), step=st.integers(1, 300), seed=st.integers(0, 99),
    n_taken=st.integers(1, 60), offset=st.sampled_from([0.0, 1e8]), weighted=st.booleans(),
    decimals=st.sampled_from([1, 15]), dtype=st.sampled_from(["f4", "f8"]), bad=st.booleans(),
)  # fmt: skip
def test_any_cut_takes_exactly_the_same_rows(
    n_rows: int, n_features: int, step: int, seed: int, n_taken: int, offset: float, weighted: bool, decimals: int,
    dtype: str, bad: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    rows = (np.round(rng.standard_normal((n_rows, n_features)), decimals) + offset).astype(dtype)
    if bad:
        rows[rng.integers(1, n_rows, 2), 0] = np.nan
    weights = rng.integers(0, 3, n_rows).astype(float) if weighted else None
    centres = centres_of(rows, rows[:1].astype(float) if seed % 2 else None)
    work = FarRowsPass(centres, n_taken, seed)
    whole = run(work, rows, weights)
    same_rows(run(work, rows, weights, step=step), whole)
    assert whole.numbers.tolist() == expected_rows(rows, weights, work)[0]


def test_the_same_rows_of_any_store_chunking_and_scheduler(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = FarRowsPass(centres_of(X, X[:30]), 20, seed=1)
    near, found = NearestPass(work.centres), []
    for chunk in 300, 2048:
        zarr.create_array(tmp_path / f"{chunk}.zarr", data=X, chunks=(chunk, 3))
        for partition_bytes in 10_000, 70_000:
            monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", partition_bytes)
            rows = Rows.plan(open_rows(tmp_path / f"{chunk}.zarr"), None)
            assert rows.n_partitions > 1
            with dask.config.set(scheduler="threads"):
                found.append((run_pass(work, rows, LocalExecutor(), name="f"), rows))
    found.append((run_pass(work, rows, ClientExecutor(client), name="f"), rows))
    dask_rows = Rows.plan(open_rows(da.from_array(X, chunks=(1234, 2))), None)
    found.append((run_pass(work, dask_rows, LocalExecutor(), name="f"), dask_rows))
    whole = run(work, X)
    for state, _ in found:
        same_rows(state, whole)
    there = run_pass(near, rows, ClientExecutor(client), name="n")
    with dask.config.set(scheduler="threads"):
        here = run_pass(near, rows, LocalExecutor(), name="n")
    for name in "weights", "first", "second":
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


def test_merging_takes_no_order_and_no_rows_are_neutral() -> None:
    work = FarRowsPass(centres_of(X), 26, seed=3)
    one, two, three = (
        work.update(work.zero(), Block(np.ascontiguousarray(X[low : low + 1000].T), WEIGHTS[low : low + 1000], low))
        for low in (0, 1000, 2000)
    )
    whole = run(work, X[:3000], WEIGHTS[:3000])
    for merged in (
        work.merge(work.merge(one, two), three), work.merge(one, work.merge(two, three)),
        work.merge(work.merge(three, one), two),
    ):  # fmt: skip
        same_rows(merged, whole)
    for merged in work.merge(one, work.zero()), work.merge(work.zero(), one):
        same_rows(merged, one)


def test_rows_with_equal_keys_are_taken_in_order() -> None:
    work = FarRowsPass(centres_of(X), 2, seed=0)
    keys, points = np.array([-1.0]), np.zeros((1, 3))
    states = [FarRows(keys, np.array([i], dtype=np.uint64), points, 1.0, 1.0, 1) for i in (7, 3, 5)]
    for order in [0, 1, 2], [2, 1, 0], [1, 0, 2]:
        a, b, c = (states[i] for i in order)
        assert work.merge(work.merge(a, b), c).numbers.tolist() == [3, 5]


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_taken_in_proportion_to_their_cost(weighted: bool) -> None:
    """Half of the rows cost ten times as much, by their weight or their squared distance; 30 of 20,000 in a round."""
    n_rows, n_taken, n_rounds = 20_000, 30, 60
    dear = np.arange(n_rows) % 2 == 0
    rows = np.where(dear & (not weighted), np.sqrt(10.0), 1.0)[:, np.newaxis]
    weights = np.where(dear, 10.0, 1.0) if weighted else None
    centres = Centres(np.zeros((1, 1)), np.zeros(1), np.ones(1))
    taken = np.concatenate([run(FarRowsPass(centres, n_taken, s), rows, weights).numbers for s in range(n_rounds)])
    n, share = n_taken * n_rounds, 10 / 11
    n_dear = np.count_nonzero(dear[taken.astype(int)])
    assert abs(n_dear - n * share) < 4 * np.sqrt(n * share * (1 - share))
    assert len(np.unique(taken)) > 0.9 * n, "each round takes others"
    assert abs(np.mean(taken) / n_rows - 0.5) < 4 / np.sqrt(12 * n)


def test_rows_on_a_centre_or_of_weight_zero_are_never_taken() -> None:
    rows = np.repeat(np.arange(5.0)[:, np.newaxis], 20, axis=0)
    weights = np.tile([0.0, 1.0], 50)
    found = run(FarRowsPass(centres_of(rows, [[1.0], [3.0]]), 1000, seed=0), rows, weights, step=7)
    assert sorted(found.numbers.tolist()) == [i for i in range(100) if i % 2 and i // 20 in (0, 2, 4)]
    all_taken = run(FarRowsPass(centres_of(rows, np.arange(5.0)[:, np.newaxis]), 10, seed=0), rows)
    assert (len(all_taken.points), all_taken.cost, all_taken.n_rows) == (0, 0.0, 100)


def test_a_constant_feature_and_an_offset_leave_the_rows_as_they_are() -> None:
    """Units and origin drop out; a constant feature counts for nothing."""
    plain = np.round(np.random.default_rng(0).standard_normal((3000, 2)) * 2**10) / 2**10
    shifted = np.column_stack([plain[:, 0] + 1e8, np.full(3000, 0.1), plain[:, 1] * 1024])
    found = []
    for rows in plain, shifted:
        found.append(run(FarRowsPass(centres_of(rows, rows[:10]), 30, seed=0), rows, step=999))
    np.testing.assert_array_equal(found[0].numbers, found[1].numbers)
    np.testing.assert_array_equal(found[1].points, shifted[found[1].numbers.astype(int)])


def test_rows_beyond_32_bits_are_told_apart() -> None:
    work = FarRowsPass(Centres(np.zeros((1, 1)), np.zeros(1), np.ones(1)), 10, 0)
    near, far = (work.update(work.zero(), Block(np.ones((1, 4096)), None, first)) for first in (0, 2**33))
    assert not np.array_equal(near.numbers + np.uint64(2**33), far.numbers)


def test_uniform_numbers_are_inside_the_interval() -> None:
    u = uniform(np.arange(200_000, dtype=np.uint64), 5)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * 200_000)


def test_a_pass_travels_without_what_it_derived() -> None:
    work = FarRowsPass(centres_of(X, X[:50]), 5, 0)
    size = len(pickle.dumps(work))
    work.update(work.zero(), Block(np.ascontiguousarray(X.T), None, 0))
    assert len(pickle.dumps(work)) == size
    same_rows(run(pickle.loads(pickle.dumps(work)), X), run(work, X))


# -- the rows nearest to each centre -------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("step", [5000, 700])
def test_nearest_rows_have_the_moments_of_the_oracle(offset: float, weighted: bool, step: int) -> None:
    rows = (X / [1, 100, 1e-3] if offset else X) + offset
    rows[3] = np.nan
    w = np.where(np.arange(len(X)) == 3, 0.0, WEIGHTS if weighted else 1.0)
    centres = centres_of(rows, [*rows[10:40], rows[10]])
    found = run(NearestPass(centres), rows, WEIGHTS if weighted else None, step=step)
    means, variances = found.moments(centres)
    labels = squared_distances(np.where(np.isfinite(rows), rows, offset), centres).argmin(axis=1)
    for k, point in enumerate(centres.points):
        own, own_w = rows[(labels == k) & (w > 0)], w[(labels == k) & (w > 0)]
        assert found.weights[k] == own_w.sum()
        mean = own[0] + own_w @ (own - own[0]) / own_w.sum() if len(own) else point
        scale = rows[4:].std(axis=0)
        np.testing.assert_allclose(means[k] / scale, mean / scale, rtol=1e-15 if offset else 1e-12, atol=1e-9)
        right = own_w @ (own - mean) ** 2 / own_w.sum() if len(own) else 0 * point
        # At an offset of 1e8 the means here are rounded to 1.5e-8.
        np.testing.assert_allclose(variances[k] / scale**2, right / scale**2, rtol=1e-7, atol=1e-12)
    assert found.weights[-1] == 0, "of equal centres the first has the rows"
    assert found.weights.sum() == w.sum()


def test_merged_nearest_rows_are_their_sum() -> None:
    work = NearestPass(centres_of(X, X[:4]))
    one, two = (work.update(work.zero(), Block(np.ascontiguousarray(X[s].T), None, 0)) for s in np.s_[:2000, 2000:])
    whole = run(work, X)
    merged, other = work.merge(one, two), work.merge(two, one)
    for name in "weights", "first", "second":
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-9)
        np.testing.assert_array_equal(getattr(merged, name), getattr(other, name))
        np.testing.assert_array_equal(getattr(work.merge(one, work.zero()), name), getattr(one, name))
    assert isinstance(merged, Nearest)
