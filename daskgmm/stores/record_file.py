"""One record in one file, or in the group of a model: whole or absent, and known by its checksum."""

from __future__ import annotations

import hashlib
import os
from typing import Any, TypeVar

import numpy as np
import zarr

from daskgmm.errors import UNLIKE_WRITTEN, DataError, InputMissingError, OutputError
from daskgmm.mixture.record import Record
from daskgmm.sources.stamps import file_stamp
from daskgmm.stores.encoding import decode, encode
from daskgmm.stores.writing import whole_or_nothing

AnyRecord = TypeVar("AnyRecord", bound=Record)

_FIRST_LINE = b"daskgmm-record 1\n"


def write_record(place: str, value: Record) -> None:
    """Write a record to a file of this machine, in place of what is there."""
    content = encode(value)
    with whole_or_nothing(place) as beside, open(beside, "wb") as file:
        file.write(_FIRST_LINE + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_record(place: str, kind: type[AnyRecord], *, argument: str, what: str) -> AnyRecord:
    """Return the record in a file.

    Parameters
    ----------
    argument, what : str
        How messages call the file, and what it must hold.

    Raises
    ------
    InputMissingError
        Nothing is there, or it may not be read.
    DataError
        It is damaged, or holds something else.
    """
    try:
        file_stamp(place)  # (a pipe would never answer)
        with open(place, "rb") as file:
            content = file.read() if file.read(len(_FIRST_LINE)) == _FIRST_LINE else None
    except OSError as error:
        raise InputMissingError(
            argument, f"name {what}", f"{error.strerror} for {place}", "Check the path, or run what writes it."
        ) from error
    if content is None:
        raise DataError(argument, f"name {what}", f"another file, {place}", "Check the path.")
    checksum, _, content = content.partition(b"\n")
    return _decoded(content, checksum.decode("ascii", "replace"), kind, argument=argument, what=what, place=place)


def is_record(place: str) -> bool:
    """Return whether a file that `write_record` has written stands at a path, whatever it holds."""
    if not os.path.isfile(place):
        return False
    with open(place, "rb") as file:
        return file.read(len(_FIRST_LINE)) == _FIRST_LINE


def write_beside(group: zarr.Group, records: dict[str, Record]) -> dict[str, str]:
    """Write records as arrays of bytes of a group, and return the checksum of each."""
    checksums = {}
    for name, value in records.items():
        content = encode(value)
        array = group.create_array(
            name, shape=(len(content),), dtype="u1", chunks=(len(content),), compressors=None, overwrite=True
        )
        array.with_config({"write_empty_chunks": True})[...] = np.frombuffer(content, np.uint8)
        checksums[name] = hashlib.sha256(content).hexdigest()
    return checksums


def read_beside(place: str, name: str, checksum: str, kind: type[AnyRecord], *, argument: str, what: str) -> AnyRecord:
    """Return such a record; a DataError where it is damaged, or not there."""
    try:
        values: Any = zarr.open_group(place, mode="r")[name][...]  # type: ignore[index]
        content = np.asarray(values, dtype=np.uint8).tobytes()
    except Exception as error:  # whatever a damaged group makes its store raise
        raise DataError(argument, f"be {what}", f"{error!r} reading {place}", "Write it again.") from error
    return _decoded(content, checksum, kind, argument=argument, what=what, place=place)


def _decoded(
    content: bytes, checksum: str, kind: type[AnyRecord], *, argument: str, what: str, place: str
) -> AnyRecord:
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DataError(argument, "be whole", f"a damaged file, {place}", "Remove it, and run what writes it.")
    try:
        found = decode(content)
    except UNLIKE_WRITTEN as error:
        raise DataError(
            argument, "be of this version of daskgmm", f"{error!s:.200} in {place}", "Write it again."
        ) from error
    if not isinstance(found, kind):
        raise DataError(argument, f"name {what}", f"another file, {place}", "Check the path.")
    return found


def refuse_urls(place: str, *, argument: str) -> None:
    """Raise an OutputError for a place that is no path of this machine."""
    if "://" in place:
        raise OutputError(argument, "be a path", place, "Parts are files that all tasks see: name a shared folder.")
