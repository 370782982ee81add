"""`cluster/slurm/array/`: its own script, by a real SLURM and by processes of this machine, comes to a fit's bits."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.sources.opening import open_rows
from daskgmm.stores.model_file import load_model
from tests.slurm import Slurm, missing

SCRIPT = Path(__file__).parents[1] / "cluster" / "slurm" / "array" / "fit.sh"
OPTIONS = ("--components", "2", "--start-rows", "2000", "--restarts", "1", "--no-escape", "--max-iter", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in four partitions of two groups, 69 MB."""
    folder = tmp_path_factory.mktemp("the rows")  # scripts must quote
    rows = np.random.default_rng(2).standard_normal((20_000, 32), dtype=np.float32).astype("f8")
    array = zarr.create_array(folder / "X.zarr", shape=(280_000, 32), chunks=(20_000, 32), dtype="f8", compressors=None)
    for begin in range(0, 280_000, 20_000):
        array[begin : begin + 20_000] = rows + begin // 20_000 % 2
    return folder / "X.zarr"


def assert_same(model: Path, place: Path, *, max_iter: int) -> None:
    """The bits of a fit in this process."""
    options = FitOptions(n_components=2, start_rows=2000, n_init=1, escape=False, max_iter=max_iter)
    expected = fit_mixture(open_rows(place), options).parameters
    np.testing.assert_array_equal(load_model(model).parameters.means, expected.means, strict=True)
    np.testing.assert_array_equal(load_model(model).parameters.covariances, expected.covariances, strict=True)


def submitted(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, folder, *map(str, arguments)],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environment},
        capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip


def until(is_so: Callable[[], bool], *, within: float = 120) -> None:
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_of_this_machine(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a fit"
    done = submitted(folder, place, 2, *OPTIONS, "--max-iter", 0, LAUNCHER="here")
    assert done.returncode == 3, done.stderr
    assert_same(folder / "model.zarr", place, max_iter=0)
    assert sorted(os.listdir(folder)) == ["fit.sh", "log", "model.zarr"]
    last = json.loads(
        next(line for line in reversed(done.stdout.splitlines()) if line.startswith('{"command": "mstep"'))
    )
    assert (last["next"], last["status"], last["n_passes"]) == (None, "max_iter", 2)
    os.rename(folder / "model.zarr", folder / "M1")  # as where it was killed before it could give it its name
    again = submitted(folder, place, 2, *OPTIONS, LAUNCHER="here")
    assert (again.returncode, "is complete: nothing to do" in again.stderr) == (0, True)


def test_what_cannot_be_is_said(place: Path, tmp_path: Path) -> None:
    assert submitted(tmp_path / "fit", place, "--components").returncode == 64
    assert submitted(tmp_path / "fit", place, "two", *OPTIONS).stderr.startswith("usage: fit.sh FOLDER INPUT PARTS")
    done = submitted(tmp_path / "fit", place, 1, "--components", 0, LAUNCHER="here")
    assert done.returncode == 1
    assert "a part failed, as said above" in done.stderr
    assert "Invalid value for '-k' / '--components'" in done.stderr


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_slurm_and_a_part_that_is_killed(slurm: Slurm, place: Path, tmp_path: Path) -> None:
    folder, go = tmp_path / "the fit", tmp_path / "go"
    # The program itself, once it may: else the second part may be done before it is killed.
    program = tmp_path / "bin" / "daskgmm"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/bash
if [[ "$*" == *"--part 2/2"* ]]; then until [[ -e "{go}" ]]; do sleep 0.1; done; fi
exec "{Path(sys.executable).parent}/daskgmm" "$@"
""")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{slurm.environment['PATH']}"

    def submit() -> subprocess.CompletedProcess[str]:
        return submitted(folder, place, 2, *OPTIONS, **{**slurm.environment, "PATH": path}, START_MEMORY="1G")

    def queued() -> list[str]:
        listed = slurm.run("squeue", "--noheader", "--array", "--name=daskgmm-the fit", "--format=%F_%K %T")
        return listed.splitlines()

    done = submit()
    assert done.returncode == 0, done.stderr
    twice = submit()
    assert twice.returncode == 69
    assert "jobs called daskgmm-the fit are there already" in twice.stderr
    # The second task of the survey, while it runs.
    until(lambda: (folder / "S-1").exists() and any(line.endswith("_2 RUNNING") for line in queued()))
    (second,) = [line.split()[0] for line in queued() if line.endswith("_2 RUNNING")]
    slurm.run("scancel", second)
    until(lambda: not queued())
    written = (folder / "S-1").stat().st_mtime_ns
    assert sorted(os.listdir(folder)) == ["S-1", "fit.sh", "log"]

    go.touch()
    done = submit()
    assert done.returncode == 0, done.stderr
    until(lambda: (folder / "S-2").exists() or (folder / "M0").exists())
    if (folder / "S-1").exists():
        assert (folder / "S-1").stat().st_mtime_ns == written
    until(lambda: not queued())
    logs = "".join(path.read_text() for path in sorted((folder / "log").iterdir()))
    assert (folder / "model.zarr").exists(), logs
    assert_same(folder / "model.zarr", place, max_iter=1)
    surveys = [line for line in logs.splitlines() if "of pass 1 (survey)" in line]
    assert len([line for line in surveys if "Part 1 of 2" in line]) == 1, "the part that was done is not done again"
    last = next(path for path in (folder / "log").iterdir() if '"status": "max_iter"' in path.read_text())
    job = slurm.job(last.stem)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "3:0")
