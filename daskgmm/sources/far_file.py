"""A file at a URL, of which the parts that will be needed are fetched at once and the others when they are read."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from daskgmm.errors import DataError

#: Bytes between two parts that are fetched rather than left out by a further request.
_GAP_BYTES = 64 << 10


class FarFile(io.RawIOBase):
    """The bytes of an object, for reading; of one thread.

    Parameters
    ----------
    system : fsspec file system
    path : str
        What the file system calls it.
    n_bytes : int
        Its length.
    label : str
        How messages name it.
    """

    def __init__(self, system: Any, path: str, n_bytes: int, label: str) -> None:
        super().__init__()
        self._system, self._path, self._n_bytes, self._label = system, path, n_bytes, label
        self._at = 0
        self._starts: list[int] = []
        self._parts: list[bytes] = []

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch the bytes of some ranges at the same time, and let those go that were fetched before."""
        self._starts, self._parts = [], []
        merged: list[list[int]] = []
        for start, stop in sorted(ranges):
            if merged and start - merged[-1][1] <= _GAP_BYTES:
                merged[-1][1] = max(merged[-1][1], stop)
            else:
                merged.append([start, stop])
        starts, stops = [a for a, _ in merged], [b for _, b in merged]
        found = self._system.cat_ranges([self._path] * len(merged), starts, stops, on_error="return")
        for start, stop, part in zip(starts, stops, found, strict=True):
            if isinstance(part, BaseException):
                raise part
            self._parts.append(self._whole(part, start, stop))
        self._starts = starts

    def read(self, size: int | None = -1, /) -> bytes:
        stop = self._n_bytes if size is None or size < 0 else min(self._at + size, self._n_bytes)
        start, self._at = self._at, max(self._at, stop)
        if stop <= start:
            return b""
        i = bisect_right(self._starts, start) - 1
        if i >= 0 and stop <= self._starts[i] + len(self._parts[i]):
            return self._parts[i][start - self._starts[i] : stop - self._starts[i]]
        return self._whole(self._system.cat_file(self._path, start=start, end=stop), start, stop)

    def _whole(self, part: bytes, start: int, stop: int) -> bytes:
        if len(part) != stop - start:
            raise DataError(
                "What is read",
                "be as long as it was, on a server that answers byte ranges",
                f"{len(part)} bytes for bytes {start} to {stop} of {self._label}",
                "Start again where somebody has written to it; else copy it to a store that has byte ranges.",
            )
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._n_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
