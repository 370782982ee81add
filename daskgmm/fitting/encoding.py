"""Values as bytes and back: JSON, and arrays behind it. Decoding makes plain records only, and executes nothing.

It is the length of the JSON as eight bytes, the JSON, and the bytes of the arrays one after the other, in the order in
which the JSON lists their dtypes, shapes and memory orders. (Matrix products depend on the last, in their last bits.)
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.data.far_rows import FarRows, Nearest
from daskgmm.data.output import Progress
from daskgmm.data.passes import Partial
from daskgmm.data.survey import Survey
from daskgmm.errors import DataError
from daskgmm.fitting.loop import Candidate, Status
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.polishing import Polishing
from daskgmm.mixture.acceleration import Move, Plain, Squarem
from daskgmm.mixture.covariance import covariance_kind
from daskgmm.mixture.folds import Fold
from daskgmm.mixture.kind import Covariance
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.statistics import Statistics

_KINDS_OF_RECORD: tuple[type[Any], ...] = (
    Candidate, FarRows, FitOptions, Fold, Move, Nearest, Parameters, Partial, Plain, Polishing,
    Progress, Squarem, Survey,
)  # fmt: skip
_RECORDS = {record.__name__: record for record in _KINDS_OF_RECORD}
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
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise DataError(f"a record must be as it was written; got {type(error).__name__}: {error}.") from error


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
    if isinstance(value, Status):
        return {"status": value.value}
    if isinstance(value, Covariance):
        return {"kind": value.name}
    if isinstance(value, Statistics):
        return {"statistics": arrays.place(value.values)}
    if isinstance(value, list):
        return [_tree(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_tree(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": {str(name): _tree(item, arrays) for name, item in value.items()}}
    if is_dataclass(value) and type(value) is _RECORDS.get(type(value).__name__):
        return {type(value).__name__: {f.name: _tree(getattr(value, f.name), arrays) for f in fields(value)}}
    raise TypeError(f"value must be made of plain records; got {type(value).__name__}.")


def _value(tree: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(tree, list):
        return [_value(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((what, inner),) = tree.items()
    if what in _RECORDS:
        known = {f.name for f in fields(_RECORDS[what])}
        if set(inner) != known:
            raise ValueError(f"{what} with the fields {', '.join(sorted(inner))}")
        return _RECORDS[what](**{name: _value(item, arrays) for name, item in inner.items()})
    if what == "float":
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[inner]
    if what == "array":
        return arrays[inner]
    if what == "status":
        return Status(inner)
    if what == "kind":
        return covariance_kind(inner)
    if what == "statistics":
        return Statistics(arrays[inner])
    if what == "tuple":
        return tuple(_value(item, arrays) for item in inner)
    if what == "dict":
        return {name: _value(item, arrays) for name, item in inner.items()}
    raise ValueError(f"unknown record {what[:40]!r}")
