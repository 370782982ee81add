"""Data frames and series of pandas as numbers: those in memory, and partitions of Dask's.

(pandas is imported where it is needed: nobody who has no such frame must have it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError
from daskgmm.sources.array_source import as_array
from daskgmm.sources.columns import no_numbers
from daskgmm.sources.digits import refuse_lost_digits

#: What pandas calls Python objects that are numbers; missing ones may be among them.
_NUMBERS = ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty")


def labels_of(frame: Any) -> list[Any] | None:
    """Return the labels of the columns of a data frame, or the name of a series where it is text."""
    if hasattr(frame, "columns"):
        return list(frame.columns)
    name = getattr(frame, "name", None)
    return [name] if isinstance(name, str) else None


def dtypes_of(frame: Any) -> Iterator[tuple[Any, Any]]:
    """Yield label and dtype of each column of a data frame or series of pandas or Dask."""
    if hasattr(frame, "columns"):
        yield from frame.dtypes.items()
    else:
        yield getattr(frame, "name", None), frame.dtype


def common_dtype(frame: Any, argument: str) -> np.dtype[Any]:
    """Return the dtype of the rows of a frame, float32 where it holds all numbers; nothing is read.

    Raises
    ------
    DataError
        A column is not numeric.
    """
    kinds = []
    for name, dtype in dtypes_of(frame):
        kind = getattr(dtype, "kind", None)
        is_decimal = str(getattr(dtype, "pyarrow_dtype", "")).startswith("decimal")
        # Columns of Python objects may be numbers; categories, text and nested values are objects of another dtype.
        if kind not in (*"biuf", None) and dtype != np.dtype(object) and not is_decimal:
            raise no_numbers(argument, name, f"dtype {dtype}")
        kinds.append(_is_narrow(dtype))
    return np.dtype(np.float32 if kinds and all(kinds) else np.float64)


def rows_of(frame: Any, argument: str) -> NDArray[Any]:
    """Return the numbers of a data frame or series; a view where it holds them so. Missing values become NaN."""
    dtype, dtypes = common_dtype(frame, argument), [dtype for _, dtype in dtypes_of(frame)]
    plain = all(isinstance(one, np.dtype) and one.kind in "biuf" for one in dtypes)
    if not plain or len({one.kind == "b" for one in dtypes}) > 1:  # (of these pandas makes Python objects)
        return numbers_of(frame, dtype, argument)
    array: NDArray[Any] = np.asarray(frame.to_numpy())
    if array.dtype.kind == "f":
        for name, column in _columns(frame):
            _refuse_lost_digits(column, name, argument)
    return array


def numbers_of(frame: Any, dtype: np.dtype[Any], argument: str) -> NDArray[Any]:
    """Return the numbers of a data frame or series, (n_rows, n_columns) or (n_rows,), column by column.

    Raises
    ------
    DataError
        Python objects that are no numbers; whole numbers that float64 cannot hold.
    """
    shape = (len(frame), frame.shape[1]) if hasattr(frame, "columns") else (len(frame),)
    rows: NDArray[Any] = np.empty(shape, dtype, order="F")
    for i, (name, column) in enumerate(_columns(frame)):
        rows[(..., i) if len(shape) == 2 else ...] = _values(column, name, argument)
    return rows


def _values(column: Any, name: Any, argument: str) -> NDArray[Any]:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "O":
        return _of_objects(column, name, argument)
    _refuse_lost_digits(column, name, argument)
    if isinstance(column.dtype, np.dtype):
        return np.asarray(column.to_numpy())
    dtype = "float32" if _is_narrow(column.dtype) else "float64"
    return np.asarray(column.to_numpy(dtype=dtype, na_value=np.nan))


def _is_narrow(dtype: Any) -> bool:
    return getattr(dtype, "kind", None) == "f" and getattr(dtype, "itemsize", 8) <= 4


def _of_objects(column: Any, name: Any, argument: str) -> NDArray[Any]:
    """Return Python objects as float64; text that looks like numbers is none."""
    from pandas.api.types import infer_dtype

    kind = infer_dtype(column, skipna=True)
    if kind not in _NUMBERS:
        raise no_numbers(argument, name, f"objects that are {kind}")
    objects = column.to_numpy(dtype=object, na_value=np.nan)
    return as_array(objects, f"column {name!r} of {argument}").astype(np.float64)


def _columns(frame: Any) -> Iterator[tuple[Any, Any]]:
    if hasattr(frame, "columns"):
        for i, name in enumerate(frame.columns):
            yield name, frame.iloc[:, i]
    else:
        yield getattr(frame, "name", None), frame


def _refuse_lost_digits(column: Any, name: Any, argument: str) -> None:
    """Raise a DataError where whole numbers are lost as the column becomes floats."""
    dtype = column.dtype
    if getattr(dtype, "kind", None) not in ("i", "u") or getattr(dtype, "itemsize", 8) < 8:
        return
    whole = column if isinstance(dtype, np.dtype) else column[~column.isna()]
    refuse_digits(np.asarray(whole.to_numpy()), name, argument)


def refuse_digits(whole: NDArray[Any], name: Any, argument: str) -> None:
    """Raise a DataError where float64 cannot hold a whole number of a column."""
    try:
        refuse_lost_digits(whole, first_row=None, argument=argument, column=repr(name))
    except DataError as error:
        remedy = "Subtract a whole number from that column first, or round it yourself to floats of 64 bits."
        raise DataError(error.argument, error.requirement, error.got, remedy) from None
