"""Rows of a Zarr array, v2 or v3, by path, by URL or open; every task opens the store itself."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import zarr

from daskgmm.errors import DataError, OptionError, verbatim
from daskgmm.sources.conventions import Beside, Packing, attributes_of, dimension_names, packing_of
from daskgmm.sources.credentials import shown
from daskgmm.sources.source import Source, checked_shape
from daskgmm.sources.stamps import Stamper
from daskgmm.sources.zarr_group import array_in
from daskgmm.sources.zarr_location import ZarrLocation, locate, location_of
from daskgmm.sources.zarr_reader import ZarrReader

#: What is done about a chunk that is not in the store: refuse it, or take the fill value of the array for its rows.
MISSING_CHUNKS = ("error", "fill")


class ZarrSource(Source):
    """Rows of a Zarr array.

    Use `from_location` or `from_node`.

    Parameters
    ----------
    array : zarr.Array
        The open array.
    location : ZarrLocation or None
        Where tasks find it; None where only this process can read it.
    argument : str
        What messages call the input.
    missing_chunks : {"error", "fill"} or None
        What is done about rows whose chunk is not in the store, when they are read. None takes Dask's configuration
        value daskgmm.missing-chunks, by default "error".

    Notes
    -----
    An edge is the border of a chunk, or of an inner chunk of a shard: zarr reads the index of the shard and decodes
    the inner chunks asked for, no others (a shard with further codecs around it counts as one chunk). A whole shard
    is fetched in one request, its parts one by one.

    Numbers that attributes say are packed (`scale_factor`, `add_offset`, `_FillValue`, `missing_value`, `_Unsigned`,
    and in format 2 the fill value of an array of xarray) are decoded as they are read: see `Packing`. Whoever wants
    them as they are stored gives a Dask array, `dask.array.from_zarr`.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        location: ZarrLocation | None,
        *,
        argument: str = "X",
        missing_chunks: str | None = None,
    ) -> None:
        self.label = location.label if location is not None else f"Zarr array {array.store_path}"
        stored = np.dtype(array.dtype)
        self.n_rows, self.n_features = checked_shape(array.shape, stored, argument=argument, label=self.label)
        self.travels, self.root = location is not None, self.label if location is None else shown(location.url)
        self.code = f"dask.array.from_zarr({argument})" if location is None else location.code
        self._packing, self._stored = packing_of(array, where=f" in {self.label}", raw=self.code), stored
        self.dtype = stored if self._packing is None else np.dtype(self._packing.dtype)
        self.beside = Beside.of(attributes_of(array), dimension_names(array))
        self.beside.refuse_times(argument, self.label, _as_meant(self.code, self._packing))
        self._location = location
        self._zarr_format = int(array.metadata.zarr_format)
        self._chunk_shape = _readable_chunks(array, argument, self.label)
        self.chunk_rows = self._chunk_shape[0]
        self._missing_chunks = _checked(missing_chunks)
        self._reader = ZarrReader(
            location, self.label, array.shape, stored.str, self._missing_chunks == "fill", self._packing, array=array
        )

    @classmethod
    def from_location(
        cls, location: str, *, array: str | None = None, argument: str = "X", missing_chunks: str | None = None
    ) -> ZarrSource:
        """Return the source at a path or URL, and of the array called `array` there where that is a group.

        Raises
        ------
        InputMissingError, OptionError, DataError
            See `daskgmm.sources.opening.open_rows`.
        """
        place = locate(location, argument=argument)
        node = place.open(argument=argument)
        found = array_in(node, array, argument, place.label, by_path=True)
        own = ZarrLocation(place.opener, place.url, found.path, place.options)
        return cls(found, own, argument=argument, missing_chunks=missing_chunks)

    @classmethod
    def from_node(
        cls,
        node: zarr.Array[Any] | zarr.Group,
        *,
        array: str | None = None,
        argument: str = "X",
        missing_chunks: str | None = None,
    ) -> ZarrSource:
        """Return the source of an open array, or of the array called `array` in an open group."""
        store = node.store_path.store
        location = location_of(node)
        label = location.label if location is not None else f"{type(store).__name__} of this process"
        found = array_in(node, array, argument, label, by_path=False)
        location = location_of(found)
        if location is not None:  # (else no task opens it anew)
            _refuse_older(found, argument, location.label)
        return cls(found, location, argument=argument, missing_chunks=missing_chunks)

    def reader(self) -> ZarrReader:
        return self._reader

    @property
    def chunk_bytes(self) -> int:
        # Chunks are decoded whole, also where they reach beyond the last row or column.
        rows = self._chunk_shape[0] * -(-int(np.diff(self.chunk_edges).max()) // self._chunk_shape[0])
        columns = self._chunk_shape[1] * -(-self.n_features // self._chunk_shape[1])
        return rows * columns * self.dtype.itemsize

    def read_bytes(self, n_bytes: int) -> int:
        if self._packing is None:
            return super().read_bytes(n_bytes)
        # (The rows as they are stored, which are read, and as they are meant.)
        return super().read_bytes(-(-n_bytes * self._stored.itemsize // self.dtype.itemsize)) + n_bytes

    def rechunking(self, chunks: str) -> str:
        said = f'rechunk: {self.code}.rechunk({chunks}).to_zarr("rechunked.zarr")'
        if self._packing is None:
            return said
        update = f".attrs.update({self._packing.attributes})"
        return f'{said}, and then: zarr.open_array("rechunked.zarr", mode="r+"){update}'

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "kind": "zarr",
            "location": self.label if self.travels else None,
            "modified": None if self._location is None else self._location.modified(),
            "chunks": list(self._chunk_shape),
            "zarr_format": self._zarr_format,
            **({} if self._missing_chunks == "error" else {"missing_chunks": self._missing_chunks}),
            **({} if self._packing is None else {"packing": {"dtype": self._stored.str, **self._packing.attributes}}),
        }

    def stamper(self) -> Stamper | None:
        return None if self._location is None else self._reader


def _refuse_older(array: zarr.Array[Any], argument: str, label: str) -> None:
    """Raise a DataError for an open array that is older than what is stored: tasks open it anew."""
    store = array.store_path.store
    try:
        stored = zarr.open_array(store, path=array.path, mode="r" if store.read_only else "r+")
    except Exception:
        return  # (What it is, is told where it is read: each kind of storage has its own exceptions.)
    then, now = ((a.shape, np.dtype(a.dtype).str, packing_of(a)) for a in (array, stored))
    if now != then:
        packed = ["" if found[2] is None else f", {found[2]}" for found in (then, now)]
        raise DataError(
            f"`{argument}`",
            "be as it is stored",
            f"an open array of shape {then[0]}, dtype {then[1]}{packed[0]}, where {label} has shape {now[0]}, dtype "
            f"{now[1]}{packed[1]}: it was opened before, or by consolidated metadata of its group that are older",
            f"Give its path, {verbatim(label)}, or open it by that.",
        )


def _as_meant(code: str, packing: Packing | None) -> str:
    """Return the expression of Python whose numbers are those of a Dask array as they are meant."""
    return code if packing is None else f"xarray.DataArray({code}, attrs={packing.attributes})"


def _checked(missing_chunks: str | None) -> str:
    asked = dask.config.get("daskgmm.missing-chunks", "error") if missing_chunks is None else missing_chunks
    if asked not in MISSING_CHUNKS:
        raise OptionError("`missing_chunks`", f"be one of {', '.join(MISSING_CHUNKS)}", repr(asked))
    return str(asked)


def _readable_chunks(array: zarr.Array[Any], argument: str, label: str) -> tuple[int, int]:
    """Return (rows, columns) of the smallest piece that zarr decodes on its own.

    That is what `zarr.Array.chunks` means: the inner chunk of a shard, but the whole shard where further codecs
    are around it.
    """
    try:
        chunks = array.chunks
    except NotImplementedError as error:
        raise DataError(
            f"`{argument}`",
            "have chunks of one size",
            f"a grid of several sizes in {label}",
            "Rechunk it to regular chunks.",
        ) from error
    return max(1, int(chunks[0])), max(1, int(chunks[1])) if len(chunks) == 2 else 1
