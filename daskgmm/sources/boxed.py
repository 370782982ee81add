"""Stored arrays of any number of dimensions: what a source asks of one, and who reads boxes of it in a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import dask
import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError
from daskgmm.sources.conventions import Beside
from daskgmm.sources.failures import Fallible
from daskgmm.sources.grid import Box
from daskgmm.sources.source import Reader
from daskgmm.sources.stamps import Stamper

#: What is done about a chunk that is not in the store: refuse it, or take the fill value of the array for its rows.
MISSING_CHUNKS = ("error", "fill")


class BoxedReader(Reader, Stamper):
    """Reads rows of an array, and any box of it."""

    def read_box(self, box: Box) -> NDArray[Any]:
        """Return the numbers of a box, from a range of each dimension, as they are meant.

        It begins at borders of chunks, and ends at such or with the array.

        Raises
        ------
        DataError
            A chunk cannot be decoded, or is not there.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method read_box(box)")

    def stamp_box(self, box: Box) -> list[str]:
        """Return size and time, or the tag, of what is stored of a box."""
        raise NotImplementedError(f"{type(self).__name__} must have a method stamp_box(box)")

    def explain_box(self, error: Exception, box: Box, start: int, stop: int, *, by_rows: bool = True) -> Exception:
        """Return the error that says what it means that a box cannot be read, of which rows start to stop come.

        `by_rows` says whether the rows are those of the array.
        """
        return self.explain(error, start, stop)


@dataclass(frozen=True)
class BoxReader(Fallible):
    """One box of an array, from which rows come: what is asked for it, and again, and who explains why it fails."""

    reader: BoxedReader
    box: Box

    def __str__(self) -> str:
        return str(self.reader)

    def read(self) -> NDArray[Any]:
        return self.reader.read_box(self.box)

    def may_pass(self, error: Exception) -> bool:
        return self.reader.may_pass(error)

    def explain(self, error: Exception, start: int, stop: int) -> Exception:
        return self.reader.explain_box(error, self.box, start, stop, by_rows=False)


class StoredArray(Protocol):
    """What is known of an array before anything is read.

    Attributes
    ----------
    label, name : str
        How messages name it, with its place and without.
    shape, chunks : tuple of int
        `chunks` is the smallest piece that is decoded on its own.
    dtype : dtype
        Of its numbers, as they are meant.
    dimensions : sequence of str
        Their names, none where they have none.
    travels : bool
        Whether a task in another process can read it.
    place : str
        Path or URL of what holds it: nothing may be written to it.
    """

    label: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    beside: Beside

    @property
    def chunks(self) -> tuple[int, ...]: ...

    @property
    def dimensions(self) -> Any: ...

    @property
    def travels(self) -> bool: ...

    @property
    def place(self) -> str: ...

    @property
    def reader(self) -> BoxedReader: ...

    def read_bytes(self, n_bytes: int) -> int:
        """Return the bytes that reading so many decoded bytes holds, these included."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what tells it from another array, beside its shape and dtype."""
        ...


def refuse_more_dimensions(shape: tuple[int, ...], argument: str, label: str) -> None:
    """Raise a DataError for an array of more than two dimensions, which is no rows x features."""
    if len(shape) > 2:
        raise DataError(
            f"`{argument}`",
            "have shape (n_rows, n_features) or (n_rows,)",
            f"{len(shape)} dimensions, shape {tuple(shape)}, in {label}",
            "Name it by `columns` of its group, so that each point of its grid is a row; or name the dimension along "
            "which its features lie by `features`.",
        )


def whole_chunk_bytes(stored: StoredArray, edges: NDArray[np.int64], n_features: int) -> int:
    """Return the decoded bytes of the chunks between two edges at most: whole, also beyond the last row or column."""
    height, width = (*stored.chunks, 1)[:2]
    rows = height * -(-int(np.diff(edges).max()) // height)
    return int(rows * width * -(-n_features // width) * stored.dtype.itemsize)


def checked_missing_chunks(missing_chunks: str | None) -> str:
    """Return what is done about what is not stored: what was asked for, or Dask's configuration says."""
    asked = dask.config.get("daskgmm.missing-chunks", "error") if missing_chunks is None else missing_chunks
    if asked not in MISSING_CHUNKS:
        raise OptionError("`missing_chunks`", f"be one of {', '.join(MISSING_CHUNKS)}", repr(asked))
    return str(asked)
