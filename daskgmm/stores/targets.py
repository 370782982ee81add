"""What a kind of output is to the pass that writes predictions, and of what size the pieces are that tasks write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OutputError
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.rows import Rows

#: Bytes of a piece, which a task holds until it is full; fewer where the partition is smaller.
CHUNK_BYTES = 32 << 20
#: Name of the record, where it stands: of the attribute of an array or group, and of the metadata of a file.
ATTRIBUTE = "daskgmm"


class Target(Protocol):
    """Where tasks write; travels to them."""

    def piece_rows(self, first_row: int) -> int:
        """Return the rows of the piece that begins at a row: at that of a partition, or behind another piece.

        The last piece of a partition may be cut short by its end.
        """

    def write(self, first_row: int, values: NDArray[Any]) -> None:
        """Write a piece, whole and durably; the same again where a task is done again.

        Raises
        ------
        OutputError
            Another process writes to the same place.
        """


class Layout(Protocol):
    """A kind of output, as it is to be for some rows; what it is written to beside its place is given.

    Attributes
    ----------
    rows : Rows
        As the pass goes over them.
    held_bytes : int
        What a task holds: the piece being filled, and what writing it takes.
    """

    @property
    def rows(self) -> Rows: ...

    @property
    def held_bytes(self) -> int: ...

    def make(self, place: str, token: str) -> Target:
        """Make what tasks write to; it says from its first object on that it is not complete."""

    def found(self, place: str, token: str) -> Target | None:
        """Return the same where an earlier process has made it; None where it has not, or another one."""

    def complete(self, place: str, record: Mapping[str, Any]) -> None:
        """Note the record, which says that all is written."""


def stored_dtype(predictor: Predictor) -> np.dtype[Any]:
    """Return the dtype of predictions as they are written."""
    return np.dtype(np.int32) if predictor.what == "label" else np.dtype(np.float64)


def stored_row_bytes(predictor: Predictor) -> int:
    """Return the bytes of a row's prediction as it is written."""
    return stored_dtype(predictor).itemsize * (predictor.n_columns or 1)


def even_length(n_rows: int, row_bytes: int) -> int:
    """Return the rows of a piece of at most 32 MiB such that pieces of a partition are about equal."""
    return -(-n_rows // -(-n_rows * row_bytes // CHUNK_BYTES))


def chunk_length(partition_rows: int, row_bytes: int) -> int:
    """Return the rows of an output chunk: the largest divisor of a partition's rows that takes at most 32 MiB.

    Where no divisor within a factor of 16 does, the whole partition is one chunk.
    """
    least = min(partition_rows, -(-partition_rows * row_bytes // CHUNK_BYTES))
    for n_chunks in range(least, 16 * least + 1):
        if partition_rows % n_chunks == 0:
            return partition_rows // n_chunks
    return partition_rows


def incomplete_record(token: str | None) -> dict[str, Any]:
    """Return the record of an output that is not complete."""
    return {"complete": False} if token is None else {"complete": False, "token": token}


def refuse_others(found: Any, token: str, place: str) -> None:
    """Raise an OutputError for another output than is meant."""
    if found != token:
        raise OutputError(
            "the output",
            "be written by one process alone",
            f"another that writes to {place}",
            "Stop one of them, and run the other again.",
        )
