"""Data frames and series of polars, Arrow, Modin and others as numbers, by narwhals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError, verbatim
from daskgmm.sources.columns import chosen_labels, no_numbers, refuse_twice
from daskgmm.sources.pandas_frame import refuse_digits


def open_frame(data: Any, columns: Sequence[str] | None, argument: str) -> tuple[NDArray[Any], list[Any] | None]:
    """Return the columns of a data frame that are meant as numbers, (n_rows, n_columns), and their names.

    Of a series they are (n_rows,). Missing values become NaN. Floats of at most 32 bits are float32 if all are.

    Raises
    ------
    OptionError, InputMissingError, DataError
        See `daskgmm.sources.labelled.open_labelled`.
    """
    nw, kind = _narwhals(data, argument), type(data).__name__
    # (Whoever has frames with such columns, narwhals has none.)
    refuse_twice(getattr(data, "column_names", None), argument, "Rename one of them.")
    frame = nw.from_native(data, pass_through=True, allow_series=True)
    if isinstance(frame, nw.LazyFrame):
        # (To collect is to load all of it, which is nobody's to decide but the user's.)
        raise OptionError(
            f"`{argument}`",
            "be in memory, or a path, where it is a data frame of another library than Dask",
            f"the lazy {kind} of {_library(data)}",
            f"Give what {_collected(data, argument)} returns; where it does not fit in memory write it as Parquet, and "
            "give that path.",
        )
    if isinstance(frame, nw.Series):
        if columns is not None:
            chosen_labels(columns, [], argument, kind)
        return _numbers([frame], argument)[:, 0], [frame.name] if frame.name else None
    if not isinstance(frame, nw.DataFrame):
        raise OptionError(
            f"`{argument}`",
            "be an array, a data frame, a path or a URL",
            f"a {kind} of {_library(data)}",
            f"Give pyarrow.table({argument}).",
        )
    names = list(frame.columns)
    if columns is not None:
        names = chosen_labels(columns, names, argument, kind)
    return _numbers([frame.get_column(name) for name in names], argument, n_rows=len(frame)), names


def _numbers(series: Sequence[Any], argument: str, n_rows: int | None = None) -> NDArray[Any]:
    """Return series as the columns of an array, one converted after the other."""
    import narwhals as nw

    dtypes = [one.dtype for one in series]
    for one, dtype in zip(series, dtypes, strict=True):
        if not dtype.is_numeric() and dtype != nw.Boolean:
            raise no_numbers(argument, one.name, f"dtype {dtype}")
    narrow = bool(dtypes) and all(dtype == nw.Float32 for dtype in dtypes)
    rows = np.empty((len(series[0]) if n_rows is None else n_rows, len(series)), "f4" if narrow else "f8", order="F")
    for i, one in enumerate(series):
        if dtypes[i].is_integer():
            refuse_digits(np.asarray(one.drop_nulls().to_numpy()), one.name, argument)
        # (Missing ones are NaN by themselves, or in some libraries None.)
        rows[:, i] = one.cast(nw.Float32 if narrow else nw.Float64).to_numpy()
    return rows


def _narwhals(data: Any, argument: str) -> Any:
    try:
        import narwhals
    except ImportError as error:
        raise OptionError(
            f"`{argument}`",
            "be of pandas or Dask where it is a data frame and narwhals is not installed",
            f"a {type(data).__name__} of {_library(data)} ({error})",
            "Install it: pip install 'daskgmm[frames]'.",
        ) from error
    return narwhals


def _library(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _collected(data: Any, argument: str) -> str:
    own = f"{argument}.collect()" if hasattr(type(data), "collect") else f"narwhals.from_native({argument}).collect()"
    return verbatim(own)
