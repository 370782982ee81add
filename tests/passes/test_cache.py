"""Rows that stay in memory: the same bits, read once, within a budget, and gone at the end, whatever dies."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.sizeof import sizeof
from distributed import Client, LocalCluster

from daskgmm.errors import DataError
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.kernels.block import Block
from daskgmm.mixture.family import family_called
from daskgmm.passes.cache import Keep, KeptReader, budget, drop_kept, kept_worker_bytes, plan_keep
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.executor import Room
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import INTERPRETER_BYTES, peak_task_bytes
from daskgmm.passes.need import Need
from daskgmm.passes.rows import WEIGHT, Rows
from daskgmm.passes.tree import Passes
from daskgmm.sources.opening import open_rows
from daskgmm.sources.zarr_source import ZarrReader
from tests.clusters import LOCAL
from tests.strategies import make_case

MIB = 1 << 20
GIB = 1 << 30
CASE = make_case("full", seed=8, n_rows=40_000, n_components=3, n_features=4)
NEED = Need(family_called("full").shape, 3)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of 40,000 rows, 1.28 MB, in 80 chunks and 40 partitions of two runs."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 32_000)
    monkeypatch.setattr("daskgmm.sources.partition.RUN_BYTES", 16_000)
    zarr.create_array(tmp_path / "X.zarr", data=CASE.X, chunks=(500, 4))
    return tmp_path / "X.zarr"


def fitted(store: Path, *, listener: Callable[[PassDone], None] = lambda _: None, **options: Any) -> Fit:
    given = {"n_components": 3, "n_init": 2, "init_params": "k-means++", "max_iter": 4, "tol": 0.0, **options}
    weights = store.parent / "w.zarr"
    return fit_mixture(
        open_rows(store), FitOptions(**given), weights=open_rows(weights) if weights.exists() else None,
        listener=listener,
    )  # fmt: skip


def bits(fit: Fit) -> bytes:
    p = fit.parameters
    return p.weights.tobytes() + p.means.tobytes() + p.covariances.tobytes() + np.array(fit.lower_bounds).tobytes()


# -- one reader ------------------------------------------------------------------------------------------------------


class Counted:
    """A reader of ones that counts its calls."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[int, int]] = Counter()

    def read(self, start: int, stop: int) -> np.ndarray:
        self.calls[start, stop] += 1
        return np.full((stop - start, 2), float(start))


def test_a_reader_keeps_what_the_allowance_holds_and_reads_the_rest_again() -> None:
    source = Counted()
    reader = KeptReader(source)
    reader.allowance = budget.n_bytes + 250 * 16
    for _ in range(3):
        for low in 0, 100, 200, 300:
            np.testing.assert_array_equal(reader.read(low, low + 100), np.full((100, 2), float(low)))
    assert source.calls == {(0, 100): 1, (100, 200): 1, (200, 300): 3, (300, 400): 3}
    assert reader.bytes_kept == 200 * 16
    assert reader.bytes_read == 8 * 100 * 16
    assert reader.keeps([0, 100, 200])
    assert not reader.keeps([0, 100, 200, 300])
    assert sizeof(reader) >= reader.bytes_kept


def test_what_a_reader_keeps_is_counted_until_it_goes() -> None:
    before = budget.n_bytes
    one, other = KeptReader(Counted()), KeptReader(Counted())
    one.allowance = other.allowance = before + 1600
    one.read(0, 100)
    other.read(0, 100)
    assert (one.bytes_kept, other.bytes_kept, budget.n_bytes - before) == (1600, 0, 1600), "the budget is shared"
    one.drop()
    one.drop()
    assert budget.n_bytes == before
    other.read(0, 100)
    assert budget.n_bytes == before + 1600
    del other
    gc.collect()
    assert budget.n_bytes == before


def test_without_allowance_nothing_is_kept() -> None:
    reader = KeptReader(Counted())
    reader.read(0, 100)
    assert reader.bytes_kept == 0


def test_a_reader_travels_empty(store: Path) -> None:
    graph, _ = open_rows(store).arguments([(0, 40_000)])
    (node,) = graph.values()
    reader = KeptReader(node.value, "token")
    reader.allowance = budget.n_bytes + GIB
    rows = reader.read(0, 40_000)
    assert reader.bytes_kept == CASE.X.nbytes
    packed = pickle.dumps(reader)
    assert len(packed) < 2000
    moved = pickle.loads(packed)
    assert (moved.bytes_kept, moved.allowance) == (0, 0)
    np.testing.assert_array_equal(moved.read(0, 40_000), rows)
    assert isinstance(moved._reader, ZarrReader)
    reader.drop()


def test_all_rows_of_a_fit_go_at_once_whoever_refers_to_them() -> None:
    keeps = [Keep(INTERPRETER_BYTES, 0, Room(GIB, 1), ()) for _ in range(2)]
    readers = [KeptReader(Counted(), keep.token) for keep in keeps]
    for reader in readers:
        reader.allowance = budget.n_bytes + 10_000
        reader.read(0, 100)
    drop_kept(keeps[0])
    assert [reader.bytes_kept for reader in readers] == [0, 1600]
    drop_kept(keeps[1])


# -- how much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "n_threads", "task", "expected"),
    [
        (4 * GIB, 1, 100 * MIB, 2 * GIB - INTERPRETER_BYTES - 100 * MIB),
        (4 * GIB, 8, 100 * MIB, 2 * GIB - INTERPRETER_BYTES - 800 * MIB),
        (300 * MIB, 1, 100 * MIB, 0),
        (0, 1, 100 * MIB, 0),
    ],
)
def test_room_is_half_of_a_limit_less_interpreter_and_tasks(
    limit: int, n_threads: int, task: int, expected: int
) -> None:
    keep = Keep(INTERPRETER_BYTES, task, Room(0, 1), ())
    assert keep.room_bytes(Room(limit, n_threads)) == expected


class Rooms(LocalExecutor):
    def __init__(self, *rooms: Room) -> None:
        self._rooms = list(rooms)

    def rooms(self, *, travels: bool) -> list[Room]:
        return self._rooms


def test_auto_keeps_rows_that_fit_in_all_workers_together_each_by_its_own_limit(store: Path) -> None:
    rows = Rows.plan(open_rows(store), None)
    task = peak_task_bytes(rows, NEED)
    just = 2 * (INTERPRETER_BYTES + task) + rows.n_bytes
    two_threads = just + 2 * task
    for rooms, auto in [
        ([Room(2 * just, 1)], True),
        ([Room(just + rows.n_bytes, 1)], True),
        ([Room(just + rows.n_bytes - 4, 1)], False),
        ([Room(just, 1)] * 2, True),
        ([Room(just, 1), Room(two_threads, 2)], True),
        ([Room(just, 1), Room(just, 2)], False),
        ([Room(10 * MIB, 1)], False),
        ([], False),
    ]:
        executor = Rooms(*rooms)
        assert (plan_keep("auto", rows, NEED, executor) is not None) == auto, rooms
        assert plan_keep(False, rows, NEED, executor) is None
        keep = Keep(INTERPRETER_BYTES, task, Room(0, 1), ())
        some = sum(keep.room_bytes(room) for room in rooms) > 0
        assert (plan_keep(True, rows, NEED, executor) is not None) == some, rooms
        assert kept_worker_bytes(False, rows, NEED, executor) == 0
    assert kept_worker_bytes(True, rows, NEED, Rooms(Room(just, 1))) == rows.n_bytes // 2
    assert kept_worker_bytes(True, rows, NEED, Rooms(Room(GIB, 1), Room(just, 1))) == rows.n_bytes, "of the largest"


def test_only_what_must_be_decoded_is_kept(store: Path) -> None:
    np.save(store.parent / "X.npy", CASE.X)
    executor = Rooms(Room(8 * GIB, 1))
    for data in CASE.X, store.parent / "X.npy", da.from_array(CASE.X, chunks=(1000, 4)):
        assert plan_keep(True, Rows.plan(open_rows(data), None), NEED, executor) is None
    for weights, kept in (None, False), (np.ones(40_000), False), (zarr.array(np.ones(40_000)), True):
        rows = Rows.plan(open_rows(store), None if weights is None else open_rows(weights))
        keep = plan_keep(True, rows, NEED, executor)
        assert keep is not None
        assert (WEIGHT in keep.beside) is kept


@pytest.mark.parametrize(("scheduler", "kept"), [("threads", True), ("synchronous", True), ("processes", False)])
def test_a_local_scheduler_keeps_rows_where_it_shares_this_process(store: Path, scheduler: str, kept: bool) -> None:
    with dask.config.set(scheduler=scheduler, num_workers=2):
        keep = plan_keep("auto", Rows.plan(open_rows(store), None), NEED, LocalExecutor())
    assert (keep is not None) == kept
    if keep is not None:
        assert keep.own.n_threads == 2


# -- in this process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("partition_bytes", [32_000, 10**9])
def test_kept_half_kept_and_read_have_the_same_bits(
    store: Path, scheduler: str, weighted: bool, partition_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", partition_bytes)
    n_bytes = CASE.X.nbytes
    if weighted:
        weights = np.random.default_rng(0).uniform(0.5, 2, 40_000)
        zarr.create_array(store.parent / "w.zarr", data=weights, chunks=(999,))
        n_bytes += weights.nbytes
    with dask.config.set(scheduler=scheduler, num_workers=2):
        read = fitted(store, cache=False)
        whole = fitted(store, cache=True)
        monkeypatch.setattr(Keep, "allowance", lambda keep: 500_000)
        half = fitted(store, cache=True)
    assert bits(read) == bits(whole) == bits(half)
    assert (read.cached_bytes, read.bytes_read) == (0, read.n_passes * n_bytes)
    assert (whole.cached_bytes, whole.bytes_read) == (n_bytes, n_bytes)
    assert 400_000 < half.cached_bytes <= 500_000
    assert half.bytes_read == half.n_passes * n_bytes - (half.n_passes - 1) * half.cached_bytes
    assert budget.n_bytes == 0


def test_weights_of_a_dask_array_are_its_owners(store: Path) -> None:
    weights = np.random.default_rng(0).uniform(0.5, 2, 40_000)
    found = []
    for cache in True, False:
        w = open_rows(da.from_array(weights, chunks=999))
        found.append(fit_mixture(open_rows(store), FitOptions(3, max_iter=3, tol=0, cache=cache), weights=w))
    assert bits(found[0]) == bits(found[1])
    assert found[0].cached_bytes == CASE.X.nbytes
    assert found[0].bytes_read == CASE.X.nbytes + found[0].n_passes * weights.nbytes


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("when", [1, 3])
@pytest.mark.parametrize("error", [BrokenError, KeyboardInterrupt])
def test_nothing_stays_after_an_error(store: Path, when: int, error: type[BaseException]) -> None:
    def listener(event: PassDone) -> None:
        if event.number == when:
            assert budget.n_bytes == CASE.X.nbytes
            raise error

    with pytest.raises(error) as caught:
        fitted(store, cache=True, listener=listener)
    assert budget.n_bytes == 0, "though the traceback lives"
    del caught


def test_nothing_stays_after_a_pass_that_fails_half_way(store: Path) -> None:
    zarr.open_array(store)[30_000] = np.nan
    for rows in Rows.plan(open_rows(store), None), replace(Rows.plan(open_rows(store), None), per_task=4):
        keep = plan_keep(True, rows, NEED, LocalExecutor())
        with pytest.raises(BrokenError), Passes(rows, LocalExecutor(), keep) as passes:
            passes.run(BreaksAtRow(30_000), name="p")
        assert budget.n_bytes == 0
    with pytest.raises(DataError, match="row 30000"):
        fitted(store, cache=True)
    assert budget.n_bytes == 0


class BreaksAtRow:
    """A pass that counts rows and fails at one of them."""

    def __init__(self, row: int) -> None:
        self._row = row

    def zero(self) -> int:
        return 0

    def update(self, state: int, block: Block) -> int:
        if block.first_row <= self._row < block.first_row + block.x.shape[1]:
            raise BrokenError
        return state + block.n_rows

    def finish(self, state: int) -> int:
        return state

    def merge(self, state: int, other: int) -> int:
        return state + other


# -- on workers ------------------------------------------------------------------------------------------------------


def kept_here() -> int:
    from daskgmm.passes.cache import budget

    return budget.n_bytes


def incoming(dask_worker: Any) -> list[tuple[int, list[str]]]:
    return [(entry["total"], [str(key) for key in entry["keys"]]) for entry in dask_worker.transfer_incoming_log]


def log_reads(folder: str) -> None:
    """Make every read of rows in this process add a line to a file of its own."""
    from daskgmm.sources import zarr_source

    really = zarr_source.ZarrReader.read

    def read(self: Any, start: int, stop: int) -> Any:
        with open(f"{folder}/{os.getpid()}", "a") as file:
            file.write(f"{start} {stop}\n")
        return really(self, start, stop)

    zarr_source.ZarrReader.read = read  # type: ignore[method-assign]


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[tuple[Client, Path]]:
    """A client of two worker processes that log what they read, and the folder of the logs.

    No work is stolen: on a busy machine an idle worker takes tasks over from one that lags, and reads their rows again.
    """
    logs = tmp_path / "reads"
    logs.mkdir()
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="2GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        client.run(log_reads, str(logs))
        yield client, logs


def reads_of(logs: Path) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for file in logs.iterdir():
        found.update(tuple(map(int, line.split())) for line in file.read_text().splitlines())
    return found


def gone(client: Client) -> bool:
    """Return whether within ten seconds no result is on the scheduler and no row is kept on a worker."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not client.who_has() and not any(client.run(kept_here).values()):
            return True
        time.sleep(0.05)
    return False


def test_on_workers_each_run_is_read_once_and_no_row_moves(own_cluster: tuple[Client, Path], store: Path) -> None:
    client, logs = own_cluster
    during: list[int] = []
    kept = fitted(store, cache="auto", listener=lambda _: during.append(sum(client.run(kept_here).values())))
    assert during == [CASE.X.nbytes] * (kept.n_passes + 1), "after each pass, and after the start on the sample"
    assert kept.bytes_read == kept.cached_bytes == CASE.X.nbytes
    reads = reads_of(logs)
    assert set(reads.values()) == {1}
    assert sorted(reads) == [(a, a + 500) for a in range(0, 40_000, 500)]
    moved = [total for entries in client.run(incoming).values() for total, keys in entries if "fill-" in "".join(keys)]
    assert sum(moved) < 0.01 * CASE.X.nbytes
    assert gone(client)
    with dask.config.set(scheduler="synchronous"):
        assert bits(fitted(store, cache=False)) == bits(kept)


def test_on_workers_half_kept_has_the_same_bits(own_cluster: tuple[Client, Path], store: Path) -> None:
    client, _ = own_cluster

    def small(n_bytes: int) -> None:
        from daskgmm.passes.cache import Keep

        Keep.allowance = lambda self: n_bytes  # type: ignore[method-assign]

    client.run(small, 300_000)
    during: list[int] = []
    half = fitted(store, cache=True, listener=lambda _: during.append(max(client.run(kept_here).values())))
    assert max(during) <= 300_000
    assert 500_000 < half.cached_bytes <= 600_000
    assert half.bytes_read < half.n_passes * CASE.X.nbytes - (half.n_passes - 2) * half.cached_bytes
    with dask.config.set(scheduler="synchronous"):
        assert bits(fitted(store, cache=False)) == bits(half)
    assert gone(client)


def test_a_killed_worker_costs_its_own_rows_and_no_others(own_cluster: tuple[Client, Path], store: Path) -> None:
    client, logs = own_cluster
    lost: list[int] = []

    def kill(event: PassDone) -> None:
        if event.number == 3:
            kept = client.run(kept_here)
            address = max(
                kept, key=lambda each: (kept[each] < CASE.X.nbytes, kept[each])
            )  # (one has nothing, at times)
            lost.append(kept[address])
            os.kill(client.run(os.getpid, workers=[address])[address], signal.SIGKILL)

    fit = fitted(store, cache=True, listener=kill)
    # The survivor reads and logs; the nanny's new worker, which logs nothing, may read a part.
    assert 0 < lost[0] <= CASE.X.nbytes
    assert fit.bytes_read <= CASE.X.nbytes + lost[0]
    reads = reads_of(logs)
    assert set(reads.values()) <= {1, 2}
    assert sum(1 for n in reads.values() if n == 2) <= lost[0] // 16_000
    with dask.config.set(scheduler="synchronous"):
        assert bits(fitted(store, cache=False)) == bits(fit)
    assert gone(client)


def test_an_error_releases_what_workers_keep(own_cluster: tuple[Client, Path], store: Path) -> None:
    client, _ = own_cluster

    def listener(event: PassDone) -> None:
        if event.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        fitted(store, cache=True, listener=listener)
    assert gone(client)
    zarr.open_array(store)[30_000] = np.nan
    with pytest.raises(DataError, match="row 30000"):
        fitted(store, cache=True)
    rows = Rows.plan(open_rows(store), None)
    with (
        pytest.raises(BrokenError),
        Passes(rows, ClientExecutor(client), Keep(INTERPRETER_BYTES, 0, Room(GIB, 1), ())) as passes,
    ):
        passes.run(BreaksAtRow(30_000), name="breaks")
    assert gone(client)
    del caught
