"""What belongs to the whole process is after a fit as before, and a fit needs nothing of it that a fork loses."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import scipy.linalg
import sklearn.cluster
import zarr
from dask.callbacks import Callback
from distributed import Client, LocalCluster, get_worker, worker_client
from threadpoolctl import threadpool_info, threadpool_limits

from daskgmm import GaussianMixture
from daskgmm.errors import MemoryLimitError
from daskgmm.passes.blas import blas_limit
from daskgmm.sources import partition
from tests.clusters import LOCAL
from tests.groups import two_groups


def of_the_process() -> dict[str, Any]:
    """What all threads of this process share and a library might change."""
    scipy.linalg.eigh(np.eye(2))  # (SciPy has a BLAS of its own.)
    return {
        "filters of warnings": list(warnings.filters),
        "how warnings are shown": (warnings.showwarning, warnings._showwarnmsg_impl),  # type: ignore[attr-defined]
        "environment": dict(os.environ),
        "threads": sorted((info["filepath"], info["num_threads"]) for info in threadpool_info()),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "random state": np.random.get_state()[1].tobytes(),
        "floating point errors": np.geterr(),
        "Dask": (dask.config.config.copy(), set(Callback.active)),
        "scikit-learn": sklearn.get_config(),
        "loggers": {name: logging.getLogger(name).level for name in ("", "daskgmm", "distributed")},
        "hooks": (sys.excepthook, sys.unraisablehook),
        "folder": os.getcwd(),
    }


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Path of 6,000 rows in chunks of 12,000 bytes."""
    rows = np.random.default_rng(1).normal(size=(6000, 3))
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(500, 3))
    return str(tmp_path / "rows.zarr")


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)


def bound(X: Any, seed: int = 0, init_params: str = "kmeans") -> float:
    """Fit and predict; the lower bound."""
    gm = GaussianMixture(3, n_init=2, random_state=seed, tol=1e3, init_params=init_params).fit(X)
    labels = gm.predict(X)
    if not isinstance(labels, np.ndarray):
        labels.compute(scheduler="synchronous")
    return float(gm.lower_bound_)


def changed(run: Callable[[], Any]) -> list[str]:
    """What of the process a call has changed."""
    before = of_the_process()
    run()
    after = of_the_process()
    return [name for name in before if before[name] != after[name]]


def test_fits_in_eight_threads(store: str) -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 3))
    alone = [bound(X, seed) for seed in range(4) for X in (rows, store)]

    def fits() -> None:
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(bound, [rows, store] * 8, [seed % 8 // 2 for seed in range(16)])
            assert list(found) == alone * 2

    with threadpool_limits(limits=2, user_api="blas"):
        bound(rows)
        assert changed(fits) == []


def in_a_fork(run: Callable[[], Any], *, within_seconds: float = 60) -> Any:
    """What a call returns in a forked child of this process; None where the child does not end."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(run()).encode())
        finally:
            os._exit(0)
    deadline = time.monotonic() + within_seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    os.close(write)
    with os.fdopen(read) as found:
        return found.read() or None


def main(place: str) -> None:
    """Fit first of all, and again in forked children; then fork while another thread holds what a fit holds."""
    partition.PARTITION_BYTES = 24_000
    rows = np.random.default_rng(0).normal(size=(2000, 3))
    # (The first fits of a process: those after them would find what these had changed for good.)
    assert changed(lambda: (bound(rows), bound(place))) == []
    for X in (rows, place):
        for init_params in ("kmeans", "k-means||"):
            here = bound(X, init_params=init_params)
            there = in_a_fork(lambda: (bound(X, init_params=init_params), changed(lambda: bound(X))))  # noqa: B023
            assert there == repr((here, [])), (init_params, there)
    with threadpool_limits(limits=2, user_api="blas"):
        before = of_the_process()["threads"]
        with ThreadPoolExecutor(1) as thread:
            thread.submit(blas_limit.take).result()
            assert of_the_process()["threads"] != before
            assert in_a_fork(lambda: of_the_process()["threads"]) == repr(before)
            thread.submit(blas_limit.release).result()
        with blas_limit.held():
            held = of_the_process()["threads"]
            assert in_a_fork(lambda: (of_the_process()["threads"], blas_limit.release())[0]) == repr(held)


def test_first_fits_and_fits_in_forked_children(store: str) -> None:
    # (In a process of its own: this one has threads of many kinds.)
    command = f"from tests.test_whole_process import main; main({store!r})"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def fitted_in_a_task(X: Any) -> tuple[float, list[str]]:
    partition.PARTITION_BYTES = 24_000
    bound(X)  # (what is imported first is not what a fit changes)
    return bound(X), changed(lambda: bound(X))


def fitted_by(more: bool, X: Any) -> dict[str, Any]:
    """Fit in a task, alone or with the cluster: the most threads at once, and the tasks that other workers did."""
    partition.PARTITION_BYTES = 24_000
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, sum(one.name.startswith("daskgmm-pass") for one in threading.enumerate()))

    watching = threading.Thread(target=watch)
    watching.start()
    with worker_client() if more else nullcontext():
        found = bound(X)
    done.set()
    watching.join()
    return {"bound": found, "threads": most, "where": get_worker().address}


def test_a_fit_in_a_task_takes_no_more_than_its_task(store: str) -> None:
    def done(dask_worker: Any) -> int:
        return int(dask_worker.state.executed_count)

    with LocalCluster(n_workers=2, threads_per_worker=2, **LOCAL) as cluster, Client(cluster) as client:
        alone = client.gather([client.submit(fitted_by, False, store, pure=False) for _ in range(4)])
        assert sum(client.run(done).values()) == 4, "no task but these"
        assert {found["bound"] for found in alone} == {bound(store)}
        # (Two at once on each worker, of two threads.)
        assert max(found["threads"] for found in alone) <= 2
        with_all = client.submit(fitted_by, True, store).result(timeout=100)
        assert sum(client.run(done).values()) > 10
        assert with_all["bound"] == bound(store)


def test_a_fit_in_a_task_is_refused_what_its_worker_has_not(tmp_path: Path) -> None:
    place = two_groups(tmp_path / "X.zarr", 40_000)
    with LocalCluster(n_workers=1, threads_per_worker=4, memory_limit="1GiB", **LOCAL) as own, Client(own) as client:
        future = client.submit(fitted_by, False, str(place))
        with pytest.raises(MemoryLimitError, match="256 MiB a task"):
            future.result(timeout=100)


def test_a_fit_in_a_task_of_a_worker_of_one_thread(store: str) -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 3))
    with LocalCluster(n_workers=1, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        for X in (rows, store):
            found, other = client.submit(fitted_in_a_task, X).result(timeout=100)
            assert other == []
            assert found == pytest.approx(bound(X), rel=1e-12)
