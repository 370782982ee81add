"""How rows are cut: tables of integers, and the laws that any cut obeys."""

from __future__ import annotations

import inspect
import itertools
import pickle

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.passes.rows import Rows
from daskgmm.sources import partition
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.partition import (
    GREATEST_BYTES,
    IN_PROCESS_BYTES,
    MAX_IN_PROCESS,
    MAX_PARTITIONS,
    MIB,
    PARTITION_BYTES,
    RUN_BYTES,
    partition_edges,
    partitions_per_task,
    runs_of,
)
from daskgmm.sources.source import regular_edges
from tests.strategies import LAWS

ROW = 1024  # bytes: 64 MiB are 65,536 rows, 4 MiB are 4,096, a run of 16 MiB is 16,384
GIB = 1024 * MIB


def edges_of(n_rows: int, chunk: int) -> np.ndarray:
    return regular_edges(n_rows, chunk)


@pytest.mark.parametrize(
    ("n_rows", "chunk", "expected"),
    [
        # One partition: fewer bytes than the target, or exactly as many.
        (1, 1, [0, 1]),
        (65_536, 1_000, [0, 65_536]),
        (65_536, 65_536, [0, 65_536]),
        # As few equal partitions as do not exceed the target by a chunk or more.
        (65_537, 65_536, [0, 65_536, 65_537]),
        (140_000, 10_000, [0, 40_000, 80_000, 120_000, 140_000]),
        (150_000, 10_000, [0, 40_000, 80_000, 120_000, 150_000]),
        (131_072, 16_384, [0, 32_768, 65_536, 98_304, 131_072]),
        # A chunk larger than the target is a partition.
        (300_000, 100_000, [0, 100_000, 200_000, 300_000]),
        (300_001, 300_000, [0, 300_000, 300_001]),
    ],
)
def test_partitions(n_rows: int, chunk: int, expected: list[int]) -> None:
    found = partition_edges(edges_of(n_rows, chunk), row_bytes=ROW, travels=True)
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_partitions_of_an_array_in_this_process_are_smaller() -> None:
    edges = edges_of(10_000, 1_000)
    assert partition_edges(edges, row_bytes=ROW, travels=False).tolist() == [0, 3_000, 6_000, 9_000, 10_000]
    assert partition_edges(edges, row_bytes=ROW, travels=True).tolist() == [0, 10_000]


def test_an_array_in_this_process_has_work_for_all_threads_but_no_more_partitions_than_that() -> None:
    """(50,000, 128) float64, one partition where a state of 2 MB decided; and 100 GB."""
    assert len(partition_edges(edges_of(50_000, 1_024), row_bytes=ROW, travels=False)) - 1 == 13
    many = partition_edges(edges_of(100_000_000, 1_024), row_bytes=ROW, travels=False)
    assert 250 <= len(many) - 1 <= MAX_IN_PROCESS == 256


def test_partitions_of_uneven_chunks() -> None:
    edges = np.array([0, 60_000, 60_001, 66_000, 200_000, 200_001])
    found = partition_edges(edges, row_bytes=ROW, travels=True)
    assert found.tolist() == [0, 60_000, 200_000, 200_001]


@pytest.mark.parametrize(("n_chunks", "row_bytes"), [(3_000, 8 * ROW), (100_000, 8 * ROW), (1_000_000, 2 * ROW)])
def test_however_many_chunks_there_are_at_most_3000_partitions(n_chunks: int, row_bytes: int) -> None:
    edges = np.arange(n_chunks + 1) * 10_000
    found = partition_edges(edges, row_bytes=row_bytes, travels=True)
    assert 2_700 <= len(found) - 1 <= MAX_PARTITIONS == 3_000


def test_a_row_larger_than_the_target_is_a_partition() -> None:
    assert partition_edges(np.array([0, 1, 2, 3]), row_bytes=GIB, travels=True).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("chunk", "start", "stop", "expected"),
    [
        # Runs take at most 16 MiB, 16,384 rows, of whole chunks; the first a sixteenth, and they double.
        (16_384, 0, 65_536, [0, 16_384, 32_768, 49_152, 65_536]),
        (10_000, 0, 30_000, [0, 10_000, 20_000, 30_000]),
        (8_000, 0, 64_000, [0, 8_000, 24_000, 40_000, 56_000, 64_000]),
        (100, 0, 20_000, [0, 1_000, 3_000, 7_000, 15_000, 20_000]),
        (100, 100, 1_000, [100, 1_000]),
        (3_000, 0, 45_000, [0, 3_000, 9_000, 21_000, 36_000, 45_000]),
        # A chunk is never cut, however large.
        (65_536, 65_536, 131_072, [65_536, 131_072]),
        # Counted from the start of the partition, not of the input.
        (1_000, 70_000, 100_000, [70_000, 71_000, 73_000, 77_000, 85_000, 100_000]),
        (1_000, 7_000, 8_000, [7_000, 8_000]),
    ],
)
def test_runs(chunk: int, start: int, stop: int, expected: list[int]) -> None:
    (found,) = runs_of(edges_of(200_000, chunk), np.array([start, stop]), row_bytes=ROW)
    assert list(found) == [found[i] for i in range(len(found))] == expected
    assert (found[-1], list(found[1:])) == (stop, expected[1:])
    assert all(type(edge) is int for edge in found), "they travel with the task"


def test_runs_of_a_partition_that_begins_between_two_edges() -> None:
    """Partitions that are aligned to an output do, of chunks of uneven length."""
    edges = np.array([0, 700, 4_000, 4_500, 9_000])
    found = runs_of(edges, np.array([0, 4_096, 8_192, 9_000]), row_bytes=RUN_BYTES // 100)
    assert found == [(0, 700, 4_000, 4_096), (4_096, 4_500, 8_192), (8_192, 9_000)]


def test_runs_of_equal_length_take_no_room() -> None:
    """A partition of 100 GB has 6,000."""
    edges = edges_of(100_000_000, 1_000)
    (found,) = runs_of(edges, edges[[0, -1]], row_bytes=ROW)
    assert len(found) == 6_255
    assert len(pickle.dumps(found)) < 200
    assert np.diff(found).max() * ROW <= RUN_BYTES


@st.composite
def chunked(draw: st.DrawFn) -> np.ndarray:
    """Draw edges of chunks, even or uneven, of a row to a few hundred thousand."""
    if draw(st.booleans()):
        chunk = draw(st.integers(1, 300_000))
        return edges_of(draw(st.integers(1, 2_000 * chunk)), chunk)
    lengths = draw(st.lists(st.integers(1, 300_000), min_size=1, max_size=300))
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@LAWS
@given(edges=chunked(), row_bytes=st.integers(1, 10_000), travels=st.booleans())
def test_partitions_are_whole_chunks_large_enough_and_few(edges: np.ndarray, row_bytes: int, travels: bool) -> None:
    found = partition_edges(edges, row_bytes=row_bytes, travels=travels)
    assert np.isin(found, edges).all(), "whole chunks"
    assert (found[0], found[-1]) == (0, edges[-1])
    lengths = np.diff(found)
    assert (lengths > 0).all()
    least, most = (PARTITION_BYTES, MAX_PARTITIONS) if travels else (IN_PROCESS_BYTES, MAX_IN_PROCESS)
    assert len(lengths) <= most
    target = max(least, int(edges[-1]) * row_bytes / most)
    few = -(-int(edges[-1]) * row_bytes // int(target))
    assert len(lengths) <= (-(-few // 4) * 4 if few > 1 else 1), "as few as that allows, or a multiple of four"
    longest_chunk = int(np.diff(edges).max())
    assert ((lengths - longest_chunk) * row_bytes < target + row_bytes).all(), "and less than a chunk more"


@LAWS
@given(chunk=st.integers(1, 10_000), n_rows=st.integers(1, 3_000_000), row_bytes=st.integers(1, 2_000))
def test_partitions_of_even_chunks_are_even(chunk: int, n_rows: int, row_bytes: int) -> None:
    """Outputs aligned to the rows have chunks of one length, so their partitions must too, all but the last."""
    lengths = np.diff(partition_edges(edges_of(n_rows, chunk), row_bytes=row_bytes, travels=True))
    assert (lengths[:-1] == lengths[0]).all()
    assert lengths[-1] <= lengths[0]


@LAWS
@given(edges=chunked(), row_bytes=st.integers(1, 10_000), data=st.data())
def test_runs_are_whole_chunks_and_fit_their_bytes(edges: np.ndarray, row_bytes: int, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.sets(st.integers(0, len(edges) - 1), min_size=2, max_size=2)))
    (found,) = runs_of(edges, edges[[start, stop]], row_bytes=row_bytes)
    assert np.isin(found, edges).all()
    assert (found[0], found[-1]) == (edges[start], edges[stop])
    most = max(RUN_BYTES // 16, row_bytes)
    for low, high in itertools.pairwise(found):
        assert low < high
        chunks = np.searchsorted(edges, high) - np.searchsorted(edges, low)
        assert chunks == 1 or (high - low) * row_bytes <= min(most, RUN_BYTES), "the first is short, and they double"
        most = 2 * max(most, (high - low) * row_bytes)


@pytest.mark.parametrize(
    ("n_partitions", "partition_bytes", "state_bytes", "n_threads", "expected"),
    [
        # Fifty times the state or more, in the smallest power of two.
        (1000, 64 * MIB, 0, 8, 1),
        (1000, 64 * MIB, MIB, 8, 1),
        (1000, 64 * MIB, 2 * MIB, 8, 2),
        (1000, 64 * MIB, 3 * MIB, 8, 4),
        (1000, 64 * MIB, 40 * MIB, 8, 32),
        # A task for each thread goes first.
        (1000, 64 * MIB, 40 * MIB, 100, 8),
        (1000, 64 * MIB, 40 * MIB, 125, 8),
        (1000, 64 * MIB, 40 * MIB, 126, 4),
        (1000, 64 * MIB, 40 * MIB, 2000, 1),
        (2, 64 * MIB, 40 * MIB, 1, 2),
        (1, 64 * MIB, 40 * MIB, 1, 1),
    ],
)
def test_partitions_per_task(
    n_partitions: int, partition_bytes: int, state_bytes: int, n_threads: int, expected: int
) -> None:
    found = partitions_per_task(
        n_partitions, partition_bytes=partition_bytes, state_bytes=state_bytes, n_threads=n_threads
    )
    assert found == expected


@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_components", "n_partitions", "of_two", "of_many"),
    [
        # Two features, full: 6 numbers of Phi, so 23,333 rows are worth a thread. A pass below some 1.5 ms is one task.
        (8_192, 2, 8, 1, 1, 1),
        (20_000, 2, 8, 1, 1, 1),
        (60_000, 2, 8, 2, 2, 2),
        (100_000, 2, 1, 4, 4, 4),
        (100_000, 2, 6, 4, 4, 4),
        (100_000, 2, 8, 4, 2, 1),
        # Each thread has one task, and of a long pass several.
        (300_000, 2, 8, 16, 8, 1),
        (1_000_000, 2, 8, 16, 2, 1),
        # Where a row is much work, few rows make tasks: of a tile at least.
        (1_000, 64, 50, 4, 1, 1),
        (20_000, 16, 32, 10, 1, 1),
        (20_000, 16, 1, 10, 16, 16),
        (500, 128, 32, 2, 1, 1),
        # As many rows in a partition as features, or states take longer to add than to make.
        (2_000, 1_000, 1, 2, 1, 1),
    ],
)
def test_few_rows_in_memory_make_tasks_where_they_are_much_work(
    n_rows: int, n_features: int, n_components: int, n_partitions: int, of_two: int, of_many: int
) -> None:
    rows = Rows.plan(ArraySource(np.zeros((n_rows, n_features))), None)
    n_phi = (n_features + 1) * (n_features + 2) // 2
    assert rows.n_partitions == n_partitions
    for n_threads, expected in (2, of_two), (64, of_many):
        with dask.config.set(num_workers=n_threads):
            found = [rows.in_tasks(state_bytes=8 * n_components * n_phi, n_threads=n) for n in (None, 1, 64)]
        assert [r.per_task for r in found] == 3 * [expected], "whatever threads there are elsewhere"
        assert all(r.edges is rows.edges for r in found)


def test_cuts_are_a_function_of_the_data_alone() -> None:
    """Nothing about models or workers can be passed in, and nothing of the surroundings is imported."""
    assert set(inspect.signature(partition_edges).parameters) == {"chunk_edges", "row_bytes", "travels"}
    assert set(inspect.signature(runs_of).parameters) == {"run_edges", "bounds", "row_bytes"}
    modules = {name for name, value in vars(partition).items() if inspect.ismodule(value)}
    assert modules == {"np"}


def test_data_beyond_what_3000_partitions_hold_make_more_of_them():
    chunk_edges = np.append(np.arange(0, 10**12, 10**6), 10**12)  # 64 TB of 16 float32 features
    edges = partition_edges(chunk_edges, row_bytes=64, travels=True)
    assert np.diff(edges).max() * 64 <= GREATEST_BYTES + 64 * 10**6, "and what is left of a chunk"
    assert 7000 < len(edges) < 8000
