"""What is known of one stored Zarr array before anything is read: its chunks, what its numbers mean, who reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from daskgmm.errors import DataError, verbatim
from daskgmm.sources.boxed import checked_missing_chunks
from daskgmm.sources.conventions import Beside, as_meant, attributes_of, dimension_names, packing_of
from daskgmm.sources.source import READ_FACTOR, check_dtype
from daskgmm.sources.zarr_location import ZarrLocation
from daskgmm.sources.zarr_reader import ZarrReader


class ZarrArray:
    """One Zarr array of any number of dimensions.

    Parameters
    ----------
    array : zarr.Array
        The open array.
    location : ZarrLocation or None
        Where tasks find it; None where only this process can read it.
    argument, given : str
        What messages call the input, and the expression of Python for the array, where it is open.
    missing_chunks : {"error", "fill"} or None
        See `ZarrSource`.

    Attributes
    ----------
    label : str
        How messages name it.
    code : str
        The expression of Python that makes a Dask array of it, as it is stored.
    shape, chunks : tuple of int
        `chunks` is the smallest piece that is decoded on its own, the inner chunk of a shard.
    stored, dtype : dtype
        Of its numbers as they are stored, and as they are meant.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        location: ZarrLocation | None,
        *,
        argument: str = "X",
        given: str | None = None,
        missing_chunks: str | None = None,
    ) -> None:
        self.label = location.label if location is not None else f"Zarr array {array.store_path}"
        self.name, self.shape, self.stored = array.basename, tuple(map(int, array.shape)), np.dtype(array.dtype)
        check_dtype(self.stored, argument=argument, label=self.label)
        self.location = location
        self.code = f"dask.array.from_zarr({given or argument})" if location is None else location.code
        self.packing = packing_of(array, where=f" in {self.label}", raw=self.code)
        self.dtype = self.stored if self.packing is None else np.dtype(self.packing.dtype)
        self.dimensions = dimension_names(array)
        self.beside = Beside.of(attributes_of(array), self.dimensions)
        self.beside.refuse_times(argument, self.label, as_meant(self.code, self.packing))
        self.chunks = _readable_chunks(array, argument, self.label)
        self.zarr_format = int(array.metadata.zarr_format)
        self.missing_chunks = checked_missing_chunks(missing_chunks)
        self.reader = ZarrReader(
            location, self.label, array.shape, self.stored.str, self.missing_chunks == "fill", self.packing, array=array
        )

    @property
    def travels(self) -> bool:
        return self.location is not None

    @property
    def place(self) -> str:
        return self.label

    def read_bytes(self, n_bytes: int) -> int:
        if self.packing is None:
            return READ_FACTOR * n_bytes
        # (The numbers as they are stored, which are read, and as they are meant.)
        return READ_FACTOR * -(-n_bytes * self.stored.itemsize // self.dtype.itemsize) + n_bytes

    def identity(self) -> dict[str, Any]:
        return {
            "location": None if self.location is None else self.label,
            "modified": None if self.location is None else self.location.modified(),
            "chunks": list(self.chunks),
            "zarr_format": self.zarr_format,
            **({} if self.missing_chunks == "error" else {"missing_chunks": self.missing_chunks}),
            **({} if self.packing is None else {"packing": {"dtype": self.stored.str, **self.packing.attributes}}),
        }


def refuse_older(array: zarr.Array[Any], argument: str, label: str) -> None:
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


def _readable_chunks(array: zarr.Array[Any], argument: str, label: str) -> tuple[int, ...]:
    """Return the shape of the smallest piece that zarr decodes on its own.

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
    return tuple(max(1, int(n)) for n in chunks)
