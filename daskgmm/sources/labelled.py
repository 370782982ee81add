"""Data frames and series in memory: the columns that are meant, as numbers, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError
from daskgmm.sources.columns import refuse_twice, select_columns
from daskgmm.sources.source import Source

#: What types of other libraries than pandas have, where they are data frames or series.
_OF_FRAMES = ("__dataframe__", "__arrow_c_stream__", "collect_schema", "__narwhals_series__")


def is_labelled(data: Any) -> bool:
    """Return whether labels may stand beside numbers. (By its type: delayed objects of Dask have every attribute.)"""
    return any(hasattr(type(data), name) for name in ("to_numpy", *_OF_FRAMES))


def is_dask_frame(data: Any) -> bool:
    """Return whether something is a data frame, a series or an index of Dask."""
    return hasattr(type(data), "to_dask_array") and hasattr(type(data), "__dask_graph__")


def open_labelled(data: Any, *, columns: Sequence[str] | None = None, argument: str = "X") -> Source:
    """Return the source of a data frame or a series in memory, of any library; missing values become NaN.

    Raises
    ------
    OptionError
        Columns of what has none; a frame that is lazy, or of a library that needs narwhals, which is not there.
    InputMissingError
        A column that is named is not there.
    DataError
        A column is not numeric, or its whole numbers are too large; two have the same name.
    """
    from daskgmm.sources.array_source import ArraySource

    if _is_of_pandas(data):
        from daskgmm.sources.pandas_frame import labels_of, rows_of

        data = data if columns is None else select_columns(data, columns, argument)
        labels = labels_of(data)
        refuse_twice(labels, argument)
        array: Any = rows_of(data, argument)
    elif any(hasattr(type(data), name) for name in _OF_FRAMES):
        from daskgmm.sources.narwhals_frame import open_frame

        array, labels = open_frame(data, columns, argument)
    else:
        if columns is not None:
            data = select_columns(data, columns, argument)
        array, name = _plainly(data, argument), getattr(data, "name", None)
        labels = [name] if isinstance(name, str) else None
    source = ArraySource(array, argument=argument)
    source.column_labels = labels
    return source


def _is_of_pandas(data: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "pandas" for kind in type(data).__mro__)


def _plainly(data: Any, argument: str) -> NDArray[Any]:
    """Return what something gives as its numbers, where it is no frame of a library that is known."""
    try:
        return np.asarray(data.to_numpy())
    except (TypeError, ValueError) as error:  # (arrays of Arrow with missing values)
        raise OptionError(
            f"`{argument}`",
            "be an array, a data frame, a path or a URL",
            f"a {type(data).__name__} that NumPy cannot take ({error})",
            "Make it a column of a data frame; of Arrow pyarrow.table({'x': X}) is one.",
        ) from error
