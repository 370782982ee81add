"""The card of this process, by CuPy: what it is, its memory, its streams, and the loops that are compiled for it."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import ClusterError, DaskgmmError, MemoryLimitError
from daskgmm.kernels.block import Workspace
from daskgmm.kernels.cuda import N_THREADS
from daskgmm.kernels.cuda_rows import Card, Slot
from daskgmm.kernels.cuda_source import SOURCE
from daskgmm.passes.pools import n_workers

#: Blocks of threads at most, which then go on with further rows.
MOST_BLOCKS = 1 << 16
#: What CuPy, cuBLAS and the loops take of a card's memory, and what is left for others (a desktop, another process).
CONTEXT_BYTES = 1 << 30
#: What cuBLAS takes of it for each thread that multiplies: a thread has a handle of its own, with room to work in.
HANDLE_BYTES = 64 << 20
#: What is said of memory that is full, the card's or that which a card reads, beside CuPy's own error.
_FULL = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED")
#: One thread copies 8 to 10 GB/s into memory that a card reads, which takes up to 55 GB/s.
COPY_THREADS, COPY_BYTES = 4, 4 << 20

#: What to type where CuPy is missing.
INSTALL = "pip install 'daskgmm[cuda]'"


@dataclass(frozen=True)
class CardInfo:
    """What a process says of its card.

    Attributes
    ----------
    name : str
    versions : str
        Of CuPy, CUDA and the driver: bits depend on these.
    total_bytes, free_bytes : int
    identity : str
        Tells one card from another.
    n_threads : int
        Threads of the process, each with a partition of its own.
    """

    name: str
    versions: str
    total_bytes: int
    free_bytes: int
    identity: str
    n_threads: int = 1

    def __str__(self) -> str:
        return f"{self.name}, {self.versions}"


def card_here() -> CardInfo | str:
    """Return what there is of the card of this process, or why there is none, in words."""
    try:
        import cupy
    except ImportError as error:
        return f"no CuPy ({error})"
    try:
        _ = cupy.cuda.cublas, cupy.cuda.nvrtc.getVersion()  # (libraries of CUDA's, loaded when they are asked for)
    except (ImportError, RuntimeError) as error:
        return f"a CuPy that lacks libraries of CUDA ({str(error).partition(chr(10))[0]:.80})"
    runtime = cupy.cuda.runtime
    try:
        if not runtime.getDeviceCount():
            return "no card"
        properties = runtime.getDeviceProperties(runtime.getDevice())
        free, total = runtime.memGetInfo()
        # (What its pools hold of it is used again.)
        free += cupy.get_default_memory_pool().free_bytes()
        versions = f"CuPy {cupy.__version__}, CUDA {_version(runtime.runtimeGetVersion())}"
        driver = _version(runtime.driverGetVersion())
        # (Parts of one card, MIG, have one bus: each process then sees its part alone, by its name.)
        part = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        identity = f"{platform.node()} {cupy.cuda.Device().pci_bus_id} {part if part.startswith('MIG') else ''}".strip()
        name = properties["name"].decode()
        said = f"{versions}, driver for CUDA {driver}"
        return CardInfo(name, said, int(total), int(free), identity, n_workers())
    except runtime.CUDARuntimeError as error:
        return f"no card that CUDA can use ({error})"


def _version(number: int) -> str:
    """Return a version of CUDA in words: it is a number such as 12090."""
    return f"{number // 1000}.{number % 1000 // 10}"


def n_cards() -> int:
    """Return the cards that this process sees; 0 without CuPy."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # (no CuPy, no driver, or no card: the option's check says which)
        return 0


def take_card(number: int) -> None:
    """Have this process see one of its cards alone, before anything has asked for them."""
    seen = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[number % len(seen)] if seen else str(number)


def the_card() -> CudaCard:
    """Return the card of this process; a ClusterError where it has none."""
    with _making:
        return _made()


#: Threads may ask for the card at once, which is one for all of them.
_making = threading.Lock()


@cache
def _made() -> CudaCard:
    found = card_here()
    if isinstance(found, str):
        raise ClusterError(
            "A process with `device` cuda",
            "have CuPy and a card",
            found,
            f"Install CuPy where workers run ({INSTALL}), and start them on machines with cards.",
        )
    return CudaCard()


class CudaCard(Card):
    """CuPy's current device.

    One stream computes, in order, for all threads of the process; rows come on streams of their own.
    """

    def __init__(self) -> None:
        import cupy

        self.xp = cupy
        self.work = Workspace(cupy.empty)
        # (It waits for CUDA's default stream, and that for it: so what is done outside of `using` keeps its order too.)
        self.stream = cupy.cuda.Stream()
        # (Threads begin with the first card, whichever this is.)
        self._device = cupy.cuda.Device()
        self._lock = threading.RLock()
        self._module = cupy.RawModule(code=SOURCE, options=("-std=c++17",))
        self._loops: dict[str, Any] = {}

    @contextmanager
    def using(self) -> Iterator[None]:
        with self._lock, self._device, self.stream:
            yield

    def launch(self, loop: str, n_items: int, *arguments: Any) -> None:
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = self._module.get_function(loop)
        n_blocks = min(MOST_BLOCKS, -(-n_items // N_THREADS))
        if n_blocks:
            found((n_blocks,), (N_THREADS,), arguments)

    def array(self, values: NDArray[Any]) -> Any:
        return self.xp.asarray(np.ascontiguousarray(values))

    def host(self, values: Any) -> NDArray[Any]:
        found: NDArray[Any] = self.xp.asnumpy(values)
        return found

    @contextmanager
    def explained(self) -> Iterator[None]:
        cuda = self.xp.cuda
        lost = cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cuda.cublas.CUBLASError
        try:
            yield
        except (cuda.memory.OutOfMemoryError, *lost) as error:
            said = f"{error!s:.120}"
            if isinstance(error, lost) and not any(each in said for each in _FULL):
                raise DaskgmmError(
                    "The card", "compute", said, "Look at it (nvidia-smi), and run again; or take `device` cpu."
                ) from None
        else:
            return
        self.release()
        raise MemoryLimitError(
            "What a pass takes",
            "fit in the memory of the card",
            f"a card that is full ({said})",
            "See what else runs on it (nvidia-smi); take `device` cpu, or for a fit `cache` no or a smaller "
            "`n_components`.",
        )

    def slot(self, n_rows: int, n_columns: int, dtype: np.dtype[Any]) -> Slot:
        with self.using():
            return CudaSlot(self, n_rows, n_columns, dtype)

    def release(self) -> None:
        """Give what is not in use back to the card."""
        with self.using():
            self.work = Workspace(self.xp.empty)
            self.stream.synchronize()
            self.xp.get_default_memory_pool().free_all_blocks()


@cache
def _copiers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="daskgmm-copy")


class CudaSlot(Slot):
    """Pinned memory of this process, memory of the card, and a stream that copies one to the other."""

    def __init__(self, card: CudaCard, n_rows: int, n_columns: int, dtype: np.dtype[Any]) -> None:
        import cupyx

        self._card, cuda = card, card.xp.cuda
        self._pinned: NDArray[Any] = cupyx.empty_pinned((n_rows, n_columns), dtype)
        self._stream = cuda.Stream(non_blocking=True)
        self._come, self._free = (cuda.Event(disable_timing=True) for _ in range(2))
        self._room: Any = None
        self._block: Any = None
        self._sent: list[NDArray[Any]] = []

    def begin(self, n_rows: int, *, stays: bool) -> None:
        self.wait()  # (for what is in pinned memory; what computes on the last block goes on)
        with self._card.using():
            if stays:
                self._block = self._card.xp.empty((n_rows, self._pinned.shape[1]), self._pinned.dtype)
                # (Its memory may be that of an array that is still computed on.)
                self._free.record(self._card.stream)
            else:
                if self._room is None:
                    self._room = self._card.xp.empty(self._pinned.shape, self._pinned.dtype)
                    self._free.record(self._card.stream)
                self._block = self._room[:n_rows]
        self._stream.wait_event(self._free)

    def put(self, at: int, rows: NDArray[Any]) -> None:
        part = slice(at, at + len(rows))
        if not self._is_pinned(rows):
            copy_rows(self._pinned[part], rows)
            rows = self._pinned[part]
        self._block[part].set(rows, stream=self._stream)
        self._sent.append(rows)

    def _is_pinned(self, rows: NDArray[Any]) -> bool:
        """Return whether the card can take rows from where they are."""
        if rows.dtype != self._pinned.dtype or not rows.flags.c_contiguous:
            return False
        runtime = self._card.xp.cuda.runtime
        return bool(runtime.pointerGetAttributes(rows.ctypes.data).type == _PINNED)

    def end(self) -> Any:
        self._come.record(self._stream)
        self._card.stream.wait_event(self._come)
        return self._block

    def used(self) -> None:
        self._block = None
        self._free.record(self._card.stream)

    def wait(self) -> None:
        self._stream.synchronize()
        self._sent = []


#: cudaMemoryTypeHost.
_PINNED = 1


def copy_rows(out: NDArray[Any], rows: NDArray[Any]) -> None:
    """Copy rows, (n, n_features), converted to the dtype of `out`, by several threads where they are many."""
    if out.nbytes <= COPY_BYTES:
        np.copyto(out, rows, casting="unsafe")
        return
    step = -(-len(out) // COPY_THREADS)
    parts = [slice(low, low + step) for low in range(0, len(out), step)]
    for done in [_copiers().submit(np.copyto, out[part], rows[part], "unsafe") for part in parts]:
        done.result()
