"""Pure planning: how rows are cut into partitions and runs. Integers in, integers out; nothing is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.int64]

MIB = 1 << 20
#: Least decoded bytes of a partition that a cluster works on, and of one in this process.
PARTITION_BYTES = 64 * MIB
IN_PROCESS_BYTES = 4 * MIB
#: Partitions of a pass at most: the scheduler's time is 1 to 3 ms for each.
MAX_PARTITIONS = 3000
#: A partition reads this many times the bytes of the state that it returns.
BYTES_PER_STATE_BYTE = 50
#: Decoded bytes of a run, what a task reads at once while it computes on the one before.
RUN_BYTES = 16 * MIB
#: States that one merge adds up; the tree is part of what makes a result reproducible to the bit.
FAN_IN = 8


def partition_edges(chunk_edges: Edges, *, row_bytes: int, state_bytes: int, travels: bool) -> Edges:
    """Return the rows at which partitions begin, and the end: (n_partitions + 1,), int64.

    Parameters
    ----------
    chunk_edges : (n_chunks + 1,), int64
        Rows at which chunks begin, and the end. A partition is a run of whole chunks.
    row_bytes : int
        Decoded bytes of a row.
    state_bytes : int
        Bytes of the state that a partition returns.
    travels : bool
        Whether tasks may run in other processes. An array in this process has smaller partitions.

    Notes
    -----
    The rows are cut into as few equal partitions as have at most max(64 MiB, 50 state_bytes, a 3000th of all bytes)
    each, rounded up to whole chunks, and to four partitions or a multiple where a state allows it: a function of data
    and model alone, never of the workers, so that the sums are added in the same order everywhere.
    """
    total = int(chunk_edges[-1]) * row_bytes
    least = PARTITION_BYTES if travels else IN_PROCESS_BYTES
    target = max(least, BYTES_PER_STATE_BYTE * state_bytes, -(-total // MAX_PARTITIONS))
    n_partitions = max(1, -(-total // target))
    fours = -(-n_partitions // 4) * 4
    if n_partitions > 1 and total >= fours * BYTES_PER_STATE_BYTE * state_bytes:
        # Three partitions would keep two workers busy for two thirds of the time.
        n_partitions = fours
    lengths = np.diff(chunk_edges)
    if (lengths[:-1] == lengths[0]).all() and lengths[-1] <= lengths[0]:
        # Chunks of equal length make partitions of equal length, to which an output's chunks can be aligned.
        step = -(-len(lengths) // n_partitions)
        return np.append(chunk_edges[:-1:step], chunk_edges[-1])
    wanted = np.arange(n_partitions) * (int(chunk_edges[-1]) / n_partitions)
    begins = np.unique(np.searchsorted(chunk_edges, wanted))
    return np.append(chunk_edges[begins[begins < len(lengths)]], chunk_edges[-1])


def run_edges(chunk_edges: Edges, start: int, stop: int, *, row_bytes: int) -> list[int]:
    """Return the rows at which the runs of the partition [start, stop) begin, and its end.

    A run is at most 16 MiB decoded, and never less than the rows between two chunk edges.
    """
    low, high = np.searchsorted(chunk_edges, [start, stop])
    n_rows, chosen = max(1, RUN_BYTES // max(1, row_bytes)), [int(low)]
    while chosen[-1] < high:
        furthest = int(np.searchsorted(chunk_edges, chunk_edges[chosen[-1]] + n_rows, side="right")) - 1
        chosen.append(min(max(furthest, chosen[-1] + 1), int(high)))
    return [int(e) for e in chunk_edges[chosen]]
