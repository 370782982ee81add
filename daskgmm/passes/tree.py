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
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol
from uuid import uuid4

from dask.task_spec import DataNode, List, Task, TaskRef
from dask.utils import format_bytes

from daskgmm.errors import OutputError
from daskgmm.passes.cache import Keep, drop_kept
from daskgmm.passes.executor import Executor, Held, OnDone
from daskgmm.passes.fingerprint import check_unchanged, fingerprints
from daskgmm.passes.rows import Cut, Rows, cuts
from daskgmm.passes.suspects import WorkersDiedError, try_alone
from daskgmm.passes.task import (
    CollectingPass,
    Filled,
    Partial,
    Pass,
    State,
    fill_rows,
    merge,
    partial_of,
    reuse,
    stream,
    tree_sum,
)
from daskgmm.passes.travel import check_arrival, check_travel
from daskgmm.sources.digest import digest
from daskgmm.sources.partition import FAN_IN, MOST_ROOTS

#: How often a pass is begun at most where workers die although each task succeeds alone: then something outside kills
#: them, and going on would never end.
MOST_TRIES = 3


logger = logging.getLogger("daskgmm")


@dataclass(frozen=True)
class Underway:
    """A pass that goes on: what it is for, and how many of its parts are done."""

    name: str
    n_done: int = 0
    n_parts: int = 1

    @property
    def share(self) -> float:
        return self.n_done / self.n_parts


class Memory(Protocol):
    """What outlives a pass that is cut short: partials of its parts, by what the pass computes and their number."""

    def passing(self, underway: Underway) -> None:
        """Hear how far a pass is: when it begins, and when a part of it is done."""

    def known(self, key: str) -> dict[int, Partial[Any]]:
        """Return the partials that are there."""

    def add(self, key: str, number: int, partial: Partial[Any]) -> None:
        """Remember one more."""

    def flush(self) -> None:
        """Write what is remembered: the pass is cut short."""


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
    seconds : float
        Time of the last pass.
    """

    def __init__(self, rows: Rows, executor: Executor, keep: Keep | None = None, memory: Memory | None = None) -> None:
        self.rows, self._executor, self._keep, self._memory = rows, executor, keep, memory
        self._direct: Filled | None = None
        self._held: Held | None = None
        self._filled: list[Any] | None = None
        self._has_travelled = False
        self._carried: set[type[Any]] = set()
        self.bytes_read = self.bytes_kept = self.n_repeats = 0
        self.seconds = 0.0

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.release()
        if self._keep is not None:
            drop_kept(self._keep)

    def processors(self) -> list[str]:
        """Return what bits depend on of the processor of each worker that may do a task."""
        return self._executor.processors() if self.rows.travels and self.rows.n_partitions > 1 else []

    def run(self, work: Pass[State], *, name: str) -> State:
        """Return the state of all rows after one pass; `name` says what it is for."""
        rows, began = self.rows, perf_counter()
        # Three ways to the same bits: a single task is called, threads of this process share out several, and all else
        # is a graph. (A cache and a checkpoint refer to tasks by their keys, so they need one.)
        alone = rows.n_partitions == 1 or (rows.n_tasks == 1 and not rows.travels)
        streams = self._keep is None and self._memory is None and self._executor.is_here(travels=rows.travels)
        direct = _direct_arguments(rows) if alone or streams else None
        if self._memory is not None:
            self._memory.passing(Underway(name))
        if direct is None:
            partial = self._graph(work, name)
        elif alone:
            partial = self._here(work, *direct[0])
        else:
            names = tuple(rows.beside)
            items = [(work, own, names, *each) for own, each in zip(_cuts_of_tasks(rows), direct, strict=True)]
            partial = tree_sum(work, self._executor.map(stream, items))
        if self._keep is not None and not self.bytes_read:
            logger.info("%s stay in memory for the later passes.", _share(partial.bytes_kept, self.rows.n_bytes))
        if partial.n_repeats:
            self.n_repeats += partial.n_repeats
            logger.warning(
                "Reads of %s failed and were repeated: %d in this pass, %d so far. Store or network is not well.",
                self.rows.X.label, partial.n_repeats, self.n_repeats,
            )  # fmt: skip
        self.bytes_read += partial.bytes_read
        self.bytes_kept, self.seconds = partial.bytes_kept, perf_counter() - began
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
            return reuse(work, all_cuts, self._keep, names, self._direct, *(None for _ in names))
        if self._keep is None:
            return stream(work, all_cuts, names, *readers)
        self._direct = fill_rows(work, all_cuts, self._keep, names, *readers)
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
        memory, key = (
            self._memory,
            digest((work, self.rows.n_partitions, self.rows.per_task, self.rows.scaling, self.files)),
        )
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
        what, name = name, f"{name}-{uuid4().hex}"  # a scheduler that remembers a key does not run it again
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
        told = None if on_done is None else self._telling(what, on_done, missing, len(roots))
        if not keys:
            found = []
        elif self._held is not None and self._filled is not None:
            # Tasks go where their rows are: a scheduler that moved one would move the rows with it.
            graph |= self._held.nodes()
            where = self._held.places()
            places = {(f"daskgmm-partition-{name}", i): where.get(key, ()) for i, key in enumerate(self._filled)}
            found = executor.compute(graph, keys, travels=rows.travels, places=places, on_done=told)
        elif keep is not None:
            filled = [(f"daskgmm-fill-{name}", i) for i in range(rows.n_tasks)]
            found, self._held = executor.hold(graph, keys, filled, travels=rows.travels, on_done=told)
            self._filled = filled
        else:
            found = executor.compute(graph, keys, travels=rows.travels, on_done=told)
        partials = dict(known) | dict(zip(missing, found, strict=True))
        return [partials[i] for i in range(len(roots))]

    def _telling(self, what: str, on_done: OnDone, missing: Sequence[int], n_parts: int) -> OnDone:
        """Return what hears of each part of a pass that is done, of those that were missing."""
        n_left = len(missing)

        def told(j: int, partial: Any) -> None:
            nonlocal n_left
            n_left -= 1
            on_done(missing[j], partial)
            if self._memory is not None:
                self._memory.passing(Underway(what, n_parts - n_left, n_parts))

        if self._memory is not None:
            self._memory.passing(Underway(what, n_parts - n_left, n_parts))
        return told


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
        Whether tasks are to keep the rows that they read, in results with the keys (f"daskgmm-fill-{name}", number).
    filled : sequence of keys or None
        Results of an earlier pass that kept its rows: each task takes its own.
    known : collection of int
        Numbers of keys whose partials are there already: None stands in their place, and nothing is done for them.
    """
    pass_key = f"daskgmm-pass-{name}"
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
        key = f"daskgmm-partition-{name}", i
        if filled is not None:
            graph[key] = Task(key, reuse, TaskRef(pass_key), own, keep, names, *each)
        elif keep is not None:
            fill = (f"daskgmm-fill-{name}", i)
            graph[fill] = Task(fill, fill_rows, TaskRef(pass_key), own, keep, names, *each)
            graph[key] = Task(key, partial_of, TaskRef(fill))
        else:
            graph[key] = Task(key, stream, TaskRef(pass_key), own, names, *each)
        level.append(key)
    d = 0
    while size > 1:
        d, width = d + 1, min(FAN_IN, size)
        level = [
            _add_merge(graph, pass_key, level[i : i + width], (f"daskgmm-merge-{name}-{d}", i // width))
            for i in range(0, len(level), width)
        ]
        size //= width
    return graph, level


def _share(n_bytes: int, of_bytes: int) -> str:
    return (
        f"{'All' if n_bytes == of_bytes else f'{n_bytes / of_bytes:.0%} of the'} decoded rows ({format_bytes(n_bytes)})"
    )


def _add_merge(graph: dict[Any, Any], pass_key: str, inputs: list[Any], key: Any) -> Any:
    """Add the task that merges its inputs, and return its key; a single one is carried up as it is, and so is None."""
    if len(inputs) == 1 or inputs[0] is None:
        return inputs[0]
    graph[key] = Task(key, merge, TaskRef(pass_key), List(*map(TaskRef, inputs)))
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
