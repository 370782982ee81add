"""A table as a folder of Parquet files, in the order of its rows: each file whole or absent, and written by one task.

(pyarrow is imported where it is needed: a worker that lacks it must be able to say so.)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError, OutputError, verbatim
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.rows import Rows
from daskgmm.sources.columns import feature_names
from daskgmm.sources.parquet_files import SUFFIXES
from daskgmm.sources.parquet_kept import KeptColumns
from daskgmm.sources.source import Source
from daskgmm.sources.stamps import file_stamp
from daskgmm.stores.storage import plain_path, sync_folder
from daskgmm.stores.targets import (
    ATTRIBUTE,
    even_length,
    incomplete_record,
    refuse_others,
    stored_dtype,
    stored_row_bytes,
)

#: The file that has the record, and no rows. (To Dask, Spark and pyarrow a file of such a name is none of the data;
#: polars, which takes each file of a folder, finds the same columns in it.)
RECORD = "_daskgmm.parquet"
#: What files are that are never written, by their suffixes.
_OF_OTHERS = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "a text file"), **dict.fromkeys((".npy", ".npz"), "a file of NumPy"),
    **dict.fromkeys((".h5", ".hdf5", ".nc"), "an HDF5 file"), ".fits": "a FITS file", ".json": "a JSON file",
}  # fmt: skip
#: What a process takes that has loaded pyarrow and written a file.
LIBRARY_BYTES = 72 << 20
#: Rows of a row group at most.
_GROUP_ROWS = 1 << 20


def is_parquet(output: str) -> bool:
    """Return whether an output is to be Parquet, by its suffix."""
    return output.rstrip("/").lower().endswith(SUFFIXES)


def check_kind(output: str, *, option: str = "the output") -> None:
    """Raise an OptionError where Parquet files cannot be written, at a URL or without pyarrow, or a name lies.

    (At a URL nothing can be renamed, and readers of a folder would take the files that are there for all of them.)
    """
    suffix = os.path.splitext(output.rstrip("/"))[1].lower()
    if suffix in _OF_OTHERS:
        stem = output.rstrip("/")[: -len(suffix)]
        raise OptionError(
            option,
            "be Zarr, or Parquet where its name ends in .parquet",
            f"{output}, named as {_OF_OTHERS[suffix]}",
            f"Name it {verbatim(stem)}.zarr or {verbatim(stem)}.parquet.",
        )
    if is_parquet(output) and "://" in plain_path(output):
        other = re.sub(r"[.][^./]*$", ".zarr", output.rstrip("/"))
        raise OptionError(
            option,
            "be a path where it is Parquet",
            f"the URL {output}",
            f"Write it to a disk and copy the folder when it is there; or write Zarr, which may be at a URL: {other}",
        )
    if is_parquet(output):
        load_pyarrow(output, option=option)


def load_pyarrow(output: str, *, option: str = "the output") -> Any:
    """Return pyarrow, or raise an OptionError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OptionError(
            option,
            "be Parquet only where pyarrow is installed",
            f"{output} ({error})",
            "Install it, here and on the workers: pip install 'daskgmm[parquet]'",
        ) from error
    return pyarrow


@dataclass(frozen=True)
class Parts:
    """The files of a folder, and which rows are in which.

    Attributes
    ----------
    starts : (n_files + 1,), int64
        Row at which each begins, and the end.
    names, dtypes : tuple of str
        The columns, and what NumPy calls their numbers.
    before : bytes
        Columns before these, and their types, as Arrow writes them; none where it is empty.
    """

    starts: NDArray[np.int64]
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    before: bytes = b""

    @property
    def n_files(self) -> int:
        return len(self.starts) - 1

    def number_of(self, first_row: int) -> int:
        """Return the number of the file that begins at a row."""
        return int(np.searchsorted(self.starts, first_row))

    def file_name(self, number: int) -> str:
        """Return the name of a file: as text, too, they are in the order of the rows."""
        return f"part-{number:0{max(5, len(str(self.n_files - 1)))}}.parquet"

    def schema(self) -> Any:
        """Return the columns, as Arrow has them."""
        import pyarrow

        types = [pyarrow.from_numpy_dtype(np.dtype(dtype)) for dtype in self.dtypes]
        own = [pyarrow.field(name, type_) for name, type_ in zip(self.names, types, strict=True)]
        kept = pyarrow.ipc.read_schema(pyarrow.BufferReader(self.before)) if self.before else pyarrow.schema([])
        return pyarrow.schema([*kept, *own], metadata=kept.metadata or None)

    def arrays(self, values: Sequence[NDArray[Any]]) -> list[Any]:
        """Return columns as Arrow has them; missing numbers stay NaN."""
        import pyarrow

        # (pyarrow.array would import pandas, of 46 MiB, for nothing.)
        return [
            pyarrow.Array.from_buffers(
                pyarrow.from_numpy_dtype(column.dtype),
                len(column),
                [None, pyarrow.py_buffer(np.ascontiguousarray(column))],
            )
            for column in values
        ]

    def make(self, place: str, token: str | None) -> None:
        """Make the folder, which says from its first file on that it is not complete."""
        load_pyarrow(place)
        os.mkdir(place)
        self.note(place, incomplete_record(token))

    def write(self, place: str, first_row: int, values: NDArray[Any]) -> None:
        """Write the file that begins at a row: (n_rows,) where there is one column, or (n_rows, n_columns)."""
        import pyarrow

        arrays = self.arrays([values] if values.ndim == 1 else list(values.T))
        table = pyarrow.Table.from_arrays(arrays, schema=self.schema())
        write_file(place, self.file_name(self.number_of(first_row)), self.schema(), [table])

    def note(self, place: str, record: Mapping[str, Any]) -> None:
        """Write the record, in place of the one that is there."""
        schema, note = self.schema(), {ATTRIBUTE: json.dumps({"files": self.n_files, **record})}
        write_file(place, RECORD, schema.with_metadata({**(schema.metadata or {}), **note}), [])

    def complete(self, place: str, record: Mapping[str, Any]) -> None:
        """Note the record, which says that all is written.

        Raises
        ------
        OutputError
            A file is not there.
        """
        names = set(os.listdir(place))
        missing = next((name for i in range(self.n_files) if (name := self.file_name(i)) not in names), None)
        if missing is not None:
            os.remove(os.path.join(place, RECORD))  # (so that nobody goes on with what is left)
            raise OutputError(
                "the output",
                "keep its files while it is written",
                f"no {missing} in {place}, where it was written",
                "Run the same again, which begins anew.",
            )
        for name in names:
            if name.startswith("."):  # (what a process that was killed has left of a file)
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(place, name))
        self.note(place, record)


def write_file(folder: str, name: str, schema: Any, tables: Iterable[Any]) -> None:
    """Write a Parquet file, durably: it has its name when it is whole."""
    from pyarrow.parquet import ParquetWriter

    unfinished = os.path.join(folder, f".{name}.{uuid4().hex}")
    try:
        with open(unfinished, "xb") as file:
            with ParquetWriter(file, schema, write_page_checksum=True) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=_GROUP_ROWS)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, os.path.join(folder, name))
    finally:
        with suppress(FileNotFoundError):
            os.remove(unfinished)
    sync_folder(folder)


def parts_record(output: str) -> Any:
    """Return the record of the folder of files at a path; what pyarrow raises, or None, where it is none of ours."""
    path = os.path.join(output, RECORD)
    if not file_stamp(path):  # (a pipe would never answer)
        raise FileNotFoundError(path)
    pyarrow = load_pyarrow(output)
    found = (pyarrow.parquet.read_schema(path).metadata or {}).get(ATTRIBUTE.encode())
    record = None if found is None else json.loads(found)
    return {k: v for k, v in record.items() if k != "files"} if isinstance(record, dict) else None


@dataclass(frozen=True)
class PartsTarget:
    """Predictions in the files of a folder.

    Attributes
    ----------
    place, token : str
        The folder, and which one is meant there.
    parts : Parts
    kept : KeptColumns or None
        Columns of the input that stand before them.
    """

    place: str
    token: str
    parts: Parts
    kept: KeptColumns | None = None

    def piece_rows(self, first_row: int) -> int:
        number = self.parts.number_of(first_row)
        return int(self.parts.starts[number + 1]) - first_row

    def write(self, first_row: int, values: NDArray[Any]) -> None:
        load_pyarrow(self.place)
        refuse_others(parts_record(self.place).get("token"), self.token, self.place)
        name = self.parts.file_name(self.parts.number_of(first_row))
        write_file(self.place, name, self.parts.schema(), self._tables(first_row, values))

    def _tables(self, first_row: int, values: NDArray[Any]) -> Iterator[Any]:
        """Yield the rows of a piece, group by group."""
        import pyarrow

        columns, schema = list(values.T) if values.ndim == 2 else [values], self.parts.schema()
        if self.kept is None:
            yield pyarrow.Table.from_arrays(self.parts.arrays(columns), schema=schema)
            return
        row = 0
        for table in self.kept.tables(first_row, first_row + len(values)):
            own = self.parts.arrays([column[row : row + table.num_rows] for column in columns])
            yield pyarrow.Table.from_arrays([*table.columns, *own], schema=schema)
            row += table.num_rows


@dataclass(frozen=True)
class PartsLayout:
    """Predictions in a folder of Parquet files: some for each partition, whose numbers are in the order of the rows.

    The column is called label or score; of probabilities there are proba_0, proba_1, and so on; features
    have their names.
    """

    predictor: Predictor
    rows: Rows
    kept: KeptColumns | None = None

    @classmethod
    def of(cls, predictor: Predictor, X: Source, kept: KeptColumns | None = None) -> PartsLayout:
        """Return the layout, with columns of the input before those of predictions.

        Raises
        ------
        OptionError
            One of them is called as predictions are.
        """
        found = cls(predictor, Rows.plan(X, None), kept)
        both = set(() if kept is None else kept.names).intersection(found._names)
        if both:
            raise OptionError(
                "`keep`",
                "leave out columns that are called as predictions are",
                f"{sorted(both)[0]!r} in {X.label}",
                f"Leave it out by '!{verbatim(sorted(both)[0])}', or rename it.",
            )
        return found

    @property
    def held_bytes(self) -> int:
        # (The piece being filled; its columns, one after the other; and these encoded.)
        piece = int(np.diff(self._parts.starts).max()) * stored_row_bytes(self.predictor)
        return 3 * piece + LIBRARY_BYTES + (0 if self.kept is None else self.kept.held_bytes)

    def make(self, place: str, token: str) -> PartsTarget:
        self._parts.make(place, token)
        return PartsTarget(place, token, self._parts, self.kept)

    def found(self, place: str, token: str) -> PartsTarget | None:
        try:
            record = parts_record(place)
        except (OSError, ValueError):  # it was removed
            return None
        is_this = isinstance(record, dict) and record.get("token") == token
        return PartsTarget(place, token, self._parts, self.kept) if is_this else None

    def complete(self, place: str, record: Mapping[str, Any]) -> None:
        self._parts.complete(place, record)

    @property
    def _parts(self) -> Parts:
        edges, row_bytes = self.rows.edges, stored_row_bytes(self.predictor)
        starts = [
            np.arange(a, b, even_length(b - a, row_bytes))
            for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
        dtypes, before = (
            (stored_dtype(self.predictor).str,) * len(self._names),
            b"" if self.kept is None else self.kept.schema,
        )
        return Parts(np.concatenate([*starts, edges[-1:]]).astype(np.int64), self._names, dtypes, before)

    @property
    def _names(self) -> tuple[str, ...]:
        what, n = self.predictor.what, self.predictor.n_columns
        called = self.predictor.names(feature_names(self.rows.X.column_labels))
        if called is not None:
            return tuple(called)
        return (what,) if n is None else tuple(f"{what}_{k}" for k in range(n))
