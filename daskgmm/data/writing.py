"""How every output comes to its place: whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from distributed.comm.core import CommClosedError

from daskgmm.errors import DaskgmmError, OutputError


def plain_path(output: str) -> str:
    """Return the path that a file:// URL means, which is written as local outputs are; any other output as it is."""
    return output.removeprefix("file://")


@contextmanager
def whole_or_nothing(output: str) -> Iterator[str]:
    """Provide a place to write to; it becomes `output` when the block has ended well, and is removed otherwise.

    A local output is written beside its place, under a name of its own, and renamed; what stood there before is removed
    last. At a URL there is no renaming: writers mark an output complete at the end.

    Raises
    ------
    OutputError
        The place cannot be written.
    """
    output = plain_path(output)
    if "://" in output:
        with _explained(output):
            yield output
        return
    place = os.path.abspath(output)
    beside = f"{_parts(place)}{uuid4().hex[:8]}"
    try:
        with _explained(output):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            yield beside
            _replace(place, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_parts(output: str) -> None:
    """Remove what this process began to write for `output`: tasks that were given up may have gone on writing."""
    if "://" not in plain_path(output):
        for part in glob.glob(f"{glob.escape(_parts(os.path.abspath(plain_path(output))))}*"):
            shutil.rmtree(part, ignore_errors=True)


def _parts(place: str) -> str:
    return f"{place}.part-{os.getpid()}-"


@contextmanager
def _explained(output: str) -> Iterator[None]:
    try:
        yield
    except (DaskgmmError, ConnectionError, TimeoutError, CommClosedError):
        raise  # bad rows, or a cluster that is gone: not the output's fault
    except (OSError, ImportError) as error:
        raise OutputError(f"the output must be writable; got {error} for {output}. Choose another place.") from error


def _replace(place: str, beside: str) -> None:
    """Put `beside` in its place; what was there comes back if that fails."""
    if not os.path.exists(place):
        os.rename(beside, place)
        return
    old = f"{place}.old-{uuid4().hex[:8]}"
    os.rename(place, old)
    try:
        os.rename(beside, place)
    except OSError:
        os.rename(old, place)
        raise
    shutil.rmtree(old) if os.path.isdir(old) else os.remove(old)
