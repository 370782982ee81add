"""Rows of an HDF5 or netCDF-4 data set; every task opens the file itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daskgmm.sources.boxed import refuse_more_dimensions, whole_chunk_bytes
from daskgmm.sources.columns import without_features
from daskgmm.sources.hdf5_array import Hdf5Array
from daskgmm.sources.hdf5_reader import Hdf5Reader
from daskgmm.sources.source import Source, checked_shape


class Hdf5Source(Source):
    """Rows of a data set.

    Parameters
    ----------
    dataset : h5py.Dataset
        The open data set, of which nothing is kept.
    argument : str
        What messages call the input.
    missing_chunks : {"error", "fill"} or None
        See `Hdf5Array`.

    Notes
    -----
    An edge is the border of a chunk; a data set that is contiguous is read in any ranges. Numbers that attributes say
    are packed (CF, as netCDF has them) are decoded as they are read: see `Packing`.
    """

    def __init__(self, dataset: Any, *, argument: str = "X", missing_chunks: str | None = None) -> None:
        self._stored = Hdf5Array(dataset, argument=argument, missing_chunks=missing_chunks, cached=True)
        self.label, self.dtype, self.beside = self._stored.label, self._stored.dtype, self._stored.beside
        refuse_more_dimensions(self._stored.shape, argument, self.label)
        self.n_rows, self.n_features = checked_shape(
            self._stored.shape, self.dtype, argument=argument, label=self.label
        )
        self.root = self._stored.path
        if self._stored.is_chunked:
            self.chunk_rows = self._stored.chunks[0]

    @property
    def places(self) -> list[str]:
        return [self._stored.path]

    def reader(self) -> Hdf5Reader:
        return self._stored.reader

    @property
    def chunk_bytes(self) -> int:
        if not self._stored.is_chunked:
            return super().chunk_bytes
        return whole_chunk_bytes(self._stored, self.chunk_edges, self.n_features)

    def read_bytes(self, n_bytes: int) -> int:
        return self._stored.read_bytes(n_bytes)

    def without(self, features: Sequence[int]) -> str:
        packed = self._stored.packing is not None  # (and Dask knows nothing of it)
        return super().without(features) if packed else without_features(self._stored.code, features)

    def rechunking(self, chunks: str) -> str:
        return f"write it again in chunks of fewer rows, {chunks}: h5py's create_dataset(..., chunks=...)."

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kind": "hdf5", **self._stored.identity()}

    def stamper(self) -> Hdf5Reader:
        return self._stored.reader
