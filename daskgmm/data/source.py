"""What every source of rows offers, and the one door through which an input becomes a source."""

from __future__ import annotations

import os
import sys
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError


class Reader(Protocol):
    """Reads rows inside a task. Small and picklable: it names a store, it never holds its data or secrets.

    (The reader of an in-memory source holds the array itself, and therefore never leaves its process.)
    """

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), in the dtype of the source, any memory order."""


@runtime_checkable
class Source(Protocol):
    """Rows of numbers, chunked along rows, whose metadata are known before anything is read."""

    @property
    def label(self) -> str:
        """How messages name the source: a path, a URL, or "NumPy array"."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""

    @property
    def n_features(self) -> int:
        """Number of columns; 1 for a source of shape (n_rows,)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows as stored: integer, boolean, or float16/32/64 of either byte order."""

    @property
    def travels(self) -> bool:
        """Whether a task in another process can read the source; otherwise passes run in this process."""

    @property
    def chunk_edges(self) -> NDArray[np.int64]:
        """Rows at which chunks begin, and the end: (n_chunks + 1,), int64, increasing, from 0 to n_rows.

        Between two edges lie whole chunks across all columns: the least that can be read at no extra cost.
        """

    @property
    def chunk_bytes(self) -> int:
        """Largest number of decoded bytes that reading between two neighbouring edges holds, all columns.

        For a sharded store an edge is the border of an inner chunk where single inner chunks can be
        read without decoding their shard.
        """

    def arguments(self, bounds: list[tuple[int, int]]) -> tuple[dict[str, Any], list[Any]]:
        """Return what tasks need to read the row ranges `bounds`: a graph, and one argument for each.

        The graph maps keys to `dask.task_spec` nodes. An argument is a `dask.task_spec.TaskRef` (or
        a `dask.task_spec.List` of them) to nodes of the graph; once computed it is a `Reader`, or a
        list of arrays that together hold exactly those rows, in order. Every range is a run of whole
        chunks. Building the arguments computes nothing.
        """

    def identity(self) -> dict[str, Any]:
        """Return what tells this input from another, as JSON: kind, location, shape, dtype, chunks."""


def as_reader(argument: Any, start: int) -> Reader:
    """Return a reader of global row numbers from a computed task argument (see `Source.arguments`)."""
    if isinstance(argument, list):
        return _BlocksReader(argument, start)
    reader: Reader = argument
    return reader


class _BlocksReader:
    """Rows that came as arrays along an edge of the graph: blocks of a Dask array, in order from row `start`."""

    def __init__(self, blocks: list[NDArray[Any]], start: int) -> None:
        self._blocks = [plain_rows(b) for b in blocks]
        self._edges = start + np.concatenate([[0], np.cumsum([b.shape[0] for b in self._blocks])])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if start < self._edges[0] or stop > self._edges[-1]:
            raise DataError(
                f"The blocks of a Dask array must have the lengths that its chunks say; got rows {self._edges[0]} to "
                f"{self._edges[-1]} for rows {start} to {stop}. Correct its chunks with compute_chunk_sizes()."
            )
        pieces = [
            block[max(start - low, 0) : stop - low]
            for block, low, high in zip(self._blocks, self._edges[:-1], self._edges[1:], strict=True)
            if low < stop and high > start
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def plain_rows(block: Any) -> NDArray[Any]:
    """Return a block of rows as a NumPy array (n_rows, n_features) that hides nothing; (n_rows,) is one feature."""
    if isinstance(block, np.ma.MaskedArray):
        raise DataError(
            "Rows must not be a masked array; got one, and its mask would be lost. "
            "Fill it with NaN: numpy.ma.filled(X.astype('float64'), numpy.nan)."
        )
    array = np.asarray(block)
    return array if array.ndim == 2 else array.reshape(-1, 1)


def open_source(data: Any, *, array: str | None = None, argument: str = "X") -> Source:
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
    A Dask array of unknown chunk sizes is computed once, to count its rows (logged).
    """
    if isinstance(data, str | os.PathLike):
        return _open_location(os.fspath(data), array, argument)
    # Whoever holds a Zarr object has imported zarr; looking it up costs nothing where nobody has.
    zarr = sys.modules.get("zarr")
    if zarr is not None and isinstance(data, zarr.Array | zarr.Group):
        from daskgmm.data.zarr_source import ZarrSource

        return ZarrSource.from_node(data, array=array, argument=argument)
    if array is not None:
        raise OptionError(
            f"array must be left out where {argument} has no named arrays; got array={array!r} with "
            f"{type(data).__name__}. Name an array only within a Zarr group."
        )
    # Delayed objects of Dask claim to have every attribute, and so to be sources too.
    if isinstance(data, Source) and not hasattr(data, "__dask_graph__"):
        return data
    return _open_object(data, argument)


def _open_location(location: str | bytes, array: str | None, argument: str) -> Source:
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

        return ZarrSource.from_location(location, array=array, argument=argument)
    if array is not None:
        raise OptionError(
            f"array must be left out where {argument} has no named arrays; got array={array!r} with {location}. "
            "Name an array only within a Zarr group."
        )
    from daskgmm.data.array_source import NpySource

    return NpySource(location, argument=argument)


def _open_object(data: Any, argument: str) -> Source:
    """Return the source of a Dask collection, or of anything that NumPy makes an array of."""
    if hasattr(data, "to_dask_array"):
        data = data.to_dask_array()
    if hasattr(data, "__dask_graph__") and data.__dask_graph__() is not None:
        from dask.array import Array

        from daskgmm.data.dask_source import DaskSource

        if isinstance(data, Array):
            return DaskSource(data, argument=argument)
        raise OptionError(
            f"{argument} must be an array, a data frame, a path or a URL; got a {type(data).__name__} of Dask. "
            "Give its Dask array (for xarray: X.data)."
        )
    from daskgmm.data.array_source import ArraySource

    return ArraySource(data, argument=argument)


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


def checked_shape(shape: tuple[int, ...], dtype: np.dtype[Any], *, argument: str, label: str) -> tuple[int, int]:
    """Return (n_rows, n_features) of an input, or say why no mixture can be fitted to such an input.

    Raises
    ------
    DataError
        Neither (n_rows, n_features) nor (n_rows,), no rows, no features, or a dtype that is not
        boolean, integer, or float16, float32 or float64.
    """
    if len(shape) not in (1, 2):
        raise DataError(
            f"{argument} must have shape (n_rows, n_features) or (n_rows,); got {len(shape)} dimensions, "
            f"shape {tuple(shape)}, in {label}. Reshape it to two dimensions, rows first."
        )
    n_rows, n_features = shape[0], shape[1] if len(shape) == 2 else 1
    if n_rows == 0 or n_features == 0:
        raise DataError(
            f"{argument} must have at least one row and one feature; got shape {tuple(shape)} in {label}. "
            "Check how it was written or selected."
        )
    if dtype.kind not in "biuf" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise DataError(
            f"{argument} must hold real numbers (boolean, integer, or float of at most 64 bits); got dtype "
            f"{dtype} in {label}. Convert it first, for example with X.astype('float64')."
        )
    return int(n_rows), int(n_features)


def regular_edges(n_rows: int, rows: int) -> NDArray[np.int64]:
    """Return edges every `rows` rows from 0 to n_rows: (n_runs + 1,), int64; arithmetic only, nothing is listed.

    Where that would be more than about a million runs, each takes several times `rows`: edges are then still
    edges of chunks, and no list of them is larger than 8 MiB.
    """
    rows *= -(-n_rows // (rows * _MAX_RUNS))
    return np.append(np.arange(0, n_rows, rows, dtype=np.int64), np.int64(n_rows))


_MAX_RUNS = 2**20
