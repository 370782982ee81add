"""Rows drawn from a mixture, written as a Zarr array or a folder of Parquet files in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.sampling import sample_blocks
from daskgmm.stores.parquet_parts import Parts, check_kind, is_parquet
from daskgmm.stores.targets import ATTRIBUTE
from daskgmm.stores.writing import whole_or_nothing
from daskgmm.stores.zarr_rows import incomplete_array

#: Bytes of a chunk or file, the rows that are drawn at once. It is part of what the rows of a seed are.
CHUNK_BYTES = 8 << 20

Write = Callable[[int, NDArray[Any]], None]


def write_sample(
    parameters: Parameters,
    n_rows: int,
    output: str,
    *,
    labels: str | None = None,
    seed: int,
    record: dict[str, Any],
    names: Sequence[str] | None = None,
    result: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Write rows drawn from a mixture, in random order, and their components.

    The rows are the same whatever they are written as.

    Parameters
    ----------
    output : str
        Path or URL of the Zarr array, (n_rows, n_features), float64, or path of a folder of Parquet files where it ends
        as these do; what is there is replaced.
    labels : str, optional
        Path or URL of the components, (n_rows,), int32, likewise.
    record : dict
        JSON that identifies model and options; kept in the attributes of both, beside "array": "rows" or "labels".
    names : sequence of str, optional
        Columns of Parquet files; without, they are x0, x1, and so on.
    result : callable, optional
        Gives what the attributes of the rows are to say as "result"; called when all rows are written.

    Raises
    ------
    OutputError
        An output cannot be written.

    Notes
    -----
    A local output is written beside its place and renamed at the end; at a URL its attribute says complete at the end.
    Peak memory: four chunks of 8 MiB.
    """
    d = parameters.n_features
    length, called = max(1, CHUNK_BYTES // (8 * d)), tuple(names or (f"x{i}" for i in range(d)))
    own = {**record, "array": "rows"}
    with _written(output, (n_rows, d), "<f8", called, length, own, result) as write_rows:
        if labels is None:
            _fill(parameters, n_rows, seed, length, write_rows, None)
        else:
            with _written(labels, (n_rows,), "<i4", ("label",), length, {**record, "array": "labels"}) as write_labels:
                _fill(parameters, n_rows, seed, length, write_rows, write_labels)


def _fill(
    parameters: Parameters, n_rows: int, seed: int, length: int, write_rows: Write, write_labels: Write | None
) -> None:
    start = 0
    for X, components in sample_blocks(parameters, n_rows, np.random.RandomState(seed), length=length):
        write_rows(start, X)
        if write_labels is not None:
            write_labels(start, components.astype(np.int32))
        start += len(X)


@contextmanager
def _written(
    output: str,
    shape: tuple[int, ...],
    dtype: str,
    names: tuple[str, ...],
    length: int,
    record: dict[str, Any],
    result: Callable[[], Mapping[str, Any]] | None = None,
) -> Iterator[Write]:
    """Provide what writes rows from a row on, and put all in its place, complete, when the block has ended well."""

    def complete() -> dict[str, Any]:
        return {"complete": True, **record, **({} if result is None else {"result": dict(result())})}

    check_kind(output)
    with whole_or_nothing(output) as place:
        if is_parquet(output):
            starts = np.append(np.arange(0, shape[0], length, dtype=np.int64), np.int64(shape[0]))
            parts = Parts(starts, names, (dtype,) * len(names))
            parts.make(place, None)
            yield partial(parts.write, place)
            parts.complete(place, complete())
            return
        array = incomplete_array(place, shape=shape, chunks=(min(length, shape[0]), *shape[1:]), dtype=dtype)

        def write(start: int, values: NDArray[Any]) -> None:
            array[start : start + len(values)] = values

        yield write
        array.attrs[ATTRIBUTE] = complete()
