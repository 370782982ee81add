"""Predictions of a grid in its shape: the right point at the right coordinates, each chunk written once and whole."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.prediction import predict_array
from daskgmm.sources.grid import Grid
from daskgmm.sources.opening import open_rows
from daskgmm.stores import zarr_grid
from daskgmm.stores.model_file import load_model
from daskgmm.stores.output import layout_of, prediction_record, write_predictions
from daskgmm.stores.targets import CHUNK_BYTES
from daskgmm.stores.zarr_grid import GridLayout, GridTarget, chunk_of
from daskgmm.stores.zarr_rows import RowsLayout
from tests.clusters import LOCAL
from tests.kernels.driving import parameters_of
from tests.passes.test_prediction import WHATS
from tests.stores.test_checkpoint import Slot
from tests.stores.test_output import RECORD, Recorded, saved_in
from tests.strategies import LAWS, make_case

xr = pytest.importorskip("xarray")

CASE = make_case("full", seed=3, n_rows=10, n_components=3, n_features=2)
PARAMETERS = parameters_of(CASE)
SHAPE, CELL = (7, 30, 50), (2, 20, 25)


def ocean() -> Any:
    """A data set with coordinates of one and of two dimensions, times, and points that are missing."""
    random = np.random.default_rng(1)
    temperature = random.normal(0, 3, SHAPE)
    temperature[:, :5, 7:20] = np.nan
    latitude = np.linspace(-60, 60, 30)
    return xr.Dataset(
        {
            "temp": (("time", "lat", "lon"), temperature, {"units": "K"}),
            "salt": (("time", "lat", "lon"), random.normal(0, 3, SHAPE).astype("f4")),
        },
        coords={
            "time": np.datetime64("2020-01-31T06:00", "ns") + np.arange(7) * np.timedelta64(36, "h"),
            "lat": ("lat", latitude, {"units": "degrees_north", "valid_range": [-90.0, 90.0]}),
            "lon": ("lon", np.arange(50, dtype="i2") * 7),
            "area": (("lat", "lon"), np.cos(np.radians(latitude))[:, np.newaxis] * np.ones(50)),
            "depth": ("time", np.where(np.arange(7) == 2, np.nan, np.arange(7.0))),
        },
    )


def stored(path: Path, *, zarr_format: Any = 3, **encoding: Any) -> Path:
    chunked = {name: {"chunks": CELL} for name in ("temp", "salt")}
    ocean().to_zarr(path, zarr_format=zarr_format, encoding={**chunked, **encoding}, consolidated=False)
    return path


def opened(path: Any) -> Any:
    return xr.open_zarr(path, consolidated=None if "out" in str(path) else False, chunks=None)


def right(what: Any, data: Any, parameters: Any = PARAMETERS) -> np.ndarray:
    """What is predicted for the points of a data set as plain rows: -1 or NaN where one is missing."""
    rows = np.stack([data["temp"].values.astype("f8"), data["salt"].values.astype("f8")], axis=-1).reshape(-1, 2)
    found = predict_array(rows, Predictor.of(parameters, what), non_finite="drop")
    assert (found[~np.isfinite(rows).all(axis=1)] == -1).all() == (what == "label")
    return found.reshape(*data["temp"].shape, *found.shape[1:])


def written(data: Any, path: Any, *, what: Any = "label", columns: Any = ("temp", "salt"), **options: Any) -> Any:
    source = open_rows(data, columns=list(columns))
    return write_predictions(
        Predictor.of(PARAMETERS, what), source, str(path), record=RECORD, **{"non_finite": "drop", **options}
    )


@pytest.fixture(autouse=True)
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of two cells, and chunks of at most half a cell of labels."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 2 * 1000 * 16)
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 2 * 1000 * 16)
    monkeypatch.setattr("daskgmm.stores.targets.CHUNK_BYTES", 2000)


# -- planning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "row_bytes", "chunk"),
    [
        ((2, 20, 25), 4, (2, 20, 25)),
        ((16, 1024, 1024), 4, (8, 1024, 1024)),
        ((1, 5000, 5000), 400, (1, 10, 5000)),  # 16 lines would do; 10 divide
        ((3, 4096, 4096), 4, (1, 2048, 4096)),
        ((7, 1000, 1000), 8, (1, 1000, 1000)),
        ((10, 40_000_000), 4, (1, 8_000_000)),
        ((100,), 4, (100,)),
    ],
)
def test_chunk_of_a_cell(
    cell: tuple[int, ...], row_bytes: int, chunk: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskgmm.stores.targets.CHUNK_BYTES", CHUNK_BYTES)
    assert chunk_of(cell, row_bytes) == chunk


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    cell = tuple(draw(st.integers(1, n)) for n in shape)
    return Grid(shape, cell), chunk_of(cell, draw(st.integers(1, 2000)))


@LAWS
@given(grids())
def test_pieces_are_whole_chunks_of_any_grid(both: tuple[Grid, tuple[int, ...]]) -> None:
    grid, chunk = both
    target, found, seen, row = GridTarget("", "", "", grid, chunk), np.zeros(grid.shape), set(), 0
    rows = np.arange(grid.n_rows, dtype=float)
    while row < grid.n_rows:
        box, n = target._box(row), target.piece_rows(row)
        index = tuple(part.start // size for part, size in zip(box, chunk, strict=True))
        assert all(part.start % size == 0 for part, size in zip(box, chunk, strict=True))
        assert index not in seen
        seen.add(index)
        found[box] = rows[row : row + n].reshape([part.stop - part.start for part in box])
        row += n
    assert len(seen) == prod(-(-n // size) for n, size in zip(grid.shape, chunk, strict=True))
    np.testing.assert_array_equal(found, grid.to_grid(rows))


# -- where the points are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("what", WHATS)
def test_xarray_finds_each_point_at_its_coordinates(what: Any, zarr_format: int, tmp_path: Path) -> None:
    path = stored(tmp_path / "ocean.zarr", zarr_format=zarr_format)
    done, theirs = written(path, tmp_path / "out.zarr", what=what), opened(path)
    ours = opened(tmp_path / "out.zarr")
    assert list(ours.data_vars) == [what]
    assert ours[what].dims == ("time", "lat", "lon", *(["component"] if what == "proba" else []))
    assert set(ours.coords) == {"time", "lat", "lon", "area", "depth"}
    for name in ours.coords:
        xr.testing.assert_identical(ours[name].variable.load(), theirs[name].variable.load())
    np.testing.assert_allclose(ours[what].values, right(what, theirs), rtol=1e-9, atol=1e-12)
    assert ours[what].dtype == ("i4" if what == "label" else "f8")
    n_bad = int((~np.isfinite(theirs["temp"])).sum())
    assert (done.n_rows, done.n_dropped) == (prod(SHAPE) - n_bad, n_bad)
    at = {"time": theirs.time[3], "lat": theirs.lat[20], "lon": 49 * 7}
    np.testing.assert_allclose(ours[what].sel(at), right(what, theirs)[3, 20, 49], rtol=1e-9, atol=1e-12)


def test_packed_coordinates_are_what_they_mean(tmp_path: Path) -> None:
    packed = {"lat": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -9999}}
    path = stored(tmp_path / "ocean.zarr", zarr_format=2, **packed)
    written(path, tmp_path / "out.zarr")
    ours, theirs = opened(tmp_path / "out.zarr"), opened(path)
    np.testing.assert_array_equal(ours["lat"].values, theirs["lat"].values)
    xr.testing.assert_equal(ours.coords.to_dataset(), theirs.coords.to_dataset())


def test_a_large_coordinate_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(zarr_grid, "COPIED_BYTES", 1000)
    path = stored(tmp_path / "ocean.zarr")
    with caplog.at_level("INFO", "daskgmm"):
        written(path, tmp_path / "out.zarr")
    assert f"The coordinate area, of shape (30, 50), stays in {path}." in caplog.messages
    assert set(opened(tmp_path / "out.zarr").coords) == {"time", "lat", "lon", "depth"}


def test_dimensions_without_names_are_called_as_xarray_calls_them(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("temp", "salt"):
        group.create_array(name, data=ocean()[name].values, chunks=CELL)
    written(tmp_path / "g.zarr", tmp_path / "out.zarr", what="proba")
    ours = opened(tmp_path / "out.zarr")
    assert ours["proba"].dims == ("dim_0", "dim_1", "dim_2", "component")
    assert not ours.coords
    np.testing.assert_allclose(ours["proba"].values, right("proba", ocean()), rtol=1e-9, atol=1e-12)


def test_features_along_a_dimension_leave_the_others(tmp_path: Path) -> None:
    """Two levels are two features; their own coordinate is none of the grid."""
    both = np.stack([ocean()["temp"].values, ocean()["salt"].values], axis=1)
    data = xr.Dataset({"x": (("time", "level", "lat", "lon"), both)}, {"level": [0.0, 5.0], "lat": ocean()["lat"]})
    data.to_zarr(tmp_path / "x.zarr", encoding={"x": {"chunks": (2, 2, 20, 25)}}, consolidated=False)
    source = open_rows(tmp_path / "x.zarr", columns=["x"], features="level")
    write_predictions(Predictor.of(PARAMETERS, "label"), source, str(tmp_path / "out"), record={}, non_finite="drop")
    ours = opened(tmp_path / "out")
    assert list(ours.coords) == ["lat"]
    np.testing.assert_array_equal(ours["label"].values, right("label", ocean()))


def test_netcdf_through_the_command_line(tmp_path: Path) -> None:
    """With a dimension that has no numbers, and a coordinate that attributes list."""
    pytest.importorskip("h5netcdf")
    data = ocean().drop_vars("lon")
    data.to_netcdf(
        tmp_path / "ocean.nc", engine="h5netcdf", encoding={name: {"chunksizes": CELL} for name in ("temp", "salt")}
    )
    asked = ["--columns", "temp,salt", "--non-finite", "drop", "--workers", "1"]
    fit = ["fit", tmp_path / "ocean.nc", "-k", 2, "--tol", 1, "-o", tmp_path / "m.zarr", *asked]
    assert CliRunner().invoke(gmm, [*map(str, fit)], prog_name="daskgmm").exit_code == 0
    command = ["predict", tmp_path / "m.zarr", tmp_path / "ocean.nc", "-o", tmp_path / "labels.zarr", *asked]
    command = [*map(str, command)]
    done = CliRunner().invoke(gmm, command, prog_name="daskgmm")
    assert done.exit_code == 0, done.stderr
    ours = xr.open_zarr(tmp_path / "labels.zarr", chunks=None)  # (without a warning)
    theirs = xr.open_dataset(tmp_path / "ocean.nc", engine="h5netcdf")
    assert set(ours.coords) == {"time", "lat", "area", "depth"}
    for name in ours.coords:
        xr.testing.assert_identical(ours[name].variable.load(), theirs[name].variable.load())
    np.testing.assert_array_equal(
        ours["label"].values, right("label", theirs, load_model(tmp_path / "m.zarr").parameters)
    )
    again = CliRunner().invoke(gmm, command, prog_name="daskgmm")
    assert (again.exit_code, "nothing to do" in again.stderr) == (0, True)


def test_what_is_no_grid_of_several_dimensions_is_flat(tmp_path: Path) -> None:
    """Columns of one dimension, and a large array in memory, whose partitions cut its only cell apart."""
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("temp", "salt"):
        group.create_array(name, data=ocean()[name].values.ravel(), chunks=(700,), dimension_names=["point"])

    def kind(data: Any) -> type:
        return type(layout_of(Predictor.of(PARAMETERS, "label"), open_rows(data, columns=["temp", "salt"]), "out"))

    assert kind(tmp_path / "g.zarr") is RowsLayout
    assert kind(ocean()) is kind(ocean().chunk(lat=20)) is GridLayout
    assert kind(xr.concat([ocean()] * 20, "time")) is RowsLayout
    written(tmp_path / "g.zarr", tmp_path / "out.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[...], right("label", ocean()).ravel())


# -- once, whole, and the same bits ----------------------------------------------------------------------------------


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_every_chunk_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Any] = []
    really = zarr.Group.__getitem__

    class Boxes(Recorded):
        def with_config(self, config: Any) -> Any:
            return Boxes(self._array.with_config(config), self._writes)

        def __setitem__(self, box: Any, values: np.ndarray) -> None:
            self._writes.append(tuple((part.start, part.stop) for part in box))
            self._array[box] = values

    path = stored(tmp_path / "ocean.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(
            zarr.Group, "__getitem__",
            lambda self, name: Boxes(really(self, name), writes) if name == "score" else really(self, name),
        )  # fmt: skip
        written(path, tmp_path / "out.zarr", what="score")
    chunks = zarr.open_group(tmp_path / "out.zarr")["score"].chunks
    assert chunks == (1, 10, 25), "a cell of 8 kB in pieces of 2 kB"
    every = np.ndindex(*(-(-n // c) for n, c in zip(SHAPE, chunks, strict=True)))
    assert sorted(writes) == [
        tuple((i * c, min((i + 1) * c, n)) for i, c, n in zip(at, chunks, SHAPE, strict=True)) for at in every
    ]


def test_bytes_are_those_of_any_number_of_workers(tmp_path: Path) -> None:
    path = stored(tmp_path / "ocean.zarr")
    with dask.config.set(scheduler="synchronous"):
        written(path, tmp_path / "0", what="score")
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, processes=True, memory_limit="1GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        for n_workers in (4, 2, 1):
            client.retire_workers(sorted(client.nthreads())[n_workers:])
            assert len(client.nthreads()) == n_workers
            written(path, tmp_path / f"{n_workers}", what="score")
    first = files(tmp_path / "0")
    assert len(first) > 50
    assert all(files(tmp_path / name) == first for name in "124")


def test_what_was_written_is_not_written_again(tmp_path: Path) -> None:
    path = stored(tmp_path / "ocean.zarr")
    with dask.config.set(scheduler="synchronous"):
        written(path, tmp_path / "undisturbed")
        with pytest.raises(KeyboardInterrupt):
            written(path, tmp_path / "out", saved=saved_in(tmp_path), executor=Slot(4))
        (unfinished,) = tmp_path.glob("out.unfinished-*")
        assert prediction_record(str(unfinished))["complete"] is False  # type: ignore[index]
        before = {f.relative_to(unfinished): f.stat().st_mtime_ns for f in unfinished.glob("label/c/**/*")}
        written(path, tmp_path / "out", saved=saved_in(tmp_path))
    kept = [f for f, when in before.items() if f.suffix == "" and (tmp_path / "out" / f).stat().st_mtime_ns == when]
    assert len(kept) >= 4
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
    assert not list(tmp_path.glob("out.unfinished-*"))


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = stored(tmp_path / "ocean.zarr")
    written(path, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="got NaN or infinity in row"):
        written(path, tmp_path / "out", what="score", non_finite="error")
    assert files(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["ocean.zarr", "out"]


def test_url_is_marked_complete_at_the_end(tmp_path: Path) -> None:
    path, url = stored(tmp_path / "ocean.zarr"), f"memory://{tmp_path}/out"
    for what in ("score", "label"):  # (what is there is replaced)
        with pytest.raises(DataError):
            written(path, url, what=what, non_finite="error")
        assert prediction_record(url)["complete"] is False  # type: ignore[index]
        written(path, url, what=what)
        assert prediction_record(url) == {"complete": True, **RECORD}
        ours = opened(url)
        assert list(ours.data_vars) == [what]
        np.testing.assert_allclose(ours[what].values, right(what, ocean()), rtol=1e-9)
