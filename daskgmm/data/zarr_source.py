"""Rows of a Zarr array, v2 or v3, by path, by URL or open; every task opens the store itself."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, TypeVar

import dask
import numpy as np
import zarr
from numpy.typing import NDArray

from daskgmm.data.conventions import Beside, attributes_of, dimension_names, packing_of
from daskgmm.data.credentials import shown
from daskgmm.data.digest import digest
from daskgmm.data.heap import reused_heap
from daskgmm.data.source import Source, checked_shape, repeats
from daskgmm.data.stamps import Stamper
from daskgmm.data.zarr_group import array_in
from daskgmm.data.zarr_location import ZarrLocation, locate, location_of, missing_package, refused, unreachable
from daskgmm.errors import DaskgmmError, DataError, InputMissingError, MemoryLimitError, OptionError

Found = TypeVar("Found")

logger = logging.getLogger("daskgmm")

#: What is done about a chunk that is not in the store: refuse it, or take the fill value of the array for its rows.
MISSING_CHUNKS = ("error", "fill")

# Seconds before each further attempt to read after an error of network or device.
RETRY_SECONDS = (0.2, 1.0, 5.0)


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
        self.dtype = np.dtype(array.dtype)
        self.n_rows, self.n_features = checked_shape(array.shape, self.dtype, argument=argument, label=self.label)
        self.travels = location is not None
        self.code = f"dask.array.from_zarr({argument})" if location is None else location.code
        _refuse_packed(array, self.code, argument, self.label)
        self.beside = Beside.of(attributes_of(array), dimension_names(array))
        self.beside.refuse_times(argument, self.label, self.code)
        self._location = location
        self._zarr_format = int(array.metadata.zarr_format)
        self._chunk_shape = _readable_chunks(array, argument, self.label)
        self._missing_chunks = _checked(missing_chunks)
        self._reader = ZarrReader(
            location, self.label, array.shape, self.dtype.str, self._missing_chunks == "fill", array=array
        )

    @classmethod
    def from_location(
        cls, location: str, *, array: str | None = None, argument: str = "X", missing_chunks: str | None = None
    ) -> ZarrSource:
        """Return the source at a path or URL, and of the array called `array` there where that is a group.

        Raises
        ------
        InputMissingError, OptionError, DataError
            See `daskgmm.data.opening.open_source`.
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
    def root(self) -> str:
        return self.label if self._location is None else shown(self._location.url)

    @property
    def chunk_rows(self) -> int:
        return self._chunk_shape[0]

    @property
    def chunk_bytes(self) -> int:
        # Chunks are decoded whole, also where they reach beyond the last row or column.
        rows = self._chunk_shape[0] * -(-int(np.diff(self.chunk_edges).max()) // self._chunk_shape[0])
        columns = self._chunk_shape[1] * -(-self.n_features // self._chunk_shape[1])
        return rows * columns * self.dtype.itemsize

    def rechunking(self, chunks: str) -> str:
        return f'rechunk: {self.code}.rechunk({chunks}).to_zarr("rechunked.zarr")'

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "kind": "zarr",
            "location": self.label if self.travels else None,
            "modified": None if self._location is None else self._location.modified(),
            "chunks": list(self._chunk_shape),
            "zarr_format": self._zarr_format,
            **({} if self._missing_chunks == "error" else {"missing_chunks": self._missing_chunks}),
        }

    def stamper(self) -> Stamper | None:
        return None if self._location is None else self._reader


class ZarrReader:
    """Reads rows of a Zarr array; pickles to its location, never to the array, its data or its credentials.

    The array is opened at the first read in a process and kept. Safe for threads. The reader of an array that
    only this process can read has no location, and refuses to be pickled.
    """

    def __init__(
        self,
        location: ZarrLocation | None,
        label: str,
        shape: tuple[int, ...],
        dtype: str,
        fills: bool = False,
        *,
        array: zarr.Array[Any] | None = None,
    ) -> None:
        self._location, self._label, self._shape, self._dtype = location, label, shape, dtype
        self._array, self._fills = array, fills
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._location is None:
            raise TypeError(f"{self._label} can be read in one process only, and does not travel.")
        return ZarrReader, (self._location, self._label, self._shape, self._dtype, self._fills)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), in the dtype of the store.

        Raises
        ------
        DataError
            A chunk cannot be decoded, or is not there.
        InputMissingError
            The store cannot be reached, after several attempts, or may not be read.
        """
        return self._retried(lambda array: self._rows(array, start, stop), start, stop)

    def form(self) -> str:
        """Return a checksum of the array's metadata as they are now: dtype, chunks, codecs, fill value."""
        if self._location is None:
            return ""
        found = self._retried(lambda _: self._reopened().metadata.to_dict(), 0, self._shape[0])
        return digest(json.dumps({k: v for k, v in found.items() if k != "attributes"}, sort_keys=True, default=str))

    def stamp(self, start: int, stop: int) -> list[str]:
        """Return size and time, or tag, of what is stored of these rows: chunks, or shards of chunks.

        Raises
        ------
        DataError
            One is not there.
        """
        if self._location is None:
            return []
        location = self._location
        return self._retried(lambda array: self._stamps(location, array, start, stop), start, stop)

    @property
    def far(self) -> bool:
        return self._location is not None and self._location.opener in ("fsspec", "obstore")

    def _stamps(self, location: ZarrLocation, array: zarr.Array[Any], start: int, stop: int) -> list[str]:
        stored = _stored(array, start, stop)
        found = location.stamps([key for _, key in stored])
        if "" in found and not self._fills:  # (of a store that ends too early not every key is asked for)
            first = stored[found.index("")][0][0] * (array.shards or array.chunks)[0]
            raise self._missing(max(first, start), _fill_value(array))
        return found

    def _rows(self, array: zarr.Array[Any], start: int, stop: int) -> NDArray[Any]:
        rows = np.asarray(array[start:stop])
        if not self._fills:
            self._refuse_missing(array, rows, start)
        return rows if rows.ndim == 2 else rows.reshape(-1, 1)

    def _retried(self, ask: Callable[[zarr.Array[Any]], Found], start: int, stop: int) -> Found:
        """Return what the open array gives; errors that may pass are waited for, some times."""
        for attempt, seconds in enumerate((*RETRY_SECONDS, None), 1):
            try:
                return ask(self._opened())
            except DaskgmmError:
                raise
            except Exception as error:
                # One handler for the exceptions of every codec and storage: their classes have no common root. (What
                # cannot be decoded may have been cut short on its way.)
                passing = (unreachable(error) or self.far) and not refused(error)
                passing = passing and not isinstance(error, FileNotFoundError | MemoryError)
                passing = passing and missing_package(error, "X", self._label) is None
                if seconds is None or not passing:
                    raise self._explained(error, start, stop) from error
                logger.warning(
                    "Rows %d to %d of %s could not be read (%s), attempt %d of %d: again in %g s.",
                    start, stop, self._label, type(error).__name__, attempt, len(RETRY_SECONDS) + 1, seconds,
                )  # fmt: skip
            repeats.n += 1
            time.sleep(seconds)
        raise AssertionError("unreachable: the last attempt returns or raises")

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
                raise self._missing(row, fill)

    def _missing(self, row: int, fill: Any) -> DataError:
        return DataError(
            f"Every chunk must be in the store; got none for row {row} of {self._label}, where zarr would read {fill}. "
            "Write the rows from there on again. If the writer has left out chunks that hold nothing else, as zarr "
            "does by default, say so: --missing-chunks fill, in Python "
            'dask.config.set({"daskgmm.missing-chunks": "fill"}).'
        )

    def _explained(self, error: Exception, start: int, stop: int) -> Exception:
        if self._location is not None and unreachable(error):
            return self._location.explained(error, f"Rows {start} to {stop}")
        missing = missing_package(error, f"Rows {start} to {stop}", self._label)
        if missing is not None:
            return missing
        if isinstance(error, MemoryError):
            return MemoryLimitError(
                f"A process must have memory for the chunks that it reads; got none left for rows {start} to {stop} of "
                f"{self._label} ({error}). Give it more (--memory-limit, ulimit -v), or run fewer at once."
            )
        # Parts of shards are asked for as byte ranges; the simplest web servers send the whole file instead.
        ranges = " (or the server ignores byte ranges, which shards need)" if self._label.startswith("http") else ""
        where, error, start, stop = self._damaged(error, start, stop)
        return DataError(
            f"Rows {start} to {stop} must be readable; got {type(error).__name__} ({error}) from {where}{self._label}. "
            f"A chunk there is damaged{ranges}: write these rows again."
        )

    def _damaged(self, error: Exception, start: int, stop: int) -> tuple[str, Exception, int, int]:
        """Return in words which chunk it is that cannot be decoded, with its own error and rows."""
        array = self._opened()
        what, lengths, height = "shard" if array.shards else "chunk", array.shards or array.chunks, array.chunks[0]
        for place, key in _stored(array, start, stop):
            first, *rest = (slice(i * n, (i + 1) * n) for i, n in zip(place, lengths, strict=True))
            for row in range(first.start, min(first.stop, array.shape[0]), height):
                try:
                    array[(slice(row, row + height), *rest)]
                except Exception as own:  # (as above)
                    if unreachable(own):
                        return "", error, start, stop
                    return f"{what} {key} of ", own, row, min(row + height, array.shape[0])
        return "", error, start, stop  # (all of it can be decoded now)

    def _opened(self) -> zarr.Array[Any]:
        with self._lock:
            if self._array is None:
                self._array = self._reopened()
            return self._array

    def _reopened(self) -> zarr.Array[Any]:
        if self._location is None:
            raise InputMissingError(f"{self._label} must be read in the process that opened it; got another process.")
        node = self._location.open(argument="X, as a task reads it,")
        found = (node.shape, np.dtype(node.dtype).str) if isinstance(node, zarr.Array) else ("a group", "")
        if not isinstance(node, zarr.Array) or found != (self._shape, self._dtype):
            raise DataError(
                f"{self._label} must not change during a fit; got shape {found[0]}, dtype {found[1]}, where it had "
                f"{self._shape}, {self._dtype}. Start again with the new array."
            )
        reused_heap.expect(prod(node.chunks) * node.dtype.itemsize)
        return node


def _refuse_packed(array: zarr.Array[Any], code: str, argument: str, label: str) -> None:
    """Raise a DataError for numbers that are not to be taken as they are stored."""
    found = packing_of(array)
    if found is not None:
        raise DataError(
            f"{argument} must hold its numbers as they are meant; got packed ones in {label}: {found.said}. Decode "
            f"them: raw = {code}; rows = {found.decoded('raw')}; then give rows (or raw, if "
            "numbers are meant as stored), or the path to which rows.to_zarr('decoded.zarr') writes them."
        )


def _refuse_older(array: zarr.Array[Any], argument: str, label: str) -> None:
    """Raise a DataError for an open array that is older than what is stored: tasks open it anew."""
    store = array.store_path.store
    try:
        stored = zarr.open_array(store, path=array.path, mode="r" if store.read_only else "r+")
    except Exception:
        return  # (What it is, is told where it is read: each kind of storage has its own exceptions.)
    then, now = ((a.shape, np.dtype(a.dtype).str) for a in (array, stored))
    if now != then:
        raise DataError(
            f"{argument} must be as it is stored; got an open array of shape {then[0]}, dtype {then[1]}, where {label} "
            f"has shape {now[0]}, dtype {now[1]}: it was opened before, or by consolidated metadata of its group that "
            f"are older. Give its path, {label}, or open it by that."
        )


def _stored(array: zarr.Array[Any], start: int, stop: int) -> list[tuple[tuple[int, ...], str]]:
    """Return the chunks, or shards, that hold rows start to stop: where they are in the grid, and their keys."""
    lengths = array.shards or array.chunks
    counts = [-(-n // length) for n, length in zip(array.shape[1:], lengths[1:], strict=True)]
    path, metadata = f"{array.path}/" if array.path else "", array.metadata
    rows = range(start // lengths[0], -(-stop // lengths[0]))
    places = [(i, *rest) for i in rows for rest in np.ndindex(*counts)]
    return [(place, f"{path}{metadata.encode_chunk_key(place)}") for place in places]


def _checked(missing_chunks: str | None) -> str:
    asked = dask.config.get("daskgmm.missing-chunks", "error") if missing_chunks is None else missing_chunks
    if asked not in MISSING_CHUNKS:
        raise OptionError(f"missing_chunks must be one of {', '.join(MISSING_CHUNKS)}; got {asked!r}.")
    return str(asked)


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


def _readable_chunks(array: zarr.Array[Any], argument: str, label: str) -> tuple[int, int]:
    """Return (rows, columns) of the smallest piece that zarr decodes on its own.

    That is what `zarr.Array.chunks` means: the inner chunk of a shard, but the whole shard where further codecs
    are around it.
    """
    try:
        chunks = array.chunks
    except NotImplementedError as error:
        raise DataError(
            f"{argument} must have chunks of one size; got a grid of several sizes in {label}. "
            "Rechunk it to regular chunks."
        ) from error
    return max(1, int(chunks[0])), max(1, int(chunks[1])) if len(chunks) == 2 else 1
