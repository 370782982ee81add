"""Parquet files, opened, and what their footers say: rows of each row group, columns, and bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dask.base import compute
from dask.delayed import delayed

from daskgmm.errors import DaskgmmError, DataError, OptionError
from daskgmm.sources.failures import Fallible, retried
from daskgmm.sources.far_file import FarFile
from daskgmm.sources.file_location import FileLocation
from daskgmm.sources.parquet_columns import Kind, kinds_of, refuse_other_columns
from daskgmm.sources.parquet_files import unlisted

#: Encoded bytes of a column that are read at once, of a file on this machine: with less a system call costs more than
#: it reads, and more makes nothing faster.
BUFFER_BYTES = 64 << 10
#: A page of a column, encoded or decoded, and each of two copies of its dictionary: what writers make by default.
#: (Measured, 16 columns with dictionaries: 37 MiB in Arrow's pool, up to 62 MiB of the process.)
PAGE_BYTES = 1 << 20
#: Encoded bytes of the columns of a row group that are fetched from a URL at once; of a larger one each column has a
#: share of that, but at least `LEAST_FETCHED_BYTES`, as a request takes longer than to send those.
FETCHED_BYTES, LEAST_FETCHED_BYTES = 32 << 20, 256 << 10
#: Footers that are read here; more are by tasks, so many each.
_MOST_HERE, _FOOTERS_PER_TASK = 64, 100
_THREADS_NEAR, _THREADS_FAR = 4, 16


@dataclass(frozen=True)
class Footer:
    """What the footer of a file says of the columns that are read.

    Attributes
    ----------
    name : str
        Of the file, in its location.
    n_bytes : int
        Its length.
    group_rows : tuple of int
        Rows of each row group.
    held_bytes : int
        What decoding a row group holds beside its rows at most: pages and dictionaries of each column.
    fetched_bytes : int
        Encoded bytes of the columns of the largest row group.
    """

    name: str
    n_bytes: int
    group_rows: tuple[int, ...]
    held_bytes: int
    fetched_bytes: int


@dataclass(frozen=True)
class Opened:
    """An open file.

    Attributes
    ----------
    file : pyarrow.parquet.ParquetFile
    far : FarFile or None
        What it reads from, at a URL.
    n_bytes : int
    """

    file: Any
    far: FarFile | None
    n_bytes: int

    def close(self) -> None:
        self.file.close(force=True)


def opened(
    location: FileLocation, name: str, n_bytes: int | None, *, buffer_bytes: int = BUFFER_BYTES, metadata: Any = None
) -> Opened:
    """Return a Parquet file, open for reading with its checksums.

    Parameters
    ----------
    n_bytes : int or None
        Its length, where it is known; a file on this machine is asked.
    metadata : pyarrow.parquet.FileMetaData, optional
        Its footer, where it was read before.
    """
    from pyarrow.parquet import ParquetFile

    options = {
        "buffer_size": buffer_bytes, "pre_buffer": False, "page_checksum_verification": True, "metadata": metadata,
    }  # fmt: skip
    path = location.path_of(name)
    if not location.far:
        (stamp,) = location.stamps([name])  # (a pipe would never answer)
        if not stamp:
            raise FileNotFoundError(path)
        return Opened(ParquetFile(path, **options), None, int(stamp.split()[0]))
    system, root = location.system()
    path = f"{root}/{name}" if name else root
    n_bytes = int(system.info(path)["size"]) if n_bytes is None else n_bytes
    far = FarFile(system, path, n_bytes, location.within(name).label)
    return Opened(ParquetFile(far, **options), far, n_bytes)


def places_of(metadata: Any, names: Collection[str]) -> list[int]:
    """Return the numbers of the encoded columns of a file that belong to some columns, by name.

    (Of a column of lists they are "emb.list.element"; but a name may have dots, too.)
    """
    paths = ((i, metadata.schema.column(i).path) for i in range(metadata.num_columns))
    return [i for i, path in paths if path in names or any(path.startswith(f"{name}.") for name in names)]


def byte_ranges(metadata: Any, group: int, places: Sequence[int]) -> list[tuple[int, int]]:
    """Return where some encoded columns of a row group are in the file: first byte, and end."""
    found, row_group = [], metadata.row_group(group)
    for i in places:
        chunk = row_group.column(i)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset:
            start = min(start, chunk.dictionary_page_offset)
        found.append((start, start + chunk.total_compressed_size))
    return found


def footer_of(found: Opened, name: str, names: Collection[str]) -> Footer:
    """Return what the footer of an open file says of some columns."""
    metadata = found.file.metadata
    places = places_of(metadata, names)
    rows, held, fetched = [], 0, 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in places]
        pages = ((4 if c.has_dictionary_page else 2) * min(c.total_uncompressed_size, PAGE_BYTES) for c in chunks)
        held = max(held, sum(pages) + BUFFER_BYTES * len(chunks))
        fetched = max(fetched, sum(chunk.total_compressed_size for chunk in chunks))
        rows.append(int(group.num_rows))
    return Footer(name, found.n_bytes, tuple(rows), held, fetched)


@dataclass(frozen=True)
class Question(Fallible):
    """Asks files for their footers; travels to where that is done.

    Attributes
    ----------
    location : FileLocation
    first : str
        The file whose columns the others must have.
    expected : dict of str to Kind
        Its columns: those that are read, or all.
    exactly : bool
        Whether others must have no more.
    names : tuple of str
        The columns that are read.
    """

    location: FileLocation
    first: str
    expected: dict[str, Kind | None]
    exactly: bool
    names: tuple[str, ...]
    argument: str

    def __str__(self) -> str:
        return self.location.label

    def may_pass(self, error: Exception) -> bool:
        return not isinstance(error, ImportError) and super().may_pass(error)

    def explain(self, error: Exception, start: int, stop: int) -> Exception:
        return unopened(error, self.argument, self.location)

    def footers(self, files: Sequence[tuple[str, int | None]]) -> list[Footer]:
        """Return the footers of some files, whose columns are as they must be."""
        try:
            return [self._footer(name, n_bytes) for name, n_bytes in files]
        except DaskgmmError as error:
            # (Not every cause can travel: it would arrive in place of the error that explains it.)
            error.__cause__ = error.__context__ = None
            raise

    def _footer(self, name: str, n_bytes: int | None) -> Footer:
        own = Question(self.location.within(name), self.first, {}, False, (), self.argument)
        found = retried(lambda: opened(self.location, name, n_bytes), own, 0, 0)
        try:
            refuse_other_columns(
                kinds_of(found.file.schema_arrow), self.expected, exactly=self.exactly, file=str(own), first=self.first
            )
            return footer_of(found, name, set(self.names))
        finally:
            found.close()

    def all_footers(self, files: Sequence[tuple[str, int | None]]) -> list[Footer]:
        """Return the footers of all files, in order: some are read here, by threads; many by tasks of Dask.

        Where a client of distributed is the current one, these are its workers'.
        """
        if len(files) <= _MOST_HERE:
            with ThreadPoolExecutor(_THREADS_FAR if self.location.far else _THREADS_NEAR) as pool:
                return [found for part in pool.map(self.footers, ([file] for file in files)) for found in part]
        parts = [files[i : i + _FOOTERS_PER_TASK] for i in range(0, len(files), _FOOTERS_PER_TASK)]
        ask, own = delayed(Question.footers, pure=False), delayed(self, pure=False, traverse=False)
        done = compute(*(ask(own, delayed(part, pure=False, traverse=False)) for part in parts))
        return [found for part in done for found in part]


def unopened(error: Exception, argument: str, location: FileLocation) -> Exception:
    """Return the error of this package that says why a Parquet file cannot be opened."""
    missing = without_pyarrow(error, argument, location.label)
    if missing is not None:
        return missing
    found = unlisted(error, argument, location)
    if type(found) is not DataError:
        return found
    return DataError(
        f"`{argument}`",
        "be whole Parquet files",
        found.got,
        "Write that file again; where it is none of the data, move it away, or name it with a leading _.",
    )


def without_pyarrow(error: BaseException, argument: str, label: str) -> OptionError | None:
    """Return what to say where pyarrow is not installed in this process; None for any other error."""
    if not isinstance(error, ImportError) or not (error.name or "").startswith("pyarrow"):
        return None
    return OptionError(
        f"`{argument}`",
        "be Parquet files only where pyarrow is installed",
        f"{label} ({error})",
        "Install it, here and on the workers: pip install 'daskgmm[parquet]'",
    )


def fetch_plan(footer: Footer, n_columns: int, *, far: bool) -> tuple[bool, int]:
    """Return whether the columns of a row group are fetched at once, and the bytes by which each column is read."""
    if not far or footer.fetched_bytes <= FETCHED_BYTES:
        return far, BUFFER_BYTES
    return False, max(LEAST_FETCHED_BYTES, FETCHED_BYTES // max(1, n_columns))


def expected_of(kinds: Mapping[str, Kind | None], names: Sequence[str], *, exactly: bool) -> dict[str, Kind | None]:
    """Return which columns of the first file others must have."""
    return dict(kinds) if exactly else {name: kinds[name] for name in names}
