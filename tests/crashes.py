"""A process of which one change of the disk fails, or is its last: whatever code makes it, of ours or of a library.

Python says what it is about to do to the disk (`sys.addaudithook`). Each case is a fork of one process that has
imported everything, and runs the command line on many partitions in that one process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask

from daskgmm.cli import jobs, selecting, work  # noqa: F401 (imported before a fork)
from daskgmm.cli.commands import gmm
from daskgmm.passes.local_executor import LimitedExecutor
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.places.machines import Machines
from daskgmm.sources import partition

#: Events that change a disk; "open" does where it is for writing.
CHANGES = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
HOWS = ("raises", "kills", "tears")


class Fault:
    """Counts the changes below a folder; number `at` fails for want of space, or the process is killed before it.

    "tears" kills it a change later, when the file that was opened is written to a half.
    """

    def __init__(self, folder: str, at: int, how: str) -> None:
        self._folder, self._at, self._how = folder, at, how
        self.n_changes, self._torn, self._busy = 0, "", False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or self._busy:
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
        if not path.startswith(self._folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if self._torn:
            self._busy = True
            if os.path.exists(self._torn):
                os.truncate(self._torn, os.path.getsize(self._torn) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        number, self.n_changes = self.n_changes, self.n_changes + 1
        if number != self._at:
            return
        if self._how == "raises":
            raise OSError(errno.ENOSPC, "No space left on device", path)
        if self._how == "tears" and event == "open":
            self._torn = path
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Crashes:
    """Runs commands of the command line, each in a fork of a process that has imported everything and run nothing."""

    def __enter__(self) -> Crashes:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def run(self, arguments: Sequence[object], folder: Path, *, at: int = -1, how: str = "raises") -> tuple[int, int]:
        """Return exit code (minus the signal) of a command, and the number of its changes of the folder."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([[str(a) for a in arguments], str(folder), at, how]) + "\n")
        self._server.stdin.flush()
        code, n_changes = json.loads(self._server.stdout.readline())
        return code, n_changes


def _serve() -> None:
    for line in sys.stdin:
        print(json.dumps(_forked(*json.loads(line))), flush=True)


def _forked(arguments: list[str], folder: str, at: int, how: str) -> tuple[int, int]:
    results, report = os.pipe()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            fault = Fault(folder, at, how)
            sys.addaudithook(fault)
            code = _run_here(arguments)
            os.write(report, str(fault.n_changes).encode())
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(report)
    _, status = os.waitpid(process, 0)
    with os.fdopen(results) as counted:
        return os.waitstatus_to_exitcode(status), int(counted.read() or 0)


@contextmanager
def _here(*_: Any, **__: Any) -> Iterator[Machines]:
    yield Machines(LimitedExecutor(None), 0, "this process")


def _run_here(arguments: list[str]) -> int:
    partition.PARTITION_BYTES = partition.IN_PROCESS_BYTES = 3200
    DaskCluster.machines = _here  # type: ignore[method-assign]
    with open(os.devnull, "w") as nowhere, dask.config.set(scheduler="synchronous"):
        sys.stdout = sys.stderr = nowhere
        try:
            gmm(arguments, prog_name="daskgmm")
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    _serve()
