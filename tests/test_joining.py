"""Clusters that are joined: of other processors, without daskgmm, of other versions; each a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

import daskgmm
from daskgmm import GaussianMixture, select
from daskgmm.passes.provenance import processor, provenance
from daskgmm.stores.model_file import checksum, load_model
from tests.clusters import LOCAL, OwnCluster, free_port

ROOT = str(Path(daskgmm.__file__).parents[1])
OPTIONS = ("-k", 2, "--restarts", 1, "--no-escape", "--max-iter", 2, "--start-rows", 2000)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Path of rows in several partitions."""
    X = np.random.default_rng(0).normal(size=(1_000_000, 20)).astype("f4")
    X[::3] += 4
    np.save(tmp_path / "X.npy", X)
    return tmp_path / "X.npy"


def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daskgmm", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@contextmanager
def worker(address: str, folder: Path, **environment: str) -> Iterator[None]:
    """A worker in a process of its own, of one thread."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    process = subprocess.Popen(
        [*command, "--no-nanny", "--memory-limit", "1GiB", "--host", "127.0.0.1"], cwd=folder,
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_this_processor_is_one() -> None:
    assert provenance()["machine"] in processor()
    assert "openblas" in processor().lower() or "mkl" in processor().lower() or "accelerate" in processor().lower()


@pytest.mark.skipif("openblas" not in processor(), reason="OPENBLAS_CORETYPE is of OpenBLAS alone")
def test_processors_of_several_kinds_are_noticed_once(rows: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, **LOCAL) as cluster, Client(cluster) as client:
        others = {"OPENBLAS_CORETYPE": "Nehalem"}
        with worker(cluster.scheduler_address, tmp_path), worker(cluster.scheduler_address, tmp_path, **others):
            client.wait_for_workers(2, timeout=60)
            done = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", "--scheduler", cluster.scheduler_address)
            selected = select(rows, n_components=[1, 2], max_iter=2, n_init=1, escape=False, random_state=0)
    assert done.returncode in (0, 3), done.stderr
    assert done.stderr.count("Passes ran on processors of several kinds (") == 1
    assert "openblas" in done.stderr
    assert "Nehalem" in done.stderr
    (remark,) = [one for one in load_model(tmp_path / "m.zarr").record["remarks"] if "processors" in one]
    assert "For the same bits take workers of one kind." in remark
    assert sum("processors of several kinds" in one for one in selected.best_._remarks) == 1


def test_the_package_is_sent_to_workers_that_have_none(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of an environment that has all that daskgmm needs, and not daskgmm."""
    lines = """
import os, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "daskgmm" and not sys.path[0].endswith(".zip"):
            raise ModuleNotFoundError("No module named 'daskgmm'", name="daskgmm")
if "HIDDEN" in os.environ and "--multiprocessing-fork" in sys.orig_argv:
    sys.meta_path.insert(0, Hidden())
sys.modules["numba"] = None  # (loops would be compiled anew from a zip file, which takes half a minute)
"""
    (tmp_path / "sitecustomize.py").write_text(lines)
    cluster = OwnCluster(free_port(), tmp_path, environment={"PYTHONPATH": str(tmp_path), "HIDDEN": "1"})
    try:
        where = ("--scheduler", cluster.address, "--workers-timeout", 100)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
        refused = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", *where)
        assert refused.returncode == 69
        assert re.search(r"Workers must have daskgmm installed.*--upload-package sends daskgmm alone", refused.stderr)
        sent = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", *where, "--upload-package")
        assert sent.returncode in (0, 3), sent.stderr
    finally:
        cluster.kill()
    here = GaussianMixture.load(tmp_path / "m.zarr")
    local = call("fit", rows, *OPTIONS, "-o", tmp_path / "here.zarr", "--workers", 1)
    assert "processors" not in local.stderr, "of one kind they are no matter"
    assert json.loads(local.stdout)["n_passes"] == json.loads(sent.stdout)["n_passes"]
    assert checksum(load_model(tmp_path / "here.zarr").parameters) == checksum(here._parameters())


def test_sending_needs_somebody_to_send_to(rows: Path, tmp_path: Path) -> None:
    done = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", "--upload-package")
    assert done.returncode == 64
    assert "--upload-package must be left out without a scheduler; got" in done.stderr


def test_the_scheduler_of_dasks_configuration_is_joined(rows: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        done = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", DASK_SCHEDULER_ADDRESS=address)
        assert done.returncode in (0, 3), done.stderr
        assert f"Running in 1 worker of {address} (dashboard: {cluster.dashboard_link})" in done.stderr, done.stderr
    # What is typed of a local cluster goes before it.
    done = call("fit", rows, *OPTIONS, "-o", tmp_path / "n.zarr", "--workers", 1, DASK_SCHEDULER_ADDRESS=address)
    assert "Running in 1 worker process," in done.stderr


def test_an_address_that_nobody_typed_is_named(rows: Path, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    where = ("--workers-timeout", 2)
    done = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", *where, DASK_SCHEDULER_ADDRESS=address)
    assert done.returncode == 69, done.stderr
    assert f"got nothing from {address}, which Dask's configuration names (DASK_SCHEDULER_ADDRESS)." in done.stderr


def test_something_that_is_no_scheduler(rows: Path, tmp_path: Path) -> None:
    import http.server
    import threading

    server: Any = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"tcp://127.0.0.1:{server.server_address[1]}"
    done = call("fit", rows, *OPTIONS, "-o", tmp_path / "m.zarr", "--scheduler", address, "--workers-timeout", 3)
    server.shutdown()
    server.server_close()
    assert done.returncode == 69, done.stderr
    assert f"The scheduler must answer within 3 s; got nothing from {address}." in done.stderr
