"""A card for machines without one: NumPy's arrays, and the loops of `cuda_source.py` compiled as C++ for the host."""

import ctypes
import hashlib
import os
import re
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
from daskgmm.kernels.cuda_source import DTYPES, SOURCE
from daskgmm.passes.card import copy_rows

#: One thread of one block, which does all rows, as each loop goes on to the end from wherever it begins.
ALONE = """
#define __shared__ static thread_local
#define __syncthreads()
static const struct { int x; } blockIdx = {0}, threadIdx = {0}, blockDim = {1}, gridDim = {1};
"""
#: Some threads of some blocks, as on a card: each calls the loop once it has said which one it is.
SIDE_BY_SIDE = """
#include <pthread.h>
#define __shared__ static
#define __syncthreads() pthread_barrier_wait(&all)
static thread_local struct { unsigned int x; } blockIdx, threadIdx;
static struct { unsigned int x; } blockDim, gridDim;
static pthread_barrier_t all;
extern "C" void launch(int n_blocks, int n_threads)
{
    gridDim.x = n_blocks;
    blockDim.x = n_threads;
    pthread_barrier_init(&all, nullptr, n_threads);
}
extern "C" void begin(int block, int thread) { blockIdx.x = block; threadIdx.x = thread; }
extern "C" void done() { pthread_barrier_destroy(&all); }
"""
SHIM = """
#include <cmath>
#include <cstring>
using std::exp; using std::log; using std::log1p;
#define __global__
#define __device__
"""
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")


@cache
def library(threads: str = ALONE) -> ctypes.CDLL:
    """Return the loops, compiled once for each text of them; skip the test where no compiler is."""
    if COMPILER is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) is here, which the loops of a card are tested with")
    text = SHIM + threads + SOURCE
    name = f"daskgmm-loops-{os.getuid()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    built = Path(tempfile.gettempdir(), f"{name}.so")
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder, "loops.cpp"), Path(folder, "loops.so")
            source.write_text(text)
            flags = (
                "-O2",
                "-std=c++17",
                "-Wall",
                "-Wextra",
                "-Wno-unknown-pragmas",
                "-Werror",
                "-shared",
                "-fPIC",
                "-pthread",
            )
            subprocess.run([COMPILER, *flags, str(source), "-o", str(made)], check=True)
            shutil.copy(made, built.with_suffix(f".{os.getpid()}"))
            built.with_suffix(f".{os.getpid()}").rename(built)
    return ctypes.CDLL(str(built))


_OF_C = {np.int32: ctypes.c_int, np.int64: ctypes.c_longlong, np.float64: ctypes.c_double}


@cache
def parameters(loop: str) -> tuple[tuple[type, bool], ...]:
    """Return the type of each parameter of a loop, as NumPy calls it, and whether it is an array."""
    of_numpy = {of_c: np.dtype(name).type for name, of_c in DTYPES.items()}
    (found,) = re.findall(rf"__global__ void {loop}\(([^)]*)\)", SOURCE)
    types = [each.strip().removeprefix("const ").rpartition(" ")[0] for each in found.split(",")]
    return tuple((of_numpy[each.rstrip("*")], each.endswith("*")) for each in types)


class OnHost(np.ndarray):
    """An array of the card: like CuPy's, it is never mixed with NumPy's, which are somewhere else."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **how):
        _of_the_card(*inputs, *out)
        plain = [_plain(each) for each in inputs]
        if out:
            how["out"] = tuple(map(_plain, out))
        found = getattr(ufunc, method)(*plain, **how)
        return out[0] if out else np.asarray(found).view(OnHost)

    def __array_function__(self, function, types, arguments, how):
        _of_the_card(*arguments, *how.values())
        plain = [_plain(each) for each in arguments]
        found = function(*plain, **{name: _plain(each) for name, each in how.items()})
        return np.asarray(found).view(OnHost)

    def __getitem__(self, at):
        _of_the_card(*(at if isinstance(at, tuple) else (at,)))
        return np.asarray(super().__getitem__(at)).view(type(self))

    def __setitem__(self, at, values):
        _of_the_card(values, *(at if isinstance(at, tuple) else (at,)))
        super().__setitem__(at, values)


def _of_the_card(*values):
    """Raise a TypeError for arrays that are not on the card."""
    for each in values:
        if isinstance(each, list | tuple):
            _of_the_card(*each)
        elif isinstance(each, np.ndarray) and not isinstance(each, OnHost):
            raise TypeError("an array of NumPy's among those of a card")


def _plain(value):
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.view(np.ndarray) if isinstance(value, OnHost) else value


class _Namespace:
    """NumPy's functions, with arrays of the card for results."""

    def __getattr__(self, name):
        function = getattr(np, name)

        def call(*arguments, **how):
            _of_the_card(*arguments, *how.values())
            return np.asarray(function(*arguments, **how)).view(OnHost)

        return call


def _given(loop, arguments):
    """Return the arguments of a loop as C takes them: of just its types, as a card is told nothing of them."""
    _of_the_card(*arguments)
    for i, (each, (of_c, is_array)) in enumerate(zip(arguments, parameters(loop), strict=True)):
        given = each.dtype.type if isinstance(each, np.ndarray) else type(each)
        assert (given, isinstance(each, np.ndarray)) == (of_c, is_array), f"argument {i} of {loop}"
    return [
        ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else _OF_C[type(each)](each)
        for each in arguments
    ]


class HostCard(Card):
    """NumPy in the place of CuPy."""

    xp = _Namespace()

    def __init__(self):
        library()
        self.work, self._lock = Workspace(self.xp.empty), threading.RLock()

    def using(self):
        return self._lock

    def launch(self, loop, n_items, *arguments):
        getattr(library(), loop)(*_given(loop, arguments))

    def array(self, values):
        return np.array(values, order="C").view(OnHost)

    def host(self, values):
        _of_the_card(values)
        return np.array(values)

    def explained(self):
        return nullcontext()

    def slot(self, n_rows, n_columns, dtype):
        return HostSlot(self.xp.empty((n_rows, n_columns), dtype))


class ThreadsCard(HostCard):
    """The same with several threads for each block, and some blocks, one after the other."""

    n_blocks, n_threads = 3, 5

    def launch(self, loop, n_items, *arguments):
        loops, given = library(SIDE_BY_SIDE), _given(loop, arguments)

        def run(block, thread):
            loops.begin(block, thread)
            getattr(loops, loop)(*given)

        for block in range(self.n_blocks):
            loops.launch(self.n_blocks, self.n_threads)
            # (Threads that wait for each other in vain end with the process.)
            threads = [threading.Thread(target=run, args=(block, i), daemon=True) for i in range(self.n_threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive(), f"threads of {loop} wait for each other"
            loops.done()


class HostSlot(Slot):
    """Rows are there at once; but memory that is filled again is not what it was."""

    def __init__(self, room):
        self._room = room

    def begin(self, n_rows, *, stays):
        self._block = self._room[:n_rows].copy() if stays else self._room[:n_rows]

    def put(self, at, rows):
        copy_rows(np.asarray(self._block)[at : at + len(rows)], rows)

    def end(self):
        return self._block

    def used(self):
        np.asarray(self._room).view(np.uint8)[...] = 0xFF

    def wait(self):
        pass
