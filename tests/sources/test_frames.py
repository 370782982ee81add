"""Data frames and series in memory, of pandas and of other libraries: their numbers, or which column has none."""

from __future__ import annotations

import datetime
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskgmm
from daskgmm import GaussianMixture, open_rows
from daskgmm.errors import DataError, InputMissingError, OptionError

pd = pytest.importorskip("pandas", reason="data frames need pandas: the extra 'test'")
pa = pytest.importorskip("pyarrow", reason="Arrow needs pyarrow: the extra 'test'")

NAN = float("nan")
ROWS = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0.0], [9.0]], 30, axis=0)


def numbers(frame: Any, **options: Any) -> np.ndarray:
    found = open_rows(frame, **options).array
    assert found is not None
    return found


def other(library: str, columns: dict[str, Any]) -> Any:
    """Return a data frame of a library other than pandas."""
    pytest.importorskip("narwhals", reason="other data frames need narwhals: the extra 'frames'")
    if library == "polars":
        return pytest.importorskip("polars", reason="polars is not installed: the extra 'test'").DataFrame(columns)
    if library == "narwhals":
        import narwhals

        return narwhals.from_native(pa.table(columns))
    return pa.table(columns)


OTHERS = ["polars", "arrow", "narwhals"]


# -- pandas ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "dtype",
    ["Int64", "UInt8", "Float64", "Float32", "boolean", "int64[pyarrow]", "double[pyarrow]", "float[pyarrow]",
     "bool[pyarrow]", "object"],
)  # fmt: skip
def test_nullable_and_arrow_columns_of_pandas(dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.Series([1, None, 0], dtype=dtype), "b": pd.Series([0, 1, 1], dtype=dtype)})
    found = numbers(frame)
    np.testing.assert_array_equal(found, [[1, 0], [NAN, 1], [0, 1]])
    assert found.dtype == ("f4" if dtype.lower().startswith("float") and "64" not in dtype else "f8")
    np.testing.assert_array_equal(numbers(frame["a"]), [[1], [NAN], [0]])
    mixed = frame.assign(c=np.array([0.5, 1.5, 2.5]), d=[True, False, True])
    np.testing.assert_array_equal(numbers(mixed), [[1, 0, 0.5, 1], [NAN, 1, 1.5, 0], [0, 1, 2.5, 1]])


def test_whole_and_boolean_columns_together() -> None:
    np.testing.assert_array_equal(numbers(pd.DataFrame({"a": [7, 8], "b": [True, False]})), [[7, 1], [8, 0]])


def test_sparse_decimal_and_indexes_of_pandas() -> None:
    sparse = pd.DataFrame({"a": pd.arrays.SparseArray([0.0, NAN, 2.0])})
    np.testing.assert_array_equal(numbers(sparse), [[0], [NAN], [2]])
    decimals = pd.Series([Decimal("1.5"), None], dtype=pd.ArrowDtype(pa.decimal128(10, 2)), name="price")
    np.testing.assert_array_equal(numbers(decimals), [[1.5], [NAN]])
    np.testing.assert_array_equal(numbers(pd.Index([3, 4])), [[3], [4]])


def test_plain_columns_are_not_copied() -> None:
    X = np.asfortranarray(ROWS)
    assert np.shares_memory(numbers(pd.DataFrame(X, columns=["a", "b"], copy=False)), X)


@pytest.mark.parametrize(
    ("column", "got"),
    [
        (["1", "2"], r"(dtype str|dtype string|objects that are string)"),
        (pd.Series(["1", "2"], dtype=object), "objects that are string"),
        (pd.Series([1, "2"], dtype=object), "objects that are mixed-integer"),
        (pd.Categorical([1, 2]), "dtype category"),
        (pd.to_datetime(["2024-01-01", "2024-01-02"]), r"dtype datetime64\[\w+\]"),
        (pd.Series([1, 2], dtype="duration[s][pyarrow]"), r"dtype duration\[s\]\[pyarrow\]"),
        ([[1, 2], [3]], "objects that are mixed"),
        ([1j, 2j], "dtype complex128"),
    ],
)
def test_columns_of_pandas_that_are_no_numbers_are_named(column: Any, got: str) -> None:
    frame = pd.DataFrame({"size": [1.0, 2.0], "kind": column})
    with pytest.raises(DataError, match=f"X must hold real numbers in every column; got {got} in column 'kind'"):
        open_rows(frame)
    np.testing.assert_array_equal(numbers(frame, columns="size"), [[1], [2]])


def test_names_that_two_columns_have_are_refused() -> None:
    frame = pd.DataFrame(np.ones((3, 3)), columns=["a", "b", "a"])
    for columns in (None, ["a"]):
        with pytest.raises(DataError, match="got several columns 'a' in a data frame. Rename one of them, or name oth"):
            open_rows(frame, columns=columns)
    assert open_rows(frame, columns=["b"]).n_features == 1
    pytest.importorskip("narwhals")
    with pytest.raises(DataError, match="got several columns 'a' in a data frame. Rename one of them.$"):
        open_rows(pa.Table.from_arrays([pa.array([1.0])] * 2, names=["a", "a"]))


@pytest.mark.parametrize("library", ["pandas", "pandas, nullable", "pandas, mixed", *OTHERS])
def test_whole_numbers_that_float64_cannot_hold_are_named(library: str) -> None:
    columns = {"x": [0.5, 1.5], "time": [1, 2**60 + 1]}
    if library.startswith("pandas"):
        frame = pd.DataFrame(columns).astype({"time": "Int64" if "nullable" in library else "int64"})
        frame = frame.assign(flag=[True, False]) if "mixed" in library else frame
    else:
        frame = other(library, columns)
    with pytest.raises(DataError, match=f"got {2**60 + 1} in column 'time', which would be taken for {2**60}"):
        open_rows(frame)


# -- others ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("library", OTHERS)
def test_other_frames_are_the_same_rows(library: str) -> None:
    frame = other(library, {"a": [1, None, 3], "b": [True, False, None], "c": [1.5, None, NAN]})
    np.testing.assert_array_equal(numbers(frame), [[1, 1, 1.5], [NAN, 0, NAN], [3, NAN, NAN]])
    assert open_rows(frame).column_labels == ["a", "b", "c"]
    np.testing.assert_array_equal(numbers(frame, columns=["c", "!b", "*"]), [[1.5, 1], [NAN, NAN], [NAN, 3]])
    np.testing.assert_array_equal(numbers(frame["a"]), [[1], [NAN], [3]])
    decimals = other(library, {"price": [Decimal("1.5"), None]})
    np.testing.assert_array_equal(numbers(decimals), [[1.5], [NAN]])
    with pytest.raises(InputMissingError, match="got 'C' with a DataFrame|got 'C' with a Table"):
        open_rows(frame, columns=["C"])


@pytest.mark.parametrize("library", OTHERS)
def test_a_fit_to_another_frame_has_the_bits_of_its_array(library: str) -> None:
    frame = other(library, {"a": ROWS[:, 0], "b": ROWS[:, 1]})
    found, right = (GaussianMixture(2, n_init=1, random_state=0).fit(X) for X in (frame, ROWS))
    assert found.means_.tobytes() == right.means_.tobytes()
    assert list(found.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(found.predict(frame), right.predict(ROWS))
    swapped = other(library, {"b": ROWS[:, 1], "a": ROWS[:, 0]})
    with pytest.raises(DataError, match="Feature names must be in the same order as they were in fit") as caught:
        found.predict(swapped)
    (code,) = re.findall(r"order, take (.*)\.$", str(caught.value))
    again = eval(code, {"X": swapped, "mixture": found, "daskgmm": daskgmm})
    np.testing.assert_array_equal(found.predict(again), right.predict(ROWS))
    weights = other(library, {"w": np.arange(60.0)})["w"]
    weighted = GaussianMixture(2, n_init=1, random_state=0).fit(frame, sample_weight=weights)
    by_array = GaussianMixture(2, n_init=1, random_state=0).fit(ROWS, sample_weight=np.arange(60.0))
    assert weighted.means_.tobytes() == by_array.means_.tobytes()


@pytest.mark.parametrize("library", OTHERS)
def test_narrow_floats_stay_narrow(library: str) -> None:
    columns = {"a": np.arange(3, dtype="f4"), "b": np.ones(3, dtype="f4")}
    assert open_rows(other(library, columns)).dtype == "f4"
    assert open_rows(other(library, columns | {"c": np.ones(3)})).dtype == "f8"


@pytest.mark.parametrize("library", OTHERS)
@pytest.mark.parametrize("what", ["text", "date", "list", "none"])
def test_columns_of_other_frames_that_are_no_numbers_are_named(library: str, what: str) -> None:
    values = {"text": ["1", "2"], "date": [datetime.datetime(2024, 1, 1)] * 2, "list": [[1], [2]],
              "none": [None, None]}[what]  # fmt: skip
    frame = other(library, {"size": [1.0, 2.0], "kind": values})
    with pytest.raises(DataError, match=r"X must hold real numbers in every column; got dtype \w.* in column 'kind'"):
        open_rows(frame)
    np.testing.assert_array_equal(numbers(frame, columns="size"), [[1], [2]])


def test_lazy_frames_are_to_be_collected(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    narwhals = pytest.importorskip("narwhals")
    X = polars.LazyFrame({"a": ROWS[:, 0], "b": ROWS[:, 1]})
    for lazy in (X, narwhals.from_native(X)):
        with pytest.raises(OptionError, match="got the lazy LazyFrame of (polars|narwhals). Give what") as caught:
            GaussianMixture(2).fit(lazy)
        (code,) = re.findall(r"Give what (.*) returns", str(caught.value))
        np.testing.assert_array_equal(numbers(eval(code, {"X": lazy})), ROWS)
    X.sink_parquet(tmp_path / "X.parquet")
    assert open_rows(tmp_path / "X.parquet").n_rows == 60


def test_pieces_of_arrow_are_to_be_tables() -> None:
    pytest.importorskip("narwhals")
    table = pa.table({"a": [1, None], "b": [3.0, 4.0]})
    for make in (lambda: table.to_batches()[0], table.to_reader):
        with pytest.raises(OptionError, match="got a RecordBatch.* of pyarrow. Give pyarrow.table") as caught:
            open_rows(make())
        (code,) = re.findall(r"Give (pyarrow.*)\.$", str(caught.value))
        np.testing.assert_array_equal(numbers(eval(code, {"X": make(), "pyarrow": pa})), [[1, 3], [NAN, 4]])
    with pytest.raises(OptionError, match="got a Int64Array that NumPy cannot take") as caught:
        open_rows(table["a"].chunk(0))
    (code,) = re.findall(r"of Arrow (pyarrow.*) is one", str(caught.value))
    np.testing.assert_array_equal(numbers(eval(code, {"X": table["a"].chunk(0), "pyarrow": pa})), [[1], [NAN]])


def test_columns_of_a_series_are_refused() -> None:
    for series in (pd.Series([1.0, 2.0], name="a"), other("arrow", {"a": [1.0]})["a"]):
        with pytest.raises(OptionError, match="columns must be left out where X has no columns with names; got a "):
            open_rows(series, columns="a")


def test_without_narwhals_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(
        OptionError,
        match=r"X must be of pandas or Dask where it is a data frame and narwhals is not installed; got a DataFrame of "
        r"polars \(.*\). Install it: pip install 'daskgmm\[frames\]'.",
    ):
        open_rows(polars.DataFrame({"a": [1.0]}))
    np.testing.assert_array_equal(numbers(pd.DataFrame({"a": [1.0, None]})), [[1], [NAN]])
