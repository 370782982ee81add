"""What a task of a pass does: it reads partitions, and reduces their blocks to one state; or it merges states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from dask.sizeof import sizeof

from daskgmm.errors import DaskgmmError
from daskgmm.kernels.block import Block
from daskgmm.mixture.record import Record
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.cache import Keep, KeptReader
from daskgmm.passes.rows import Cut, blocks
from daskgmm.sources.source import as_reader

State = TypeVar("State")


class Pass(Protocol[State]):
    """A sweep over all rows. Picklable; it travels as one node of the graph."""

    def zero(self) -> State:
        """Return the state of no rows."""

    def update(self, state: State, block: Block) -> State:
        """Return the state with a block's rows added; may change `state` in place."""

    def finish(self, state: State) -> State:
        """Return what leaves a partition."""

    def merge(self, state: State, other: State) -> State:
        """Return the state of both sets of rows; associative up to rounding, and `zero()` is neutral."""


@runtime_checkable
class CollectingPass(Protocol):
    """A pass whose states grow with the rows (a sample): the driver merges them, and none moves between workers."""

    def collected(self, state: Any) -> Any:
        """Return the state of all rows with what was collected put together."""


@dataclass(frozen=True)
class Partial(Record, Generic[State]):
    """What a task returns: the state of its rows, the decoded bytes that it read, and those that are kept of them.

    And how many times it had to read something again.
    """

    state: State
    bytes_read: int
    bytes_kept: int
    n_repeats: int = 0

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + int(sizeof(self.state))


@dataclass(frozen=True)
class Filled:
    """What stays on a worker: the readers of a task with what they keep; what comes of a Dask array does not stay."""

    x: KeptReader
    beside: dict[str, KeptReader]
    partial: Partial[Any]

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sum(reader.host_bytes for reader in (self.x, *self.beside.values()))


def tree_sum(work: Pass[State], partials: Iterable[Partial[State]]) -> Partial[State]:
    """Return the sum of neighbours of one level of the tree, in order; holds one partial a level at once.

    Like a binary counter: two of the same level make one of the next. So partials can be added as they come, in order,
    and the sum has the bits of the whole tree without its partials in memory.
    """
    waiting: list[tuple[int, Partial[State]]] = []
    for total in partials:
        level = 0
        while waiting and waiting[-1][0] == level:
            total, level = _add(work, waiting.pop()[1], total), level + 1
        waiting.append((level, total))
    total = waiting.pop()[1]
    while waiting:
        total = _add(work, waiting.pop()[1], total)
    return total


def _add(work: Pass[State], left: Partial[State], right: Partial[State]) -> Partial[State]:
    state = work.merge(left.state, right.state)
    bytes_read, bytes_kept = left.bytes_read + right.bytes_read, left.bytes_kept + right.bytes_kept
    return Partial(state, bytes_read, bytes_kept, left.n_repeats + right.n_repeats)


def stream(work: Pass[State], own: Sequence[Cut], names: Sequence[str], x: Any, *beside: Any) -> Partial[State]:
    """Return the partial of a task's partitions, read from the sources: the rows', and those of what has `names`."""
    start = own[0].runs[0]
    readers = {name: KeptReader(as_reader(each, start)) for name, each in zip(names, beside, strict=True)}
    return _reduce(work, own, KeptReader(as_reader(x, start)), readers)


def fill_rows(work: Pass[Any], own: Sequence[Cut], keep: Keep, names: Sequence[str], x: Any, *beside: Any) -> Filled:
    """Return the same with the readers, which keep the rows."""
    start = own[0].runs[0]
    rows = KeptReader(as_reader(x, start), keep.token)
    rows.allowance, rows.card_allowance = keep.allowance(), keep.card_bytes
    readers = {name: KeptReader(as_reader(each, start), keep.token) for name, each in zip(names, beside, strict=True)}
    for name, reader in readers.items():
        reader.allowance = rows.allowance if name in keep.beside else 0
    try:
        partial = _reduce(work, own, rows, readers)
    except BaseException:
        for reader in (rows, *readers.values()):
            reader.drop()
        raise
    stay = {name: readers[name] for name, each in zip(names, beside, strict=True) if not isinstance(each, list)}
    return Filled(rows, stay, partial)


def reuse(
    work: Pass[State], own: Sequence[Cut], keep: Keep | None, names: Sequence[str], filled: Filled, *beside: Any
) -> Partial[State]:
    """Return the partial of a task's partitions from what was kept of them, and the rest from the sources."""
    # (The allowance is this process's: the kept rows may have moved to a worker with another limit.)
    filled.x.allowance = allowance = 0 if keep is None else keep.allowance()
    filled.x.card_allowance = 0 if keep is None else keep.card_bytes
    readers = dict(filled.beside)
    if keep is not None:
        for name, reader in readers.items():
            reader.allowance = allowance if name in keep.beside else 0
    for name, each in zip(names, beside, strict=True):
        if each is not None:
            readers[name] = KeptReader(as_reader(each, own[0].runs[0]))
    return _reduce(work, own, filled.x, readers)


def _reduce(work: Pass[State], own: Sequence[Cut], x: KeptReader, beside: Mapping[str, KeptReader]) -> Partial[State]:
    """Return the partial of a task's partitions: their tree, below the task's own node."""
    readers = [x, *beside.values()]
    read, repeated = _counts(readers)
    # (Held already, but by a worker of a scheduler that was started again since the fit began.)
    try:
        with blas_limit.held():
            state = tree_sum(work, (Partial(_partition(work, cut, x, beside), 0, 0) for cut in own)).state
    except DaskgmmError as error:
        # Not every cause can be sent (one of zarr cannot): it would arrive in place of the error that explains it.
        error.__cause__ = error.__context__ = None
        raise
    read_now, repeated_now = _counts(readers)
    return Partial(state, read_now - read, sum(reader.bytes_kept for reader in readers), repeated_now - repeated)


def _counts(readers: Sequence[KeptReader]) -> tuple[int, int]:
    """Return the bytes that readers have read so far, and how often they tried again."""
    return sum(reader.bytes_read for reader in readers), sum(reader.n_repeats for reader in readers)


def _partition(work: Pass[State], cut: Cut, x: KeptReader, beside: Mapping[str, KeptReader]) -> State:
    if cut.prefetch and x.keeps(cut.runs):
        cut = replace(cut, prefetch=False)  # a thread that reads ahead would have nothing to do
    if getattr(work, "on_card", False):
        return _partition_on_card(work, cut, x, beside)
    state = work.zero()
    for block in blocks(cut, x, beside):
        state = work.update(state, block)
    return work.finish(state)


def _partition_on_card(work: Pass[State], cut: Cut, x: KeptReader, beside: Mapping[str, KeptReader]) -> State:
    from daskgmm.passes import card, card_rows  # (CuPy comes with the card alone)

    here = card.the_card()
    with here.explained():
        state = work.zero()
        for block in card_rows.card_blocks(cut, x, beside, here):
            state = work.update(state, block)  # type: ignore[arg-type]  # (a block that lies elsewhere)
        return work.finish(state)


def partial_of(filled: Filled) -> Partial[Any]:
    """Return what is to be merged of what stays on a worker."""
    return filled.partial


def merge(work: Pass[State], partials: Sequence[Partial[State]]) -> Partial[State]:
    """Return the partial of several: the task of a merge."""
    return tree_sum(work, partials)
