"""Arrays and data sets of xarray: points of a grid as rows, and predictions in the shape of what came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any
from uuid import uuid4

import numpy as np
from dask.task_spec import Task, TaskRef
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError, verbatim
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.columns import chosen
from daskgmm.sources.conventions import Beside, Packing, as_meant, packing
from daskgmm.sources.dask_source import DaskSource, as_dask_array
from daskgmm.sources.digest import digest
from daskgmm.sources.digits import refuse_lost_digits
from daskgmm.sources.grid import Grid
from daskgmm.sources.grid_source import check_features
from daskgmm.sources.source import Source, check_dtype, dense


def open_xarray(
    data: Any, *, columns: Sequence[str] | None = None, features: str | None = None, argument: str = "X"
) -> Source:
    """Return the source of an array or data set of xarray; of what is lazy nothing is read.

    A data set means all its data variables, or those that `columns` names: each point of their grid is a row, and each
    variable a feature. With `features` each index of that dimension is one, of each variable that has it. Otherwise an
    array is rows x features, or rows. Rows of what is lazy come chunk by chunk.

    Raises
    ------
    OptionError
        Columns of one array; an array of more than two dimensions without `features`; a dimension that is none.
    DataError
        No numbers; variables that lie on several grids; attributes that pack numbers by what is none.
    """
    if not hasattr(data, "data_vars"):
        if columns is not None:
            raise OptionError(
                "`columns`", f"be left out where `{argument}` is one array", "a DataArray of xarray",
                "Leave it out, or give the Dataset.",
            )  # fmt: skip
        of_a_grid = argument == "sample_weight" and data.ndim > 1 and data.shape[1:] != (1,)  # (a weight a point)
        if features is None and not of_a_grid:
            return _rows(data, argument)
        return _grid({"" if data.name is None else str(data.name): data}, data, features, argument)
    known = {str(name): array for name, array in data.data_vars.items()}
    names = chosen(columns, list(known), argument, "a Dataset of xarray")
    if not names:
        raise DataError(f"`{argument}`", "have a data variable", "a Dataset of xarray without", "Name its variables.")
    return _grid({name: known[name] for name in names}, data, features, argument)


def _rows(array: Any, argument: str) -> Source:
    """Return the source of an array of rows x features, or of rows."""
    if array.ndim > 2:
        by = " and ".join(map(repr, array.dims))
        raise OptionError(
            "`features`",
            f"name the dimension of `{argument}` along which its features lie",
            f"none for an array of xarray by {by}",
            f"Give daskgmm.open_rows({argument}, features={verbatim(repr(array.dims[-1]))}); or, where each point is a "
            f"row, {argument}.to_dataset(name='values').",
        )
    values, name = _meant(array, argument), array.name
    source = _source(values, argument)
    source.beside = Beside.of(array.attrs, array.dims)
    if array.ndim == 1:
        source.column_labels = [name] if isinstance(name, str) else None
    elif array.ndim == 2 and array.dims[1] in array.indexes:
        source.column_labels = list(array.indexes[array.dims[1]])
    if array.ndim:
        source.as_given = _Shape(array.dims[:1], _coordinates(array, array.dims[:1]), None)
    return source


def _source(values: Any, argument: str) -> Source:
    return DaskSource(values, argument=argument) if _is_lazy(values) else ArraySource(values, argument=argument)


def _is_lazy(values: Any) -> bool:
    return hasattr(values, "map_blocks")


def _meant(array: Any, argument: str) -> Any:
    """Return the numbers of an array, decoded where it was opened without (`mask_and_scale=False`)."""
    check_dtype(array.dtype, argument=argument, label="an array of xarray")
    kind = f"a {type(array).__name__} of xarray"
    packed = packing(array.attrs, array.dtype, where=f" of {kind}", raw=f"{argument}.data")
    Beside.of(array.attrs, array.dims).refuse_times(argument, kind, as_meant(f"{argument}.data", packed))
    values = as_dask_array(array.data) if _is_lazy(array.data) else array.data
    if packed is None:
        return values
    if not _is_lazy(values):
        return _decoded(values, packed)
    empty = np.empty((0,) * array.ndim, packed.dtype)
    return values.map_blocks(_decoded, packed, dtype=packed.dtype, meta=empty)


def _decoded(block: Any, packed: Packing) -> Any:
    block = dense(block)  # (What hides values is refused where rows are taken from it.)
    return packed.decode(block) if type(block) is np.ndarray else block


def _grid(arrays: Mapping[str, Any], whole: Any, features: str | None, argument: str) -> Source:
    """Return the source whose rows are the points of the grid that arrays share."""
    dims_of = {name: [str(one) for one in array.dims] for name, array in arrays.items()}
    check_features(features, dims_of, argument, f"a {type(whole).__name__} of xarray")
    first = next(iter(arrays.values()))
    dims = tuple(name for name in first.dims if name != features)
    labels, parts = [], []
    for name, array in arrays.items():
        if {one for one in array.dims if one != features} != set(dims) or not dims:
            raise DataError(
                f"Arrays that are features of `{argument}`", "lie on one grid of at least one dimension",
                _listed(arrays), "Name arrays by the same dimensions: columns=[...].",
            )  # fmt: skip
        own = array.transpose(*dims, *([features] if features in array.dims else []))
        labels += _labels(name, own, features)
        values = _meant(own, argument if name == "" else f"{argument}[{name!r}]")
        parts.append(values if values.ndim > len(dims) else values[..., np.newaxis])
    shape = tuple(int(n) for n in parts[0].shape[:-1])
    dtype = np.result_type(*(part.dtype for part in parts))
    lazy = next((part for part in parts if _is_lazy(part)), None)
    cell = shape if lazy is None else tuple(int(max(lengths)) for lengths in lazy.chunks[:-1])
    values = _stacked(parts, dtype) if lazy is None else _lazily_stacked(parts, cell, dtype)
    source = _source(values, argument)
    units = {array.attrs.get("units") for array in arrays.values()}
    source.beside = Beside.of({"units": units.pop()} if len(units) == 1 else {}, dims if len(dims) == 1 else ())
    source.column_labels, source.grid = labels, Grid(shape, cell, tuple(map(str, dims)), _points(whole, dims))
    source.as_given = _Shape(dims, _coordinates(whole, dims), source.grid)
    return source


def _labels(name: str, array: Any, features: str | None) -> list[str]:
    """Return names of an array's features: its own, or with the coordinate of each, "T[depth=10.0]", or a number."""
    if features is None or features not in array.dims:
        return [name]
    index = array.indexes.get(features)
    if index is None or not index.is_unique:
        return [f"{name}[{i}]" for i in range(array.sizes[features])]
    return [f"{name}[{features}={value}]" for value in index]


def _listed(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r} by {' and '.join(map(repr, a.dims)) or 'nothing'}" for name, a in arrays.items())


def _points(data: Any, dims: Sequence[Any]) -> tuple[str, ...]:
    """Return a checksum of the coordinates along each dimension; "" where one has none."""
    indexes = [data.indexes.get(name) for name in dims]
    return tuple("" if index is None else digest(index.to_numpy()) for index in indexes)


def _coordinates(data: Any, dims: Sequence[Any]) -> dict[Any, Any]:
    """Return the coordinates of some dimensions."""
    return {name: one for name, one in data.coords.items() if one.dims and set(one.dims) <= set(dims)}


def _stacked(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of a box of the grid as rows, (n_points, n_features); one array alone is not copied."""
    for part in parts:
        if dtype.kind == "f":
            refuse_lost_digits(part.reshape(-1, part.shape[-1]), first_row=None)
    rows = [part.reshape(-1, part.shape[-1]).astype(dtype, copy=False) for part in parts]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


def _lazily_stacked(parts: Sequence[Any], cell: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return the same of all points as a Dask array, chunk by chunk in C order of the chunks."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    chunks = (*cell, -1)
    arrays = [part.rechunk(chunks) if _is_lazy(part) else da.from_array(part, chunks=chunks) for part in parts]
    lengths, name = arrays[0].chunks[:-1], f"daskgmm-rows-{uuid4().hex}"
    layer: dict[Any, Any] = {}
    for i, place in enumerate(product(*(range(len(one)) for one in lengths))):
        key = (name, i, 0)
        layer[key] = Task(key, _stack, dtype, *(TaskRef((array.name, *place, 0)) for array in arrays))
    sizes = tuple(prod(one) for one in product(*lengths))
    n_features = sum(array.shape[-1] for array in arrays)
    graph = HighLevelGraph.from_collections(name, layer, dependencies=arrays)
    return da.Array(graph, name, (sizes, (n_features,)), dtype=dtype)


def _stack(dtype: np.dtype[Any], *parts: NDArray[Any]) -> NDArray[Any]:
    return _stacked([np.asarray(dense(part)) for part in parts], dtype)


@dataclass(frozen=True)
class _Shape:
    """Brings predictions of all rows into the shape of what they were made for.

    Attributes
    ----------
    dims : tuple
        Names of the dimensions of the rows.
    coordinates : dict
        Coordinates along them.
    grid : Grid or None
        The grid whose points are the rows, and their order; None where each row is one index of the only dimension.
    """

    dims: tuple[Any, ...]
    coordinates: dict[Any, Any]
    grid: Grid | None

    def __call__(self, values: Any, name: str) -> Any:
        """Return predictions, (n_rows,) or (n_rows, n_columns), as a DataArray, lazy where they are."""
        import xarray

        if self.grid is not None:
            values = _lazily_on(self.grid, values) if _is_lazy(values) else self.grid.to_grid(values)
        dims = (*self.dims, *(["component" if name == "proba" else "feature"] if values.ndim > len(self.dims) else []))
        return xarray.DataArray(values, dims=dims, coords=self.coordinates, name=name)


def _lazily_on(grid: Grid, values: Any) -> Any:
    """Return values of all rows as a Dask array of the grid, in chunks of its cells."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    lengths = tuple(
        tuple(min(length, n - low) for low in range(0, n, length))
        for n, length in zip(grid.shape, grid.cell, strict=True)
    )
    values = values.rechunk({0: tuple(prod(one) for one in product(*lengths)), **({1: -1} if values.ndim > 1 else {})})
    rest, name = tuple(values.shape[1:]), f"daskgmm-grid-{uuid4().hex}"
    layer: dict[Any, Any] = {}
    for i, place in enumerate(product(*(range(len(one)) for one in lengths))):
        shape = (*(one[j] for one, j in zip(lengths, place, strict=True)), *rest)
        key = (name, *place, *(0 for _ in rest))
        layer[key] = Task(key, np.reshape, TaskRef((values.name, i, *(0 for _ in rest))), shape)
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[values])
    return da.Array(graph, name, (*lengths, *((n,) for n in rest)), dtype=values.dtype)
