"""Where passes run: what the surroundings call for, with one BLAS thread a task, and all as it was afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.linalg
import zarr
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_info, threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.cli.group import outcome
from daskgmm.errors import ClusterError, DataError, MemoryLimitError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.score import score_source
from daskgmm.kernels.prediction import Predictor
from daskgmm.mixture.shapes.full import Full
from daskgmm.passes.blas import BlasLimit
from daskgmm.passes.cache import kept_worker_bytes
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Room
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import INTERPRETER_BYTES, check_memory, peak_worker_bytes
from daskgmm.passes.need import Need
from daskgmm.passes.prediction import predict_blocks, predict_source
from daskgmm.passes.rows import Rows
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.stores.output import write_predictions
from tests.clusters import LOCAL
from tests.passes.test_prediction import PARAMETERS
from tests.passes.test_prediction import X as ROWS


def blas_threads() -> set[int]:
    """Return the numbers of threads of the BLAS libraries that are loaded in this process."""
    scipy.linalg.eigh(np.eye(2))  # (SciPy has a copy of its own.)
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def blas_threads_of(client: Client) -> set[int]:
    return set().union(*client.run(blas_threads).values())


@pytest.fixture
def two_blas_threads() -> Iterator[None]:
    with threadpool_limits(limits=2, user_api="blas"):
        assert blas_threads() == {2}
        yield


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of rows in ten partitions."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    zarr.create_array(tmp_path / "X.zarr", data=ROWS, chunks=(1000, 3))
    return tmp_path / "X.zarr"


# -- which one -------------------------------------------------------------------------------------------------------


def test_without_a_client_passes_run_in_this_process() -> None:
    executor = current_executor(travels=True)
    assert isinstance(executor, LocalExecutor)
    assert executor.memory_limit() is None


def test_with_a_client_passes_run_on_its_workers(client: Client) -> None:
    executor = current_executor(travels=True)
    assert isinstance(executor, ClientExecutor)
    assert executor.memory_limit() == 2 << 30
    assert executor.compute({"x": (os.getpid,)}, ["x"], travels=True)[0] in client.run(os.getpid).values()
    assert executor.compute({"x": (os.getpid,)}, ["x"], travels=False) == [os.getpid()]


@pytest.mark.parametrize("length", [10, 100_000])
def test_an_error_of_a_worker_is_worded_by_the_interface(client: Client, length: int) -> None:
    """However long it is: dask makes another error of a message of more than 10,000 characters."""
    told = DataError(
        "`X`", "have `n_components` rows", "`" + "x" * length, "Decrease `n_components`.", typed="t" * length
    )
    with pytest.raises(DataError) as caught:
        current_executor(travels=True).compute({"x": (_failing, told)}, ["x"], travels=True)
    assert (caught.value.fields, caught.value.typed) == (told.fields, told.typed)
    code, said = outcome(caught.value)
    assert code == 65
    assert said.startswith("INPUT must have --components rows; got ttt")
    assert said.endswith(". Decrease --components.")
    assert len(said) < 10_000
    assert ("ttt ..." in said) == (length > 10)


def _failing(error: Exception) -> None:
    raise error


def test_a_configured_scheduler_goes_before_the_client(client: Client) -> None:
    with dask.config.set(scheduler="synchronous"):
        assert isinstance(current_executor(travels=True), LocalExecutor)
    assert isinstance(current_executor(travels=True), ClientExecutor)


class Threads:
    """Notes in which threads its rows are read."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, block: np.ndarray) -> np.ndarray:
        self.seen.add(threading.current_thread().name)
        return block


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_configured_scheduler_is_respected(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    threads = Threads()
    array = da.from_array(ROWS, chunks=(1000, 3)).map_blocks(threads, meta=np.empty((0, 0)))
    with dask.config.set(scheduler=scheduler, num_workers=2):
        GaussianMixture(2, random_state=0, tol=1e3).fit(array)
    assert ("MainThread" in threads.seen) == (scheduler == "synchronous")
    assert len(threads.seen) == (1 if scheduler == "synchronous" else 2)


def test_a_client_without_workers_is_a_cluster_error_where_rows_travel(store: Path) -> None:
    with (
        LocalCluster(n_workers=0, **LOCAL) as cluster,
        Client(cluster),
        dask.config.set({"daskgmm.workers-timeout": 0.2}),
    ):
        with pytest.raises(ClusterError, match=r"the cluster at .+ must have workers; got none in 0.2 s\. Start some"):
            GaussianMixture(2).fit(store)
        fitted = GaussianMixture(2, random_state=0, tol=1e3).fit(ROWS)
        assert fitted.score(ROWS) == pytest.approx(fitted.score_samples(ROWS).mean())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_cluster_that_adapts_from_no_workers_is_asked_for_some(store: Path) -> None:
    with LocalCluster(n_workers=0, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=1, interval="200ms")
        fitted = GaussianMixture(2, random_state=0, tol=1e3).fit(store)
        assert fitted.n_passes_ >= 3
        assert client.nthreads()


def test_blocks_that_are_lost_with_their_worker_are_named() -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        worker = next(iter(client.nthreads()))
        kept = client.scatter([ROWS[:500], ROWS[500:1000]], workers=[worker])
        blocks = [da.from_delayed(dask.delayed(block), (500, 3), "f8") for block in kept]
        os.kill(client.run(os.getpid)[worker], signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"X must stay on the workers until the end; got blocks that were lost"):
            GaussianMixture(2).fit(da.concatenate(blocks))


def test_memory_limit_is_that_of_a_thread_of_the_smallest_worker() -> None:
    workers = {str(i): {"nthreads": 1, "memory_limit": 9 << 30} for i in range(5)}  # (a client lists five unasked)
    workers |= {"a": {"nthreads": 2, "memory_limit": 4 << 30}, "b": {"nthreads": 1, "memory_limit": 3 << 30}}
    workers |= {"c": {"nthreads": 1, "memory_limit": 0}}

    class Fake:
        def __init__(self) -> None:
            self.scheduler = SimpleNamespace(identity=lambda: {"workers": workers})

        def sync(self, ask: Any) -> Any:
            return ask()

    assert ClientExecutor(Fake()).memory_limit() == 2 << 30
    workers = {"a": {"nthreads": 2, "memory_limit": 0}}
    assert ClientExecutor(Fake()).memory_limit() is None


def test_workers_are_known_whatever_a_client_asks_for_itself_meanwhile(store: Path) -> None:
    """A client asks its scheduler for no worker every two seconds, and `scheduler_info` may return that answer."""
    rows, need = Rows.plan(open_rows(store), None), Need(Full(), 3)
    with dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}), limited(1 << 30) as executor:
        assert all(len(executor.rooms(travels=True)) == 1 for _ in range(300))
        assert all(kept_worker_bytes("auto", rows, need, executor) == rows.n_bytes for _ in range(100))


@pytest.mark.parametrize("pauses", [True, False])
def test_what_tasks_may_take_ends_where_dask_pauses_a_worker(store: Path, pauses: bool) -> None:
    """A paused worker takes no task, and its memory may stay as it is: it would wait for ever."""
    rows = Rows.plan(open_rows(store), None)
    share, limit = 0.8 if pauses else 1.0, 1 << 30
    need = Need(Full(), 3, extra_bytes=300 * MIB)  # (for each of two threads)
    with dask.config.set({"distributed.worker.memory.pause": share if pauses else False}):
        with limited(limit) as executor:
            (room,) = executor.task_rooms()
            assert (room.limit_bytes, room.n_threads, room.pause_share) == (limit, 2, share)
            assert 40 * MIB < room.taken_bytes < INTERPRETER_BYTES
            spare = int(share * limit) - peak_worker_bytes(replace(rows, prefetch=False), need, n_threads=2)
            check_memory(rows, replace(need, extra_bytes=300 * MIB + spare // 2), executor)
            large = replace(need, extra_bytes=300 * MIB + spare // 2 + MIB)
            with pytest.raises(MemoryLimitError) as caught:
                check_memory(rows, large, executor)
        where = r"410 MiB a task \(80% of its limit, where Dask pauses it\)" if pauses else "512 MiB a task"
        found = re.match(
            f"A task must fit in a worker's memory, {where}; got .* Give workers more memory "
            r"\(memory_limit (\d+)MiB\)\.$",
            str(caught.value),
        )
        assert found, caught.value
        with limited(int(found[1]) * MIB) as executor:
            check_memory(rows, large, executor)


@contextmanager
def limited(limit: int) -> Iterator[ClientExecutor]:
    """A worker of two threads with so much memory."""
    with LocalCluster(n_workers=1, threads_per_worker=2, memory_limit=limit, **LOCAL) as own, Client(own) as client:
        yield ClientExecutor(client)


def test_what_a_worker_takes_already_counts(store: Path) -> None:
    """But results do not, which Dask moves to disk, nor memory that is free and not given back."""
    rows, need = Rows.plan(open_rows(store), None), Need(Full(), 3)

    def take(n_pieces: int) -> None:  # (of 100 kB, which are pieces of the heap; the last is left at its end)
        pieces = [bytearray(100_000) for _ in range(n_pieces)]
        sys.left_there = pieces[-1:] if n_pieces < 1000 else pieces  # type: ignore[attr-defined]

    with limited(600 * MIB) as executor:
        before = executor.task_rooms()[0].taken_bytes
        kept = executor.client.submit(np.ones, 80 * MIB // 8)
        executor.client.gather(executor.client.submit(len, kept))
        executor.client.run(take, 800)
        assert executor.task_rooms()[0].taken_bytes - before < 40 * MIB
        check_memory(rows, need, executor)
        executor.client.cancel(kept)
        while any(executor.client.run(lambda dask_worker: len(dask_worker.data)).values()):
            time.sleep(0.05)
        executor.client.run(take, 4000)
        assert executor.task_rooms()[0].taken_bytes - before > 350 * MIB
        with pytest.raises(MemoryLimitError, match=r"pauses it; which has \d{3} MiB of its 600 MiB taken already\)"):
            check_memory(rows, need, executor)


def test_two_workers_are_held_against_the_smaller_one(store: Path) -> None:
    """Whose threads share what is loaded once."""
    rows, need = Rows.plan(open_rows(store), None), Need(Full(), 3)
    least = peak_worker_bytes(replace(rows, prefetch=False), need, n_threads=4)
    assert least < 1.5 * peak_worker_bytes(replace(rows, prefetch=False), need)

    class Fake(ClientExecutor):
        def task_rooms(self) -> list[Room]:
            return [Room(4 * (1 << 30), 1), Room(limit, 4)]

    limit = least
    check_memory(rows, need, Fake(None))
    limit = least - 1
    with pytest.raises(MemoryLimitError, match=r"MiB a task \(the smallest worker's\); got a need of"):
        check_memory(rows, need, Fake(None))


# -- what travels ----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that hand a graph to the client."""
    calls: list[str] = []
    for name in "get", "compute", "persist", "submit", "map", "scatter":
        really = getattr(Client, name)

        def noted(self: Client, *args: Any, _name: str = name, _really: Any = really, **kwargs: Any) -> Any:
            calls.append(_name)
            return _really(self, *args, **kwargs)

        monkeypatch.setattr(Client, name, noted)
    return calls


def test_arrays_in_memory_are_never_shipped_to_workers(
    asked: list[str], tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 24_000)
    mixture = GaussianMixture(3, random_state=0, tol=1e3).fit(ROWS, sample_weight=np.ones(len(ROWS)))
    mixture.score(ROWS)
    mixture.predict(ROWS)
    write_predictions(Predictor.of(PARAMETERS, "label"), open_rows(ROWS), str(tmp_path / "out"), record={})
    # Neither are stored rows with weights in memory, nor a store in this process.
    mixture.fit(store, sample_weight=np.ones(len(ROWS)))
    array = zarr.create_array({}, data=ROWS, chunks=(1000, 3))
    mixture.fit(array)
    assert asked == []
    mixture.fit(store)
    assert asked == ["get"] * mixture.n_passes_


def test_a_small_store_needs_no_cluster(asked: list[str], tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=ROWS, chunks=(1000, 3))
    GaussianMixture(3, random_state=0, tol=1e3).fit(tmp_path / "X.zarr")
    assert asked == []


# -- BLAS threads ----------------------------------------------------------------------------------------------------


def during_and_after(work: Callable[[Callable[[Any], None]], Any], threads: Callable[[], set[int]]) -> Any:
    """Return the BLAS threads before, during and after some work that calls back."""
    before, during = threads(), []
    work(lambda _: during.append(threads()))
    return before, during, threads()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.usefixtures("two_blas_threads")
def test_blas_is_limited_during_a_fit_and_restored_after_it(store: Path, fails: bool) -> None:
    def fit(listener: Any) -> None:
        def noted(event: Any) -> None:
            listener(event)
            if fails and event.number == 2:
                raise DataError("no further")

        try:
            fit_mixture(open_rows(store), FitOptions(3, max_iter=1), listener=noted)
        except DataError:
            assert fails

    before, during, after = during_and_after(fit, blas_threads)
    assert len(during) == (3 if fails else 4), "survey, start on the sample, EM, closing pass"
    assert (before, set.union(*during), after) == ({2}, {1}, {2})


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_is_limited_while_rows_are_scored_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    seen: list[set[int]] = []

    def noted(block: np.ndarray) -> np.ndarray:
        seen.append(blas_threads())
        return block

    array = da.from_array(ROWS, chunks=(5000, 3)).map_blocks(noted, meta=np.empty((0, 0)))
    score_source(PARAMETERS, open_rows(array))
    write_predictions(Predictor.of(PARAMETERS, "label"), open_rows(array), str(tmp_path / "out"), record={})
    assert len(seen) == 4
    assert set.union(*seen) == {1}
    assert blas_threads() == {2}


@pytest.mark.parametrize("source", ["dask", "zarr"])
@pytest.mark.usefixtures("two_blas_threads")
def test_blas_is_limited_while_a_lazy_prediction_is_computed(
    source: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, seen = Predictor.predict, []

    def noted(self: Predictor, *arguments: Any) -> None:
        seen.append(blas_threads())
        predict(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", noted)
    predictor = Predictor.of(PARAMETERS, "label")
    if source == "dask":
        found = predict_blocks(da.from_array(ROWS, chunks=(1000, 3)), predictor, non_finite="error")
    else:
        found = predict_source(open_rows(store), predictor, non_finite="error")
    found.compute(scheduler="threads", num_workers=3)
    assert set.union(*seen) == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_any_thread_may_limit_blas_and_another_restore_it() -> None:
    """Fits in threads overlap; threadpoolctl itself obeys only the first thread that has set a limit."""

    def in_a_thread(work: Callable[[], object]) -> object:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work).result()

    limit = BlasLimit()
    in_a_thread(limit.take)
    assert blas_threads() == {1}
    with ThreadPoolExecutor(1) as alive:
        alive.submit(limit.take).result()
        in_a_thread(limit.release)
        assert blas_threads() == {1}
    in_a_thread(limit.release)
    assert blas_threads() == {2}
    with threadpool_limits(limits=1, user_api="blas"):
        assert blas_threads() == {1}


def test_blas_is_limited_on_workers_under_nannies(client: Client, store: Path) -> None:
    def fit(listener: Any) -> None:
        fit_mixture(open_rows(store), FitOptions(3, max_iter=1), listener=listener)

    before, during, after = during_and_after(fit, lambda: blas_threads_of(client))
    assert (len(during), set.union(*during)) == (4, {1})
    assert after == before


@pytest.fixture
def bare_worker() -> Iterator[Client]:
    """A client of a scheduler with one worker of two threads in a process of its own, without a nanny."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["OPENBLAS_NUM_THREADS"] = "2"
    with LocalCluster(n_workers=0, **LOCAL) as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        options = ["--no-nanny", "--nthreads", "2", "--memory-limit", "2GiB", "--no-dashboard", "--host", "127.0.0.1"]
        worker = subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with Client(cluster) as client:
                client.wait_for_workers(1, timeout=60)
                yield client
        finally:
            worker.terminate()
            worker.wait(30)


@pytest.mark.parametrize("when", ["begins", "ends"])
def test_a_worker_that_dies_as_a_fit_begins_or_ends_does_no_harm(when: str) -> None:
    """The scheduler, which does not know it yet, fails to tell that worker what it tells all."""
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="1GiB", **LOCAL) as own, Client(own) as client:
        pids = sorted(client.run(os.getpid).values())
        if when == "begins":
            os.kill(pids[0], signal.SIGKILL)
        with for_passes(ClientExecutor(client)):
            if when == "ends":
                os.kill(pids[0], signal.SIGKILL)
        assert client.submit(lambda: 1).result(timeout=30) == 1


def test_blas_is_limited_on_a_worker_of_two_threads_without_a_nanny(bare_worker: Client, store: Path) -> None:
    assert current_executor(travels=True).memory_limit() == 1 << 30, "half of the worker's, as it has two threads"
    results = []

    def fit(listener: Any) -> None:
        results.append(fit_mixture(open_rows(store), FitOptions(3, max_iter=1), listener=listener))

    before, during, after = during_and_after(fit, lambda: blas_threads_of(bare_worker))
    assert (before, set.union(*during), after) == ({2}, {1}, {2})
    with dask.config.set(scheduler="synchronous"):
        local = fit_mixture(open_rows(store), FitOptions(3, max_iter=1))
    np.testing.assert_array_equal(results[0].parameters.means, local.parameters.means)
    # A failure restores them too.
    zarr.open_array(store)[4321] = np.nan
    with pytest.raises(DataError, match="the first in partition 4, row 4321"):
        fit_mixture(open_rows(store), FitOptions(3))
    assert blas_threads_of(bare_worker) == {2}


# -- what a dashboard shows, and what the caller asks of the scheduler ---------------------------------------------
@pytest.mark.parametrize("cache", [False, True])
def test_tasks_have_names_of_ours_and_go_where_the_caller_says(cache: bool, store: Path) -> None:
    def spans(dask_scheduler: Any) -> dict[tuple[str, ...], set[str]]:
        found = dask_scheduler.extensions["spans"].spans.values()
        return {span.name: {group.prefix.name for group in span.groups} for span in found}

    def done(dask_worker: Any) -> int:
        return int(dask_worker.state.executed_count)

    with LocalCluster(n_workers=2, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        asked, other = client.nthreads()
        with dask.annotate(workers=[asked], allow_other_workers=False):
            fit_mixture(open_rows(store), FitOptions(2, max_iter=2, tol=1.0, cache=cache))
        counts = client.run(done)
        assert counts[asked] > 4
        assert counts[other] == 0
        (tasks,) = (tasks for name, tasks in client.run_on_scheduler(spans).items() if name == ("daskgmm",))
        assert {"daskgmm-partition-em", "daskgmm-merge-em", "daskgmm-partition-closing"} <= tasks
        assert all(name.startswith("daskgmm-") for name in tasks)
