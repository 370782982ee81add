"""`cluster/any-batch/run.sh` without a batch system: with launchers that start processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import LocalCluster

from tests.clusters import free_port

RUN = Path(__file__).parents[1] / "cluster" / "any-batch" / "run.sh"


def started(folder: Path, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """The script, started in a folder as a job script would start it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [RUN, *map(str, arguments)], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PATH": path, "INTERFACE": "lo", "MEMORY_LIMIT": "1GiB", **variables},
    )  # fmt: skip


def left_of(folder: Path) -> list[str]:
    """What a run has left: files beside the job's, and processes."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return [*map(str, folder.glob("daskgmm-*")), *(line for line in listed.splitlines() if f"{folder}/daskgmm" in line)]


def test_a_launcher_of_one_host_after_the_other(tmp_path: Path, small_store: Path) -> None:
    """As for Grid Engine, OAR and ssh, in what could be a container; nothing stays."""
    folder = tmp_path / "a job"  # scripts must quote
    folder.mkdir()
    (folder / "hosts").write_text("one\ntwo\n")
    launcher = "xargs -a hosts -P 0 -I HOST env WHERE=HOST"
    fit = ("fit", small_store, "-k", 2, "--restarts", 1, "-o", "model.zarr")
    job = started(folder, *fit, LAUNCHER=launcher, CONTAINER="nice -n 3")
    until_there = time.monotonic() + 60
    nice: dict[str, list[str]] = {}
    while not {"worker", "scheduler", "fit"} <= nice.keys() or len(nice["worker"]) < 2:
        assert time.monotonic() < until_there
        listed = subprocess.run(["ps", "-ww", "-eo", "nice=,args="], capture_output=True, text=True, check=True).stdout
        lines = [line.split(maxsplit=1) for line in listed.splitlines() if f"{folder}/daskgmm" in line]
        started_now = [(n, args) for n, args in lines if "xargs" not in args and "env " not in args]
        for what in ("scheduler", "worker", "fit"):
            found = [n for n, args in started_now if f" {what} " in args]
            nice |= {what: found} if len(found) > len(nice.get(what, [])) else {}
        time.sleep(0.02)
    out, err = job.communicate(timeout=100)
    assert job.returncode == 0, err
    assert json.loads(out)["output"] == "model.zarr"
    assert {n for of_one in nice.values() for n in of_one} == {str(os.nice(0) + 3)}
    assert left_of(folder) == []


def test_a_launcher_that_fails_ends_the_run(tmp_path: Path, small_store: Path) -> None:
    job = started(tmp_path, "fit", small_store, "-k", 2, "-o", "m.zarr", LAUNCHER="env no-such-launcher")
    err = job.communicate(timeout=100)[1]
    assert job.returncode == 69, err
    assert "the workers ended before the command did" in err
    assert "no-such-launcher" in err
    assert left_of(tmp_path) == []


def test_a_signal_to_the_script_alone_ends_the_command_in_order(tmp_path: Path, small_store: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text("#!/bin/sh\nexec sleep 60\n")
    launcher.chmod(0o755)
    job = started(tmp_path, "fit", small_store, "-k", 2, "-o", "m.zarr", LAUNCHER=str(launcher))
    assert job.stderr is not None
    job.stderr.readline()  # (the command is there, and waits for workers)
    job.send_signal(signal.SIGUSR1)
    err = job.communicate(timeout=60)[1]
    assert job.returncode == 75, err
    assert "Interrupted by SIGUSR1" in err
    assert left_of(tmp_path) == []


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 64), (["--scheduler", "x"], 64)])
def test_help_and_usage(tmp_path: Path, arguments: list[str], code: int) -> None:
    job = started(tmp_path, *arguments)
    assert "usage: LAUNCHER=" in "".join(job.communicate(timeout=10))
    assert job.returncode == code


def test_a_scheduler_file_of_an_earlier_life_is_not_joined(
    tmp_path: Path, small_store: Path, cluster: LocalCluster
) -> None:
    """A requeued job keeps its number: a file of that name may hold an address where nobody answers any more."""
    file = tmp_path / "scheduler-17.json"
    file.write_text(json.dumps({"address": f"tcp://127.0.0.1:{free_port()}"}))
    options = ["-k", "1", "--restarts", "1", "-o", tmp_path / "m.zarr", "--scheduler-file", file]
    command = [sys.executable, "-m", "daskgmm", "fit", small_store, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as fit:
        assert fit.stderr is not None
        said = fit.stderr.readline()  # (it has looked at the input, and goes on to the file)
        time.sleep(1)
        assert fit.poll() is None
        file.write_text(json.dumps({"address": cluster.scheduler_address}))
        said += fit.communicate(timeout=60)[1]
    assert fit.returncode == 0, said
