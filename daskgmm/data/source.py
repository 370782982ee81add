"""What every source of rows offers; `opening.py` is the door through which an input becomes one."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError


class Reader(Protocol):
    """Reads rows inside a task. Small and picklable: it names a store, it never holds its data or secrets.

    (The reader of an in-memory source holds the array itself, and therefore never leaves its process.)
    """

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), in the dtype of the source, any memory order."""


class Repeats(threading.local):
    """How many times a read has been tried again in this thread, since it began."""

    n = 0


repeats = Repeats()


class Stamper(Protocol):
    """Tells the stored form of rows from another, without reading them. Picklable where the source travels."""

    @property
    def far(self) -> bool:
        """Whether it asks a service, so that many ask at once, instead of a disk of this machine."""

    def form(self) -> str:
        """Return a checksum of what says how rows are stored, asked for anew; "" where their own file says it."""

    def stamp(self, start: int, stop: int) -> list[str]:
        """Return size and time, or the tag, of each file or object that holds some of these rows."""


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
    def decodes(self) -> bool:
        """Whether reading rows takes more than copying memory, so that a fit gains by keeping them."""

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

    def stamper(self) -> Stamper | None:
        """Return what tells whether stored rows change, None where they are in memory or nobody knows."""


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
        widths = sorted({b.shape[1] for b in self._blocks})
        if len(widths) > 1:
            raise DataError(
                f"The blocks of a Dask array must have the features that it declares; got blocks of {widths[0]} and of "
                f"{widths[-1]}. Correct what makes them."
            )

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if start < self._edges[0] or stop > self._edges[-1]:
            raise other_length(self._edges[0], self._edges[-1], start, stop)
        pieces = [
            block[max(start - low, 0) : stop - low]
            for block, low, high in zip(self._blocks, self._edges[:-1], self._edges[1:], strict=True)
            if low < stop and high > start
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def other_length(low: int, high: int, start: int, stop: int) -> DataError:
    """Return the error of blocks that are longer or shorter than a Dask array declares."""
    return DataError(
        f"The blocks of a Dask array must have the lengths that its chunks say; got rows {low} to {high} for rows "
        f"{start} to {stop}. Correct its chunks with compute_chunk_sizes()."
    )


def plain_rows(block: Any) -> NDArray[Any]:
    """Return a block of rows as a NumPy array (n_rows, n_features) that hides nothing; (n_rows,) is one feature.

    Raises
    ------
    DataError
        It is none of real numbers: blocks of a Dask array may be another type than it declares.
    """
    if isinstance(block, np.ma.MaskedArray):
        raise DataError(
            "Blocks of a Dask array must not be masked arrays; got one, and its mask would be lost. "
            "Fill it with NaN: dask.array.ma.filled(X.astype('float64'), numpy.nan)."
        )
    if hasattr(block, "toarray") or hasattr(block, "todense"):
        dense = "toarray" if hasattr(block, "toarray") else "todense"
        raise DataError(
            f"Blocks of a Dask array must be dense; got the sparse {type(block).__name__}. Convert them where they fit "
            f"in memory: X.map_blocks(lambda block: block.{dense}(), dtype=X.dtype)."
        )
    try:
        array = np.asarray(block)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Blocks of a Dask array must be arrays of NumPy; got a {type(block).__name__} ({error}). Convert them "
            "with X.map_blocks."
        ) from error
    check_dtype(array.dtype, argument="X", label="a block of a Dask array")
    if array.ndim not in (1, 2):
        raise DataError(
            f"Blocks of a Dask array must have the dimensions that it declares; got a block of shape {array.shape}. "
            "Correct what makes them."
        )
    return array if array.ndim == 2 else array.reshape(-1, 1)


def check_dtype(dtype: np.dtype[Any], *, argument: str, label: str) -> None:
    """Raise a DataError for a dtype that is not boolean, integer, or float16, float32 or float64."""
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    remedy = {
        "c": f"Complex data not supported: give {argument}.real, or both parts as features of their own.",
        "M": f"Give seconds: ({argument} - numpy.datetime64('1970-01-01')) / numpy.timedelta64(1, 's').",
        "m": f"Give seconds: ({argument} / numpy.timedelta64(1, 's')).",
    }.get(dtype.kind, f"Convert it first, for example with {argument}.astype('float64').")
    raise DataError(
        f"{argument} must hold real numbers (boolean, integer, or float of at most 64 bits); got dtype {dtype} in "
        f"{label}. {remedy}"
    )


def checked_shape(shape: tuple[int, ...], dtype: np.dtype[Any], *, argument: str, label: str) -> tuple[int, int]:
    """Return (n_rows, n_features) of an input, or say why no mixture can be fitted to such an input.

    Raises
    ------
    DataError
        Neither (n_rows, n_features) nor (n_rows,), no rows, no features, or a dtype that is not
        boolean, integer, or float16, float32 or float64; or more values than there can be.
    """
    if len(shape) not in (1, 2):
        raise DataError(
            f"{argument} must have shape (n_rows, n_features) or (n_rows,); got {len(shape)} dimensions, "
            f"shape {tuple(shape)}, in {label}. Reshape it to two dimensions, rows first."
        )
    n_rows, n_features = shape[0], shape[1] if len(shape) == 2 else 1
    if n_rows == 0 or n_features == 0:
        # (The words of scikit-learn, which its checks of an estimator look for.)
        none = f" (0 feature(s) (shape={tuple(shape)}) while a minimum of 1 is required)" if n_rows else ""
        raise DataError(
            f"{argument} must have at least one row and one feature; got shape {tuple(shape)} in {label}{none}. "
            "Check how it was written or selected."
        )
    if n_rows * n_features >= 2**63:
        raise DataError(
            f"{argument} must have fewer than 2^63 values; got shape {tuple(shape)} in {label}. Correct its metadata."
        )
    check_dtype(dtype, argument=argument, label=label)
    return int(n_rows), int(n_features)


def regular_edges(n_rows: int, rows: int) -> NDArray[np.int64]:
    """Return edges every `rows` rows from 0 to n_rows: (n_runs + 1,), int64; arithmetic only, nothing is listed.

    Where that would be more than about a million runs, each takes several times `rows`: edges are then still
    edges of chunks, and no list of them is larger than 8 MiB.
    """
    rows *= -(-n_rows // (rows * _MAX_RUNS))
    return np.append(np.arange(0, n_rows, rows, dtype=np.int64), np.int64(n_rows))


_MAX_RUNS = 2**20


def file_stamp(path: str) -> str:
    """Return size and time of a file, in nanoseconds; an empty string where there is none.

    Raises
    ------
    DataError
        It is no file but a pipe, a device or a folder, which reading might wait for, for ever.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"What is read must be a file; got {path}, which is none. Put a file there, or remove it.")
    return f"{found.st_size} {found.st_mtime_ns}"


def last_modified(place: str) -> str | None:
    """Return when a file, or the newest one in a folder, was last written to, ISO 8601; None where nothing is.

    A checksum of the sizes and times of all stands beside it: a file that another one has replaced may be older.
    (About 10 s for a million files.)
    """
    files = [place]
    for folder, _, names in os.walk(place):
        files.extend(os.path.join(folder, name) for name in names)
    found = {os.path.relpath(file, place): os.stat(file) for file in sorted(files) if os.path.isfile(file)}
    if not found:
        return None
    newest = datetime.fromtimestamp(max(stats.st_mtime for stats in found.values()), UTC).isoformat()
    sha = hashlib.sha256()
    for name, stats in found.items():
        sha.update(f"{name} {stats.st_size} {stats.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return f"{newest} ({len(found):,} files, {sha.hexdigest()[:16]})" if len(found) > 1 else newest
