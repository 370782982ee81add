"""A real SLURM on this machine: munged, slurmctld and slurmd in a folder of their own, for the tests of `cluster/`."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.clusters import free_port

#: Packages of Debian and Ubuntu that bring what is needed.
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
#: Where Debian puts daemons, which is not on everybody's PATH.
_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"

#: Its machine has more processors and memory than there may be: the tests' jobs ask for little of either. `cred_expire`
#: is also what a requeued job waits before it starts again: two minutes by default, and for less than 5 s.
_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
KillWait=10
MinJobAge=3600
DefMemPerCPU=500
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=32000 State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; "" if there can."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
    absent = [name for name in programs if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"SLURM is not installed (no {absent[0]}): apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    return ""


class Slurm:
    """The three daemons, started and ended; commands of SLURM run against them.

    A job is as on a cluster but for this: there is one machine, no limit of memory is enforced, and the port of what it
    starts is reachable at 127.0.0.1.

    Parameters
    ----------
    folder : Path
        An empty folder, for everything that they write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        #: What a command needs to find this SLURM, and what jobs find: the Python that runs the tests comes first.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{_PATH}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def __enter__(self) -> Slurm:
        host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
        (self.folder / "state").mkdir()
        (self.folder / "spool").mkdir()
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                folder=self.folder, host=host, user=getpass.getuser(),
                controller_port=free_port(), daemon_port=free_port(),
            )
        )  # fmt: skip
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munge.seed",
        }
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        try:
            self._start("munged", "--foreground", "--force", f"--key-file={key}", *options)
            self._until(lambda: (self.folder / "munge.socket").exists(), "munged", within=10)
            self._start("slurmctld", "-D")
            self._start("slurmd", "-D")
            self._until(lambda: self.run("sinfo", "--noheader", "--format=%t").strip() == "idle", "slurmd", within=30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self._daemons) == 3:
            self.run("scancel", "--user", getpass.getuser())
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and self.run("squeue", "--noheader").strip():
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)
            )

    def _until(self, is_so: Callable[[], bool], what: str, *, within: float) -> None:
        deadline = time.monotonic() + within
        while True:
            try:
                if is_so():
                    return
                said = ""
            except AssertionError as error:
                said = str(error)
            ended = [daemon for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.out")))
                raise AssertionError(f"{what} must come up within {within:g} s; {said}\n{logs}")
            time.sleep(0.1)

    def run(
        self, *command: object, environment: Mapping[str, str] = MappingProxyType({}), folder: Path | None = None
    ) -> str:
        """Stdout of a command of SLURM; an AssertionError with what it said where it failed."""
        done = subprocess.run(
            [str(part) for part in command], env={**self.environment, **environment}, cwd=folder,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: object, folder: Path, environment: Mapping[str, str] = MappingProxyType({})) -> str:
        """Submit by `sbatch` with these arguments, in a folder; return the number of the job."""
        done = self.run("sbatch", "--parsable", *arguments, environment=environment, folder=folder)
        return done.strip().partition(";")[0]

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, by name: JobState, ExitCode, Restarts and so on."""
        said = self.run("scontrol", "show", "job", "--oneliner", number)
        return dict(part.split("=", 1) for part in said.split() if "=" in part)

    def ended(self, number: str, *, within: float = 60) -> dict[str, str]:
        """What is said of a job when it has ended, in whatever state: COMPLETED, FAILED, CANCELLED, TIMEOUT..."""
        deadline = time.monotonic() + within
        while (job := self.job(number))["JobState"] in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"}:
            assert time.monotonic() < deadline, f"job {number} has not ended within {within:g} s: {job}"
            time.sleep(0.2)
        return job
