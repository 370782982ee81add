"""A checksum of plain objects: equal for equal ones in any process on any machine."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def digest(value: Any) -> str:
    """Return a SHA-256 of numbers, strings, arrays, records, and whatever `__reduce__` takes apart into such."""
    sha = hashlib.sha256()
    _update(sha, value)
    return sha.hexdigest()


def _update(sha: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        sha.update(f"array {value.dtype.str} {value.shape} {value.flags.f_contiguous};".encode())
        # (Times have no buffer.)
        sha.update(np.ascontiguousarray(value).view(np.int64 if value.dtype.kind in "mM" else value.dtype).data)
    elif value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        sha.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, list | tuple):
        sha.update(f"{type(value).__name__} {len(value)};".encode())
        for item in value:
            _update(sha, item)
    elif isinstance(value, dict):
        _update(sha, sorted(value.items()))
    elif isinstance(value, type):
        sha.update(f"type {value.__module__}.{value.__qualname__};".encode())
    elif is_dataclass(value):
        # (Its fields alone: what it has computed of them and kept is nothing of its own.)
        _update(sha, (type(value), [getattr(value, field.name) for field in fields(value)]))
    else:
        make, arguments, *state = value.__reduce_ex__(4)
        _update(sha, (f"{make.__module__}.{make.__qualname__}", arguments, state[0] if state else None))
