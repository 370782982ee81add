"""Decoded rows that stay in the processes that decoded them, within a budget of bytes, for as long as a fit lasts."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal
from uuid import uuid4

from numpy.typing import NDArray

from daskgmm.passes.executor import Executor, Room
from daskgmm.passes.memory import INTERPRETER_BYTES, peak_task_bytes
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.sources.failures import repeats
from daskgmm.sources.source import Reader

logger = logging.getLogger("daskgmm")

Cache = Literal["auto"] | bool


@dataclass(frozen=True)
class Keep:
    """How much each process may keep; travels with the tasks.

    Attributes
    ----------
    task_bytes : int
        What a task takes at peak, which a process must have free for each of its threads.
    own : Room
        The process where tasks run outside a worker; a worker knows its own limit.
    beside : tuple of str
        What is kept too of that which comes with each row.
    token : str
        Names what belongs together and goes together.
    """

    task_bytes: int
    own: Room
    beside: tuple[str, ...]
    token: str = field(default_factory=lambda: uuid4().hex)

    def allowance(self) -> int:
        """Return the bytes that this process may keep in all, whoever keeps them; asked for in a task's own thread."""
        return room_bytes(_worker_room() or self.own, self.task_bytes)


def plan_keep(cache: Cache, rows: Rows, need: Need, executor: Executor) -> Keep | None:
    """Return how rows are to be kept, or None where every pass is to read them.

    Only what must be decoded is kept: an array in memory is there, a .npy file is in the page cache, and a Dask array
    is its user's to persist. "auto" keeps rows that fit whole, True as many as fit.
    """
    if cache is False or not rows.X.decodes:
        return None
    rooms = executor.rooms(travels=rows.travels)
    task_bytes = peak_task_bytes(rows, need)
    total = sum(room_bytes(room, task_bytes) for room in rooms)
    if total == 0 or (cache == "auto" and total < rows.n_bytes):
        if cache is True:
            logger.info("No row is kept: half of a worker's memory limit is less than what its tasks take.")
        return None
    return Keep(task_bytes, rooms[0], tuple(name for name, each in rows.beside.items() if each.decodes))


def room_bytes(room: Room, task_bytes: int) -> int:
    """Return the bytes that a process may keep: half of its limit, less its interpreter and the peak of its tasks.

    So it stays below 60% of its limit, where distributed begins to move results to disk.
    """
    return max(0, room.limit_bytes // 2 - INTERPRETER_BYTES - room.n_threads * task_bytes)


def kept_worker_bytes(cache: Cache, rows: Rows, need: Need, executor: Executor) -> int:
    """Return the bytes of rows that one process keeps at most."""
    keep = plan_keep(cache, rows, need, executor)
    if keep is None:
        return 0
    most = max(room_bytes(room, keep.task_bytes) for room in executor.rooms(travels=rows.travels))
    return min(most, rows.n_bytes)


class Budget:
    """Bytes that are kept in this process, by all fits together."""

    def __init__(self) -> None:
        self._lock, self.n_bytes = threading.Lock(), 0

    def take(self, n_bytes: int, allowance: int) -> bool:
        """Return whether so many more bytes are within an allowance, and count them if so."""
        with self._lock:
            fits = self.n_bytes + n_bytes <= allowance
            self.n_bytes += n_bytes if fits else 0
            return fits

    def give(self, n_bytes: int) -> None:
        with self._lock:
            self.n_bytes -= n_bytes


#: Memory belongs to the process, and so does this.
budget = Budget()


class KeptReader(Reader):
    """A reader that counts what it reads, and keeps it where the budget of the process allows.

    Pickled, moved or spilled it is the bare reader, empty: no edge of a graph carries rows. Its size, which tells the
    scheduler to run tasks where it is, is that of the rows it keeps.

    Attributes
    ----------
    bytes_read : int
        Decoded bytes that came from the source, in this process.
    n_repeats : int
        How many times a read from the source was tried again.
    allowance : int
        Bytes that the process may keep in all; 0 keeps nothing.
    """

    def __init__(self, reader: Reader, token: str = "") -> None:
        self._reader, self._token = reader, token
        self._runs: dict[tuple[int, int], NDArray[Any]] = {}
        self._share = _Share()
        self.bytes_read = self.n_repeats = self.allowance = 0
        weakref.finalize(self, self._share.give_back).atexit = False
        _all.add(self)

    def __reduce__(self) -> tuple[type[KeptReader], tuple[Reader, str]]:
        return KeptReader, (self._reader, self._token)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.bytes_kept

    @property
    def bytes_kept(self) -> int:
        return self._share.n_bytes

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop, (stop - start, n_features), kept or from the source."""
        kept = self._runs.get((start, stop))
        if kept is not None:
            return kept
        before = repeats.n
        rows = self._reader.read(start, stop)
        self.bytes_read += rows.nbytes
        self.n_repeats += repeats.n - before
        if self.allowance and self._token not in _dropped and self._share.take(rows.nbytes, self.allowance):
            self._runs[start, stop] = rows
        return rows

    def keeps(self, runs: Sequence[int]) -> bool:
        """Return whether all these runs are kept, so that nothing needs reading ahead."""
        return all(run in self._runs for run in pairwise(runs))

    def drop(self) -> None:
        """Let the rows go."""
        self._runs = {}
        self._share.give_back()


class _Share:
    """What one reader has of the budget; outlives the reader to give it back."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def take(self, n_bytes: int, allowance: int) -> bool:
        fits = budget.take(n_bytes, allowance)
        self.n_bytes += n_bytes if fits else 0
        return fits

    def give_back(self) -> None:
        budget.give(self.n_bytes)
        self.n_bytes = 0


_all: weakref.WeakSet[KeptReader] = weakref.WeakSet()
#: Tokens of fits that have ended: after an error tasks of theirs may still run in other threads. (90 bytes a fit.)
_dropped: set[str] = set()


def drop_kept(keep: Keep) -> None:
    """Let go all rows in this process that belong to `keep`, whoever still has their readers (a traceback may)."""
    _dropped.add(keep.token)
    for reader in list(_all):
        if reader._token == keep.token:
            reader.drop()


def _worker_room() -> Room | None:
    """Return the limit and threads of the worker that runs this task; None outside one, no room without a limit."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return None
    return Room(worker.memory_manager.memory_limit or 0, worker.state.nthreads)
