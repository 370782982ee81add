"""Rows of a Zarr array, v2 or v3; every task opens the store itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from daskgmm.sources.boxed import refuse_more_dimensions, whole_chunk_bytes
from daskgmm.sources.columns import without_features
from daskgmm.sources.credentials import shown
from daskgmm.sources.source import Source, checked_shape
from daskgmm.sources.stamps import Stamper
from daskgmm.sources.zarr_array import ZarrArray
from daskgmm.sources.zarr_location import ZarrLocation
from daskgmm.sources.zarr_reader import ZarrReader


class ZarrSource(Source):
    """Rows of a Zarr array.

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
        label = location.label if location is not None else f"Zarr array {array.store_path}"
        refuse_more_dimensions(array.shape, argument, label)
        self.n_rows, self.n_features = checked_shape(array.shape, np.dtype(array.dtype), argument=argument, label=label)
        self._stored = ZarrArray(array, location, argument=argument, missing_chunks=missing_chunks)
        self.label, self.dtype, self.beside = label, self._stored.dtype, self._stored.beside
        self.travels, self.root = location is not None, label if location is None else shown(location.url)
        self.code, self.chunk_rows = self._stored.code, self._stored.chunks[0]

    def reader(self) -> ZarrReader:
        return self._stored.reader

    @property
    def chunk_bytes(self) -> int:
        return whole_chunk_bytes(self._stored, self.chunk_edges, self.n_features)

    def read_bytes(self, n_bytes: int) -> int:
        return self._stored.read_bytes(n_bytes)

    def without(self, features: Sequence[int]) -> str:
        packed = self._stored.packing is not None  # (and Dask knows nothing of it)
        return super().without(features) if packed else without_features(self.code, features)

    def rechunking(self, chunks: str) -> str:
        said, packing = f'rechunk: {self.code}.rechunk({chunks}).to_zarr("rechunked.zarr")', self._stored.packing
        if packing is None:
            return said
        return f'{said}, and then: zarr.open_array("rechunked.zarr", mode="r+").attrs.update({packing.attributes})'

    def identity(self) -> dict[str, Any]:
        own = self._stored.identity()
        chunks = [*own["chunks"], 1][:2]
        return {**super().identity(), "kind": "zarr", **own, "chunks": chunks}

    def stamper(self) -> Stamper | None:
        return self._stored.reader if self.travels else None
