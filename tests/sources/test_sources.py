"""The door to all sources, and the sources without chunks."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from dask.task_spec import Task
from hypothesis import given, settings
from hypothesis import strategies as st

from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.sources.array_source import ArraySource, NpySource
from daskgmm.sources.opening import open_rows
from daskgmm.sources.source import Source, as_reader, checked_shape, regular_edges

DTYPES = ["?", "u1", "<i2", ">i4", "<i8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]


def read_rows(argument: Any, start: int, stop: int) -> np.ndarray:
    return np.array(as_reader(argument, start).read(start, stop))


def rows_of(source: Source, bounds: list[tuple[int, int]]) -> list[np.ndarray]:
    """Return the rows of each range, read as tasks of one graph read them."""
    graph, arguments = source.arguments(bounds)
    for i, ((start, stop), argument) in enumerate(zip(bounds, arguments, strict=True)):
        graph[f"rows-{i}"] = Task(f"rows-{i}", read_rows, argument, start, stop)
    return list(dask.get(graph, [f"rows-{i}" for i in range(len(bounds))]))


def numbers(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 120).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(50, 3), (50, 1), (50,)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_file_reads_as_written(tmp_path: Path, dtype: str, shape: tuple[int, ...], order: Any) -> None:
    X = np.asarray(numbers(dtype, shape), order=order)
    np.save(tmp_path / "X.npy", X)
    source = open_rows(tmp_path / "X.npy")
    assert (source.n_rows, source.n_features, source.dtype) == (
        50,
        3 if len(shape) == 2 and shape[1] == 3 else 1,
        X.dtype,
    )
    assert source.travels
    first, second = rows_of(source, [(0, 20), (20, 50)])
    np.testing.assert_array_equal(np.concatenate([first, second]), X.reshape(50, -1))
    assert first.dtype == X.dtype


def test_npy_reader_travels_as_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "X.npy", np.ones((1000, 4)))
    monkeypatch.chdir(tmp_path)
    graph, _ = open_rows("X.npy").arguments([(0, 1000)])
    pickled = pickle.dumps(graph)
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    (node,) = pickle.loads(pickled).values()
    np.testing.assert_array_equal(node().read(990, 1000), np.ones((10, 4)))


def test_npy_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, np.ones((10, 4)))
    source = open_rows(path)
    np.save(path, np.ones((10, 5)))
    with pytest.raises(DataError, match=r"got shape \(10, 5\), dtype <f8, where it had \(10, 4\), <f8"):
        rows_of(source, [(0, 10)])


@pytest.mark.parametrize("data", [[[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]])])
def test_what_numpy_makes_an_array_of_is_a_source(data: Any) -> None:
    source = open_rows(data)
    assert (source.n_rows, source.n_features, source.travels) == (2, 2, False)
    np.testing.assert_array_equal(rows_of(source, [(1, 2)])[0], [[3, 4]])


def test_rows_in_memory_are_not_copied() -> None:
    X = np.ones((100, 3))
    graph, _ = open_rows(X).arguments([(0, 100)])
    (node,) = graph.values()
    assert np.shares_memory(node().read(10, 20), X)


def test_source_is_returned_as_it_is() -> None:
    source = ArraySource(np.ones((3, 2)))
    assert open_rows(source) is source
    assert isinstance(source, Source)


def test_data_frame_with_missing_values() -> None:
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": pandas.array([1, None], dtype="Int64")})
    np.testing.assert_array_equal(rows_of(open_rows(frame), [(0, 2)])[0], [[1.0, 1.0], [2.0, np.nan]])
    np.testing.assert_array_equal(rows_of(open_rows(frame["a"]), [(0, 2)])[0], [[1.0], [2.0]])
    frame["name"] = ["x", "y"]
    with pytest.raises(DataError, match=r"X must hold real numbers in every column; got dtype \w+ in column 'name'"):
        open_rows(frame)


@pytest.mark.parametrize("shape", [(4, 2), (10**6, 3), (10, 10**6)])
def test_runs_of_a_source_without_chunks_take_about_a_mebibyte(shape: tuple[int, int]) -> None:
    source = ArraySource(np.broadcast_to(np.float32(0), shape))
    edges = source.chunk_edges
    assert edges[0] == 0
    assert edges[-1] == shape[0]
    assert np.all(np.diff(edges) > 0)
    assert edges.dtype == np.int64
    row_bytes = 4 * shape[1]
    assert source.chunk_bytes == np.diff(edges).max() * row_bytes
    # (Rows are no fewer than features, or states would take longer to add than to make.)
    assert source.chunk_bytes <= max(2**20, row_bytes) or np.diff(edges).max() <= shape[1]


@given(n_rows=st.integers(1, 10**12), rows=st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_regular_edges_are_few_and_multiples(n_rows: int, rows: int) -> None:
    edges = regular_edges(n_rows, rows)
    assert edges[0] == 0
    assert edges[-1] == n_rows
    assert len(edges) <= 2**20 + 1
    assert np.all(np.diff(edges) > 0)
    assert np.all(edges[:-1] % rows == 0)
    if n_rows <= rows * 2**20:
        assert len(edges) == -(-n_rows // rows) + 1


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 3, 4), "f8", r"X must have shape .*; got 3 dimensions, shape \(2, 3, 4\), in here\. Reshape"),
        ((), "f8", r"got 0 dimensions, shape \(\), in here"),
        ((0, 3), "f8", r"X must have at least one row and one feature; got shape \(0, 3\) in here"),
        ((3, 0), "f8", r"got shape \(3, 0\) in here"),
        ((3, 3), "c16", r"X must hold real numbers .*; got dtype complex128 in here\..* give X\.real"),
        ((3, 3), "O", "got dtype object in here"),
        ((3, 3), "U3", "got dtype <U3 in here"),
        ((3, 3), "M8[s]", r"got dtype datetime64\[s\] in here"),
        pytest.param(
            (3, 3),
            np.longdouble,
            "got dtype (float96|float128) in here",
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here"),
        ),
        ((3, 3), [("a", "f8")], "in here"),
    ],
)
def test_inputs_that_no_mixture_can_be_fitted_to(shape: tuple[int, ...], dtype: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_shape(shape, np.dtype(dtype), argument="X", label="here")


def test_npy_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"X must be an existing file; got .*/none\.npy, which is not there"):
        open_rows(tmp_path / "none.npy")
    (tmp_path / "noise.npy").write_bytes(b"noise" * 100)
    with pytest.raises(DataError, match=r"X must be a whole \.npy file of numbers; got .*/noise\.npy"):
        open_rows(tmp_path / "noise.npy")
    np.save(tmp_path / "cut.npy", np.ones((100, 4)))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"must be a whole \.npy file"):
        open_rows(tmp_path / "cut.npy")
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"must be a whole \.npy file"):
        open_rows(tmp_path / "empty.npy")
    np.save(tmp_path / "object.npy", np.array([["a"], [1]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"must be a \.npy file of numbers; got .*Python objects"):
        open_rows(tmp_path / "object.npy")
    np.save(tmp_path / "none.npy", np.ones((0, 4)))
    with pytest.raises(DataError, match=r"must have at least one row and one feature; got shape \(0, 4\)"):
        open_rows(tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("X.npz", r"X must be a Zarr array, a \.npy file or Parquet .* a path; got a \.npz file, X\.npz.*numpy\.save"),
        ("s3://b/X.csv", r"got a \.csv file.*read_csv"),
        ("X.pkl", r"got a \.pkl file"),
        ("", "got an empty string"),
        ("http://localhost/X.npy", r"must be a path where it is a \.npy file; got the URL"),
        (object(), "X must be an array, a data frame, a path or a URL; got a object"),
        (None, "got a NoneType"),
        ([[1, 2], [3]], "got a list that is no array"),
    ],
)
def test_inputs_that_are_no_rows(data: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_rows(data)


_NEEDS = {".mat": ["scipy.io"], ".npz": [], ".feather": ["pandas", "pyarrow"], ".fcs": ["flowio"],
          ".fits": ["astropy.table", "pandas", "pyarrow"]}  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", *_NEEDS])
def test_conversions_that_messages_name(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is run as it stands, and what it makes is opened."""
    for module in _NEEDS.get(suffix, ["dask.dataframe", "pyarrow"]):
        pytest.importorskip(module, reason=f"the conversion of {suffix} files needs {module}")
    monkeypatch.chdir(tmp_path)
    X, path = np.arange(20, dtype="f8").reshape(10, 2), tmp_path / f"X{suffix}"
    if suffix == ".npz":
        np.savez(path, name=X)
    elif suffix == ".mat":
        import scipy.io

        scipy.io.savemat(path, {"name": X})
    elif suffix == ".feather":
        import pandas as pd

        pd.DataFrame(X, columns=["a", "b"]).to_feather(path)
    elif suffix == ".fits":
        from astropy.table import Table

        Table(X, names=["a", "b"]).write(path)
    elif suffix == ".fcs":
        import flowio

        with path.open("wb") as file:
            flowio.create_fcs(file, X.ravel().tolist(), ["a", "b"])
    else:
        between = {".csv": ",", ".tsv": "\t", ".txt": "  "}[suffix]
        np.savetxt(path, X, delimiter=between, header=between.join("ab"), comments="")
    with pytest.raises(OptionError, match=rf"got a \{suffix} file") as caught:
        open_rows(path)
    (code,) = re.findall(r"Convert it once: (.*)\.$", str(caught.value))
    exec(f"import {', '.join(sorted(modules_of(code)))}\n{code}", {})
    (made,) = set(tmp_path.iterdir()) - {path}
    np.testing.assert_array_equal(rows_of(open_rows(made), [(0, 10)])[0], X)


def modules_of(code: str) -> set[str]:
    """Return the modules that a line of code names: what stands before a class, or before the name of a function."""
    found = re.findall(r"\b(?:numpy|scipy|dask|h5py|pandas|astropy|flowio)[\w.]*", code)
    return {re.split(r"\.[A-Z]", name)[0] if re.search(r"\.[A-Z]", name) else name.rpartition(".")[0] for name in found}


def test_sparse_matrix_is_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(OptionError, match=r"X must be dense; got the sparse csr_array\. .*convert it with X\.toarray"):
        open_rows(sparse.csr_array(np.eye(3)))


def test_array_name_needs_named_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.ones((2, 2)))
    for data in (np.ones((2, 2)), tmp_path / "X.npy", ArraySource(np.ones((2, 2)))):
        with pytest.raises(OptionError, match=r"array must be left out .*got array='name' with"):
            open_rows(data, array="name")


def test_argument_is_called_by_its_name() -> None:
    with pytest.raises(DataError, match=r"^sample_weight must hold real numbers"):
        open_rows(["a", "b"], argument="sample_weight")


def test_identities_are_json_and_tell_inputs_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.ones((4, 2)))
    sources: list[Source] = [NpySource(tmp_path / "X.npy"), ArraySource(np.ones((4, 2))), ArraySource(np.ones((4, 3)))]
    identities = [json.dumps(s.identity()) for s in sources]
    assert len(set(identities)) == 3
    assert json.dumps(NpySource(tmp_path / "X.npy").identity()) == identities[0]
