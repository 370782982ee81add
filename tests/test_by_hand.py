"""`cluster/by-hand/`: its own scripts, a real scheduler and real workers in processes of their own, a real fit."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

SCRIPTS = Path(__file__).parents[1] / "cluster" / "by-hand"


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What the script did, run as a person with the environment active would run it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPTS / name, *map(str, arguments)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "the cluster"  # scripts must quote
    yield folder
    script("stop.sh", "--folder", folder)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that were started for this folder and are alive."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


def started(folder: Path, *arguments: object) -> str:
    """The scheduler's address."""
    start = script("start.sh", "--workers", 2, "--memory-limit", "1GiB", "--port", 0, "--folder", folder, *arguments)
    assert start.returncode == 0, start.stderr
    assert "with 2 workers of one thread" in start.stdout
    address: str = json.loads((folder / "scheduler.json").read_text())["address"]
    return address


def test_start_fit_stop(folder: Path, tmp_path: Path, small_store: Path, small_rows: np.ndarray) -> None:
    address = started(folder)
    assert address.startswith("tcp://127.0.0.1:")
    assert len(processes_of(folder)) == 3

    for option, value in [("--folder", folder), ("--scheduler", address)]:
        model = tmp_path / f"model{option}.zarr"
        fit = script("fit.sh", option, value, small_store, 3, model, "--seed", 0)
        assert fit.returncode == 0, fit.stderr
        result = json.loads(fit.stdout)
        assert result["converged"] is True
        assert result["rows"] == len(small_rows)
        assert np.isfinite(result["mean_log_likelihood"])
        assert Path(result["output"]) == model
        assert zarr.open_group(model, mode="r").attrs

    stop = script("stop.sh", "--folder", folder)
    assert stop.returncode == 0, stop.stderr
    assert processes_of(folder) == []
    assert not (folder / "scheduler.json").exists()


def test_refuses_to_start_twice_and_the_first_goes_on(folder: Path) -> None:
    started(folder)
    again = script("start.sh", "--folder", folder)
    assert again.returncode == 73
    assert f"stop.sh --folder '{folder}'" in again.stderr
    assert len(processes_of(folder)) == 3


def test_start_that_fails_leaves_nothing(folder: Path) -> None:
    start = script("start.sh", "--workers", 1, "--memory-limit", "much", "--port", 0, "--folder", folder)
    assert start.returncode == 69
    assert "ended at once" in start.stderr
    assert processes_of(folder) == []
    assert not (folder / "running").exists()


def test_stops_only_what_it_started(folder: Path) -> None:
    """A number in a pid file that belongs to another process by now is left alone."""
    (folder / "running").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        (folder / "running" / "worker-0.pid").write_text(f"{other.pid}\n")
        stop = script("stop.sh", "--folder", folder)
        assert stop.returncode == 0, stop.stderr
        assert other.poll() is None
        other.kill()
    assert not (folder / "running").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("start.sh", ["--wrokers", "2"], "unknown argument '--wrokers'"),
        ("start.sh", ["--workers", "0"], "--workers must be a whole number of at least 1; got '0'"),
        ("start.sh", ["--port", "x"], "--port must be a whole number; got 'x'"),
        ("start.sh", ["--workers"], "--workers must be followed by a value"),
        ("stop.sh", ["now"], "unknown argument 'now'"),
        ("fit.sh", ["rows.zarr"], "usage: fit.sh"),
    ],
)
def test_usage_errors(name: str, arguments: list[str], message: str) -> None:
    completed = script(name, *arguments)
    assert completed.returncode == 64
    assert message in completed.stderr


@pytest.mark.parametrize("name", ["start.sh", "fit.sh", "stop.sh"])
def test_help(name: str) -> None:
    completed = script(name, "--help")
    assert completed.returncode == 0
    assert completed.stdout.startswith(f"usage: {name}")


def test_fit_without_a_cluster(folder: Path) -> None:
    fit = script("fit.sh", "--folder", folder, "rows.zarr", 3, "model.zarr")
    assert fit.returncode == 69
    assert f"no cluster is running in {folder}" in fit.stderr
