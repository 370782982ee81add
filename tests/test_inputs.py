"""The one door: every method takes what `fit` takes, refuses what it refuses, and says what works instead."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import daskgmm
from daskgmm import GaussianMixture, open_rows, select
from daskgmm.errors import DataError, NoRowsError, NotNumbersError, OptionError

ROWS = np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[0.0], [9.0]], 20, axis=0)
LAZY = da.from_array(ROWS, chunks=(10, 2))
NAMES = ["height", "weight"]


def mixture(**options: Any) -> GaussianMixture:
    return GaussianMixture(2, **{"n_init": 1, "random_state": 0} | options)


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return mixture().fit(ROWS)


@pytest.fixture(scope="module")
def pandas() -> Any:
    return pytest.importorskip("pandas", reason="data frames need pandas: the extra 'test'")


@pytest.fixture(scope="module")
def xarray() -> Any:
    return pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")


def calls(fitted: GaussianMixture) -> dict[str, Callable[[Any], Any]]:
    """Every method that takes rows; what is lazy is computed."""
    found: dict[str, Callable[[Any], Any]] = {
        name: getattr(fitted, name) for name in ("predict", "predict_proba", "score_samples", "score", "aic", "bic")
    }
    found["fit"] = lambda X: GaussianMixture(1).fit(X).means_
    found["fit_predict"] = lambda X: GaussianMixture(1).fit_predict(X)
    found["select"] = lambda X: select(X, n_components=[1], n_init=1).best_.means_
    return {name: lambda X, call=call: np.asarray(call(X)) for name, call in found.items()}


def alike(X: Any, fitted: GaussianMixture, *, expected: Any = ROWS) -> None:
    """Check that each method gives for X what it gives for an array."""
    for name, call in calls(fitted).items():
        assert_allclose(call(X), call(expected), rtol=1e-9, err_msg=name)


# -- what is taken ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", ">i4", "i8", "u8", "f2", ">f4", ">f8"])
@pytest.mark.parametrize("lazy", [False, True])
def test_every_dtype_is_the_same_rows(dtype: str, lazy: bool) -> None:
    rows = (np.abs(ROWS) * 10).astype("i1").astype(dtype)
    X = da.from_array(rows, chunks=(10, 2)) if lazy else rows
    alike(X, mixture().fit(rows.astype(float)), expected=rows.astype(float))


@pytest.mark.parametrize("what", ["list", "tuple", "array", "Dask"])
def test_a_flat_list_is_rows_of_one_feature(what: str) -> None:
    x = ROWS[:, 0]
    X = {"list": x.tolist(), "tuple": tuple(x), "array": x, "Dask": da.from_array(x, chunks=10)}[what]
    alike(X, mixture().fit(x[:, np.newaxis]), expected=x[:, np.newaxis])


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.coo_array, "COO"])
@pytest.mark.parametrize("width", [1, 2])
def test_sparse_blocks_of_a_dask_array_are_rows(kind: Any, width: int, fitted: GaussianMixture) -> None:
    if kind == "COO":
        kind = pytest.importorskip("sparse").COO
    X = LAZY.rechunk((10, width)).map_blocks(kind)
    assert not isinstance(X._meta, np.ndarray)
    alike(X, fitted)
    assert mixture().fit(X).means_.tobytes() == mixture().fit(LAZY).means_.tobytes()
    dense, stated = (open_rows(each).read_bytes(1000) for each in (LAZY, X))
    assert stated == 3 * dense, "a task holds both"


def test_a_series_is_rows_of_one_feature(pandas: Any) -> None:
    dd = pytest.importorskip("dask.dataframe", reason="Dask data frames need pyarrow: the extra 'test'")
    series = pandas.Series(ROWS[:, 0])
    for X in (series, dd.from_pandas(series, npartitions=3)):
        alike(X, mixture().fit(ROWS[:, :1]), expected=ROWS[:, :1])


def test_arrays_of_xarray(xarray: Any, fitted: GaussianMixture) -> None:
    for X in (xarray.DataArray(ROWS), xarray.DataArray(LAZY), xarray.Variable(("row", "feature"), ROWS)):
        alike(X, fitted)
    named = xarray.DataArray(LAZY, dims=("row", "feature"), coords={"feature": NAMES})
    gm = mixture().fit(named)
    assert list(gm.feature_names_in_) == NAMES
    with pytest.raises(DataError, match="Feature names must be in the same order"):
        gm.score(named[:, ::-1])


def test_a_dataset_of_xarray_is_rows_of_its_variables(xarray: Any, fitted: GaussianMixture) -> None:
    X = xarray.Dataset({"a": ("row", ROWS[:, 0]), "b": ("row", ROWS[:, 1])})
    gm = mixture().fit(X)
    assert list(gm.feature_names_in_) == ["a", "b"]
    assert_array_equal(gm.predict(X), fitted.predict(ROWS))


@pytest.mark.parametrize("weights", ["list", "series", "Dask series", "xarray", "column"])
def test_weights_come_as_rows_do(weights: str, pandas: Any, xarray: Any) -> None:
    w = np.arange(1.0, 41.0)
    series = pandas.Series(w)
    given: dict[str, Callable[[], Any]] = {
        "list": w.tolist,
        "series": lambda: series,
        "Dask series": lambda: pytest.importorskip("dask.dataframe").from_pandas(series, npartitions=3),
        "xarray": lambda: xarray.DataArray(w),
        "column": lambda: w[:, np.newaxis],
    }
    X = LAZY if weights == "Dask series" else ROWS
    gm, expected = (mixture().fit(X, sample_weight=sw) for sw in (given[weights](), w))
    assert_allclose(gm.means_, expected.means_, rtol=1e-12)
    assert gm.score(X, sample_weight=given[weights]()) == pytest.approx(expected.score(X, sample_weight=w))


@pytest.mark.parametrize("weights", [np.ones(40) * 1j, np.array(["a"] * 40), scipy.sparse.eye(40), np.ma.ones(40)])
def test_weights_are_refused_by_their_name(weights: Any, fitted: GaussianMixture) -> None:
    for call in (mixture().fit, fitted.score, fitted.bic):
        with pytest.raises((DataError, OptionError), match="^sample_weight must"):
            call(ROWS, sample_weight=weights)


# -- what is refused -------------------------------------------------------------------------------------------
def refusals(X: Any, fitted: GaussianMixture, kind: type[Exception], said: str) -> str:
    """Check that each method refuses X with the same error, and return its message."""
    messages = set()
    for call in calls(fitted).values():
        with pytest.raises(kind, match=re.escape(said)) as caught:
            call(X)
        messages.add(re.sub("(have|got) 10 ", r"\1 40 ", str(caught.value)))  # (of one block, or of all of them)
    assert len(messages) == 1
    return messages.pop()


DATES = np.array(["2024-01-01", "2024-01-02"] * 20, dtype="M8[s]").reshape(-1, 2)
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "complex": (ROWS + 1j, DataError, "got dtype complex128 in NumPy array. Complex data not supported"),
    "complex Dask": (LAZY + 1j, DataError, "got dtype complex128 in Dask array"),
    "dates": (DATES, DataError, "got dtype datetime64[s] in NumPy array"),
    "dates Dask": (da.from_array(DATES, chunks=10), DataError, "got dtype datetime64[s] in Dask array"),
    "times": (DATES - DATES[0, 0], DataError, "got dtype timedelta64[s]"),
    "text": (np.array([["a", "b"]]), DataError, "got dtype <U1 in NumPy array"),
    "text Dask": (da.from_array(np.array([["a", "b"]])), DataError, "got dtype <U1 in Dask array"),
    "text objects": (np.array([["a", "b"]], dtype=object), DataError, "got Python objects that are none"),
    "objects": (np.array([[{}, {}]], dtype=object), NotNumbersError, "got Python objects that are none"),
    "3-D": (np.zeros((4, 2, 2)), DataError, "got 3 dimensions, shape (4, 2, 2), in NumPy array"),
    "3-D Dask": (da.zeros((4, 2, 2)), DataError, "got 3 dimensions, shape (4, 2, 2), in Dask array"),
    "0-d": (np.float64(3), DataError, "got 0 dimensions, shape (), in NumPy array"),
    "0-d Dask": (da.zeros(()), DataError, "got 0 dimensions, shape (), in Dask array"),
    "sparse": (scipy.sparse.csr_matrix(ROWS), OptionError, "X must be dense; got the sparse csr_matrix"),
    "masked": (np.ma.masked_array(ROWS, ROWS > 9), DataError, "must not be a masked array"),
    "masked Dask": (da.ma.masked_array(LAZY, LAZY > 9), DataError, "must not be masked arrays"),
    "structure": (np.zeros(4, dtype=[("a", "f8")]), DataError, "must hold real numbers"),
    "delayed": (dask.delayed(np.ones)((3, 2)), OptionError, "got a Delayed of Dask"),
    "nothing": (None, OptionError, "got a NoneType"),
    "long double": (ROWS.astype(np.longdouble), DataError, "float of at most 64 bits"),
    "text blocks": (LAZY.map_blocks(lambda b: b.astype(str), dtype=float), DataError, "must hold real numbers"),
    "complex blocks": (LAZY.map_blocks(lambda b: b + 1j, dtype=float), DataError, "got dtype complex128 in a block"),
    "3-D blocks": (LAZY.map_blocks(lambda b: b[..., None], dtype=float), DataError, "got a block of shape (10, 2, 1)"),
    "shorter blocks": (LAZY.map_blocks(lambda b: b[:, :1], dtype=float), DataError, "rows of 2 columns from row 0"),
    "nanoseconds": (np.arange(80).reshape(40, 2) + 17 * 10**17, DataError, "1700000000000000001 in row 0, column 1"),
    "no features": (np.zeros((4, 0)), DataError, "at least one row and one feature; got shape (4, 0)"),
    "no rows": (ROWS[:0], NoRowsError, "got shape (0, 2) in NumPy array. Check how it was written or selected; where"),
    "no rows Dask": (LAZY[:0], NoRowsError, "at least one row and one feature; got shape (0, 2) in Dask array"),
}  # fmt: skip


def test_a_selection_that_nobody_has_counted_may_leave_no_row(fitted: GaussianMixture) -> None:
    none = LAZY[LAZY[:, 0] > ROWS.max()]
    assert [fitted.predict(none).compute().shape, fitted.predict_proba(none).compute().shape] == [(0,), (0, 2)]
    assert fitted.score_samples(none).compute().shape == (0,)
    with pytest.raises(NoRowsError, match=r"got shape \(0, 2\) in Dask array"):
        fitted.score(none)


@pytest.mark.parametrize("what", REFUSED)
def test_every_method_refuses_it_alike(what: str, fitted: GaussianMixture) -> None:
    if what == "long double" and np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is float64 here")
    X, kind, said = REFUSED[what]
    refusals(X, fitted, kind, said)


def test_blocks_that_are_not_what_is_declared_are_refused_by_every_method(fitted: GaussianMixture) -> None:
    def cut(block: Any, block_info: Any = None) -> Any:
        return block[:-1] if block_info[0]["chunk-location"][0] == 2 else block

    def narrowed(block: Any, block_info: Any = None) -> Any:
        return block[:, :1] if block_info[0]["chunk-location"][0] == 2 else block

    for call in calls(fitted).values():
        with pytest.raises(DataError, match="must have the lengths that its chunks say; got rows"):
            call(LAZY.map_blocks(cut, dtype=float, meta=np.empty((0, 2))))
        with pytest.raises(DataError, match="blocks of 1 and of 2|rows of 2 columns from row"):
            call(LAZY.map_blocks(narrowed, dtype=float, meta=np.empty((0, 2))))


def test_numbers_with_a_unit_are_refused(fitted: GaussianMixture) -> None:
    class Quantity(np.ndarray):
        unit = "km"

        def to_value(self) -> Any:
            return np.asarray(self)

    X = ROWS.view(Quantity)
    message = refusals(X, fitted, DataError, "got a Quantity with a unit, which would be lost")
    alike(advised(message, X), fitted)


# -- what is advised works -------------------------------------------------------------------------------------
def advised(message: str, X: Any, pattern: str = r"(X\.\w+\([^ ]*\))") -> Any:
    """Return what the code in a message makes of X."""
    (code,) = re.findall(pattern, message)
    return eval(code, {"X": X, "numpy": np, "dask": dask, "zarr": zarr})


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("complex", r"(X\.real)"),
        ("complex Dask", r"(X\.real)"),
        ("dates", r"seconds: (.*)\."),
        ("dates Dask", r"seconds: (.*)\."),
        ("times", r"seconds: (.*)\."),
        ("long double", r"(X\.astype\('float64'\))"),
        ("sparse", r"(X\.toarray\(\))"),
        ("masked", r"(numpy\.ma\.filled.*)\."),
        ("masked Dask", r"(dask\.array\.ma\.filled.*)\."),
        ("nanoseconds", r"\((X - X\.min.*)\), or"),
        ("nanoseconds", r"yourself \((X\.astype.*)\)"),
    ],
)
def test_what_a_message_advises_is_taken(what: str, pattern: str) -> None:
    X, kind, said = REFUSED[what]
    gm = mixture(non_finite="drop")
    with pytest.raises(kind, match=re.escape(said)) as caught:
        gm.fit(X)
    again = advised(str(caught.value), X, pattern)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (dates of two days have no spread)
        assert gm.fit(again).means_.shape == (2, 2)
    assert len(np.asarray(gm.predict(again))) == X.shape[0]


def test_one_row_is_reshaped(fitted: GaussianMixture, pandas: Any) -> None:
    for X in (ROWS[0], ROWS[0].tolist(), pandas.Series(ROWS[0])):
        with pytest.raises(DataError, match=r"X has 1 features, but GaussianMixture is expecting 2") as caught:
            fitted.predict(X)
        again = advised(str(caught.value), X, r"one row is (numpy.*)\.$")
        assert_array_equal(fitted.predict(again), fitted.predict(ROWS[:1]))


# -- whole numbers of 64 bits -----------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["i8", "u8", ">i8"])
@pytest.mark.parametrize("where", ["memory", "Dask", "npy", "zarr"])
def test_whole_numbers_that_float64_cannot_hold(dtype: str, where: str, tmp_path: Path) -> None:
    rows = np.zeros((30, 2), dtype=dtype)
    rows[:, 0] = np.arange(30)
    rows[20, 1] = 2**53 + 1
    np.save(tmp_path / "X.npy", rows)
    zarr.create_array(tmp_path / "X.zarr", data=rows, chunks=(10, 2), config={"write_empty_chunks": True})
    X = {
        "memory": rows,
        "Dask": da.from_array(rows, chunks=(10, 2)),
        "npy": tmp_path / "X.npy",
        "zarr": tmp_path / "X.zarr",
    }[where]
    gm = mixture(reg_covar=1.0).fit(rows.astype(float))
    for call in (mixture().fit, gm.score, lambda X: np.asarray(gm.predict(X))):
        with pytest.raises(
            DataError, match="got 9007199254740993 in row (20|0), column 1, which would be .* 9007199254740992"
        ):
            call(X)


def test_large_whole_numbers_that_float64_holds_are_taken() -> None:
    rows = np.array([[0], [2**60], [2**62], [2**53]] * 5)
    assert_allclose(GaussianMixture(1).fit(rows).means_, rows.mean(axis=0, dtype=float)[np.newaxis], rtol=1e-12)
    largest = np.array([[0], [2**64 - 1]] * 5, dtype="u8")
    with pytest.raises(DataError, match="got 18446744073709551615 in row 1"):
        GaussianMixture(1).fit(largest)


def test_whole_numbers_of_a_frame_keep_their_digits(pandas: Any) -> None:
    dd = pytest.importorskip("dask.dataframe", reason="Dask data frames need pyarrow: the extra 'test'")
    frame = pandas.DataFrame({"time": np.arange(40) + 17 * 10**17, "x": ROWS[:, 0]})
    nullable = frame.assign(time=frame["time"].astype("Int64"))
    for whole in (frame, nullable):
        for X in (whole, dd.from_pandas(whole, npartitions=2)):
            with pytest.raises(DataError, match="got 17000000000000000\\d\\d in column 'time'"):
                mixture().fit(X)
    with pytest.raises(DataError, match="got 1700000000000000001, which would be taken for"):
        mixture().fit([[0, 2**70], [17 * 10**17 + 1, 5]])


# -- names of columns ------------------------------------------------------------------------------------------
def frames(pandas: Any, names: list[Any], rows: np.ndarray = ROWS) -> list[Any]:
    dd = pytest.importorskip("dask.dataframe", reason="Dask data frames need pyarrow: the extra 'test'")
    frame = pandas.DataFrame(rows, columns=names)
    return [frame, dd.from_pandas(frame, npartitions=3)]


def test_columns_in_another_order_are_refused(pandas: Any, tmp_path: Path) -> None:
    for fitted_to in frames(pandas, NAMES):
        gm = mixture().fit(fitted_to)
        assert list(gm.feature_names_in_) == NAMES
        gm.save(tmp_path / "m.zarr", overwrite=True)
        for model, X in itertools.product([gm, GaussianMixture.load(tmp_path / "m.zarr")], frames(pandas, NAMES)):
            swapped = X[NAMES[::-1]]
            for name in ("predict", "predict_proba", "score_samples", "score", "bic"):
                with pytest.raises(DataError, match="Feature names must be in the same order as they were in fit") as e:
                    getattr(model, name)(swapped)
            (code,) = re.findall(r"order, take (.*)\.$", str(e.value))
            again = eval(code, {"X": swapped, "mixture": model, "daskgmm": daskgmm})
            assert model.score(again) == pytest.approx(gm.score(fitted_to), rel=1e-12)


def test_other_columns_are_named(pandas: Any) -> None:
    gm = mixture().fit(frames(pandas, NAMES)[0])
    for X in frames(pandas, ["height", "age"]):
        with pytest.raises(DataError, match="unseen at fit time:\n- age\n.*yet now missing:\n- weight\n"):
            gm.predict(X)


def test_names_on_one_side_only_are_warned_of(pandas: Any, fitted: GaussianMixture) -> None:
    named = mixture().fit(frames(pandas, NAMES)[0])
    for plain in (ROWS, LAZY):
        with pytest.warns(
            UserWarning, match="X does not have valid feature names, but GaussianMixture was fitted with"
        ):
            named.predict(plain)
    for X in frames(pandas, NAMES):
        with pytest.warns(UserWarning, match="X has feature names, but GaussianMixture was fitted without"):
            fitted.predict(X)
    gm = mixture().fit(frames(pandas, NAMES)[1]).fit(ROWS)
    assert not hasattr(gm, "feature_names_in_")


def test_columns_without_names_have_none(pandas: Any) -> None:
    for X in frames(pandas, [0, 1]):
        assert not hasattr(mixture().fit(X), "feature_names_in_")
    frame = frames(pandas, ["a", 1])[0]
    with pytest.raises(DataError, match="names that are all text, or none; got labels of several types, .* 'a' and 1"):
        mixture().fit(frame)
    frame.columns = frame.columns.astype(str)
    assert list(mixture().fit(frame).feature_names_in_) == ["a", "1"]


def test_columns_that_are_no_numbers_are_named(pandas: Any, fitted: GaussianMixture) -> None:
    for X in frames(pandas, NAMES):
        for bad in ("text", pandas.Timestamp("2024-01-01")):
            with pytest.raises(
                DataError, match="X must hold real numbers in every column; got dtype .* in column 'weight'"
            ):
                mixture().fit(X.assign(weight=bad))


def test_missing_values_of_nullable_columns_are_nan(pandas: Any) -> None:
    rows = np.round(ROWS * 10)
    kept = rows[rows[:, 1] != rows[0, 1]]
    for X in frames(pandas, NAMES, rows):
        X = X.astype("Int64").where(X["weight"] != rows[0, 1])
        found = GaussianMixture(1, non_finite="drop").fit(X)
        assert found.n_dropped_ == len(rows) - len(kept) > 0
        assert_allclose(found.means_[0], kept.mean(axis=0), rtol=1e-12)
