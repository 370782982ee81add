"""Rows of Parquet files: numbers of every type, row groups large and small, what is refused, and what goes wrong."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, get_task_stream
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture, open_rows
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.fingerprint import check_unchanged, fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows, cuts
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import Passes, run_pass
from daskgmm.sources import parquet_source
from daskgmm.sources.partition import MIB
from daskgmm.sources.source import Source
from daskgmm.stores.output import write_predictions
from tests.clusters import LOCAL
from tests.sources.test_zarr_source import bare_reader_of, elsewhere, reader_of

pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: the extra 'parquet'")
pq = pytest.importorskip("pyarrow.parquet")

X = np.random.default_rng(0).normal(size=(1000, 4)).astype("f4")
NAMES = ["a", "b", "c", "d"]
F4 = np.ones(1, "f4")


def table(X: np.ndarray = X, names: list[str] = NAMES) -> Any:
    return pa.table({name: X[:, i] for i, name in enumerate(names)})


def written(path: Path, X: np.ndarray = X, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(X), path, **{"row_group_size": 300, **options})
    return path


def of(contents: dict[str, Any], path: Path, **options: Any) -> np.ndarray:
    """The rows of a table, as a reader elsewhere reads them."""
    pq.write_table(pa.table(contents), path)
    source = open_rows(path, **options)
    found = elsewhere(source).read(0, source.n_rows)
    assert found.dtype == source.dtype
    return np.asarray(found)


# -- numbers -------------------------------------------------------------------------------------------------------


def test_a_file_reads_as_written(tmp_path: Path) -> None:
    source = open_rows(written(tmp_path / "X.parquet"))
    assert (source.n_rows, source.n_features, source.dtype, source.travels) == (1000, 4, X.dtype, True)
    assert source.column_labels == NAMES
    np.testing.assert_array_equal(source.chunk_edges, [0, 300, 600, 900, 1000])
    np.testing.assert_array_equal(elsewhere(source).read(0, 1000), X)
    np.testing.assert_array_equal(elsewhere(source).read(250, 650), X[250:650])
    some = open_rows(tmp_path / "X.parquet", columns=["d", "a"])
    assert some.column_labels == ["d", "a"]
    np.testing.assert_array_equal(elsewhere(some).read(299, 301), X[299:301, [3, 0]])
    assert len(pickle.dumps(bare_reader_of(some))) < 1000


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_of_one_dtype_keep_it(tmp_path: Path, dtype: str) -> None:
    numbers = np.array([1.5, -2.0, np.nan, np.inf], dtype=dtype)
    found = of(
        {"a": numbers, "b": pa.array(np.array([1, 9, 2, 3], dtype), mask=np.array([0, 1, 0, 0], "?"))},
        tmp_path / "X.pq",
    )
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.column_stack([numbers, [1.0, np.nan, 2.0, 3.0]]))


def test_other_numbers_become_float64_and_nulls_nan(tmp_path: Path) -> None:
    whole = [pa.array([1, None, 100], type_) for type_ in (pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64())]
    columns = dict(zip("abcde", whole, strict=True))
    columns["bool"] = pa.array([True, None, False])
    columns["decimal"] = pa.array([1, None, 2]).cast(pa.decimal128(25, 3))
    columns["float"] = pa.array([0.5, None, -0.5], pa.float32())
    columns["none"] = pa.array([None, None, None], pa.int64())
    nan = np.nan
    expected = [[1.0] * 6 + [1.0, 0.5, nan], [nan] * 9, [100.0] * 5 + [0.0, 2.0, -0.5, nan]]
    found = of(columns, tmp_path / "X.parquet")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_whole_numbers_that_float64_cannot_hold_are_refused(tmp_path: Path) -> None:
    columns = {"id": pa.array([1, None, 2**60 + 1]), "x": [1.0, 2.0, 3.0]}
    with pytest.raises(
        DataError,
        match=r"^X must hold whole numbers of at most 2\^53.*; got 1152921504606846977 in row 2, column 'id'.*"
        r"Leave that column out with columns, or store it rounded",
    ):
        of(columns, tmp_path / "X.parquet")
    np.testing.assert_array_equal(of(columns, tmp_path / "X.parquet", columns=["x"]), [[1.0], [2.0], [3.0]])
    # (A null hides whatever bits there are.)
    np.testing.assert_array_equal(of({"id": pa.array([2**53, None])}, tmp_path / "X.parquet"), [[2.0**53], [np.nan]])


def test_lists_of_one_length_are_features(tmp_path: Path) -> None:
    embedding = pa.array([[1.0, 2.0], [0.0, 0.5], [3.0, None]], pa.list_(pa.float32(), 2))
    columns = {"emb": embedding, "x": pa.array([7.0, 8.0, 9.0], pa.float32())}
    path, nan = tmp_path / "X.parquet", np.nan
    found = of(columns, path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1.0, 2.0, 7.0], [0.0, 0.5, 8.0], [3.0, nan, 9.0]])
    assert open_rows(path).column_labels == ["emb[0]", "emb[1]", "x"]
    assert open_rows(path, columns=["x", "emb"]).column_labels == ["x", "emb[0]", "emb[1]"]
    np.testing.assert_array_equal(of(columns, path, columns=["emb[1]", "x", "emb[0]"])[0], [2.0, 7.0, 1.0])
    np.testing.assert_array_equal(of(columns, path, columns="emb[1]"), [[2.0], [0.5], [nan]])
    whole = pa.array([[1, 2], [3, 2**53 + 1]], pa.list_(pa.int64(), 2))
    with pytest.raises(DataError, match=r"got 9007199254740993 in column 'emb'"):
        of({"emb": whole}, path)


def test_lists_that_are_missing(tmp_path: Path) -> None:
    """Older versions of pyarrow write them in the general type of lists alone, and do not read them."""
    lists = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))
    schema = pa.schema([("emb", pa.list_(pa.float32(), 2))])
    with pq.ParquetWriter(tmp_path / "X.parquet", pa.schema([("emb", lists.type)])) as writer:
        writer.write_table(pa.table({"emb": lists}))
        writer.add_key_value_metadata({"ARROW:schema": base64.b64encode(schema.serialize()).decode()})
    source = open_rows(tmp_path / "X.parquet")
    assert source.column_labels == ["emb[0]", "emb[1]"]
    if int(pa.__version__.split(".")[0]) >= 26:
        np.testing.assert_array_equal(elsewhere(source).read(0, 3), [[1.0, 2.0], [np.nan] * 2, [3.0, 4.0]])
    else:
        with pytest.raises(DataError, match=r"hold no missing lists where pyarrow .*in row group 0 of .*install -U"):
            elsewhere(source).read(0, 3)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["a", "b"]), r"'bad' \(string\) in .*among 'x'\. Encode categories as numbers"),
        (pa.array(["a", "b"]).dictionary_encode(), r"'bad' \(dictionary<.*Encode categories"),
        (pa.array([1, 2], pa.timestamp("ns")), r"'bad' \(timestamp\[ns\]\).*Store times as seconds, in float64"),
        (pa.array([1, 2], pa.date32()), r"'bad' \(date32\[day\]\).*Store times as seconds"),
        (pa.array([[1.0], [1.0, 2.0]]), r"'bad' \(list<.*column\.cast\(pyarrow\.list_\(pyarrow\.float32\(\), length"),
        (pa.array([{"u": 1.0}, {"u": 2.0}]), r"'bad' \(struct<"),
        (pa.nulls(2), r"'bad' \(null\)"),
    ],
)
def test_columns_of_no_numbers_are_refused_by_name(tmp_path: Path, column: Any, message: str) -> None:
    path = tmp_path / "X.parquet"
    with pytest.raises(DataError, match=r"^X must hold real numbers in every column that is a feature; got " + message):
        of({"x": [1.0, 2.0], "bad": column}, path)
    np.testing.assert_array_equal(reader_of(open_rows(path, columns=["x"])).read(0, 2), [[1.0], [2.0]])
    with pytest.raises(DataError, match="got 'bad'"):
        open_rows(path, columns=["*"])


def test_the_remedy_for_lists(tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(
        of({"a": column.cast(pa.list_(pa.float32(), 2))}, tmp_path / "X.pq"), [[1, 2], [3, 4]]
    )


def test_names(tmp_path: Path) -> None:
    path = written(tmp_path / "X.parquet")
    with pytest.raises(InputMissingError, match=r"columns must name columns of X; got 'B' with .*Did you mean 'b'\?"):
        open_rows(path, columns=["a", "B"])
    with pytest.raises(OptionError, match="must name each column once"):
        open_rows(path, columns=["a", "a"])
    with pytest.raises(OptionError, match="array must be left out"):
        open_rows(path, array="a")
    # Dots are part of a name, and of how Parquet calls what is nested.
    np.testing.assert_array_equal(of({"a": [1.0], "a.b": [2.0]}, path, columns="a"), [[1.0]])
    np.testing.assert_array_equal(of({"a": [1.0], "a.b": [2.0]}, path), [[1.0, 2.0]])
    pq.write_table(pa.table([[1.0], [2.0], [3.0]], names=["a", "b", "a"]), path)
    np.testing.assert_array_equal(reader_of(open_rows(path, columns="b")).read(0, 1), [[2.0]])
    with pytest.raises(DataError, match=r"have a name for each column that no other one has; got several columns 'a'"):
        open_rows(path)


def test_the_index_of_a_data_frame_is_no_feature(tmp_path: Path) -> None:
    """pandas and Dask write it as a column, and say that it is one."""
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    frame = pandas.DataFrame({"b": [1.0, 2.0], "a": [3.0, 4.0]}, index=pandas.Index([7, 8], name="id"))
    frame.to_parquet(tmp_path / "X.parquet")
    assert pq.read_schema(tmp_path / "X.parquet").names == ["b", "a", "id"]
    for columns in (None, ["*"]):
        assert open_rows(tmp_path / "X.parquet", columns=columns).column_labels == ["b", "a"]
    assert open_rows(tmp_path / "X.parquet", columns=["id", "*"]).column_labels == ["id", "b", "a"]


# -- row groups ----------------------------------------------------------------------------------------------------


def tally(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Source, list[int]]:
    """A source, and the rows of each batch that is decoded from now on."""
    decoded: list[int] = []
    true = pq.ParquetFile.iter_batches

    def counted(*args: Any, **kwargs: Any) -> Any:
        for rows in true(*args, **kwargs):
            decoded.append(rows.num_rows)
            yield rows

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    return open_rows(path), decoded


def test_a_large_row_group_is_decoded_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may end within it, and the next one goes on there; each byte is counted once."""
    monkeypatch.setattr(parquet_source, "_LEAST_STEP", 16)
    monkeypatch.setattr(parquet_source, "_STEP_BYTES", 16 * 16)
    monkeypatch.setattr("daskgmm.sources.partition.RUN_BYTES", 64 * 16)
    source, decoded = tally(written(tmp_path / "X.parquet", row_group_size=700), monkeypatch)
    rows = Rows.plan(source, None)
    assert rows.n_partitions == 1
    (cut,) = cuts(rows)
    assert np.diff(cut.runs).max() == 64
    assert source.chunk_bytes == 16 * 16
    with Passes(rows, LocalExecutor()) as passes:
        for n in (1, 2):
            found = passes.run(SurveyPass(4, False, 0, -1), name="survey")
            np.testing.assert_allclose(found.mean, X.mean(axis=0, dtype="f8"), rtol=1e-12)
            assert (passes.bytes_read, sum(decoded), max(decoded)) == (n * X.nbytes, n * 1000, 16)
    # What begins within a row group decodes what is before it there.
    decoded.clear()
    np.testing.assert_array_equal(reader_of(source).read(350, 360), X[350:360])
    assert sum(decoded) in range(360, 377)


def test_any_thread_reads_its_own(tmp_path: Path) -> None:
    source = open_rows(written(tmp_path / "X.parquet", row_group_size=500))
    reader = elsewhere(source)
    barrier = threading.Barrier(4)

    def read(first: int) -> bool:
        barrier.wait()
        found = [reader.read(i, min(i + 7, 1000)) for i in range(first, 1000, 7)]
        return np.array_equal(np.concatenate(found), X[first:])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [0, 100, 0, 100]))


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=4),
    step=st.integers(1, 50),
    data=st.data(),
)
def test_any_files_and_ranges_give_the_rows(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], step: int, data: st.DataObject
) -> None:
    folder, n_rows = tmp_path_factory.mktemp("X"), 0
    for i, groups in enumerate(lengths):
        with pq.ParquetWriter(folder / f"{i}.parquet", table().schema) as writer:
            for n in groups:
                writer.write_table(table(X[n_rows : n_rows + n]))
                n_rows += n
    if n_rows == 0:
        with pytest.raises(DataError, match="must have at least one row and one feature"):
            open_rows(folder)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_source, "_LEAST_STEP", step)
        patch.setattr(parquet_source, "_STEP_BYTES", 1)
        source = open_rows(folder)
    assert source.n_rows == n_rows
    for edges in (source.chunk_edges, source.run_edges):
        assert (edges[0], edges[-1]) == (0, n_rows)
        assert (np.diff(edges) > 0).all()
    assert np.isin(source.chunk_edges, source.run_edges).all()
    assert np.diff(source.run_edges).max() <= step
    low, high = sorted(data.draw(st.sets(st.integers(0, n_rows), min_size=2, max_size=2)))
    np.testing.assert_array_equal(elsewhere(source).read(low, high), X[low:high])
    own = source.reader().among(low, high)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(own.read(low, high), X[low:high])


def test_memory_of_one_huge_row_group_is_as_stated(tmp_path: Path) -> None:
    """200 MiB of it are decoded in runs."""
    n_rows, names = 1_600_000, [f"c{i}" for i in range(16)]
    rng = np.random.default_rng(0)
    column = pa.array(rng.integers(120_000, size=n_rows).astype("f8"))
    path = tmp_path / "X.parquet"
    pq.write_table(pa.table(dict.fromkeys(names, column)), path, row_group_size=n_rows, compression="snappy")
    code = """
import re, sys
from pathlib import Path
from daskgmm import open_rows
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows, cuts, runs_read
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
import zarr, distributed, daskgmm.passes.tree
before = peak()
source = open_rows(sys.argv[1])
rows = Rows.plan(source, None)
(cut,) = cuts(rows)
n = sum(len(run) for run in runs_read(cut, source.reader()))
assert "pandas" not in sys.modules
assert n == source.n_rows
print(peak() - before, source.read_bytes(2 * 2**24), source.n_rows * source.row_bytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
    )  # fmt: skip
    taken, stated, decoded = map(int, done.stdout.split())
    assert decoded > 190 * MIB
    assert stated < 180 * MIB
    assert taken < stated, (taken >> 20, stated >> 20)


# -- fits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 4800)


def test_a_fit_is_that_of_the_same_numbers(tmp_path: Path, small_rows: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    rows = small_rows
    frame = {"u": rows[:, 0], "label": ["x"] * len(rows), "v": rows[:, 1], "w": rng.uniform(0.5, 2, len(rows))}
    pq.write_table(pa.table(frame), tmp_path / "X.parquet", row_group_size=700)
    options: dict[str, Any] = {"random_state": 0, "start_rows": 500, "escape": False, "tol": 1e-6}
    X = open_rows(tmp_path / "X.parquet", columns=["u", "v"])
    weights = open_rows(tmp_path / "X.parquet", columns="w")
    ours = GaussianMixture(2, **options).fit(X, sample_weight=weights)
    theirs = GaussianMixture(2, **options).fit(rows, sample_weight=frame["w"])
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-10)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-9)
    assert list(ours.feature_names_in_) == ["u", "v"]
    assert np.array_equal(np.asarray(ours.predict(X)), theirs.predict(rows))


def test_bits_are_those_of_any_number_of_workers(tmp_path: Path, small_partitions: None) -> None:
    for i in range(3):
        written(tmp_path / "X" / f"part-{i}.parquet", X[i * 300 : (i + 1) * 300], row_group_size=70)
    rows = Rows.plan(open_rows(tmp_path / "X"), None)
    assert rows.n_partitions == 4
    work = SurveyPass(4, False, 0, -1)
    found = [run_pass(work, rows, LocalExecutor(), name="survey")]
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, processes=True, memory_limit="1GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        for n_workers in (4, 2, 1):
            client.retire_workers(sorted(client.nthreads())[n_workers:])
            assert len(client.nthreads()) == n_workers
            found.append(run_pass(work, rows, ClientExecutor(client), name="survey"))
    assert len({(one.mean.tobytes(), one.scatter.tobytes()) for one in found}) == 1
    np.testing.assert_allclose(found[0].mean, X[:900].mean(axis=0, dtype="f8"), rtol=1e-12)


def test_predictions_of_row_groups_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_rows: np.ndarray
) -> None:
    """A stored output has partitions of equal length, which begin within row groups; lazy ones are of row groups."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 16_000)
    rows = np.concatenate([small_rows] * 6)
    frame = {"u": rows[:, 0], "v": rows[:, 1]}
    for i, (low, high) in enumerate([(0, 5_000), (5_000, 5_100), (5_100, 13_000), (13_000, 18_000)]):
        some = pa.table({name: column[low:high] for name, column in frame.items()})
        pq.write_table(some, tmp_path / f"{i}.parquet", row_group_size=3_100)
    mixture = GaussianMixture(3, random_state=0, start_rows=500, escape=False).fit(small_rows)
    expected, X = mixture.predict(rows), open_rows(tmp_path)
    assert len(set(np.diff(Rows.plan(X, None).edges)[:-1])) > 1, "uneven partitions"
    write_predictions(Predictor.of(mixture._parameters(), "label"), X, str(tmp_path / "labels.zarr"), record={})
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr", mode="r")[:], expected)
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_array_equal(np.asarray(mixture.predict(X)), expected)


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_damage_is_named_by_file_and_row_group(tmp_path: Path) -> None:
    path = written(tmp_path / "X.parquet", compression="zstd", write_page_checksum=True)
    source, content = open_rows(path), bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(1)
    content[group.column(2).data_page_offset + 60] ^= 1
    path.write_bytes(content)
    reader = elsewhere(source)
    with pytest.raises(
        DataError, match=r"^Rows 250 to 650 must be readable; got .* from row group 1 of .*X\.parquet\. "
    ):
        reader.read(250, 650)
    np.testing.assert_array_equal(reader.read(650, 660), X[650:660])
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"got .* from row group 0 of .*X\.parquet\. It is damaged there"):
        elsewhere(source).read(0, 10)
    with pytest.raises(DataError, match=r"X must be whole Parquet files; got .*X\.parquet \(ArrowInvalid: .*footer"):
        open_rows(path)
    path.unlink()
    with pytest.raises(InputMissingError, match=r"^Rows 0 to 10 must be an existing Parquet file.*X\.parquet"):
        elsewhere(source).read(0, 10)


def test_files_that_change_are_noticed(tmp_path: Path, small_partitions: None) -> None:
    for i in range(4):
        written(tmp_path / f"{i}.parquet", X[i * 250 : (i + 1) * 250])
    source = open_rows(tmp_path)
    rows = Rows.plan(source, None)
    before, identity = fingerprints(rows, LocalExecutor()), source.identity()
    assert json.loads(json.dumps(identity)) == identity == open_rows(tmp_path).identity()
    assert fingerprints(rows, LocalExecutor()) == before
    written(tmp_path / "2.parquet", X[:250])
    assert open_rows(tmp_path).identity()["modified"] != identity["modified"]
    with pytest.raises(DataError, match=r"other files for rows 500 to 750 of .*partition 2, of 4"):
        check_unchanged(before, fingerprints(rows, LocalExecutor()), rows, checkpoint=None)
    # One of another length is no matter of stamps.
    written(tmp_path / "2.parquet", X[:249])
    with pytest.raises(DataError, match=r"2\.parquet must not change during a fit; got .* 249 rows in 1 row groups"):
        elsewhere(source).read(490, 510)
    assert open_rows(tmp_path, columns=["a"]).identity() != open_rows(tmp_path, columns=["b"]).identity()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": F4, "b": F4, "c": F4}, r"have the columns of the first, .*0\.parquet; got no column 'd' in .*1\.par"),
        (dict.fromkeys("abcde", F4), r"got a further column 'e' in .*1\.parquet\. Name the columns that all have"),
        ({name: [1] for name in NAMES}, r"got int64 in column 'a' of .*1\.parquet, float in .*0\.parquet\. Give"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_other_schemas_are_refused_before_anything_is_read(
    tmp_path: Path, other: dict[str, Any], message: str, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if many:
        monkeypatch.setattr("daskgmm.sources.parquet_footers._MOST_HERE", 0)
    written(tmp_path / "0.parquet")
    pq.write_table(pa.table(other), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=message):
        open_rows(tmp_path)


def test_columns_that_all_files_have_are_enough(tmp_path: Path) -> None:
    written(tmp_path / "0.parquet")
    pq.write_table(pa.table({"e": ["x"], "b": pa.array([7.0], pa.float32())}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"Files of one input must have the columns of the first"):
        open_rows(tmp_path)
    np.testing.assert_array_equal(reader_of(open_rows(tmp_path, columns=["b"])).read(999, 1001), [[X[999, 1]], [7.0]])


def test_footers_of_many_files_are_read_by_tasks(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the workers; and each task of a pass is told its own files."""
    monkeypatch.setattr("daskgmm.sources.parquet_footers._MOST_HERE", 3)
    monkeypatch.setattr("daskgmm.sources.parquet_footers._FOOTERS_PER_TASK", 4)
    monkeypatch.setattr(parquet_source, "_FEW_FILES", 3)
    for i in range(12):
        written(tmp_path / f"{i}.parquet", X[i * 80 : (i + 1) * 80])
    with get_task_stream(client) as tasks:
        source = open_rows(tmp_path)
    assert len([task for task in tasks.data if "footers" in str(task["key"])]) == 3, [
        task["key"] for task in tasks.data
    ]
    assert source.n_rows == 960
    graph, arguments = source.arguments([(0, 160), (160, 960)])
    assert len(pickle.dumps(graph[arguments[0].key])) < len(pickle.dumps(graph[arguments[1].key]))
    np.testing.assert_array_equal(graph[arguments[1].key]().read(400, 720), X[400:720])
    found = run_pass(SurveyPass(4, False, 0, -1), Rows.plan(source, None), ClientExecutor(client), name="survey")
    np.testing.assert_allclose(found.mean, X[:960].mean(axis=0, dtype="f8"), rtol=1e-12)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_rows(written(tmp_path / "X.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    remedy = r"Install it, here and on the workers: pip install 'daskgmm\[parquet\]'"
    with pytest.raises(OptionError, match=rf"X must be Parquet files only where pyarrow is installed; got .*{remedy}"):
        open_rows(tmp_path / "X.parquet")
    with pytest.raises(OptionError, match=rf"^Rows 0 to 10 must be Parquet files only where .*{remedy}"):
        elsewhere(source).read(0, 10)
