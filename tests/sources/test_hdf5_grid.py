"""Several data sets of an HDF5 or netCDF-4 file as features: columns, grids, dimensions; packed numbers as xarray's."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from daskgmm import GaussianMixture, open_rows
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, InputMissingError, NoRowsError, OptionError
from daskgmm.passes.fingerprint import check_unchanged, fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.sources import hdf5_reader
from tests.sources.test_conventions import refused, rows_of
from tests.sources.test_packed import PACKINGS, RAW
from tests.sources.test_zarr_grid import ASKED, SHAPE, in_order, numbers, stacked
from tests.sources.test_zarr_source import elsewhere

h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py: the extra 'hdf5'")

CELL = (2, 20, 25)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with dimension scales, of which "x" has no numbers, chunks of several shapes, and none."""
    place, arrays = tmp_path_factory.mktemp("grid") / "ocean.h5", numbers()
    with h5py.File(place, "w") as file:
        file.create_dataset("TEMP", data=arrays["TEMP"], chunks=CELL, compression="gzip")
        file.create_dataset("SAL", data=arrays["SAL"], chunks=(1, 10, 5))
        file["w"] = arrays["w"]
        packed = np.where(np.isnan(arrays["SAL"]), -9999, np.round(arrays["SAL"] * 100)).astype("i2")
        file.create_dataset("PACKED", data=packed, chunks=CELL)
        file["PACKED"].attrs["scale_factor"] = np.array([0.01])
        file["PACKED"].attrs["_FillValue"] = np.array([-9999], "i2")
        file["flat"] = np.ones(SHAPE).ravel()
        file["time"] = np.arange(7.0)
        file["y"] = np.arange(50)
        file["x"] = np.zeros(60, "f4")
        for name in ("time", "y", "x"):
            file[name].make_scale(
                name if name != "x" else "This is a netCDF dimension but not a netCDF variable.        60"
            )
        for name in ("TEMP", "SAL", "w", "PACKED"):
            for axis, scale in enumerate(("time", "y", "x")):
                file[name].dims[axis].attach_scale(file[scale])
    return place


def test_weights_at_other_coordinates_are_refused(place: Path, tmp_path: Path) -> None:
    shutil.copy(place, tmp_path / "other.h5")
    X = open_rows(place, columns="PACKED")
    same = open_rows(tmp_path / "other.h5", columns="TEMP")
    assert Rows.plan(X, same).weights is same
    with h5py.File(tmp_path / "other.h5", "a") as file:
        file["y"][...] = np.arange(50)[::-1]
    with pytest.raises(DataError, match="the same grid at other coordinates"):
        Rows.plan(X, open_rows(tmp_path / "other.h5", columns="TEMP"))


def test_rows_are_the_points_and_features_the_data_sets(place: Path) -> None:
    arrays = numbers()
    source: Any = open_rows(place, columns=["TEMP", "SAL", "w"])
    expected = stacked(arrays, "TEMP", "SAL", "w")
    assert (source.n_rows, source.n_features, source.dtype) == (21_000, 3, np.dtype("f8"))
    assert (source.column_labels, source.places) == (
        ["TEMP", "SAL", "w"],
        [str(place)],
    )
    assert source.identity()["kind"] == "hdf5 grid"
    reader = elsewhere(source)
    for start, stop in ((0, 21_000), (999, 1001), (1500, 20_999)):
        assert_array_equal(reader.read(start, stop), expected[start:stop])
    assert_array_equal(source.to_grid(expected)[..., 1], arrays["SAL"])
    assert open_rows(place, columns=["*E*", "!TEMP"]).column_labels == ["PACKED"]
    assert open_rows(place, columns=["?*", "!flat"]).column_labels == ["PACKED", "SAL", "TEMP", "w"]
    # One that has no chunks is in C order, alone.
    one: Any = open_rows(place, columns="w")
    assert one.grid.is_in_c_order
    assert_array_equal(rows_of(one)[:, 0], arrays["w"].ravel())
    assert Rows.plan(one, open_rows(f"{place}::/flat")).n_partitions >= 1
    message = refused(place, InputMissingError, columns=["TEMPS"])
    assert message.endswith("Did you mean 'TEMP'?")


def test_a_dimension_is_the_features(place: Path) -> None:
    arrays = numbers()
    source = open_rows(place, columns=["TEMP", "SAL"], features="time")
    assert source.column_labels is not None
    assert source.column_labels[:2] + source.column_labels[-1:] == ["TEMP[time=0.0]", "TEMP[time=1.0]", "SAL[time=6.0]"]
    expected = np.concatenate(
        [np.stack([in_order(t, CELL[1:]) for t in arrays[n]], axis=1) for n in ("TEMP", "SAL")], 1
    )
    assert_array_equal(rows_of(source), expected)
    one = open_rows(f"{place}::/w", features="x")
    assert (one.column_labels or [])[:2] == ["w[0]", "w[1]"], "a dimension without numbers"
    assert_array_equal(rows_of(one), arrays["w"].reshape(-1, 60))
    assert open_rows(place, array="TEMP", features="y").n_features == 50
    message = refused(place, OptionError, columns=["TEMP"], features="tine")
    assert "got 'tine' for 'TEMP' by 'time' and 'y' and 'x' in" in message
    assert message.endswith("Did you mean 'time'?")
    assert "leave a dimension for the rows; got 'time'" in refused(place, OptionError, columns="time", features="time")
    message = refused(place, OptionError, features="time")
    assert "columns must name the data sets whose features lie along 'time'; got 4 that they may be in" in message


def test_data_sets_that_do_not_fit_together(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file.create_dataset("a", data=np.ones((6, 6)), chunks=(4, 6))
        file.create_dataset("b", data=np.ones((6, 6)), chunks=(3, 6))
        file["d"] = np.ones((6, 5))
        file["t"] = np.ones((6, 6))
        file["t"].attrs["units"] = "days since 2000-01-01"
    assert "must lie on one grid; got 'a' of shape (6, 6), and 'd' of shape" in refused(
        tmp_path / "X.h5", columns=["a", "d"]
    )
    assert "got chunks (4, 6) of 'a', and chunks (3, 6) of 'b'" in refused(tmp_path / "X.h5", columns=["b", "a"])
    message = refused(f"{tmp_path / 'X.h5'}::/t")
    assert "hold numbers that mean what they are; got times in 'days since 2000-01-01' in" in message
    code = message.rpartition("units: ")[2].rstrip(".")
    assert_array_equal(rows_of(open_rows(eval(code, {"dask": dask, "h5py": h5py}).compute())), np.ones((6, 6)))


@pytest.mark.parametrize("folder", ["", "table/columns"])
def test_columns_as_vaex_and_others_write_them(tmp_path: Path, folder: str, small_rows: np.ndarray) -> None:
    """One data set a column, at the root or in the only group; by vaex each in a group of its own."""
    path, inside = tmp_path / "X.hdf5", "/data" if folder else ""
    with h5py.File(path, "w") as file:
        for name, values in (("u", small_rows[:, 0]), ("v", small_rows[:, 1]), ("w", np.ones(len(small_rows)))):
            file[f"{folder}/{name}{inside}"] = values
        file[f"{folder}/name{inside}"] = np.full(len(small_rows), b"star")
    with dask.config.set(scheduler="synchronous"):
        asked = {**ASKED, "tol": 1e-3}
        ours = GaussianMixture(2, **asked).fit(
            open_rows(path, columns=["u", "v"]), sample_weight=open_rows(path, columns="w")
        )
        theirs = GaussianMixture(2, **asked).fit(small_rows)
        np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-10)
        assert list(ours.feature_names_in_) == ["u", "v"]
        ours.save(str(tmp_path / "model.zarr"))
    command = ["predict", str(tmp_path / "model.zarr"), str(path), "--output", str(tmp_path / "labels.zarr")]
    done = CliRunner().invoke(gmm, command, prog_name="daskgmm")
    assert done.exit_code == 0, done.stderr
    assert_array_equal(rows_of(open_rows(tmp_path / "labels.zarr"))[:, 0], theirs.predict(small_rows))
    with pytest.raises(DataError, match="hold real numbers .* dtype"):
        open_rows(path, columns=["u", "name"])
    assert open_rows(f"{path}::/{folder}", columns="v").n_features == 1


# -- packed numbers, as xarray reads them --------------------------------------------------------------------------
@pytest.mark.parametrize("packed", PACKINGS)
def test_packed_numbers_are_those_of_xarray(tmp_path: Path, packed: str) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")
    pytest.importorskip("h5netcdf", reason="h5netcdf is not installed")
    dtype, attributes = PACKINGS[packed]
    path = tmp_path / "X.nc"
    with h5py.File(path, "w") as file:
        file["row"], file["feature"] = np.arange(100.0), np.arange(4.0)
        stored = RAW.astype(dtype) if np.dtype(dtype).kind == "f" else RAW.astype("i8").astype(dtype)
        array = file.create_dataset("t", data=stored, chunks=(30, 4))
        for axis, name in enumerate(("row", "feature")):
            file[name].make_scale(name)
            array.dims[axis].attach_scale(file[name])
        for name, value in attributes.items():
            kind = dtype if name == "_FillValue" else None
            # (As the netCDF library has them: arrays of one.)
            array.attrs[name] = value if isinstance(value, str) else np.atleast_1d(np.asarray(value, kind))
    source = open_rows(f"{path}::/t")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of several fill values, which it takes)
        with xarray.open_dataset(path, engine="h5netcdf") as found:
            expected = found["t"].to_numpy()
    assert source.dtype == expected.dtype.newbyteorder("=") or source.dtype == expected.dtype
    assert_array_equal(rows_of(source), expected)
    assert source.beside.dimension == "row"


def test_packed_by_hand(place: Path) -> None:
    arrays = numbers()
    source = open_rows(place, columns=["TEMP", "PACKED"])
    expected = np.round(in_order(arrays["SAL"], CELL) * 100) * 0.01
    assert_array_equal(rows_of(source)[:, 1], expected)
    assert pickle.loads(pickle.dumps(source.reader())).read(0, 10).shape == (10, 2)


def test_a_dataset_of_xarray(tmp_path: Path) -> None:
    """By the netCDF library itself, where it is installed: dimensions, packing and missing values are its own."""
    xarray, _ = pytest.importorskip("xarray"), pytest.importorskip("netCDF4", reason="netCDF4 is not installed")
    random = np.random.default_rng(0)
    profiles = {n: (("profile", "depth"), random.normal(10, 3, (200, 5)).astype("f4")) for n in ("TEMP", "PSAL")}
    profiles["TEMP"][1][3, 2] = np.nan
    coords = {"depth": [0.0, 10.0, 20.0, 50.0, 100.0], "lat": ("profile", random.normal(size=200))}
    packing = {"dtype": "i2", "scale_factor": 0.001, "add_offset": 10.0, "_FillValue": -32768, "zlib": True}
    path = tmp_path / "argo.nc"
    xarray.Dataset(profiles, coords).to_netcdf(path, engine="netcdf4", encoding=dict.fromkeys(profiles, packing))
    with xarray.open_dataset(path, engine="netcdf4") as found:
        expected = [found[name].to_numpy() for name in profiles]
        assert expected[0].dtype == "f8"
    source = open_rows(path, columns=["TEMP", "PSAL"], features="depth")
    assert_array_equal(rows_of(source), np.concatenate(expected, axis=1))
    assert (source.column_labels or [])[1] == "TEMP[depth=10.0]"
    assert open_rows(path, columns=["*"]).column_labels == ["PSAL", "TEMP"], "coordinates are no features"
    assert source.beside.dimension == "profile"
    only = tmp_path / "one.nc"
    xarray.Dataset({"TEMP": profiles["TEMP"]}, coords).to_netcdf(only, engine="netcdf4")
    message = refused(only, OptionError)
    assert "'lat' (200,) float64 by 'profile': a coordinate" in message
    assert open_rows(only, features="depth").n_features == 5


# -- several files -------------------------------------------------------------------------------------------------
def parts_of(folder: Path, lengths: tuple[int, ...] = (300, 1, 450)) -> np.ndarray:
    """Write files part-2, part-10, part-11 of x, and the grids T and S; return x of all."""
    random, found = np.random.default_rng(0), []
    for number, n in zip((2, 10, 11), lengths, strict=True):
        x = random.normal(size=(n, 3))
        with h5py.File(folder / f"part-{number}.h5", "w") as file:
            file.create_dataset("g/x", data=x, chunks=(min(n, 70), 3))
            for i, name in enumerate("TS"):
                file.create_dataset(name, data=x[:, [i]].repeat(4, axis=1), chunks=(min(n, 50), 3))
        found.append(x)
    return np.concatenate(found)


def test_files_of_a_pattern_are_one_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = parts_of(tmp_path)
    source = open_rows(f"{tmp_path}/part-*.h5::/g/x")
    assert (source.n_rows, source.n_features, source.places) == (
        751, 3, [str(tmp_path / f"part-{i}.h5") for i in (2, 10, 11)]
    )  # fmt: skip
    assert_array_equal(rows_of(source), x)
    reader = elsewhere(source)
    for start, stop in ((0, 1), (299, 302), (300, 301), (301, 751)):
        assert_array_equal(reader.read(start, stop), x[start:stop])
        assert_array_equal(source.reader().among(start, stop).read(start, stop), x[start:stop])  # type: ignore[attr-defined]
    assert source.chunk_edges.tolist() == [*range(0, 300, 70), 300, *range(301, 751, 70), 751]
    monkeypatch.setattr("daskgmm.sources.joined_source._FEW", 1)
    graph, (one, other) = source.arguments([(0, 300), (300, 751)])
    assert_array_equal(graph[other.key]().read(300, 751), x[300:])
    assert len(pickle.dumps(graph[one.key]())) < len(pickle.dumps(source.reader()))
    with dask.config.set(scheduler="synchronous"):
        ours = GaussianMixture(2, **ASKED).fit(f"{tmp_path}/part-*.h5::/g/x")
        np.testing.assert_allclose(ours.means_, GaussianMixture(2, **ASKED).fit(x).means_, rtol=1e-9)
    before = fingerprints(rows := Rows.plan(source, None), LocalExecutor())
    os.utime(tmp_path / "part-10.h5", ns=(1, 1))
    with pytest.raises(DataError, match="must stay as it is while it is read"):
        check_unchanged(before, fingerprints(rows, LocalExecutor()), rows, checkpoint=None)


def test_grids_of_several_files(tmp_path: Path) -> None:
    x = parts_of(tmp_path)
    source = open_rows(f"{tmp_path}/part-*.h5", columns=["T", "S"])
    pieces = np.split(x, [300, 301])
    cells = [(min(len(p), 50), 3) for p in pieces]
    assert_array_equal(
        rows_of(source)[:, 1],
        np.concatenate([in_order(p[:, [1]].repeat(4, axis=1), c) for p, c in zip(pieces, cells, strict=True)]),
    )
    assert source.column_labels == ["T", "S"]
    assert Rows.plan(source, open_rows(f"{tmp_path}/part-*.h5", columns="T")).n_partitions >= 1
    with pytest.raises(DataError, match="must be in the order of the rows of X"):
        Rows.plan(source, open_rows(np.ones(source.n_rows)))


def test_files_without_rows_count_for_nothing_among_others(tmp_path: Path) -> None:
    x = parts_of(tmp_path)
    for name in ("part-1", "part-12"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("g/x", (0, 3), "f8", chunks=(10, 3), maxshape=(None, 3))
            file.create_dataset("T", (0, 4), "f8", chunks=(10, 3), maxshape=(None, 4))
    assert_array_equal(rows_of(open_rows(f"{tmp_path}/part-*.h5::/g/x")), x)
    assert open_rows(f"{tmp_path}/part-*.h5", columns=["T"]).n_rows == 4 * 751
    with pytest.raises(NoRowsError, match=r"X must have at least one row .* got shape \(0, 3\) in .*part-1\.h5::/g/x"):
        open_rows(f"{tmp_path}/part-[1].h5::/g/x")


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    parts_of(tmp_path)
    pattern = f"{tmp_path}/*.h5::/g/x"
    for values, said in (
        (np.ones((5, 2)), "got 2 features in .*other.h5::/g/x, 3 features in .*part-2"),
        (np.ones((5, 3), "f4"), "got dtype float32 in .*other.h5::/g/x, dtype float64 in .*part-2"),
    ):
        with h5py.File(tmp_path / "z-other.h5", "w") as file:
            file["g/x"] = values
        with pytest.raises(DataError, match=f"Files of X must all have .*{said}.*by a pattern of their own"):
            open_rows(pattern)
    (tmp_path / "z-other.h5").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"X must be a whole HDF5 file; got .*z-other\.h5"):
        open_rows(pattern)
    message = refused(f"{tmp_path}/none-*.h5", InputMissingError)
    assert f"X must be an existing HDF5 file, or a pattern of such; got {tmp_path}/none-*.h5, where none is" in message
    (tmp_path / "z-other.h5").rename(tmp_path / "a[1].h5")
    with pytest.raises(DataError, match=r"a\[1\]\.h5 \(OSError"):
        open_rows(tmp_path / "a[1].h5")


def test_more_files_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = parts_of(tmp_path)
    monkeypatch.setattr("daskgmm.sources.hdf5_reader._MOST_OPEN", 2)
    reader = elsewhere(open_rows(f"{tmp_path}/part-*.h5::/g/x"))
    for _ in range(2):
        assert_array_equal(reader.read(0, 751), x)
    assert len(hdf5_reader._open) <= 2
