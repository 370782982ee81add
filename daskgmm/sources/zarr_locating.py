"""Which location a path, a URL or an open node of Zarr has."""

from __future__ import annotations

import os
from typing import Any

import zarr
from zarr.storage import FsspecStore, LocalStore, ObjectStore, ZipStore

from daskgmm.sources.credentials import has_secret, refuse_secrets, without_secrets
from daskgmm.sources.references import CHAIN, references_at, references_location
from daskgmm.sources.zarr_location import SnapshotLocation, ZarrLocation

# These file systems live in one process, or wrap another one: no URL of theirs opens the same store elsewhere.
_NOT_BY_URL = frozenset({"memory", "dir", "zip", "tar"})


def locate(location: str, *, argument: str = "X") -> ZarrLocation:
    """Return the location that a path or URL names; nothing is opened."""
    if location.startswith(("file://", "local://")):
        location = location.split("://", 1)[1]
    if "://" not in location and "::" not in location:
        path = os.path.abspath(os.path.expanduser(location))
        file, inside = _zip_file(path)
        return ZarrLocation("local", path) if file is None else ZarrLocation("zip", file, inside)
    refuse_secrets(location, argument=argument)
    if location.startswith(CHAIN):
        return references_at(location.removeprefix(CHAIN))
    return ZarrLocation("fsspec", location)


def _zip_file(path: str) -> tuple[str | None, str]:
    """Return the zip file that a path names or leads into, None where there is none, and the path inside."""
    parts = path.split("/")
    for i, part in enumerate(parts, 1):
        file, inside = "/".join(parts[:i]), "/".join(parts[i:])
        if part.endswith(".zip") and not os.path.isdir(file) and (not inside or os.path.exists(file)):
            return file, inside
    return None, ""


def location_of(node: zarr.Array[Any] | zarr.Group) -> ZarrLocation | None:
    """Return the location of an open node, or None where another process could not open its store."""
    # Exact types: a subclass or wrapper may read in a way of its own, which a plain store would lose.
    store: Any = node.store_path.store
    if type(store) is LocalStore:
        return ZarrLocation("local", os.path.abspath(store.root), node.path)
    if type(store) is ZipStore:
        return ZarrLocation("zip", os.path.abspath(store.path), node.path)
    if type(store) is FsspecStore:
        return _fsspec_location(store, node.path)
    if type(store) is ObjectStore:
        return _obstore_location(store.store, node.path)
    if type(store).__module__.partition(".")[0] == "icechunk":
        return _snapshot(store, node.path)
    return None


def _snapshot(store: Any, path: str) -> ZarrLocation | None:
    """Return the location of a node of a read-only session; None of one that can write, whose rows may change."""
    if not store.read_only:
        return None
    return SnapshotLocation("icechunk", f"Icechunk snapshot {store.session.snapshot_id}", path, {}, store)


def _fsspec_location(store: Any, path: str) -> ZarrLocation | None:
    system = getattr(store.fs, "sync_fs", store.fs)
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if protocols & {"file", "local"}:
        return ZarrLocation("local", os.path.abspath(store.path), path)
    if "reference" in protocols:
        return references_location(system, store.path, path)
    options = system.storage_options
    if protocols & _NOT_BY_URL or {"fs", "fo", "target_protocol"} & options.keys():
        return None
    url = system.unstrip_protocol(store.path)
    return None if has_secret(url) else ZarrLocation("fsspec", url, path, without_secrets(options))


def _obstore_location(store: Any, path: str) -> ZarrLocation | None:
    kind = type(store).__name__
    if kind == "LocalStore":
        return None if store.prefix is None else ZarrLocation("local", os.path.abspath(store.prefix), path)
    if kind == "HTTPStore":
        url, config = store.url, {}
    elif kind in ("S3Store", "GCSStore", "AzureStore"):
        config = dict(store.config)
        scheme = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}[kind]
        bucket = config.pop("bucket", None) or config.pop("container_name", "")
        url = "/".join(part for part in (f"{scheme}://{bucket}", (store.prefix or "").strip("/")) if part)
    else:
        return None
    if has_secret(url):
        return None
    if store.client_options:
        config["client_options"] = dict(store.client_options)
    return ZarrLocation("obstore", url, path, without_secrets(config))
