"""What every source of rows offers; `opening.py` is the door through which an input becomes one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from dask.task_spec import DataNode, TaskRef
from numpy.typing import NDArray

from daskgmm.errors import DataError, NoRowsError, OptionError
from daskgmm.sources.columns import without_columns
from daskgmm.sources.conventions import Beside
from daskgmm.sources.digest import digest
from daskgmm.sources.failures import Fallible, retried
from daskgmm.sources.grid import Grid
from daskgmm.sources.stamps import FileStamper, Stamper, last_modified

#: Bytes that a task holds for each byte that it reads, where a source does not say. Of Zarr: the rows, the chunks being
#: decoded and their encoded bytes (measured over 15 layouts: at most 2.9 times the run), and the allocator keeps that
#: for the next one.
READ_FACTOR = 3
#: Bytes of a chunk where a source has none of its own.
_CHUNK_BYTES = 2**20


class Reader(Fallible):
    """Reads rows inside a task. Small and picklable: it names a store, it never holds its data or secrets.

    An OSError that may pass is waited for: the read is repeated some times, and the repeats are counted. Rows that are
    wrong are a `daskgmm.errors.DataError(argument, must, got, remedy)`; any other exception ends the fit as it is.

    (The reader of an in-memory source holds the array itself, and therefore never leaves its process.)
    """

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), in the dtype of the source, any memory order."""
        raise NotImplementedError(f"{type(self).__name__} must have a method read(start, stop)")


class Source:
    """Rows of numbers, chunked along rows, whose metadata are known before anything is read.

    A new kind of source sets `label`, `n_rows`, `n_features` and `dtype`, and has a method `reader`. Everything else
    has a default, which is right for rows that every worker can read, in ranges of any length. What many will want to
    set: `chunk_rows`, where rows are stored in chunks; `path`; and `read_bytes`, where reading holds more, or less.

    Attributes
    ----------
    label : str
        How messages name the source: a path, a URL, or "NumPy array".
    n_rows, n_features : int
        Rows, and columns; 1 column for a source of shape (n_rows,).
    dtype : dtype
        Of the rows as stored: integer, boolean, or float16/32/64 of either byte order.
    travels : bool
        Whether a task in another process can read the source; otherwise passes run in this process.
    decodes : bool
        Whether reading rows takes more than copying memory, so that a fit gains by keeping them.
    streams : bool
        Whether a task reads its rows run by run. Otherwise they arrive along the graph, as blocks that the task holds
        until it ends.
    path : str or None
        The file of this machine that holds all rows, or the folder of such files: sizes and times tell whether they
        change.
    array : ndarray or None
        The rows, (n_rows, n_features), where they are in the memory of this process: nothing is read then.
    blocks : dask.array.Array or None
        The array, where the rows are one of Dask: predictions have its chunks, which may be unknown.
    n_counting_passes : int
        Passes that it takes to know the number of rows.
    column_labels : list or None
        Labels of the columns, which become names of features where they are text.
    beside : Beside
        What is said of the rows beside their numbers: units, and the name of their dimension.
    as_given : callable or None
        Brings predictions of all rows, and what they are called, into the form of what was given; None leaves them.
    grid : Grid or None
        The grid whose points are the rows, where they are such, and their order: what comes with each row is in it too.
    """

    label: str
    n_rows: int
    n_features: int
    dtype: np.dtype[Any]
    travels: bool = True
    decodes: bool = True
    streams: bool = True
    path: str | None = None
    array: NDArray[Any] | None = None
    blocks: Any = None
    n_counting_passes: int = 0
    column_labels: list[Any] | None = None
    beside: Beside = Beside()
    as_given: Callable[[Any, str], Any] | None = None
    grid: Grid | None = None

    def to_grid(self, predictions: Any) -> NDArray[Any]:
        """Return predictions of all rows, (n_rows, ...), as an array of the grid: (*shape of the grid, ...), in memory.

        For example the labels: ``source.to_grid(mixture.predict(source))``. Where rows are no points of a grid, and of
        predictions that have its shape already (xarray), they are returned as they are.
        """
        values: NDArray[Any] = np.asarray(predictions)
        if self.grid is None or values.shape[: len(self.grid.shape)] == self.grid.shape:
            return values
        if values.shape[:1] != (self.n_rows,):
            must, got = f"have a first dimension of {self.n_rows}, one for each row", f"shape {values.shape}"
            raise DataError("predictions", must, got, "Give what was predicted for all rows.")
        return self.grid.to_grid(values)

    def coordinates(self) -> Sequence[Any]:
        """Return the `daskgmm.sources.coordinates.Coordinate`s of the grid whose points are the rows."""
        return ()

    def kept(self, columns: Sequence[str]) -> Any:
        """Return the `daskgmm.sources.parquet_kept.KeptColumns` that names, with wildcards, mean.

        Raises
        ------
        OptionError
            The input has no columns that can be kept.
        """
        raise OptionError(
            "`keep`", "name columns of Parquet files", f"{', '.join(map(repr, columns))} with {self.label}",
            "Leave it out: what is written has the rows of the input in their order, for columns beside it.",
        )  # fmt: skip

    def without(self, features: Sequence[int]) -> str:
        """Return, as a sentence, how to leave some features out."""
        return without_columns(self.column_labels, features) or "Store the rows anew without them."

    def reader(self) -> Reader:
        """Return what reads rows in a task."""
        raise NotImplementedError(f"{type(self).__name__} must have a method reader()")

    @cached_property
    def root(self) -> str:
        """Path or URL of the store that holds the rows, and perhaps other arrays."""
        return self.label

    @property
    def places(self) -> list[str]:
        """Paths or URLs of what holds the rows: nothing may be written to them, or within."""
        return [self.label]

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of a row."""
        return int(self.n_features * self.dtype.itemsize)

    @cached_property
    def chunk_rows(self) -> int:
        """Rows of each chunk but the last, which may have fewer; by default they take about 1 MiB."""
        return max(1, _CHUNK_BYTES // self.row_bytes)

    @property
    def chunk_edges(self) -> NDArray[np.int64]:
        """Rows at which chunks begin, and the end: (n_chunks + 1,), int64, increasing, from 0 to n_rows.

        Between two edges lie whole chunks across all columns: the least that can be read at no extra cost.
        """
        return regular_edges(self.n_rows, self.chunk_rows)

    @property
    def run_edges(self) -> NDArray[np.int64]:
        """Rows at which a task may stop reading and go on later at no extra cost; all chunk edges are among them.

        There are more where a reader can decode a chunk bit by bit, from its beginning: a partition never begins
        within a chunk, but a run may, so that a task never holds a large chunk at once.
        """
        return self.chunk_edges

    @property
    def chunk_bytes(self) -> int:
        """Largest number of decoded bytes that reading between two neighbouring run edges holds, all columns.

        For a sharded store an edge is the border of an inner chunk where single inner chunks can be
        read without decoding their shard.
        """
        return int(np.diff(self.run_edges).max()) * self.row_bytes

    def read_bytes(self, n_bytes: int) -> int:
        """Return the bytes that a task holds while it reads rows of so many decoded bytes, these rows included."""
        return READ_FACTOR * n_bytes

    def rechunking(self, chunks: str) -> str:
        """Return, as the end of a sentence, how to have chunks of another shape, which is given as Dask takes it."""
        return f"store the rows anew in chunks {chunks}."

    def rechunked_to(self, edges: NDArray[np.int64]) -> Source:
        """Return the same rows for tasks that begin at `edges`, (n_tasks + 1,), int64; nothing is computed."""
        return self

    def arguments(self, bounds: list[tuple[int, int]]) -> tuple[dict[str, Any], list[Any]]:
        """Return what tasks need to read the row ranges `bounds`: a graph, and one argument for each.

        The graph maps keys to `dask.task_spec` nodes. An argument is a `dask.task_spec.TaskRef` (or
        a `dask.task_spec.List` of them) to nodes of the graph; once computed it is a `Reader`, or a
        list of arrays that together hold exactly those rows, in order. Every range is a run of whole
        chunks. Building the arguments computes nothing.
        """
        key = f"daskgmm-reader-{uuid.uuid4().hex}"
        return {key: DataNode(key, self.reader())}, [TaskRef(key)] * len(bounds)

    def identity(self) -> dict[str, Any]:
        """Return what tells this input from another, as JSON: kind, location, shape, dtype, chunks."""
        return {
            "kind": f"{type(self).__module__}.{type(self).__qualname__}",
            "location": self.label,
            "modified": None if self.path is None else last_modified(self.path),
            "shape": [self.n_rows, self.n_features],
            "dtype": self.dtype.str,
            "chunks": digest(self.chunk_edges),
        }

    def stamper(self) -> Stamper | None:
        """Return what tells whether stored rows change, None where they are in memory or nobody knows."""
        return None if self.path is None else FileStamper(self.path)


def told_apart(reader: Any, bounds: list[tuple[int, int]]) -> tuple[dict[str, Any], list[Any]]:
    """Return what `Source.arguments` does, with a reader of its own rows alone, `reader.among`, for each task."""
    name = f"daskgmm-reader-{uuid.uuid4().hex}"
    keys = [f"{name}-{i}" for i in range(len(bounds))]
    nodes = {key: DataNode(key, reader.among(*each)) for key, each in zip(keys, bounds, strict=True)}
    return nodes, [TaskRef(key) for key in keys]


def as_reader(argument: Any, start: int) -> Reader:
    """Return a reader of global row numbers from a computed task argument (see `Source.arguments`)."""
    if isinstance(argument, list):
        return _BlocksReader(argument, start)
    if not isinstance(argument, Reader):
        raise OptionError(
            "What reader() of a source returns", "be a daskgmm.Reader", f"a {type(argument).__name__}", "Derive it."
        )
    return _PatientReader(argument)


@dataclass(frozen=True)
class _PatientReader(Reader):
    """Reads once more, after a while, what could not be read."""

    reader: Reader

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return retried(lambda: self.reader.read(start, stop), self.reader, start, stop)


class _BlocksReader(Reader):
    """Rows that came as arrays along an edge of the graph: blocks of a Dask array, in order from row `start`."""

    def __init__(self, blocks: list[NDArray[Any]], start: int) -> None:
        self._blocks = [plain_rows(b) for b in blocks]
        self._edges = start + np.concatenate([[0], np.cumsum([b.shape[0] for b in self._blocks])])
        widths = sorted({b.shape[1] for b in self._blocks})
        if len(widths) > 1:
            raise DataError(
                "The blocks of a Dask array",
                "have the features that it declares",
                f"blocks of {widths[0]} and of {widths[-1]}",
                "Correct what makes them.",
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
        "The blocks of a Dask array",
        "have the lengths that its chunks say",
        f"rows {low} to {high} for rows {start} to {stop}",
        "Correct its chunks with compute_chunk_sizes().",
    )


def plain_rows(block: Any) -> NDArray[Any]:
    """Return a block of rows as a NumPy array (n_rows, n_features) that hides nothing; (n_rows,) is one feature.

    A sparse one becomes dense.

    Raises
    ------
    DataError
        It is none of real numbers: blocks of a Dask array may be another type than it declares.
    """
    if isinstance(block, np.ma.MaskedArray):
        raise DataError(
            "Blocks of a Dask array",
            "not be masked arrays",
            "one, and its mask would be lost",
            "Fill it with NaN: dask.array.ma.filled(X.astype('float64'), numpy.nan).",
        )
    block = dense(block)
    try:
        array = np.asarray(block)
    except (TypeError, ValueError) as error:
        raise DataError(
            "Blocks of a Dask array",
            "be arrays of NumPy",
            f"a {type(block).__name__} ({error})",
            "Convert them with X.map_blocks.",
        ) from error
    check_dtype(array.dtype, argument="X", label="a block of a Dask array")
    if array.ndim not in (1, 2):
        raise DataError(
            "Blocks of a Dask array",
            "have the dimensions that it declares",
            f"a block of shape {array.shape}",
            "Correct what makes them.",
        )
    return array if array.ndim == 2 else array.reshape(-1, 1)


def dense(block: Any) -> Any:
    """Return a sparse block as a dense array, and any other one as it is."""
    if hasattr(block, "toarray"):
        return block.toarray()
    return block.todense() if hasattr(block, "todense") else block


def check_dtype(dtype: np.dtype[Any], *, argument: str, label: str) -> None:
    """Raise a DataError for a dtype that is not boolean, integer, or float16, float32 or float64."""
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    remedy = {
        "c": f"Complex data not supported: give {argument}.real, or both parts as features of their own.",
        "M": f"Give seconds: ({argument} - numpy.datetime64('1970-01-01')) / numpy.timedelta64(1, 's').",
        "m": f"Give seconds: ({argument} / numpy.timedelta64(1, 's')).",
    }.get(dtype.kind, f"Convert it first, for example with {argument}.astype('float64').")
    if argument == "labels" and dtype.kind == "U":
        remedy = f"Give the numbers of these names: numpy.unique({argument}, return_inverse=True)[1]."
    raise DataError(
        f"`{argument}`",
        "hold real numbers (boolean, integer, or float of at most 64 bits)",
        f"dtype {dtype} in {label}",
        remedy,
    )


def checked_shape(shape: tuple[int, ...], dtype: np.dtype[Any], *, argument: str, label: str) -> tuple[int, int]:
    """Return (n_rows, n_features) of an input, or say why no mixture can be fitted to such an input.

    Raises
    ------
    NoRowsError, DataError
        No rows; neither (n_rows, n_features) nor (n_rows,), no features, or a dtype that is not
        boolean, integer, or float16, float32 or float64; or more values than there can be.
    """
    if len(shape) not in (1, 2):
        raise DataError(
            f"`{argument}`",
            "have shape (n_rows, n_features) or (n_rows,)",
            f"{len(shape)} dimensions, shape {tuple(shape)}, in {label}",
            "Reshape it to two dimensions, rows first.",
        )
    n_rows, n_features = shape[0], shape[1] if len(shape) == 2 else 1
    if n_rows == 0 or n_features == 0:
        # (The words of scikit-learn, which its checks of an estimator look for.)
        none = f" (0 feature(s) (shape={tuple(shape)}) while a minimum of 1 is required)" if n_rows else ""
        raise (DataError if n_rows else NoRowsError)(
            f"`{argument}`",
            "have at least one row and one feature",
            f"shape {tuple(shape)} in {label}{none}",
            "Check how it was written or selected"
            + ("." if n_rows else "; where that may leave no row, ask for their number first."),
        )
    if n_rows * n_features >= 2**63:
        raise DataError(
            f"`{argument}`", "have fewer than 2^63 values", f"shape {tuple(shape)} in {label}", "Correct its metadata."
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
