"""Reads rows of Parquet files in a task: row group by row group, and each of them bit by bit, from its beginning."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, MemoryLimitError, verbatim
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.file_location import FileLocation
from daskgmm.sources.heap import reused_heap
from daskgmm.sources.parquet_columns import Column, fill, kinds_of
from daskgmm.sources.parquet_files import unlisted
from daskgmm.sources.parquet_footers import BUFFER_BYTES, Opened, byte_ranges, opened, places_of, without_pyarrow
from daskgmm.sources.partition import RUN_BYTES
from daskgmm.sources.source import Reader
from daskgmm.sources.stamps import Stamper

#: Footers that a reader keeps: a file is opened anew for each partition in it.
_MOST_FOOTERS = 8


@dataclass(frozen=True)
class ParquetPart:
    """A file of an input.

    Attributes
    ----------
    name : str
        In its location.
    n_bytes : int
    first_row : int
        Number, in the whole input, of its first row.
    group_rows : tuple of int
        Rows of each row group.
    whole : bool
        Whether the columns of a row group are fetched at once, where the file is at a URL.
    buffer_bytes : int
        Encoded bytes of a column that are read at once.
    """

    name: str
    n_bytes: int
    first_row: int
    group_rows: tuple[int, ...]
    whole: bool = True
    buffer_bytes: int = BUFFER_BYTES

    @property
    def stop(self) -> int:
        return self.first_row + sum(self.group_rows)


class _Own(threading.local):
    """What a thread has open: it goes with the thread."""

    place: _Place | None = None
    file: tuple[int, Opened] | None = None
    #: File and row group that are being read, for a message.
    at: tuple[int, int] | None = None


@dataclass
class _Place:
    """Where a thread stopped within a row group.

    Attributes
    ----------
    row, stop : int
        The next row, and the end of its row group, in the whole input.
    rows : iterator of pyarrow.RecordBatch
        What comes next.
    rest : pyarrow.RecordBatch or None
        What has been decoded and not been taken yet.
    """

    row: int
    stop: int
    rows: Iterator[Any]
    rest: Any = None

    def take(self, n_rows: int) -> Any:
        """Return the next rows, at most so many."""
        while self.rest is None or not self.rest.num_rows:
            self.rest = next(self.rows)
        taken = self.rest.slice(0, n_rows)
        self.rest = self.rest.slice(taken.num_rows)
        self.row += taken.num_rows
        return taken


class ParquetReader(Reader, Stamper):
    """Reads rows of Parquet files; pickles to their names and the lengths of their row groups.

    A row group can only be decoded from its beginning. A thread that reads one run after another goes on where it
    stopped, so that each row is decoded once; one that begins within a row group decodes what is before, too.

    Parameters
    ----------
    location : FileLocation
    label : str
        How messages name the input.
    parts : sequence of ParquetPart
        The files, or those that the tasks need that this reader is for.
    columns : sequence of Column
        What is read.
    dtype : str
        Of the rows.
    step : int
        Rows that are decoded at once.
    """

    def __init__(
        self,
        location: FileLocation,
        label: str,
        parts: Sequence[ParquetPart],
        columns: Sequence[Column],
        dtype: str,
        step: int,
    ) -> None:
        self._location, self._label, self._parts = location, label, tuple(parts)
        self._columns, self._dtype, self._step = tuple(columns), dtype, step
        self._begins = [part.first_row for part in self._parts]
        self._n_features = sum(len(column.features) for column in self._columns)
        self._own = _Own()
        self._lock = threading.Lock()
        self._footers: dict[int, tuple[str, Any]] = {}

    def __str__(self) -> str:
        return self._label

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetReader, (self._location, self._label, self._parts, self._columns, self._dtype, self._step)

    def among(self, start: int, stop: int) -> ParquetReader:
        """Return a reader of rows start to stop alone, which names no other files."""
        parts = [part for part in self._parts if part.first_row < stop and part.stop > start]
        return ParquetReader(self._location, self._label, parts, self._columns, self._dtype, self._step)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), float, Fortran order as columns are stored.

        Raises
        ------
        DataError
            A row group cannot be decoded, or its file is another one than it was.
        InputMissingError
            A file is not there any more, or may not be read.
        """
        rows, row = np.empty((self._n_features, stop - start), dtype=self._dtype), start
        for taken in self._taken(start, stop):
            fill(rows[:, row - start : row - start + taken.num_rows], taken, self._columns, row)
            row += taken.num_rows
        return rows.T

    def taken(self, start: int, stop: int) -> list[Any]:
        """Return rows start to stop as Arrow has them, some at once: of all columns, whatever they hold.

        Raises
        ------
        DataError, InputMissingError
            As `read`.
        """
        return list(self._taken(start, stop))

    def _taken(self, start: int, stop: int) -> Iterator[Any]:
        own = self._own
        place, own.place = own.place, None  # (so that nothing goes on behind an error)
        row, done = start, False
        try:
            while row < stop:
                if place is None or place.row != row or row == place.stop:
                    place = self._begin(row)
                taken = place.take(stop - row)
                yield taken
                row += taken.num_rows
            done = True
        finally:
            if done and place is not None and place.row < place.stop:
                own.place = place
            else:
                self._close()

    def stamp(self, start: int, stop: int) -> list[str]:
        """Return size and time, or the tag, of each file that holds some of these rows."""
        return self._location.stamps([part.name for part in self._parts if part.first_row < stop and part.stop > start])

    @property
    def far(self) -> bool:
        return self._location.far

    def may_pass(self, error: Exception) -> bool:
        # As of Zarr: what comes from afar may have been cut short on its way; damaged bytes of a disk stay.
        passing = (unreachable(error) or self.far) and not refused(error)
        return passing and not isinstance(error, FileNotFoundError | MemoryError | ImportError)

    def explain(self, error: Exception, start: int, stop: int) -> Exception:
        which = f"Rows {start} to {stop}"
        missing = without_pyarrow(error, which, self._label)
        if missing is not None:
            return missing
        i, group = self._own.at or (0, 0)
        file = self._location.within(self._parts[i].name)
        if unreachable(error) or refused(error) or isinstance(error, FileNotFoundError | ImportError):
            return unlisted(error, which, file)
        if isinstance(error, MemoryError):
            return MemoryLimitError(
                "A process",
                "have memory for what it decodes",
                f"none left for rows {start} to {stop}, in row group {group} of {file.label} ({error})",
                "Give it more (`memory_limit`, ulimit -v), or run fewer at once.",
            )
        if "Expected all lists to be of size" in str(error):
            return DataError(
                which,
                "hold no missing lists where pyarrow cannot read them",
                f"one in row group {group} of {file.label} ({error})",
                "Install a newer pyarrow, here and on the workers: pip install -U pyarrow",
            )
        said = "fewer rows than its footer says" if isinstance(error, StopIteration) else f"{error}"
        return DataError(
            which,
            "be readable",
            f"{type(error).__name__} ({said}) from row group {group} of {file.label}",
            "It is damaged there, or somebody has written to it: write it again.",
        )

    def _begin(self, row: int) -> _Place:
        """Return the place of a row, all rows before it in its row group decoded and left."""
        i = bisect_right(self._begins, row) - 1
        part, group = self._parts[i], 0
        first = part.first_row
        while row >= first + part.group_rows[group]:
            first, group = first + part.group_rows[group], group + 1
        self._own.at = (i, group)
        found = self._opened(i)
        if found.far is not None and part.whole:
            metadata = found.file.metadata
            found.far.fetch(byte_ranges(metadata, group, places_of(metadata, self._names)))
        place = _Place(first, first + part.group_rows[group], iter(()))
        place.rows = found.file.iter_batches(
            batch_size=self._step, row_groups=[group], columns=list(self._names), use_threads=False
        )
        while place.row < row:
            place.take(row - place.row)
        return place

    @property
    def _names(self) -> set[str]:
        return {column.name for column in self._columns}

    def _opened(self, i: int) -> Opened:
        """Return a file, open; it stays so for this thread until another one is read, or nothing is left to do."""
        own = self._own
        if own.file is not None and own.file[0] == i:
            return own.file[1]
        self._close()
        part = self._parts[i]
        # (A footer that is kept is that of the file as it was.)
        stamp = "" if self.far else self._location.stamps([part.name])[0]
        with self._lock:
            kept = self._footers.get(i)
        metadata = kept[1] if kept is not None and kept[0] == stamp else None
        found = opened(self._location, part.name, part.n_bytes, buffer_bytes=part.buffer_bytes, metadata=metadata)
        own.file = (i, found)
        # (Runs in fresh memory would take a third of the time of decoding snappy, for its first touch.)
        reused_heap.expect(RUN_BYTES)
        if metadata is None:
            self._check(part, found)
            with self._lock:
                while len(self._footers) >= _MOST_FOOTERS:
                    del self._footers[next(iter(self._footers))]
                self._footers[i] = stamp, found.file.metadata
        return found

    def _check(self, part: ParquetPart, found: Opened) -> None:
        """Raise a DataError for a file that is another one than it was."""
        metadata = found.file.metadata
        rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        kinds = kinds_of(found.file.schema_arrow)
        other = [column.name for column in self._columns if kinds.get(column.name) != column.kind]
        if found.n_bytes == part.n_bytes and rows == part.group_rows and not other:
            return
        said = f"{found.n_bytes} bytes and {sum(rows)} rows in {len(rows)} row groups, where it had {part.n_bytes}, "
        said += f"{sum(part.group_rows)} and {len(part.group_rows)}"
        said += f", and another type of column {other[0]!r}" if other else ""
        raise DataError(
            verbatim(self._location.within(part.name).label),
            "not change during a fit",
            said,
            "Start again with the new file.",
        )

    def _close(self) -> None:
        own = self._own
        if own.file is not None:
            _, found = own.file
            own.file = own.place = None
            found.close()
