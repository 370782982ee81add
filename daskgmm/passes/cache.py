"""Decoded rows that stay in the processes that decoded them, within a budget of bytes, for as long as a fit lasts."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal
from uuid import uuid4

from numpy.typing import NDArray

from daskgmm.passes.executor import Executor, Room
from daskgmm.passes.memory import loaded_bytes, peak_task_bytes
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
    loaded_bytes, task_bytes : int
        What a process has loaded, and what a task takes at peak, which it must have free for each of its threads.
    own : Room
        The process where tasks run outside a worker; a worker knows its own limit.
    beside : tuple of str
        What is kept too of that which comes with each row.
    in_host : bool
        Whether rows stay in the memory of processes; else on cards alone.
    card_bytes : int
        What each process may keep on its card.
    token : str
        Names what belongs together and goes together.
    """

    loaded_bytes: int
    task_bytes: int
    own: Room
    beside: tuple[str, ...]
    in_host: bool = True
    card_bytes: int = 0
    token: str = field(default_factory=lambda: uuid4().hex)

    def allowance(self) -> int:
        """Return the bytes that this process may keep in all, whoever keeps them; asked for in a task's own thread."""
        return self.room_bytes(_worker_room() or self.own) if self.in_host else 0

    def room_bytes(self, room: Room) -> int:
        """Return the bytes that a process may keep: half of its limit, less what it has loaded and its tasks take.

        So it stays below 60% of its limit, where distributed begins to move results to disk.
        """
        return max(0, room.limit_bytes // 2 - self.loaded_bytes - room.n_threads * self.task_bytes)


def plan_keep(
    cache: Cache, rows: Rows, need: Need, executor: Executor, *, card_bytes: int = 0, n_cards: int = 0
) -> Keep | None:
    """Return how rows are to be kept, or None where every pass is to read them.

    Only what must be decoded is kept: an array in memory is there, a .npy file is in the page cache, and a Dask array
    is its user's to persist. "auto" keeps rows that fit whole, True as many as fit. On cards, of which each may keep
    `card_bytes`, rows of an array or file stay too, which else go there again in each pass.
    """
    decodes, on_cards = rows.X.decodes, card_bytes * n_cards if rows.X.streams else 0
    if cache is False or not (decodes or on_cards):
        return None
    rooms = executor.rooms(travels=rows.travels)
    beside = tuple(name for name, each in rows.beside.items() if each.decodes)
    own = rooms[0] if rooms else Room(0, 1)
    keep = Keep(loaded_bytes(need), peak_task_bytes(rows, need), own, beside, card_bytes=card_bytes if on_cards else 0)
    if on_cards and not (decodes and rooms):
        return replace(keep, own=Room(0, 1), beside=(), in_host=False)
    total = on_cards + sum(keep.room_bytes(room) for room in rooms)
    if total == 0 or (cache == "auto" and total < rows.n_bytes):
        if cache is True:
            logger.info("No row is kept: half of a worker's memory limit is less than what its tasks take.")
        return None
    return keep


def kept_worker_bytes(cache: Cache, rows: Rows, need: Need, executor: Executor) -> int:
    """Return the bytes of rows that one process keeps at most."""
    keep = plan_keep(cache, rows, need, executor)
    if keep is None:
        return 0
    most = max((keep.room_bytes(room) for room in executor.rooms(travels=rows.travels)), default=0)
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


#: Memory belongs to the process, and so do these: its own, and that of its card.
budget, card_budget = Budget(), Budget()


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
    allowance, card_allowance : int
        Bytes that the process may keep in all, and on its card; 0 keeps nothing.
    """

    def __init__(self, reader: Reader, token: str = "") -> None:
        self._reader, self._token = reader, token
        self._runs: dict[tuple[int, int], NDArray[Any]] = {}
        self._on_card: dict[int, list[Any]] = {}
        self._share, self._card_share = _Share(budget), _Share(card_budget)
        self.bytes_read = self.n_repeats = self.allowance = self.card_allowance = 0
        for share in (self._share, self._card_share):
            weakref.finalize(self, share.give_back).atexit = False
        _all.add(self)

    def __reduce__(self) -> tuple[type[KeptReader], tuple[Reader, str]]:
        return KeptReader, (self._reader, self._token)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.host_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes that are kept in this process: what lies on a card is no memory of a worker, nor to be spilled."""
        return self._share.n_bytes

    @property
    def bytes_kept(self) -> int:
        return self._share.n_bytes + self._card_share.n_bytes

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

    def on_card(self, start: int) -> list[Any] | None:
        """Return the blocks of the partition from this row that stay on the card; None where they do not."""
        return self._on_card.get(start)

    def takes_card(self, n_bytes: int) -> bool:
        """Return whether a partition of so many bytes may stay on the card, and count them if so."""
        held = self.card_allowance and self._token not in _dropped
        return bool(held) and self._card_share.take(n_bytes, self.card_allowance)

    def gives_card(self, n_bytes: int) -> None:
        """Give back what a partition took that does not stay after all."""
        self._card_share.give_back(min(n_bytes, self._card_share.n_bytes))

    def put_on_card(self, runs: Sequence[int], blocks: list[Any]) -> None:
        """Keep the blocks of a partition on the card, and no longer its runs in memory."""
        if self._token in _dropped:
            return
        self._on_card[runs[0]] = blocks
        let_go = [self._runs.pop(run) for run in pairwise(runs) if run in self._runs]
        self._share.give_back(sum(rows.nbytes for rows in let_go))

    def drop(self) -> None:
        """Let the rows go."""
        self._runs, self._on_card = {}, {}
        self._share.give_back()
        self._card_share.give_back()


class _Share:
    """What one reader has of a budget; outlives the reader to give it back."""

    def __init__(self, of: Budget) -> None:
        self._of, self.n_bytes = of, 0

    def take(self, n_bytes: int, allowance: int) -> bool:
        fits = self._of.take(n_bytes, allowance)
        self.n_bytes += n_bytes if fits else 0
        return fits

    def give_back(self, n_bytes: int | None = None) -> None:
        """Give so many bytes back; without a number all."""
        n_bytes = self.n_bytes if n_bytes is None else n_bytes
        self._of.give(n_bytes)
        self.n_bytes -= n_bytes


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
