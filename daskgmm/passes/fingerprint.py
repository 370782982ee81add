"""Whether stored rows have changed during a fit, by the stamps of the files or objects that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
from dask.task_spec import DataNode, Task, TaskRef

from daskgmm.errors import DataError, verbatim
from daskgmm.passes.executor import Executor
from daskgmm.passes.rows import Rows
from daskgmm.passes.travel import check_travel
from daskgmm.sources.failures import retried
from daskgmm.sources.stamps import Stamper

#: Tasks at most that ask a store.
_MOST_TASKS = 256


def fingerprints(rows: Rows, executor: Executor) -> list[str]:
    """Return a checksum of the stored form of each partition; none where rows and weights are not stored.

    Only metadata are asked for. A folder of this machine is asked here (7 s for a million files): copies of it on other
    machines may have times of their own. A store at a URL is asked by tasks.
    """
    found = [source.stamper() for source in rows.sources]
    stampers = [stamper for stamper in found if stamper is not None]
    if not stampers:
        return []
    edges, n = rows.edges.tolist(), rows.n_partitions
    if not any(stamper.far for stamper in stampers):
        return _stamped(stampers, edges)
    check_travel(rows.sources, executor)
    bounds = np.linspace(0, n, min(n, _MOST_TASKS) + 1).astype(int).tolist()
    name = f"fingerprint-{uuid4().hex}"
    graph: dict[Any, Any] = {f"{name}-files": DataNode(f"{name}-files", stampers)}
    keys = [(name, i) for i in range(len(bounds) - 1)]
    for i, key in enumerate(keys):
        graph[key] = Task(key, _stamped, TaskRef(f"{name}-files"), edges[bounds[i] : bounds[i + 1] + 1])
    return [stamp for part in executor.compute(graph, keys, travels=rows.travels) for stamp in part]


def check_unchanged(before: Sequence[str], now: Sequence[str], rows: Rows, *, checkpoint: str | None) -> None:
    """Raise a DataError that names the first partition whose stored form has changed.

    Parameters
    ----------
    checkpoint : str or None
        Path or URL of the checkpoint that goes on from what was there before; None where nothing does.
    """
    changed = [i for i, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]
    if changed:
        first, more = changed[0], f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        when, then = "than when this began", "Run the same again, which reads all that is there then"
        if checkpoint is not None:
            when = "than when the checkpoint was written"
            then = f"Bring them back with their times, or remove {verbatim(checkpoint)} and run the same command again"
        raise DataError(
            "`X`",
            "stay as it is while it is read",
            f"other files for rows {rows.edges[first]} to {rows.edges[first + 1]} of {rows.X.label} {when}: "
            f"partition {first}{more}, of {rows.n_partitions}",
            f"{then}.",
        )


def _stamped(stampers: Sequence[Stamper], edges: Sequence[int]) -> list[str]:
    """Return a checksum for the rows between each two edges."""
    form = "".join(f"{retried(s.form, s, edges[0], edges[-1])}\n" for s in stampers).encode()
    found = []
    for start, stop in pairwise(edges):
        sha = hashlib.sha256(form)
        for stamper in stampers:
            for stamp in retried(partial(stamper.stamp, start, stop), stamper, start, stop):
                sha.update(f"{stamp}\n".encode())
        found.append(sha.hexdigest()[:16])
    return found
