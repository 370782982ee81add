"""Small files that survive a crash, in a folder or at a URL: each is written whole and once, or is not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from daskgmm.errors import DataError, OutputError
from daskgmm.sources.credentials import shown
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.stamps import file_stamp
from daskgmm.stores.holding import LOCK, held

#: Names of files that are being written begin with this: what a killed process leaves of them means nothing.
_UNFINISHED = ".unfinished-"


class Storage(Protocol):
    """A place for files that are never changed. All durable operations of a checkpoint go through it."""

    @property
    def place(self) -> str:
        """Path or URL."""

    def names(self) -> list[str]:
        """Return the names of the files, sorted; none where the place does not exist."""

    def read(self, name: str, *, most_bytes: int) -> bytes:
        """Return what a file holds; FileNotFoundError where there is none of that name.

        Raises
        ------
        DataError
            It holds more, of which nothing is read then, or is no file but a pipe, a device or a folder.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a new file, durably; FileExistsError where there is one of that name already.

        Raises
        ------
        OutputError
            It cannot be written: no file of that name is there then.
        """

    def replace(self, name: str, content: bytes) -> None:
        """Write a file whole, in place of the one of that name: for what tells of the moment, and is not made durable.

        Raises
        ------
        OutputError
            It cannot be written.
        """

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def clear(self) -> None:
        """Remove everything, and the place."""

    def held(self) -> AbstractContextManager[None]:
        """Provide it to this process alone; a HeldError where another one has it. At a URL nothing can be held."""


def plain_path(output: str) -> str:
    """Return the path that a file:// URL means, which is written as local outputs are; any other output as it is."""
    return output.removeprefix("file://")


def storage_at(place: str) -> Storage:
    """Return the storage at a path or URL; nothing is made before the first file is written."""
    place = plain_path(place)
    return _AtUrl(place) if "://" in place else _Folder(os.path.abspath(place))


@dataclass(frozen=True)
class _Folder:
    """A folder of this machine, or of a file system that is mounted on it."""

    place: str

    def names(self) -> list[str]:
        if os.path.isfile(self.place):
            raise OutputError(
                "the checkpoint's place", "be free", f"a file at {self.place}", "Remove it, or choose another output."
            )
        try:
            with _readable(self.place):
                found = os.listdir(self.place)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(_UNFINISHED) and name != LOCK)

    def read(self, name: str, *, most_bytes: int) -> bytes:
        path = os.path.join(self.place, name)
        file_stamp(path)  # (a pipe would never answer)
        with open(path, "rb") as file:
            _check_size(path, os.fstat(file.fileno()).st_size, most_bytes)
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        with _explained(self.place):
            if not os.path.isdir(self.place):
                with suppress(FileExistsError):  # of another process, a moment ago
                    os.mkdir(self.place)  # (not its parents: where they have gone, somebody has removed them)
                sync_folder(os.path.dirname(self.place))
            unfinished = os.path.join(self.place, f"{_UNFINISHED}{uuid4().hex}")
            try:
                with open(unfinished, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                _publish(unfinished, os.path.join(self.place, name))
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(unfinished)
            sync_folder(self.place)

    def replace(self, name: str, content: bytes) -> None:
        with _explained(self.place):
            with suppress(FileExistsError):
                os.mkdir(self.place)
            replace_file(os.path.join(self.place, name), content)

    def remove(self, name: str) -> None:
        with _explained(self.place), suppress(FileNotFoundError):
            os.unlink(os.path.join(self.place, name))

    def clear(self) -> None:
        with _explained(self.place), suppress(FileNotFoundError):
            names = os.listdir(self.place)
            for name in names:
                # (The lock goes last, with the folder, where it is given up. A status may just be written by a thread.)
                with suppress(FileNotFoundError):
                    if name != LOCK:
                        os.unlink(os.path.join(self.place, name))
            if LOCK not in names:
                os.rmdir(self.place)

    def held(self) -> AbstractContextManager[None]:
        return held(self.place)


@dataclass(frozen=True)
class _AtUrl:
    """An object store: an object appears whole, and a conditional put refuses to replace one.

    That the put is conditional is tested on S3, as moto serves it, and on no other service: where a file system of
    fsspec takes no notice of mode="create", two processes that write the same checkpoint are not told apart.
    """

    place: str

    def names(self) -> list[str]:
        try:
            with _readable(self.place):
                system, root = self._opened()
                system.invalidate_cache()
                found = system.ls(root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for name in (path.rstrip("/").rpartition("/")[2] for path in found) if name)

    def read(self, name: str, *, most_bytes: int) -> bytes:
        with _readable(self.place):
            system, root = self._opened()
            system.invalidate_cache()
            _check_size(f"{self.place}/{name}", system.size(f"{root}/{name}"), most_bytes)
            content: bytes = system.cat_file(f"{root}/{name}")
            return content

    def write(self, name: str, content: bytes) -> None:
        with _explained(self.place):
            system, root = self._opened()
            system.pipe_file(f"{root}/{name}", content, mode="create")

    def replace(self, name: str, content: bytes) -> None:
        with _explained(self.place):
            system, root = self._opened()
            system.pipe_file(f"{root}/{name}", content)

    def remove(self, name: str) -> None:
        with _explained(self.place), suppress(FileNotFoundError):
            system, root = self._opened()
            system.rm_file(f"{root}/{name}")

    def clear(self) -> None:
        for name in self.names():
            self.remove(name)

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _opened(self) -> tuple[Any, str]:
        """Return the file system, with credentials of the environment, and the path in it."""
        from fsspec.core import url_to_fs

        system, path = url_to_fs(self.place)
        return system, path.rstrip("/")


def _check_size(place: str, n_bytes: int | None, most_bytes: int) -> None:
    """Raise a DataError where a file is larger than what was written; a store that does not tell has None."""
    if n_bytes is not None and n_bytes > most_bytes:
        raise DataError(
            "a file of the checkpoint",
            f"have at most {most_bytes} bytes",
            f"{n_bytes} in {place}",
            "Remove the checkpoint to start again.",
        )


def _explained(place: str) -> AbstractContextManager[None]:
    """Say what it means that a checkpoint cannot be written; a file that is there already is for the caller."""
    return _told(
        FileExistsError,
        lambda error: OutputError(
            "the checkpoint",
            "be writable",
            f"{error} for {shown(place)}",
            f"What was written before stands: {remedy(error)}, and run the same command again.",
        ),
    )


def _readable(place: str) -> AbstractContextManager[None]:
    """Say what it means that a checkpoint cannot be read; a file that is not there is for the caller."""

    def unreadable(error: Exception) -> OutputError:
        restore = "Restore the permission" if isinstance(error, OSError) else remedy(error).capitalize()
        return OutputError(
            "the checkpoint",
            "be readable",
            f"{error} for {shown(place)}",
            f"{restore}, and run the same command again, or choose another output.",
        )

    return _told(FileNotFoundError, unreadable)


@contextmanager
def _told(lets: type[OSError], meaning: Callable[[Exception], OutputError]) -> Iterator[None]:
    try:
        yield
    except lets:
        raise
    except Exception as error:
        if not of_a_store(error):
            raise
        raise meaning(error) from error


def of_a_store(error: BaseException) -> bool:
    """Return whether an error is of a disk, a network or an object store: their classes have no common root."""
    return isinstance(error, OSError | ImportError) or refused(error) or unreachable(error)


def remedy(error: BaseException) -> str:
    """Return what to do where a store cannot be written, as the middle of a sentence."""
    if not isinstance(error, OSError | ImportError):
        return "check the network, the service and the credentials"
    return "make room, restore the permission or make the folder"


def replace_file(path: str, content: bytes) -> None:
    """Write a file in place of the one that is there: others see the one or the other. It is not made durable."""
    unfinished = os.path.join(os.path.dirname(path), f"{_UNFINISHED}{uuid4().hex}")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def _publish(unfinished: str, place: str) -> None:
    """Give a whole file its name, unless there is one of that name."""
    try:
        os.link(unfinished, place)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        if os.path.lexists(place):
            raise FileExistsError(place) from None
        os.rename(unfinished, place)


def sync_tree(place: str) -> None:
    """Make a file, or a folder and all in it, durable."""
    if not os.path.isdir(place):
        sync_file(place)
        return
    for folder, _, names in os.walk(place, topdown=False):
        for name in names:
            sync_file(os.path.join(folder, name))
        sync_folder(folder)


def sync_file(path: str) -> None:
    """Make what a file holds durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable; where the system cannot, they are as durable as it makes them."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
