"""The tests' own clusters: on this machine only, and on no port that another cluster may have."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

#: Keywords of a LocalCluster. (Without a dashboard its port is still served, by default 8787.)
LOCAL: dict[str, Any] = {
    "host": "127.0.0.1",
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def certified(folder: Path, name: str) -> list[str]:
    """Make an authority, and a certificate and key of its; return the options that name them."""
    files = {what: str(folder / f"{name}-{what}.pem") for what in ("ca", "ca-key", "cert", "key", "request")}
    subject = ["-nodes", "-newkey", "rsa:2048", "-subj"]
    for command in (
        ["req", "-x509", *subject, f"/CN={name} authority", "-keyout", files["ca-key"], "-out", files["ca"]],
        ["req", *subject, "/CN=127.0.0.1", "-keyout", files["key"], "-out", files["request"]],
        ["x509", "-req", "-in", files["request"], "-CA", files["ca"], "-CAkey", files["ca-key"], "-CAcreateserial",
         "-out", files["cert"]],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return ["--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"]]


class OwnCluster:
    """A scheduler and two workers by Dask's own commands, each of the two with its processes in a group of its own.

    Parameters
    ----------
    options : str
        Of both commands: files of TLS.
    host : str
        Address of this machine at which both listen.
    elsewhere : sequence of str
        What the workers' command is prefixed with, so that they run in another network.
    """

    def __init__(
        self, port: int, folder: Path, *options: str, preload: str = "", host: str = "127.0.0.1",
        elsewhere: Sequence[str] = (), environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self._stack, self._environment = ExitStack(), environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self.address = f"{'tls' if options else 'tcp'}://{host}:{port}"
        scheduler = ["--host", self.address.rpartition(":")[0], "--port", str(port), "--no-show"]
        scheduler += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = self._start("scheduler", *scheduler, *options, folder=folder)
        limits = ["--nworkers", "2", "--nthreads", "1", "--memory-limit", "1GiB", "--no-dashboard"]
        own = ["--preload", preload] if preload else []
        self.workers = self._start("worker", self.address, *limits, *own, *options, folder=folder, before=elsewhere)

    def _start(self, *arguments: str, folder: Path, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((folder / f"{arguments[0]}.log").open("ab"))
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, start_new_session=True,
            cwd=folder, env={**os.environ, **self._environment},
        )  # fmt: skip
        self._processes.append(process)
        return process

    def kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._stack.close()
