"""Rows in memory, and rows of a .npy file by memory map."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, InputMissingError, NotNumbersError, OptionError, verbatim
from daskgmm.kernels.block import tile_length
from daskgmm.sources.columns import without_columns, without_features
from daskgmm.sources.partition import is_cut_finely, rows_of_partition
from daskgmm.sources.source import Reader, Source, checked_shape, plain_rows
from daskgmm.sources.stamps import file_stamp


@dataclass(frozen=True)
class ArrayReader(Reader):
    """Rows of an array of this process, as views."""

    array: NDArray[Any]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), a view."""
        return self.array[start:stop]


class ArraySource(Source):
    """Rows of a NumPy array, or of what `numpy.asarray` makes one of; passes over it run in this process.

    Few rows can be much work: they are cut more finely, into parts that are worth a thread's time.
    """

    travels = decodes = False
    array: NDArray[Any]

    def __init__(self, data: Any, *, argument: str = "X") -> None:
        array = as_array(data, argument)
        self.label = "NumPy array"
        self.n_rows, self.n_features = checked_shape(array.shape, array.dtype, argument=argument, label=self.label)
        self.dtype = array.dtype
        self.array = plain_rows(array)

    def reader(self) -> ArrayReader:
        return ArrayReader(self.array)

    @cached_property
    def chunk_rows(self) -> int:
        if not is_cut_finely(self.n_rows * self.row_bytes):
            return super().chunk_rows
        return rows_of_partition(self.n_rows, self.n_features, tile_length(self.n_features))

    def without(self, features: Sequence[int]) -> str:
        named = without_columns(self.column_labels, features)
        return named or f"Leave such features out: numpy.delete(X, {list(features)}, axis=1)."

    def read_bytes(self, n_bytes: int) -> int:
        return 0  # (views of what is there)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kind": "numpy", "location": None, "chunks": [self.chunk_rows]}


def as_array(data: Any, argument: str) -> NDArray[Any]:
    """Return the numbers of `data` as an array, without a copy where it is one already; objects become float64."""
    kind = type(data).__name__
    if hasattr(data, "toarray") or hasattr(data, "todense"):
        raise OptionError(
            f"`{argument}`",
            "be dense",
            f"the sparse {kind}",
            "Where it fits in memory, convert it with "
            f"{argument}.{'toarray' if hasattr(data, 'toarray') else 'todense'}().",
        )
    if isinstance(data, np.ma.MaskedArray):
        raise DataError(
            f"`{argument}`",
            "not be a masked array",
            f"a {kind}, whose mask would be lost",
            f"Fill it with NaN: numpy.ma.filled({argument}.astype('float64'), numpy.nan).",
        )
    if (hasattr(data, "unit") and hasattr(data, "to_value")) or (hasattr(data, "units") and hasattr(data, "magnitude")):
        raise DataError(
            f"`{argument}`",
            "be plain numbers",
            f"a {kind} with a unit, which would be lost",
            "Convert it to the unit that you want, and give its numbers, "
            f"{argument}.{'to_value()' if hasattr(data, 'unit') else 'magnitude'}.",
        )
    try:
        array = np.asarray(data)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"`{argument}`",
            "be an array, a data frame, a path or a URL",
            f"a {kind} that is no array ({error})",
            "Give rows of equal length.",
        ) from error
    if array.dtype.kind != "O":
        return array
    if array.ndim == 0:
        raise OptionError(
            f"`{argument}`",
            "be an array, a data frame, a path or a URL",
            f"a {kind}",
            "Give its array, or the path of a Zarr array or .npy file.",
        )
    return _of_objects(array, argument)


def _of_objects(array: NDArray[Any], argument: str) -> NDArray[Any]:
    """Return Python objects as float64."""
    try:
        found = array.astype(np.float64)
        lost = next((value for value in array.flat if isinstance(value, int) and value != int(float(value))), None)
    except (TypeError, ValueError, OverflowError) as error:
        # (scikit-learn has a TypeError where it is no number at all.)
        kind = NotNumbersError if isinstance(error, TypeError) else DataError
        raise kind(
            f"{argument} must hold real numbers; got Python objects that are none ({error}). Encode them."
        ) from error
    if lost is not None:
        raise DataError(
            f"`{argument}`",
            "hold whole numbers of at most 2^53, which float64 can hold",
            f"{lost}, which would be taken for {int(float(lost))}",
            "Subtract a whole number first, or round it yourself with float().",
        )
    return found


class NpySource(Source):
    """Rows of a .npy file, C or Fortran ordered, by memory map.

    Parameters
    ----------
    path : str or path
        The file; workers open it by its absolute path.
    argument : str
        What messages call the input.
    """

    decodes = False
    path: str

    def __init__(self, path: str | os.PathLike[str], *, argument: str = "X") -> None:
        path = os.fspath(path).removeprefix("file://")
        if "://" in path:
            raise OptionError(
                f"`{argument}`",
                "be a path where it is a .npy file",
                f"the URL {path}",
                "Download it, or convert it to Zarr, which is read by URL.",
            )
        self.label = self.path = os.path.abspath(os.path.expanduser(path))
        array = _map_file(self.label, argument)
        self.n_rows, self.n_features = checked_shape(array.shape, array.dtype, argument=argument, label=self.label)
        self.dtype, self._shape = array.dtype, array.shape

    def reader(self) -> NpyReader:
        return NpyReader(self.path, self._shape, self.dtype.str)

    def without(self, features: Sequence[int]) -> str:
        return without_features(f'dask.array.from_array(numpy.load({self.path!r}, mmap_mode="r"))', features)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kind": "npy", "chunks": [self.chunk_rows]}


@dataclass(frozen=True)
class NpyReader(Reader):
    """Rows of a .npy file, as views on a memory map.

    The file is mapped anew for each call (0.1 ms). One map kept for a whole pass would count every page it
    ever touched as memory of the worker, whose nanny then ends it, though the pages could be dropped.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), a view on the file that keeps it mapped."""
        array = _map_file(self.path, "X")
        if array.shape != self.shape or array.dtype.str != self.dtype:
            raise DataError(
                verbatim(self.path),
                "not change during a fit",
                f"shape {array.shape}, dtype {array.dtype.str}, where it had {self.shape}, {self.dtype}",
                "Start again with the new file.",
            )
        return plain_rows(array[start:stop])


def _map_file(path: str, argument: str) -> NDArray[Any]:
    """Return the array of a .npy file as a memory map."""
    try:
        file_stamp(path)  # (a pipe would never answer)
        return np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-any-return,unused-ignore]
    except FileNotFoundError as error:
        raise InputMissingError(
            f"`{argument}`", "be an existing file", f"{path}, which is not there", "Check the path."
        ) from error
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "See whether it can be copied to another disk.")
        raise InputMissingError(
            f"`{argument}`", "be a readable file", f"{path} ({error.strerror or error})", remedy
        ) from error
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # Whatever a damaged header makes NumPy and Python's tokenizer raise.
        if "Python objects" in str(error):
            raise DataError(
                f"`{argument}`",
                "be a .npy file of numbers",
                f"{path}, which holds Python objects",
                f"Where you trust it, convert it: numpy.save('X.npy', numpy.load({verbatim(repr(path))}, "
                "allow_pickle=True).astype('float64'))",
            ) from error
        raise DataError(
            f"`{argument}`", "be a whole .npy file of numbers", f"{path} ({error})", "Write it again with numpy.save."
        ) from error


_REMEDIES = {
    errno.EACCES: "Check its permissions.",
    errno.EPERM: "Check its permissions.",
    errno.ENOMEM: "Give the process more memory (ulimit -v).",
    errno.EMFILE: "Let the process open more files (ulimit -n).",
    errno.ENFILE: "Let the machine open more files.",
}
