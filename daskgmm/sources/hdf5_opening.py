"""HDF5 and netCDF-4 by path, "file.h5::/group/name", or open: the rows of one data set, or the points of a grid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from glob import glob, has_magic
from math import prod
from typing import Any

from dask.utils import natural_sort_key

from daskgmm.errors import InputMissingError, NoRowsError, OptionError
from daskgmm.sources.conventions import packing
from daskgmm.sources.coordinates import coordinates_of_dataset
from daskgmm.sources.grid_source import Column, GridSource, check_features, labels_along
from daskgmm.sources.hdf5_array import Hdf5Array
from daskgmm.sources.hdf5_file import attributes_of, dimension_names, opened, scale_of
from daskgmm.sources.hdf5_group import array_in, arrays_along, arrays_called, node_at
from daskgmm.sources.hdf5_source import Hdf5Source
from daskgmm.sources.joined_source import JoinedSource
from daskgmm.sources.source import Source

#: Points of a grid that are read at once where no data set has chunks.
_POINTS = 1 << 17


def open_location(
    location: str,
    *,
    columns: tuple[str, ...] | None = None,
    array: str | None = None,
    features: str | None = None,
    argument: str = "X",
    missing_chunks: str | None = None,
) -> Source:
    """Return the source in a file of this machine, or in all that match a pattern, one after the other: see `Asked`.

    They are sorted as people count, "part-2" before "part-10". Files without rows count for nothing.

    Raises
    ------
    InputMissingError, OptionError, DataError
        See `daskgmm.sources.opening.open_rows`.
    """
    path, _, name = location.removeprefix("file://").partition("::")
    if "://" in location.removeprefix("file://"):
        raise OptionError(
            f"`{argument}`",
            "be a path where it is an HDF5 or netCDF file",
            f"the URL {location}",
            "Copy it to a disk that all workers see, or store it as Zarr, which is read by URL.",
        )
    path = os.path.abspath(os.path.expanduser(path))
    asked = Asked(columns, array, features, argument, missing_chunks, path)
    if os.path.exists(path) or not has_magic(path):
        return asked.opened(name)
    files = sorted((one for one in glob(path, recursive=True) if os.path.isfile(one)), key=natural_sort_key)
    if not files:
        raise InputMissingError(
            f"`{argument}`", "be an existing HDF5 file, or a pattern of such", f"{path}, where none is",
            "Check the path.",
        )  # fmt: skip
    parts, empty = list[Source](), None
    for file in files:
        try:
            parts.append(replace(asked, path=file).opened(name))
        except NoRowsError as error:  # (a night without rows is none of the others' fault)
            empty = empty or error
    if empty is not None and not parts:
        raise empty
    return JoinedSource(parts, label=f"{path}::{name}" if name else path, argument=argument)


@dataclass(frozen=True)
class Asked:
    """What is asked of a file.

    With `columns` each is a data set of a group, each point of their grid is a row, and each data set a feature. With
    `features` each index of that dimension is one, of each data set that has it. Otherwise rows are those of one data
    set, (n_rows, n_features), which `array` may name.

    Attributes
    ----------
    columns, array, features, argument, missing_chunks
        As for `daskgmm.sources.opening.open_rows`.
    path : str
        Of the file.
    """

    columns: tuple[str, ...] | None
    array: str | None
    features: str | None
    argument: str
    missing_chunks: str | None
    path: str

    def opened(self, name: str) -> Source:
        """Return the source of a group or data set of the file."""
        with opened(self.path, argument=self.argument) as file:
            return self.source(node_at(file, name, self.argument, self.path))

    def source(self, node: Any) -> Source:
        import h5py

        is_dataset = isinstance(node, h5py.Dataset)
        label = self.path if node.name == "/" else f"{self.path}::{node.name}"
        if self.columns is not None and (is_dataset or self.array is not None):
            raise OptionError(
                "`columns`",
                f"be left out where `{self.argument}` is one data set",
                f"columns={list(self.columns)} with {label}"
                + ("" if self.array is None else f" and array={self.array!r}"),
                "Leave it out, or give the group alone.",
            )
        if self.array is not None and is_dataset:
            raise OptionError(
                "`array`",
                f"be left out where `{self.argument}` is a data set itself",
                f"array={self.array!r} with {label}",
                "Leave it out, or give the file or group.",
            )
        if self.array is not None:
            node = node_at(node, self.array, "array", label)
            return replace(self, array=None).source(node)
        if self.columns is not None:
            return self._grid(arrays_called(node, self.columns, self.argument, label), label)
        if self.features is None:
            found = array_in(node, self.argument, self.path)
            return Hdf5Source(found, argument=self.argument, missing_chunks=self.missing_chunks)
        if is_dataset:
            return self._grid({node.name.split("/")[-1]: node}, label)
        return self._grid(arrays_along(node, self.features, self.argument, self.path), label)

    def _grid(self, arrays: Mapping[str, Any], label: str) -> GridSource:
        check_features(self.features, {name: dimension_names(a) for name, a in arrays.items()}, self.argument, label)
        columns = [self._column(name, array) for name, array in arrays.items()]
        _fit_cells(columns)
        first = next(iter(arrays.values()))
        axes = [axis for axis in range(len(first.shape)) if axis != columns[0].axis]
        beside = partial(coordinates_of_dataset, first.file.filename, first.name, axes)
        return GridSource(columns, kind="hdf5", root=label, argument=self.argument, beside=beside)

    def _column(self, name: str, dataset: Any) -> Column:
        stored = Hdf5Array(dataset, argument=self.argument, missing_chunks=self.missing_chunks)
        if self.features is None or self.features not in stored.dimensions:
            return Column(stored, None, (name,))
        axis = stored.dimensions.index(self.features)
        if len(stored.shape) == 1:
            raise OptionError(
                "`features`", "leave a dimension for the rows", f"{self.features!r}, the only one of {name!r}",
                "Name data sets of more dimensions.",
            )  # fmt: skip
        return Column(stored, axis, self._labels(name, dataset, axis))

    def _labels(self, name: str, dataset: Any, axis: int) -> tuple[str, ...]:
        """Return names of features along a dimension: by its coordinate, "T[depth=10.0]", or numbered, "T[0]"."""
        n, scale = dataset.shape[axis], scale_of(dataset, axis)
        if scale is not None and scale.shape == (n,) and scale.dtype.kind in "iuf":
            found = packing(attributes_of(scale), scale.dtype)
            values = scale[()] if found is None else found.decode(scale[()])
            return labels_along(name, str(self.features), n, values)
        return labels_along(name, str(self.features), n)


def _fit_cells(columns: list[Column]) -> None:
    """Set the cells in which contiguous data sets are read: those of the chunks beside them, or rows in C order."""
    stored: list[tuple[Column, Hdf5Array]] = [(c, c.stored) for c in columns if isinstance(c.stored, Hdf5Array)]
    chunks = [column.points(array.chunks) for column, array in stored if array.is_chunked]
    for column, array in stored:
        if array.is_chunked:
            continue
        shape = column.points(array.shape)
        alike = [one for one in chunks if len(one) == len(shape)]
        cell = tuple(map(max, zip(*alike, strict=True))) if alike else _run(shape)
        lengths = list(cell)
        if column.axis is not None:
            lengths.insert(column.axis, array.shape[column.axis])
        array.chunks = tuple(lengths)


def _run(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the largest cell of a grid that is one run of points in C order, of at most about a MiB a feature."""
    for axis in range(len(shape)):
        inner = max(1, prod(shape[axis + 1 :]))
        if inner <= _POINTS:
            return (*(1 for _ in shape[:axis]), max(1, min(shape[axis], _POINTS // inner)), *shape[axis + 1 :])
    return tuple(1 for _ in shape)
