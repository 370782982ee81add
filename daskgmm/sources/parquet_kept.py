"""Columns of Parquet files that pass through untouched, as Arrow has them, beside what is found of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from daskgmm.errors import DataError
from daskgmm.sources.columns import chosen
from daskgmm.sources.failures import retried
from daskgmm.sources.parquet_columns import Column, index_note, kinds_of
from daskgmm.sources.parquet_files import Listing
from daskgmm.sources.parquet_footers import (
    FETCHED_BYTES,
    Question,
    expected_of,
    fetch_plan,
    footer_of,
    opened,
)
from daskgmm.sources.parquet_reader import ParquetPart, ParquetReader

#: Rows that are decoded at once: nobody knows before how long a text is.
_STEP = 8192
#: Decoded bytes from which on rows are given out.
GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class KeptColumns:
    """Columns of the files of an input, read by tasks.

    Attributes
    ----------
    names : tuple of str
    schema : bytes
        Their types, as Arrow writes them.
    reader : ParquetReader
    held_bytes : int
        What a task holds that reads them, where no row has more than some 2 KiB.
    step_rows, group_bytes : int
        Rows that are decoded at once, and decoded bytes from which on they are given out.
    """

    names: tuple[str, ...]
    schema: bytes
    reader: ParquetReader
    held_bytes: int
    step_rows: int
    group_bytes: int

    def arrow_schema(self) -> Any:
        """Return their names and types, as Arrow has them."""
        import pyarrow

        return pyarrow.ipc.read_schema(pyarrow.BufferReader(self.schema))

    def tables(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows start to stop, tables of Arrow of some 16 MiB; where they end follows from the rows alone.

        Raises
        ------
        DataError, InputMissingError
            As `ParquetReader.read`.
        """
        import pyarrow

        schema, pieces, n_bytes = self.arrow_schema(), [], 0
        for low in range(start, stop, self.step_rows):
            high = min(low + self.step_rows, stop)
            for piece in retried(lambda a=low, b=high: self.reader.taken(a, b), self.reader, low, high):  # type: ignore[misc]
                arrays = [piece.column(piece.schema.get_field_index(name)) for name in self.names]
                pieces.append(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
                n_bytes += piece.nbytes
            if n_bytes >= self.group_bytes or high == stop:
                yield pyarrow.Table.from_batches(pieces, schema=schema)
                pieces, n_bytes = [], 0


def kept_columns(files: Listing, parts: Sequence[ParquetPart], columns: Sequence[str], *, argument: str) -> KeptColumns:
    """Return columns of files by name, with wildcards; their footers are read.

    Raises
    ------
    InputMissingError, OptionError
        See `daskgmm.sources.columns.chosen`.
    DataError
        Several columns have a name, or files have other types.
    """
    location, label = files.location, files.label
    first, *others = parts
    own = location.within(first.name)
    asked = Question(own, own.label, {}, False, (), argument)
    found = retried(lambda: opened(location, first.name, first.n_bytes), asked, 0, 0)
    try:
        schema = found.file.schema_arrow
        kinds = kinds_of(schema)
        files.refuse_keys(columns, kinds, argument=argument, option="keep")
        names = tuple(chosen(columns, list(kinds), argument, label, option="keep"))
        twice = next((name for name in names if kinds[name] is None), None)
        if twice is not None:
            raise DataError(
                f"`{argument}`",
                "have a name for each column that is kept that no other one has",
                f"several columns {twice!r} in {label}",
                "Rename one of them, or leave them out.",
            )
        footers = [footer_of(found, first.name, names)]
        types = _as_bytes([schema.field(name).with_nullable(True) for name in names], index_note(schema, names))
    finally:
        found.close()
    question = Question(location, own.label, expected_of(kinds, names, exactly=False), False, names, argument)
    footers += question.all_footers([(part.name, part.n_bytes) for part in others])
    plans = [fetch_plan(footer, len(names), far=location.far) for footer in footers]
    own_parts = [replace(part, whole=whole, buffer_bytes=n) for part, (whole, n) in zip(parts, plans, strict=True)]
    held = 3 * GROUP_BYTES + max(footer.held_bytes for footer in footers)
    if location.far:
        held += max(FETCHED_BYTES, *(len(names) * n for _, n in plans))
    read = [Column(name, kinds[name], ()) for name in names]  # type: ignore[arg-type]
    reader = ParquetReader(location, label, own_parts, read, "<f8", _STEP)
    return KeptColumns(names, types, reader, held, _STEP, GROUP_BYTES)


def _as_bytes(fields: Sequence[Any], note: dict[bytes, bytes]) -> bytes:
    import pyarrow

    return bytes(pyarrow.schema(fields, metadata=note).serialize())
