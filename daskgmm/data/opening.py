"""The one door through which an input becomes a source."""

from __future__ import annotations

import os
import sys
from typing import Any

from daskgmm.data.labelled import beside_of, unlabelled
from daskgmm.data.source import Source
from daskgmm.errors import OptionError


def open_source(
    data: Any,
    *,
    array: str | None = None,
    argument: str = "X",
    missing_chunks: str | None = None,
) -> Source:
    """Return the source of rows that `data` is, its metadata checked; no row is read.

    Parameters
    ----------
    data : Source, path, URL, array or data frame
        A path or URL (``.npy``: memory map; anything else: Zarr), an open `zarr.Array` or `zarr.Group`,
        a Dask array or data frame, a NumPy array, or what `numpy.asarray` makes numbers of. Of shape
        (n_rows, n_features) or (n_rows,).
    array : str, optional
        Name of the array, where `data` is a Zarr group that holds several.
    argument : str
        What messages call the input.
    missing_chunks : {"error", "fill"} or None
        What is done about rows whose chunk is not in a Zarr store; None takes Dask's configuration.

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
    A Dask array of unknown chunk sizes is computed once, to count its rows, as soon as their number counts (logged).
    """
    beside, (data, labels) = beside_of(data), unlabelled(data, argument)
    if isinstance(data, str | os.PathLike):
        return _open_location(os.fspath(data), array, argument, missing_chunks)
    # Whoever holds a Zarr object has imported zarr; looking it up costs nothing where nobody has.
    zarr = sys.modules.get("zarr")
    if zarr is not None and isinstance(data, zarr.Array | zarr.Group):
        from daskgmm.data.zarr_source import ZarrSource

        return ZarrSource.from_node(data, array=array, argument=argument, missing_chunks=missing_chunks)
    if array is not None:
        raise OptionError(
            f"array must be left out where {argument} has no named arrays; got array={array!r} with "
            f"{type(data).__name__}. Name an array only within a Zarr group."
        )
    if isinstance(data, Source):
        return data
    source = _open_object(data, argument)
    source.beside, source.column_labels = beside, labels
    return source


def _open_location(location: str | bytes, array: str | None, argument: str, missing_chunks: str | None) -> Source:
    """Return the source at a path or URL, told apart by the end of its name."""
    if isinstance(location, bytes):
        location = os.fsdecode(location)
    if not location:
        raise OptionError(f"{argument} must be a path or URL; got an empty string. Name the input.")
    suffix = os.path.splitext(location.rstrip("/"))[1].lower()
    if suffix in _CONVERSIONS:
        raise OptionError(
            f"{argument} must be a Zarr array or a .npy file where it is a path; got a {suffix} file, {location}. "
            f"Convert it once: {_CONVERSIONS[suffix]}"
        )
    if suffix != ".npy":
        from daskgmm.data.zarr_source import ZarrSource

        return ZarrSource.from_location(location, array=array, argument=argument, missing_chunks=missing_chunks)
    if array is not None:
        raise OptionError(
            f"array must be left out where {argument} has no named arrays; got array={array!r} with {location}. "
            "Name an array only within a Zarr group."
        )
    from daskgmm.data.array_source import NpySource

    return NpySource(location, argument=argument)


def _open_object(data: Any, argument: str) -> Source:
    """Return the source of a Dask collection, or of anything that NumPy makes an array of."""
    if is_dask_array(data):
        from daskgmm.data.dask_source import DaskSource

        return DaskSource(data, argument=argument)
    if hasattr(data, "__dask_graph__") and data.__dask_graph__() is not None:
        raise OptionError(
            f"{argument} must be an array, a data frame, a path or a URL; got a {type(data).__name__} of Dask. "
            "Give a Dask array: dask.array.from_delayed and dask.array.stack make one."
        )
    from daskgmm.data.array_source import ArraySource

    return ArraySource(data, argument=argument)


def is_dask_array(data: Any) -> bool:
    """Return whether `data` is a Dask array, without importing what nobody has imported."""
    if not hasattr(data, "__dask_graph__"):
        return False
    from dask.array import Array

    return isinstance(data, Array)


_TO_ZARR = '.to_zarr("X.zarr")'
_CONVERSIONS = {
    ".npz": 'numpy.save("X.npy", numpy.load("X.npz")["name"]).',
    ".parquet": f'dask.dataframe.read_parquet("X.parquet").to_dask_array(lengths=True){_TO_ZARR}.',
    ".mat": 'numpy.save("X.npy", scipy.io.loadmat("X.mat")["name"]).',
    **{s: f'dask.dataframe.read_csv("X{s}").to_dask_array(lengths=True){_TO_ZARR}.' for s in (".csv", ".tsv", ".txt")},
    **{
        s: f'dask.array.from_array(h5py.File("X{s}")["name"]){_TO_ZARR}.'
        for s in (".h5", ".hdf5", ".hdf", ".nc", ".h5ad")
    },
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), 'load it where you trust it, then numpy.save("X.npy", X).'),
}
