"""A pass: a tree over partitions, whatever runs it, and its statistics, however the rows are cut."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from dask.core import get_dependencies
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.sums import log_likelihood
from daskgmm.passes.cache import Keep
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.current import for_passes
from daskgmm.passes.executor import Room
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import INTERPRETER_BYTES
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import MOST_ROOTS, Passes, pass_graph, run_pass
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.opening import open_rows
from daskgmm.sources.source import regular_edges
from tests import oracle
from tests.kernels.driving import oracle_of, parameters_of, row_set_of
from tests.strategies import LAWS, make_case


class Recorded:
    """A pass whose state is the first row of a partition, and pairs of such states where they were merged."""

    def zero(self) -> list[Any]:
        return []

    def update(self, state: list[Any], block: Block) -> list[Any]:
        return [*state, (block.first_row, block.x.shape[1])]

    def finish(self, state: list[Any]) -> Any:
        return state[0][0]

    def merge(self, state: Any, other: Any) -> Any:
        return (state, other)


class Rounded(Recorded):
    """A pass that adds float32 numbers of different size, so that the order of additions shows in the bits."""

    def zero(self) -> Any:
        return np.float32(0)

    def update(self, state: Any, block: Block) -> Any:
        return np.float32(state + block.x.astype("f4").sum())

    def finish(self, state: Any) -> Any:
        return state

    def merge(self, state: Any, other: Any) -> Any:
        return np.float32(state + other)


class Collected(Recorded):
    """A pass whose state is the list of its first rows, and how often each was merged in a task."""

    def finish(self, state: list[Any]) -> Any:
        return [state[0][0]]

    def merge(self, state: Any, other: Any) -> Any:
        return state + other

    def collected(self, state: Any) -> Any:
        return "collected", state


@dataclass
class CountingExecutor:
    """Computes with Dask's synchronous scheduler and counts what it was asked for."""

    computes: list[tuple[dict[Any, Any], list[Any], bool]] = field(default_factory=list)

    def compute(self, graph: dict[Any, Any], keys: list[Any], *, travels: bool, on_done: Any = None) -> list[Any]:
        assert on_done is None
        self.computes.append((graph, keys, travels))
        return list(dask.get(graph, keys))

    def is_here(self, *, travels: bool) -> bool:
        return False

    def memory_limit(self) -> int | None:
        return None


class Pieces(ArraySource):
    """An array in memory with short chunks."""

    def __init__(self, X: np.ndarray, step: int) -> None:
        super().__init__(X)
        self._step = step

    @property
    def chunk_edges(self) -> np.ndarray:
        return regular_edges(self.n_rows, self._step)


def rows_in(n_partitions: int, X: np.ndarray | None = None) -> Rows:
    """Rows of an array in memory, ten of them by default in each partition."""
    X = np.arange(n_partitions * 10.0)[:, np.newaxis] if X is None else X
    source = Pieces(X, len(X) // n_partitions)
    return Rows(source, None, source.chunk_edges)


def pairs(level: list[Any]) -> Any:
    """What the tree gives, slowly and obviously: neighbours in pairs, level by level, a last one carried up."""
    while len(level) > 1:
        above = [(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = above + level[2 * len(above) :]
    return level[0]


@pytest.mark.parametrize("per_task", [1, 2, 4, 8, 16, 64])
def test_states_merge_in_pairs_of_neighbours_wherever_tasks_end(per_task: int) -> None:
    for n_partitions in range(1, 41):
        rows = replace(rows_in(n_partitions), per_task=per_task)
        expected = pairs(list(range(0, 10 * n_partitions, 10)))
        assert run_pass(Recorded(), rows, CountingExecutor(), name="p") == expected, n_partitions
        assert run_pass(Recorded(), rows, LocalExecutor(), name="p") == expected, "by threads, without a graph"


class Failing(Recorded):
    """A pass that fails in the third partition, and counts those that were begun."""

    begun: ClassVar[list[int]] = []

    def update(self, state: Any, block: Any) -> Any:
        self.begun.append(block.first_row)
        time.sleep(0.01)
        if block.first_row == 20:
            raise ValueError("row 20")
        return super().update(state, block)


def test_a_failure_in_a_thread_is_raised_and_what_has_not_begun_is_let_be() -> None:
    Failing.begun.clear()
    with for_passes(None), pytest.raises(ValueError, match="row 20"):
        run_pass(Failing(), rows_in(1000), LocalExecutor(), name="p")
    assert 3 <= len(Failing.begun) < 500


def test_a_callback_of_dask_sees_the_tasks_of_a_pass() -> None:
    seen: list[Any] = []
    with Callback(posttask=lambda key, *_: seen.append(key)):
        run_pass(Recorded(), rows_in(5), LocalExecutor(), name="p")
    assert sum(key[0].startswith("daskgmm-partition-p") for key in seen if isinstance(key, tuple)) == 5


@pytest.mark.slow
def test_the_tree_of_a_thousand_partitions() -> None:
    for n_partitions in 64, 65, 511, 513, 1000:
        expected = pairs(list(range(0, 10 * n_partitions, 10)))
        assert run_pass(Recorded(), rows_in(n_partitions), CountingExecutor(), name="p") == expected


@pytest.mark.parametrize(
    ("n_partitions", "per_task", "tasks", "merges"),
    [(2, 1, 2, 1), (8, 1, 8, 1), (9, 1, 9, 2), (64, 1, 64, 9), (65, 1, 65, 10), (600, 1, 600, 88), (600, 4, 150, 23)],
)
def test_a_merge_task_takes_eight_states(n_partitions: int, per_task: int, tasks: int, merges: int) -> None:
    graph, keys = pass_graph(Recorded(), replace(rows_in(n_partitions), per_task=per_task), name="p")
    assert len([key for key in graph if key[0] == "daskgmm-partition-p"]) == tasks
    found = [key for key in graph if isinstance(key, tuple) and key[0].startswith("daskgmm-merge-p")]
    assert len(found) == merges
    assert len(keys) == 1
    for key in found:
        inputs = [k for k in get_dependencies(graph, key) if isinstance(k, tuple)]
        assert 2 <= len(inputs) <= 8


def test_partitions_are_tasks_of_one_reader_and_one_pass() -> None:
    graph, _ = pass_graph(Recorded(), rows_in(20), name="p")
    shared = [key for key in graph if not isinstance(key, tuple)]
    assert len(shared) == 2, "the pass, and the reader"
    for i in range(20):
        assert set(get_dependencies(graph, ("daskgmm-partition-p", i))) == set(shared)
    assert all(
        str(key[0] if isinstance(key, tuple) else key).startswith(
            ("daskgmm-pass-p", "daskgmm-partition-p", "daskgmm-merge-p", "daskgmm-reader-")
        )
        for key in graph
    )


def test_one_pass_is_one_compute() -> None:
    for work in Recorded(), Collected():
        executor = CountingExecutor()
        run_pass(work, rows_in(30), executor, name="p")
        assert len(executor.computes) == 1
        assert executor.computes[0][2] is False, "an array in memory does not travel"


def test_one_partition_needs_no_graph(tmp_path: Any) -> None:
    X = np.arange(20.0).reshape(10, 2)
    np.save(tmp_path / "X.npy", X)
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(3, 2))
    for data in X, tmp_path / "X.npy", tmp_path / "X.zarr":
        for weights in None, open_rows(np.ones(10)):
            executor = CountingExecutor()
            rows = Rows.plan(open_rows(data), weights)
            assert run_pass(Rounded(), rows, executor, name="p") == X.sum()
            assert executor.computes == []


def test_one_partition_of_a_dask_array_is_computed_by_its_scheduler() -> None:
    executor = CountingExecutor()
    rows = Rows.plan(open_rows(da.ones((10, 2), chunks=(4, 1)) + 1), None)
    assert run_pass(Rounded(), rows, executor, name="p") == 40
    assert len(executor.computes) == 1
    mixed = Rows.plan(open_rows(np.ones((10, 2))), open_rows(da.ones(10, chunks=4)))
    assert run_pass(Rounded(), mixed, executor, name="p") == 20
    assert len(executor.computes) == 2


def test_direct_call_and_graph_agree_to_the_bit() -> None:
    X = np.random.default_rng(0).standard_normal((1000, 2)).astype("f4")
    direct = run_pass(Rounded(), Rows.plan(open_rows(X), None), CountingExecutor(), name="p")
    rows = Rows.plan(open_rows(da.from_array(X, chunks=(300, 2))), None)
    executor = CountingExecutor()
    assert run_pass(Rounded(), rows, executor, name="p") == direct
    assert len(executor.computes) == 1


@pytest.mark.parametrize("n_partitions", [1, 2, 9, 30, 70])
@pytest.mark.parametrize("per_task", [1, 4])
def test_what_is_collected_comes_in_order(n_partitions: int, per_task: int) -> None:
    rows = replace(rows_in(n_partitions), per_task=per_task)
    found = run_pass(Collected(), rows, CountingExecutor(), name="p")
    assert found == ("collected", list(range(0, n_partitions * 10, 10)))


def test_passes_of_the_same_name_on_one_cluster_are_not_mistaken_for_each_other(client: Client, tmp_path: Any) -> None:
    """A scheduler that still remembers a key, as it does those of kept rows, does not run its task again."""

    def rows_of(value: float) -> Rows:
        zarr.create_array(tmp_path / str(value), data=np.full((30, 1), value), chunks=(10, 1))
        return Rows(open_rows(tmp_path / str(value)), None, np.array([0, 10, 20, 30]))

    executor, keep = ClientExecutor(client), Keep(INTERPRETER_BYTES, 0, Room(0, 1), ())
    with Passes(rows_of(1.0), executor, keep) as first, Passes(rows_of(2.0), executor, keep) as second:
        assert first.run(Rounded(), name="p") == 30
        assert second.run(Rounded(), name="p") == 60


def test_what_is_collected_goes_to_the_driver_and_no_worker() -> None:
    """And a partition costs no task beside its own."""
    graph, keys = pass_graph(Collected(), rows_in(70), name="p")
    assert keys == [("daskgmm-partition-p", i) for i in range(70)]
    assert len(graph) == 2 + 70, "the pass, the reader and the partitions"


@pytest.mark.slow
def test_every_scheduler_adds_in_the_same_order(client: Client, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 4_000)
    X = np.random.default_rng(0).standard_normal((10_000, 4)) * np.logspace(-3, 3, 10_000)[:, np.newaxis]
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(50, 4))
    rows = Rows.plan(open_rows(tmp_path / "X.zarr"), None)
    assert rows.n_partitions == 67
    found = {}
    for per_task in 1, 16:
        rows = replace(rows, per_task=per_task)
        found["distributed", per_task] = run_pass(Rounded(), rows, ClientExecutor(client), name="p")
        for scheduler in "synchronous", "threads", "processes":
            with dask.config.set(scheduler=scheduler):
                found[scheduler, per_task] = run_pass(Rounded(), rows, LocalExecutor(), name="p")
    assert len(set(found.values())) == 1, found
    forward = np.float32(0)
    for block in np.split(X.astype("f4"), 200):
        forward = np.float32(forward + block.sum())
    assert forward != found["threads", 1], "the order of additions must show, or this test tests nothing"


def test_graph_carries_no_rows(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1)
    zarr.create_array(tmp_path / "X.zarr", data=np.ones((2000, 500)), chunks=(20, 500))
    rows = Rows.plan(open_rows(tmp_path / "X.zarr"), None)
    graph, _ = pass_graph(Recorded(), rows, name="p")
    assert rows.n_partitions == 100
    assert len(pickle.dumps(graph)) < 50_000, "of 8 MB of rows"


# -- statistics, however the rows are cut --------------------------------------------------------------------------


@st.composite
def edges_in(draw: st.DrawFn, n_rows: int) -> np.ndarray:
    inner = draw(st.sets(st.integers(1, n_rows - 1), max_size=12))
    return np.array([0, *sorted(inner), n_rows])


@LAWS
@given(
    kind=st.sampled_from(oracle.KINDS), seed=st.integers(0, 100), edges=edges_in(400), chunks=edges_in(400),
    offset=st.sampled_from([0.0, 1e3]), kernel=st.sampled_from(["phi", "exact", "rule"]), weighted=st.booleans(),
)  # fmt: skip
def test_any_cut_gives_the_same_statistics(
    kind: str, seed: int, edges: np.ndarray, chunks: np.ndarray, offset: float, kernel: Any, weighted: bool
) -> None:
    case = make_case(kind, seed=seed, n_rows=400, n_components=3, n_features=3)
    X = case.X + offset
    weights = np.random.default_rng(seed).uniform(0, 2, 400) if weighted else None
    parameters = parameters_of(case)
    parameters = type(parameters).from_covariances(
        parameters.family, parameters.weights, parameters.means + offset, parameters.covariances
    )
    plan = make_plan(parameters, origin=row_set_of(X, weights).mean, kernel=kernel)
    work = EStep([plan])
    whole = Rows.plan(open_rows(X), None if weights is None else open_rows(weights))
    (expected,) = run_pass(work, whole, CountingExecutor(), name="p")
    # Dask chunks at `chunks`, partitions at unions of them with `edges`.
    both = np.union1d(edges, chunks)
    array = da.from_array(X, chunks=(tuple(np.diff(both).tolist()), 3))
    cut_weights = None if weights is None else open_rows(da.from_array(weights, chunks=(tuple(np.diff(edges)),)))
    (found,) = run_pass(work, Rows(open_rows(array), cut_weights, edges), CountingExecutor(), name="p")
    scale = np.abs(expected.values).max()
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12, atol=1e-12 * scale)
    assert found.n_rows == 400
    if not weighted and offset == 0:
        exact = float(oracle.log_likelihood(X, oracle_of(parameters)))
        assert log_likelihood(found, plan, row_set_of(X)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("kind", oracle.KINDS)
def test_a_candidates_bits_do_not_depend_on_its_company(kind: str) -> None:
    case = make_case(kind, seed=1, n_rows=2000, n_components=3, n_features=4)
    origin = case.X.mean(axis=0)
    plans = [
        make_plan(parameters_of(make_case(kind, seed=s, n_rows=2, n_components=k, n_features=4)), origin=origin)
        for s, k in enumerate((2, 3, 7))
    ]
    rows = rows_in(10, case.X)
    together = run_pass(EStep(plans), rows, CountingExecutor(), name="p")
    for plan, shared in zip(plans, together, strict=True):
        (alone,) = run_pass(EStep([plan]), rows, CountingExecutor(), name="p")
        np.testing.assert_array_equal(alone.values, shared.values)


def test_partitions_of_one_row() -> None:
    case = make_case("full", seed=0, n_rows=40, n_components=2, n_features=2)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    (whole,) = run_pass(EStep([plan]), rows_in(1, case.X), CountingExecutor(), name="p")
    (ones,) = run_pass(EStep([plan]), rows_in(40, case.X), CountingExecutor(), name="p")
    np.testing.assert_allclose(ones.values, whole.values, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("n_tasks", "n_roots"), [(1, 1), (16, 16), (64, 64), (65, 33), (100, 50), (257, 33)])
def test_a_pass_that_may_be_cut_short_leaves_some_dozens_of_parts(n_tasks: int, n_roots: int) -> None:
    rows = rows_in(n_tasks)
    _, keys = pass_graph(Recorded(), rows, name="p", most=MOST_ROOTS)
    assert len(keys) == n_roots
    missing = [i for i in range(n_roots) if i != n_roots // 2]
    graph, keys = pass_graph(Recorded(), rows, name="p", most=MOST_ROOTS, known=missing)
    assert [key is not None for key in keys] == [i == n_roots // 2 for i in range(n_roots)]
    size = -(-n_tasks // n_roots)
    own = range(n_roots // 2 * size, min((n_roots // 2 + 1) * size, n_tasks))
    assert {key[1] for key in graph if key[0] == "daskgmm-partition-p"} == set(own)
