"""Writing an output: it is at its place whole and durable, or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import uuid4

from distributed.comm.core import CommClosedError

from daskgmm.errors import DaskgmmError, OutputError
from daskgmm.sources.credentials import shown
from daskgmm.stores.storage import of_a_store, plain_path, remedy, sync_folder, sync_tree


@contextmanager
def whole_or_nothing(output: str) -> Iterator[str]:
    """Provide a place to write to; it becomes `output` when the block has ended well, and is removed otherwise.

    A local output is written beside its place, under a name of its own, and renamed; what stood there before is removed
    last, with what processes that were killed have left. A symbolic link stays: its target is written. At a URL there
    is no renaming: writers mark an output complete at the end.

    Raises
    ------
    OutputError
        The place cannot be written.
    """
    output = plain_path(output)
    if "://" in output:
        with explained(output):
            yield output
        return
    place = os.path.realpath(output)
    beside = unfinished_place(place, uuid4().hex)
    try:
        with explained(output):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            yield beside
            publish(beside, place)
    finally:
        _remove(beside)
    remove_unfinished(place)


def unfinished_place(output: str, token: str) -> str:
    """Return where an output is written that a later process may finish; at a URL in its place, marked incomplete."""
    output = plain_path(output)
    return output if "://" in output else f"{os.path.realpath(output)}{_UNFINISHED}{token}"


def remove_unfinished(output: str, *, after_seconds: Sequence[float] = (0.0,)) -> None:
    """Remove what is left of a local output that was not finished; again where tasks that were given up still write."""
    output = plain_path(output)
    for seconds in after_seconds if "://" not in output else ():
        time.sleep(seconds)
        for place in glob.glob(f"{glob.escape(os.path.realpath(output))}{_UNFINISHED}*"):
            _remove(place)


_UNFINISHED = ".unfinished-"


@contextmanager
def explained(output: str) -> Iterator[None]:
    """Say what it means for the user where an output cannot be written."""
    try:
        yield
    except (DaskgmmError, ConnectionError, TimeoutError, CommClosedError):
        raise  # bad rows, or a cluster that is gone: not the output's fault
    except Exception as error:
        if not of_a_store(error):
            raise
        raise OutputError(
            "the output",
            "be writable",
            f"{error} for {shown(output)}",
            f"To go on, {remedy(error)}, and run the same again (fit, select and predict go on where "
            "they were), or choose another place.",
        ) from error


def publish(beside: str, place: str) -> None:
    """Give a whole output its place, durably; what was there comes back if that fails."""
    place = os.path.realpath(place)
    sync_tree(beside)
    _replace(place, beside)
    sync_folder(os.path.dirname(place))


def _replace(place: str, beside: str) -> None:
    if not os.path.exists(place):
        os.rename(beside, place)
        return
    old = unfinished_place(place, f"old{uuid4().hex}")
    os.rename(place, old)
    try:
        os.rename(beside, place)
    except OSError:
        os.rename(old, place)
        raise
    _remove(old)


def _remove(place: str) -> None:
    """Remove a file or folder that nobody needs, as far as that goes."""
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            os.remove(place)
