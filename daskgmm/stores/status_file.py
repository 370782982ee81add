"""The record of how far a command is, beside its checkpoint: a small file that is replaced now and then, never torn."""

from __future__ import annotations

from contextlib import suppress

from daskgmm.errors import OutputError
from daskgmm.stores.storage import storage_at

#: Its name in the place of a checkpoint.
STATUS_FILE = "status.json"
#: Bytes of it at most: a result may have a table of many models.
_MOST_BYTES = 16 << 20


def checkpoint_place(output: str) -> str:
    """Return where the checkpoint of an output is, unless another place was named: beside it."""
    return f"{output.rstrip('/')}.checkpoint"


def write_status(place: str, content: bytes) -> None:
    """Write the record in the place of a checkpoint, in place of the one before; an OutputError where it cannot be."""
    storage_at(place).replace(STATUS_FILE, content)


def read_status(place: str) -> bytes | None:
    """Return the record in the place of a checkpoint; None where there is none.

    Raises
    ------
    OutputError
        It cannot be read.
    """
    with suppress(FileNotFoundError):
        return storage_at(place).read(STATUS_FILE, most_bytes=_MOST_BYTES)
    return None


def remove_status(place: str) -> None:
    """Remove the record, as far as that goes, and the place if nothing else is in it."""
    storage = storage_at(place)
    with suppress(OutputError):
        storage.remove(STATUS_FILE)
        if not storage.names():
            storage.clear()
