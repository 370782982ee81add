"""Rows of several sources, one after the other: of files that together are one input."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, verbatim
from daskgmm.sources.digest import digest
from daskgmm.sources.failures import retried
from daskgmm.sources.grid import Grid
from daskgmm.sources.source import Reader, Source, told_apart
from daskgmm.sources.stamps import Stamper

#: Sources of which each task is told its own; fewer are told to all.
_FEW = 64


class JoinedSource(Source):
    """Rows of several sources, in order; tasks read those that hold their rows.

    Parameters
    ----------
    parts : sequence of Source
        At least one; those that come after the first must have its features, dtype, units and dimension.
    label : str
        How messages name all of them.
    argument : str
        What messages call the input.
    """

    def __init__(self, parts: Sequence[Source], *, label: str, argument: str = "X") -> None:
        first = parts[0]
        for part in parts[1:]:
            _refuse_other(part, first, argument)
        self.label = self.root = label
        self._parts = tuple(parts)
        self._begins = [0, *np.cumsum([part.n_rows for part in parts], dtype=np.int64).tolist()]
        self.n_rows, self.n_features, self.dtype = self._begins[-1], first.n_features, first.dtype
        self.travels = all(part.travels for part in parts)
        self.column_labels, self.beside = first.column_labels, first.beside
        grids = tuple(part.grid for part in parts if part.grid is not None)
        self.grid = JoinedGrid((self.n_rows,), (self.n_rows,), parts=grids) if len(grids) == len(parts) else None

    @property
    def places(self) -> list[str]:
        return [place for part in self._parts for place in part.places]

    @cached_property
    def chunk_edges(self) -> NDArray[np.int64]:
        inside = (part.chunk_edges[:-1] + begin for part, begin in zip(self._parts, self._begins[:-1], strict=True))
        return np.concatenate([*inside, np.array([self.n_rows])]).astype(np.int64)

    @property
    def chunk_bytes(self) -> int:
        return max(part.chunk_bytes for part in self._parts)

    def read_bytes(self, n_bytes: int) -> int:
        # (What a file gives is copied to its place where a run goes over the end of one.)
        return n_bytes + max(part.read_bytes(n_bytes) for part in self._parts)

    def rechunking(self, chunks: str) -> str:
        return self._parts[0].rechunking(chunks)

    def reader(self) -> JoinedReader:
        return JoinedReader(self.label, [part.reader() for part in self._parts], self._begins, self.dtype.str)

    def arguments(self, bounds: list[tuple[int, int]]) -> tuple[dict[str, Any], list[Any]]:
        if len(self._parts) <= _FEW:
            return super().arguments(bounds)
        return told_apart(self.reader(), bounds)

    def identity(self) -> dict[str, Any]:
        parts = [part.identity() for part in self._parts]
        return {
            **super().identity(),
            "kind": f"{parts[0]['kind']} files",
            "modified": max((str(part["modified"]) for part in parts if part.get("modified")), default=None),
            "columns": self.column_labels,
            "files": digest([repr(part) for part in parts]),
        }

    def stamper(self) -> Stamper | None:
        return self.reader() if self.travels else None


class JoinedReader(Reader, Stamper):
    """Reads rows of several sources, each by a reader of its own.

    Parameters
    ----------
    label : str
        How messages name all of them.
    readers : sequence of Reader
        Who reads each.
    begins : sequence of int
        Row at which each begins, and the end.
    dtype : str
        Of the rows.
    """

    def __init__(self, label: str, readers: Sequence[Reader], begins: Sequence[int], dtype: str) -> None:
        self._label, self._readers, self._begins, self._dtype = label, tuple(readers), tuple(begins), dtype

    def __str__(self) -> str:
        return self._label

    def among(self, start: int, stop: int) -> JoinedReader:
        """Return a reader of rows start to stop alone, which names no other sources."""
        low, high = bisect_right(self._begins, start) - 1, bisect_right(self._begins, stop - 1)
        return JoinedReader(self._label, self._readers[low:high], self._begins[low : high + 1], self._dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features).

        Raises
        ------
        DataError
            What holds some of them cannot be decoded, or is another one than it was; its rows are counted in it.
        """
        found = []
        for reader, low, high in self._asked(start, stop):
            found.append(retried(lambda r=reader, a=low, b=high: r.read(a, b), reader, low, high))  # type: ignore[misc]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def may_pass(self, error: Exception) -> bool:
        return False  # (each has been asked again already)

    @property
    def far(self) -> bool:
        return any(isinstance(reader, Stamper) and reader.far for reader in self._readers)

    def form(self) -> str:
        found = [reader.form() for reader in self._readers if isinstance(reader, Stamper)]
        return "\n".join(found) if any(found) else ""

    def stamp(self, start: int, stop: int) -> list[str]:
        return [
            one
            for reader, low, high in self._asked(start, stop)
            if isinstance(reader, Stamper)
            for one in reader.stamp(low, high)
        ]

    def _asked(self, start: int, stop: int) -> list[tuple[Reader, int, int]]:
        """Return whom to ask for rows start to stop, and for which of their own."""
        first = bisect_right(self._begins, start) - 1
        found = []
        for i in range(first, len(self._readers)):
            begin, end = self._begins[i], self._begins[i + 1]
            if begin >= stop:
                break
            if end > begin:
                found.append((self._readers[i], max(start, begin) - begin, min(stop, end) - begin))
        return found


@dataclass(frozen=True)
class JoinedGrid(Grid):
    """Points of several grids as rows, one grid after the other.

    Attributes
    ----------
    parts : tuple of Grid
        The grids.
    """

    parts: tuple[Grid, ...] = ()

    @property
    def is_in_c_order(self) -> bool:
        return all(part.is_in_c_order for part in self.parts)


def _refuse_other(part: Source, first: Source, argument: str) -> None:
    """Raise a DataError for a source that does not continue the first one."""
    said = [
        (f"{one.n_features} features", f"dtype {one.dtype}", f"features {one.column_labels}",
         f"units {one.beside.units}", f"rows along {one.beside.dimension!r}")
        for one in (part, first)
    ]  # fmt: skip
    other = next((both for both in zip(*said, strict=True) if both[0] != both[1]), None)
    if other is not None:
        raise DataError(
            f"Files of `{argument}`",
            "all have the features, the dtype and the units of the first",
            f"{other[0]} in {part.label}, {other[1]} in {first.label}",
            f"Give those of one kind by a pattern of their own, or write {verbatim(part.label)} again.",
        )
