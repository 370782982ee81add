"""Reads rows of an HDF5 data set in a task, and notices what is damaged, or another one than it was."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import product
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, MemoryLimitError, verbatim
from daskgmm.sources.boxed import BoxedReader
from daskgmm.sources.conventions import Packing, packing
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.grid import Box
from daskgmm.sources.hdf5_file import attributes_of, opened, refuse_filters, unopened
from daskgmm.sources.stamps import file_stamp

#: Files that a process keeps open at once.
_MOST_OPEN = 64


class Hdf5Reader(BoxedReader):
    """Reads rows of a data set; pickles to the path of its file and its name.

    The file is opened at the first read in a process and kept, until the reader goes or many others are opened. HDF5
    has one lock for all files of a process, so threads take turns here: several processes read at once, not several
    threads.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    name : str
        Of the data set in it.
    shape, dtype
        As the data set had them when it was found: another one is refused.
    packing : Packing or None
        How its numbers are packed.
    others : tuple of str
        Paths of further files that hold its numbers.
    cache_bytes : int
        Decoded bytes of chunks that HDF5 keeps: so a chunk is decoded once where one run ends in it and the next goes
        on there.
    """

    def __init__(
        self,
        path: str,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        packing: Packing | None = None,
        others: tuple[str, ...] = (),
        cache_bytes: int = 0,
    ) -> None:
        self._path, self._name, self._shape, self._dtype = path, name, shape, dtype
        self._packing, self._others, self._cache_bytes = packing, others, cache_bytes
        self._kept: tuple[str, Any, Any] | None = None

    def __str__(self) -> str:
        return f"{self._path}::{self._name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Hdf5Reader, (
            self._path, self._name, self._shape, self._dtype, self._packing, self._others, self._cache_bytes,
        )  # fmt: skip

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), as they are meant: in the dtype of the source.

        Raises
        ------
        DataError
            A chunk cannot be decoded, or the file is another one than it was.
        InputMissingError
            The file is not there any more, or may not be read.
        """
        rows = self.read_box(_rows(self._shape, start, stop))
        return rows if rows.ndim == 2 else rows.reshape(-1, 1)

    def read_box(self, box: Box) -> NDArray[Any]:
        with _turn:
            values = np.asarray(self._opened()[box])
        return values if self._packing is None else self._packing.decode(values)

    def stamp(self, start: int, stop: int) -> list[str]:
        """Return size and time of each file that holds the numbers."""
        return [file_stamp(path) for path in (self._path, *self._others)]

    def stamp_box(self, box: Box) -> list[str]:
        return self.stamp(0, 0)

    def may_pass(self, error: Exception) -> bool:
        # (As of Zarr: only what the system reports may pass, a device or a lock; damaged bytes stay.)
        lasting = FileNotFoundError | IsADirectoryError | NotADirectoryError
        return unreachable(error) and not refused(error) and not isinstance(error, lasting)

    def explain(self, error: Exception, start: int, stop: int) -> Exception:
        return self.explain_box(error, _rows(self._shape, start, stop), start, stop)

    def explain_box(self, error: Exception, box: Box, start: int, stop: int, *, by_rows: bool = True) -> Exception:
        which = f"Rows {start} to {stop}"
        if isinstance(error, MemoryError):
            return MemoryLimitError(
                "A process",
                "have memory for the chunks that it reads",
                f"none left for rows {start} to {stop} of {self} ({error})",
                "Give it more (`memory_limit`, ulimit -v), or run fewer at once.",
            )
        if isinstance(error, ImportError | BlockingIOError) or unreachable(error) or refused(error):
            return unopened(error, str(self), argument=which)
        where, error, own = self._damaged(error, box)
        if by_rows and own is not None:
            which = f"Rows {own[0]} to {own[1]}"
        return DataError(
            which,
            "be readable",
            f"{type(error).__name__} ({error}) from {where}{self}",
            "The file is damaged there: write it again.",
        )

    def close(self) -> None:
        """Let go of the file; the next read opens it anew."""
        with _turn:
            self._kept = None

    def _damaged(self, error: Exception, box: Box) -> tuple[str, Exception, tuple[int, int] | None]:
        """Return in words which chunk it is that cannot be decoded, with its own error and rows."""
        with _turn:
            try:
                dataset = self._opened()
                chunks = dataset.chunks
            except Exception:
                return "", error, None
            if chunks is None:
                return "", error, None
            lows = (range(part.start // n * n, part.stop, n) for part, n in zip(box, chunks, strict=True))
            for corner in product(*lows):
                part = tuple(
                    slice(low, min(low + n, end)) for low, n, end in zip(corner, chunks, self._shape, strict=True)
                )
                try:
                    dataset[part]
                except Exception as own:
                    return f"the chunk at {corner} of ", own, (part[0].start, part[0].stop)
        return "", error, None  # (all of it can be decoded now)

    def _opened(self) -> Any:
        """Return the data set, open; call it in one's turn."""
        stamp = file_stamp(self._path)
        if self._kept is None or self._kept[0] != stamp:
            self._kept = None
            file = opened(self._path, argument="X, as a task reads it,")
            # (Without the file the data set would be closed.)
            self._kept = stamp, file, self._reopened(file)
            _keep(self)
        return self._kept[2]

    def _reopened(self, file: Any) -> Any:
        import h5py

        if not isinstance(file.get(self._name), h5py.Dataset):
            raise self._another("no data set of that name")
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_chunk_cache(_SLOTS, self._cache_bytes, 1.0)
        dataset = h5py.Dataset(h5py.h5d.open(file.id, self._name.encode(), access))
        if (tuple(dataset.shape), dataset.dtype.str) != (self._shape, self._dtype):
            raise self._another(f"shape {dataset.shape}, dtype {dataset.dtype.str}")
        found = packing(attributes_of(dataset), dataset.dtype)
        if found != self._packing:
            raise self._another(f"{found or 'no attributes that pack its numbers'}")
        refuse_filters(dataset, argument="X, as a task reads it,", label=str(self))
        return dataset

    def _another(self, got: str) -> DataError:
        packed = "" if self._packing is None else f", {self._packing}"
        return DataError(
            verbatim(str(self)),
            "not change during a fit",
            f"{got}, where it had shape {self._shape}, dtype {self._dtype}{packed}",
            "Start again with the new file.",
        )


def _rows(shape: tuple[int, ...], start: int, stop: int) -> Box:
    """Return the box of rows start to stop of an array."""
    return (slice(start, stop), *(slice(0, n) for n in shape[1:]))


#: Places for chunks that HDF5 keeps: a prime, and many more than there are chunks.
_SLOTS = 8191
#: Whose turn it is to use HDF5, which lets one thread do so at once.
_turn = threading.RLock()
_open: OrderedDict[int, ref[Hdf5Reader]] = OrderedDict()


def _keep(reader: Hdf5Reader) -> None:
    """Note that a reader has opened its file; the one that did so first closes its own where there are many."""
    for key in [key for key, one in _open.items() if one() is None or one() is reader]:
        del _open[key]
    _open[id(reader)] = ref(reader)
    while len(_open) > _MOST_OPEN:
        _, first = _open.popitem(last=False)
        found = first()
        if found is not None:
            found.close()
