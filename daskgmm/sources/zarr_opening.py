"""Zarr by path, by URL or open: the rows of one array, or the points of a grid."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import zarr

from daskgmm.errors import DataError, OptionError
from daskgmm.sources.conventions import dimension_names, packing_of
from daskgmm.sources.coordinates import coordinates_of_group
from daskgmm.sources.failures import retried
from daskgmm.sources.grid_source import Column, GridSource, check_features, labels_along
from daskgmm.sources.source import Source
from daskgmm.sources.zarr_array import ZarrArray, refuse_older
from daskgmm.sources.zarr_group import array_in, arrays_along, arrays_called, member
from daskgmm.sources.zarr_locating import locate, location_of
from daskgmm.sources.zarr_location import ZarrLocation
from daskgmm.sources.zarr_reader import ZarrReader
from daskgmm.sources.zarr_source import ZarrSource

#: The formats of model files, whole and unfinished (`daskgmm.stores.model_file`), whose arrays are no rows.
MODEL_FORMATS = ("daskgmm-model", "daskgmm-model-unfinished")

Place = Callable[[zarr.Array[Any]], ZarrLocation | None]


def open_location(
    location: str,
    *,
    columns: tuple[str, ...] | None = None,
    array: str | None = None,
    features: str | None = None,
    argument: str = "X",
    missing_chunks: str | None = None,
) -> Source:
    """Return the source at a path or URL: see `Asked`.

    Raises
    ------
    InputMissingError, OptionError, DataError
        See `daskgmm.sources.opening.open_rows`.
    """
    place = locate(location, argument=argument)
    node = place.open(argument=argument)

    def placed(found: zarr.Array[Any]) -> ZarrLocation:
        return replace(place, path=found.path)

    return Asked(columns, array, features, argument, missing_chunks, place.label, True, placed).source(node)


def open_node(
    node: zarr.Array[Any] | zarr.Group,
    *,
    columns: tuple[str, ...] | None = None,
    array: str | None = None,
    features: str | None = None,
    argument: str = "X",
    missing_chunks: str | None = None,
) -> Source:
    """Return the source of an open array or group: see `Asked`."""
    location, kind = location_of(node), type(node.store_path.store).__name__
    label = location.label if location is not None else f"{kind} of this process"

    def placed(found: zarr.Array[Any]) -> ZarrLocation | None:
        own = location_of(found)
        if own is not None:  # (else no task opens it anew)
            refuse_older(found, argument, own.label)
        return own

    return Asked(columns, array, features, argument, missing_chunks, label, False, placed).source(node)


@dataclass(frozen=True)
class Asked:
    """What is asked of an array or a group.

    With `columns` each is an array of a group, each point of their grid is a row, and each array a feature. With
    `features` each index of that dimension is one, of each array that has it. Otherwise rows are those of one array,
    (n_rows, n_features), which `array` may name.

    Attributes
    ----------
    columns, array, features, argument, missing_chunks
        As for `daskgmm.sources.opening.open_rows`.
    label : str
        How messages name the array or group.
    by_path : bool
        Whether it was given by its path or URL, which `label` is.
    placed : callable
        Gives the location of an array.
    """

    columns: tuple[str, ...] | None
    array: str | None
    features: str | None
    argument: str
    missing_chunks: str | None
    label: str
    by_path: bool
    placed: Place

    def source(self, node: zarr.Array[Any] | zarr.Group) -> Source:
        if isinstance(node, zarr.Group) and self.array is None and node.attrs.get("format") in MODEL_FORMATS:
            raise DataError(
                f"`{self.argument}`", "be data", f"a model of daskgmm, {self.label}",
                "Name the data here; a model goes to `GaussianMixture.load`.",
            )  # fmt: skip
        if self.columns is None and (self.features is None or self.array is not None or isinstance(node, zarr.Array)):
            found = array_in(node, self.array, self.argument, self.label, by_path=self.by_path)
            if self.features is None:
                return ZarrSource(found, self.placed(found), argument=self.argument, missing_chunks=self.missing_chunks)
            # (The root of a store has no name but the store's.)
            name = found.basename or os.path.splitext(os.path.basename(self.label))[0]
            return self._grid({name: found}, node)
        if isinstance(node, zarr.Array) or self.array is not None:
            raise OptionError(
                "`columns`",
                f"be left out where `{self.argument}` is one array",
                f"columns={list(self.columns or ())} with {self.label}"
                + ("" if self.array is None else f" and array={self.array!r}"),
                "Leave it out, or give the group alone.",
            )
        if self.columns is not None:
            return self._grid(arrays_called(node, self.columns, self.argument, self.label), node)
        return self._grid(arrays_along(node, str(self.features), self.argument, self.label), node)

    def _grid(self, arrays: dict[str, zarr.Array[Any]], node: zarr.Array[Any] | zarr.Group) -> GridSource:
        check_features(
            self.features, {name: dimension_names(a) for name, a in arrays.items()}, self.argument, self.label
        )
        group = node if isinstance(node, zarr.Group) else None
        columns = [self._column(name, array, group) for name, array in arrays.items()]
        beside = None if group is None else partial(coordinates_of_group, group)
        return GridSource(columns, kind="zarr", root=self.label, argument=self.argument, beside=beside)

    def _column(self, name: str, array: zarr.Array[Any], group: zarr.Group | None) -> Column:
        given = self.argument if group is None else f"{self.argument}[{name!r}]"
        stored = ZarrArray(
            array, self.placed(array), argument=self.argument, given=given, missing_chunks=self.missing_chunks
        )
        if self.features is None or self.features not in stored.dimensions:
            return Column(stored, None, (name,))
        axis = stored.dimensions.index(self.features)
        if len(stored.shape) == 1:
            raise OptionError(
                "`features`", "leave a dimension for the rows", f"{self.features!r}, the only one of {name!r}",
                "Name arrays of more dimensions.",
            )  # fmt: skip
        return Column(stored, axis, self._labels(name, stored.shape[axis], group))

    def _labels(self, name: str, n: int, group: zarr.Group | None) -> tuple[str, ...]:
        """Return names of features along a dimension: by its coordinate, "T[depth=10.0]", or numbered, "T[0]"."""
        coordinate = None if group is None else member(group, str(self.features))
        if isinstance(coordinate, zarr.Array) and coordinate.shape == (n,) and coordinate.dtype.kind in "iuf":
            reader = ZarrReader(
                self.placed(coordinate), coordinate.name, coordinate.shape, np.dtype(coordinate.dtype).str, True,
                packing_of(coordinate), array=coordinate,
            )  # fmt: skip
            values = retried(lambda: reader.read(0, n), reader, 0, n)[:, 0]
            return labels_along(name, str(self.features), n, values)
        return labels_along(name, str(self.features), n)
