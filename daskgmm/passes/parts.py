"""A pass in parts, each by a process that knows nothing of the others: which subtrees it computes, and their sum.

A part is a run of whole subtrees of the tree of partial sums (`tree`). So whoever adds up all parts, in whatever order
they come, does the additions that a pass over all rows does, and gets its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from dask.local import get_sync

from daskgmm.errors import OptionError
from daskgmm.mixture.record import Record
from daskgmm.passes.executor import Executor
from daskgmm.passes.fingerprint import fingerprints
from daskgmm.passes.local_executor import LocalExecutor, compute_here
from daskgmm.passes.rows import Rows
from daskgmm.passes.task import Partial, Pass
from daskgmm.passes.tree import pass_graph

#: A part is at least so many subtrees of one size, where there are enough: none has more than an eighth more to do.
SUBTREES = 8


@dataclass(frozen=True)
class Subtree(Record):
    """What a pass found in the partitions of a subtree.

    Attributes
    ----------
    begin, end : int
        Its partitions: a power of two of them from a multiple of it on, or all to the last one.
    partial : Partial
    """

    begin: int
    end: int
    partial: Any


def share(number: int, n_parts: int, n_partitions: int) -> tuple[int, int]:
    """Return the first partition of a part, numbered from 1, and the one after its last.

    Raises
    ------
    OptionError
        There are fewer partitions than parts.
    """
    if n_parts > n_partitions:
        raise OptionError(
            "`part`",
            f"be of no more parts than the rows have partitions, {n_partitions}",
            f"{n_parts} parts",
            f"Take {n_partitions}, or fewer.",
        )
    size = 1
    while n_partitions // (2 * size) >= SUBTREES * n_parts:
        size *= 2
    n = -(-n_partitions // size)
    first, last = ((i * n // n_parts) * size for i in (number - 1, number))
    return first, min(last, n_partitions)


def subtrees(begin: int, end: int, n_partitions: int) -> list[tuple[int, int]]:
    """Return the largest subtrees that some partitions are made of, each by its first and the one after its last."""
    found = []
    while begin < end:
        size = 1
        while begin % (2 * size) == 0 and (begin + 2 * size <= end or begin + size < end == n_partitions):
            size *= 2
        found.append((begin, min(begin + size, end)))
        begin += size
    return found


def compute_part(work: Pass[Any], rows: Rows, begin: int, end: int) -> list[Subtree]:
    """Return what a pass finds in the partitions from `begin` to `end`, by this thread alone."""
    return [
        Subtree(first, last, _computed(work, _among(rows, first, last)))
        for first, last in subtrees(begin, end, rows.n_partitions)
    ]


def stamps_of(rows: Rows, begin: int, end: int, executor: Executor | None = None) -> list[str]:
    """Return the checksums of the stored form of some partitions (`fingerprints`)."""
    return fingerprints(_among(rows, begin, end), executor or LocalExecutor())


def added_up(
    found: Iterable[Subtree], merge: Callable[[Any, Any], Any] | None, n_partitions: int
) -> tuple[Subtree, ...]:
    """Return subtrees in the order of their partitions, neighbours of one level added, as far as they are there.

    Parameters
    ----------
    merge : callable or None
        Adds two states; None leaves all subtrees as they are.
    """
    done: list[Subtree] = []
    for each in sorted(found, key=lambda one: one.begin):
        done.append(each)
        while merge is not None and len(done) > 1 and _are_neighbours(done[-2], done[-1], n_partitions):
            right, left = done.pop(), done.pop()
            done.append(Subtree(left.begin, right.end, _sum(merge, left.partial, right.partial)))
    return tuple(done)


def _are_neighbours(left: Subtree, right: Subtree, n_partitions: int) -> bool:
    size = left.end - left.begin
    whole = right.end == min(left.end + size, n_partitions)
    return left.end == right.begin and whole and left.begin % (2 * size) == 0


def _sum(merge: Callable[[Any, Any], Any], a: Partial[Any], b: Partial[Any]) -> Partial[Any]:
    return Partial(merge(a.state, b.state), a.bytes_read + b.bytes_read, 0, a.n_repeats + b.n_repeats)


def _among(rows: Rows, begin: int, end: int) -> Rows:
    """Return the rows of some partitions, which are one task."""
    return replace(rows, edges=rows.edges[begin : end + 1], per_task=1 << (end - begin - 1).bit_length())


def _computed(work: Pass[Any], rows: Rows) -> Partial[Any]:
    graph, keys = pass_graph(work, rows, name=f"part-{uuid4().hex}")
    (partial,) = compute_here(get_sync, graph, keys, None)
    return replace(partial, bytes_kept=0)
