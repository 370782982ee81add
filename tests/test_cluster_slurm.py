"""`cluster/slurm/` and `cluster/any-batch/`: their own files on a real SLURM, and the bits of a fit on this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture
from tests.slurm import Slurm, missing

# (Jobs start six to ten processes each, which takes its time where others work too.)
pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.timeout(400)]

CLUSTER = Path(__file__).parents[1] / "cluster"
NIGHTLY, ANY = CLUSTER / "slurm" / "nightly.sbatch", CLUSTER / "any-batch" / "run.sh"
#: There is no network between the machines of this SLURM; and what the files ask for, as sbatch's options change it.
HERE = {"INTERFACE": "lo", "MEMORY_LIMIT": "1GiB"}
SMALL = ("--ntasks=2", "--mem-per-cpu=1G", "--output=log-%j.txt")
#: A fit that goes on as long as it may, and one that is soon done.
QUICK_START = ("--restarts", 1, "--no-escape", "--start-rows", 4000)
LONG = ("--components", 4, *QUICK_START, "--tol", 0, "--max-iter", 12, "--cache", "no")
SHORT = (*QUICK_START, "--tol", 0.1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two partitions, 122 MiB of small whole numbers, which take little room on disk."""
    random = np.random.default_rng(0)
    X = random.integers(0, 4, size=(1_000_000, 16)) + random.integers(0, 4, size=(1_000_000, 16))
    X[: len(X) // 2] += random.integers(0, 3, 16)
    path = tmp_path_factory.mktemp("rows") / "rows.zarr"
    zarr.create_array(path, data=X.astype(float), chunks=(500_000, 16))
    return path


class Slow(ThreadingHTTPServer):
    """A server that gives each chunk after some seconds; `delay` may change meanwhile."""

    delay = 0.0

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that are gone."""


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if "/c/" in self.path:
            time.sleep(self.server.delay)  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def slow(rows: Path) -> Iterator[tuple[Slow, str]]:
    """A slow object store with the rows, and their URL."""
    with Slow(("127.0.0.1", 0), partial(_Handler, directory=rows.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_port}/{rows.name}"
        server.shutdown()


def here(folder: Path, *arguments: object) -> None:
    """Run a command on this machine, undisturbed and without a cluster that was joined."""
    command = [sys.executable, "-m", "daskgmm", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode in (0, 3), done.stderr


def parameters(place: Path) -> list[bytes]:
    mixture = GaussianMixture.load(place)
    return [np.ascontiguousarray(a).tobytes() for a in (mixture.weights_, mixture.means_, mixture.covariances_)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """The long fit, without a cluster that was joined."""
    folder = tmp_path_factory.mktemp("undisturbed")
    here(folder, "fit", rows, *LONG, "--cache", "yes", "--output", "model.zarr")
    return folder / "model.zarr"


def passes_of(log: str) -> list[int]:
    """The numbers of the passes of EM that a log tells of, in its order."""
    return [int(found) for found in re.findall(r"pass +(\d+)  em", log)]


def begun(log: Path, life: int) -> bool:
    """Whether the job has done passes of EM in this life, of which the log has one after the other."""
    lives = log.read_text().split("queued again") if log.exists() else []
    return len(lives) > life and len(passes_of(lives[life])) > 0


def until(true: Any, *, within: float) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_nightly_job(slurm: Slurm, tmp_path: Path, rows: Path, slow: tuple[Slow, str], undisturbed: Path) -> None:
    """Its time is over twice: it is queued again, goes on, and ends with the bits of a fit that nothing disturbed.

    It ends without having converged, which counts as done: a prediction that waits for it comes after it.
    """
    server, url = slow
    server.delay = 3
    submit = partial(slurm.submit, folder=tmp_path, environment=HERE)
    job = submit(*SMALL, "--time=30", "--signal=B:USR1@90", NIGHTLY, "fit", url, *LONG, "--output", "model.zarr")
    after = submit(*SMALL, f"--dependency=afterok:{job}", NIGHTLY, "predict", "model.zarr", rows, "-o", "labels.zarr")
    log = tmp_path / f"log-{job}.txt"
    for life in (0, 1):
        until(lambda life=life: slurm.job(job)["Restarts"] == str(life) and begun(log, life), within=150)
        # (It is a cluster's clock that is not waited for: limits are whole minutes.)
        hours, minutes, seconds = map(int, slurm.job(job)["RunTime"].split(":"))
        limit = hours * 60 + minutes + (seconds + 95) // 60
        slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        until(lambda life=life: slurm.job(job)["Restarts"] == str(life + 1), within=150)
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    server.delay = 0
    here(tmp_path, "predict", undisturbed, rows, "--output", "expected.zarr")
    ended, said = slurm.ended(job), log.read_text()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "2"), said
    assert said.count("time is over: queued again") == 2, said
    assert said.count("Interrupted by SIGUSR1") == 2
    assert '"converged": false' in said
    assert parameters(tmp_path / "model.zarr") == parameters(undisturbed)
    assert slurm.ended(after)["JobState"] == "COMPLETED", (tmp_path / f"log-{after}.txt").read_text()
    labels = [zarr.open_array(tmp_path / name, mode="r")[:] for name in ("labels.zarr", "expected.zarr")]
    np.testing.assert_array_equal(*labels)
    assert not list(tmp_path.glob("daskgmm-*"))  # (keys, logs and scheduler files are gone)


def test_a_job_that_is_cancelled_is_not_queued_again(
    slurm: Slurm, tmp_path: Path, slow: tuple[Slow, str], undisturbed: Path
) -> None:
    """... and the same command goes on where it was."""
    server, url = slow
    server.delay = 0.5
    command = (*SMALL, NIGHTLY, "fit", url, *LONG, "--output", "model.zarr")
    job = slurm.submit(*command, folder=tmp_path, environment=HERE)
    log = tmp_path / f"log-{job}.txt"
    until(lambda: log.exists() and len(passes_of(log.read_text())) > 1, within=120)
    slurm.run("scancel", job)
    assert slurm.ended(job)["JobState"] == "CANCELLED"
    until(lambda: not list(tmp_path.glob("daskgmm-*")), within=30)
    assert "Interrupted by SIGTERM" in log.read_text()
    server.delay = 0
    again = slurm.submit(*command, folder=tmp_path, environment=HERE)
    assert slurm.ended(again)["JobState"] == "COMPLETED"
    done, went_on = passes_of(log.read_text()), passes_of((tmp_path / f"log-{again}.txt").read_text())
    assert went_on[0] in (done[-1], done[-1] + 1)
    assert parameters(tmp_path / "model.zarr") == parameters(undisturbed)


def test_an_array_of_fits_and_one_by_any_batch(slurm: Slurm, tmp_path: Path, rows: Path) -> None:
    command = ("fit", rows, *SHORT, "--components")
    array = slurm.submit(
        *SMALL, "--ntasks=1", "--array=1-2", NIGHTLY, *command, "%a", "--output", "model-%a.zarr",
        folder=tmp_path, environment=HERE,
    )  # fmt: skip
    other = slurm.submit(
        *SMALL, ANY, *command, 2, "--output", "other.zarr", folder=tmp_path, environment={**HERE, "LAUNCHER": "srun"}
    )
    for n in (1, 2):
        here(tmp_path, *command, n, "--output", f"here-{n}.zarr")
    for n in (1, 2):
        assert slurm.ended(f"{array}_{n}")["JobState"] == "COMPLETED"
        assert parameters(tmp_path / f"model-{n}.zarr") == parameters(tmp_path / f"here-{n}.zarr")
    assert slurm.ended(other)["JobState"] == "COMPLETED"
    assert parameters(tmp_path / "other.zarr") == parameters(tmp_path / "here-2.zarr")
    said = (tmp_path / f"log-{other}.txt").read_text()
    assert json.loads(next(line for line in said.splitlines() if line.startswith('{"command"')))["workers"] == 2


def test_the_interactive_cluster(slurm: Slurm, tmp_path: Path, rows: Path) -> None:
    """Its workers are jobs, which are gone when it ends."""
    submitted = slurm.run("scontrol", "show", "jobs", "--oneliner").count("JobName=dask-worker")
    program = [sys.executable, CLUSTER / "slurm" / "interactive.py", rows, "1", "model.zarr"]
    slurm.run(*program, environment={"INTERFACE": "lo"}, folder=tmp_path)
    assert slurm.run("scontrol", "show", "jobs", "--oneliner").count("JobName=dask-worker") > submitted
    assert not slurm.run("squeue", "--noheader", "--name=dask-worker", "--states=PENDING,RUNNING")
    expected = GaussianMixture(1, random_state=0).fit(str(rows))
    assert parameters(tmp_path / "model.zarr") == [
        np.ascontiguousarray(a).tobytes() for a in (expected.weights_, expected.means_, expected.covariances_)
    ]


def test_what_is_wrong_fails_the_job(slurm: Slurm, tmp_path: Path) -> None:
    """A wrong command is not tried again, and its own code is the job's."""
    job = slurm.submit(*SMALL, NIGHTLY, "fit", "no.zarr", "-k", 2, "-o", "m.zarr", folder=tmp_path, environment=HERE)
    ended = slurm.ended(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "66:0", "0")
    assert "INPUT must be an existing" in (tmp_path / f"log-{job}.txt").read_text()


def test_both_files_start_and_end_a_cluster_alike() -> None:
    """Each is whole, so that it can be copied and changed alone."""
    parts = [re.search(r"^# --- as in .*\n((?s:.*))^# ---$", path.read_text(), re.MULTILINE) for path in (NIGHTLY, ANY)]
    assert parts[0] is not None
    assert parts[1] is not None
    assert parts[0].group(1) == parts[1].group(1)
