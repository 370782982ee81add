"""Rows of Zarr arrays: every layout, every way to name one, and what goes wrong."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import run_pass
from daskgmm.sources import failures
from daskgmm.sources.opening import open_rows
from daskgmm.sources.source import Source, as_reader
from daskgmm.sources.zarr_locating import locate
from daskgmm.sources.zarr_source import ZarrSource
from tests.sources.test_sources import DTYPES, numbers, rows_of

X = np.arange(400, dtype="f4").reshape(100, 4)

LAYOUTS: dict[str, dict[str, Any]] = {
    "rows": {"chunks": (7, 4)},
    "columns": {"chunks": (100, 1)},
    "both": {"chunks": (30, 3)},
    "v2": {"chunks": (7, 4), "zarr_format": 2},
    "v2 columns": {"chunks": (30, 3), "zarr_format": 2, "order": "F"},
    "sharded": {"chunks": (5, 2), "shards": (20, 4)},
    "one chunk": {"chunks": (1000, 4)},
    "raw": {"chunks": (7, 4), "compressors": None},
}
EDGE_ROWS = {"rows": 7, "columns": 100, "both": 30, "v2": 7, "v2 columns": 30, "sharded": 5, "one chunk": 100, "raw": 7}


def written(store: Any, X: np.ndarray = X, *, name: str | None = None, **layout: Any) -> zarr.Array[Any]:
    layout = {"chunks": X.shape, "config": {"write_empty_chunks": True}, **layout}
    array = zarr.create_array(store, name=name, shape=X.shape, dtype=X.dtype, **layout)
    array[...] = X
    return array


def reader_of(source: Source) -> Any:
    """Return what tasks of a source that does not come from Dask read with."""
    return as_reader(bare_reader_of(source), 0)


def bare_reader_of(source: Source) -> Any:
    """Return the reader that travels to tasks."""
    graph, _ = source.arguments([(0, source.n_rows)])
    (node,) = graph.values()
    return node()


def elsewhere(source: Source) -> Any:
    """Return the reader as another process gets it."""
    return as_reader(pickle.loads(pickle.dumps(bare_reader_of(source))), 0)


class CountingStore(WrapperStore[MemoryStore]):
    """Counts what is read of each key."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.reads: list[tuple[str, bool]] = []

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.reads.append((key, byte_range is not None))
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_as_written(tmp_path: Path, layout: str) -> None:
    written(tmp_path / "X.zarr", **LAYOUTS[layout])
    source = open_rows(tmp_path / "X.zarr")
    assert isinstance(source, ZarrSource)
    assert (source.n_rows, source.n_features, source.dtype, source.travels) == (100, 4, X.dtype, True)
    step = EDGE_ROWS[layout]
    np.testing.assert_array_equal(source.chunk_edges, np.append(np.arange(0, 100, step), 100))
    pieces = rows_of(source, [(0, step)] if step == 100 else [(0, step), (step, 100)])
    np.testing.assert_array_equal(pieces[-1], X[-len(pieces[-1]) :])
    assert elsewhere(source).read(3, 8).dtype == X.dtype
    np.testing.assert_array_equal(elsewhere(source).read(3, 8), X[3:8])


@pytest.mark.parametrize(
    ("layout", "chunk_bytes"), [("rows", 7 * 16), ("columns", 1600), ("both", 30 * 6 * 4), ("one chunk", 16000)]
)
def test_chunk_bytes_count_what_is_decoded(layout: str, chunk_bytes: int) -> None:
    assert open_rows(written(MemoryStore(), **LAYOUTS[layout])).chunk_bytes == chunk_bytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shape", [(50, 3), (50, 1), (50,)])
def test_every_dtype_and_shape(tmp_path: Path, dtype: str, zarr_format: Any, shape: tuple[int, ...]) -> None:
    X = numbers(dtype, shape)
    written(tmp_path / "X.zarr", X, chunks=(20, *shape[1:]), zarr_format=zarr_format)
    source = open_rows(str(tmp_path / "X.zarr"))
    (read,) = rows_of(source, [(0, 50)])
    np.testing.assert_array_equal(read, X.reshape(50, -1))
    assert source.dtype.kind == X.dtype.kind
    assert source.dtype.itemsize == X.dtype.itemsize
    assert read.dtype.kind == X.dtype.kind


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 5),
    chunk=st.tuples(st.integers(1, 15), st.integers(1, 6)),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_any_chunks_and_any_ranges_give_the_rows(rows: int, columns: int, chunk: tuple[int, int], data: Any) -> None:
    X = np.arange(rows * columns).reshape(rows, columns)
    source = open_rows(written({}, X, chunks=chunk))
    edges = source.chunk_edges
    assert edges[0] == 0
    assert edges[-1] == rows
    assert np.all(edges[:-1] % chunk[0] == 0)
    start, stop = sorted(
        data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows)).filter(lambda t: t[0] != t[1]))
    )
    np.testing.assert_array_equal(reader_of(source).read(start, stop), X[start:stop])


def test_a_million_chunks_cost_nothing() -> None:
    array = zarr.create_array(MemoryStore(), shape=(10**9, 2), chunks=(1000, 2), dtype="f8")
    edges = open_rows(array).chunk_edges
    assert len(edges) == 10**6 + 1
    array = zarr.create_array(MemoryStore(), shape=(10**12, 2), chunks=(1000, 2), dtype="f8")
    edges = open_rows(array).chunk_edges
    assert len(edges) <= 2**20 + 1
    assert np.all(edges[:-1] % 1000 == 0)


def test_part_of_a_shard_is_read_without_the_rest() -> None:
    store = CountingStore(MemoryStore())
    source = open_rows(written(store, **LAYOUTS["sharded"]))
    assert isinstance(source, ZarrSource)
    assert source.chunk_bytes == 5 * 4 * 4
    store.reads.clear()
    reader_of(source).read(5, 10)
    assert store.reads, "reads go through the user's own store"
    assert all(partial for _, partial in store.reads)
    store.reads.clear()
    reader_of(source).read(20, 40)
    assert len(store.reads) == 1, "a whole shard is one read"


@pytest.mark.filterwarnings("ignore:Combining a .sharding_indexed. codec")
def test_shard_with_codecs_around_it_is_one_chunk() -> None:
    serializer = ShardingCodec(chunk_shape=(5, 4), codecs=[BytesCodec()])
    array = zarr.create_array(
        MemoryStore(), shape=(100, 4), chunks=(20, 4), dtype="f4", serializer=serializer, compressors=Crc32cCodec()
    )
    source = open_rows(array)
    np.testing.assert_array_equal(source.chunk_edges, [0, 20, 40, 60, 80, 100])


def test_each_chunk_is_read_once_a_pass() -> None:
    store = CountingStore(MemoryStore())
    source = open_rows(written(store, **LAYOUTS["both"]))
    assert not source.travels
    store.reads.clear()
    rows_of(source, [(int(a), int(b)) for a, b in zip(source.chunk_edges[:-1], source.chunk_edges[1:], strict=True)])
    assert len(store.reads) == len(set(store.reads)) == 4 * 2


@pytest.fixture
def group(tmp_path: Path) -> Path:
    path = tmp_path / "data.zarr"
    root = zarr.create_group(path)
    written(LocalStore(path), name="X")
    written(LocalStore(path), np.ones(100), name="weights")
    written(LocalStore(path), np.ones((2, 2, 2)), name="cube")
    written(LocalStore(path), name="inner/X")
    assert "X" in root
    return path


@pytest.mark.parametrize("how", ["path", "open", "url", "member"])
def test_array_of_a_group_by_name(group: Path, how: str) -> None:
    given: Any = {
        "path": group,
        "open": zarr.open_group(group, mode="r"),
        "url": f"file://{group}",
        "member": group / "X",
    }
    source = open_rows(given[how], array=None if how == "member" else "X")
    assert source.label == str(group / "X")
    np.testing.assert_array_equal(elsewhere(source).read(0, 100), X)


def test_array_deeper_in_a_group(group: Path) -> None:
    np.testing.assert_array_equal(elsewhere(open_rows(group, array="inner/X")).read(0, 100), X)
    only = open_rows(group / "inner")
    assert only.n_rows == 100, "the only usable array of a group needs no name"
    np.testing.assert_array_equal(elsewhere(open_rows(zarr.open_group(group)["inner"])).read(0, 5), X[:5])


def test_group_without_or_with_a_wrong_name(group: Path) -> None:
    listed = r"it has 'X' \(100, 4\) float32, 'cube' \(2, 2, 2\) float64, 'weights' \(100,\) float64"
    with pytest.raises(OptionError, match=rf"X must be one array; got a group of 2 that it may be in .*{listed}"):
        open_rows(group)
    with pytest.raises(InputMissingError, match=rf"got array='Y', which is nothing in .*{listed}"):
        open_rows(group, array="Y")
    with pytest.raises(InputMissingError, match="got array='inner', which is a group in"):
        open_rows(zarr.open_group(group), array="inner")
    with pytest.raises(OptionError, match="array must be left out where X is an array itself; got array='X'"):
        open_rows(group / "X", array="X")
    with pytest.raises(DataError, match=r"X must have shape .*got 3 dimensions, shape \(2, 2, 2\)"):
        open_rows(group, array="cube")
    zarr.create_group(group / "bare")
    with pytest.raises(DataError, match=r"X must be, or hold, one array .*got a group with none in .*/bare"):
        open_rows(group / "bare")


def test_open_arrays_travel_as_their_path(tmp_path: Path) -> None:
    source = open_rows(written(tmp_path / "X.zarr"))
    assert source.travels
    assert len(pickle.dumps(reader_of(source))) < 600
    np.testing.assert_array_equal(elsewhere(source).read(0, 3), X[:3])
    with ZipStore(tmp_path / "X.zip", mode="w") as store:
        written(store)
    for given_as in (tmp_path / "X.zip", zarr.open_array(ZipStore(tmp_path / "X.zip", mode="r"), mode="r")):
        np.testing.assert_array_equal(elsewhere(open_rows(given_as)).read(0, 3), X[:3])


@pytest.mark.parametrize("store", [MemoryStore, lambda: CountingStore(MemoryStore())])
def test_stores_of_one_process_do_not_travel(store: Any) -> None:
    source = open_rows(written(store()))
    assert not source.travels
    np.testing.assert_array_equal(rows_of(source, [(10, 20)])[0], X[10:20])
    with pytest.raises(TypeError, match="can be read in one process only"):
        pickle.dumps(reader_of(source))


def test_reader_is_safe_for_threads_and_opens_once(tmp_path: Path) -> None:
    source = open_rows(written(tmp_path / "X.zarr", **LAYOUTS["rows"]))
    reader = elsewhere(source)
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda i: reader.read(i, i + 1), range(100)))
    np.testing.assert_array_equal(np.concatenate(blocks), X)


@pytest.mark.parametrize(("url", "location"), [("file:///a/b.zarr", "/a/b.zarr"), ("local:///a/b.zarr", "/a/b.zarr")])
def test_local_urls_are_paths(url: str, location: str) -> None:
    assert (locate(url).opener, locate(url).url) == ("local", location)


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"X must be an existing Zarr array or group; got .*none\.zarr"):
        open_rows(tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"got .*/empty, which exists but is no Zarr store\. Convert.* Parquet files must"
    ):
        open_rows(tmp_path / "empty")
    (tmp_path / "X.dat").write_bytes(b"1 2 3")
    with pytest.raises(DataError, match=r"got .*/X\.dat, which exists but is no Zarr store"):
        open_rows(tmp_path / "X.dat")
    (tmp_path / "X.zip").write_bytes(b"1 2 3")
    with pytest.raises(DataError, match=r"must be a whole Zarr array or group; got .*/X\.zip \(BadZipFile"):
        open_rows(tmp_path / "X.zip")
    with pytest.raises(OptionError, match=r"sample_weight must be at a URL .*nowhere://x"):
        open_rows("nowhere://x", argument="sample_weight")


@pytest.mark.parametrize("document", ["{", "{}", '{"zarr_format": 3, "node_type": "array"}', "[]"])
def test_damaged_metadata(tmp_path: Path, document: str) -> None:
    written(tmp_path / "X.zarr")
    (tmp_path / "X.zarr" / "zarr.json").write_text(document)
    with pytest.raises(DataError, match=r"X must be.* got .*X\.zarr"):
        open_rows(tmp_path / "X.zarr")


@pytest.mark.parametrize("dtype", ["c16", "M8[s]", "U3"])
@pytest.mark.filterwarnings("ignore:The data type")
def test_dtypes_that_are_no_numbers(dtype: str) -> None:
    array = zarr.create_array(MemoryStore(), shape=(4, 2), dtype=dtype)
    with pytest.raises(DataError, match="X must hold real numbers"):
        open_rows(array)


@pytest.mark.parametrize("compressors", ["auto", None, zarr.codecs.BloscCodec(), zarr.codecs.GzipCodec()])
def test_damaged_chunk_names_rows_and_store(tmp_path: Path, compressors: Any) -> None:
    written(tmp_path / "X.zarr", chunks=(25, 4), compressors=compressors)
    chunk = tmp_path / "X.zarr" / "c" / "1" / "0"
    chunk.write_bytes(b"\xff" * 24 + chunk.read_bytes()[24:-10])
    reader = reader_of(open_rows(tmp_path / "X.zarr"))
    np.testing.assert_array_equal(reader.read(50, 100), X[50:])
    with pytest.raises(DataError, match=r"Rows 25 to 50 must be readable; got \w+ .* from .*X\.zarr") as caught:
        reader.read(25, 50)
    assert caught.value.__cause__ is not None


def test_array_that_changes_is_noticed(tmp_path: Path) -> None:
    source = open_rows(written(tmp_path / "X.zarr"))
    reader = elsewhere(source)
    shutil.rmtree(tmp_path / "X.zarr")
    written(tmp_path / "X.zarr", X[:50])
    with pytest.raises(DataError, match=r"must not change during a fit; got shape \(50, 4\), dtype <f4"):
        reader.read(0, 10)


class FailingStore(WrapperStore[MemoryStore]):
    """Fails to read chunks as often as `errors` has entries."""

    errors: list[Exception] = []  # noqa: RUF012

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if self.errors and key.startswith("c/"):
            raise self.errors.pop()
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError(), OSError(5, "Input/output error")])
def test_errors_that_pass_are_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(failures, "RETRY_SECONDS", (0.0, 0.0))
    store = FailingStore(MemoryStore())
    reader = reader_of(open_rows(written(store)))
    monkeypatch.setattr(FailingStore, "errors", [error] * 2)
    np.testing.assert_array_equal(reader.read(0, 100), X)
    monkeypatch.setattr(FailingStore, "errors", [error] * 3)
    with pytest.raises(DataError, match=f"Rows 0 to 100 must be readable; got {type(error).__name__}"):
        reader.read(0, 100)
    assert FailingStore.errors == []


@pytest.mark.parametrize(
    "layout", [{"chunks": (10, 4)}, {"chunks": (5, 4), "shards": (20, 4)}], ids=["plain", "shards"]
)
def test_no_flipped_bit_passes_in_a_store_with_checksums(layout: dict[str, Any], tmp_path: Path) -> None:
    """A hundred of each layout: an error that names the chunk and its rows."""
    array = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, dtype=X.dtype, compressors=Crc32cCodec(), **layout)
    array[...] = X
    files = sorted(path for path in (tmp_path / "X.zarr" / "c").rglob("*") if path.is_file())
    rng = np.random.default_rng(11)
    for _ in range(100):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(DataError, match="must be readable; got .* A chunk there is damaged") as caught:
            reader_of(open_rows(tmp_path / "X.zarr")).read(0, 100)
        key, n_rows = path.relative_to(tmp_path / "X.zarr").as_posix(), (layout.get("shards") or layout["chunks"])[0]
        first, last = map(int, re.findall(r"Rows (\d+) to (\d+)", str(caught.value))[0])
        assert f"{'shard' if 'shards' in layout else 'chunk'} {key} of " in str(caught.value)
        assert int(path.parent.name) * n_rows <= first < last <= (int(path.parent.name) + 1) * n_rows
        assert last - first == layout["chunks"][0]
        path.write_bytes(content)
    np.testing.assert_array_equal(reader_of(open_rows(tmp_path / "X.zarr")).read(0, 100), X)


def test_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FailingStore(MemoryStore())
    reader = reader_of(open_rows(written(store)))
    monkeypatch.setattr(FailingStore, "errors", [ValueError("now"), ValueError("bad")])  # (the second look says why)
    with pytest.raises(DataError, match=r"ValueError \(now\) from chunk c/0/0 of"):
        reader.read(0, 100)
    monkeypatch.setattr(FailingStore, "errors", [ValueError("bad")])
    with pytest.raises(DataError, match=r"Rows 0 to 100 .* ValueError \(bad\) from Zarr array"):
        reader.read(0, 100)
    monkeypatch.setattr(FailingStore, "errors", [PermissionError(13, "no")] * 2)
    with pytest.raises(DataError, match="Rows 0 to 100 .*PermissionError"):
        reader.read(0, 100)


def test_identity_tells_arrays_apart(group: Path) -> None:
    first, second = open_rows(group, array="X"), open_rows(group, array="inner/X")
    assert first.identity() != second.identity()
    assert first.identity() == open_rows(group / "X").identity()
    assert first.identity()["location"] == str(group / "X")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "X.zarr").mkdir()
    os.mkfifo(tmp_path / "X.zarr" / "zarr.json")
    with pytest.raises(DataError, match=r"What is read must be a file; got .*zarr\.json"):
        open_rows(tmp_path / "X.zarr")


def test_a_store_that_workers_see_empty_is_told_by_its_own_error(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a disk is not mounted there. (Zarr's error, its cause, cannot be sent.)"""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 320)
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(10, 4))
    rows = Rows.plan(open_rows(tmp_path / "X.zarr"), None)
    assert rows.n_partitions > 1
    shutil.rmtree(tmp_path / "X.zarr")
    (tmp_path / "X.zarr").mkdir()
    with pytest.raises(DataError, match=r"X, as a task reads it, must be a Zarr array .*exists but is no Zarr store"):
        run_pass(SurveyPass(4, False, 0, -1), rows, ClientExecutor(client), name="survey")
