"""A pass: a monoid run over the partitions, merged by a tree in the graph.

The tree goes by partition index with a fixed fan-in, so the result has the same bits for any number of workers, any
scheduler and any failure. Only states travel along its edges, never rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from dask.task_spec import DataNode, List, Task, TaskRef

from daskgmm.data.executor import Executor
from daskgmm.data.partition import FAN_IN
from daskgmm.data.rows import Cut, Rows, blocks, cuts
from daskgmm.data.source import as_reader
from daskgmm.mixture.block import Block

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
class SplitPass(Protocol):
    """A pass whose partitions also return something that the driver gathers in order, beside the tree (a sample)."""

    def split(self, state: Any) -> tuple[Any, Any]:
        """Return what the tree merges of a partition's state, and what is gathered."""

    def join(self, state: Any, besides: Sequence[Any]) -> Any:
        """Return the merged state with what was gathered, in the order of the partitions."""


def run_pass(work: Pass[State], rows: Rows, executor: Executor, *, name: str) -> State:
    """Return the state of all rows after one pass.

    Parameters
    ----------
    work : Pass
    rows : Rows
    executor : Executor
        Where the graph runs.
    name : str
        Unique to fit and pass; keys of the graph begin with it.
    """
    if rows.n_partitions == 1:
        direct = _direct_arguments(rows)
        if direct is not None:
            return _partition(work, cuts(rows)[0], *direct)
    graph, keys = pass_graph(work, rows, name=name)
    state, *besides = executor.compute(graph, keys, travels=rows.travels)
    result: State = work.join(state, besides) if isinstance(work, SplitPass) else state
    return result


def pass_graph(work: Pass[Any], rows: Rows, *, name: str) -> tuple[dict[Any, Any], list[Any]]:
    """Return the graph of a pass and the keys of its result, and of what is gathered beside it; nothing is read."""
    pass_key = f"{name}-pass"
    graph: dict[Any, Any] = {pass_key: DataNode(pass_key, work)}
    arguments = _arguments(rows, graph)
    level: list[Any] = []
    for cut, (x, w) in zip(cuts(rows), arguments, strict=True):
        key = (f"{name}-partition", cut.index)
        graph[key] = Task(key, _partition, TaskRef(pass_key), cut, x, w)
        level.append(key)
    if not isinstance(work, SplitPass):
        return graph, [_add_tree(graph, pass_key, level, name)]
    states = [_add_item(graph, pass_key, key, name, item="state") for key in level]
    besides = [_add_item(graph, pass_key, key, name, item="beside") for key in level]
    return graph, [_add_tree(graph, pass_key, states, name), *besides]


def _add_tree(graph: dict[Any, Any], pass_key: str, level: list[Any], name: str) -> Any:
    """Add the merges of the states `level`, by index with a fixed fan-in, and return the key of their sum."""
    depth = 0
    while len(level) > 1:
        depth += 1
        above = []
        for i in range(0, len(level), FAN_IN):
            key = (f"{name}-merge-{depth}", i // FAN_IN)
            graph[key] = Task(key, _merge, TaskRef(pass_key), List(*map(TaskRef, level[i : i + FAN_IN])))
            above.append(key)
        level = above
    return level[0]


def _add_item(graph: dict[Any, Any], pass_key: str, key: Any, name: str, *, item: str) -> Any:
    own = (f"{name}-{item}", key[1])
    graph[own] = Task(own, _item, TaskRef(pass_key), TaskRef(key), item == "beside")
    return own


def _arguments(rows: Rows, graph: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Return for each partition what its task needs to read rows and weights, adding their nodes to the graph."""
    bounds = [(int(a), int(b)) for a, b in zip(rows.edges[:-1], rows.edges[1:], strict=True)]
    nodes, xs = rows.X.arguments(bounds)
    graph.update(nodes)
    ws: Sequence[Any] = [None] * len(bounds)
    if rows.weights is not None:
        nodes, ws = rows.weights.arguments(bounds)
        graph.update(nodes)
    return list(zip(xs, ws, strict=True))


def _direct_arguments(rows: Rows) -> tuple[Any, Any] | None:
    """Return the only partition's readers where no graph is needed to have them."""
    graph: dict[Any, Any] = {}
    found = []
    for argument in _arguments(rows, graph)[0]:
        node = graph.get(argument.key) if isinstance(argument, TaskRef) else argument
        if not (node is None or isinstance(node, DataNode)):
            return None
        found.append(node.value if isinstance(node, DataNode) else None)
    return found[0], found[1]


def _partition(work: Pass[State], cut: Cut, x: Any, w: Any) -> State:
    start = cut.runs[0]
    state = work.zero()
    for block in blocks(cut, as_reader(x, start), None if w is None else as_reader(w, start)):
        state = work.update(state, block)
    return work.finish(state)


def _item(work: Any, state: Any, beside: bool) -> Any:
    return work.split(state)[1 if beside else 0]


def _merge(work: Pass[State], states: Sequence[State]) -> State:
    total = states[0]
    for state in states[1:]:
        total = work.merge(total, state)
    return total
