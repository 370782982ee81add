"""Arrays and data sets of xarray: points of a grid as rows, lazily or not, and predictions on the same grid."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from daskgmm import GaussianMixture, open_rows
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.sources.source import Source, dense
from tests.clusters import LOCAL

xr = pytest.importorskip("xarray")


def dataset(n_time: int = 6, n_y: int = 50, n_x: int = 40) -> Any:
    rng = np.random.default_rng(5)
    group = rng.integers(0, 2, (n_time, n_y, n_x))
    return xr.Dataset(
        {
            "T": (("time", "y", "x"), rng.normal(10.0 * group, 1.0)),
            "S": (("time", "y", "x"), rng.normal(35 - 3.0 * group, 0.5).astype("f4")),
            "w": (("time", "y", "x"), rng.uniform(0.5, 2, group.shape)),
        },
        coords={"time": np.arange(n_time), "y": np.linspace(0, 1, n_y), "mask": (("y", "x"), np.ones((n_y, n_x)))},
    )


def values_of(source: Source) -> np.ndarray:
    if source.array is not None:
        return np.asarray(source.array)
    return np.asarray(source.blocks.compute())


def flat(data: Any, *names: str) -> np.ndarray:
    return np.stack([data[name].values.reshape(-1) for name in names], axis=1)


def test_a_data_set_in_memory_is_rows_in_c_order() -> None:
    data = dataset()
    source = open_rows(data)
    assert source.column_labels == ["T", "S", "w"]
    assert source.n_rows == 12_000
    np.testing.assert_array_equal(values_of(source), flat(data, "T", "S", "w"))
    source = open_rows(data, columns=["S", "T"])
    np.testing.assert_array_equal(values_of(source), flat(data, "S", "T"))
    # Dimensions of another order are the same grid.
    turned = data.assign(S=data["S"].transpose("x", "time", "y"))
    np.testing.assert_array_equal(values_of(open_rows(turned, columns=["T", "S"])), flat(data, "T", "S"))
    # One array alone is not copied.
    one = open_rows(data, columns="T").array
    assert np.shares_memory(np.asarray(one), data["T"].values)


@pytest.mark.parametrize("chunks", [{"time": 4, "y": 20, "x": 15}, {"time": 1}, {}, {"time": (1, 3, 2), "x": 7}])
def test_a_lazy_data_set_is_the_same_rows_chunk_by_chunk(chunks: dict[str, Any]) -> None:
    data = dataset()
    source = open_rows(data.chunk(chunks)[["T", "S"]])
    assert source.grid is not None
    found = source.grid.to_grid(values_of(source))
    np.testing.assert_array_equal(found, np.stack([data["T"].values, data["S"].values], axis=-1))
    assert source.dtype == np.float64


def test_nothing_is_computed_before_it_is_read() -> None:
    import dask.array as da

    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    lazy = xr.DataArray(da.zeros((10, 4, 3), chunks=(5, 2, 3)).map_blocks(fail, dtype=float), dims=("t", "y", "x"))
    source = open_rows(xr.Dataset({"a": lazy}))
    assert (source.n_rows, source.n_features) == (120, 1)
    gm = GaussianMixture(1).fit(np.random.default_rng(0).normal(size=(50, 1)))
    with pytest.warns(UserWarning, match="feature names"):
        assert gm.predict(xr.Dataset({"a": lazy})).shape == (10, 4, 3)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_fit_is_that_of_the_same_rows_and_predictions_come_on_the_grid(lazy: bool) -> None:
    data = dataset()
    given = data.chunk({"time": 2, "y": 25}) if lazy else data
    gm = GaussianMixture(2, random_state=0, tol=1e-9).fit(
        given[["T", "S"]], sample_weight=open_rows(given, columns="w")
    )
    other = GaussianMixture(2, random_state=0, tol=1e-9)
    other.fit(flat(data, "T", "S"), sample_weight=data["w"].values.reshape(-1))
    order = np.argsort(gm.means_[:, 0])
    np.testing.assert_allclose(gm.means_[order], other.means_[np.argsort(other.means_[:, 0])], rtol=1e-6)
    assert list(gm.feature_names_in_) == ["T", "S"]
    # By name: the weights are no feature, and the order is another one.
    labels = gm.predict(given[["w", "S", "T"]])
    assert isinstance(labels, xr.DataArray)
    assert labels.dims == ("time", "y", "x")
    assert (labels.chunks is not None) == lazy
    np.testing.assert_array_equal(labels["mask"], data["mask"])
    np.testing.assert_array_equal(labels["time"], data["time"])
    rows = gm.to_sklearn()
    del rows.feature_names_in_
    np.testing.assert_array_equal(labels.values.reshape(-1), rows.predict(flat(data, "T", "S")))
    proba = gm.predict_proba(given[["T", "S"]])
    assert proba.dims == ("time", "y", "x", "component")
    np.testing.assert_allclose(proba.values.reshape(-1, 2), rows.predict_proba(flat(data, "T", "S")), atol=1e-9)
    scores = gm.score_samples(given[["T", "S"]])
    np.testing.assert_allclose(scores.values.reshape(-1), rows.score_samples(flat(data, "T", "S")), rtol=1e-9)


def test_a_dimension_of_features() -> None:
    data = dataset(n_time=3)
    for given in (data, data.chunk({"y": 10, "time": 2, "x": 40})):
        source = open_rows(given[["T"]], features="time")
        assert source.column_labels == ["T[time=0]", "T[time=1]", "T[time=2]"]
        assert source.grid is not None
        np.testing.assert_array_equal(source.grid.to_grid(values_of(source)), np.moveaxis(data["T"].values, 0, -1))
        one = open_rows(given["T"], features="time")
        assert one.column_labels == ["T[time=0]", "T[time=1]", "T[time=2]"]
        both = open_rows(given.assign(h=data["T"].mean("time"))[["T", "h"]], features="time")
        assert both.column_labels == ["T[time=0]", "T[time=1]", "T[time=2]", "h"]
        assert open_rows(given["T"], features="x").column_labels[:1] == ["T[0]"]  # type: ignore[index]
        gm = GaussianMixture(1).fit(source)
        assert gm.predict(source).dims == ("y", "x")


def test_rows_and_features_of_one_array_keep_their_coordinates() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 2))
    array = xr.DataArray(
        rows, dims=("station", "feature"), coords={"station": np.arange(30) * 10, "feature": ["a", "b"]}
    )
    gm = GaussianMixture(1).fit(array)
    assert list(gm.feature_names_in_) == ["a", "b"]
    labels = gm.predict(array)
    assert labels.dims == ("station",)
    np.testing.assert_array_equal(labels["station"], np.arange(30) * 10)
    proba = gm.predict_proba(array.chunk({"station": 10}))
    assert proba.dims == ("station", "component")
    assert proba.chunks is not None


def test_packed_variables_are_decoded_and_times_are_refused() -> None:
    stored = xr.DataArray(np.array([[100, 200], [-999, 300]], "i2"), dims=("y", "x"))
    packed = stored.assign_attrs(scale_factor=0.1, add_offset=5.0, _FillValue=-999)
    expected = xr.decode_cf(xr.Dataset({"a": packed}))["a"].values.reshape(-1)
    for data in (xr.Dataset({"a": packed}), xr.Dataset({"a": packed}).chunk({"y": 1})):
        np.testing.assert_array_equal(values_of(open_rows(data))[:, 0], expected)
    times = xr.Dataset({"t": stored.assign_attrs(units="days since 2000-01-01")})
    with pytest.raises(DataError, match=r"^X\['t'\] must hold numbers that mean what they are; got times"):
        open_rows(times)


def test_lazy_data_of_other_packages_are_rows() -> None:
    """Sparse blocks become dense, and packed ones are decoded; arrays of dask-array are Dask's."""
    import dask.array as da

    packed = np.arange(24, dtype="i2").reshape(6, 4)
    kinds: dict[str, Any] = {"sparse": pytest.importorskip("sparse").COO}
    lazy = {name: da.from_array(packed, chunks=(2, 4)).map_blocks(kind) for name, kind in kinds.items()}
    if find_spec("dask_array"):
        import dask_array

        lazy["dask-array"] = dask_array.from_array(packed, chunks=(2, 4))
    for values in lazy.values():
        for attrs, right in (({}, packed), ({"scale_factor": 0.5, "add_offset": 1.0}, packed * 0.5 + 1)):
            array = xr.DataArray(values, dims=("row", "feature"), attrs=attrs)
            np.testing.assert_array_equal(dense(open_rows(array).blocks.compute()), right)
            points = values_of(open_rows(array.to_dataset(name="v")))
            np.testing.assert_array_equal(points[:, 0], right.reshape(-1))


def test_what_is_no_grid_is_refused() -> None:
    data = dataset()
    data["h"] = data["T"].mean("time")
    data["name"] = xr.DataArray(["a"] * 40, dims="x")
    data["one"] = 3.0
    with pytest.raises(
        DataError, match="lie on one grid of at least one dimension; got 'T' by 'time' and 'y' and 'x', 'h'"
    ):
        open_rows(data[["T", "h"]])
    assert open_rows(data, columns=["T", "S"]).n_features == 2, "the remedy"
    with pytest.raises(DataError, match="one dimension; got 'one' by nothing"):
        open_rows(data, columns="one")
    with pytest.raises(DataError, match="must hold real numbers"):
        open_rows(data, columns="name")
    with pytest.raises(InputMissingError, match="got 'Q' with a Dataset of xarray, where none has that name"):
        open_rows(data, columns="Q")
    with pytest.raises(DataError, match="X must have a data variable"):
        open_rows(xr.Dataset())
    with pytest.raises(OptionError, match="features must name a dimension of what X is; got 'z' for 'T' by"):
        open_rows(data[["T"]], features="z")
    with pytest.raises(OptionError, match=r"Give daskgmm\.open_rows\(X, features='x'\); or, where each"):
        open_rows(data["T"])
    assert open_rows(data["T"], features="x").n_features == 40, "the remedy"
    assert open_rows(data["T"].to_dataset(name="values")).n_features == 1, "the other one"
    with pytest.raises(OptionError, match="columns must be left out where X is one array"):
        open_rows(data["T"], columns="T")
    # Weights in another order of the points are refused.
    lazy = data.chunk({"time": 2, "y": 25})
    with pytest.raises(DataError, match="sample_weight must be in the order of the rows of X"):
        GaussianMixture(1).fit(lazy[["T"]], sample_weight=data["w"].values.reshape(-1))


def test_weights_of_other_points_are_refused() -> None:
    data = dataset(n_time=1, n_y=40).isel(time=0).assign_coords(x=np.arange(40))
    gm = GaussianMixture(1).fit(data[["T"]], sample_weight=data[["w"]])
    for weights in (
        data[["w"]].transpose("x", "y"),
        data[["w"]].rename(y="p"),
        data[["w"]].isel(y=slice(None, None, -1)),
    ):
        with pytest.raises(
            DataError, match="in the order of the rows of X, the points of a grid of shape .* by 'y' and 'x'"
        ):
            gm.score(data[["T"]], sample_weight=weights)
    weighted = gm.score(data[["T"]], sample_weight=open_rows(data, columns="w"))
    assert weighted == gm.score(data[["T"]], sample_weight=data[["w"]])
    labels = gm.predict(data[["T"]])
    np.testing.assert_array_equal(open_rows(data[["T"]]).to_grid(labels), labels)


def test_a_cluster_gives_the_same_bits(tmp_path: Path) -> None:
    data = dataset(n_time=8)
    data.to_zarr(tmp_path / "X.zarr", zarr_format=2, encoding={name: {"chunks": (2, 25, 40)} for name in "TSw"})
    found = []
    for n_workers in (0, 2):
        lazy = xr.open_zarr(tmp_path / "X.zarr", chunks={})[["T", "S"]]
        if n_workers == 0:
            with dask.config.set(scheduler="sync"):
                found.append(GaussianMixture(2, random_state=0).fit(lazy))
            continue
        with LocalCluster(n_workers=n_workers, threads_per_worker=1, **LOCAL) as cluster, Client(cluster):
            found.append(GaussianMixture(2, random_state=0).fit(lazy))
    stored = GaussianMixture(2, random_state=0).fit(open_rows(tmp_path / "X.zarr", columns=["T", "S"]))
    for gm in found:
        np.testing.assert_array_equal(gm.means_, found[0].means_)
    np.testing.assert_allclose(np.sort(stored.means_, 0), np.sort(found[0].means_, 0), rtol=1e-9)


def test_weights_of_a_grid_come_as_an_array_of_it() -> None:
    """A weight for each point, such as the cosine of its latitude."""
    rng = np.random.default_rng(0)
    dims, shape = ("time", "y", "x"), (4, 6, 5)
    coords = {"y": np.linspace(-60, 60, 6), "time": np.arange(4)}
    ocean = xr.Dataset({name: (dims, rng.normal(size=shape)) for name in ("a", "b")}, coords=coords)
    weights = np.cos(np.deg2rad(ocean.y)).broadcast_like(ocean.a).transpose(*dims)
    flat = np.stack([ocean.a.to_numpy().ravel(), ocean.b.to_numpy().ravel()], axis=1)
    expected = GaussianMixture(1).fit(flat, sample_weight=weights.to_numpy().ravel()).covariances_
    np.testing.assert_allclose(GaussianMixture(1).fit(ocean, sample_weight=weights).covariances_, expected, rtol=1e-12)
    lazy = ocean.chunk({"time": 2, "y": 3})
    turned = weights.transpose("x", "y", "time")
    with pytest.raises(DataError, match=r"of xarray by weights.transpose\(\*X.dims\).chunk\(X.chunksizes\)"):
        GaussianMixture(1).fit(lazy, sample_weight=turned)
    alike = turned.transpose(*lazy.dims).chunk(lazy.chunksizes)
    np.testing.assert_allclose(GaussianMixture(1).fit(lazy, sample_weight=alike).covariances_, expected, rtol=1e-12)
    shifted = alike.assign_coords(y=alike.y + 1)
    with pytest.raises(DataError, match="the same grid at other coordinates"):
        GaussianMixture(1).fit(lazy, sample_weight=shifted)
    surface = ocean.isel(time=0, drop=True)
    one = GaussianMixture(1).fit(surface, sample_weight=weights.isel(time=0, drop=True))
    assert one.counts_.sum() == pytest.approx(30)
