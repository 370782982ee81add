"""Freed memory that a worker uses again for the next chunk, although its nanny has malloc return it at once."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

#: Allocations below this come from the heap (as many bytes as glibc allows).
MMAP_BYTES = 32 << 20
#: Free bytes that stay on it for each thread: four chunks, within these bounds. Several threads read a run of small
#: chunks, and what each once had adds up: with 64 MiB for chunks of 2 MiB the peak of a worker rose from 211 MiB in a
#: pass over 1 GiB to 250 MiB over 32 GiB.
KEPT_CHUNKS = 4
LEAST_KEPT_BYTES, MOST_KEPT_BYTES = 8 << 20, 64 << 20
_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_DEFAULT_MMAP_BYTES = 128 << 10


class ReusedHeap:
    """A setting of malloc that the first holder makes and the last one undoes.

    A nanny starts its worker with MALLOC_TRIM_THRESHOLD_, which also stops glibc from learning how large the
    allocations are that come again and again. Each chunk, encoded and decoded, is then fresh memory, whose first touch
    costs more than the decoding: on one core reading with zarr takes 1.7 times as long as it must from a zstd store,
    3.3 times from a blosc-lz4 or an uncompressed one. Where that variable is not set, nothing is done: glibc learns.
    """

    def __init__(self) -> None:
        self._lock, self._holders, self._kept_bytes = threading.Lock(), 0, 0

    def take(self) -> None:
        """Keep free memory for what is allocated next."""
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._kept_bytes = 0
                self._keep(LEAST_KEPT_BYTES)

    def expect(self, chunk_bytes: int) -> None:
        """Keep free memory for chunks of so many decoded bytes; nothing is done where nobody holds the heap."""
        with self._lock:
            if self._holders:
                self._keep(min(KEPT_CHUNKS * chunk_bytes, MOST_KEPT_BYTES))

    def _keep(self, n_bytes: int) -> None:
        before = _thresholds() if n_bytes > self._kept_bytes else None
        if before is not None:
            self._kept_bytes = n_bytes
            _set(max(before[0], n_bytes), max(before[1], MMAP_BYTES))

    def release(self) -> None:
        """Restore what was there before, unless another holder is left, and give free memory back."""
        with self._lock:
            self._holders -= 1
            before = _thresholds()
            if self._holders == 0 and before is not None:
                _set(*before)
                give_back()


def give_back() -> None:
    """Give free memory back to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _thresholds() -> tuple[int, int] | None:
    """Return the bytes at which malloc trims and maps, as the environment has fixed them; None where it has not."""
    if platform.libc_ver()[0] != "glibc" or "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return None
    try:
        trim = int(os.environ["MALLOC_TRIM_THRESHOLD_"])
        return trim, int(os.environ.get("MALLOC_MMAP_THRESHOLD_", _DEFAULT_MMAP_BYTES))
    except ValueError:
        return None


def _set(trim_bytes: int, mmap_bytes: int) -> None:
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM, trim_bytes)
    library.mallopt(_MMAP, mmap_bytes)


#: The allocator belongs to the process, and so does this.
reused_heap = ReusedHeap()
