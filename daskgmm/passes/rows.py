"""The rows of a fit: a source, its weights and how they are cut; and a partition of them as blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError, verbatim
from daskgmm.kernels.block import Block, Workspace, block_length
from daskgmm.kernels.labels import LABELS
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.scaling import Scaling
from daskgmm.passes.pools import n_workers
from daskgmm.sources.coordinates import same_points
from daskgmm.sources.digits import refuse_lost_digits
from daskgmm.sources.grid import same_order
from daskgmm.sources.partition import (
    RUN_BYTES,
    Edges,
    is_cut_finely,
    partition_edges,
    partitions_per_task,
    partitions_per_task_here,
    runs_of,
)
from daskgmm.sources.source import Reader, Source

Check = Literal["scan", "trust", "marginalize"]
#: The name of the row weights among what comes with each row.
WEIGHT = "sample_weight"


def check_of(non_finite: str) -> Check:
    """Return how passes look at rows before it is known what they hold."""
    return "marginalize" if non_finite == "marginalize" else "scan"


@dataclass(frozen=True)
class Rows:
    """Everything that a pass goes over.

    Attributes
    ----------
    X : Source
        The rows.
    weights : Source or None
        A weight for each row; None means that every row weighs 1.
    edges : (n_partitions + 1,), int64
        Rows at which partitions begin, and the end.
    check : {"scan", "trust", "marginalize"}
        Whether each block is searched for NaN and infinity, whose rows are left out; or a survey has found none; or
        NaN are gaps in rows that count.
    prefetch : bool
        Whether a task reads the next run while it computes (twice the memory for runs).
    per_task : int
        Neighbouring partitions that a task does, a power of two; no bits depend on it.
    scaling : Scaling or None
        How passes see the rows mapped; None as they are.
    columns : mapping of str to Source
        What else comes with each row, by name, for kernels that know it.
    """

    X: Source
    weights: Source | None
    edges: Edges
    check: Check = "scan"
    prefetch: bool = True
    per_task: int = 1
    scaling: Scaling | None = None
    columns: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def plan(cls, X: Source, weights: Source | None, columns: Mapping[str, Source] | None = None) -> Rows:
        """Return rows cut into partitions; nothing is read."""
        if WEIGHT in (columns or {}):
            raise OptionError("columns", f"not be called {WEIGHT}", "one that is", f"Give row weights by `{WEIGHT}`.")
        for name, column in (columns or {}).items():
            if column.n_rows != X.n_rows:
                raise DataError(
                    "columns",
                    f"have {X.n_rows} rows each, as {verbatim(X.label)} has",
                    f"{column.n_rows} of {name!r} in {column.label}",
                    "Give a value for each row.",
                )
        if weights is not None and (weights.n_rows != X.n_rows or weights.n_features != 1):
            raise DataError(
                "`sample_weight`",
                f"have shape ({X.n_rows},), one weight for each row of {verbatim(X.label)}",
                f"({weights.n_rows}, {weights.n_features}) in {weights.label}",
                "Give one weight per row.",
            )
        ours, theirs = X.beside.dimension, None if weights is None else weights.beside.dimension
        if weights is not None and ours is not None and theirs is not None and ours != theirs:
            raise DataError(
                "`sample_weight`",
                f"be along the dimension of the rows of `X`, {verbatim(repr(ours))} in {verbatim(X.label)}",
                f"weights along {theirs!r}",
                "Give the weights of the rows, or correct the name of their dimension.",
            )
        if weights is not None:
            _check_order(X, f"`{WEIGHT}`", weights)
        for name, column in (columns or {}).items():
            _check_order(X, "`labels`" if name == LABELS else f"columns[{verbatim(repr(name))}]", column)
        if X.array is not None and is_cut_finely(X.n_rows * X.row_bytes):
            edges = X.chunk_edges
        else:
            edges = partition_edges(X.chunk_edges, row_bytes=X.row_bytes, travels=X.travels)
        cut = {name: column.rechunked_to(edges) for name, column in (columns or {}).items()}
        return cls(X, None if weights is None else weights.rechunked_to(edges), edges, columns=cut)

    def recut(self, edges: Edges) -> Rows:
        """Return the same rows with partitions that begin at `edges`, (n_partitions + 1,)."""
        cut = {name: column.rechunked_to(edges) for name, column in self.columns.items()}
        weights = None if self.weights is None else self.weights.rechunked_to(edges)
        return replace(self, weights=weights, edges=edges, columns=cut)

    @property
    def beside(self) -> dict[str, Source]:
        """What comes with each row, by name: its weight, where there are weights, and the columns."""
        return {**({} if self.weights is None else {WEIGHT: self.weights}), **self.columns}

    @property
    def sources(self) -> list[Source]:
        return [self.X, *self.beside.values()]

    @property
    def n_partitions(self) -> int:
        return len(self.edges) - 1

    @property
    def n_bytes(self) -> int:
        """Decoded bytes of one pass."""
        return self.X.n_rows * sum(source.row_bytes for source in self.sources)

    @property
    def travels(self) -> bool:
        """Whether passes can run in other processes."""
        return all(source.travels for source in self.sources)

    @property
    def n_tasks(self) -> int:
        return -(-self.n_partitions // self.per_task)

    def in_tasks(self, *, state_bytes: int, n_threads: int | None) -> Rows:
        """Return the same rows with as many partitions a task as keep states of so many bytes from the network.

        Rows of this process are cut into tasks that are worth the threads' time: states stay where they are. Where only
        these do (`n_threads` None) a task does one partition; so it does where it holds its blocks until it ends.
        """
        n_partitions = self.n_partitions
        if not all(source.streams for source in self.sources):
            return replace(self, per_task=1)
        if not self.travels:
            n = partitions_per_task_here(
                n_partitions, n_rows=self.X.n_rows, state_bytes=state_bytes, n_threads=n_workers()
            )
            return replace(self, per_task=n)
        if n_threads is None:
            return replace(self, per_task=1)
        mean_bytes = self.X.n_rows * self.X.row_bytes // n_partitions
        n = partitions_per_task(n_partitions, partition_bytes=mean_bytes, state_bytes=state_bytes, n_threads=n_threads)
        return replace(self, per_task=n)

    def standardized(self, scaling: Scaling) -> Rows:
        """Return the same rows for passes that see them mapped."""
        return replace(self, scaling=scaling)

    def checked(self, non_finite: str) -> Rows:
        """Return the same rows as the option says: with gaps, or without rows that have some."""
        return replace(self, check=check_of(non_finite))

    def trusted(self) -> Rows:
        """Return the same rows for passes after a survey that found every value finite."""
        return replace(self, check="trust")


def _check_order(X: Source, name: str, beside: Source) -> None:
    """Raise a DataError for what comes with each row where it is in another order of the points of a grid."""
    # (What is opened from one place is of one grid.)
    if not same_order(X.grid, beside.grid) or (
        X.label != beside.label and not same_points(X.coordinates(), beside.coordinates())
    ):
        ours, theirs = _order(X), _order(beside)
        raise DataError(
            name,
            f"be in the order of the rows of `X`, {ours}",
            f"{beside.label}, {'the same grid at other coordinates' if theirs == ours else theirs}",
            "Give it on the same grid, by the same dimensions, coordinates and chunks, from the same input: "
            "`daskgmm.open_rows(X, columns='name')`; or of xarray by weights.transpose(*X.dims).chunk(X.chunksizes).",
        )


def _order(source: Source) -> str:
    if source.grid is None:
        return "rows as they are stored"
    by = "in C order" if source.grid.is_in_c_order else f"cell by cell of {source.grid.cell}"
    along = f" by {' and '.join(map(repr, source.grid.dims))}" if source.grid.dims else ""
    return f"the points of a grid of shape {source.grid.shape}{verbatim(along)} {by}"


@dataclass(frozen=True)
class Cut:
    """How a task goes over one of its partitions; travels with the task.

    Attributes
    ----------
    index : int
        Number of the partition.
    runs : sequence of int
        Rows at which runs of whole chunks begin, and the end.
    dtype : dtype or None
        Of the rows, by their metadata; None is that of what is read first.
    """

    index: int
    runs: Sequence[int]
    n_features: int
    check: Check
    prefetch: bool
    scaling: Scaling | None = None
    dtype: np.dtype[Any] | None = None


def cuts(rows: Rows) -> list[Cut]:
    """Return a cut for each partition."""
    X = rows.X
    runs = runs_of(X.run_edges, rows.edges, row_bytes=X.row_bytes)
    ahead = rows.prefetch and X.array is None  # where nothing is read
    return [Cut(i, r, X.n_features, rows.check, ahead, rows.scaling, X.dtype) for i, r in enumerate(runs)]


def blocks(cut: Cut, reader: Reader, beside: Mapping[str, Reader] | None = None) -> Iterator[Block]:
    """Yield the partition as blocks of `block_length` rows, counted from its first row whatever the runs are.

    Each value is copied once: converted to float64 and transposed into the layout of the kernels. The arrays of a block
    are buffers, valid until the next block. Peak memory: the runs being read and computed on, and one block.

    Parameters
    ----------
    reader : Reader
        Of the rows.
    beside : mapping of str to Reader
        Of what comes with each row; row weights have the name WEIGHT.
    """
    length, work = block_length(cut.n_features), Workspace()
    start, stop = cut.runs[0], cut.runs[-1]
    held = {name: Beside(each, start, stop, length) for name, each in (beside or {}).items()}
    row_weights = held.pop(WEIGHT, None)
    low, filled = start, 0
    first_row = start
    for run in runs_read(cut, reader):
        if cut.check != "trust":
            refuse_lost_digits(run, first_row=first_row)
        first_row, taken = first_row + len(run), 0
        while taken < len(run):
            size = min(length, stop - low)
            x = work.get("x", (cut.n_features, size))
            n = min(size - filled, len(run) - taken)
            np.copyto(x[:, filled : filled + n], run[taken : taken + n].T, casting="unsafe")
            taken, filled = taken + n, filled + n
            if filled == size:
                if cut.scaling is not None:
                    cut.scaling.apply(x)
                w = None if row_weights is None else row_weights.weights(low, size)
                columns = {name: each.of_block(low, size) for name, each in held.items()}
                yield _checked(Block(x, w, low, columns=columns), cut.check)
                low, filled = low + size, 0


class Beside:
    """A column of a partition, read 16 MiB at once whatever the runs are: its chunks may be other ones."""

    def __init__(self, reader: Reader, start: int, stop: int, length: int) -> None:
        self._reader, self._start, self._stop = reader, start, stop
        self._step = max(1, RUN_BYTES // (8 * length)) * length
        self._held: NDArray[Any] = np.empty((0, 1))

    def weights(self, low: int, size: int) -> Floats:
        """Return the weights of the block of `size` rows from row `low`; blocks are asked for in their order."""
        return self._rows(low, size, n_columns=1)[:, 0].astype(np.float64)

    def of_block(self, low: int, size: int) -> NDArray[Any]:
        """Return the values of the block, (size,) or (n_columns, size): whole numbers as int64, others as float64."""
        found = self._rows(low, size)
        if found.dtype == np.uint64 and found.size and found.max() > np.iinfo(np.int64).max:
            raise DataError("columns", "hold whole numbers below 2^63", f"{found.max()}", "Convert them to float64.")
        values = np.ascontiguousarray(found.T, dtype=np.int64 if found.dtype.kind in "biu" else np.float64)
        return values[0] if len(values) == 1 else values

    def _rows(self, low: int, size: int, n_columns: int | None = None) -> NDArray[Any]:
        inside = (low - self._start) % self._step
        if inside == 0:
            high = min(low + self._step, self._stop)
            self._held = _as_rows(self._reader.read(low, high), low, high, n_columns)
        return self._held[inside : inside + size]


def _checked(block: Block, check: Check) -> Block:
    """Return the block with its non-finite rows made zeros of weight 0."""
    # One sum finds any NaN or infinity (it may overflow too: then the search finds none).
    with np.errstate(over="ignore", invalid="ignore"):
        if check == "trust" or np.isfinite(block.x.sum()):
            return block
    if check == "marginalize":
        return _with_gaps(block)
    spoiled = np.logical_not(np.isfinite(block.x))
    non_finite: NDArray[np.bool_] = np.logical_or.reduce(spoiled, axis=0)
    if not non_finite.any():
        return block
    block.x[:, non_finite] = 0.0
    weights = np.ones(block.x.shape[1]) if block.weights is None else block.weights
    weights[non_finite] = 0.0
    return replace(block, weights=weights, non_finite=non_finite, spoiled=spoiled)


def _with_gaps(block: Block) -> Block:
    """Return the block with its NaN as gaps, and rows without any value made zeros of weight 0."""
    infinite = np.isinf(block.x)
    if infinite.any():
        row, feature = (int(i) for i in np.argwhere(infinite.T)[0])
        raise DataError(
            "`X`",
            "be finite, or NaN where a value is missing",
            f"an infinity in row {block.first_row + row}, feature {feature}, where counting begins with 0",
            "Make it NaN where the value is missing, or a number.",
        )
    gaps = np.isnan(block.x)
    if not gaps.any():
        return block
    block.x[gaps] = 0.0
    empty: NDArray[np.bool_] = np.logical_and.reduce(gaps, axis=0)
    if not empty.any():
        return replace(block, gaps=gaps)
    weights = np.ones(block.x.shape[1]) if block.weights is None else block.weights
    weights[empty] = 0.0
    return replace(block, weights=weights, non_finite=empty, spoiled=gaps & empty, gaps=gaps)


def runs_read(cut: Cut, reader: Reader) -> Iterator[NDArray[Any]]:
    """Yield the rows of each run, reading the next one meanwhile."""

    def read(i: int) -> NDArray[Any]:
        start, stop = cut.runs[i], cut.runs[i + 1]
        return _as_rows(reader.read(start, stop), start, stop, cut.n_features)

    n_runs = len(cut.runs) - 1
    if n_runs == 1 or not cut.prefetch:
        yield from map(read, range(n_runs))
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="daskgmm-read") as ahead:
        coming = ahead.submit(read, 0)
        for i in range(n_runs):
            run = coming.result()
            if i + 1 < n_runs:
                coming = ahead.submit(read, i + 1)
            yield run
            del run


def _as_rows(array: NDArray[Any], start: int, stop: int, n_columns: int | None) -> NDArray[Any]:
    rows = array if array.ndim == 2 else array.reshape(len(array), -1)
    n_columns = rows.shape[1] if n_columns is None else n_columns
    if rows.shape != (stop - start, n_columns):
        raise DataError(
            "the input",
            f"have {stop - start} rows of {n_columns} columns from row {start}, as its metadata say",
            f"{rows.shape[0]} of {rows.shape[1]}",
            "It changed while it was being read, or what reads it gives other rows than it declares. Correct "
            "that (a Dask array: check its chunks, or rechunk it).",
        )
    return rows
