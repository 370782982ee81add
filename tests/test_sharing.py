"""Several commands on one scheduler: each ends with the bits that it has alone, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from daskgmm import GaussianMixture
from daskgmm.stores.model_file import checksum as parameters_checksum
from tests.chaos import checksum
from tests.clusters import LOCAL

#: Of eight fits, each its own: a seed, a number of components, a kind.
FITS = [("--seed", seed, "-k", k, "--covariance", kind) for seed, k in ((1, 2), (2, 3)) for kind in
        ("full", "diag", "tied", "spherical")]  # fmt: skip
HOW = ("--restarts", 1, "--no-escape", "--max-iter", 4, "--tol", 0, "--start-rows", 2000, "--cache", "no")
ALONE: dict[str, Any] = {
    "n_init": 1, "escape": False, "max_iter": 4, "tol": 0, "start_rows": 2000, "cache": False
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of rows in several partitions."""
    X = np.random.default_rng(0).normal(size=(1_200_000, 16)).astype("f4")
    X[::3] += 4
    place = tmp_path_factory.mktemp("shared") / "X.npy"
    np.save(place, X)
    return place


def fit(rows: Path, output: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "daskgmm", "fit", *map(str, (rows, "-o", output, *HOW, *options))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tasks_of(client: Client) -> dict[str, Any]:
    """Keys and tasks that the scheduler knows, keys that workers hold, and what waits."""
    known = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    held = client.run(lambda dask_worker: len(dask_worker.data))
    return {"tasks": known, "held": sum(held.values())}


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_eight_fits_and_one_that_is_cancelled_share_a_scheduler(rows: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        where = ("--scheduler", cluster.scheduler_address)
        running = [fit(rows, tmp_path / f"{i}.zarr", *own, *where) for i, own in enumerate(FITS)]
        cancelled = fit(rows, tmp_path / "cancelled.zarr", "-k", 4, "--max-iter", 1000, *where, "--priority", 1)
        assert cancelled.stderr is not None
        for line in cancelled.stderr:
            if "pass   3" in line:
                break
        cancelled.send_signal(signal.SIGTERM)
        cancelled.communicate(timeout=60)
        assert cancelled.returncode == 75
        for process in running:
            _, said = process.communicate(timeout=300)
            assert process.returncode == 3, said
        deadline = time.monotonic() + 20
        while (left := tasks_of(client)) != {"tasks": 0, "held": 0} and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == {"tasks": 0, "held": 0}
    for i, own in enumerate(FITS):
        _, seed, _, n_components, _, kind = own
        alone = GaussianMixture(n_components, covariance_type=kind, random_state=seed, **ALONE).fit(rows)
        assert checksum(tmp_path / f"{i}.zarr") == parameters_checksum(alone._parameters())


def test_priority_is_that_of_the_tasks(rows: Path, tmp_path: Path) -> None:
    """Seen by the scheduler."""

    def priorities(dask_scheduler: Any) -> list[int]:
        return sorted({-task.priority[0] for task in dask_scheduler.tasks.values() if "daskgmm" in str(task.key)})

    with LocalCluster(n_workers=1, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        found: set[int] = set()
        process = fit(
            rows,
            tmp_path / "m.zarr",
            "-k",
            2,
            "--scheduler",
            cluster.scheduler_address,
            "--max-iter",
            40,
            "--priority",
            -3,
        )
        while process.poll() is None:
            found.update(client.run_on_scheduler(priorities))
        _, said = process.communicate()
        assert process.returncode == 3, said
    assert found == {-3}
