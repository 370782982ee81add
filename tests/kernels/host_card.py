"""A card for machines without one: NumPy's arrays, and the loops of `cuda_source.py` compiled as C++ for the host."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from daskgmm.kernels.block import Workspace
from daskgmm.kernels.cuda_rows import Card, Slot
from daskgmm.kernels.cuda_source import SOURCE
from daskgmm.passes.card import copy_rows

#: One thread of one block, which does all rows, as each loop goes on to the end from wherever it begins.
SHIM = """
#include <cmath>
using std::exp; using std::log; using std::log1p;
#define __global__
#define __shared__ static thread_local
#define __syncthreads()
#define __launch_bounds__(n)
static const struct { int x; } blockIdx = {0}, threadIdx = {0}, blockDim = {1}, gridDim = {1};
"""
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")


@cache
def library() -> ctypes.CDLL:
    """Return the loops, compiled once for each text of them; skip the test where no compiler is."""
    if COMPILER is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) is here, which the loops of a card are tested with")
    text = SHIM + SOURCE
    name = f"daskgmm-loops-{os.getuid()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    built = Path(tempfile.gettempdir(), f"{name}.so")
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder, "loops.cpp"), Path(folder, "loops.so")
            source.write_text(text)
            flags = ("-O2", "-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror", "-shared", "-fPIC")
            subprocess.run([COMPILER, *flags, str(source), "-o", str(made)], check=True)
            shutil.copy(made, built.with_suffix(f".{os.getpid()}"))
            built.with_suffix(f".{os.getpid()}").rename(built)
    return ctypes.CDLL(str(built))


_OF_C = {np.int32: ctypes.c_int, np.int64: ctypes.c_longlong, np.float64: ctypes.c_double}


class HostCard(Card):
    """NumPy in the place of CuPy."""

    xp = np

    def __init__(self):
        library()
        self.work, self._lock = Workspace(), threading.RLock()

    def using(self):
        return self._lock

    def launch(self, loop, n_items, *arguments):
        given = [
            ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else _OF_C[type(each)](each)
            for each in arguments
        ]
        getattr(library(), loop)(*given)

    def array(self, values):
        return np.array(values, order="C")

    def host(self, values):
        return np.array(values)

    def explained(self):
        return nullcontext()

    def slot(self, n_rows, n_columns, dtype):
        return HostSlot(np.empty((n_rows, n_columns), dtype))


class HostSlot(Slot):
    """Rows are there at once; but memory that is filled again is not what it was."""

    def __init__(self, room):
        self._room = room

    def begin(self, n_rows, *, stays):
        self._block = np.empty_like(self._room[:n_rows]) if stays else self._room[:n_rows]

    def put(self, at, rows):
        copy_rows(self._block[at : at + len(rows)], rows)

    def end(self):
        return self._block

    def used(self):
        self._room.view(np.uint8)[...] = 0xFF

    def wait(self):
        pass
