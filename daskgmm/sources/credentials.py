"""Secrets in URLs and in the options of a store: refused, or kept out of what travels, is kept and is shown."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from daskgmm.errors import OptionError

_SECRET = re.compile(
    r"key|secret|token|passw|pwd|passphrase|credential|auth|connection_string|cookie|header|session|cert|^sas", re.I
)
#: Names in the query of a URL beside those: "sig" of Azure, "X-Amz-Signature", "X-Goog-Signature".
_SIGNATURE = re.compile(r"^sig$|signature", re.I)
_NO_OPTION = frozenset({"asynchronous", "loop"})
# A URL may be a chain, such as simplecache::http://host/x.zarr: each of its parts has users and queries of its own.
# (A password with a "/" in it ends the host too early: what stands before its "@" is no port.)
_USER = re.compile(r"//(?:[^/?#\s]*@|[^/?#@:\s]*:(?!:|\d*(?:[/?#]|$))[^@\s]*@)")
_QUERY = re.compile(r"[?#].*?(?=::[a-z][\w+.-]*://|$)", re.I | re.S)


def refuse_secrets(location: str, *, argument: str) -> None:
    """Raise an OptionError where a URL, or a part of a chain of URLs, bears a password or a signature."""
    if has_password(location):
        raise OptionError(
            f"`{argument}`",
            "be a URL without a password, which would travel with every task and stand in logs",
            shown(location),
            "Put the credentials into the environment of this process and of the workers.",
        )
    if _has_signature(location):
        raise OptionError(
            f"`{argument}`",
            "be a URL without a signature or token, which would travel with every task and stand in logs",
            shown(location),
            "Put credentials into the environment of this process and of the workers, and give the URL without them.",
        )


def has_secret(location: str) -> bool:
    """Return whether a URL, or a part of a chain of URLs, bears a password or a signature."""
    return has_password(location) or _has_signature(location)


def has_password(location: str) -> bool:
    """Return whether there is a password before the host of a URL, or of a part of a chain."""
    return "://" in location and any(":" in user for user in _USER.findall(location))


def _has_signature(location: str) -> bool:
    if "://" not in location:
        return False
    queries = (found[1:].partition("#") for found in _QUERY.findall(location))
    names = [name for query in queries for part in (query[0], query[2]) for name, _ in parse_qsl(part, True)]
    return any(_SECRET.search(name) or _SIGNATURE.search(name) for name in names)


def shown(url: str) -> str:
    """Return a path or URL as messages may show it: without user, password, query or fragment, in all parts."""
    return url if "://" not in url else _QUERY.sub("", _USER.sub("//", url))


def without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Return the plain options among `options`, recursively, whose names and values give no secret away."""
    kept = {}
    for name, value in options.items():
        name = str(name)
        if name in _NO_OPTION or (_SECRET.search(name) and value != "anon"):
            continue
        if isinstance(value, dict):
            value = without_secrets(value)
        elif not _is_plain(value):
            continue
        kept[name] = value
    return kept


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not has_secret(value)
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float)
