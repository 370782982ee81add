"""What stands beside the numbers of a stored array: how they are packed, which are missing, units, dimensions.

The names are those of the conventions for climate and forecast data (CF), as xarray writes and reads them.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from daskgmm.errors import DataError, verbatim

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
                f"If these numbers are meant, give them without their units: {verbatim(numbers)}.",
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
    """Numbers that are not to be taken as they are stored.

    Attributes
    ----------
    missing : tuple of float or int
        Values that stand for a missing one, as they are stored.
    scale, offset : float
        A stored value means value * scale + offset.
    stored_as : str or None
        Name of the integer dtype that the stored bits are of, where it is not the array's.
    said : str
        The attributes, in words.
    """

    missing: tuple[Any, ...]
    scale: float
    offset: float
    stored_as: str | None
    said: str

    def decoded(self, raw: str) -> str:
        """Return the expression that decodes a Dask array which is called `raw`; missing values become NaN."""
        values = raw if self.stored_as is None else f"{raw}.astype({self.stored_as!r})"
        values = f"{values}.astype('float64')"
        # (In the order of xarray, so that the bits are its.)
        values += f" * {self.scale!r}" if self.scale != 1 else ""
        values += f" + {self.offset!r}" if self.offset != 0 else ""
        if self.missing:
            values = f"dask.array.where(dask.array.isin({raw}, {list(self.missing)}), numpy.nan, {values})"
        return values


def packing_of(array: zarr.Array[Any]) -> Packing | None:
    """Return how the numbers of a Zarr array are packed, None where they are meant as they are stored."""
    attributes = attributes_of(array)
    if array.metadata.zarr_format == 2 and DIMENSIONS in attributes and array.metadata.fill_value is not None:
        # In format 2 the fill value of an array of xarray is the value that stands for a missing one.
        attributes = {"_FillValue": array.metadata.fill_value} | attributes
    return packing(attributes, np.dtype(array.dtype))


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


def packing(attributes: Mapping[Any, Any], dtype: Any) -> Packing | None:
    """Return what attributes say of the packing of numbers, None where they are meant as they are stored."""
    if np.dtype(dtype).kind not in "biuf":
        return None
    dtype = np.dtype(dtype)
    try:
        scale, offset = _number(attributes.get("scale_factor", 1)), _number(attributes.get("add_offset", 0))
        missing = [one for name in ("_FillValue", "missing_value") for one in _values(attributes.get(name), dtype)]
    except (ValueError, TypeError, IndexError, OverflowError, struct.error) as error:
        shown = ", ".join(f"{name} {attributes[name]!r}" for name in _NUMBERS if name in attributes)
        raise DataError(
            "Attributes that say how numbers are packed", "be numbers", f"{shown} ({error})", "Correct them."
        ) from error
    unsigned = str(attributes.get("_Unsigned", dtype.kind == "u")).lower() == "true"
    stored_as = None
    if dtype.kind in "iu" and unsigned != (dtype.kind == "u"):
        stored_as = f"{'u' if unsigned else ''}int{8 * dtype.itemsize}"
    missing = list(dict.fromkeys(missing))
    said = [f"scale_factor {scale!r}"] if scale != 1 else []
    said += [f"add_offset {offset!r}"] if offset != 0 else []
    said += [f"_Unsigned {str(unsigned).lower()}"] if stored_as else []
    said += [f"{', '.join(map(str, missing))} for a missing value"] if missing else []
    return Packing(tuple(missing), scale, offset, stored_as, ", ".join(said)) if said else None


_NUMBERS = ("scale_factor", "add_offset", "_FillValue", "missing_value")


def _number(value: Any) -> float:
    return float(np.ravel(value)[0])


def _values(value: Any, dtype: np.dtype[Any]) -> list[Any]:
    """Return the values of an attribute, but NaN, which is missing by itself."""
    found = [] if value is None else [_decoded(one, dtype) for one in np.ravel(np.asarray(value, dtype=object))]
    return [one for one in found if one == one]


def _decoded(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a value of an attribute as a number of Python; text is how JSON has what it has no number for."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            # xarray in format 3: the eight bytes of a float64.
            value = struct.unpack("<d", base64.standard_b64decode(value))[0]
    if dtype.kind == "f":
        return float(dtype.type(value))  # (1e20 of float32 is another number)
    return int(value) if float(value).is_integer() else float(value)


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
