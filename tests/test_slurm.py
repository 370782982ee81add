"""The SLURM of the tests: jobs run, wait, are cancelled and requeued as on a cluster, and nothing of it stays."""

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


def test_a_requeued_job_keeps_its_number(slurm: Slurm, tmp_path: Path) -> None:
    again = 'test -n "$SLURM_RESTART_COUNT" || { scontrol requeue $SLURM_JOB_ID; sleep 60; }'
    script = f"echo $SLURM_JOB_ID >> lives; {again}"
    job = slurm.submit("--requeue", "--wrap", script, folder=tmp_path)
    assert slurm.ended(job)["Restarts"] == "1"
    assert (tmp_path / "lives").read_text().split() == [job, job]


def test_no_daemon_stays(tmp_path: Path) -> None:
    with Slurm(tmp_path) as slurm:
        job = slurm.submit("--wrap", "touch here; sleep 60", folder=tmp_path)
        while not (tmp_path / "here").exists():
            time.sleep(0.1)
        assert slurm.job(job)["JobState"] == "RUNNING"
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    left = [line for line in listed.splitlines() if str(tmp_path) in line or "slurmstepd" in line.split()[0]]
    assert not [line for line in left if "<defunct>" not in line]  # (that one waits for a first process that reaps)
