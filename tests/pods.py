"""Pods without Kubernetes: their commands as processes, in a network and with host names of their own.

A container's first process has the number 1 here too, which matters: signals that it does not handle do nothing to it,
and with it ends all that it started.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import yaml

Manifest = dict[str, Any]

#: The command with small partitions, so that little data are several tasks, and its environment's `dask`.
SMALL = (
    "import daskgmm.sources.partition as p; p.PARTITION_BYTES = 40_000; from daskgmm.cli.commands import main; main()"
)
COMMANDS = {"daskgmm": [sys.executable, "-c", SMALL], "dask": [sys.executable, "-m", "dask"]}


def manifests(path: Path) -> list[Manifest]:
    """The documents of a file."""
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


def pod_specs(found: Any) -> Iterator[Manifest]:
    """The specifications of pods in a manifest, wherever they stand."""
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        for inner in found.values():
            yield from pod_specs(inner)
    elif isinstance(found, list):
        for inner in found:
            yield from pod_specs(inner)


def container(found: Any, name: str) -> Manifest:
    """The container of that name."""
    return next(one for spec in pod_specs(found) for one in spec["containers"] if one["name"] == name)


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """What Kubernetes makes of $(NAME) in a command or a variable."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), text)


def variables_of(specification: Manifest, labels: Mapping[str, str]) -> dict[str, str]:
    """The variables that a container declares, those that come of the labels of its pod among them."""
    found: dict[str, str] = {}
    for one in specification.get("env", []):
        if "value" in one:
            found[one["name"]] = expanded(one["value"], found)
        else:
            path = one["valueFrom"]["fieldRef"]["fieldPath"]
            found[one["name"]] = labels[path.removeprefix("metadata.labels['").removesuffix("']")]
    return found


class Pod:
    """A process with all that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the first process of the container."""
        (first,) = psutil.Process(self.process.pid).children()
        first.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Return the exit code."""
        return self.process.wait(timeout)

    def wait_for(self, seen: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until that is so; fail where the process ends before."""
        deadline = time.monotonic() + timeout
        while not seen():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


class Network:
    """Where pods see each other by the names that they have in a cluster, and nothing else."""

    def __init__(self, folder: Path, names: Sequence[str], environment: Mapping[str, str]) -> None:
        self._folder, self._stack = folder, ExitStack()
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for command, arguments in COMMANDS.items():
            script = " ".join(map(shlex.quote, arguments))
            (bin_folder / command).write_text(f'#!/bin/sh\nexec {script} "$@"\n')
            (bin_folder / command).chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DASK", "AWS_"))}
        self._environment = {
            **inherited,
            "PATH": f"{bin_folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }
        hosts = folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {' '.join(names)}\n")
        script = 'ip link set lo up && mount --bind "$0" /etc/hosts && echo ready && exec sleep 1200'
        self._holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script, hosts], stdout=-1)
        self._stack.callback(self._end, self._holder)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--net", "--mount", "--target", str(self._holder.pid), f"--wd={self._folder}"]

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Pod:
        """Start a command as a container would."""
        path = self._folder / f"{name}.log"
        log = self._stack.enter_context(path.open("wb"))
        process = subprocess.Popen(
            [*self._inside, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**self._environment, **(environment or {})},
        )  # fmt: skip
        self._stack.callback(self._end, process)
        return Pod(process, path)

    def start_container(
        self, name: str, specification: Manifest, *, labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Pod:  # fmt: skip
        """Start the command of a container; `environment` is what Kubernetes or an operator adds."""
        variables = {**(environment or {}), **variables_of(specification, labels or {})}
        command = [expanded(word, variables) for word in specification["command"]]
        return self.start(name, *command, environment=variables)

    def run(self, *command: str, timeout: float = 200) -> str:
        """Return what a command writes, run beside the pods."""
        completed = subprocess.run(
            [*self._inside, *command], env=self._environment, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    def close(self) -> None:
        self._stack.close()
