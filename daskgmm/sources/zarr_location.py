"""Where a Zarr array is: small enough to travel to a task, complete enough to open it there, and free of secrets."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ObjectStore, ZipStore

from daskgmm.errors import DataError, InputMissingError, OptionError, verbatim
from daskgmm.sources.credentials import shown
from daskgmm.sources.remote import PACKAGES, brief, inaccessible, tags_of
from daskgmm.sources.stamps import file_stamp, last_modified

#: Files that zarr looks for where a node is opened.
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@dataclass(frozen=True)
class ZarrLocation:
    """How to open one node of a Zarr store in any process; credentials come from the environment there.

    Attributes
    ----------
    opener : str
        "local" (a directory), "zip" (a file), "fsspec" or "obstore" (a URL), "icechunk" (a snapshot).
    url : str
        Absolute path or URL of the store.
    path : str
        The node within the store; "" is its root.
    options : dict
        Options of the store that are no secrets.
    """

    opener: str
    url: str
    path: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The location in words: path or URL with the node's path, without user, password or signature."""
        return "/".join(part for part in (shown(self.url), self.path) if part)

    @property
    def code(self) -> str:
        """The expression of Python that makes a Dask array of the array that is there."""
        if self.opener == "zip":
            store = f"zarr.storage.ZipStore({self.url!r}, mode='r')"
            return f"dask.array.from_zarr(zarr.open_array({store}, path={self.path!r}, mode='r'))"
        return f'dask.array.from_zarr("{self.label}")'

    def modified(self) -> str | None:
        """Return when a local node was last written to, ISO 8601; None at a URL, which is not asked."""
        place = {"local": os.path.join(self.url, self.path), "zip": self.url}.get(self.opener)
        return None if place is None else last_modified(place)

    def stamps(self, keys: list[str]) -> list[str]:
        """Return size and time, or tag, of each key of the store, or of a whole zip file; missing: an empty string."""
        if self.opener == "local":
            return [file_stamp(os.path.join(self.url, key)) for key in keys]
        if self.opener == "zip":
            return [file_stamp(self.url)]
        if self.opener == "fsspec":
            from fsspec.core import url_to_fs

            system, root = url_to_fs(self.url, **self.options)
            return tags_of(system, [f"{root.rstrip('/')}/{key}" for key in keys])
        store: Any = self.store()
        return [_tag_by_obstore(store.store, key) for key in keys]

    def store(self) -> Store:
        """Return the store, opened for reading."""
        if self.opener == "local":
            return LocalStore(self.url, read_only=True)
        if self.opener == "zip":
            return ZipStore(self.url, mode="r", read_only=True)
        if self.opener == "fsspec":
            return FsspecStore.from_url(self.url, storage_options=dict(self.options), read_only=True)
        from obstore.store import from_url

        options = {k: v for k, v in self.options.items() if k != "client_options"}
        client: Any = self.options.get("client_options")
        return ObjectStore(from_url(self.url, config=options, client_options=client), read_only=True)

    def open(self, *, argument: str = "X") -> zarr.Array[Any] | zarr.Group:
        """Return the array or group that is there.

        Raises
        ------
        InputMissingError, OptionError, DataError
            Nothing is there; a package is missing; what is there is not Zarr.
        """
        try:
            if self.opener == "local":
                self.stamps([os.path.join(self.path, name) for name in _METADATA])  # (a pipe would never answer)
            return zarr.open(self.store(), path=self.path, mode="r")
        except DataError:
            raise
        except Exception as error:
            # One handler for the exceptions of every kind of storage: their classes have no common root.
            raise self.explained(error, argument) from error

    def explained(self, error: BaseException, argument: str) -> Exception:
        """Return the error of this package that says what opening or reading met, with a remedy."""
        where = self.label
        missing = missing_package(error, argument, where)
        if missing is not None and urlsplit(self.url).scheme not in PACKAGES:
            return missing
        url = "" if self.opener in ("local", "zip") else self.url
        if (found := inaccessible(error, argument, where, url=url)) is not None:
            return found
        if isinstance(error, FileNotFoundError):
            return self._missing(argument)
        return DataError(
            f"`{argument}`",
            "be a whole Zarr array or group",
            f"{where} ({brief(error)})",
            "Write it again, or correct its metadata.",
        )

    def _missing(self, argument: str) -> Exception:
        if self.opener == "zip" and os.path.exists(self.url) and (folders := _nodes_in(self.url)):
            return DataError(
                f"`{argument}`",
                "be a Zarr array or group",
                f"{self.label}, where there is none",
                f"The zip file has one in a folder: give the path {verbatim(os.path.join(self.url, folders[0]))}",
            )
        if self.opener in ("local", "zip") and os.path.exists(self.url):
            inside = "" if not self.path else f" at {self.path!r}"
            remedy = "Convert it, for example with dask.array's to_zarr, or give the path of the array. "
            remedy += "(What opens another suffix is registered first: daskgmm.register_source.)"
            if self.url.endswith(".json"):
                remedy = f"If it says where chunks are (kerchunk), give {verbatim(f'reference::{self.url}')}."
            elif self.opener == "local" and os.path.isdir(self.url):
                remedy += " A folder of Parquet files must hold some; others are named by a pattern: 'folder/*.h5'."
            return DataError(
                f"`{argument}`",
                "be a Zarr array or group, or a .npy file",
                f"{self.url}, which exists but is no Zarr store{inside}",
                remedy,
            )
        return InputMissingError(
            f"`{argument}`",
            "be an existing Zarr array or group",
            f"{self.label}, where there is none",
            "Check the path, and the credentials where it is private.",
        )


@dataclass(frozen=True)
class SnapshotLocation(ZarrLocation):
    """A node of a snapshot of Icechunk, which never changes: its session itself travels, some hundred bytes.

    Attributes
    ----------
    held : Store
        The store of the session.
    """

    held: Any = field(default=None, repr=False, compare=False)

    @property
    def code(self) -> str:
        return "dask.array.from_zarr(X)"

    def stamps(self, keys: list[str]) -> list[str]:
        store = self.store()
        return [self.url if sync(store.exists(key)) else "" for key in keys]

    def store(self) -> Store:
        found: Store = self.held
        return found


def _nodes_in(path: str) -> list[str]:
    """Return the folders of a zip file that are Zarr arrays or groups, the outermost first."""
    try:
        with zipfile.ZipFile(path) as file:
            found = {os.path.dirname(name) for name in file.namelist() if os.path.basename(name) in _METADATA}
    except (OSError, zipfile.BadZipFile):
        return []
    return sorted(found, key=lambda folder: (folder.count("/"), folder))


def _tag_by_obstore(store: Any, key: str) -> str:
    from obstore import head

    try:
        found = head(store, key)
    except FileNotFoundError:
        return ""
    return f"{found['size']} {found.get('e_tag')} {found.get('last_modified')}"


def missing_package(error: BaseException, argument: str, where: str) -> OptionError | None:
    """Return what to say where a codec or a package is missing in this process, None for any other error."""
    name = getattr(error, "name", None)
    codec = "UnknownCodec" in type(error).__name__ or "codec not available" in str(error)
    if not codec and not (isinstance(error, ImportError) and name):
        return None
    needed = "the package that brings this codec" if codec else f"the package that has {name}"
    return OptionError(
        f"`{argument}`",
        "be decoded by packages that are installed",
        f"{where} ({brief(error)})",
        f"It is not damaged: install {verbatim(needed)}, here and on the workers.",
    )
