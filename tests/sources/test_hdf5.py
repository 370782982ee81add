"""Rows of HDF5 and netCDF-4 files: data sets, columns and grids, packed numbers, what is refused, what goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

from daskgmm import GaussianMixture, open_rows
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.fingerprint import check_unchanged, fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import run_pass
from daskgmm.sources import failures
from daskgmm.sources.hdf5_reader import Hdf5Reader
from daskgmm.sources.partition import MIB
from tests.clusters import LOCAL
from tests.sources.test_conventions import refused, rows_of
from tests.sources.test_zarr_source import bare_reader_of, elsewhere, reader_of

h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py: the extra 'hdf5'")

X = np.random.default_rng(0).normal(size=(1000, 4)).astype("f4")
LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunked": {"chunks": (300, 4)},
    "chunked both ways": {"chunks": (70, 3)},
    "gzip": {"chunks": (300, 4), "compression": "gzip", "shuffle": True, "fletcher32": True},
}


def written(path: Path, values: np.ndarray = X, name: str = "g/x", **layout: Any) -> Path:
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=values, **layout)
    return path


# -- one data set --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_data_set_reads_as_written(tmp_path: Path, layout: str) -> None:
    path = written(tmp_path / "X.h5", **LAYOUTS[layout])
    for source in (open_rows(path), open_rows(f"{path}::/g/x"), open_rows(f"{path}::g", array="x"),
                   open_rows(path, array="/g/x")):  # fmt: skip
        assert (source.n_rows, source.n_features, source.dtype, source.travels) == (1000, 4, X.dtype, True)
        assert_array_equal(elsewhere(source).read(250, 650), X[250:650])
    assert (source.label, source.places, source.root) == (f"{path}::/g/x", [str(path)], str(path))
    chunk = LAYOUTS[layout].get("chunks", (1000,))[0]
    assert_array_equal(source.chunk_edges, [*range(0, 1000, chunk), 1000])
    assert len(pickle.dumps(bare_reader_of(source))) < 400
    json.dumps(source.identity())
    assert source.identity()["kind"] == "hdf5"


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "i2", ">i4", "u8", "?"])
def test_numbers_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    numbers = np.arange(60).reshape(20, 3).astype(dtype)
    source = open_rows(written(tmp_path / "X.hdf5", numbers))
    assert source.dtype == np.dtype(dtype)
    assert_array_equal(rows_of(source), numbers)
    one = open_rows(written(tmp_path / "y.hdf5", numbers[:, 0]))
    assert_array_equal(rows_of(one), numbers[:, :1])


def test_a_path_says_that_it_is_hdf5(tmp_path: Path) -> None:
    """By what the file begins with, or a name behind its suffix; suffixes in capitals too."""
    for name in ("X.H5", "X.nc4", "X", "X.dat"):
        assert open_rows(written(tmp_path / name)).n_rows == 1000
    assert open_rows(f"{tmp_path / 'X.dat'}::/g/x").n_rows == 1000
    assert open_rows(f"file://{tmp_path / 'X.H5'}").n_rows == 1000


def test_which_data_set(tmp_path: Path) -> None:
    path = written(tmp_path / "X.h5")
    message = refused(f"{path}::/g/y", InputMissingError)
    assert f"X must name a data set or group of the file; got '/g/y' with {path}, where none" in message
    assert message.endswith("Did you mean 'g/x'?")
    assert "array must name a data set" in refused(path, InputMissingError, array="x")
    assert refused(path, InputMissingError, array="x").endswith("Did you mean 'g/x'?")
    assert "where X is a data set itself" in refused(f"{path}::/g/x", OptionError, array="x")
    assert "where X is one data set" in refused(f"{path}::/g/x", OptionError, columns=["x"])
    written(path, X[:, 0], "u")
    written(path, X[:, 1], "v")
    message = refused(path, OptionError)
    assert f"X must be one data set; got 3 that it may be in {path} (it has" in message
    (one,) = re.findall(r"such as (\S+)\.", message)
    assert open_rows(one).n_rows == 1000
    (columns,) = re.findall(r"name them by columns: (.*)\.$", message)
    assert open_rows(path, columns=eval(f"[{columns}]")).column_labels == ["u", "v"]


def test_what_is_no_rows_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "X.h5"
    with h5py.File(path, "w") as file:
        file["text"] = ["a", "b"]
        file["one"] = 1.0
        file["complex"] = np.ones((3, 2), "c16")
        file["table"] = np.zeros(3, [("a", "f8"), ("b", "i4"), ("s", "S3")])
        file["cube"] = np.zeros((3, 2, 2))
        file["empty"] = np.zeros((0, 2))
        file["nothing"] = h5py.Empty("f8")
        sparse = file.create_group("sparse")
        sparse.attrs["encoding-type"] = "csr_matrix"
        sparse["data"] = np.ones(3)
        file["lost"] = h5py.SoftLink("/nowhere")
    for name, said in (
        ("text", "hold real numbers .* got dtype object in"),
        ("one", "got a single value in"),
        ("nothing", "got nothing in"),
        ("complex", "Complex data not supported"),
        ("table", r"got a table of 3 fields \('a', 'b'\) in .*Write its fields as data sets of their own"),
        ("cube", r"got 3 dimensions, shape \(3, 2, 2\), in .*Name it by columns"),
        ("empty", "have at least one row"),
        ("sparse", "must be dense; got the sparse csr_matrix /sparse of .*such as obsm/X_pca"),
    ):
        with pytest.raises(DataError, match=said):
            open_rows(f"{path}::/{name}")
    assert "where none has that name" in refused(f"{path}::/lost", InputMissingError)
    with h5py.File(path, "a") as file:
        del file["empty"]
    message = refused(path)
    assert "must be, or hold, one data set of numbers of one or two dimensions; got none in" in message
    (columns,) = re.findall(r"Name data sets by columns, (\[.*\]): each point", message)
    assert open_rows(path, columns=eval(columns)).n_rows == 12


def test_an_atlas_of_single_cells(tmp_path: Path) -> None:
    path = written(tmp_path / "atlas.h5ad", name="obsm/X_pca")
    with h5py.File(path, "a") as file:
        sparse = file.create_group("X")
        sparse.attrs["encoding-type"] = "csr_matrix"
        for name in ("data", "indices", "indptr"):
            sparse[name] = np.ones(3, "i4")
    assert_array_equal(rows_of(open_rows(f"{path}::/obsm/X_pca")), X)
    assert open_rows(path).label.endswith("/obsm/X_pca"), "parts of a sparse matrix are no rows"


def test_rows_that_were_never_written(tmp_path: Path) -> None:
    path = tmp_path / "X.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (100, 2), "f4", chunks=(10, 2))[:30] = 1.0
        file.create_dataset("nan", (100, 2), "f4", chunks=(10, 2), fillvalue=np.nan)
        file.create_dataset("none", (100, 2), "f4")
    message = refused(f"{path}::/x")
    assert "X must be written whole; got" in message
    assert "where 3 of 10 chunks were, and HDF5 would read 0.0 for the others" in message
    assert "where 0 of 1 chunks were" in refused(f"{path}::/none")
    assert np.isnan(rows_of(open_rows(f"{path}::/nan"))).all()
    assert "'dask.config.set" not in message
    (code,) = re.findall(r"say so: (dask\.config\.set\(.*\))\.$", message)
    with eval(code):
        assert rows_of(open_rows(f"{path}::/x")).sum() == 60
    assert rows_of(open_rows(f"{path}::/x", missing_chunks="fill")).sum() == 60


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "X.h5")
    with pytest.raises(InputMissingError, match=r"X must be an existing HDF5 file; got .*/no\.h5, where there is none"):
        open_rows(tmp_path / "no.h5")
    (tmp_path / "folder.nc").mkdir()
    with pytest.raises(InputMissingError, match=r"got .*/folder\.nc, a folder"):
        open_rows(tmp_path / "folder.nc")
    for content in (b"", b"noise" * 100, path.read_bytes()[:2000]):
        (tmp_path / "bad.h5").write_bytes(content)
        with pytest.raises(DataError, match=r"X must be a whole HDF5 file; got .*/bad\.h5 \(OSError: .*write it again"):
            open_rows(tmp_path / "bad.h5")
    (tmp_path / "bad.hdf").write_bytes(b"\x0e\x03\x13\x01" + b"\0" * 100)
    with pytest.raises(OptionError, match=r"got the HDF4 file .*h4toh5"):
        open_rows(tmp_path / "bad.hdf")
    for url in ("s3://bucket/X.h5", "https://host/X.nc::/x", "X.h5::s3://bucket/X"):
        with pytest.raises(OptionError, match=r"must be a path where it is an HDF5 or netCDF file; got the URL .*Zarr"):
            open_rows(url)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        with pytest.raises(
            OptionError, match=r'X must be an HDF5 file only where h5py is installed; .*pip install "daskgmm\[hdf5\]"$'
        ):
            open_rows(path)


def test_netcdf_3_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    xarray, io = pytest.importorskip("xarray"), pytest.importorskip("scipy.io")
    path = tmp_path / "old.nc"
    with io.netcdf_file(path, "w") as file:
        file.createDimension("row", 1000)
        file.createDimension("feature", 4)
        file.createVariable("x", "f4", ("row", "feature"))[:] = X
    message = refused(path, OptionError)
    assert f"X must be a netCDF-4 or HDF5 file; got the netCDF-3 file {path}. Convert it once: xarray" in message
    (code,) = re.findall(r"once: (.*)$", message)
    eval(code.replace("X.zarr", str(tmp_path / "X.zarr")), {"xarray": xarray})
    assert_array_equal(rows_of(open_rows(tmp_path / "X.zarr")), X)


def test_a_file_that_somebody_writes_to(tmp_path: Path) -> None:
    path = written(tmp_path / "X.h5")
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=-1, stdout=-1, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(DataError, match=r"X must be closed by who writes to it; got .*/X\.h5, which somebody has"):
            open_rows(path)
        writer.communicate("")
    assert open_rows(path).n_rows == 1000


def test_a_file_is_let_go_with_its_source(tmp_path: Path) -> None:
    """Else nobody could write to it in this process; and two readers of a file do not close each other's."""
    path = written(tmp_path / "X.h5")
    one, other = reader_of(open_rows(path)), elsewhere(open_rows(path))
    assert_array_equal(one.read(0, 10), other.read(0, 10))
    del one
    assert_array_equal(other.read(990, 1000), X[990:])
    del other
    written(path, X, "y")


# -- what goes wrong -----------------------------------------------------------------------------------------------
def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "X.h5", chunks=(100, 4), fletcher32=True)
    with h5py.File(path) as file:
        place = file["g/x"].id.get_chunk_info(3).byte_offset
    source, content = open_rows(path), bytearray(path.read_bytes())
    content[place + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError,
        match=r"^Rows 300 to 400 must be readable; got OSError \(.*\) from the chunk at \(300, 0\) of .*/X\.h5::/g/x\. "
        "The file is damaged there: write it again",
    ):
        reader_of(source).read(0, 1000)
    assert_array_equal(reader_of(source).read(400, 1000), X[400:])


def test_a_file_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_SECONDS", ())
    path = written(tmp_path / "X.h5")
    rows = Rows.plan(open_rows(path), None)
    before = fingerprints(rows, LocalExecutor())
    reader = elsewhere(rows.X)
    assert_array_equal(reader.read(0, 5), X[:5])
    check_unchanged(before, fingerprints(rows, LocalExecutor()), rows, checkpoint=None)
    new = written(tmp_path / "new.h5", 2 * X)
    os.replace(new, path)
    assert_array_equal(reader.read(0, 5), 2 * X[:5])
    with pytest.raises(DataError, match="must stay as it is while it is read"):
        check_unchanged(before, fingerprints(rows, LocalExecutor()), rows, checkpoint=None)
    os.replace(written(tmp_path / "new.h5", X[:900]), path)
    with pytest.raises(DataError, match=r"X\.h5::/g/x must not change during a fit; got shape \(900, 4\), dtype <f4"):
        reader.read(0, 5)
    os.replace(written(tmp_path / "new.h5", X, "other"), path)
    with pytest.raises(DataError, match="got no data set of that name, where it had shape"):
        reader.read(0, 5)
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(DataError, match="X, as a task reads it, must be a whole HDF5 file"):
        reader.read(0, 5)
    path.unlink()
    with pytest.raises(InputMissingError, match="where there is none"):
        reader.read(0, 5)


def test_filters_by_hdf5plugin(tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    path = written(tmp_path / "X.h5", chunks=(100, 4), **hdf5plugin.Zstd())
    assert_array_equal(rows_of(open_rows(path)), X)
    code = "import sys; sys.modules['hdf5plugin'] = None; from daskgmm import open_rows; open_rows(sys.argv[1])"
    own = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=own)
    found = done.stderr.splitlines()[-1]
    assert "X must be compressed by filters that are installed; got filter 32015 (" in found
    assert found.endswith("Install hdf5plugin, here and on the workers: pip install hdf5plugin")


# -- fits ----------------------------------------------------------------------------------------------------------
ASKED: dict[str, Any] = {"random_state": 0, "start_rows": 500, "escape": False, "tol": 1e-6}


def test_a_fit_is_that_of_the_same_numbers(tmp_path: Path, small_rows: np.ndarray) -> None:
    weights = np.random.default_rng(0).uniform(0.5, 2, len(small_rows))
    path = written(tmp_path / "X.h5", small_rows, "x", chunks=(333, 2), compression="gzip")
    written(path, weights, "w")
    ours = GaussianMixture(2, **ASKED).fit(f"{path}::/x", sample_weight=f"{path}::/w")
    theirs = GaussianMixture(2, **ASKED).fit(small_rows, sample_weight=weights)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-10)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-9)
    assert_array_equal(ours.predict(f"{path}::/x"), theirs.predict(small_rows))


def test_bits_are_those_of_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 4000)
    rows = Rows.plan(open_rows(written(tmp_path / "X.h5", chunks=(125, 4), compression="gzip")), None)
    assert rows.n_partitions == 4
    work = SurveyPass(4, False, 0, -1)
    found = [run_pass(work, rows, LocalExecutor(), name="survey")]
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, processes=True, memory_limit="1GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        for n_workers in (4, 2, 1):
            client.retire_workers(sorted(client.nthreads())[n_workers:])
            found.append(run_pass(work, rows, ClientExecutor(client), name="survey"))
    assert len({(one.mean.tobytes(), one.scatter.tobytes()) for one in found}) == 1
    np.testing.assert_allclose(found[0].mean, X.mean(axis=0, dtype="f8"), rtol=1e-12)


def bytes_read() -> int:
    """What this thread has asked the system for, of any file."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/thread-self/io").read_text())[1])  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/thread-self/io").exists(), reason="only Linux counts what is read")
@pytest.mark.parametrize("layout", [{}, {"chunks": (500, 2)}, {"chunks": (700, 4), "compression": "gzip"}])
def test_each_byte_is_read_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    """In several partitions of several runs, as the system counts it."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 300_000)
    monkeypatch.setattr("daskgmm.sources.partition.RUN_BYTES", 64_000)
    path = written(tmp_path / "X.h5", np.random.default_rng(0).normal(size=(80_000, 4)), **layout)
    true, asked = Hdf5Reader.read_box, []

    def counted(reader: Hdf5Reader, box: Any) -> Any:
        before = bytes_read()
        found = true(reader, box)
        asked.append(bytes_read() - before)
        return found

    monkeypatch.setattr(Hdf5Reader, "read_box", counted)
    rows = Rows.plan(open_rows(path), None)
    assert rows.n_partitions >= 3
    assert run_pass(SurveyPass(4, False, 0, -1), rows, LocalExecutor(), name="survey").n_rows == 80_000
    assert len(asked) >= rows.n_partitions
    # (And what says where the numbers are, with the 64 KiB that HDF5 reads of that at once.)
    assert 0.95 * path.stat().st_size < sum(asked) < 1.02 * path.stat().st_size + 80_000


def test_memory_is_as_stated(tmp_path: Path) -> None:
    """160 MiB are decoded, in runs of chunks of 5 MiB."""
    numbers = np.random.default_rng(0).integers(0, 99, (10, 262_144, 8)).astype("f8").reshape(-1, 8)
    path = written(tmp_path / "X.h5", numbers, chunks=(81_920, 8), compression="lzf")
    code = """
import re, sys
from pathlib import Path
from daskgmm import open_rows
from daskgmm.passes.rows import Rows, cuts, runs_read
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
import zarr, distributed, daskgmm.passes.tree
before = peak()
source = open_rows(sys.argv[1])
runs = [len(run) for cut in cuts(Rows.plan(source, None)) for run in runs_read(cut, source.reader())]
print(peak() - before, source.read_bytes(2 * max(runs) * source.row_bytes), sum(runs))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
    )  # fmt: skip
    taken, stated, n_rows = map(int, done.stdout.split())
    assert n_rows == len(numbers)
    assert taken < stated < 80 * MIB < numbers.nbytes


def test_predict_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "X.h5", chunks=(300, 4))
    with dask.config.set(scheduler="synchronous"):
        mixture = GaussianMixture(2, **{**ASKED, "tol": 1.0}).fit(f"{path}::/g/x")
    mixture.save(str(tmp_path / "model.zarr"))
    command = ["predict", "model.zarr", "X.h5::/g/x", "--output", "labels.zarr"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(gmm, command, prog_name="daskgmm")
    assert done.exit_code == 0, done.output
    assert_array_equal(rows_of(open_rows(tmp_path / "labels.zarr"))[:, 0], mixture.predict(X))
