"""Where a Zarr store of references is: a file (of kerchunk, VirtualiZarr) that says where in others the chunks are."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore

from daskgmm.sources.credentials import shown, without_secrets
from daskgmm.sources.digest import digest
from daskgmm.sources.remote import tags_of
from daskgmm.sources.stamps import file_stamp
from daskgmm.sources.zarr_location import ZarrLocation

#: How fsspec chains a file of references, on the command line as well: reference::s3://bucket/references.json
CHAIN = "reference::"


@dataclass(frozen=True)
class ReferencesLocation(ZarrLocation):
    """A node of such a store: `url` is the file of references, `options` are fsspec's; other files have the chunks."""

    root: str = ""

    @property
    def label(self) -> str:
        return "/".join(part for part in (CHAIN + shown(self.url), self.path) if part)

    @property
    def code(self) -> str:
        return "dask.array.from_zarr(X)"

    def stamps(self, keys: list[str]) -> list[str]:
        """Return which bytes each key is, with size and time, or tag, of their file; missing: an empty string."""
        system = self._system(asynchronous=False)
        entries = [system.references.get(key) for key in keys]
        files = sorted({entry[0] or "" for entry in entries if isinstance(entry, list | tuple)})
        tags = dict(zip(files, _tags(system, files), strict=True))
        found = []
        for entry in entries:
            if isinstance(entry, list | tuple):
                tag = tags[entry[0] or ""]
                found.append(" ".join(map(str, (tag, *entry[1:]))) if tag else "")
            else:  # (bytes in the file of references itself)
                found.append("" if entry is None else digest(str(entry)))
        return found

    def store(self) -> Store:
        return FsspecStore(self._system(asynchronous=True), read_only=True, path=self.root)

    def _system(self, *, asynchronous: bool) -> Any:
        """Return the file system: fsspec wants the one that it rests on to be as asynchronous as itself."""
        from fsspec import filesystem

        below = {**self.options.get("remote_options", {}), "asynchronous": asynchronous}
        options = {**self.options, "fo": self.url, "remote_options": below}
        return filesystem("reference", asynchronous=asynchronous, **options)


def _tags(system: Any, files: list[str]) -> list[str]:
    """Return size and time, or tag, of files that references name, by URL or path; those at one place many at once."""
    from fsspec.core import split_protocol

    found, by_system = dict.fromkeys(files, ""), dict[str | None, list[str]]()
    for file in files:
        protocol, _ = split_protocol(file)
        by_system.setdefault(protocol if protocol in system.fss else None, []).append(file)
    for protocol, own in by_system.items():
        below = getattr(system.fss[protocol], "sync_fs", system.fss[protocol])
        paths = [below._strip_protocol(file) for file in own]
        found.update(zip(own, map(file_stamp, paths) if _is_local(below) else tags_of(below, paths), strict=True))
    return list(found.values())


def _is_local(system: Any) -> bool:
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def references_at(file: str) -> ReferencesLocation:
    """Return the location of what a path or URL of a file of references opens."""
    return ReferencesLocation("references", file if "://" in file or "::" in file else os.path.abspath(file))


def references_location(system: Any, root: str, path: str) -> ZarrLocation | None:
    """Return the location of a node of an open store of references; None of references that this process alone has."""
    options = without_secrets(system.storage_options)
    file = options.pop("fo", None)
    if not isinstance(file, str):
        return None
    return replace(references_at(file), root=root.strip("/"), path=path, options=options)
