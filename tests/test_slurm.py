"""The SLURM of the tests: its jobs run as on a cluster, and nothing of it stays."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.slurm import Slurm, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def test_a_job_has_its_exit_code_and_its_tasks(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.submit(
        "--ntasks=3", "--output=out.txt", "--wrap", "srun printenv SLURM_PROCID; exit 3", folder=tmp_path
    )
    ended = slurm.ended(job)
    assert (ended["JobState"], ended["ExitCode"], ended["NumTasks"]) == ("FAILED", "3:0", "3")
    assert sorted((tmp_path / "out.txt").read_text().split()) == ["0", "1", "2"]


def daemons() -> set[str]:
    """Those of every SLURM on this machine, by number and name, but for those that only wait to be reaped."""
    command = ["ps", "-ww", "-eo", "pid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = ("slurmstepd", "slurmctld", "slurmd", "munged")
    return {line for line in listed if line.split()[1].strip("[]:") in names and "<defunct>" not in line}


def test_no_daemon_stays(tmp_path: Path) -> None:
    before = daemons()
    with Slurm(tmp_path) as slurm:
        job = slurm.submit("--wrap", "touch here; sleep 60", folder=tmp_path)
        while not (tmp_path / "here").exists():
            time.sleep(0.1)
        assert slurm.job(job)["JobState"] == "RUNNING"
        assert len(daemons() - before) >= 4
    assert daemons() <= before
