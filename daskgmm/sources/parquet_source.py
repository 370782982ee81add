"""Rows of Parquet files, by path or URL: a file, a folder, a glob or a HATS catalog; every task opens its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.sources.digest import digest
from daskgmm.sources.failures import retried
from daskgmm.sources.parquet_columns import columns_of, index_of, kinds_of
from daskgmm.sources.parquet_files import Listing, listing
from daskgmm.sources.parquet_footers import (
    FETCHED_BYTES,
    Footer,
    Question,
    expected_of,
    fetch_plan,
    footer_of,
    opened,
)
from daskgmm.sources.parquet_kept import KeptColumns, kept_columns
from daskgmm.sources.parquet_reader import ParquetPart, ParquetReader
from daskgmm.sources.source import Source, checked_shape, told_apart
from daskgmm.sources.stamps import Stamper, newest_of

#: Decoded bytes of a step, what is decoded at once, and the rows of one: fewer cost more than they hold, and more gain
#: nothing.
_STEP_BYTES, _LEAST_STEP, _MOST_STEP = 1 << 20, 1024, 1 << 16
#: Steps at most that runs may end at, so that a list of them is no larger than 8 MiB.
_MOST_EDGES = 2**20
#: What a process takes that has loaded pyarrow and decoded something (measured: 38 MiB; 66 where the kernel keeps its
#: files in large pages, as it does while they are new on the disk: whatever is touched then counts by 64 KiB and more).
_LIBRARY_BYTES = 72 << 20
#: Files of which each task is told its own; fewer are told to all.
_FEW_FILES = 64


class ParquetSource(Source):
    """Rows of Parquet files, in the order of their names, and in each of its row groups.

    Use `from_location`.

    Parameters
    ----------
    files : Listing
        The files, in order.
    columns : sequence of str or None
        Names of the columns that are the features, in this order, with wildcards; None takes all, but not the index of
        a data frame that pandas or Dask wrote.
    argument : str
        What messages call the input.

    Notes
    -----
    A chunk is a row group, and the footers say how many rows it has. It is decoded from its beginning, a step at a time
    (about 1 MiB), and a run may end after any step: so a file that is one large row group takes no more memory than
    another, but it is one partition, and one task's work. Beside the rows a task holds a page and a dictionary of each
    column, for which 1 MiB each is stated (what writers make by default; the footer says less where a column is less),
    and at a URL the encoded columns of a row group, at most 32 MiB.

    Footers of up to 64 files are read by threads of this process, those of more by tasks of Dask: on the workers, where
    the current client has some.
    """

    def __init__(self, files: Listing, *, columns: Sequence[str] | None = None, argument: str = "X") -> None:
        self.label, self._location, self.travels = files.label, files.location, files.location.travels
        self._files = files
        footers = self._footers(files, columns, argument)
        footers = [footer for footer in footers if sum(footer.group_rows)]
        ends = np.cumsum([sum(footer.group_rows) for footer in footers], dtype=np.int64).tolist()
        self.n_rows, self.n_features = checked_shape(
            (ends[-1] if ends else 0, len(self.column_labels or ())), self.dtype, argument=argument, label=self.label
        )
        plans = [fetch_plan(footer, len(self._columns), far=self._location.far) for footer in footers]
        self._parts = [
            ParquetPart(f.name, f.n_bytes, end - sum(f.group_rows), f.group_rows, whole, buffer_bytes)
            for f, end, (whole, buffer_bytes) in zip(footers, ends, plans, strict=True)
        ]
        self._step = min(max(_STEP_BYTES // self.row_bytes, _LEAST_STEP), _MOST_STEP)
        self._held_bytes = max(footer.held_bytes for footer in footers)
        if self._location.far:
            self._held_bytes += max(FETCHED_BYTES, *(len(self._columns) * n for _, n in plans))
        self._reader = ParquetReader(self._location, self.label, self._parts, self._columns, self.dtype.str, self._step)

    @classmethod
    def from_location(
        cls, location: str, *, columns: Sequence[str] | None = None, argument: str = "X"
    ) -> ParquetSource:
        """Return the source at a path or URL: of a file, a folder of files, a glob, or a HATS catalog.

        Raises
        ------
        InputMissingError, OptionError, DataError
            See `daskgmm.sources.opening.open_rows`.
        """
        return cls(listing(location, argument=argument), columns=columns, argument=argument)

    def _footers(self, files: Listing, columns: Sequence[str] | None, argument: str) -> list[Footer]:
        """Return the footers of all files, whose columns are those of the first, which are noted."""
        first, *others = files.files
        first_file = self._location.within(first[0])
        asked = Question(first_file, first_file.label, {}, False, (), argument)
        found = retried(lambda: opened(self._location, *first), asked, 0, 0)
        try:
            kinds = kinds_of(found.file.schema_arrow)
            index = index_of(found.file.schema_arrow)
            files.refuse_keys(columns or (), kinds, argument=argument)
            self._columns, self.column_labels, self.dtype = columns_of(
                kinds, columns, index=index, argument=argument, label=self.label
            )
            if argument == "X":  # (weights and others are some of these files' columns, or have what these say)
                files.say_keys(columns, kinds)
            names = tuple(column.name for column in self._columns)
            footers = [footer_of(found, first[0], names)]
        finally:
            found.close()
        expected = expected_of(kinds, names, exactly=columns is None)
        question = Question(self._location, first_file.label, expected, columns is None, names, argument)
        return footers + question.all_footers(others)

    @cached_property
    def chunk_edges(self) -> NDArray[np.int64]:
        rows = [n for part in self._parts for n in part.group_rows if n]
        return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    @cached_property
    def run_edges(self) -> NDArray[np.int64]:
        edges = self.chunk_edges
        step = self._step * max(1, -(-self.n_rows // (self._step * _MOST_EDGES)))
        if np.diff(edges).max() <= step:
            return edges
        inside = [np.arange(a, b, step) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
        return np.concatenate([*inside, edges[-1:]]).astype(np.int64)

    def read_bytes(self, n_bytes: int) -> int:
        # (What is decoded at once is there twice while it becomes rows of numbers, in a type that may be wider.)
        return n_bytes + 2 * self._step * self.n_features * 8 + self._held_bytes + _LIBRARY_BYTES

    def reader(self) -> ParquetReader:
        return self._reader

    def arguments(self, bounds: list[tuple[int, int]]) -> tuple[dict[str, Any], list[Any]]:
        if len(self._parts) <= _FEW_FILES:
            return super().arguments(bounds)
        return told_apart(self._reader, bounds)

    def kept(self, columns: Sequence[str]) -> KeptColumns:
        return kept_columns(self._files, self._parts, columns, argument="X")

    def rechunking(self, chunks: str) -> str:
        return f"write it again in row groups of fewer rows, {chunks}: pyarrow.parquet.write_table(row_group_size=...)"

    def identity(self) -> dict[str, Any]:
        paths = {part.name: self._location.path_of(part.name) for part in self._parts}
        return {
            **super().identity(),
            "kind": "parquet",
            "modified": None if self._location.far else newest_of(paths),
            "columns": self.column_labels,
            "files": digest([(part.name, part.n_bytes) for part in self._parts]),
        }

    def stamper(self) -> Stamper | None:
        return self._reader if self.travels else None
