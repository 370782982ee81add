"""Data frames and series: the numbers that they hold, and the labels of their columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError
from daskgmm.sources.columns import chosen
from daskgmm.sources.digits import refuse_lost_digits


def is_labelled(data: Any) -> bool:
    """Return whether labels may stand beside numbers. (By its type: delayed objects of Dask have every attribute.)"""
    kind = type(data)
    return hasattr(kind, "to_dask_array") or hasattr(kind, "to_numpy")


def unlabelled(data: Any, argument: str) -> tuple[Any, list[Any] | None]:
    """Return the array that labelled data hold, of NumPy or of Dask, and the labels of its columns; nothing is read.

    Of a series its name is the label of the only column.

    Raises
    ------
    DataError
        A column is not numeric.
    """
    of_frame = _of_dask_frame if hasattr(type(data), "to_dask_array") else _of_frame
    return of_frame(data, argument), _labels(data)


def select_columns(data: Any, columns: Sequence[str], argument: str) -> Any:
    """Return some columns of a data frame; nothing is read."""
    kind = type(data).__name__
    labels = [one for one in getattr(data, "columns", ()) if isinstance(one, str)]
    if not labels:
        raise OptionError(
            "`columns`", f"be left out where `{argument}` has no columns with names", f"a {kind}", "Leave it out."
        )
    return data[chosen(columns, labels, argument, f"a {kind}")]


def _labels(frame: Any) -> list[Any] | None:
    """Return the labels of the columns of a data frame, or the name of a series."""
    if hasattr(frame, "columns"):
        return list(frame.columns)
    name = getattr(frame, "name", None)
    return [name] if isinstance(name, str) else None


def _of_frame(frame: Any, argument: str) -> NDArray[Any]:
    """Return the numbers of a data frame or series of pandas, or alike; missing values become NaN."""
    _check_columns(frame, argument)
    array = np.asarray(frame.to_numpy())
    if array.dtype.kind == "O" and hasattr(getattr(frame, "dtypes", None), "kind" if frame.ndim == 1 else "items"):
        # Nullable columns with missing values, or columns of mixed dtypes, arrive as objects.
        try:
            array = np.asarray(frame.to_numpy(dtype="float64", na_value=np.nan))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"`{argument}`",
                "hold real numbers in every column",
                f"another value in a column of objects of a data frame ({error})",
                "Drop or encode that column.",
            ) from error
    if array.dtype.kind == "f":
        _refuse_lost_digits(frame, argument)
    return array


def _of_dask_frame(frame: Any, argument: str) -> Any:
    """Return the Dask array of a data frame or series of Dask; missing values become NaN."""
    _check_columns(frame, argument)
    dtypes = [dtype for _, dtype in _dtypes(frame)]
    plain = all(isinstance(dtype, np.dtype) and dtype.kind != "O" for dtype in dtypes)
    if any(_whole(dtype) for dtype in dtypes) and not (plain and len(set(dtypes)) == 1):
        frame = frame.map_partitions(_digits_checked, argument)
    if not plain:
        frame = frame.astype("float64")
    return frame.to_dask_array()


def _digits_checked(frame: Any, argument: str) -> Any:
    """Return a partition of a data frame whose whole numbers are those of the array that it becomes."""
    _refuse_lost_digits(frame, argument)
    return frame


def _check_columns(frame: Any, argument: str) -> None:
    for name, dtype in _dtypes(frame):
        # Columns of Python objects may be numbers; categories, text and nested values are objects of another dtype.
        if getattr(dtype, "kind", None) not in (*"biuf", None) and dtype != np.dtype(object):
            raise DataError(
                f"`{argument}`",
                "hold real numbers in every column",
                f"dtype {dtype} in column {name!r} of a data frame",
                "Drop or encode that column.",
            )


def _refuse_lost_digits(frame: Any, argument: str) -> None:
    """Raise a DataError where whole numbers of a pandas frame are lost as its columns take a common dtype."""
    for i, (name, dtype) in enumerate(_dtypes(frame)):
        if _whole(dtype):
            column = (frame.iloc[:, i] if hasattr(frame, "columns") else frame).dropna()
            refuse_lost_digits(np.asarray(column.to_numpy()), first_row=None, argument=argument, column=repr(name))


def _whole(dtype: Any) -> bool:
    return getattr(dtype, "kind", None) in ("i", "u") and dtype.itemsize >= 8


def _dtypes(frame: Any) -> Iterator[tuple[Any, Any]]:
    """Yield label and dtype of each column of a data frame or series of pandas or Dask; none of other libraries."""
    dtypes: Any = getattr(frame, "dtypes", None)
    if hasattr(dtypes, "items"):
        yield from dtypes.items()
    elif hasattr(dtypes, "kind"):
        yield getattr(frame, "name", None), dtypes
