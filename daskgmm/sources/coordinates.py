"""Coordinates of a grid: what is stored beside its arrays along some of their dimensions, to stand beside results.

The dimensions of a coordinate are told by their names, as xarray has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskgmm.sources.boxed import BoxedReader, BoxReader
from daskgmm.sources.conventions import (
    DIMENSIONS,
    PACKED_BY,
    attributes_of,
    dimension_names,
    packing,
    packing_of,
    plain_attribute,
)
from daskgmm.sources.failures import retried
from daskgmm.sources.grid import Box, Grid
from daskgmm.sources.hdf5_file import attributes_of as hdf5_attributes_of
from daskgmm.sources.hdf5_file import dimension_names as hdf5_dimension_names
from daskgmm.sources.hdf5_file import opened, scale_of
from daskgmm.sources.hdf5_reader import Hdf5Reader
from daskgmm.sources.zarr_group import describing_arrays
from daskgmm.sources.zarr_reader import ZarrReader

#: Attributes that say of an array what is told otherwise of a copy, decoded, or is of HDF5's own.
_NOT_COPIED = {
    *PACKED_BY, DIMENSIONS, "coordinates", "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS",
}  # fmt: skip
#: Numbers of a coordinate that are read at once where two are compared.
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Coordinate:
    """An array of numbers beside those that are features.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Its dimensions, all of them the grid's.
    shape : tuple of int
    dtype : dtype
        Of its numbers as they are meant.
    reader : BoxedReader
    attributes : dict
        What is said of it, as JSON has it: units, names; not how it is packed.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reader: BoxedReader
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """Return all of it."""
        return self.part(tuple(slice(0, n) for n in self.shape))

    def part(self, box: Box) -> NDArray[Any]:
        """Return the numbers of a box of it, which may end beyond it."""
        asked = BoxReader(
            self.reader, tuple(slice(r.start, min(r.stop, n)) for r, n in zip(box, self.shape, strict=True))
        )
        values: NDArray[Any] = retried(asked.read, asked, 0, self.shape[0])
        return values


def same_points(one: Sequence[Coordinate], other: Sequence[Coordinate]) -> bool:
    """Return whether two grids lie at the same points along each dimension for which both have a coordinate."""
    ours = {each.name: each for each in one if each.dims == (each.name,)}
    return all(_same(ours[each.name], each) for each in other if each.dims == (each.name,) and each.name in ours)


def _same(one: Coordinate, other: Coordinate) -> bool:
    """Return whether two coordinates have the same numbers; some are read at once, as there may be one for each row."""
    if one.attributes.get("units") != other.attributes.get("units"):
        return True  # (as far as numbers can tell: days since a date, hours since another one)
    if one.shape != other.shape:
        return False
    boxes = [(slice(low, low + _AT_ONCE),) for low in range(0, one.shape[0], _AT_ONCE)]
    return all(np.array_equal(one.part(box), other.part(box), equal_nan=True) for box in boxes)


def coordinates_of_group(group: zarr.Group, grid: Grid) -> list[Coordinate]:
    """Return the coordinates in a Zarr group that lie along dimensions of a grid, read in this process."""
    found = []
    for name, array in describing_arrays(group).items():
        dims, dtype = tuple(dimension_names(array)), np.dtype(array.dtype)
        if dtype.kind not in "biuf" or not _lies_along(dims, array.shape, grid):
            continue
        packed = packing_of(array)
        reader = ZarrReader(None, f"{group.store_path}/{name}", array.shape, dtype.str, True, packed, array=array)
        meant = dtype if packed is None else np.dtype(packed.dtype)
        found.append(Coordinate(name, dims, array.shape, meant, reader, _copied(attributes_of(array))))
    return found


def coordinates_of_dataset(path: str, name: str, axes: Sequence[int], grid: Grid) -> list[Coordinate]:
    """Return the coordinates of an HDF5 data set: its scales along some dimensions, and what its attributes list."""
    with opened(path, argument="X") as file:
        dataset = file[name]
        scales = [scale_of(dataset, axis) for axis in axes]
        listed = " ".join(str(hdf5_attributes_of(one).get("coordinates", "")) for one in (dataset, dataset.parent))
        named = [dataset.parent[one] for one in listed.split() if one in dataset.parent]
        found = {one.name: one for one in (*scales, *named) if one is not None and hasattr(one, "dtype")}
        return [c for one in found.values() if (c := _of_dataset(one, grid)) is not None]


def _of_dataset(dataset: Any, grid: Grid) -> Coordinate | None:
    dims = tuple(hdf5_dimension_names(dataset))
    if dataset.dtype.kind not in "biuf" or not _lies_along(dims, dataset.shape, grid):
        return None
    packed = packing(hdf5_attributes_of(dataset), dataset.dtype)
    reader = Hdf5Reader(dataset.file.filename, dataset.name, dataset.shape, dataset.dtype.str, packed)
    meant = dataset.dtype if packed is None else np.dtype(packed.dtype)
    said = _copied({key: _attribute(dataset, key) for key in dataset.attrs})
    return Coordinate(dataset.name.split("/")[-1], dims, dataset.shape, meant, reader, said)


def _attribute(dataset: Any, key: str) -> Any:
    try:
        value = dataset.attrs[key]
    except (OSError, TypeError, KeyError):  # (of a type that h5py has no name for)
        return None
    value = value[0] if getattr(value, "shape", ()) == (1,) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _lies_along(dims: tuple[str, ...], shape: tuple[int, ...], grid: Grid) -> bool:
    lengths = dict(zip(grid.dims, grid.shape, strict=True)) if grid.dims else {}
    return bool(dims) and [lengths.get(name) for name in dims] == list(shape)


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a copy has, too, as far as JSON has them."""
    found = {}
    for name, value in attributes.items():
        plain = None if name.startswith("_") or name in _NOT_COPIED else plain_attribute(value)
        if isinstance(plain, str | int | float | bool | list):
            found[name] = plain
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError):
        return {name: value for name, value in found.items() if isinstance(value, str)}
    return found
