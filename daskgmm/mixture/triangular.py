"""Triangular matrix products (half the flops of general ones), without the interpreter's lock.

SciPy's Python wrappers of these two routines hold the lock, so that two threads took turns: the exact form on two
threads was as slow as on one. Here the routines of the same library are called through its C interface for Cython.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_blas

from daskgmm.mixture.arrays import Floats


def multiply_triangular(upper: Floats, x: Floats) -> None:
    """Replace x by upper' x, in place; n_features^2 n_rows flops.

    Parameters
    ----------
    upper : (n_features, n_features), float64, C order
        Upper triangular; what is below the diagonal is not read.
    x : (n_features, n_rows), float64, C order
    """
    n_features, n_rows = x.shape
    # For Fortran, x is X' with rows down (n_rows, n_features), and upper is its transpose, lower: X' <- X' upper.
    _routine("dtrmm", 11)(
        b"R", b"L", b"T", b"N", _int(n_rows), _int(n_features), _ONE, _pointer(upper), _int(n_features),
        _pointer(x), _int(n_rows),
    )  # fmt: skip


def gram(x: Floats, out: Floats) -> None:
    """Write x x' on and above the diagonal of out, (n_features, n_features), C order; n_features^2 n_rows flops.

    `x` is (n_features, n_rows), float64, C order. What is below the diagonal of `out` is not touched.
    """
    n_features, n_rows = x.shape
    _routine("dsyrk", 10)(
        b"L", b"T", _int(n_features), _int(n_rows), _ONE, _pointer(x), _int(n_rows), _ZERO, _pointer(out),
        _int(n_features),
    )  # fmt: skip


_ONE, _ZERO = ctypes.byref(ctypes.c_double(1.0)), ctypes.byref(ctypes.c_double(0.0))


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _pointer(array: Floats) -> ctypes.c_void_p:
    if not array.flags.c_contiguous or array.dtype != np.float64:
        raise ValueError(f"an array must be float64 in C order; got {array.dtype}, strides {array.strides}.")
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _routine(name: str, n_arguments: int) -> Any:
    """Return a BLAS routine of SciPy's, all of whose arguments are pointers; ctypes releases the lock around it."""
    capsule = cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address_of(capsule, name_of(capsule)))
