"""Files and objects at URLs: what tells one version from another, and what it means that they cannot be had."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from daskgmm.errors import InputMissingError, OptionError
from daskgmm.sources.failures import refused, unreachable

#: The package that opens URLs of a scheme.
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
#: Requests under way at once.
_AT_ONCE = 64


def tags_of(system: Any, paths: Sequence[str]) -> list[str]:
    """Return what a file system of fsspec says of each path, many at once where it can; missing: an empty string."""
    system.invalidate_cache()
    if not system.async_impl:
        return [_tag(_info_or_missing(system, path)) for path in paths]
    from fsspec.asyn import sync

    async def asked() -> list[Any]:
        found: list[Any] = []
        for i in range(0, len(paths), _AT_ONCE):
            asking = (system._info(path) for path in paths[i : i + _AT_ONCE])
            found += await asyncio.gather(*asking, return_exceptions=True)
        return found

    found = sync(system.loop, asked)
    for answer in found:
        if isinstance(answer, BaseException) and not isinstance(answer, FileNotFoundError):
            raise answer
    return ["" if isinstance(answer, FileNotFoundError) else _tag(answer) for answer in found]


def _info_or_missing(system: Any, path: str) -> dict[str, Any]:
    try:
        return dict(system.info(path))
    except FileNotFoundError:
        return {}


def _tag(info: dict[str, Any]) -> str:
    """Return what tells one version of an object from another, of what its store says."""
    return " ".join(str(info[name]) for name in ("size", "ETag", "etag", "LastModified", "mtime") if info.get(name))


def inaccessible(error: BaseException, argument: str, where: str, *, url: str) -> Exception | None:
    """Return the error that says why what is at a path or URL cannot be had; None where it is there, or is missing."""
    protocol = urlsplit(url).scheme
    if isinstance(error, ImportError) or "Protocol not known" in str(error):
        package = PACKAGES.get(protocol, "the fsspec package for it")
        return OptionError(
            f"`{argument}`",
            "be at a URL that the installed packages can open",
            f"{where} ({error})",
            f"Install {package} here and on the workers, for example: pip install {package}.",
        )
    if refused(error) and not protocol:
        return InputMissingError(f"`{argument}`", "be readable", f"{where} ({brief(error)})", "Check its permissions.")
    if refused(error):
        return InputMissingError(
            f"`{argument}`",
            "be readable",
            f"{where}, to which access was refused ({brief(error)})",
            "Put credentials into the environment here and on the workers: daskgmm sends none with its tasks.",
        )
    if unreachable(error) and not isinstance(error, FileNotFoundError):
        return InputMissingError(
            f"`{argument}`", "be reachable", f"{where} ({brief(error)})", "Check the address and the network."
        )
    return None


def brief(error: BaseException) -> str:
    """Return the first line of an error, no longer than a sentence; URLs in it lose their signatures."""
    line = (str(error).splitlines() or [""])[0][:200]
    return re.sub(r"(\w+://)(?:[^\s/@]*@)?([^\s?'\"]*)(?:\?[^\s'\"]*)?", r"\1\2", f"{type(error).__name__}: {line}")
