"""A pass: a monoid run over the partitions, merged by a tree in the graph.

The tree is binary and fixed by partition index: states are added in pairs of neighbours, level by level, and a last one
without a neighbour is carried up. Each task reduces neighbouring partitions, and each merge task several levels of the
tree. The additions are ordered by partition index, so how they are grouped into tasks never changes the result: it has
the same bits for any number of workers, any scheduler and any failure. Only states travel along the edges of the graph,
never rows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable
from uuid import uuid4

from dask.sizeof import sizeof
from dask.task_spec import DataNode, List, Task, TaskRef
from dask.utils import format_bytes

from daskgmm.errors import DaskgmmError, OutputError
from daskgmm.kernels.block import Block
from daskgmm.mixture.record import Record
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.cache import Keep, KeptReader, drop_kept
from daskgmm.passes.executor import Executor, Held, OnDone
from daskgmm.passes.fingerprint import check_unchanged, fingerprints
from daskgmm.passes.rows import Cut, Rows, blocks, cuts
from daskgmm.passes.suspects import WorkersDiedError, try_alone
from daskgmm.passes.travel import check_arrival, check_travel
from daskgmm.sources.digest import digest
from daskgmm.sources.partition import FAN_IN
from daskgmm.sources.source import as_reader

State = TypeVar("State")

#: Subtrees at most whose results a checkpoint keeps one by one; a pass of more tasks has at least half as many. More
#: would cost more states in memory and in the checkpoint, fewer would lose more work where a pass is interrupted.
MOST_ROOTS = 64

#: How often a pass is begun at most where workers die although each task succeeds alone: then something outside kills
#: them, and going on would never end.
MOST_TRIES = 3

logger = logging.getLogger("daskgmm")


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


class Memory(Protocol):
    """What outlives a pass that is cut short: partials of its parts, by what the pass computes and their number."""

    def known(self, key: str) -> dict[int, Partial[Any]]:
        """Return the partials that are there."""

    def add(self, key: str, number: int, partial: Partial[Any]) -> None:
        """Remember one more."""

    def flush(self) -> None:
        """Write what is remembered: the pass is cut short."""


@dataclass(frozen=True)
class Filled:
    """What stays on a worker: the readers of a task with what they keep; what comes of a Dask array does not stay."""

    x: KeptReader
    beside: dict[str, KeptReader]
    partial: Partial[Any]

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sum(reader.bytes_kept for reader in (self.x, *self.beside.values()))


def run_pass(work: Pass[State], rows: Rows, executor: Executor, *, name: str) -> State:
    """Return the state of all rows after one pass, which reads all of them.

    Parameters
    ----------
    work : Pass
    rows : Rows
    executor : Executor
        Where the graph runs.
    name : str
        What the pass is for: schedulers and dashboards tell its tasks and their durations apart by it.
    """
    with Passes(rows, executor) as passes:
        return passes.run(work, name=name)


class Passes:
    """Passes over the same rows. What the first one decodes stays where it is until the end, as `keep` allows.

    Parameters
    ----------
    rows : Rows
        May be replaced between passes by the same rows, checked less (`Rows.trusted`).
    executor : Executor
    keep : Keep or None
        None reads all rows in each pass.
    memory : Memory or None
        Where a pass leaves what it has done so far, in up to `MOST_ROOTS` parts, and finds it again.

    Attributes
    ----------
    bytes_read, bytes_kept : int
        Decoded bytes that all passes so far have read, and those that the last one found or left in memory.
    n_repeats : int
        Reads that failed in these passes, and were tried again.
    """

    def __init__(self, rows: Rows, executor: Executor, keep: Keep | None = None, memory: Memory | None = None) -> None:
        self.rows, self._executor, self._keep, self._memory = rows, executor, keep, memory
        self._direct: Filled | None = None
        self._held: Held | None = None
        self._filled: list[Any] | None = None
        self._has_travelled = False
        self._carried: set[type[Any]] = set()
        self.bytes_read = self.bytes_kept = self.n_repeats = 0

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.release()
        if self._keep is not None:
            drop_kept(self._keep)

    def run(self, work: Pass[State], *, name: str) -> State:
        """Return the state of all rows after one pass; `name` says what it is for."""
        rows = self.rows
        # Three ways to the same bits: a single task is called, threads of this process share out several, and all else
        # is a graph. (A cache and a checkpoint refer to tasks by their keys, so they need one.)
        alone = rows.n_partitions == 1 or (rows.n_tasks == 1 and not rows.travels)
        streams = self._keep is None and self._memory is None and self._executor.is_here(travels=rows.travels)
        direct = _direct_arguments(rows) if alone or streams else None
        if direct is None:
            partial = self._graph(work, name)
        elif alone:
            partial = self._here(work, *direct[0])
        else:
            names = tuple(rows.beside)
            items = [(work, own, names, *each) for own, each in zip(_cuts_of_tasks(rows), direct, strict=True)]
            partial = tree_sum(work, self._executor.map(_stream, items))
        if self._keep is not None and not self.bytes_read:
            logger.info("%s stay in memory for the later passes.", _share(partial.bytes_kept, self.rows.n_bytes))
        if partial.n_repeats:
            self.n_repeats += partial.n_repeats
            logger.warning(
                "Reads of %s failed and were repeated: %d in this pass, %d so far. Store or network is not well.",
                self.rows.X.label, partial.n_repeats, self.n_repeats,
            )  # fmt: skip
        self.bytes_read += partial.bytes_read
        self.bytes_kept = partial.bytes_kept
        state: State = work.collected(partial.state) if isinstance(work, CollectingPass) else partial.state
        return state

    @cached_property
    def files(self) -> list[str]:
        """A checksum of the stored form of each partition, as it was when this was first asked for."""
        return fingerprints(self.rows, self._executor)

    def check_files(self, checkpoint: str | None) -> None:
        """Raise a DataError where what is stored has changed meanwhile."""
        check_unchanged(self.files, fingerprints(self.rows, self._executor), self.rows, checkpoint=checkpoint)

    def _here(self, work: Pass[State], *readers: Any) -> Partial[State]:
        """Return the partial of the only task, computed without a graph."""
        all_cuts, names = tuple(cuts(self.rows)), tuple(self.rows.beside)
        if self._direct is not None:
            return _reuse(work, all_cuts, self._keep, names, self._direct, *(None for _ in names))
        if self._keep is None:
            return _stream(work, all_cuts, names, *readers)
        self._direct = _fill(work, all_cuts, self._keep, names, *readers)
        return self._direct.partial

    def _not_seen(self, carried: Iterable[Any]) -> list[Any]:
        """Return what a pass carries of a class that none before it has carried."""
        found = [one for one in carried if type(one) not in self._carried]
        self._carried |= set(map(type, found))
        return found

    def _graph(self, work: Pass[State], name: str) -> Partial[State]:
        """Return the partial of all rows; where workers died for no fault of a task, it goes on."""
        if not self._has_travelled and self.rows.travels:
            check_travel(self.rows.sources, self._executor)
            self._has_travelled = True
        if self.rows.travels:
            check_arrival("kernel", self._not_seen(getattr(work, "carried", ())), self._executor)
        # A scheduler blames every task that stood in the queue of a dead worker. So those that it names run alone. That
        # either finds the rows that kill a worker (an error), or shows that none does: then the pass runs again.
        for _ in range(MOST_TRIES):
            try:
                return self._resume(work, name)
            except WorkersDiedError as died:
                error = try_alone(died, self.rows, lambda i: self._alone(work, name, i))
        raise error

    def _alone(self, work: Pass[State], name: str, i: int) -> None:
        """Run a task of a pass with nothing beside it."""
        n = self.rows.n_tasks
        others = set(range(n)) - {i}  # (as if known, so that the graph has this task and nothing else)
        graph, roots = pass_graph(work, self.rows, name=f"{name}-alone-{uuid4().hex}", known=others, most=n)
        self._executor.compute(graph, [roots[i]], travels=self.rows.travels)

    def _resume(self, work: Pass[State], name: str) -> Partial[State]:
        """Return the partial of all rows; what is done of it survives where it is cut short."""
        if self._memory is None:
            return tree_sum(work, self._compute(work, name, {}, None))
        # The key is made of what decides the result: what is computed, how rows are cut, and what the files were. So
        # parts of another pass, or of data that have changed since, are never taken for this one's.
        memory, key = self._memory, digest((work, self.rows.n_partitions, self.rows.per_task, self.files))
        known = memory.known(key)
        try:
            return tree_sum(work, self._compute(work, name, known, lambda i, partial: memory.add(key, i, partial)))
        except BaseException:
            with suppress(OutputError):  # (why the pass was cut short is what counts)
                memory.flush()
            raise

    def _compute(
        self, work: Pass[State], name: str, known: Mapping[int, Partial[State]], on_done: OnDone | None
    ) -> list[Partial[State]]:
        """Return the partials whose sum is the result, in order, of which some are known."""
        rows, executor = self.rows, self._executor
        name = f"{name}-{uuid4().hex}"  # a scheduler that remembers a key does not run it again
        keep = None if known else self._keep  # (what is known of a pass leaves rows unread)
        graph, roots = pass_graph(
            work,
            rows,
            name=name,
            keep=keep,
            filled=self._filled,
            known=known,
            most=1 if on_done is None else MOST_ROOTS,
        )
        missing = [i for i, key in enumerate(roots) if key is not None]
        keys = [roots[i] for i in missing]
        told = None if on_done is None else lambda j, partial: on_done(missing[j], partial)
        if not keys:
            found = []
        elif self._held is not None and self._filled is not None:
            # Tasks go where their rows are: a scheduler that moved one would move the rows with it.
            graph |= self._held.nodes()
            where = self._held.places()
            places = {(f"partition-{name}", i): where.get(key, ()) for i, key in enumerate(self._filled)}
            found = executor.compute(graph, keys, travels=rows.travels, places=places, on_done=told)
        elif keep is not None:
            filled = [(f"fill-{name}", i) for i in range(rows.n_tasks)]
            found, self._held = executor.hold(graph, keys, filled, travels=rows.travels, on_done=told)
            self._filled = filled
        else:
            found = executor.compute(graph, keys, travels=rows.travels, on_done=told)
        partials = dict(known) | dict(zip(missing, found, strict=True))
        return [partials[i] for i in range(len(roots))]


def pass_graph(
    work: Pass[Any],
    rows: Rows,
    *,
    name: str,
    keep: Keep | None = None,
    filled: Sequence[Any] | None = None,
    known: Collection[int] = (),
    most: int = 1,
) -> tuple[dict[Any, Any], list[Any]]:
    """Return the graph of a pass, and the keys whose partials, in order, `tree_sum` makes its result of.

    Nothing is read. The keys are at most `most`, the root of the tree or the roots of its largest subtrees; for a pass
    that collects rows, those of all tasks.

    Parameters
    ----------
    keep : Keep or None
        Whether tasks are to keep the rows that they read, in results with the keys (f"fill-{name}", number).
    filled : sequence of keys or None
        Results of an earlier pass that kept its rows: each task takes its own.
    known : collection of int
        Numbers of keys whose partials are there already: None stands in their place, and nothing is done for them.
    """
    pass_key = f"{name}-pass"
    graph: dict[Any, Any] = {pass_key: DataNode(pass_key, work)}
    # Subtrees are of 2^n tasks, so that adding the roots in order gives the tree's own sum, bit for bit.
    size = 1  # of a root's subtree, in tasks
    while not isinstance(work, CollectingPass) and -(-rows.n_tasks // size) > most:
        size *= 2
    level: list[Any] = []
    names = tuple(rows.beside)
    for i, (own, each) in enumerate(zip(_cuts_of_tasks(rows), _arguments(rows, graph, filled), strict=True)):
        if i // size in known:
            level.append(None)
            continue
        key = f"partition-{name}", i
        if filled is not None:
            graph[key] = Task(key, _reuse, TaskRef(pass_key), own, keep, names, *each)
        elif keep is not None:
            fill = (f"fill-{name}", i)
            graph[fill] = Task(fill, _fill, TaskRef(pass_key), own, keep, names, *each)
            graph[key] = Task(key, _partial, TaskRef(fill))
        else:
            graph[key] = Task(key, _stream, TaskRef(pass_key), own, names, *each)
        level.append(key)
    d = 0
    while size > 1:
        d, width = d + 1, min(FAN_IN, size)
        level = [
            _add_merge(graph, pass_key, level[i : i + width], (f"merge-{name}-{d}", i // width))
            for i in range(0, len(level), width)
        ]
        size //= width
    return graph, level


def _share(n_bytes: int, of_bytes: int) -> str:
    return (
        f"{'All' if n_bytes == of_bytes else f'{n_bytes / of_bytes:.0%} of the'} decoded rows ({format_bytes(n_bytes)})"
    )


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


def _add_merge(graph: dict[Any, Any], pass_key: str, inputs: list[Any], key: Any) -> Any:
    """Add the task that merges its inputs, and return its key; a single one is carried up as it is, and so is None."""
    if len(inputs) == 1 or inputs[0] is None:
        return inputs[0]
    graph[key] = Task(key, _merge, TaskRef(pass_key), List(*map(TaskRef, inputs)))
    return key


def _arguments(rows: Rows, graph: dict[Any, Any], filled: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Return for each task what it needs to read rows, and what comes with them, adding their nodes to the graph."""
    edges = [*rows.edges[: -1 : rows.per_task].tolist(), int(rows.edges[-1])]
    bounds = list(pairwise(edges))
    found: list[Sequence[Any]] = [[TaskRef(key) for key in filled or ()]]
    if filled is None:
        nodes, found[0] = rows.X.arguments(bounds)
        graph.update(nodes)
    for source in rows.beside.values():
        found.append([None] * len(bounds))
        if filled is None or not source.streams:
            nodes, found[-1] = source.arguments(bounds)
            graph.update(nodes)
    return list(zip(*found, strict=True))


def _cuts_of_tasks(rows: Rows) -> list[tuple[Cut, ...]]:
    """Return the partitions of each task."""
    found, n = cuts(rows), rows.per_task
    return [tuple(found[i : i + n]) for i in range(0, len(found), n)]


def _direct_arguments(rows: Rows) -> list[tuple[Any, ...]] | None:
    """Return each task's readers where no graph is needed to have them."""
    graph: dict[Any, Any] = {}
    found: list[Any] = []
    for own in _arguments(rows, graph):
        nodes = [graph.get(each.key) if isinstance(each, TaskRef) else each for each in own]
        if not all(node is None or isinstance(node, DataNode) for node in nodes):
            return None
        found.append(tuple(None if node is None else node.value for node in nodes))
    return found


def _stream(work: Pass[State], own: Sequence[Cut], names: Sequence[str], x: Any, *beside: Any) -> Partial[State]:
    """Return the partial of a task's partitions, read from the sources: the rows', and those of what has `names`."""
    start = own[0].runs[0]
    readers = {name: KeptReader(as_reader(each, start)) for name, each in zip(names, beside, strict=True)}
    return _reduce(work, own, KeptReader(as_reader(x, start)), readers)


def _fill(work: Pass[Any], own: Sequence[Cut], keep: Keep, names: Sequence[str], x: Any, *beside: Any) -> Filled:
    """Return the same with the readers, which keep the rows."""
    start = own[0].runs[0]
    rows = KeptReader(as_reader(x, start), keep.token)
    rows.allowance = keep.allowance()
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


def _reuse(
    work: Pass[State], own: Sequence[Cut], keep: Keep | None, names: Sequence[str], filled: Filled, *beside: Any
) -> Partial[State]:
    """Return the partial of a task's partitions from what was kept of them, and the rest from the sources."""
    # (The allowance is this process's: the kept rows may have moved to a worker with another limit.)
    filled.x.allowance = allowance = 0 if keep is None else keep.allowance()
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
    state = work.zero()
    for block in blocks(cut, x, beside):
        state = work.update(state, block)
    return work.finish(state)


def _partial(filled: Filled) -> Partial[Any]:
    return filled.partial


def _merge(work: Pass[State], partials: Sequence[Partial[State]]) -> Partial[State]:
    return tree_sum(work, partials)
