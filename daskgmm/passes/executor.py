"""What an executor is: it computes keys of a graph somewhere, and says how much memory a task may take there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from dask import threaded
from dask.task_spec import DataNode

from daskgmm.passes.pools import n_workers, pool_of_a_call, threads_kept

#: Addresses of workers by the keys of tasks or results.
Places = Mapping[Any, Sequence[str]]


#: Receives the number of a key, and its value, as soon as that is there.
OnDone = Callable[[int, Any], None]


@dataclass(frozen=True)
class Room:
    """A process that runs tasks: the bytes that it may take, and its threads.

    Attributes
    ----------
    limit_bytes, n_threads : int
    pause_share : float
        The share of its limit at which it is given no more tasks; 1 where it always is.
    taken_bytes : int
        What it takes already, beside results that Dask moves to disk where memory is scarce; 0 where nobody has asked.
    """

    limit_bytes: int
    n_threads: int
    pause_share: float = 1.0
    taken_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """What it may take and still be given tasks."""
        return int(self.pause_share * self.limit_bytes)


class Held(Protocol):
    """Results that stay where they were computed, as inputs of later graphs."""

    def nodes(self) -> dict[Any, Any]:
        """Return the nodes that a graph needs to refer to the results by their keys."""

    def places(self) -> Places:
        """Return the addresses of the workers that hold each key; empty where there are no workers."""

    def release(self) -> None:
        """Let the results go."""


class Executor(ABC):
    """Computes keys of a graph. Only `compute` must be defined: the other methods have defaults."""

    @abstractmethod
    def compute(
        self,
        graph: dict[Any, Any],
        keys: list[Any],
        *,
        travels: bool,
        places: Places | None = None,
        on_done: OnDone | None = None,
    ) -> list[Any]:
        """Return the values of `keys`; where the input does not travel, computed in this process.

        Tasks named in `places` run on one of these workers while one of them lives.
        """

    def hold(
        self, graph: dict[Any, Any], keys: list[Any], held: list[Any], *, travels: bool, on_done: OnDone | None = None
    ) -> tuple[list[Any], Held]:
        """Return the values of `keys`, and the results of the tasks `held` where they are."""
        told = None if on_done is None else _first(len(keys), on_done)
        values = self.compute(graph, keys + held, travels=travels, on_done=told)
        return values[: len(keys)], HeldHere(dict(zip(held, values[len(keys) :], strict=True)))

    def is_here(self, *, travels: bool) -> bool:
        """Return whether tasks are done by threads of this process, and nobody asks to see a graph of them."""
        return False

    def map(self, call: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of a call for each of some arguments, in order, by the threads of this process."""
        return _mapped(call, items)

    def memory_limit(self) -> int | None:
        """Return the bytes that one task may use, the smallest over all workers, or None where nothing limits them."""
        return None

    def task_rooms(self) -> list[Room]:
        """Return the processes that do tasks, where their memory is limited: what tasks must fit in, all at once."""
        limit = self.memory_limit()
        return [] if limit is None else [Room(limit, 1)]

    def n_threads(self) -> int | None:
        """Return the threads of all workers, or None where states stay in this process."""
        return None

    def rooms(self, *, travels: bool) -> list[Room]:
        """Return the processes whose memory is known, and in which a result can stay."""
        return []

    def processors(self) -> list[str]:
        """Return what bits depend on of the processor of each worker; none where they stay in this process."""
        return []

    def cards(self) -> dict[str, Any]:
        """Return the card of each process that does tasks, or why it has none, by its address; "" is this one."""
        from daskgmm.passes.card import card_here

        return {"": card_here()}

    def named(self) -> AbstractContextManager[Any]:
        """Show what is computed while the block runs as one thing, where a dashboard shows what runs."""
        return nullcontext()

    def limit_blas(self) -> AbstractContextManager[Any]:
        """Limit BLAS to one thread a task in other processes while the block runs; passes in this one share threads."""
        return threads_kept()


class HeldHere:
    """Results in this process."""

    def __init__(self, results: dict[Any, Any]) -> None:
        self._results = results

    def nodes(self) -> dict[Any, Any]:
        return {key: DataNode(key, value) for key, value in self._results.items()}

    def places(self) -> Places:
        return {}

    def release(self) -> None:
        self._results = {}


def _mapped(call: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results in order, each as soon as it and those before it are there.

    (Dask's scheduler takes 3 ms for a dozen tasks, as long as a pass over 100,000 rows of two features.)
    """
    with pool_of_a_call(threaded.get) as options:
        futures = deque(options["pool"].submit(call, *item) for item in items)
        try:
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()


def _first(n: int, on_done: OnDone) -> OnDone:
    """Return a listener to the first n of some keys."""
    return lambda i, value: on_done(i, value) if i < n else None


def own_room(limit: int | None) -> list[Room]:
    """Return the room of this process, within a limit on its memory; None is that of the machine."""
    from distributed.system import MEMORY_LIMIT  # (0.4 s, which only a fit that may keep rows pays)

    return [Room(limit or MEMORY_LIMIT, n_workers())]
