"""Where files are, by path or URL: small enough to travel to a task, and free of secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from typing import Any

from daskgmm.sources.credentials import refuse_secrets, shown
from daskgmm.sources.remote import tags_of
from daskgmm.sources.stamps import file_stamp

#: File systems that live in one process: another one finds nothing there.
_OF_ONE_PROCESS = ("memory://",)


@dataclass(frozen=True)
class FileLocation:
    """A file, or a folder of files, that any process can find; credentials come from the environment there.

    Files are named relative to it: "" is the location itself.

    Attributes
    ----------
    root : str
        Absolute path, or URL without secrets.
    """

    root: str

    @classmethod
    def of(cls, location: str, *, argument: str) -> FileLocation:
        """Return the location that a path or URL names; nothing is opened.

        Raises
        ------
        OptionError
            A URL bears a password or a signature.
        """
        if location.startswith(("file://", "local://")):
            location = location.split("://", 1)[1]
        if "://" not in location and "::" not in location:
            return cls(os.path.abspath(os.path.expanduser(location)))
        refuse_secrets(location, argument=argument)
        return cls(location.rstrip("/"))

    @property
    def far(self) -> bool:
        return "://" in self.root or "::" in self.root

    @property
    def travels(self) -> bool:
        return not self.root.startswith(_OF_ONE_PROCESS)

    @property
    def label(self) -> str:
        return shown(self.root)

    def within(self, name: str) -> FileLocation:
        """Return the location of a file or folder in this folder, or of one elsewhere that has a whole name."""
        if "://" in name or os.path.isabs(name):
            return FileLocation.of(name, argument="X")
        return FileLocation(self.path_of(name.rstrip("/")))

    def path_of(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def system(self) -> tuple[Any, str]:
        """Return the file system of fsspec that has what is at a URL, and what that calls it."""
        from fsspec.core import url_to_fs

        system, path = url_to_fs(self.root)
        return system, path.rstrip("/")

    def stamps(self, names: Sequence[str]) -> list[str]:
        """Return size and time, or tag, of each file; missing: an empty string."""
        if not self.far:
            return [file_stamp(self.path_of(name)) for name in names]
        system, root = self.system()
        return tags_of(system, [f"{root}/{name}" if name else root for name in names])

    def read(self, name: str) -> str | None:
        """Return the text of a small file, None where it is not there."""
        try:
            if not self.far:
                with open(self.path_of(name), encoding="utf-8", errors="replace") as file:
                    return file.read()
            system, root = self.system()
            return bytes(system.cat_file(f"{root}/{name}")).decode("utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_file(self) -> bool:
        """Return whether a file is there (at a URL: whether it does not say that it is none)."""
        if not self.far:
            return os.path.exists(self.root) and not os.path.isdir(self.root)
        system, root = self.system()
        return bool(system.isfile(root))

    def files(self) -> list[tuple[str, int | None]]:
        """Return name and bytes, where they are known, of each file in a folder and its folders, in no order.

        On this machine none is visited twice by links, and no folder that is hidden.
        """
        if not self.far:
            return list(_files_below(self.root))
        system, root = self.system()
        system.invalidate_cache()
        return [_named(root, path, info) for path, info in system.find(root, detail=True).items()]

    def matches(self, pattern: str) -> list[tuple[str, int | None, bool]]:
        """Return name, bytes where they are known, and whether it is a file, of what a pattern matches, in no order.

        "**" stands for any folders.
        """
        if not self.far:
            found = glob(pattern, root_dir=self.root, recursive=True)
            return [(name, None, not os.path.isdir(self.path_of(name))) for name in found]
        system, root = self.system()
        system.invalidate_cache()
        matched = system.glob(f"{root}/{pattern}", detail=True)
        return [(*_named(root, path, info), info.get("type") != "directory") for path, info in matched.items()]


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the data: its name, or that of a folder around it, says so."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def _named(root: str, path: str, info: dict[str, Any]) -> tuple[str, int | None]:
    return path[len(root) :].strip("/"), None if info.get("size") is None else int(info["size"])


def _files_below(root: str) -> Iterator[tuple[str, int | None]]:
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root), None


def _raise(error: OSError) -> None:
    raise error
