"""Points of a grid as rows: the fit is NumPy's on the same numbers, and each chunk is read once."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore, WrapperStore

import daskgmm
from daskgmm import GaussianMixture
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import run_pass
from daskgmm.sources import failures
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.output import write_predictions
from tests.sources.test_conventions import refused, rows_of
from tests.sources.test_zarr_source import FailingStore, elsewhere, reader_of

SHAPE, NAMES = (7, 50, 60), ("time", "y", "x")
ASKED: dict[str, Any] = {"random_state": 0, "n_init": 1, "tol": 1e-3, "escape": False, "non_finite": "drop"}


def numbers() -> dict[str, np.ndarray]:
    """A temperature, a salinity that is missing here and there, and weights."""
    random = np.random.default_rng(0)
    kind = random.integers(2, size=SHAPE)
    salinity = 30 + 5 * kind + random.normal(0, 0.5, SHAPE)
    salinity[:, :10, :15] = np.nan
    return {
        "TEMP": (10 + 8 * kind + random.normal(0, 1, SHAPE)).astype("f4"),
        "SAL": salinity,
        "w": random.integers(1, 4, SHAPE).astype("f8"),
    }


def written(
    store: Any, arrays: dict[str, np.ndarray], chunks: tuple[int, ...] = (2, 20, 25), *, zarr_format: Any = 3,
    names: tuple[str, ...] = NAMES, **layout: Any
) -> zarr.Group:  # fmt: skip
    group = zarr.open_group(store, mode="a", zarr_format=zarr_format)
    layout = {"config": {"write_empty_chunks": True}, **layout}
    for name, values in arrays.items():
        named = {"dimension_names": names[-values.ndim :]} if zarr_format == 3 else {"fill_value": None}
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, **named, **layout)
        array[...] = values
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(names[-values.ndim :])
    return group


def in_order(values: np.ndarray, cell: tuple[int, ...]) -> np.ndarray:
    """The points of an array, cell by cell, written out."""
    corners = np.ndindex(*(-(-n // c) for n, c in zip(values.shape, cell, strict=True)))
    parts = (tuple(slice(i * c, (i + 1) * c) for i, c in zip(at, cell, strict=True)) for at in corners)
    return np.concatenate([values[part].ravel() for part in parts])


def stacked(arrays: dict[str, np.ndarray], *names: str, cell: tuple[int, ...] = (2, 20, 25)) -> np.ndarray:
    return np.stack([in_order(arrays[name], cell) for name in names], axis=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grid") / "ocean.zarr"
    arrays = numbers()
    written(place, {name: arrays[name] for name in ("TEMP", "w")})
    written(place, {"SAL": arrays["SAL"]}, (1, 10, 5), shards=(2, 20, 25))
    group = zarr.open_group(place, mode="a")
    packed = np.where(np.isnan(arrays["SAL"]), -9999, np.round(arrays["SAL"] * 100)).astype("i2")
    written(place, {"PACKED": packed})
    group["PACKED"].attrs.update({"scale_factor": 0.01, "_FillValue": -9999})
    written(place, {"name": arrays["w"]})
    group.create_array("flat", data=np.ones(SHAPE).ravel())
    group.create_array("time", data=np.arange(7.0), dimension_names=["time"])
    return place


# -- rows --------------------------------------------------------------------------------------------------------
def test_rows_are_the_points_and_features_the_arrays(place: Path) -> None:
    source: Any = open_rows(place, columns=["TEMP", "SAL"])
    expected = stacked(numbers(), "TEMP", "SAL")
    assert (source.n_rows, source.n_features, source.dtype) == (21_000, 2, np.dtype("f8"))
    assert source.column_labels == ["TEMP", "SAL"]
    assert source.travels
    assert_array_equal(rows_of(source), expected)
    reader = elsewhere(source)
    for start, stop in ((0, 1), (999, 1001), (1500, 20_999), (20_999, 21_000)):
        assert_array_equal(reader.read(start, stop), expected[start:stop])
    assert_array_equal(source.to_grid(expected[:, 0]), numbers()["TEMP"])
    assert_array_equal(source.to_grid(expected)[..., 1], numbers()["SAL"])
    with pytest.raises(DataError, match=r"first dimension of 21000, one for each row; got shape \(3,\)"):
        source.to_grid([1, 2, 3])
    edges = source.chunk_edges
    assert (edges[0], edges[1], edges[-1], len(edges)) == (0, 2 * 20 * 25, 21_000, 4 * 3 * 3 + 1)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_open_groups_of_one_process(zarr_format: Any) -> None:
    arrays = numbers()
    group = written(MemoryStore(), arrays, zarr_format=zarr_format)
    source = open_rows(group, columns=("SAL", "TEMP"))
    assert not source.travels
    assert_array_equal(rows_of(source), stacked(arrays, "SAL", "TEMP"))
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(source.reader())
    one = open_rows(group, columns="w")
    assert (one.n_features, one.dtype, one.column_labels) == (1, np.dtype("f8"), ["w"])


lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 3)), min_size=1, max_size=3)


@given(lengths, st.booleans(), st.data())
@settings(max_examples=25, deadline=None)
def test_any_grid_any_chunks_any_ranges(lengths: list[tuple[int, int, int]], deep: bool, data: Any) -> None:
    shape, fine, factors = zip(*lengths, strict=True)
    coarse = tuple(c * f for c, f in zip(fine, factors, strict=True))
    names = ("a", "b", "c")[: len(shape)]
    a, b = np.random.default_rng(0).normal(size=(2, *shape))
    axis = data.draw(st.integers(0, len(shape))) if deep else None
    if axis is not None:
        a = np.stack([a, 2 * a, 3 * a], axis)
    store = MemoryStore()
    long = list(names)
    if axis is not None:
        long.insert(axis, "depth")
    chunks = list(fine)
    if axis is not None:
        chunks.insert(axis, 2)
    written(store, {"a": a}, tuple(chunks), names=tuple(long))
    written(store, {"b": b}, coarse, names=names)
    source: Any = open_rows(zarr.open_group(store), columns=["b", "a"], features=None if axis is None else "depth")
    features = [a] if axis is None else list(np.moveaxis(a, axis, 0))
    cell = tuple(max(min(n, one), min(n, two)) for n, one, two in zip(shape, fine, coarse, strict=True))
    expected = np.stack([in_order(one, cell) for one in (b, *features)], axis=1)
    start = data.draw(st.integers(0, len(expected) - 1))
    stop = data.draw(st.integers(start + 1, len(expected)))
    assert_array_equal(reader_of(source).read(start, stop), expected[start:stop])
    assert_array_equal(source.to_grid(expected[:, 0]), b)


# -- a dimension of features -------------------------------------------------------------------------------------
def profiles(store: Any) -> tuple[zarr.Group, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    temperature, salinity = random.normal(size=(2, 300, 4))
    group = written(store, {"T": temperature, "S": salinity}, (50, 3), names=("profile", "depth"))
    group.create_array("depth", data=np.array([0, 10, 20.5, 50], "f4"), dimension_names=["depth"])
    group.create_array("lat", data=random.normal(size=300), chunks=(100,), dimension_names=["profile"])
    group.attrs["coordinates"] = "lat"
    return group, temperature, salinity


def test_a_dimension_becomes_features(tmp_path: Path) -> None:
    group, temperature, salinity = profiles(tmp_path / "argo.zarr")
    source: Any = open_rows(tmp_path / "argo.zarr", columns=["T", "S"], features="depth")
    assert_array_equal(elsewhere(source).read(0, 300), np.hstack([temperature, salinity]))
    depths = ["depth=0.0", "depth=10.0", "depth=20.5", "depth=50.0"]
    assert source.column_labels == [f"{name}[{depth}]" for name in "TS" for depth in depths]
    assert (source.beside.dimension, source.grid.is_in_c_order) == ("profile", True)
    again = open_rows(group, columns=["S", "lat"], features="depth")
    assert again.column_labels == [*(f"S[{depth}]" for depth in depths), "lat"]
    assert_array_equal(rows_of(again), np.column_stack([salinity, group["lat"][:]]))  # type: ignore[index]
    one = open_rows(tmp_path / "argo.zarr" / "T", features="profile")
    assert_array_equal(rows_of(one), temperature.T)
    assert one.column_labels == [f"T[{i}]" for i in range(300)]
    named = open_rows(tmp_path / "argo.zarr", array="S", features="depth")
    assert_array_equal(rows_of(named), salinity)
    rows = open_rows(tmp_path / "argo.zarr" / "T")
    assert_array_equal(rows_of(rows), temperature)  # (the path of one array keeps rows and features)
    # (Its rows lie in C order, so that a flat array fits beside.)
    assert Rows.plan(source, open_rows(np.ones(300))).weights is not None
    assert Rows.plan(source, open_rows(group, columns="lat")).weights is not None


def test_a_dimension_of_one_array_of_a_group(tmp_path: Path) -> None:
    group, _, _ = profiles(MemoryStore())
    message = refused(group, OptionError, features="depth")
    assert "`columns`" not in message
    assert "columns must name the arrays whose features lie along 'depth'; got 2 that they may be in" in message
    columns = eval(re.findall(r"Give columns, for example (.*)\.$", message)[0])
    assert open_rows(group, columns=columns, features="depth").n_features == 8
    del group["S"]
    assert open_rows(group, features="depth").column_labels[0] == "T[depth=0.0]"  # type: ignore[index]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_a_dataset_that_xarray_has_written(zarr_format: Any, tmp_path: Path) -> None:
    """Packed variables, each in its own way, and coordinates beside them."""
    xarray = pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")
    random = np.random.default_rng(0)
    dims = ("time", "depth", "y")
    values = {"TEMP": random.normal(280, 5, (9, 3, 8)), "SAL": random.normal(35, 1, (9, 3, 8)).astype("f4")}
    values["TEMP"][2, :, 5] = values["SAL"][4, 1] = np.nan
    given_ = {name: (dims, one) for name, one in values.items()}
    coordinates = {"depth": [0.0, 10.0, 50.0], "y": np.arange(8), "lat": ("y", np.linspace(-3, 3, 8))}
    packed = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768, "chunks": (4, 3, 5)}
    xarray.Dataset(given_, coordinates).to_zarr(
        tmp_path / "g.zarr", encoding={"TEMP": packed, "SAL": {"chunks": (2, 1, 5)}}, zarr_format=zarr_format
    )
    expected = xarray.open_zarr(tmp_path / "g.zarr")
    source: Any = open_rows(tmp_path / "g.zarr", columns=["*"], features="depth")
    assert source.column_labels == [f"{name}[depth={d}]" for name in ("SAL", "TEMP") for d in (0.0, 10.0, 50.0)]
    for i, (name, depth) in enumerate((name, depth) for name in ("SAL", "TEMP") for depth in (0.0, 10.0, 50.0)):
        found = source.to_grid(elsewhere(source).read(0, 72)[:, i])
        assert_array_equal(found, expected[name].sel(depth=depth).values)
    points: Any = open_rows(tmp_path / "g.zarr", columns="TEMP")
    assert_array_equal(points.to_grid(rows_of(points)[:, 0]), expected["TEMP"].values)


# -- fits --------------------------------------------------------------------------------------------------------
def test_a_fit_is_that_of_the_same_numbers_and_labels_go_back_to_the_grid(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 21_000 * 16 // 4)
    source: Any = open_rows(place, columns=["TEMP", "PACKED"])
    arrays = numbers()
    arrays["PACKED"] = np.round(arrays["SAL"] * 100) * 0.01
    rows = stacked(arrays, "TEMP", "PACKED")
    rows_read = rows_of(source)
    assert_array_equal(rows_read, rows)
    weights = in_order(arrays["w"], (2, 20, 25))
    with dask.config.set(scheduler="synchronous"):
        mixture = GaussianMixture(2, **ASKED).fit(source, sample_weight=open_rows(place, columns="w"))
        expected = GaussianMixture(2, **ASKED).fit(rows, sample_weight=weights)
        labels = mixture.predict(source)
        np.testing.assert_allclose(mixture.means_, expected.means_, rtol=1e-12)
        assert list(mixture.feature_names_in_) == ["TEMP", "PACKED"]
        grid = source.to_grid(labels)
    assert labels.shape == (21_000,)
    assert grid.shape == SHAPE
    assert_array_equal(grid == -1, np.isnan(arrays["SAL"]))
    cold = mixture.means_[:, 0].argmin()
    assert ((grid == cold) == (arrays["SAL"] < 32.5))[grid != -1].mean() > 0.99


class RangesStore(WrapperStore[MemoryStore]):
    """Notes which bytes of which key are read."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.reads: list[tuple[str, str]] = []

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.reads.append((key, repr(byte_range)))
        return await super().get(key, prototype, byte_range)


def test_each_byte_is_read_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several partitions of several runs. (Of a shard at the border the index is read alone, and its chunks.)"""
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 21_000 * 16 // 4)
    monkeypatch.setattr("daskgmm.sources.partition.RUN_BYTES", 32_000)
    store, arrays = RangesStore(MemoryStore()), numbers()
    written(store, {"TEMP": arrays["TEMP"], "w": arrays["w"]})
    group = written(store, {"SAL": arrays["SAL"]}, (1, 10, 5), shards=(2, 20, 25))
    rows = Rows.plan(open_rows(group, columns=["TEMP", "SAL"]), open_rows(group, columns="w"))
    assert rows.n_partitions >= 4
    store.reads.clear()
    run_pass(SurveyPass(2, True, 0, -1), rows, LocalExecutor(), name="survey")
    assert set(Counter(store.reads).values()) == {1}
    assert len({key for key, _ in store.reads}) == 3 * 4 * 3 * 3


def test_bits_do_not_depend_on_workers(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, two and four threads here, and two processes."""
    place, part = tmp_path / "g.zarr", {name: values[:4, :20, :30] for name, values in numbers().items()}
    written(place, part, (2, 10, 15))
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 2400 * 16 // 4)
    begun = {"means_init": [[10, 30], [18, 35]], "weights_init": [0.5, 0.5], "precisions_init": [np.eye(2)] * 2}
    options = ASKED | begun | {"max_iter": 2, "tol": 10.0, "cache": False}

    def fitted() -> bytes:
        source, weights = open_rows(place, columns=["TEMP", "SAL"]), open_rows(place, columns="w")
        assert Rows.plan(source, weights).n_partitions == 4
        mixture = GaussianMixture(2, **options).fit(source, sample_weight=weights)
        return mixture.means_.tobytes() + mixture.covariances_.tobytes()

    found = set()
    for n in (1, 2, 4):
        with dask.config.set(scheduler="threads", num_workers=n):
            found.add(fitted())
    with Client(cluster):
        found.add(fitted())
    assert len(found) == 1


def test_a_fit_goes_on_to_the_same_bits(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 21_000 * 16 // 4)
    asked = FitOptions(2, start_rows=500, max_iter=4, tol=1e-9, escape=False, non_finite="drop")

    def fitted(listener: Any, name: str) -> Any:
        checkpoint = Checkpoint.at(str(tmp_path / name), every=0)
        checkpoint.begin({})
        with dask.config.set(scheduler="synchronous"):
            return fit_mixture(
                open_rows(place, columns=["TEMP", "PACKED"]), asked, weights=open_rows(place, columns="w"),
                executor=LocalExecutor(), listener=listener, checkpoint=checkpoint,
            )  # fmt: skip

    def interrupt(done: Any) -> None:
        if done.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(interrupt, "c")
    assert fitted(lambda _: None, "c").lower_bounds == fitted(lambda _: None, "undisturbed").lower_bounds


def test_predictions_are_those_of_the_rows_and_are_written_in_the_shape_of_the_grid(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells at the borders have fewer points."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 21_000 * 8 // 4)
    source: Any = open_rows(place, columns="w")
    with dask.config.set(scheduler="synchronous"):
        mixture = GaussianMixture(2, **ASKED).fit(source)
        write_predictions(Predictor.of(mixture._parameters(), "score"), source, str(tmp_path / "out"), record={})
        found = mixture.score_samples(source).compute()
    same = mixture.to_sklearn()
    del same.feature_names_in_
    expected = same.score_samples(in_order(numbers()["w"], (2, 20, 25)).reshape(-1, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert_array_equal(zarr.open_group(tmp_path / "out")["score"][...], source.to_grid(found))


def on_latitudes(place: Path, lat: np.ndarray, units: str = "degrees") -> Path:
    """A grid of two features and weights, with a coordinate."""
    group = zarr.create_group(place)
    named = {"chunks": (10, 10), "dimension_names": ("lat", "lon")}
    for i, name in enumerate("abw"):
        group.create_array(name, data=np.random.default_rng(i).uniform(1, 2, (30, 20)), **named)
    group.create_array("lat", data=lat, dimension_names=("lat",))
    group["lat"].attrs["units"] = units
    return place


def test_weights_at_other_coordinates_are_refused(tmp_path: Path) -> None:
    lat = np.arange(30.0)
    X = open_rows(on_latitudes(tmp_path / "X.zarr", lat), columns=["a", "b"])
    for name, same in (("again", lat.astype("f4")), ("otherwise said", lat)):
        units = "degrees_north" if name == "otherwise said" else "degrees"
        weights = open_rows(on_latitudes(tmp_path / name, same, units), columns="w")
        assert Rows.plan(X, weights).weights is weights
    turned = open_rows(on_latitudes(tmp_path / "turned", lat[::-1]), columns="w")
    with pytest.raises(DataError, match="sample_weight must be in the order .*, the same grid at other coordinates"):
        GaussianMixture(1).fit(X, sample_weight=turned)


# -- what comes with the rows ------------------------------------------------------------------------------------
def test_weights_in_another_order_are_refused(place: Path) -> None:
    source = open_rows(place, columns=["TEMP", "SAL"])
    flat = np.ones(21_000)
    for weights in (flat, place / "flat"):
        with pytest.raises(DataError) as caught:
            GaussianMixture(2, **ASKED).fit(source, sample_weight=weights)
        assert (
            "sample_weight must be in the order of the rows of X, the points of a grid of shape (7, 50, 60) by 'time' "
            "and 'y' and 'x' cell by cell of (2, 20, 25); got " in str(caught.value)
        )
        assert ", rows as they are stored. Give it on the same grid, by the same dimensions, coor" in str(caught.value)
    (code,) = re.findall(r"from the same input: (.*); or of xarray by", str(caught.value))
    weights = eval(code, {"daskgmm": daskgmm, "X": zarr.open_group(place, mode="r")})
    assert Rows.plan(source, weights).weights is weights
    with pytest.raises(DataError, match=r"columns\['u'\] must be in the order of the rows of X"):
        Rows.plan(source, None, {"u": open_rows(flat)})
    with pytest.raises(
        DataError, match=r"got .*, the points of a grid of shape \(7, 50, 60\) by .* cell by cell of \(1, 10, 5\)"
    ):
        Rows.plan(source, open_rows(place, columns="SAL"))
    with pytest.raises(DataError, match="X, rows as they are stored; got .*, the points of a grid"):
        Rows.plan(open_rows(np.ones((21_000, 2))), open_rows(place, columns="w"))


# -- what is refused ---------------------------------------------------------------------------------------------
def test_names_and_wildcards(place: Path) -> None:
    assert open_rows(place, columns=["*E*"]).column_labels == ["PACKED", "TEMP"]
    assert open_rows(place, columns=["SAL", "?A?", "T*"]).column_labels == ["SAL", "TEMP"], "a coordinate is none"
    assert open_rows(place, columns=["*E*", "!PACKED"]).column_labels == ["TEMP"]
    message = refused(place, InputMissingError, columns=["TEMPS"])
    assert f"columns must name columns of X; got 'TEMPS' with {place}, where none has that name." in message
    assert message.endswith("Did you mean 'TEMP'?")
    assert "Name some of 'PACKED', 'SAL', 'TEMP'" in refused(place, InputMissingError, columns=["q*"])
    assert "got 'TEMP' twice" in refused(place, OptionError, columns=["TEMP", "TEMP"])
    assert "name at least one column of X; got none" in refused(place, OptionError, columns=[])
    assert "where X is one array; got columns=['TEMP'] with" in refused(place / "TEMP", OptionError, columns=["TEMP"])
    assert "and array='SAL'" in refused(place, OptionError, columns=["TEMP"], array="SAL")
    message = refused(place, OptionError, columns=["TEMP"], features="tine")
    assert "got 'tine' for 'TEMP' by 'time' and 'y' and 'x' in" in message
    assert message.endswith("Did you mean 'time'?")
    message = refused(place, OptionError, columns=["time"], features="time")
    assert "leave a dimension for the rows; got 'time', the only one of 'time'" in message


def test_many_dimensions_without_a_word_are_refused_with_what_works(tmp_path: Path) -> None:
    arrays = {name: numbers()[name] for name in ("TEMP", "SAL")}
    group = written(tmp_path / "g.zarr", arrays)
    message = refused(tmp_path / "g.zarr")
    (columns,) = re.findall(r"Name arrays by columns, (\[.*\]): each point of their grid is a row then\.$", message)
    assert open_rows(group, columns=eval(columns)).column_labels == ["SAL", "TEMP"]
    for given_, named in ((tmp_path / "g.zarr" / "TEMP", None), (group["TEMP"], None), (group, "TEMP")):
        message = refused(given_, array=named)
        assert "got 3 dimensions, shape (7, 50, 60), in" in message
        assert "Name it by columns of its group, so that each point of its grid is a row; or name" in message
    assert open_rows(group, columns="TEMP").n_features == 1
    assert open_rows(group["TEMP"], features="time").n_features == 7


def test_arrays_that_do_not_fit_together(tmp_path: Path) -> None:
    square = np.ones((6, 6))
    group = written(tmp_path / "g.zarr", {"a": square}, (4, 6), names=("y", "x"))
    written(tmp_path / "g.zarr", {"b": square}, (3, 6), names=("y", "x"))
    written(tmp_path / "g.zarr", {"c": square}, (4, 6), names=("x", "y"))
    written(tmp_path / "g.zarr", {"d": np.ones((6, 5))}, (4, 6), names=("y", "x"))
    group.create_array("s", data=np.ones((6, 6), "c16"))
    group.create_array("t", data=square, dimension_names=["y", "x"]).attrs["units"] = "days since 2000-01-01"
    for name in "cd":
        message = refused(group, columns=["a", name])
        assert (
            "Arrays that are features of X must lie on one grid; got 'a' of shape (6, 6) by 'y' and 'x', and" in message
        )
    message = refused(group, columns=["b", "a"])
    assert (
        "or of which the largest are multiples of the others; got chunks (4, 6) of 'a', and chunks (3, 6) of 'b'"
        in message
    )
    chunks = eval(re.findall(r"Store 'b' anew in chunks of (\(.*\)), under another name", message)[0])
    written(tmp_path / "g.zarr", {"b2": square}, chunks, names=("y", "x"))
    assert open_rows(group, columns=["b2", "a"]).n_rows == 36
    assert "dtype complex128 in" in refused(group, columns=["a", "s"])
    message = refused(tmp_path / "g.zarr", columns=["a", "t"])
    assert f"got times in 'days since 2000-01-01' in {tmp_path}/g.zarr/t" in message
    array = zarr.create_array({}, shape=(0, 3, 2), dtype="f8", dimension_names=["a", "b", "c"])
    assert "at least one row and one feature; got shape (0, 2)" in refused(array, features="c")


# -- what goes wrong ---------------------------------------------------------------------------------------------
def test_damage_is_named_by_array_and_chunk(tmp_path: Path) -> None:
    arrays = numbers()
    written(tmp_path / "g.zarr", arrays, compressors=Crc32cCodec())
    chunk = tmp_path / "g.zarr" / "SAL" / "c" / "1" / "2" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    source = open_rows(tmp_path / "g.zarr", columns=["TEMP", "SAL"])
    reader = reader_of(source)
    with pytest.raises(
        DataError, match=r"Rows 0 to 21000 must be readable; got .* from chunk SAL/c/1/2/0 of .*g\.zarr/SAL\. "
    ):
        reader.read(0, 21_000)
    assert_array_equal(reader.read(0, 1000), stacked(arrays, "TEMP", "SAL")[:1000])


def test_chunks_that_are_not_there(tmp_path: Path) -> None:
    arrays = numbers()
    arrays["SAL"][:2, :20, :25] = 0  # stored, and nothing but the fill value
    written(tmp_path / "g.zarr", arrays)
    source = open_rows(tmp_path / "g.zarr", columns=["TEMP", "SAL"])
    assert_array_equal(rows_of(source), stacked(arrays, "TEMP", "SAL"))
    (tmp_path / "g.zarr" / "SAL" / "c" / "1" / "2" / "0").unlink()
    with pytest.raises(DataError, match=r"got none for chunk SAL/c/1/2/0 of .*SAL, where zarr would read 0\.0"):
        rows_of(source)
    with pytest.raises(DataError, match=r"got none for chunk SAL/c/1/2/0 of .*SAL"):
        source.stamper().stamp(0, 21_000)  # type: ignore[union-attr]
    arrays["SAL"][2:4, 40:, :25] = 0
    filled = open_rows(tmp_path / "g.zarr", columns=["TEMP", "SAL"], missing_chunks="fill")
    assert_array_equal(rows_of(filled), stacked(arrays, "TEMP", "SAL"))


def test_errors_that_pass_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_SECONDS", (0.0, 0.0))

    class Failing(FailingStore):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if self.errors and key.startswith("SAL/c/0/0/0"):
                raise self.errors.pop()
            return await super().get(key, prototype, byte_range)

    arrays, store = numbers(), Failing(MemoryStore())
    reader = reader_of(open_rows(written(store, arrays), columns=["TEMP", "SAL"]))
    monkeypatch.setattr(FailingStore, "errors", [TimeoutError()] * 2)
    assert_array_equal(reader.read(0, 21_000), stacked(arrays, "TEMP", "SAL"))
    monkeypatch.setattr(FailingStore, "errors", [TimeoutError()] * 3)
    with pytest.raises(DataError, match="Rows 0 to 21000 must be readable; got TimeoutError"):
        reader.read(0, 21_000)
    assert FailingStore.errors == []


def test_a_change_is_noticed(tmp_path: Path) -> None:
    written(tmp_path / "g.zarr", numbers())
    source = open_rows(tmp_path / "g.zarr", columns=["TEMP", "SAL"])
    stamper: Any = source.stamper()
    form, stamps, identity = stamper.form(), stamper.stamp(0, 2000), source.identity()
    assert len(stamps) == 2 * 2
    zarr.open_array(tmp_path / "g.zarr" / "SAL", mode="r+")[0, 0, 0] = 3
    assert [a == b for a, b in zip(stamps, stamper.stamp(0, 2000), strict=True)] == [True, True, False, True]
    zarr.open_array(tmp_path / "g.zarr" / "SAL", mode="r+").attrs["add_offset"] = 1.0
    with pytest.raises(DataError, match="SAL must not change during a fit; got add_offset 1.0, where it had none"):
        stamper.form()
    again: Any = open_rows(tmp_path / "g.zarr", columns=["TEMP", "SAL"])
    assert again.stamper().form() != form
    assert again.identity() != identity
    other = open_rows(tmp_path / "g.zarr", columns=["SAL", "TEMP"])
    assert other.identity() != again.identity()
    assert pickle.loads(pickle.dumps(again.identity())) == again.identity()


def test_a_group_of_an_object_store(bucket: str) -> None:
    arrays = numbers()
    written(f"{bucket}/g.zarr", {name: arrays[name] for name in ("TEMP", "SAL")}, (7, 25, 60))
    source = open_rows(f"{bucket}/g.zarr", columns=["T*", "SAL"])
    assert source.travels
    assert_array_equal(elsewhere(source).read(0, 21_000), stacked(arrays, "TEMP", "SAL", cell=(7, 25, 60)))
    stamper: Any = source.stamper()
    assert stamper.far
    assert len(set(stamper.stamp(0, 21_000))) == 2 * 2


# -- memory ------------------------------------------------------------------------------------------------------
def test_what_is_held_is_below_what_is_stated(tmp_path: Path) -> None:
    import tracemalloc

    shape, chunks = (64, 256, 256), (16, 128, 128)
    for name, dtype in (("a", "f4"), ("b", "f8")):
        written(tmp_path / "g.zarr", {name: np.ones(shape, dtype)}, chunks)
    packed = written(tmp_path / "g.zarr", {"c": np.ones(shape, "i2")}, chunks)["c"]
    packed.attrs.update({"scale_factor": 0.5, "_FillValue": 7})
    source = open_rows(tmp_path / "g.zarr", columns=["a", "b", "c"])
    assert source.chunk_bytes == 16 * 128 * 128 * 3 * 8
    reader = source.reader()
    reader.read(0, 1)
    stop = int(source.chunk_edges[9])
    tracemalloc.start()
    try:
        rows = reader.read(0, stop)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows.nbytes < peak <= source.read_bytes(rows.nbytes) + MIB


def test_chunks_beyond_the_arrays_count() -> None:
    group = written(MemoryStore(), {"a": np.ones((10, 5, 3))}, (4, 8, 2), names=("y", "x", "z"))
    assert open_rows(group, columns="a").chunk_bytes == 4 * 8 * 2 * 8
    source = open_rows(group, columns="a", features="z")
    assert (source.n_features, source.chunk_bytes) == (3, 4 * 8 * 4 * 8)


def test_partitions_of_equal_length_may_begin_within_a_cell(place: Path) -> None:
    source: Any = open_rows(place, columns=["TEMP", "SAL"])
    edges = np.array([0, 4096, 12_288, 21_000])
    cut = source.rechunked_to(edges)
    assert np.isin(edges, cut.chunk_edges).all()
    assert source.rechunked_to(source.chunk_edges[::2]) is source
    assert_array_equal(rows_of(cut), rows_of(source))
