"""Rows drawn from a mixture, written as a Zarr array in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr

from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.sampling import sample_blocks
from daskgmm.stores.targets import ATTRIBUTE
from daskgmm.stores.writing import whole_or_nothing
from daskgmm.stores.zarr_rows import incomplete_array

#: Bytes of a chunk, the rows that are drawn at once. It is part of what the rows of a seed are.
CHUNK_BYTES = 8 << 20


def write_sample(
    parameters: Parameters,
    n_rows: int,
    output: str,
    *,
    labels: str | None = None,
    seed: int,
    record: dict[str, Any],
    result: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Write rows drawn from a mixture, in random order, and their components.

    Parameters
    ----------
    output : str
        Path or URL of the Zarr array, (n_rows, n_features), float64; what is there is replaced.
    labels : str, optional
        Path or URL of the Zarr array of components, (n_rows,), int32.
    record : dict
        JSON that identifies model and options; kept in the attributes of both, beside "array": "rows" or "labels".
    result : callable, optional
        Gives what the attributes of the rows are to say as "result"; called when all rows are written.

    Raises
    ------
    OutputError
        An output cannot be written.

    Notes
    -----
    A local output is written beside its place and renamed at the end; at a URL its attribute says complete at the end.
    Peak memory: three chunks of 8 MiB.
    """
    length = max(1, CHUNK_BYTES // (8 * parameters.n_features))
    own = {**record, "array": "rows"}
    with _written(output, (n_rows, parameters.n_features), "f8", length, own, result) as rows:
        if labels is None:
            _fill(parameters, n_rows, seed, length, rows, None)
        else:
            with _written(labels, (n_rows,), "i4", length, {**record, "array": "labels"}) as components:
                _fill(parameters, n_rows, seed, length, rows, components)


def _fill(
    parameters: Parameters, n_rows: int, seed: int, length: int, rows: zarr.Array[Any], labels: zarr.Array[Any] | None
) -> None:
    start = 0
    for X, components in sample_blocks(parameters, n_rows, np.random.RandomState(seed), length=length):
        rows[start : start + len(X)] = X
        if labels is not None:
            labels[start : start + len(X)] = components.astype(np.int32)
        start += len(X)


@contextmanager
def _written(
    output: str,
    shape: tuple[int, ...],
    dtype: str,
    length: int,
    record: dict[str, Any],
    result: Callable[[], Mapping[str, Any]] | None = None,
) -> Iterator[zarr.Array[Any]]:
    """Provide a new array, and put it in its place, marked complete, when the block has ended well."""
    with whole_or_nothing(output) as place:
        chunks = (min(length, shape[0]), *shape[1:])
        array = incomplete_array(place, shape=shape, chunks=chunks, dtype=dtype)
        yield array
        found = {} if result is None else {"result": dict(result())}
        array.attrs[ATTRIBUTE] = {"complete": True, **record, **found}
