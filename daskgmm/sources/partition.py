"""Pure planning: how rows are cut into partitions and runs. Integers in, integers out; nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import overload

import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.int64]

MIB = 1 << 20
#: Least decoded bytes of a partition that a cluster works on, and of one in this process where there are many.
PARTITION_BYTES = 64 * MIB
IN_PROCESS_BYTES = 4 * MIB
#: Partitions of an array in memory that would be fewer of that size: few rows can be a second's work.
FEW_IN_PROCESS = 16
#: Products of features, rows times numbers of Phi, of such a partition at least: some 0.7 ms of eight components.
#: (Python takes 0.1 ms for a partition, and threads wait for each other meanwhile.)
PARTITION_PRODUCTS = 140_000
#: Such partitions are whole multiples of so many rows, or of a tile where that is shorter.
WHOLE_ROWS = 1024
#: Partitions of a pass at most: the scheduler's time is 1 to 3 ms for each. In this process there is none to wait for,
#: and 256 keep the threads of any machine busy.
MAX_PARTITIONS = 3000
#: Most decoded bytes of a partition: so data beyond 24 TB, a pass over which takes minutes, make more partitions than
#: that, and can keep thousands of threads busy.
GREATEST_BYTES = 8 << 30
MAX_IN_PROCESS = 256
#: Operations of a pass in this process that are worth more than one task, some 1.5 ms on one core: below them loops are
#: not compiled, and threads wait for the interpreter more than they gain. Then those of a task, of which each thread is
#: to have one (it takes 0.1 ms for it); and those of which it has several, in case some take long.
PASS_FLOPS, LEAST_TASK_FLOPS, TASK_FLOPS = 1.5e7, 2.5e6, 2.5e7
#: A task reads this many times the bytes of the states that it returns.
BYTES_PER_STATE_BYTE = 50
#: Decoded bytes of a run, what a task reads at once while it computes on the one before.
RUN_BYTES = 16 * MIB
#: The first run of a partition has a sixteenth of it, as nothing can be computed meanwhile; the next ones double.
FIRST_RUN = 16
#: States that one merge task adds up: three levels of the binary tree, which alone decides the bits of a sum.
FAN_IN = 8
#: Subtrees at most whose results a checkpoint keeps one by one; a pass of more tasks has at least half as many. More
#: would cost more states in memory and in the checkpoint, fewer would lose more work where a pass is interrupted.
MOST_ROOTS = 64


def partition_edges(chunk_edges: Edges, *, row_bytes: int, travels: bool) -> Edges:
    """Return the rows at which partitions begin, and the end: (n_partitions + 1,), int64.

    Parameters
    ----------
    chunk_edges : (n_chunks + 1,), int64
        Rows at which chunks begin, and the end. A partition is a run of whole chunks.
    row_bytes : int
        Decoded bytes of a row.
    travels : bool
        Whether tasks may run in other processes. An array in this process has smaller partitions.

    Notes
    -----
    The rows are cut into as few equal partitions as have at most max(64 MiB, a 3000th of all bytes) each, and 8 GiB (in
    this process max(4 MiB, a 256th)), rounded up to whole chunks, and to four partitions or a multiple: a function of
    the data alone, so that sums are added in the same order for any model, in any company, on any workers.
    """
    total = int(chunk_edges[-1]) * row_bytes
    least, most = (PARTITION_BYTES, MAX_PARTITIONS) if travels else (IN_PROCESS_BYTES, MAX_IN_PROCESS)
    n_partitions = max(1, -(-total // min(max(least, -(-total // most)), GREATEST_BYTES)))
    if n_partitions > 1:
        # Three partitions would keep two workers busy for two thirds of the time.
        n_partitions = -(-n_partitions // 4) * 4
    length = regular_length(chunk_edges)
    if length is not None:
        # Chunks of equal length make partitions of equal length, to which an output's chunks can be aligned.
        step = -(-(len(chunk_edges) - 1) // n_partitions)
        return np.append(chunk_edges[:-1:step], chunk_edges[-1])
    wanted = np.arange(n_partitions) * (int(chunk_edges[-1]) / n_partitions)
    begins = np.unique(np.searchsorted(chunk_edges, wanted))
    return np.append(chunk_edges[begins[begins < len(chunk_edges) - 1]], chunk_edges[-1])


def is_cut_finely(n_bytes: int) -> bool:
    """Return whether an array in memory has fewer than 16 partitions of the usual size: its chunks are partitions."""
    return n_bytes <= FEW_IN_PROCESS * IN_PROCESS_BYTES


def rows_of_partition(n_rows: int, n_features: int, tile_rows: int) -> int:
    """Return the rows of each partition of such an array: it is cut into about 1, 2, 4, 8 or 16 equal parts.

    About as many rows as are worth a thread's time, a tile at least and as many rows as features, or states would take
    longer to add than to make. A function of the data alone, too: how many of them a task does changes no bits.
    """
    least = max(PARTITION_PRODUCTS // ((n_features + 1) * (n_features + 2) // 2), tile_rows, n_features)
    n = 1
    while n < FEW_IN_PROCESS and n_rows > sqrt(2) * n * least:
        n *= 2
    # (A product with a rest of a tile takes longer than its rows are worth, but not where features are few.)
    whole = min(tile_rows, WHOLE_ROWS)
    return -(-n_rows // (n * whole)) * whole


def regular_length(edges: Edges) -> int | None:
    """Return the rows between neighbouring edges where they are the same everywhere (the last ones may be fewer)."""
    lengths = np.diff(edges)
    return int(lengths[0]) if (lengths[:-1] == lengths[0]).all() and lengths[-1] <= lengths[0] else None


def partitions_per_task(n_partitions: int, *, partition_bytes: int, state_bytes: int, n_threads: int) -> int:
    """Return how many neighbouring partitions a task does: a power of two.

    As few as read 50 times the bytes of the states that the task returns (all candidates of a pass), so that states
    between workers are at most 2% of the bytes read; but never so many that a thread would be without a task. It
    changes no bits: a task reduces its partitions by the same binary tree.
    """
    n = 1
    while (
        n < n_partitions
        and n * partition_bytes < BYTES_PER_STATE_BYTE * state_bytes
        and -(-n_partitions // (2 * n)) >= n_threads
    ):
        n *= 2
    return n


def partitions_per_task_here(n_partitions: int, *, n_rows: int, state_bytes: int, n_threads: int) -> int:
    """Return how many neighbouring partitions a task in this process does: a power of two, all where they are little.

    A row costs some four operations for each number of the states.
    """
    flops, n = 4 * n_rows * (state_bytes / 8), 1
    n_tasks = max(-(-flops // TASK_FLOPS), min(n_threads, -(-flops // LEAST_TASK_FLOPS))) if flops >= PASS_FLOPS else 1
    while n < n_partitions and -(-n_partitions // n) > n_tasks:
        n *= 2
    return n


@dataclass(frozen=True)
class Runs(Sequence[int]):
    """The rows at which runs begin, and the end: arithmetic, as a partition may have thousands.

    They double from `least` rows to `step`, of which all others have: nothing is computed while the first is read.
    """

    start: int
    stop: int
    least: int
    step: int

    @property
    def _n_growing(self) -> int:
        return max(0, (-(-self.step // self.least) - 1).bit_length())

    def _from_start(self, index: int) -> int:
        growing = min(index, self._n_growing)
        return ((1 << growing) - 1) * self.least + (index - growing) * self.step

    def __len__(self) -> int:
        growing, n_rows = self._n_growing, self.stop - self.start
        if n_rows <= self._from_start(growing):
            return (-(-n_rows // self.least)).bit_length() + 1
        return growing - (self._from_start(growing) - n_rows) // self.step + 1

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return [self[i] for i in found]
        return min(self.start + self._from_start(found), self.stop)


def runs_of(run_edges: Edges, bounds: Edges, *, row_bytes: int) -> list[Sequence[int]]:
    """Return for each of the partitions between `bounds` the rows at which its runs begin, and its end.

    A run is at most 16 MiB decoded, the first of a partition a sixteenth of it, and never less than the rows between
    two of the edges at which runs may begin (`Source.run_edges`).
    """
    pairs = list(pairwise(bounds.tolist()))
    length, n_rows = regular_length(run_edges), max(1, RUN_BYTES // max(1, row_bytes))
    least = max(1, n_rows // FIRST_RUN)
    if length is None:
        return [_uneven_runs(run_edges, a, b, least, n_rows) for a, b in pairs]
    least, step = (max(1, n // length) * length for n in (least, n_rows))
    # (A hundred questions to `Runs` would take a tenth of a pass over a few thousand rows.)
    return [(a, b) if b - a <= least else Runs(a, b, least, step) for a, b in pairs]


def _uneven_runs(run_edges: Edges, start: int, stop: int, least: int, most: int) -> tuple[int, ...]:
    # (A partition that is aligned to an output begins between two edges.)
    inside = run_edges[np.searchsorted(run_edges, start, side="right") : np.searchsorted(run_edges, stop)]
    edges = np.concatenate([[start], inside, [stop]])
    chosen, n_rows, last = [0], least, len(edges) - 1
    while chosen[-1] < last:
        furthest = int(np.searchsorted(edges, edges[chosen[-1]] + n_rows, side="right")) - 1
        chosen.append(min(max(furthest, chosen[-1] + 1), last))
        n_rows = min(2 * n_rows, most)
    return tuple(int(e) for e in edges[chosen])
