"""Tasks that workers die at.

A scheduler gives a task up when workers that had it in their queues have died a few times
(`distributed.scheduler.allowed-failures`). That is the task that kills workers, or one that was waiting behind it. To
find out which, each of them runs alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Self

from daskgmm.errors import ClusterError
from daskgmm.passes.rows import Rows

#: Tasks at most that are tried one by one.
_MOST_ALONE = 16

logger = logging.getLogger("daskgmm")


class WorkersDiedError(ClusterError):
    """Several workers died, one after the other, that had the same tasks: `keys`, of which one or none is to blame."""

    keys: Sequence[Any] = ()

    @classmethod
    def at(cls, keys: Sequence[Any], how: str = "", why: str = "something outside kills them") -> Self:
        """Return the error that says how workers died, and what it may come of beside a lack of memory."""
        found = cls(
            "Workers",
            "stay alive",
            f"several that died {how or f'while running the task {keys[0]!r}'}",
            f"Likely they have too little memory, or {why}. Give them more memory or fewer threads, look at their "
            "logs, and run the same command again; a fit with a checkpoint goes on from it.",
        )
        found.keys = keys
        return found


def try_alone(died: WorkersDiedError, rows: Rows, run: Callable[[int], object]) -> WorkersDiedError:
    """Run the tasks of a pass at which workers died one by one; where all succeed, return the error that says so.

    Parameters
    ----------
    died : WorkersDiedError
    rows : Rows
    run : callable
        Runs a task of the pass, by its number, and nothing beside it.

    Raises
    ------
    WorkersDiedError
        Workers die at a task that runs alone too; the error names its rows.
    """
    numbers = _numbers(died.keys)
    if not numbers:
        raise died  # (at a task of a Dask array that is the input: its key says more than we know)
    where = f"{', '.join(_place(i, rows) for i in numbers[:3])}{', ...' if len(numbers) > 3 else ''} of {rows.X.label}"
    logger.warning("Several workers died while running tasks for %s. Each task is now retried alone.", where)
    for i in numbers[:_MOST_ALONE]:
        try:
            run(i)
        except WorkersDiedError as again:
            part = f"{_place(i, rows)} of {rows.X.label} (part {i + 1} of {rows.n_tasks} of a pass)"
            raise WorkersDiedError.at(again.keys, f"at {part}", "a damaged file there crashes a codec") from again
    return WorkersDiedError.at(died.keys, f"while running tasks for {where}; each task succeeds when run alone")


def _numbers(keys: Sequence[Any]) -> list[int]:
    """Return the numbers of those tasks that read rows, in order, each once."""
    found = [
        key[1]
        for key in keys
        if isinstance(key, tuple) and str(key[0]).startswith(("daskgmm-partition-", "daskgmm-fill-"))
    ]
    return list(dict.fromkeys(found))


def _place(i: int, rows: Rows) -> str:
    first, last = rows.edges[i * rows.per_task], rows.edges[min((i + 1) * rows.per_task, rows.n_partitions)]
    return f"rows {first} to {last}"
