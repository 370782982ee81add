"""A scheduler and workers of their own that are killed while a fit runs, and TLS: real processes, real sockets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from daskgmm.errors import ClusterError
from daskgmm.places.lost import watched
from daskgmm.places.signals import interrupts
from tests import chaos
from tests.chaos import checksum
from tests.clusters import LOCAL, OwnCluster, certified, free_port
from tests.groups import two_groups
from tests.sockets import certified_context, listening, spoken

#: What a cluster and its clients are told of failures.
FAST = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of 73 MiB in four partitions."""
    return two_groups(tmp_path_factory.mktemp("failures") / "rows.zarr", 300_000)


def fit(store: Path, output: Path, *options: object) -> list[str]:
    """The command of a fit of 32 quick passes."""
    quick = ("--restarts", 1, "--no-escape", "--start-rows", 2000, "--covariance", "diag", "--checkpoint-every", 0)
    arguments = ("fit", store, "-k", 2, "-o", output, "--tol", 0, "--max-iter", 30, *quick, *options)
    return [sys.executable, "-m", "daskgmm", *map(str, arguments)]


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("undisturbed") / "m.zarr"
    subprocess.run(fit(store, output, "--workers", 2), capture_output=True, check=False, timeout=100)
    return checksum(output)


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Any]:
    found: list[OwnCluster] = []

    def start(port: int, *options: str, preload: str = "") -> OwnCluster:
        found.append(OwnCluster(port, tmp_path, *options, preload=preload, environment=FAST))
        return found[-1]

    yield start
    for cluster in found:
        cluster.kill()


def until(process: subprocess.Popen[str], what: str) -> str:
    assert process.stderr is not None
    seen = ""
    while what not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    return seen


def test_a_scheduler_that_comes_back_ends_in_the_same_bits(
    clusters: Any, store: Path, tmp_path: Path, undisturbed: str
) -> None:
    port = free_port()
    first = clusters(port)
    arguments = fit(store, tmp_path / "m.zarr", "--scheduler", first.address, "--scheduler-wait", 60)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **FAST}
    ) as process:
        until(process, "pass   6")
        first.kill()
        said = until(process, "The scheduler was lost. Waiting up to 60 s")
        assert said.endswith("to go on from the checkpoint (--scheduler-wait).\n")
        clusters(port)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, said + stderr
    assert json.loads(stdout)["n_passes"] == 32
    assert re.search(r"Going on from .*m.zarr.checkpoint, after pass \d+\.", stderr)
    assert checksum(tmp_path / "m.zarr") == undisturbed
    assert not (tmp_path / "m.zarr.checkpoint").exists()


@pytest.mark.parametrize("wait", [0, 3])
def test_a_scheduler_that_does_not_come_back_ends_the_fit_in_time(
    wait: int, clusters: Any, store: Path, tmp_path: Path, undisturbed: str
) -> None:
    cluster = clusters(free_port())
    arguments = fit(store, tmp_path / "m.zarr", "--scheduler", cluster.address, "--scheduler-wait", wait)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **FAST}
    ) as process:
        until(process, "pass   6")
        cluster.kill()
        began = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 69, stderr
    assert time.monotonic() - began < wait + 25
    assert "Traceback" not in stderr
    again = subprocess.run(
        fit(store, tmp_path / "m.zarr", "--workers", 2), capture_output=True, text=True, check=False, timeout=100
    )
    assert "Going on from" in again.stderr
    assert checksum(tmp_path / "m.zarr") == undisturbed


_DIES = """
import os
from pathlib import Path
from daskgmm.sources import zarr_source
def read(self, start, stop, real=zarr_source.ZarrReader.read):
    if start <= 290_000 < stop:
        for i in range({first} + {times}):
            try:
                Path({folder!r}, str(i)).touch(exist_ok=False)
            except FileExistsError:
                continue
            if i >= {first}:
                os._exit(1)
            break
    return real(self, start, stop)
zarr_source.ZarrReader.read = read
"""


def fit_where_workers_die(
    first: int, times: int, clusters: Any, store: Path, tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """Fit where each worker that reads a certain row dies, some times, after first reads that go well."""
    (tmp_path / "reads").mkdir()
    (tmp_path / "dies.py").write_text(_DIES.format(first=first, times=times, folder=str(tmp_path / "reads")))
    cluster = clusters(free_port(), preload=str(tmp_path / "dies.py"))
    return subprocess.run(
        fit(store, tmp_path / "m.zarr", "--scheduler", cluster.address, "--cache", "no"),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("n_reads", [0, 4])
def test_rows_that_kill_every_worker_are_named_and_the_checkpoint_stands(
    n_reads: int, clusters: Any, store: Path, tmp_path: Path, undisturbed: str
) -> None:
    done = fit_where_workers_die(n_reads, 1000, clusters, store, tmp_path)
    assert done.returncode == 69, done.stderr
    found = re.search(r"died at rows (\d+) to (\d+) of .*rows.zarr", done.stderr)
    assert found, done.stderr
    assert int(found[1]) <= 290_000 < int(found[2])
    assert "Traceback" not in done.stderr
    if n_reads:
        again = subprocess.run(
            fit(store, tmp_path / "m.zarr", "--workers", 2, "--cache", "no"), capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert re.search(r"Going on from .*, after pass [1-4]\.", again.stderr), again.stderr
        assert checksum(tmp_path / "m.zarr") == undisturbed


def test_a_fit_goes_on_where_rows_that_workers_died_at_can_be_read_after_all(
    clusters: Any, store: Path, tmp_path: Path, undisturbed: str
) -> None:
    done = fit_where_workers_die(2, 3, clusters, store, tmp_path)  # (given up after two)
    assert "Several workers died while running tasks for rows" in done.stderr
    assert len(list((tmp_path / "reads").iterdir())) == 5, done.stderr
    assert checksum(tmp_path / "m.zarr") == undisturbed


# -- TLS ---------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
def test_without_the_right_certificate_nobody_gets_in(
    clusters: Any, small_store: Path, tmp_path: Path, small_rows: np.ndarray
) -> None:
    right, wrong = certified(tmp_path, "right"), certified(tmp_path, "wrong")
    cluster = clusters(free_port(), *right)

    def run(address: str, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [
            "fit",
            str(small_store),
            "-k",
            "2",
            "-o",
            str(tmp_path / "m.zarr"),
            "--scheduler",
            address,
            *options,
        ]
        return subprocess.run(
            [sys.executable, "-m", "daskgmm", *arguments, "--scheduler", address],
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    done = run(cluster.address, *right)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == len(small_rows)
    shutil.rmtree(tmp_path / "m.zarr")
    for address, options in [
        (cluster.address, wrong), (cluster.address, []), (cluster.address.replace("tls", "tcp"), []),
    ]:  # fmt: skip
        refused = run(address, *options, "--workers-timeout", "3")
        assert refused.returncode in (64, 69), refused.stderr
        assert "Traceback" not in refused.stderr
        assert "--tls-ca-file" in refused.stderr
        assert not (tmp_path / "m.zarr").exists()
    some = run(cluster.address, *right[:2])
    assert some.returncode == 64
    assert "--tls-cert and --tls-key must be given with --tls-ca-file" in some.stderr
    gone = run(cluster.address, *right[:5], str(tmp_path / "none.pem"))
    assert "--tls-key must be a file" in gone.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
def test_a_local_cluster_has_tls_where_it_is_asked_for(store: Path, tmp_path: Path, undisturbed: str) -> None:
    options = [*certified(tmp_path, "own"), "--workers", "2"]
    with subprocess.Popen(
        fit(store, tmp_path / "m.zarr", *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        until(process, "Running in")
        context = certified_context(tmp_path, "own")
        found = [spoken(address, context) for address in listening(process.pid)]
        process.communicate(timeout=100)
    assert process.returncode == 3
    assert len([what for what in found if what.startswith("TLS")]) == 5, "the scheduler, two workers and their nannies"
    assert "dask" not in found
    assert checksum(tmp_path / "m.zarr") == undisturbed


# -- at random ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def chaotic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return chaos.prepared(tmp_path_factory.mktemp("chaos"))


@pytest.mark.slow
def test_trouble_at_random_ends_in_the_same_bits(chaotic: tuple[Path, str], tmp_path: Path) -> None:
    """One run, another with another DASKGMM_SEED; `python -m tests.chaos` does the full set."""
    seed = int(os.environ.get("DASKGMM_SEED", "1"))
    kind = ["worker", "scheduler", "driver"][seed % 3]
    print("kind", kind, "seed", seed)
    record = chaos.run(kind, seed, chaotic[0], tmp_path, chaotic[1])
    assert not record["wrong"], f"python -m tests.chaos --kinds {kind} --seed {seed} --runs 1: {record}"


def test_a_fit_without_workers_ends_in_time(clusters: Any, store: Path, tmp_path: Path) -> None:
    """Workers that leave and do not come back, of a scheduler that stays."""
    cluster = clusters(free_port())
    stderr = ends(cluster, store, tmp_path / "m.zarr", cluster.workers, signal.SIGKILL)
    assert f"Workers must be there until the end; got none at {cluster.address} for 4 s." in stderr
    assert "There are no workers. Waiting up to 4 s for one." in stderr


def test_workers_that_are_paused_for_ever_are_told_and_end_a_command() -> None:
    def take(n: int) -> None:
        sys.left_there = bytearray(n)  # type: ignore[attr-defined]

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, memory_limit="400MiB", **LOCAL) as own,
        Client(own) as client,
        interrupts.watched(),
    ):
        client.run(take, 290 << 20)
        deadline = time.monotonic() + 30
        while {w["status"] for w in client.scheduler_info()["workers"].values()} != {"paused"}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        said = "got none at .* that Dask has not paused for 2 s, as their memory is full"
        with pytest.raises(ClusterError, match=said), watched(client, 2.0):
            client.submit(len, [1]).result(timeout=60)
        with watched(client, 20.0):  # (it waits for one that comes to itself)
            later = threading.Timer(3.0, client.run, [take, 0])
            later.start()
            assert client.submit(len, [1, 2]).result(timeout=60) == 2


def test_a_scheduler_that_is_silent_ends_the_fit_in_time(clusters: Any, store: Path, tmp_path: Path) -> None:
    """Stopped, not dead: its connections stay open."""
    cluster = clusters(free_port())
    stderr = ends(cluster, store, tmp_path / "m.zarr", cluster.scheduler, signal.SIGSTOP)
    assert f"The scheduler must answer; got nothing from {cluster.address} for 4 s." in stderr


def test_what_takes_a_connection_and_says_nothing_is_no_scheduler(store: Path, tmp_path: Path) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(5)
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        done = subprocess.run(
            fit(store, tmp_path / "m.zarr", "--scheduler", address, "--workers-timeout", 4),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert f"The scheduler must answer within 4 s; got nothing from {address}." in done.stderr
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_fit_whose_scheduler_is_silent(
    number: signal.Signals, clusters: Any, store: Path, tmp_path: Path
) -> None:
    cluster = clusters(free_port())
    arguments = fit(store, tmp_path / "m.zarr", "--scheduler", cluster.address)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(process, "pass   5")
        cluster.scheduler.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(number)
        began = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < 11
    assert process.returncode == 75
    assert f"Interrupted by {number.name} before the end" in stderr
    assert (tmp_path / "m.zarr.checkpoint").exists()


def ends(cluster: OwnCluster, store: Path, output: Path, hit: subprocess.Popen[bytes], number: signal.Signals) -> str:
    """Return what a fit says that ends in time when some processes get a signal; it can go on."""
    arguments = fit(store, output, "--scheduler", cluster.address, "--workers-timeout", 4)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **FAST}
    ) as process:
        until(process, "pass   6")
        os.killpg(hit.pid, number)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 69, stderr
    assert Path(f"{output}.checkpoint").exists()
    return stderr
