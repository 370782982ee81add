"""Whether stored rows have changed: size and time of each file, or the tag of each object."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from daskgmm.errors import DataError
from daskgmm.sources.failures import Fallible


class Stamper(Fallible):
    """Tells the stored form of rows from another, without reading them. Picklable where the source travels."""

    @property
    def far(self) -> bool:
        """Whether it asks a service, so that many ask at once, instead of a disk of this machine."""
        return False

    def form(self) -> str:
        """Return a checksum of what says how rows are stored, asked for anew; "" where their own file says it."""
        return ""

    def stamp(self, start: int, stop: int) -> list[str]:
        """Return size and time, or the tag, of each file or object that holds some of these rows."""
        raise NotImplementedError(f"{type(self).__name__} must have a method stamp(start, stop)")


@dataclass(frozen=True)
class FileStamper(Stamper):
    """Size and time of the only file that holds all rows, or of all files of their folder."""

    path: str

    def form(self) -> str:
        return last_modified(self.path) or "" if os.path.isdir(self.path) else ""

    def stamp(self, start: int, stop: int) -> list[str]:
        return [] if os.path.isdir(self.path) else [file_stamp(self.path)]


def file_stamp(path: str) -> str:
    """Return size and time of a file, in nanoseconds; an empty string where there is none.

    Raises
    ------
    DataError
        It is no file but a pipe, a device or a folder, which reading might wait for, for ever.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if not stat.S_ISREG(found.st_mode):
        raise DataError("What is read", "be a file", f"{path}, which is none", "Put a file there, or remove it.")
    return f"{found.st_size} {found.st_mtime_ns}"


def last_modified(place: str) -> str | None:
    """Return when a file, or the newest one in a folder, was last written to, ISO 8601; None where nothing is.

    A checksum of the sizes and times of all stands beside it: a file that another one has replaced may be older.
    (About 10 s for a million files.)
    """
    files = [place]
    for folder, _, names in os.walk(place):
        files.extend(os.path.join(folder, name) for name in names)
    return newest_of({os.path.relpath(file, place): file for file in sorted(files)})


def newest_of(files: Mapping[str, str]) -> str | None:
    """Return the same of some files, by what they are called; None where none is there."""
    found = {name: os.stat(path) for name, path in files.items() if os.path.isfile(path)}
    if not found:
        return None
    newest = datetime.fromtimestamp(max(stats.st_mtime for stats in found.values()), UTC).isoformat()
    sha = hashlib.sha256()
    for name, stats in found.items():
        sha.update(f"{name} {stats.st_size} {stats.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return f"{newest} ({len(found):,} files, {sha.hexdigest()[:16]})" if len(found) > 1 else newest


def stored_bytes(places: Iterable[str]) -> int | None:
    """Return the bytes of all files at some paths, folders and patterns; None where one is no path of this machine."""
    total = 0
    for place in places:
        found = [place] if os.path.exists(place) else glob.glob(os.path.expanduser(place), recursive=True)
        if not found:
            return None
        for one in found:
            files = (
                [one] if os.path.isfile(one) else [os.path.join(d, n) for d, _, names in os.walk(one) for n in names]
            )
            total += sum(os.stat(file).st_size for file in files)
    return total
