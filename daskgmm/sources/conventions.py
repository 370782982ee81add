"""What stands beside the numbers of a stored array: how they are packed, which are missing, units, dimensions.

The names are those of the conventions for climate and forecast data (CF), as xarray writes and reads them.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from daskgmm.errors import DataError, verbatim
from daskgmm.sources.digits import refuse_lost_digits

#: Names of the dimensions of an array of format 2, where xarray keeps them.
DIMENSIONS = "_ARRAY_DIMENSIONS"


@dataclass(frozen=True)
class Beside:
    """What is said of rows beside their numbers; None where nothing is.

    Attributes
    ----------
    dimension : str or None
        Name of the dimension of the rows.
    units : str or None
        Units of all numbers.
    """

    dimension: str | None = None
    units: str | None = None

    @classmethod
    def of(cls, attributes: Mapping[Any, Any], dimensions: Sequence[Any]) -> Beside:
        """Return it from attributes and names of dimensions. (Names that xarray made up are none.)"""
        name, units = next(iter(dimensions), None), attributes.get("units")
        named = isinstance(name, str) and re.fullmatch(r"dim_\d+", name) is None
        return cls(name if named else None, units.strip() or None if isinstance(units, str) else None)

    def refuse_times(self, argument: str, where: str, numbers: str) -> None:
        """Raise a DataError for times as numbers since a date, which only their units tell; `numbers` gives those."""
        if self.units is not None and re.search(r"\bsince\b", self.units, re.IGNORECASE):
            raise DataError(
                f"`{argument}`",
                "hold numbers that mean what they are",
                f"times in {self.units!r} in {where}",
                f"Leave it out. If these numbers are meant, give them without their units: {verbatim(numbers)}.",
            )


def check_units(units: object, now: Beside, where: str) -> None:
    """Raise a DataError for rows in other units than a mixture was fitted to; units that are not said are the same."""
    if units is not None and now.units is not None and now.units != units:
        raise DataError(
            "`X`",
            f"have the units that the mixture was fitted to, {verbatim(units)}",
            f"{now.units} in {where}",
            "Convert it, or write its attribute units as the mixture has them.",
        )


@dataclass(frozen=True)
class Packing:
    """Numbers that are stored in another form than they are meant: scaled, shifted, unsigned, or missing.

    Attributes
    ----------
    missing : tuple of float or int
        Values that stand for a missing one, as they are stored (unsigned where these are).
    scale, offset : number or None
        A stored value means value * scale + offset.
    stored_as : str or None
        The integer dtype that the stored bits are of, where it is not the array's.
    dtype : str
        Of the decoded numbers.
    attributes : dict
        What says so, by the names of CF, as JSON has it.

    Notes
    -----
    Values, their dtype and the order of operations are those of `xarray.open_zarr`, to the bit. What that loses is not
    lost here: fill values that the stored dtype cannot hold stand for the nearest that it can (1e20 of float32), and
    those of unsigned numbers for their bits; a scale that is a whole number makes no integers of numbers that may be
    missing or have fractions.
    """

    missing: tuple[Any, ...]
    scale: Any
    offset: Any
    stored_as: str | None
    dtype: str
    attributes: dict[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value!r}" for name, value in self.attributes.items())

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return stored values as they are meant, a new array of `dtype` in the same memory order; NaN where missing.

        Raises
        ------
        DataError
            A whole number that is none of the missing ones lies beyond 2^53, and is to become a float64.
        """
        order: Literal["C", "F"] = "F" if stored.flags.fnc else "C"
        values = stored.ravel(order)
        values = values if self.stored_as is None else values.view(self.stored_as)
        found = np.empty(values.shape, self.dtype)
        # (A few at once: what stands between is small, and in the processor's cache.)
        for low in range(0, len(values), _AT_ONCE):
            self._decode_into(found[low : low + _AT_ONCE], values[low : low + _AT_ONCE])
        return found.reshape(stored.shape, order=order)

    def _decode_into(self, found: NDArray[Any], values: NDArray[Any]) -> None:
        # (Comparing after the cast is xarray's, too: of 64-bit integers those that float64 cannot tell apart are one.)
        np.copyto(found, values, casting="unsafe")
        missing = np.zeros(found.shape, bool)
        for one in self.missing:
            missing |= found == np.float64(one)
        if found.dtype.kind == "f" and self.scale is None and self.offset is None:
            refuse_lost_digits(values[~missing] if values.itemsize == 8 else values, first_row=None)
        if self.missing:
            np.copyto(found, np.nan, where=missing)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.scale is not None:
                found *= self.scale
            if self.offset is not None:
                found += self.offset


def as_meant(code: str, packed: Packing | None) -> str:
    """Return the expression of Python whose numbers are those of an array, which `code` makes, as they are meant."""
    return code if packed is None else f"xarray.DataArray({code}, attrs={packed.attributes})"


def packing_of(array: zarr.Array[Any], *, where: str = "", raw: str = "") -> Packing | None:
    """Return how the numbers of a Zarr array are packed, None where they are meant as they are stored.

    `where` and `raw` are for messages, as in `packing`.
    """
    attributes = attributes_of(array)
    if array.metadata.zarr_format == 2 and DIMENSIONS in attributes and array.metadata.fill_value is not None:
        # In format 2 the fill value of an array of xarray is the value that stands for a missing one.
        attributes = attributes | {"_FillValue": array.metadata.fill_value}
    return packing(attributes, np.dtype(array.dtype), where=where, raw=raw)


def attributes_of(node: zarr.Array[Any] | zarr.Group) -> dict[str, Any]:
    """Return the attributes of a Zarr array or group; a DataError where they are no JSON object."""
    try:
        return dict(node.attrs)
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "The attributes of a Zarr node",
            "be a JSON object",
            f"another thing in {node.store_path}: {error}",
            "Write it anew, or bring its attributes (zarr.json, .zattrs) back from a copy.",
        ) from error


def packing(attributes: Mapping[Any, Any], dtype: Any, *, where: str = "", raw: str = "") -> Packing | None:
    """Return what attributes say of the packing of numbers, None where they are meant as they are stored.

    Parameters
    ----------
    attributes : mapping
        By the names of CF.
    dtype : dtype
        Of the stored numbers.
    where, raw : str
        For messages: where that is, and the expression of Python that gives the numbers as they are stored.

    Raises
    ------
    DataError
        An attribute is no number.
    """
    dtype, given = np.dtype(dtype), {name: attributes[name] for name in PACKED_BY if name in attributes}
    if dtype.kind not in "biuf" or not given:
        return None
    said = {name: plain_attribute(value) for name, value in given.items()}
    try:
        scale, offset = (_factor(given[name]) if name in given else None for name in ("scale_factor", "add_offset"))
        stored_as = _unsigned(given.get("_Unsigned"), dtype)
        fills = {name: _fills(given.get(name), dtype) for name in ("_FillValue", "missing_value")}
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        shown = ", ".join(f"{name} {value!r}" for name, value in said.items())
        remedy = f" Or give the numbers as they are stored: {verbatim(raw)}." if raw else ""
        raise DataError(
            "Attributes that say how numbers are packed", "be numbers", f"{shown}{where} ({error})",
            f"Correct them.{remedy}",
        ) from error  # fmt: skip
    whole = np.dtype(stored_as or dtype)
    missing = tuple(dict.fromkeys(_as_bits(one, dtype, whole) for found in fills.values() for one in found or ()))
    # (xarray drops NaN as the fill value of integers; that of floats says that they have their dtype already.)
    declared = any(found is not None and (found or dtype.kind == "f") for found in fills.values())
    decoded = _decoded_dtype(whole, scale, offset, missing=bool(missing), declared=declared)
    if not missing and scale is None and offset is None and stored_as is None:
        return None
    return Packing(missing, _number(scale), _number(offset), stored_as, decoded.str, said)


#: What says how numbers are packed.
PACKED_BY = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
#: Values that are decoded at once.
_AT_ONCE = 1 << 16


def _decoded_dtype(stored: np.dtype[Any], scale: Any, offset: Any, *, missing: bool, declared: bool) -> np.dtype[Any]:
    """Return the dtype of decoded numbers, as xarray chooses it (`xarray.coding.variables`), in native byte order."""
    if scale is None and offset is None:
        if not missing or stored.kind == "f":
            return stored.newbyteorder("=")
        return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)
    if declared and not missing:
        return stored.newbyteorder("=")
    if offset is None:
        found = scale.dtype
    elif scale is not None and scale.dtype == offset.dtype and scale.dtype in (np.float32, np.float64):
        found = np.dtype(np.float64) if stored.kind in "iu" and stored.itemsize == 4 else scale.dtype
    else:
        found = np.dtype(np.float64)  # (a large whole offset would lose digits in less)
    if found.kind != "f" and (missing or stored.kind == "f" or stored.itemsize == 8):
        return np.dtype(np.float64)  # (xarray makes int64, in which NaN and fractions are lost)
    return found.newbyteorder("=") if found.itemsize <= 8 else np.dtype(np.float64)


def _factor(value: Any) -> Any:
    """Return the only number of an attribute, as NumPy has it; of Python's own numbers it is an array."""
    found = np.asarray(value)
    if found.dtype.kind not in "iuf" or found.size != 1 or not np.isfinite(found).all():
        raise ValueError("not one finite number")
    # (NumPy's own scalars decide the dtype of what they are multiplied with, Python's do not.)
    return value if isinstance(value, np.generic) else found.reshape(())


def _number(factor: Any) -> Any:
    return factor.item() if isinstance(factor, np.ndarray) else factor


def _unsigned(value: Any, dtype: np.dtype[Any]) -> str | None:
    """Return the integer dtype whose bits are stored, where `_Unsigned` says that it is another one."""
    if value is None or dtype.kind not in "iu":
        return None
    if value not in ("true", "false"):
        raise ValueError("_Unsigned is neither 'true' nor 'false'")
    kind = "u" if value == "true" else "i"
    return None if kind == dtype.kind else f"{dtype.byteorder}{kind}{dtype.itemsize}"


def _fills(value: Any, dtype: np.dtype[Any]) -> list[Any] | None:
    """Return the values of an attribute that stand for a missing one, but NaN; None where there is no attribute."""
    if value is None:
        return None
    if dtype.kind == "b":
        raise ValueError("a truth value cannot be missing")
    found = [_fill(one, dtype) for one in np.ravel(np.asarray(value, dtype=object)) if one is not None]
    return [one for one in found if one == one]


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a value of an attribute as a number of Python; text is how JSON has what it has no number for."""
    if isinstance(value, str):
        # In format 3 xarray writes the eight bytes of a float64.
        value = _SPELLED[value] if value in _SPELLED else struct.unpack("<d", base64.standard_b64decode(value))[0]
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number) or np.iscomplexobj(value):
        raise TypeError(f"{value!r} is no number")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            nearest = float(dtype.type(value))  # (1e20 of float32 is another number)
        return nearest if np.isfinite(nearest) else float(value)
    return int(value) if float(value).is_integer() else float(value)


_SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _as_bits(fill: Any, stored: np.dtype[Any], whole: np.dtype[Any]) -> Any:
    """Return a fill value of stored numbers as one of those that their bits are."""
    if stored == whole or not isinstance(fill, int) or _holds(whole, fill) or not _holds(stored, fill):
        return fill
    return int(np.array(fill, stored).astype(whole))


def _holds(dtype: np.dtype[Any], value: int) -> bool:
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def plain_attribute(value: Any) -> Any:
    """Return the value of an attribute as JSON has it, which has no number that is not finite."""
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, list | tuple):
        return [plain_attribute(one) for one in value]
    spelled = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return value if not isinstance(value, float) or math.isfinite(value) else spelled.get(value, "NaN")


def dimension_names(array: zarr.Array[Any]) -> Sequence[str]:
    """Return the names of the dimensions of an array; empty where it has none."""
    names = getattr(array.metadata, "dimension_names", None) or attributes_of(array).get(DIMENSIONS) or ()
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def coordinates(arrays: Sequence[zarr.Array[Any]], group: Mapping[str, Any]) -> set[str]:
    """Return the names of the arrays of a group that describe others: names of dimensions, and what attributes list."""
    names = {array.basename for array in arrays}
    listed = [group.get("coordinates", ""), *(attributes_of(array).get("coordinates", "") for array in arrays)]
    found = {name for text in listed for name in str(text).split()}
    for array in arrays:
        found |= set(dimension_names(array))
    return found & names
