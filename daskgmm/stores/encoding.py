"""Values as bytes and back: JSON, and arrays behind it. Decoding makes plain records only, and executes nothing.

It is the length of the JSON as eight bytes, the JSON, and the bytes of the arrays one after the other, in the order in
which the JSON lists their dtypes, shapes and memory orders. (Matrix products depend on the last, in their last bits.)
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import UNLIKE_WRITTEN, DataError, OptionError, UndefinedError, verbatim
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.family import Family, family_called
from daskgmm.mixture.record import Record, record_called, record_name

_DTYPES = ("<f8", "<f4", "<i8", "<i4", "<u8", "|b1")


def encode(value: Any) -> bytes:
    """Return a value as bytes; an array that stands in several places is in them once.

    Parameters
    ----------
    value : object
        None, a number, a string, an array, one of the records that a fit is made of, or a list, tuple or dict (with
        strings as keys) of such.
    """
    arrays = _Arrays()
    tree = _tree(value, arrays)
    head = json.dumps({"arrays": arrays.heads, "value": tree}, separators=(",", ":"), allow_nan=False).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *(array.tobytes() for array in arrays.found)])


def decode(content: bytes) -> Any:
    """Return the value that `encode` made bytes of.

    Raises
    ------
    DataError
        These are no such bytes. Nothing is allocated beyond their number.
    """
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        head = json.loads(content[8:end])
        arrays, at = [], end
        for dtype, shape, order in head["arrays"]:
            if dtype not in _DTYPES or not all(type(n) is int and n >= 0 for n in shape) or order not in ("C", "F"):
                raise ValueError(f"array of {dtype}, {shape}, {order}")
            count = math.prod(shape)
            found = np.frombuffer(content, np.dtype(dtype), count, at)
            arrays.append(found.reshape(shape, order=order).copy(order))
            at += count * np.dtype(dtype).itemsize
        if at != len(content):
            raise ValueError(f"{len(content)} bytes instead of {at}")
        return _value(head["value"], arrays)
    except UndefinedError:
        raise
    except OptionError as error:  # (a family that is not registered)
        raise UndefinedError(error.argument, error.requirement, error.got, error.remedy) from error
    except UNLIKE_WRITTEN as error:
        raise DataError("a record", "be as it was written", f"{type(error).__name__}: {error}") from error


class _Arrays:
    """The arrays of a value, each once, and what the JSON says of them."""

    def __init__(self) -> None:
        self.found: list[NDArray[Any]] = []
        self.heads: list[tuple[str, tuple[int, ...], str]] = []
        self._places: dict[int, int] = {}
        self._alive: list[NDArray[Any]] = []  # an id belongs to another object once its own is gone

    def place(self, array: NDArray[Any]) -> int:
        if id(array) not in self._places:
            order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
            dtype = array.dtype.newbyteorder("<")
            if dtype.str not in _DTYPES:
                raise TypeError(f"value must hold arrays of {', '.join(_DTYPES)}; got {array.dtype}.")
            self._places[id(array)] = len(self.found)
            self._alive.append(array)
            self.found.append(np.ascontiguousarray(array.T if order == "F" else array, dtype=dtype))
            self.heads.append((dtype.str, array.shape, order))
        return self._places[id(array)]


def _tree(value: Any, arrays: _Arrays) -> Any:
    """Return a value as JSON: what JSON has not is an object of one key, which says what it is."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, np.ndarray):
        return {"array": arrays.place(value)}
    if isinstance(value, Record) and isinstance(value, Enum):
        return {record_name(type(value)): value.value}
    if isinstance(value, Family):
        return {"family": value.name}
    if isinstance(value, Statistics):
        return {"statistics": arrays.place(value.values)}
    if isinstance(value, list):
        return [_tree(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_tree(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": {str(name): _tree(item, arrays) for name, item in value.items()}}
    if isinstance(value, Record) and is_dataclass(value):
        return {record_name(type(value)): {f.name: _tree(getattr(value, f.name), arrays) for f in fields(value)}}
    raise TypeError(f"value must be made of plain records; got {type(value).__name__}.")


def _value(tree: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(tree, list):
        return [_value(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((what, inner),) = tree.items()
    record = record_called(what)
    if record is not None and issubclass(record, Enum):
        return record(inner)
    if record is not None:
        hints = _hints(record)  # type: ignore[arg-type]
        if set(inner) != set(hints):
            raise ValueError(f"{what} with the fields {', '.join(sorted(inner))}")
        found = {name: _value(item, arrays) for name, item in inner.items()}
        for name, value in found.items():
            if not _is(value, hints[name]):
                raise TypeError(f"{what} whose {name} is of type {type(value).__name__}")
        return record(**found)
    if what == "float":
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[inner]
    if what == "array":
        return arrays[inner]
    if what == "family":
        return family_called(inner)
    if what == "statistics":
        if arrays[inner].ndim != 1 or arrays[inner].dtype != np.float64:
            raise TypeError(f"statistics of {arrays[inner].dtype}, {arrays[inner].shape}")
        return Statistics(arrays[inner])
    if what == "tuple":
        return tuple(_value(item, arrays) for item in inner)
    if what == "dict":
        return {name: _value(item, arrays) for name, item in inner.items()}
    if ":" not in what:  # (a name of ours)
        raise ValueError(f"unknown record {what[:80]!r}")
    raise UndefinedError(
        "what a checkpoint holds",
        "be of classes that are defined here",
        f"{verbatim(repr(what[:80]))}",
        "Import the module that defines it, or run the same script, then go on.",
    )


@cache
def _hints(record: type[Record]) -> dict[str, Any]:
    """Return the types of a record's fields, which are its annotations."""
    found = get_type_hints(record)
    return {f.name: found[f.name] for f in fields(record)}  # type: ignore[arg-type]


def _is(value: Any, hint: Any) -> bool:
    """Return whether a value is what an annotation says; of lists, tuples and dicts each item too."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return type(value) is str and value in inner
    if hint in (int, float):
        return type(value) in (int, hint)  # (0 may stand for 0.0)
    if origin in (np.ndarray, NDArray):  # (NDArray is an alias of its own from NumPy 2.5 on)
        return isinstance(value, np.ndarray) and issubclass(value.dtype.type, get_args(inner[-1]) or inner)
    if not isinstance(value, origin or hint):
        return False
    if origin is dict:
        return all(_is(name, inner[0]) and _is(item, inner[1]) for name, item in value.items())
    if origin is list or inner[1:] == (...,):
        return all(_is(item, inner[0]) for item in value)
    return not inner or (len(value) == len(inner) and all(map(_is, value, inner)))
