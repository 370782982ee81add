"""Packed numbers, read as xarray reads them: to the bit, and in its dtype."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from daskgmm import GaussianMixture
from daskgmm.errors import DataError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.sources.conventions import packing
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.sources.source import Source
from daskgmm.stores.checkpoint import Checkpoint
from tests.sources.test_conventions import refused, rows_of
from tests.sources.test_zarr_source import LAYOUTS

xarray = pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")

RAW = np.random.default_rng(0).normal(0, 40, (100, 4)).round() + 0.0
#: Dtype, and attributes as xarray writes them.
PACKINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "scaled": ("i2", {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": 7}),
    "scaled, of four bytes": ("i4", {"scale_factor": 0.01, "add_offset": 273.15}),
    "scale alone": ("i4", {"scale_factor": 0.1}),
    "scale alone, of singles": ("f4", {"scale_factor": 0.1}),
    "whole scale": ("i2", {"scale_factor": 2}),
    "scale of 1": ("i2", {"scale_factor": 1.0, "add_offset": 0.0}),
    "whole scale and offset": ("i1", {"scale_factor": 2, "add_offset": 5}),
    "offset alone": ("i2", {"add_offset": 200.0}),
    "fill value of one byte": ("i1", {"_FillValue": 7}),
    "fill value of two bytes": ("u2", {"_FillValue": 7}),
    "fill value of four bytes": ("i4", {"_FillValue": 7}),
    "fill value of eight bytes": ("i8", {"_FillValue": 7}),
    "fill value of big-endian": (">i2", {"_FillValue": 7}),
    "fill value of singles": ("f4", {"_FillValue": 7.0}),
    "fill value of halves": ("f2", {"_FillValue": 7.0}),
    "fill value of big-endian singles": (">f4", {"_FillValue": 7.0}),
    "fill value that is NaN": ("f8", {"_FillValue": np.nan}),
    "NaN for missing, and a scale": ("f4", {"_FillValue": np.nan, "scale_factor": 0.1, "add_offset": 3.0}),
    "missing value": ("f8", {"missing_value": 7.0}),
    "both": ("i2", {"missing_value": -3, "_FillValue": 7}),
    "several missing values": ("i4", {"missing_value": [-3, 7], "scale_factor": 0.5}),
    "missing value that is no such number": ("i2", {"missing_value": 7.5}),
    "unsigned": ("i2", {"_Unsigned": "true"}),
    "unsigned, big-endian": (">i2", {"_Unsigned": "true"}),
    "unsigned, with a fill value": ("i1", {"_Unsigned": "true", "scale_factor": 0.01, "_FillValue": -3}),
    "signed": ("u1", {"_Unsigned": "false", "_FillValue": 7}),
    "unsigned already": ("u1", {"_Unsigned": "true"}),
    "no integers to be unsigned": ("f4", {"_Unsigned": "true"}),
}


def written(
    folder: Path, dtype: str, attributes: dict[str, Any], zarr_format: Any = 3, name: str = "t", **layout: Any
) -> Path:
    """Write an array of a group as xarray does, and return the group."""
    packed = dict(attributes)
    fill = packed.pop("_FillValue", None) if zarr_format == 2 else None
    group = zarr.open_group(folder / "X.zarr", mode="a", zarr_format=zarr_format)
    named = {"dimension_names": ["row", "feature"]} if zarr_format == 3 else {}
    layout = {"chunks": RAW.shape, "config": {"write_empty_chunks": True}, **layout}
    array = group.create_array(name, shape=RAW.shape, dtype=dtype, fill_value=fill, overwrite=True, **named, **layout)
    array[...] = RAW.astype("i8").astype(dtype) if array.dtype.kind != "f" else RAW.astype(dtype)
    if "_FillValue" in packed and array.dtype.kind == "f":
        packed["_FillValue"] = xarray.backends.zarr.FillValueCoder.encode(packed["_FillValue"], array.dtype)
    array.attrs.update(packed | ({} if zarr_format == 3 else {"_ARRAY_DIMENSIONS": ["row", "feature"]}))
    return folder / "X.zarr"


def opened(group: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (several fill values, `_Unsigned` of floats)
        return xarray.open_zarr(group, consolidated=False, decode_times=False, **options)


def by_xarray(group: Any) -> np.ndarray:
    return np.asarray(opened(group)["t"].values)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected)
    assert found.tobytes() == expected.tobytes()


@pytest.fixture(scope="module", params=[2, 3])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A group of all packings, as xarray decodes it, and as it is stored."""
    folder = tmp_path_factory.mktemp("packed")
    for what, (dtype, attributes) in PACKINGS.items():
        place = written(folder, dtype, attributes, request.param, what, chunks=(30, 3))
    return place, opened(place), opened(place, mask_and_scale=False)


@pytest.mark.parametrize("what", PACKINGS)
def test_numbers_and_dtype_are_those_of_xarray(what: str, stored: tuple[Path, Any, Any]) -> None:
    place, decoded, raw = stored
    expected = decoded[what].values
    for source in (open_rows(place / what), open_rows(place, array=what)):
        # (What is only unsigned, or not packed at all, may keep the byte order that it is stored in.)
        assert source.dtype.newbyteorder("=") == expected.dtype
        found = rows_of(source)
        assert found.dtype == source.dtype
        same(found.astype(expected.dtype), expected)
    has_fill = ("fill" in what or "missing" in what or what in ("scaled", "both", "signed")) and "such" not in what
    assert np.isnan(expected).any() == (has_fill and "NaN" not in what)
    for given_ in (raw[what], raw[what].compute()):
        again = open_rows(given_)
        rows = again.array if again.array is not None else again.blocks.compute()
        assert rows.dtype == again.dtype
        same(rows.astype(expected.dtype), expected)


def test_open_arrays_are_decoded_too(stored: tuple[Path, Any, Any]) -> None:
    place, decoded, _ = stored
    group = zarr.open_group(place, mode="r", use_consolidated=False)
    for given_, array in ((group["scaled"], None), (group, "scaled")):
        same(rows_of(open_rows(given_, array=array)), decoded["scaled"].values)
    here = zarr.create_array({}, data=RAW.astype("i2"), chunks=(20, 2))
    here.attrs["scale_factor"] = 0.1
    same(rows_of(open_rows(here)), RAW * 0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout: str, tmp_path: Path) -> None:
    place = written(tmp_path, *PACKINGS["scaled"], **LAYOUTS[layout])
    source = pickle.loads(pickle.dumps(open_rows(place / "t")))
    same(rows_of(source), by_xarray(place))


numbers_ = st.one_of(st.integers(-200, 300), st.floats(-1e3, 1e3, width=32))


@given(
    dtype=st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "f8"]),
    scale=st.none() | numbers_, offset=st.none() | numbers_, missing=st.none() | st.lists(numbers_, max_size=3),
    fill=st.none() | st.integers(0, 100), unsigned=st.none() | st.sampled_from(["true", "false"]),
    values=st.lists(st.integers(-128, 255), min_size=1, max_size=8),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_packing_is_that_of_xarray_where_it_has_one(
    dtype: Any, scale: Any, offset: Any, missing: Any, fill: Any, unsigned: Any, values: list[int]
) -> None:
    stored = np.array(values).astype(dtype)
    given_ = {"scale_factor": scale, "add_offset": offset, "missing_value": missing, "_FillValue": fill}
    attributes = {name: value for name, value in (given_ | {"_Unsigned": unsigned}).items() if value is not None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            variable = xarray.Variable("row", stored, dict(attributes))
            expected = xarray.conventions.decode_cf_variable("t", variable, decode_times=False).values
        except (ValueError, OverflowError, TypeError):
            expected = None  # (a whole scale, and a value that is missing)
    found = packing(attributes, dtype)
    decoded = stored if found is None else found.decode(stored)
    lost = expected is None or (expected.dtype.kind in "iu" and stored.dtype.kind == "f")
    unlike = stored.dtype.kind == "f" and any(float(stored.dtype.type(one)) != one for one in missing or ())
    unlike = unlike or (
        unsigned is not None and stored.dtype.kind in "iu" and any(v < 0 or v > 127 for v in missing or ())
    )
    if lost:
        assert decoded.dtype == np.float64
    elif not unlike:
        same(decoded, expected)


def test_what_xarray_loses_is_not_lost() -> None:
    stored = np.array([1.5, 1e20, 3], "f4")
    assert_array_equal(packing({"missing_value": 1e20}, "f4").decode(stored), [1.5, np.nan, 3])
    assert_array_equal(packing({"scale_factor": 2}, "f4").decode(stored[[0, 2]]), [3.0, 6.0])
    whole = np.array([1, -1, 3], "i2")
    assert_array_equal(packing({"scale_factor": 2, "missing_value": 3}, "i2").decode(whole), [2, -2, np.nan])
    unsigned = packing({"_Unsigned": "true", "missing_value": -1}, "i2")
    assert_array_equal(unsigned.decode(whole), [1, np.nan, 3])
    signed = packing({"_Unsigned": "false", "_FillValue": 255}, "u1")
    assert_array_equal(signed.decode(np.array([1, 255, 128], "u1")), [1, np.nan, -128])


def test_numbers_of_numpy_decide_the_dtype_as_those_of_hdf5_do() -> None:
    stored = np.arange(5, dtype="i2")
    attributes = {"scale_factor": np.float32(0.1), "add_offset": np.float32(3)}
    expected = xarray.conventions.decode_cf_variable("t", xarray.Variable("row", stored, dict(attributes))).values
    same(packing(attributes, "i2").decode(stored), expected)
    assert expected.dtype == np.float32
    alone = {name: np.array([value]) for name, value in attributes.items()}
    same(packing(alone, "i2").decode(stored), expected)


def test_any_memory_order_and_many_dimensions() -> None:
    packed = packing({"scale_factor": 0.5, "_FillValue": 3, "_Unsigned": "true"}, "i2")
    stored = (np.arange(6 * 70_000) % 11).astype("i2").reshape(70_000, 3, 2)
    expected = np.where(stored == 3, np.nan, stored * 0.5)
    for one, right in (
        (stored, expected),
        (np.asfortranarray(stored), expected),
        (stored[::2, ::-1], expected[::2, ::-1]),
    ):
        before = one.copy()
        found = packed.decode(one)
        assert_array_equal(found, right)
        assert_array_equal(one, before)
        assert found.flags.f_contiguous == one.flags.f_contiguous


@pytest.mark.parametrize(
    "attributes",
    [
        {"scale_factor": "a"}, {"scale_factor": [1.0, 2.0]}, {"scale_factor": None}, {"scale_factor": float("nan")},
        {"add_offset": []}, {"add_offset": True},
        {"_FillValue": "none"}, {"missing_value": {"a": 1}}, {"missing_value": True},
    ],
    ids=str,
)  # fmt: skip
def test_attributes_that_are_no_numbers(attributes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"must be numbers; got {next(iter(attributes))}"):
        packing(attributes, "f8")


def test_numbers_that_cannot_be_decoded_are_given_as_they_are_stored(tmp_path: Path) -> None:
    place = written(tmp_path, "i2", {"scale_factor": "0.1", "_Unsigned": "yes"}, 3)
    message = refused(place / "t")
    assert f"got scale_factor '0.1', _Unsigned 'yes' in {place}/t (" in message
    (code,) = re.findall(r"as they are stored: (.*)\.$", message)
    assert_array_equal(eval(code, {"dask": dask}).compute(), RAW)
    message = refused(xarray.DataArray(RAW, attrs={"add_offset": "b"}))
    (code,) = re.findall(r"as they are stored: (.*)\.$", message)
    assert eval(code, {"X": xarray.DataArray(RAW)}) is not None
    with pytest.raises(DataError, match="a truth value cannot be missing"):
        packing({"_FillValue": False}, "?")
    with pytest.raises(DataError, match="neither 'true' nor 'false'"):
        packing({"_Unsigned": True}, "i2")


def test_whole_numbers_that_float64_cannot_hold(tmp_path: Path) -> None:
    packed = packing({"_FillValue": 2**63 - 1}, "i8")
    assert_array_equal(packed.decode(np.array([5, 2**63 - 1])), [5, np.nan])
    with pytest.raises(DataError, match="got 9007199254740993 in .*, which would be taken for 9007199254740992"):
        packed.decode(np.array([5, 2**53 + 1]))
    unsigned = packing({"_Unsigned": "true"}, "i8")
    assert_array_equal(unsigned.decode(np.array([5, -1])), np.array([5, 2**64 - 1], "u8"))


# -- fits ------------------------------------------------------------------------------------------------------
def groups(folder: Path, name: str = "X.zarr", *, zarr_format: Any = 3) -> tuple[Path, np.ndarray]:
    """Write two groups of packed rows, some missing, and return their place and what they mean."""
    random = np.random.default_rng(3)
    rows = random.normal(0, 1, (4000, 2)) + 10 * random.integers(2, size=(4000, 1))
    rows[::50, 1] = np.nan
    packed = {"dtype": "i2", "scale_factor": 0.001, "add_offset": 5.0, "_FillValue": -32768}
    dataset = xarray.Dataset({"t": (("row", "feature"), rows)})
    dataset.to_zarr(
        folder / name, encoding={"t": {**packed, "chunks": (250, 2)}}, zarr_format=zarr_format, consolidated=False
    )
    return folder / name / "t", by_xarray(folder / name)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_fit_is_that_of_the_decoded_numbers(zarr_format: Any, tmp_path: Path) -> None:
    place, meant = groups(tmp_path, zarr_format=zarr_format)
    asked: dict[str, Any] = {"random_state": 0, "n_init": 1, "tol": 1e-3, "escape": False}
    with pytest.raises(DataError, match="X must be finite; got 80 rows with NaN or infinity in"):
        GaussianMixture(2, **asked).fit(place)
    mixture = GaussianMixture(2, non_finite="drop", **asked).fit(place)
    whole = dask.array.from_array(meant, chunks=(4000, 2))
    expected = GaussianMixture(2, non_finite="drop", **asked).fit(whole)
    assert_array_equal(mixture.means_, expected.means_)
    assert sorted(np.round(mixture.means_[:, 0])) == [0, 10]
    with dask.config.set(scheduler="synchronous"):
        labels = mixture.predict(place).compute()
    assert (labels == -1).sum() == 80


def test_weights_are_decoded(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).integers(1, 5, 4000)
    array = zarr.create_array(tmp_path / "w.zarr", data=weights.astype("u1"), chunks=(500,))
    array.attrs["scale_factor"] = 0.5
    place, _ = groups(tmp_path)
    asked: dict[str, Any] = {"random_state": 0, "n_init": 1, "escape": False, "non_finite": "drop"}
    found = GaussianMixture(2, **asked).fit(place, sample_weight=tmp_path / "w.zarr")
    expected = GaussianMixture(2, **asked).fit(place, sample_weight=0.5 * weights)
    assert_array_equal(found.means_, expected.means_)


def options(**more: Any) -> FitOptions:
    return FitOptions(2, start_rows=500, max_iter=3, tol=1e-9, escape=False, non_finite="drop", **more)


@pytest.mark.parametrize("when", ["during", "between"])
def test_attributes_that_change_are_noticed(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = groups(tmp_path)

    def after(event: Any) -> None:
        if event.number == 2:
            zarr.open_array(place, mode="r+").attrs["scale_factor"] = 0.002
            if when == "between":
                raise KeyboardInterrupt

    def fit(listener: Any) -> Any:
        checkpoint = Checkpoint.at(str(tmp_path / "c"), every=0)
        checkpoint.begin({})
        with dask.config.set(scheduler="synchronous"):
            return fit_mixture(
                open_rows(place), options(), executor=LocalExecutor(), listener=listener, checkpoint=checkpoint
            )

    before = open_rows(place).identity()
    assert before["packing"]["scale_factor"] == 0.001
    if when == "during":
        with pytest.raises(DataError, match=r"not change during a fit; got scale_factor 0.002.*, where it had .*0.001"):
            fit(after)
        return
    with pytest.raises(KeyboardInterrupt):
        fit(after)
    with pytest.raises(DataError, match="stay as it is while it is read; got other files for rows 0 to"):
        fit(lambda _: None)
    assert open_rows(place).identity() != before


def test_a_plain_array_that_is_packed_later_is_noticed(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=RAW, chunks=(50, 4))
    source: Any = open_rows(tmp_path / "X.zarr")
    assert "packing" not in source.identity()
    form, reader = source.stamper().form(), pickle.loads(pickle.dumps(source.reader()))
    assert_array_equal(reader.read(0, 100), RAW)
    zarr.open_array(tmp_path / "X.zarr", mode="r+").attrs["scale_factor"] = 0.5
    with pytest.raises(DataError, match="got scale_factor 0.5, where it had none"):
        source.stamper().form()
    again: Any = open_rows(tmp_path / "X.zarr")
    assert again.stamper().form() != form
    opened = zarr.open_array(tmp_path / "X.zarr", mode="r")
    del zarr.open_array(tmp_path / "X.zarr", mode="r+").attrs["scale_factor"]
    message = refused(opened)
    assert "got an open array of shape (100, 4), dtype <f8, scale_factor 0.5, where" in message


# -- chunks, bytes and remedies ----------------------------------------------------------------------------------
def test_a_missing_chunk_is_missing_rows_only_where_that_is_asked_for(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "t.zarr", shape=(100, 2), chunks=(20, 2), dtype="i2", fill_value=-9)
    array.attrs.update({"scale_factor": 0.1, "_FillValue": -9})
    array[:60] = 5
    with pytest.raises(DataError, match=r"got none for row 60 of .* where zarr would read -9"):
        rows_of(open_rows(tmp_path / "t.zarr"))
    found = rows_of(open_rows(tmp_path / "t.zarr", missing_chunks="fill"))
    assert_array_equal(np.isnan(found).all(axis=1), np.arange(100) >= 60)
    assert_array_equal(found[:60], 0.5)


def test_the_memory_of_both_forms_is_stated() -> None:
    plain: Any = zarr.create_array({}, data=RAW.astype("f4"), chunks=(50, 3))
    source: Any = open_rows(plain)
    assert (source.chunk_bytes, source.read_bytes(800)) == (50 * 6 * 4, 2400)
    for dtype, attributes, itemsize, held in (
        ("i2", {"scale_factor": 0.1}, 8, 3 * 200 + 800),
        ("f4", {"missing_value": 7.0}, 4, 3 * 800 + 800),
        ("i1", {"missing_value": 7}, 4, 3 * 200 + 800),
    ):
        array = zarr.create_array({}, data=RAW.astype(dtype), chunks=(50, 3))
        array.attrs.update(attributes)
        source = open_rows(array)
        assert (source.row_bytes, source.chunk_bytes) == (4 * itemsize, 50 * 6 * itemsize)
        assert source.read_bytes(800) == held


def test_what_is_held_while_numbers_are_decoded_is_below_what_is_stated(tmp_path: Path) -> None:
    import tracemalloc

    array = zarr.create_array(tmp_path / "t.zarr", data=np.zeros((2**20, 4), "f4") + 3, chunks=(2**18, 4))
    array.attrs.update({"missing_value": 7.0})
    source = open_rows(tmp_path / "t.zarr")
    reader = source.reader()
    reader.read(0, 1)
    tracemalloc.start()
    try:
        rows = reader.read(0, 2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows.nbytes < peak <= source.read_bytes(rows.nbytes) + MIB


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rows_that_are_rechunked_keep_their_meaning(
    zarr_format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("scaled", "NaN for missing, and a scale"):
        place = written(tmp_path, *PACKINGS[what], zarr_format)
        expected = by_xarray(place)
        code = open_rows(place / "t").rechunking("(25, 4)")
        monkeypatch.chdir(tmp_path)
        first, second = re.fullmatch(r"rechunk: (.*), and then: (.*)", code).groups()  # type: ignore[union-attr]
        eval(first.replace('"rechunked.zarr"', '"rechunked.zarr", overwrite=True'), {"dask": dask})
        eval(second, {"zarr": zarr})
        source: Source = open_rows("rechunked.zarr")
        assert source.chunk_rows == 25
        same(rows_of(source), expected)


def test_packed_times_are_refused_with_the_code_of_their_numbers(tmp_path: Path) -> None:
    place = written(tmp_path, "i4", {"scale_factor": 0.5, "_FillValue": 7, "units": "days since 2000-01-01"}, 3)
    raw = xarray.open_zarr(place, consolidated=False, decode_cf=False)["t"]
    for given_, names in ((place / "t", {}), (raw, {"X": raw})):
        message = refused(given_)
        assert "got times in 'days since 2000-01-01' in" in message
        (code,) = re.findall(r"give them without their units: (.*)\.$", message)
        found = open_rows(eval(code, {"dask": dask, "xarray": xarray, **names}))
        same(found.blocks.compute(), np.where(RAW == 7, np.nan, RAW * 0.5))
