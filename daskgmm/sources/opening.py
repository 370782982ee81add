"""The one door through which an input becomes a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import numpy as np

from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.sources.labelled import is_dask_frame, is_labelled
from daskgmm.sources.registry import Opener, opener_of, suffix_of
from daskgmm.sources.source import Source, checked_shape


def open_rows(
    data: Any,
    *,
    columns: str | Sequence[str] | None = None,
    array: str | None = None,
    features: str | None = None,
    missing_chunks: str | None = None,
    argument: str = "X",
) -> Source:
    """Return the source of rows that `data` is, its metadata checked; no row is read.

    What it takes, `fit`, `predict`, `score`, `select` and `sample_weight` take directly, too; what it returns as well.

    Parameters
    ----------
    data : Source, path, URL, array or data frame
        A path or URL (``.npy``: memory map; ``.parquet``, a folder or glob of such files, a HATS catalog: Parquet;
        ``.h5``, ``.nc`` and so on, globs of these: HDF5; anything else: Zarr), an open `zarr.Array` or `zarr.Group`, a
        Dask array or data frame, an array or data set of xarray, a data frame of pandas, or through narwhals of another
        library, a NumPy array, or what `numpy.asarray` makes numbers of. Of shape (n_rows, n_features) or (n_rows,).
        And what `register_source` and installed packages add.
    columns : str or sequence of str, optional
        Names of the columns that are the features, in this order, where `data` has columns with names. Of a Zarr group
        they are arrays of one shape: each point of their grid is a row, chunk by chunk, and each array a feature.
        "z_*" means all that begin so, "!id" leaves one out.
    array : str, optional
        Name of the array, where `data` is a Zarr group or an HDF5 file that holds several. ("X.h5::/group/name" is the
        path of a data set in an HDF5 or netCDF-4 file.)
    features : str, optional
        Name of the dimension along which the features lie, where `data` has dimensions with names: each index is a
        feature, of each of the arrays, and the points of the other dimensions are rows. Features are named
        "T[depth=10.0]" where the group has a coordinate of that name, else "T[0]".
    missing_chunks : {"error", "fill"} or None
        What is done about rows whose chunk is not in a Zarr store; None takes Dask's configuration.
    argument : str
        What messages call the input.

    Raises
    ------
    OptionError
        What was given is no input of rows, or lacks an option or a package.
    InputMissingError
        Nothing is there, or it may not be read.
    DataError
        It is there, but no mixture can be fitted to it: shape, dtype, or a damaged file.

    Notes
    -----
    Rows of a grid come chunk by chunk, so that each is read once; weights are opened from the same grid, by `columns`
    as well, and ``source.to_grid(labels)`` brings what was predicted back into its shape.

    Numbers that are packed, by attributes of Zarr or of xarray, are decoded as they are read, as `xarray.open_zarr`
    does; a missing one is NaN.

    A Dask array of unknown chunk sizes is computed once, to count its rows, as soon as their number counts (logged). So
    is a column of a Dask data frame, where Dask does not know the lengths of its partitions (from footers of Parquet).
    """
    if isinstance(data, os.PathLike):
        data = os.fsdecode(data)
    if isinstance(data, str) and not data:
        raise OptionError(f"`{argument}`", "be a path or URL", "an empty string", "Name the input.")
    opener = _opener(data)
    named = (columns,) if isinstance(columns, str) else None if columns is None else tuple(columns)
    if named is not None and not all(isinstance(name, str) for name in named):
        raise OptionError(
            "`columns`", "be names of columns", repr(columns), "Give texts; of an array without names select columns."
        )
    options = {"columns": named, "array": array, "features": features}
    takes = _parameters_of(opener)
    for name, value in options.items():
        if value is not None and name not in takes:
            shown = data if isinstance(data, str) else type(data).__name__
            raise OptionError(
                f"`{name}`",
                f"be left out where `{argument}` has no {_NAMED[name]} with names",
                f"{name}={value!r} with {shown}",
                _WHERE[name],
            )
    options |= {"argument": argument, "missing_chunks": missing_chunks}
    source = opener(data, **{name: value for name, value in options.items() if name in takes})
    return _checked(source, argument)


#: What each option names, and where there are such.
_NAMED = {"columns": "columns", "array": "arrays", "features": "dimensions"}
_WHERE = {
    "columns": "Name columns only where the input has names for them.",
    "array": "Name an array only within a Zarr group or an HDF5 file.",
    "features": "Name a dimension only where the input has names for them.",
}


def open_by_name(data: Any, names: Sequence[str] | None, **options: Any) -> Source:
    """Return the source of the columns that a mixture was fitted to, where an input has names for its columns.

    Otherwise, and of a data frame, it is that of all columns.
    """
    is_frame = is_labelled(data) or is_dask_frame(data)
    if names is not None and not is_frame and takes_columns(data):
        try:
            return open_rows(data, columns=names, **options)
        except OptionError as error:
            if error.argument != "`columns`":  # (an array of a Zarr group has none)
                raise
        except (InputMissingError, DataError) as error:
            if error.argument != "`columns`":
                raise
            what = "have the columns that the mixture was fitted to"
            got = f"no {error.got.partition(', where none')[0]}" if isinstance(error, InputMissingError) else error.got
            remedy = (
                f"{error.remedy.replace('Name some of', 'It has', 1)} Rename a column that has another name there; "
                "where there is none, take the mixture of the other features (marginal)."
            )
            raise type(error)(f"`{options.get('argument', 'X')}`", what, got, remedy) from error
    return open_rows(data, **options)


def takes_columns(data: Any) -> bool:
    """Return whether an input may have columns with names, by which `open_rows` takes some of them."""
    return "columns" in _parameters_of(_opener(os.fsdecode(data) if isinstance(data, os.PathLike) else data))


def _opener(data: Any) -> Opener:
    if isinstance(data, Source):
        return _itself
    return opener_of(data) or (_other_location if isinstance(data, str) else _other_object)


@lru_cache
def _parameters_of(opener: Opener) -> frozenset[str]:
    return frozenset([*signature(opener).parameters][1:])


def _itself(source: Source) -> Source:
    return source


def _checked(source: Any, argument: str) -> Source:
    """Return a source whose metadata may be those of rows."""
    kind = type(source).__name__
    if not isinstance(source, Source):
        raise OptionError(f"What opens `{argument}`", "return a daskgmm.Source", f"a {kind}", "Derive it from that.")
    if source.blocks is None:  # (a Dask array may not know its rows yet)
        missing = [name for name in ("label", "n_rows", "n_features", "dtype") if not hasattr(source, name)]
        if missing:
            raise OptionError(
                "A source", "have label, n_rows, n_features and dtype", f"a {kind} without {missing[0]}", "Set it."
            )
        if not isinstance(source.dtype, np.dtype):
            raise OptionError("`dtype` of a source", "be a numpy.dtype", repr(source.dtype), "Give numpy.dtype(...).")
        checked_shape((source.n_rows, source.n_features), source.dtype, argument=argument, label=source.label)
    return source


def _other_location(
    location: str,
    *,
    columns: tuple[str, ...] | None,
    array: str | None,
    features: str | None,
    argument: str,
    missing_chunks: str | None,
) -> Source:
    """Return the source at a path or URL whose suffix nobody claims."""
    suffix = suffix_of(location)
    if suffix in _CONVERSIONS:
        raise OptionError(
            f"`{argument}`",
            "be a Zarr array, a .npy file or Parquet files where it is a path",
            f"a {suffix} file, {location}",
            f"Convert it once: {_CONVERSIONS[suffix]}",
        )
    from daskgmm.sources.zarr_opening import open_location

    return open_location(
        location, columns=columns, array=array, features=features, argument=argument, missing_chunks=missing_chunks
    )


def _other_object(data: Any, *, argument: str) -> Source:
    """Return the source of anything that NumPy makes an array of."""
    if hasattr(data, "__dask_graph__") and data.__dask_graph__() is not None:
        raise OptionError(
            f"`{argument}`",
            "be an array, a data frame, a path or a URL",
            f"a {type(data).__name__} of Dask",
            "Give a Dask array: dask.array.from_delayed and dask.array.stack make one.",
        )
    from daskgmm.sources.array_source import ArraySource

    return ArraySource(data, argument=argument)


_TO_ZARR, _TO_PARQUET = '.to_zarr("X.zarr")', '.to_parquet("X.parquet", write_index=False)'
_CONVERSIONS = {
    ".npz": 'numpy.save("X.npy", numpy.load("X.npz")["name"]).',
    ".mat": 'numpy.save("X.npy", scipy.io.loadmat("X.mat")["name"]).',
    ".csv": f'dask.dataframe.read_csv("X.csv"){_TO_PARQUET}.',
    ".tsv": rf'dask.dataframe.read_csv("X.tsv", sep="\t"){_TO_PARQUET}.',
    ".txt": rf'dask.dataframe.read_csv("X.txt", sep=r"\s+"){_TO_PARQUET}.',
    ".feather": 'pandas.read_feather("X.feather").to_parquet("X.parquet").',
    ".fits": 'astropy.table.Table.read("X.fits").to_pandas().to_parquet("X.parquet").',
    ".fcs": 'numpy.save("X.npy", flowio.FlowData("X.fcs").as_array()).',
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), 'load it where you trust it, then numpy.save("X.npy", X).'),
}
