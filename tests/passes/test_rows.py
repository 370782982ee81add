"""A partition as blocks: the same bits whatever the runs, chunks, dtype and order of the rows in storage."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.errors import DataError
from daskgmm.kernels.block import Block
from daskgmm.passes.rows import WEIGHT, Check, Cut, Rows, blocks, cuts
from daskgmm.sources.opening import open_rows
from tests.sources.test_sources import DTYPES, numbers
from tests.strategies import LAWS

LENGTH = 4096


@pytest.fixture(autouse=True)
def block_length(monkeypatch):
    """Blocks of one length, whatever the number of features."""
    monkeypatch.setattr("daskgmm.passes.rows.block_length", lambda n_features: LENGTH)


@dataclass
class FakeReader:
    """Rows of an array, and a list of what was read by which thread; fails at a row if told to."""

    array: np.ndarray
    fails_at: int | None = None
    reads: list[tuple[int, int, str]] = field(default_factory=list)

    def read(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop, threading.current_thread().name))
        if self.fails_at is not None and start <= self.fails_at < stop:
            raise DataError(f"row {self.fails_at} cannot be read")
        return self.array[start:stop]


def cut_of(runs: list[int], *, n_features: int = 2, check: Check = "scan", prefetch: bool = True) -> Cut:
    return Cut(0, tuple(runs), n_features, check, prefetch)


def copied(found: Any) -> list[Block]:
    """Blocks that outlive the buffers they came in."""
    return [
        replace(
            b, x=b.x.copy(), weights=None if b.weights is None else b.weights.copy(),
            non_finite=None if b.non_finite is None else b.non_finite.copy(),
        )
        for b in found
    ]  # fmt: skip


def same(left: list[Block], right: list[Block]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.first_row == b.first_row
        np.testing.assert_array_equal(a.x, b.x, strict=True)
        for name in "weights", "non_finite":
            ours, theirs = getattr(a, name), getattr(b, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                np.testing.assert_array_equal(ours, theirs, strict=True)


def rows_of(found: list[Block]) -> np.ndarray:
    return np.concatenate([b.x for b in found], axis=1).T


X = np.random.default_rng(0).standard_normal((30_000, 2))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 1, [0, 1]),
        (0, 4096, [0, 4096]),
        (0, 4097, [0, 4096, 4097]),
        (1000, 10_000, [1000, 5096, 9192, 10_000]),  # counted from the first row of the partition
        (29_999, 30_000, [29_999, 30_000]),
    ],
)
@pytest.mark.parametrize("step", [1, 999, 4096, 5000, 30_000])
def test_block_boundaries_are_counted_from_the_partitions_start(
    start: int, stop: int, expected: list[int], step: int
) -> None:
    runs = [*range(start, stop, max(step, (stop - start) // 50)), stop]
    found = copied(blocks(cut_of(runs), FakeReader(X)))
    assert [b.first_row for b in found] + [found[-1].first_row + found[-1].x.shape[1]] == expected
    np.testing.assert_array_equal(rows_of(found), X[start:stop])


@LAWS
@given(
    inner=st.sets(st.integers(1, 9_999), max_size=20), prefetch=st.booleans(), weighted=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_runs_give_the_same_blocks(inner: set[int], prefetch: bool, weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((10_000, 2)).astype("f4")
    X[rng.integers(0, 10_000, 3), rng.integers(0, 2, 3)] = [np.nan, np.inf, -np.inf]
    beside = {WEIGHT: FakeReader(rng.uniform(0, 2, 10_000))} if weighted else {}
    expected = copied(blocks(cut_of([0, 10_000], prefetch=False), FakeReader(X), beside))
    found = copied(blocks(cut_of([0, *sorted(inner), 10_000], prefetch=prefetch), FakeReader(X), beside))
    same(found, expected)


@pytest.mark.parametrize("n_features", [1, 3, 40])
def test_blocks_are_in_the_layout_of_the_kernels(n_features: int) -> None:
    X = np.random.default_rng(1).standard_normal((5000, n_features))
    for block in blocks(cut_of([0, 2000, 5000], n_features=n_features), FakeReader(X), {WEIGHT: FakeReader(X[:, 0])}):
        assert block.x.dtype == np.float64
        assert block.x.flags.c_contiguous
        assert block.x.shape == (n_features, len(block.weights))
        assert block.weights.dtype == np.float64
        assert block.x.shape[1] <= LENGTH
        assert block.n_rows == block.x.shape[1]
        assert block.non_finite is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_and_order_give_the_same_bits(dtype: str, order: Any) -> None:
    values = numbers(dtype, (9000, 3))
    expected = copied(blocks(cut_of([0, 9000], n_features=3), FakeReader(values.astype("f8"))))
    stored = np.asarray(values, order=order)
    same(copied(blocks(cut_of([0, 2500, 9000], n_features=3), FakeReader(stored))), expected)


def test_values_are_converted_exactly() -> None:
    """No dtype goes through a narrower one on its way to float64."""
    for dtype in ("f2", ">f2", "f4", "i4", "u4", "f8"):
        info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
        values = np.array([[info.max, info.min, 1]], dtype=dtype)
        (block,) = blocks(cut_of([0, 1], n_features=3), FakeReader(values))
        assert block.x[:, 0].tolist() == [float(info.max), float(info.min), 1.0]


def test_strided_and_one_dimensional_rows() -> None:
    same(
        copied(blocks(cut_of([0, 10_000]), FakeReader(X[::3]))),
        copied(blocks(cut_of([0, 10_000]), FakeReader(X[::3].copy()))),
    )
    (block,) = blocks(cut_of([0, 7], n_features=1), FakeReader(np.arange(7)))
    np.testing.assert_array_equal(block.x, [np.arange(7.0)])


@pytest.mark.parametrize("dtype", ["?", "i8", "f4", ">f8"])
@pytest.mark.parametrize("shape", [(10_000,), (10_000, 1)])
def test_weights_of_any_dtype_go_with_their_rows(dtype: str, shape: tuple[int, ...]) -> None:
    weights = (np.arange(10_000) % 2).astype(dtype)
    found = copied(blocks(cut_of([100, 3000, 9000]), FakeReader(X), {WEIGHT: FakeReader(weights.reshape(shape))}))
    np.testing.assert_array_equal(np.concatenate([b.weights for b in found]), weights[100:9000].astype("f8"))
    assert sum(b.total_weight for b in found) == 4450


def test_non_finite_rows_become_zeros_of_weight_zero() -> None:
    X = np.ones((9000, 2))
    X[[5, 4095, 4096, 8999], [0, 1, 0, 1]] = [np.nan, np.inf, -np.inf, np.nan]
    found = copied(blocks(cut_of([0, 9000]), FakeReader(X)))
    dropped = np.concatenate([np.zeros(b.x.shape[1], bool) if b.non_finite is None else b.non_finite for b in found])
    assert np.flatnonzero(dropped).tolist() == [5, 4095, 4096, 8999]
    assert [b.n_rows for b in found] == [4094, 4095, 807]
    assert [b.total_weight for b in found] == [4094, 4095, 807]
    np.testing.assert_array_equal(rows_of(found)[dropped], 0)
    np.testing.assert_array_equal(rows_of(found)[~dropped], 1)


def test_non_finite_rows_lose_their_own_weights_only() -> None:
    X = np.ones((9000, 2))
    X[10, 0] = np.nan
    weights = np.arange(9000.0)
    for _ in range(2):  # a block's buffers are used again, and what is stored is left alone
        found = copied(blocks(cut_of([0, 9000]), FakeReader(X), {WEIGHT: FakeReader(weights)}))
        assert found[0].weights[10] == 0
        assert found[0].total_weight == weights[:4096].sum() - 10
        assert found[1].total_weight == weights[4096:8192].sum()
        assert np.isnan(X[10, 0])
        assert weights[10] == 10


def test_rows_are_not_searched_after_a_survey_found_them_finite() -> None:
    X = np.ones((10, 2))
    X[3, 1] = np.nan
    (block,) = blocks(cut_of([0, 10], check="trust"), FakeReader(X))
    assert block.non_finite is None
    assert np.isnan(block.x[1, 3])


@pytest.mark.parametrize("value", [1e308, -1e308, np.finfo("f8").max])
def test_a_sum_that_overflows_is_no_nan(value: float) -> None:
    X = np.full((5000, 2), value)
    for block in blocks(cut_of([0, 5000]), FakeReader(X)):
        assert block.non_finite is None
        assert (block.x == value).all()
    X[0] = [np.finfo("f8").max, 1]
    X[7] = [-np.inf, 1]  # infinities that cancel to NaN, in a sum that overflows
    X[8] = [np.inf, 1]
    found = copied(blocks(cut_of([0, 5000]), FakeReader(X)))
    assert np.flatnonzero(found[0].non_finite).tolist() == [7, 8]
    assert found[1].non_finite is None


def test_prefetch_reads_in_another_thread_and_one_run_ahead() -> None:
    reader = FakeReader(X)
    runs = [0, 5000, 10_000, 15_000, 20_000]
    seen = []
    for block in blocks(cut_of(runs), reader):
        deadline = time.monotonic() + 10
        ahead = min(-(-(block.first_row + block.x.shape[1]) // 5000) + 1, 4)
        while len(reader.reads) < ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append((block.first_row, len(reader.reads)))
    # The block that ends in a run is computed on while the run after it is read, and no further one.
    assert seen == [(0, 2), (4096, 3), (8192, 4), (12_288, 4), (16_384, 4)]
    assert {name for *_, name in reader.reads} == {"daskgmm-read_0"}
    assert [(a, b) for a, b, _ in reader.reads] == list(itertools.pairwise(runs))


@pytest.mark.parametrize("runs", [[0, 5000, 10_000], [0, 10_000]])
@pytest.mark.parametrize("prefetch", [True, False])
def test_without_prefetch_or_with_one_run_no_thread_is_started(runs: list[int], prefetch: bool) -> None:
    reader = FakeReader(X)
    found = copied(blocks(cut_of(runs, prefetch=prefetch), reader))
    same(found, copied(blocks(cut_of(runs, prefetch=not prefetch), FakeReader(X))))
    own = threading.current_thread().name
    assert {name for *_, name in reader.reads} == ({"daskgmm-read_0"} if prefetch and len(runs) > 2 else {own})


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("row", [0, 7000, 12_000])
@pytest.mark.parametrize("of", ["rows", "weights"])
def test_errors_of_a_reader_come_through(prefetch: bool, row: int, of: str) -> None:
    bad, good = FakeReader(X, fails_at=row), FakeReader(X)
    X_reader, beside = (bad, {}) if of == "rows" else (good, {WEIGHT: bad})
    taken = blocks(cut_of([0, 5000, 10_000, 15_000], prefetch=prefetch), X_reader, beside)
    with pytest.raises(DataError, match=f"^row {row} cannot be read$"):
        list(taken)
    assert not [t for t in threading.enumerate() if t.name.startswith("daskgmm-read")]


def test_a_consumer_that_stops_leaves_no_thread() -> None:
    taken = blocks(cut_of([0, 5000, 10_000, 15_000]), FakeReader(X))
    next(taken)
    taken.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("daskgmm-read")]


def test_a_reader_that_returns_other_rows_is_noticed() -> None:
    message = (
        "the input must have 5000 rows of 2 columns from row 28000, as its metadata say; got 2000 of 2. It changed"
    )
    with pytest.raises(DataError, match=message):
        list(blocks(cut_of([28_000, 33_000]), FakeReader(X)))


# -- the rows of a fit -------------------------------------------------------------------------------------------


def test_plan_reads_nothing_and_cuts_in_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 10_000)
    store = zarr.create_array({}, shape=(10_000, 2), chunks=(300, 2), dtype="f4")  # no chunk is there
    rows = Rows.plan(open_rows(store), None)
    assert rows.edges.tolist() == [*range(0, 10_000, 1500), 10_000]
    assert (rows.n_partitions, rows.n_bytes, rows.check, rows.prefetch) == (7, 80_000, "scan", True)
    assert rows.trusted().check == "trust"
    assert rows.travels is False, "a store in this process"


def test_weights_are_read_bytes_too(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    source, weights = open_rows(tmp_path / "X.npy"), open_rows(np.ones(len(X), dtype="f4"))
    rows = Rows.plan(source, weights)
    assert rows.n_bytes == len(X) * (16 + 4)
    assert source.travels
    assert not rows.travels, "the weights are in this process"
    assert weights.row_bytes == 4


@pytest.mark.parametrize(("shape", "said"), [((29_999,), "(29999, 1)"), ((30_000, 2), "(30000, 2)")])
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...], said: str) -> None:
    message = f"sample_weight must have shape (30000,), one weight for each row of NumPy array; got {said} in NumPy"
    with pytest.raises(DataError) as caught:
        Rows.plan(open_rows(X), open_rows(np.ones(shape), argument="sample_weight"))
    assert str(caught.value).startswith(message)


def test_weights_of_a_dask_array_follow_the_partitions() -> None:
    source = open_rows(da.from_array(X, chunks=(7000, 2)))
    weights = open_rows(da.arange(len(X), chunks=999))
    rows = Rows.plan(source, weights)
    assert rows.weights.chunk_edges.tolist() == rows.edges.tolist() == [0, 30_000]


def test_cuts_number_the_partitions_and_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 64_000)
    monkeypatch.setattr("daskgmm.sources.partition.RUN_BYTES", 16_000)
    rows = Rows.plan(open_rows(da.from_array(X, chunks=(500, 2))), None)
    found = cuts(replace(rows, prefetch=False))
    assert [cut.index for cut in found] == list(range(8))
    assert [cut.runs[0] for cut in found] == rows.edges[:-1].tolist()
    assert list(found[0].runs) == [0, 500, 1500, 2500, 3500, 4000]
    assert list(found[-1].runs) == [28_000, 28_500, 29_500, 30_000]
    assert {(cut.n_features, cut.check, cut.prefetch) for cut in found} == {(2, "scan", False)}


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (3000, 2)}, {"chunks": (3000, 1)}, {"chunks": (100, 2)}, {"chunks": (100, 1), "shards": (3000, 2)},
        {"chunks": (3000, 2), "zarr_format": 2, "order": "F"},
    ],
)  # fmt: skip
def test_chunks_make_no_difference_within_a_partition(layout: dict[str, Any]) -> None:
    array = zarr.create_array({}, shape=X.shape, dtype=X.dtype, **layout)
    array[...] = X
    source = open_rows(array)
    (cut,) = cuts(Rows.plan(source, None))
    graph, _ = source.arguments([(0, len(X))])
    (node,) = graph.values()
    same(copied(blocks(cut, node(), None)), copied(blocks(cut_of([0, 30_000]), FakeReader(X))))
