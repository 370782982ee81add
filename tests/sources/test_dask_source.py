"""Rows of Dask arrays: the user's own graph, whatever its chunks."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture
from daskgmm.errors import DataError, OptionError
from daskgmm.sources.dask_source import DaskSource
from daskgmm.sources.opening import open_rows
from daskgmm.sources.source import Source
from tests.sources.test_sources import read_rows, rows_of

X = np.arange(60.0).reshape(20, 3)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        yield client


def through(scheduler: str | None, source: Source, bounds: list[tuple[int, int]]) -> np.ndarray:
    """Return all rows of the ranges, through a graph with one task for each."""
    graph, arguments = source.arguments(bounds)
    call = uuid.uuid4().hex  # a scheduler that remembers a key does not run it again
    keys = [f"rows-{call}-{i}" for i in range(len(bounds))]
    for key, (start, stop), argument in zip(keys, bounds, arguments, strict=True):
        graph[key] = Task(key, read_rows, argument, start, stop)
    together = f"all-{call}"
    graph[together] = Task(together, np.concatenate, List(*(TaskRef(key) for key in keys)))
    return np.asarray(Delayed(together, graph).compute(scheduler=scheduler))


def pairs(edges: np.ndarray) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


@given(
    rows=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    columns=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_chunks_and_any_ranges_give_the_rows(rows: list[int], columns: list[int], data: st.DataObject) -> None:
    X = np.arange(sum(rows) * sum(columns)).reshape(sum(rows), sum(columns))
    source = open_rows(da.from_array(X, chunks=(tuple(rows), tuple(columns))))
    assert isinstance(source, DaskSource)
    assert source.n_counting_passes == 0
    np.testing.assert_array_equal(source.chunk_edges, np.cumsum([0, *rows]))
    assert source.chunk_bytes == max(rows) * X.shape[1] * 8
    cuts = sorted(data.draw(st.sets(st.sampled_from(source.chunk_edges.tolist()), min_size=2, max_size=5)))
    for (start, stop), block in zip(pairs(np.array(cuts)), rows_of(source, pairs(np.array(cuts))), strict=True):
        np.testing.assert_array_equal(block, X[start:stop])


@pytest.mark.parametrize("chunks", [(5, 3), (7, 2), (20, 1)])
def test_unknown_chunks_are_counted_in_one_pass(chunks: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    computed: list[int] = []

    def seen(block: np.ndarray) -> np.ndarray:
        computed.append(len(block))
        return block

    array = da.from_array(X, chunks=chunks)
    array = array[array[:, 0] > 20].map_blocks(seen, dtype=X.dtype, meta=np.empty((0, 0)))
    with caplog.at_level(logging.INFO, "daskgmm"), dask.config.set(scheduler="sync"):
        source = DaskSource(array)
        assert computed == [], "nobody has asked for the number of rows"
        assert source.n_rows == 13
        assert "X is a Dask array of unknown chunk sizes: one pass counts its rows." in caplog.messages
        assert any("computed again in each pass" in message for message in caplog.messages)
        assert source.n_counting_passes == 1
        assert len(computed) == array.npartitions
        assert np.isnan(array.shape[0]), "the user's array is left as it was"
        assert np.all(np.diff(source.chunk_edges) > 0), "empty blocks are no chunks"
        read = np.concatenate(rows_of(source, pairs(source.chunk_edges)))
    np.testing.assert_array_equal(read, X[X[:, 0] > 20])


def test_vector_is_one_feature() -> None:
    source = open_rows(da.arange(10, chunks=4))
    assert (source.n_rows, source.n_features) == (10, 1)
    np.testing.assert_array_equal(through("sync", source, [(0, 4), (4, 10)]), np.arange(10)[:, None])


def test_only_the_blocks_asked_for_are_computed() -> None:
    computed: list[float] = []

    def seen(block: np.ndarray) -> np.ndarray:
        computed.append(block[0, 0])
        return block

    array = da.from_array(X, chunks=(5, 3)).map_blocks(seen, meta=np.empty((0, 0)))
    source = DaskSource(array)
    assert computed == []
    graph, _ = source.arguments([(5, 10)])
    assert computed == [], "building the arguments computes nothing"
    assert len(graph) < len(source.arguments([(0, 20)])[0])
    np.testing.assert_array_equal(through("sync", source, [(5, 10)]), X[5:10])
    assert computed == [15.0]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_local_schedulers(scheduler: str) -> None:
    source = DaskSource((da.from_array(X, chunks=(5, 2)) + 1)[2:])
    np.testing.assert_array_equal(through(scheduler, source, pairs(source.chunk_edges)), (X + 1)[2:])


def test_distributed_client(client: Client) -> None:
    source = DaskSource(da.from_array(X, chunks=(5, 2)) + 1)
    np.testing.assert_array_equal(through(None, source, pairs(source.chunk_edges)), X + 1)
    graph, arguments = source.arguments([(0, 10)])
    graph["rows"] = Task("rows", read_rows, arguments[0], 0, 10)
    np.testing.assert_array_equal(client.get(graph, "rows"), (X + 1)[:10])


@pytest.mark.parametrize("change", [lambda a: a, lambda a: a + 1, lambda a: a.rechunk({1: -1})])
def test_persisted_array_is_not_computed_again(client: Client, change: Any) -> None:
    array = da.from_array(X, chunks=(5, 2)).map_blocks(lambda block: block + np.random.default_rng().random())
    array = change(array.persist())
    expected = array.compute()
    source = DaskSource(array)
    del array
    for _ in range(2):
        np.testing.assert_array_equal(through(None, source, pairs(source.chunk_edges)), expected)
    np.testing.assert_array_equal(through(None, source, [(5, 10)]), expected[5:10])


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("change", [lambda a: a, lambda a: a.persist(), lambda a: a[a[:, 0] > -1]])
def test_arrays_of_another_package_are_told_by_what_they_can(client: Client, width: int, change: Any) -> None:
    other = pytest.importorskip("dask_array", reason="the package dask-array is not installed: the extra 'test'")
    array = change(other.from_array(X, chunks=(6, width)) + 1)
    assert not isinstance(array, da.Array)
    source = open_rows(array)
    assert isinstance(source, DaskSource)
    assert source.n_counting_passes == np.isnan(array.shape[0])
    np.testing.assert_array_equal(source.chunk_edges, [0, 6, 12, 18, 20])
    np.testing.assert_array_equal(through(None, source, [(0, 6), (6, 20)]), X + 1)
    mixture, right = (GaussianMixture(2, n_init=1, random_state=0).fit(each) for each in (array, da.from_array(X + 1)))
    assert mixture.means_.tobytes() == right.means_.tobytes()
    labels = mixture.predict(array)
    assert isinstance(labels, da.Array)
    np.testing.assert_array_equal(labels, right.predict(X + 1))


def test_data_frame() -> None:
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    dd = pytest.importorskip("dask.dataframe", reason="Dask data frames need pyarrow")
    frame = dd.from_pandas(pandas.DataFrame(X, columns=list("abc")), npartitions=3)
    source = open_rows(frame[frame.a > 20])
    assert isinstance(source, DaskSource)
    assert source.n_counting_passes == 1
    np.testing.assert_array_equal(through("sync", source, pairs(source.chunk_edges)), X[X[:, 0] > 20])


def test_rechunked_to_given_edges() -> None:
    source = DaskSource(da.from_array(X[:, 0], chunks=(6,)))
    assert source.rechunked_to(np.array([0, 6, 12, 18, 20])) is source
    again = source.rechunked_to(np.array([0, 9, 20]))
    np.testing.assert_array_equal(again.chunk_edges, [0, 9, 20])
    np.testing.assert_array_equal(through("sync", again, [(0, 9), (9, 20)]), X[:, :1])
    np.testing.assert_array_equal(source.chunk_edges, [0, 6, 12, 18, 20])
    with pytest.raises(DataError, match="the 20 rows of the Dask array; got edges from 0 to 21"):
        source.rechunked_to(np.array([0, 21]))


def test_unusable_dask_arrays() -> None:
    with pytest.raises(DataError, match=r"X must have shape .*got 3 dimensions"):
        open_rows(da.ones((2, 2, 2)))
    with pytest.raises(DataError, match=r"X must hold real numbers .*got dtype complex128 in Dask array"):
        open_rows(da.ones((2, 2), dtype=complex))
    with pytest.raises(OptionError, match=r"X must be an array, .*got a Delayed"):
        open_rows(dask.delayed(np.ones)((3, 2)))
    array = da.from_array(X, chunks=(5, 2))
    with pytest.raises(DataError, match="X must have a known number of features"):
        open_rows(array[:, array[0] > 0])
    with pytest.raises(DataError, match=r"at least one row and one feature; got shape \(0, 3\)"):
        _ = open_rows(array[array[:, 0] > 100]).n_rows


def test_array_with_wrong_chunks_is_noticed() -> None:
    array = da.from_delayed(dask.delayed(np.ones)((4, 2)), shape=(5, 2), dtype=float)
    with pytest.raises(DataError, match="got rows 0 to 4 for rows 0 to 5"):
        through("sync", DaskSource(array), [(0, 5)])


def test_dask_source_survives_a_pickled_graph() -> None:
    graph, _ = DaskSource(da.ones((4, 2), chunks=(2, 2))).arguments([(0, 4)])
    assert pickle.loads(pickle.dumps(graph)).keys() == graph.keys()


QUERY_PLANNING = """
import dask, dask.array as da, numpy as np
from dask.delayed import Delayed
from dask.task_spec import Task
from daskgmm.sources.dask_source import DaskSource
assert da.ARRAY_EXPR_ENABLED
source = DaskSource(da.from_array(np.arange(60.).reshape(20, 3), chunks=(5, 2)) + 1)
graph, arguments = source.arguments([(5, 15)])
graph["rows"] = Task("rows", len, arguments[0])
assert Delayed("rows", graph).compute(scheduler="sync") == 2
"""


def test_arrays_with_query_planning() -> None:
    environment = {**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True"}
    done = subprocess.run([sys.executable, "-c", QUERY_PLANNING], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
