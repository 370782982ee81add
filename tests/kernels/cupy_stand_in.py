"""As much of CuPy as `passes/card.py` calls, for machines without a card: NumPy's arrays, and loops on the host.

What CuPy refuses is refused: NumPy's arrays among its own, copies of another shape or dtype, launches of another form.
Copies on a stream are put off until something waits for them, so what reads rows before they have come reads others.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.kernels.host_card import SOURCE, OnHost, _given, _Namespace, library


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CUBLASError(RuntimeError):
    pass


class Array(OnHost):
    """An array with CuPy's way of being filled from the host."""

    def set(self, arr, stream):
        assert type(arr) is np.ndarray
        assert (arr.dtype, arr.shape) == (self.dtype, self.shape)
        assert self.flags.c_contiguous
        stream.waiting.append(lambda: np.copyto(np.asarray(self), arr))


class Stream:
    def __init__(self, *, non_blocking=False):
        self.waiting = []

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        pass

    def synchronize(self, upto=None):
        for call in self.waiting[:upto]:
            if call is not None:
                call()
        self.waiting[:upto] = [None] * len(self.waiting[:upto])

    def wait_event(self, event):
        if event.at is not None:
            stream, upto = event.at
            stream.synchronize(upto)


class Event:
    def __init__(self, *, disable_timing):
        self.at = None

    def record(self, stream):
        self.at = stream, len(stream.waiting)


class Device:
    pci_bus_id = "0000:01:00.0"

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        pass


class RawModule:
    def __init__(self, *, code, options):
        assert code == SOURCE
        assert all(isinstance(each, str) for each in options)

    def get_function(self, name):
        def launched(grid, block, arguments):
            (n_blocks,), (n_threads,) = grid, block
            assert type(n_blocks) is int
            assert 0 < n_blocks < 1 << 31
            assert 0 < n_threads <= 1024
            getattr(library(), name)(*_given(name, arguments))

        return launched


class StandIn(_Namespace):
    """The module `cupy`; `n_cards`, and what fails when libraries are looked for, may be changed."""

    __version__ = "14.2.0"

    def __init__(self):
        self.n_cards, self.failure, self.pinned = 1, None, []
        self.RawModule = RawModule
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: self.n_cards, getDevice=lambda: 0,
            getDeviceProperties=lambda number: {"name": b"Stand-in"}, memGetInfo=lambda: (1 << 33, 1 << 34),
            runtimeGetVersion=lambda: 13010, driverGetVersion=lambda: 13000, pointerGetAttributes=self._attributes,
        )  # fmt: skip
        self.cuda = SimpleNamespace(
            Stream=Stream, Event=Event, Device=Device, runtime=runtime,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError), cublas=SimpleNamespace(CUBLASError=CUBLASError),
            nvrtc=SimpleNamespace(getVersion=self._version),
        )  # fmt: skip
        self.n_freed = 0

    def _version(self):
        if self.failure is not None:
            raise self.failure
        return 13, 1

    def _attributes(self, address):
        is_pinned = any(each.ctypes.data <= address < each.ctypes.data + each.nbytes for each in self.pinned)
        return SimpleNamespace(type=int(is_pinned))

    def get_default_memory_pool(self):
        def free():
            self.n_freed += 1

        return SimpleNamespace(free_bytes=lambda: 1 << 20, free_all_blocks=free)

    def empty(self, shape, dtype=float):
        return np.empty(shape, dtype).view(Array)

    def asarray(self, values):
        assert type(values) is np.ndarray
        return np.array(values, order="C").view(Array)

    def asnumpy(self, values):
        assert isinstance(values, OnHost)
        return np.array(values)

    def empty_pinned(self, shape, dtype):
        self.pinned.append(np.empty(shape, dtype))
        return self.pinned[-1]

    @classmethod
    def put_in_place(cls, monkeypatch):
        """Have this process import it as CuPy."""
        cupy, cupyx = cls(), ModuleType("cupyx")
        cupyx.empty_pinned = cupy.empty_pinned
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupyx", cupyx)
        return cupy
