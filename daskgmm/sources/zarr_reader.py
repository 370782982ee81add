"""Reads rows of a Zarr array in a task, and notices what is damaged, missing or another one than it was."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskgmm.errors import DataError, InputMissingError, MemoryLimitError, verbatim
from daskgmm.sources.boxed import BoxedReader
from daskgmm.sources.conventions import Packing, packing_of
from daskgmm.sources.digest import digest
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.grid import Box
from daskgmm.sources.heap import reused_heap
from daskgmm.sources.zarr_location import ZarrLocation, missing_package


class ZarrReader(BoxedReader):
    """Reads rows of a Zarr array; pickles to its location, never to the array, its data or its credentials.

    The array is opened at the first read in a process and kept. Safe for threads. The reader of an array that only this
    process can read (a store in memory) has no location, and refuses to be pickled.
    """

    def __init__(
        self,
        location: ZarrLocation | None,
        label: str,
        shape: tuple[int, ...],
        dtype: str,
        fills: bool = False,
        packing: Packing | None = None,
        *,
        array: zarr.Array[Any] | None = None,
    ) -> None:
        self._location, self._label, self._shape, self._dtype = location, label, shape, dtype
        self._array, self._fills, self._packing = array, fills, packing
        # (One thread reads ahead while another computes: the first of them to come opens the array, once.)
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self._label

    def __reduce__(self) -> tuple[Any, ...]:
        # A zarr.Array would take its store with it: all data of one in memory, all credentials of one at a URL.
        if self._location is None:
            raise TypeError(f"{self._label} can be read in one process only, and does not travel.")
        return ZarrReader, (
            self._location, self._label, self._shape, self._dtype, self._fills, self._packing,
        )  # fmt: skip

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), as they are meant: in the dtype of the source.

        Raises
        ------
        DataError
            A chunk cannot be decoded, or is not there.
        InputMissingError
            The store may not be read.
        """
        array = self._opened()
        rows = np.asarray(array[start:stop])
        if not self._fills:
            self._refuse_missing(array, rows, start)
        if self._packing is not None:
            rows = self._packing.decode(rows)
        return rows if rows.ndim == 2 else rows.reshape(-1, 1)

    def read_box(self, box: Box) -> NDArray[Any]:
        array = self._opened()
        values = np.asarray(array[box])
        if not self._fills:
            self._refuse_missing_in(array, values, box)
        return values if self._packing is None else self._packing.decode(values)

    def form(self) -> str:
        """Return a checksum of the array's metadata as they are now: dtype, chunks, codecs, fill value, packing."""
        if self._location is None:
            return ""
        # (Opened anew: the array that is kept has the metadata of when it was opened.)
        found = {k: v for k, v in self._reopened().metadata.to_dict().items() if k != "attributes"}
        # (Of its attributes those that say what its numbers mean, which are those that were found at first.)
        packed = {} if self._packing is None else {"packing": self._packing.attributes}
        return digest(json.dumps(found | packed, sort_keys=True, default=str))

    def stamp(self, start: int, stop: int) -> list[str]:
        """Return size and time, or tag, of what is stored of these rows: chunks, or shards of chunks.

        Raises
        ------
        DataError
            One is not there.
        """
        if self._location is None:
            return []
        array = self._opened()
        stored = _stored(array, _rows(self._shape, start, stop))
        found = self._location.stamps([key for _, key in stored])
        if "" in found and not self._fills:  # (of a store that ends too early not every key is asked for)
            first = stored[found.index("")][0][0] * (array.shards or array.chunks)[0]
            raise self._missing(f"row {max(first, start)}", _fill_value(array))
        return found

    def stamp_box(self, box: Box) -> list[str]:
        if self._location is None:
            return []
        array = self._opened()
        keys = [key for _, key in _stored(array, box)]
        found = self._location.stamps(keys)
        if "" in found and not self._fills:
            raise self._missing(f"{_stored_as(array)} {keys[found.index('')]}", _fill_value(array))
        return found

    @property
    def far(self) -> bool:
        return self._location is not None and self._location.opener in ("fsspec", "obstore")

    def _refuse_missing(self, array: zarr.Array[Any], rows: NDArray[Any], start: int) -> None:
        """Raise a DataError where a chunk is not in the store, for which zarr gives its fill value without a word.

        No store is asked for a chunk unless all of it has that value: read with another fill value, what is stored is
        the same and what is missing is not. (All versions of zarr can do that, inside of shards too.)
        """
        fill = _fill_value(array)
        for first, last in _alike(rows, fill, start, array.chunks):
            found = np.asarray(_filled_with(array, _other_than(fill, array.dtype))[first:last])
            missing = ~_equal(found, rows[first - start : last - start])
            if missing.any():
                row = first + int(np.argmax(missing.reshape(len(missing), -1).any(axis=1)))
                raise self._missing(f"row {row}", fill)

    def _refuse_missing_in(self, array: zarr.Array[Any], values: NDArray[Any], box: Box) -> None:
        """Do the same for a box."""
        fill, lengths, other = _fill_value(array), array.chunks, None
        # (As above: one value of each chunk tells nearly always that it is none of these.)
        corners = _equal(values[tuple(slice(None, None, n) for n in lengths)], fill)
        for place in np.argwhere(corners):
            part = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place.tolist(), lengths, strict=True))
            if not _equal(values[part], fill).all():
                continue
            other = _filled_with(array, _other_than(fill, array.dtype)) if other is None else other
            own = tuple(
                slice(whole.start + one.start, min(whole.start + one.stop, whole.stop))
                for whole, one in zip(box, part, strict=True)
            )
            if not _equal(np.asarray(other[own]), values[part]).all():
                (_, key), *_ = _stored(array, own)
                raise self._missing(f"{_stored_as(array)} {key}", fill)

    def _missing(self, what: str, fill: Any) -> DataError:
        return DataError(
            "Every chunk",
            "be in the store",
            f"none for {what} of {self._label}, where zarr would read {fill}",
            "Write the rows from there on again. If the writer has left out chunks that hold nothing else, as "
            "zarr does by default, say so: "
            '`dask.config.set({"daskgmm.missing-chunks": "fill"})`.',
        )

    def may_pass(self, error: Exception) -> bool:
        # A network makes any error of a read one that may pass: what cannot be decoded may have been cut short on its
        # way. On a local disk only what the system reports (a device, a mount that is gone) may, not damaged bytes.
        passing = (unreachable(error) or self.far) and not refused(error)
        passing = passing and not isinstance(error, FileNotFoundError | MemoryError)
        return passing and missing_package(error, "X", self._label) is None

    def explain(self, error: Exception, start: int, stop: int) -> Exception:
        return self.explain_box(error, _rows(self._shape, start, stop), start, stop)

    def explain_box(self, error: Exception, box: Box, start: int, stop: int, *, by_rows: bool = True) -> Exception:
        if self._location is not None and unreachable(error):
            return self._location.explained(error, f"Rows {start} to {stop}")
        missing = missing_package(error, f"Rows {start} to {stop}", self._label)
        if missing is not None:
            return missing
        if isinstance(error, MemoryError):
            return MemoryLimitError(
                "A process",
                "have memory for the chunks that it reads",
                f"none left for rows {start} to {stop} of {self._label} ({error})",
                "Give it more (`memory_limit`, ulimit -v), or run fewer at once.",
            )
        # Parts of shards are asked for as byte ranges; the simplest web servers send the whole file instead.
        ranges = " (or the server ignores byte ranges, which shards need)" if self._label.startswith("http") else ""
        where, error, own = self._damaged(error, box)
        if by_rows and own is not None:
            start, stop = own
        return DataError(
            f"Rows {start} to {stop}",
            "be readable",
            f"{type(error).__name__} ({error}) from {where}{self._label}",
            f"A chunk there is damaged{ranges}: write these rows again.",
        )

    def _damaged(self, error: Exception, box: Box) -> tuple[str, Exception, tuple[int, int] | None]:
        """Return in words which chunk it is that cannot be decoded, with its own error and rows."""
        # (zarr says which codec failed, not where; a person has to know which chunk to write again.)
        array = self._opened()
        lengths, height = array.shards or array.chunks, array.chunks[0]
        for place, key in _stored(array, box):
            first, *rest = (slice(i * n, (i + 1) * n) for i, n in zip(place, lengths, strict=True))
            for row in range(first.start, min(first.stop, array.shape[0]), height):
                try:
                    array[(slice(row, row + height), *rest)]
                except Exception as own:  # (a codec raises what it likes)
                    if unreachable(own):
                        return "", error, None
                    return f"{_stored_as(array)} {key} of ", own, (row, min(row + height, array.shape[0]))
        return "", error, None  # (all of it can be decoded now)

    def _opened(self) -> zarr.Array[Any]:
        with self._lock:
            if self._array is None:
                self._array = self._reopened()
            return self._array

    def _reopened(self) -> zarr.Array[Any]:
        if self._location is None:
            raise InputMissingError(verbatim(self._label), "be read in the process that opened it", "another process")
        node = self._location.open(argument="X, as a task reads it,")
        found = (node.shape, np.dtype(node.dtype).str) if isinstance(node, zarr.Array) else ("a group", "")
        if not isinstance(node, zarr.Array) or found != (self._shape, self._dtype):
            raise DataError(
                verbatim(self._label),
                "not change during a fit",
                f"shape {found[0]}, dtype {found[1]}, where it had {self._shape}, {self._dtype}",
                "Start again with the new array.",
            )
        if (packing := packing_of(node)) != self._packing:
            raise DataError(
                verbatim(self._label),
                "not change during a fit",
                f"{packing or 'no attributes that pack its numbers'}, where it had {self._packing or 'none'}",
                "Start again with the new array.",
            )
        reused_heap.expect(prod(node.chunks) * node.dtype.itemsize)
        return node


def _rows(shape: tuple[int, ...], start: int, stop: int) -> Box:
    """Return the box of rows start to stop of an array."""
    return (slice(start, stop), *(slice(0, n) for n in shape[1:]))


def _stored_as(array: zarr.Array[Any]) -> str:
    return "shard" if array.shards else "chunk"


def _stored(array: zarr.Array[Any], box: Box) -> list[tuple[tuple[int, ...], str]]:
    """Return the chunks, or shards, that hold a box: where they are in the grid, and their keys."""
    lengths = array.shards or array.chunks
    ranges = [range(part.start // n, -(-part.stop // n)) for part, n in zip(box, lengths, strict=True)]
    path, metadata = f"{array.path}/" if array.path else "", array.metadata
    return [(place, f"{path}{metadata.encode_chunk_key(place)}") for place in product(*ranges)]


def _fill_value(array: zarr.Array[Any]) -> Any:
    """Return what zarr reads where a chunk is missing."""
    fill = array.metadata.fill_value
    return np.zeros((), array.dtype)[()] if fill is None else np.asarray(fill, array.dtype)[()]


def _other_than(fill: Any, dtype: np.dtype[Any]) -> Any:
    """Return another value of the dtype."""
    return np.asarray(0 if fill != 0 else 1, dtype)[()]  # (NaN is not 0 either)


def _filled_with(array: zarr.Array[Any], fill: Any) -> zarr.Array[Any]:
    """Return the same array with another fill value, here and not in the store."""
    inner = array.async_array
    return zarr.Array(type(inner)(replace(inner.metadata, fill_value=fill), inner.store_path, config=inner.config))


def _equal(a: NDArray[Any], b: Any) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        result: NDArray[np.bool_] = (a == b) | ((a != a) & (b != b))
    return result


def _alike(rows: NDArray[Any], fill: Any, start: int, chunks: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the rows [first, last) of each run of chunks that hold the fill value and nothing else."""
    stop, step = start + len(rows), int(chunks[0])
    edges = np.unique(np.clip(np.arange(start // step * step, stop + step, step), start, stop))
    columns = np.arange(0, rows.shape[1], int(chunks[1])) if rows.ndim == 2 else None
    # One value of each chunk tells nearly always that it is none of these.
    corners = rows[edges[:-1] - start]
    suspected = _equal(corners if columns is None else corners[:, columns].T, fill)
    found: list[tuple[int, int]] = []
    for i in np.flatnonzero(suspected if columns is None else suspected.any(axis=0)):
        first, last = int(edges[i]), int(edges[i + 1])
        part = _equal(rows[first - start : last - start], fill)
        whole = part.all(axis=0)
        if not (whole if columns is None else np.logical_and.reduceat(whole, columns).any()):
            continue
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, last))
    return found
