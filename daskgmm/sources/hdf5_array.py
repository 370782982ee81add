"""What is known of one HDF5 data set before anything is read: its chunks, what its numbers mean, who reads it."""

from __future__ import annotations

import os
from math import prod
from typing import Any

import numpy as np

from daskgmm.errors import DataError
from daskgmm.sources.boxed import checked_missing_chunks
from daskgmm.sources.conventions import Beside, Packing, as_meant, packing
from daskgmm.sources.hdf5_file import attributes_of, dimension_names, refuse_filters
from daskgmm.sources.hdf5_reader import Hdf5Reader
from daskgmm.sources.source import check_dtype
from daskgmm.sources.stamps import newest_of

#: What a process takes that has loaded h5py and opened a file (measured: 14 MiB).
LIBRARY_BYTES = 20 << 20
#: Decoded bytes of chunks that HDF5 keeps at most; of larger chunks it keeps none.
_MOST_CACHED = 16 << 20


class Hdf5Array:
    """One HDF5 data set of any number of dimensions.

    Parameters
    ----------
    dataset : h5py.Dataset
        The open data set, of which nothing is kept.
    argument : str
        What messages call the input.
    missing_chunks : {"error", "fill"} or None
        What is done where numbers were never written: refused, or taken for the fill value of the data set.
    cached : bool
        Whether HDF5 keeps chunks, because runs end within them.

    Attributes
    ----------
    label : str
        How messages name it.
    code : str
        The expression of Python that makes a Dask array of it, as it is stored.
    chunks : tuple of int
        Of a contiguous data set all of it, unless somebody sets another one.
    """

    def __init__(
        self, dataset: Any, *, argument: str = "X", missing_chunks: str | None = None, cached: bool = False
    ) -> None:
        # (By links the data set may be in another file.)
        self.path: str = os.path.abspath(dataset.file.filename)
        self.full_name: str = dataset.name
        self.label, self.name = f"{self.path}::{self.full_name}", self.full_name.split("/")[-1]
        self.shape, self.stored = _shape_of(dataset, argument, self.label), dataset.dtype
        _refuse_tables(dataset, argument, self.label)
        check_dtype(self.stored, argument=argument, label=self.label)
        refuse_filters(dataset, argument=f"`{argument}`", label=self.label)
        self.code = f"dask.array.from_array(h5py.File({self.path!r})[{self.full_name!r}])"
        attributes = attributes_of(dataset)
        self.packing = packing(attributes, self.stored, where=f" in {self.label}", raw=self.code)
        self.dtype = self.stored if self.packing is None else np.dtype(self.packing.dtype)
        self.dimensions = dimension_names(dataset)
        self.beside = Beside.of(attributes, self.dimensions)
        self.beside.refuse_times(argument, self.label, as_meant(self.code, self.packing))
        self.is_chunked = dataset.chunks is not None
        self.chunks = tuple(map(int, dataset.chunks)) if self.is_chunked else tuple(max(1, n) for n in self.shape)
        self.missing_chunks = checked_missing_chunks(missing_chunks)
        if self.missing_chunks == "error":
            _refuse_unwritten(dataset, self.packing, argument, self.label)
        plist = dataset.id.get_create_plist()
        self._is_filtered = plist.get_nfilters() > 0
        slab = prod(self.chunks[:1]) * prod(
            -(-n // c) * c for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)
        )
        slab *= self.stored.itemsize
        self._cache_bytes = slab if cached and self.is_chunked and slab <= _MOST_CACHED else 0
        self.reader = Hdf5Reader(
            self.path, self.full_name, self.shape, self.stored.str, self.packing, _others(dataset, argument, self.path),
            self._cache_bytes,
        )  # fmt: skip

    @property
    def travels(self) -> bool:
        return True

    @property
    def place(self) -> str:
        return self.path

    def read_bytes(self, n_bytes: int) -> int:
        # (The numbers as they are stored, and, where they are packed, as they are meant; a chunk, encoded and decoded,
        # of which HDF5 holds one after the other.)
        stored = -(-n_bytes * self.stored.itemsize // self.dtype.itemsize)
        held = 2 * prod(self.chunks) * self.stored.itemsize if self._is_filtered else 0
        return int(stored + (0 if self.packing is None else n_bytes) + held + self._cache_bytes + LIBRARY_BYTES)

    def identity(self) -> dict[str, Any]:
        return {
            "location": self.label,
            "modified": newest_of({"": self.path}),
            "chunks": list(self.chunks),
            **({} if self.missing_chunks == "error" else {"missing_chunks": self.missing_chunks}),
            **({} if self.packing is None else {"packing": {"dtype": self.stored.str, **self.packing.attributes}}),
        }


def _shape_of(dataset: Any, argument: str, label: str) -> tuple[int, ...]:
    if not dataset.shape:
        raise DataError(
            f"`{argument}`",
            "have shape (n_rows, n_features) or (n_rows,)",
            f"{'nothing' if dataset.shape is None else 'a single value'} in {label}",
            "Name another data set.",
        )
    return tuple(map(int, dataset.shape))


def _refuse_tables(dataset: Any, argument: str, label: str) -> None:
    if dataset.dtype.names is not None:
        names = [name for name in dataset.dtype.names if dataset.dtype[name].kind in "biuf"]
        raise DataError(
            f"`{argument}`",
            "hold real numbers (boolean, integer, or float of at most 64 bits)",
            f"a table of {len(dataset.dtype.names)} fields ({', '.join(map(repr, names[:8]))}) in {label}",
            "Write its fields as data sets of their own, and name them by `columns`.",
        )


def _refuse_unwritten(dataset: Any, packing: Packing | None, argument: str, label: str) -> None:
    """Raise a DataError where numbers were never written, for which HDF5 gives a fill value without a word.

    (They are missing where that value stands for one.)
    """
    if dataset.is_virtual or dataset.external or 0 in dataset.shape:
        return
    if dataset.chunks is None:
        written, total = int(dataset.id.get_storage_size() > 0), 1
    else:
        total = prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        written = dataset.id.get_num_chunks()
    fill = np.full(1, dataset.fillvalue, dataset.dtype)
    if written >= total or np.isnan(fill if packing is None else packing.decode(fill)).all():
        return
    raise DataError(
        f"`{argument}`",
        "be written whole",
        f"{label}, where {written} of {total} chunks were, and HDF5 would read {dataset.fillvalue} for the others",
        'Write the others. If that value is meant, say so: `dask.config.set({"daskgmm.missing-chunks": "fill"})`.',
    )


def _others(dataset: Any, argument: str, path: str) -> tuple[str, ...]:
    """Return the paths of further files in which numbers of a data set are."""
    folder = os.path.dirname(path)
    names = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        names += [source.file_name for source in dataset.virtual_sources()]
    found = {os.path.join(folder, name) for name in names if name != "."} - {path}
    missing = sorted(one for one in found if not os.path.exists(one))
    if missing:
        raise DataError(
            f"`{argument}`",
            "have all files that its numbers are in",
            f"{path}, which refers to {missing[0]}, where there is none",
            "Put that file there.",
        )
    return tuple(sorted(found))
