"""What stands beside the numbers of a Zarr array or group: read, or refused with what works instead."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array
import numcodecs
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from daskgmm.errors import DataError, OptionError
from daskgmm.sources.opening import open_rows
from daskgmm.sources.source import Source

X = np.random.default_rng(0).normal(280, 5, (60, 2))


def rows_of(source: Source) -> np.ndarray:
    graph, _ = source.arguments([(0, source.n_rows)])
    (node,) = graph.values()
    return np.asarray(node().read(0, source.n_rows))


def refused(place: Any, kind: type[Exception] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        open_rows(place, **options)
    return str(caught.value)


# -- numbers that mean what they are (others: test_packed.py) ---------------------------------------------------
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_of_xarray_that_hold_what_they_mean_are_taken(zarr_format: Any, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")
    for name, stored in (("floats", X), ("singles", X.astype("f4")), ("whole", (X * 10).astype("i4"))):
        values = stored.copy()
        values[0, 0] = np.nan if name != "whole" else 0
        xarray.Dataset({"t": (("row", "feature"), values)}).to_zarr(
            tmp_path / name, zarr_format=zarr_format, consolidated=False
        )
        assert_array_equal(rows_of(open_rows(tmp_path / name)), values)
    plain = zarr.create_array(tmp_path / "plain", data=(X * 10).astype("i4"), zarr_format=zarr_format)
    plain.attrs.update({"units": "K", "_Unsigned": "false"})
    source = open_rows(tmp_path / "plain")
    assert source.dtype == np.dtype("i4")
    assert_array_equal(rows_of(source), (X * 10).astype("i4"))


def test_the_fill_value_of_a_root_array_of_format_2(tmp_path: Path) -> None:
    raw = np.round((X - 273.15) / 0.01).astype("i2")
    raw[::10, 0] = -32768
    array = zarr.create_array(tmp_path / "t.zarr", data=raw, chunks=(20, 2), zarr_format=2, fill_value=-32768)
    array.attrs.update({"scale_factor": 0.01, "add_offset": 273.15, "_ARRAY_DIMENSIONS": ["row", "feature"]})
    assert_array_equal(rows_of(open_rows(tmp_path / "t.zarr")), np.where(raw == -32768, np.nan, raw * 0.01 + 273.15))
    assert open_rows(dask.array.from_zarr(tmp_path / "t.zarr")).dtype == np.dtype("i2"), "as they are stored"


# -- which array of a group ------------------------------------------------------------------------------------
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_coordinate_is_not_the_only_array_of_a_group(zarr_format: Any, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=zarr_format)
    for name, values, names in (("cube", np.zeros((4, 3, 2)), ["time", "y", "x"]), ("time", np.arange(4.0), ["time"])):
        more: dict[str, Any] = {"dimension_names": names} if zarr_format == 3 else {"fill_value": None}
        array = group.create_array(name, data=values, **more)
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = names
    listed = "'cube' (4, 3, 2) float64 by 'time' and 'y' and 'x', 'time' (4,) float64 by 'time': a coordinate"
    for given in (tmp_path / "g.zarr", group):
        message = refused(given, DataError)
        assert f"(it has {listed})" in message
        (names,) = re.findall(r"Name arrays by columns, (.*): each point", message)
        assert open_rows(given, columns=eval(names)).n_rows == 24
    assert_array_equal(rows_of(open_rows(tmp_path / "g.zarr" / "time")), np.arange(4.0)[:, np.newaxis])
    alone = zarr.open_group(tmp_path / "alone.zarr", mode="w", zarr_format=3)
    alone.create_array("time", data=np.arange(4.0), dimension_names=["time"])
    assert open_rows(tmp_path / "alone.zarr").n_rows == 4


def test_an_array_that_an_attribute_lists_describes_others(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("cube", data=np.zeros((4, 3, 2))).attrs["coordinates"] = "lat"
    group.create_array("lat", data=np.arange(4.0))
    assert "'lat' (4,) float64: a coordinate" in refused(tmp_path / "g.zarr", DataError)


def test_paths_lead_into_zip_files(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "data.zarr", mode="w")
    group.create_array("t", data=X, chunks=(20, 2))
    group.create_array("u", data=X[:, 0])
    os.makedirs(tmp_path / "packed")
    shutil.make_archive(str(tmp_path / "packed" / "inside"), "zip", tmp_path / "data.zarr")
    shutil.make_archive(str(tmp_path / "packed" / "folder"), "zip", tmp_path, "data.zarr")
    message = refused(tmp_path / "packed" / "inside.zip", OptionError)
    path = re.findall(r"such as (\S+), or", message)[0]
    assert path == f"{tmp_path}/packed/inside.zip/t"
    assert_array_equal(rows_of(pickle.loads(pickle.dumps(open_rows(path)))), X)
    message = refused(tmp_path / "packed" / "folder.zip")
    path = re.findall(r"give the path (\S+)$", message)[0]
    assert path == f"{tmp_path}/packed/folder.zip/data.zarr"
    assert_array_equal(rows_of(open_rows(path, array="t")), X)
    assert_array_equal(rows_of(open_rows(f"{path}/u")), X[:, :1])
    source: Any = open_rows(f"{path}/t")
    assert_array_equal(eval(source.code, {"dask": dask, "zarr": zarr}).compute(), X)


# -- metadata that disagree, codecs that are missing -----------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_consolidated_metadata_older_than_an_array_are_not_believed(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "g.zarr", mode="w").create_array("x", data=X[:20], chunks=(10, 2))
    zarr.consolidate_metadata(tmp_path / "g.zarr")
    zarr.open_array(tmp_path / "g.zarr" / "x", mode="a").append(X[20:])
    group = zarr.open_group(tmp_path / "g.zarr", mode="r")
    for given, name in ((tmp_path / "g.zarr", None), (tmp_path / "g.zarr", "x"), (group, None), (group, "x")):
        assert_array_equal(rows_of(open_rows(given, array=name)), X)
    stale = group["x"]
    assert isinstance(stale, zarr.Array)
    message = refused(stale)
    assert "got an open array of shape (20, 2), dtype <f8, where" in message
    path = re.findall(r"Give its path, (\S+), or", message)[0]
    assert_array_equal(rows_of(open_rows(path)), X)


class Plain(numcodecs.abc.Codec):  # type: ignore[misc]
    """A codec of which only this process knows."""

    codec_id = "daskgmm-test-plain"

    def encode(self, buf: Any) -> Any:
        return buf

    def decode(self, buf: Any, out: Any = None) -> Any:
        return buf


def test_a_codec_that_is_missing_is_no_damage(tmp_path: Path) -> None:
    numcodecs.register_codec(Plain)
    array = zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(20, 2), zarr_format=2, compressors=Plain())
    assert array.shape == X.shape
    source = open_rows(tmp_path / "X.zarr")
    assert_array_equal(rows_of(source), X)
    (tmp_path / "source").write_bytes(pickle.dumps(source.arguments([(0, 60)])[0]))
    program = (
        "import pickle, sys\n(node,) = pickle.load(open(sys.argv[1], 'rb')).values()\n"
        "try: node().read(0, 20)\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "source"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("OptionError X, as a task reads it, must be decoded by packages that are installed; ")
    assert "daskgmm-test-plain" in done.stdout
    assert "It is not damaged: install the package that brings this codec, here and on the workers." in done.stdout
