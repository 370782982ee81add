"""`cluster/hosts/`: its own scripts, on hosts that are this machine, and on network namespaces with slow, bad wires."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.chaos import checksum, passes_done
from tests.clusters import free_port
from tests.groups import two_groups
from tests.wires import Wires, missing

FOLDER = Path(__file__).parents[1] / "cluster" / "hosts"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
#: Those of a fit of so many passes, however long they take.
FIT = ("-k", 3, "--restarts", 1, "--no-escape", "--start-rows", 2000, "--cache", "no", "--tol", 0, "--max-iter", 6)
#: How long TCP waits for an answer: Dask takes no less, and 30 by default.
TCP_SECONDS = 11


class Hosts:
    """The scripts, run as a person with the environment active would run them."""

    def __init__(self, folder: Path, ssh: str, names: list[str]) -> None:
        self.folder, self.list = folder / "the cluster", folder / "hosts of the lab.conf"
        self.list.write_text("# the lab\n" + "".join(f"{name} 1\n" for name in names))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "SSH": ssh}

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, check=False, timeout=100
        )

    def start(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        given = ("--hosts", self.list, "--memory-limit", "1GiB", "--folder", self.folder)
        return self.run(FOLDER / "start.sh", *given, *arguments)

    def stop(self) -> subprocess.CompletedProcess[str]:
        return self.run(FOLDER / "stop.sh", "--folder", self.folder)

    def processes(self) -> list[str]:
        listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
        return [line for line in listed.splitlines() if f"{self.folder}/" in line]

    def left(self) -> list[str]:
        """Whatever is there, processes and files, but the logs."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".log"]
        return [*self.processes(), *map(str, files)]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts, `one` and `two`, that are this machine; there is none of another name, nor while `down` is there."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\n[ "$1" = one ] || [ "$1" = two ] && [ ! -e {shlex.quote(str(tmp_path))}/down ] ||'
        ' { echo "ssh: no route to $1" >&2; exit 255; }\nshift\nexec "$@"\n'
    )
    ssh.chmod(0o755)
    hosts = Hosts(tmp_path, str(ssh), ["one", "two"])
    yield hosts
    (tmp_path / "down").unlink(missing_ok=True)
    hosts.stop()


def test_start_fit_stop(hosts: Hosts, tmp_path: Path, small_store: Path) -> None:
    port = free_port()
    start = hosts.start("--address", "127.0.0.1", "--port", port)
    assert start.returncode == 0, start.stderr
    assert f"scheduler tls://127.0.0.1:{port} with 2 workers of one thread on 2 hosts" in start.stdout
    keys = [*hosts.folder.rglob("*.pem")]
    assert len(keys) == 6
    assert {key.stat().st_mode & 0o77 for key in keys} == {0}

    again = hosts.start("--address", "127.0.0.1")
    assert again.returncode == 73
    assert f"stop.sh --folder '{hosts.folder}'" in again.stderr

    # The line that it says, with our own input: it is a command as it stands.
    line = start.stdout.splitlines()[-1].removeprefix("run: ").replace("INPUT", f"'{small_store}'")
    fit = hosts.run("sh", "-c", line.replace("--components 8 --output MODEL", f"-k 2 --output '{tmp_path}/m.zarr'"))
    assert fit.returncode == 0, fit.stderr
    assert json.loads(fit.stdout)["output"] == f"{tmp_path}/m.zarr"

    # Nobody comes in without the certificate of this start.
    other = tmp_path / "other"
    assert hosts.run(FOLDER / "certificate.sh", other).returncode == 0
    for pair, enters in [(hosts.folder, True), (other, False)]:
        context = ssl.create_default_context(cafile=hosts.folder / "cert.pem")
        context.check_hostname = False
        context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain) as connection, nullcontext() if enters else pytest.raises(ssl.SSLError):
            assert connection.recv(1)  # (a scheduler says its versions first)

    stop = hosts.stop()
    assert stop.returncode == 0, stop.stderr
    assert hosts.left() == []
    log = (hosts.folder / "one" / "scheduler.log").read_text()
    assert log.count("Remove worker") == 2, "the workers say goodbye before the scheduler ends"
    assert "nothing is running" in hosts.stop().stdout


def test_the_lines_of_the_readme_without_ssh(hosts: Hosts, tmp_path: Path, small_store: Path) -> None:
    text = (FOLDER / "README.md").read_text().partition("## Without ssh")[2]
    lines = re.findall(r"^    (.*)$", text, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["cluster/hosts/certificate.sh", "dask", "dask", "daskgmm"]
    own = {"node1": "127.0.0.1", "8786": str(free_port()), ":8787": ":0", "--nworkers 4": "--nworkers 1"}
    own |= {"data.zarr": small_store.name, "cluster/hosts": shlex.quote(str(FOLDER)), "--components 8": "-k 2"}
    for theirs, ours in own.items():
        lines = [line.replace(theirs, ours) for line in lines]
    certificate, scheduler, worker, fit = (["sh", "-c", f"exec {line}"] for line in lines)
    there = {"cwd": tmp_path, "env": hosts.environment, "stderr": subprocess.DEVNULL}
    subprocess.run(certificate, check=True, **there)
    with subprocess.Popen(scheduler, **there) as first, subprocess.Popen(worker, **there) as second:
        try:
            done = subprocess.run(fit, check=False, stdout=subprocess.PIPE, timeout=90, **there)
            assert done.returncode == 0
            assert json.loads(done.stdout)["rows"] == 3000
        finally:
            second.send_signal(signal.SIGINT)
            second.wait(20)
            first.send_signal(signal.SIGINT)
    assert hosts.left() == []


def test_what_comes_back_what_is_left_alone_and_what_is_stopped_later(hosts: Hosts, tmp_path: Path) -> None:
    assert hosts.start("--address", "127.0.0.1", "--port", free_port()).returncode == 0
    log = hosts.folder / "two" / "worker.log"
    keeper = int((hosts.folder / "two" / "worker.pid").read_text())
    listed = hosts.run("ps", "-o", "pid=", "--ppid", keeper)
    os.kill(int(listed.stdout), signal.SIGKILL)
    until(lambda: log.read_text().count("Registered to") == 2)

    # Another start, elsewhere, that finds the host busy leaves that alone, and nothing of its own.
    shutil.move(hosts.folder / "running", tmp_path / "kept")
    hosts.list.write_text("two 1\n")
    start = hosts.start("--address", "127.0.0.1", "--port", free_port())
    assert start.returncode == 69
    assert "the worker of another start runs in" in start.stderr
    assert not (hosts.folder / "running").exists()
    assert not (hosts.folder / "two" / "scheduler.pid").exists()
    assert (hosts.folder / "two" / "worker.pid").exists()
    shutil.move(tmp_path / "kept", hosts.folder / "running")

    (tmp_path / "down").touch()
    stop = hosts.stop()
    assert stop.returncode == 69
    assert "the worker on two may still run" in stop.stderr
    assert len(hosts.processes()) > 0
    (tmp_path / "down").unlink()
    stop = hosts.stop()
    assert stop.returncode == 0, stop.stderr
    assert hosts.left() == []


def test_nothing_starts_where_a_host_cannot_be_used(hosts: Hosts) -> None:
    hosts.list.write_text("one 1\nthree 1\n")
    start = hosts.start("--address", "127.0.0.1")
    assert start.returncode == 69
    assert "no route to three\nstart.sh: three cannot be used, so nothing was started" in start.stderr
    hosts.list.write_text("one 1\n")
    start = hosts.start("--address", "127.0.0.1", "--bin", "/usr/none")
    assert start.returncode == 69
    assert "/usr/none/python3 cannot import daskgmm" in start.stderr
    assert not hosts.folder.exists()


@pytest.mark.parametrize(
    ("script", "arguments", "code", "message"),
    [
        ("start.sh", ["--wrokers", "2"], 64, "unknown argument '--wrokers'"),
        ("start.sh", ["--port", "x"], 64, "--port must be a whole number of at least 1; got 'x'"),
        ("start.sh", ["--port"], 64, "--port must be followed by a value"),
        ("start.sh", ["--folder", "here"], 64, "--folder must begin with /, as it is for all hosts; got 'here'"),
        ("start.sh", ["--hosts", "/none"], 66, "--hosts must be a file that can be read; got '/none'"),
        ("start.sh", ["--hosts", "a 1\na 2\n"], 65, "a has two"),
        ("start.sh", ["--hosts", "a 1 b\n"], 65, "must be a host and its number of workers; got 'a 1 b'"),
        ("start.sh", ["--hosts", "a\n"], 65, "must be a host and its number of workers; got 'a  '"),
        ("start.sh", ["--hosts", "a 0\n"], 65, "must have a worker at least"),
        ("start.sh", ["--hosts", "localhost 1\n"], 64, "localhost is 127.0.0.1 here. Say by --address"),
        ("stop.sh", ["now"], 64, "unknown argument 'now'"),
        ("start.sh", ["--help"], 0, "usage: start.sh"),
        ("stop.sh", ["--help"], 0, "usage: stop.sh"),
        ("certificate.sh", [], 0, "usage: certificate.sh"),
    ],
)
def test_usage(hosts: Hosts, tmp_path: Path, script: str, arguments: list[str], code: int, message: str) -> None:
    if arguments[-1:] and arguments[-1].endswith("\n"):
        hosts.list.write_text(arguments[-1])
        arguments = [arguments[0], str(hosts.list)]
    done = hosts.run(FOLDER / script, *arguments)
    assert done.returncode == code
    assert message in done.stdout + done.stderr


def until(true: object, seconds: float = 60) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def reached(wires: Wires, folder: Path) -> Iterator[str]:
    """Provide what SSH must be: OpenSSH with a server on each host, or where it is not installed what enters them."""
    if SSHD is None:
        yield "ip netns exec"
        return
    os.makedirs("/run/sshd", exist_ok=True)  # (it wants this folder, which its service makes)
    for key in ("host", "own"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shared = f"UserKnownHostsFile {folder}/known\nStrictHostKeyChecking accept-new\nBatchMode yes\nLogLevel ERROR\n"
    names = "".join(f"Host {name}\n  HostName {address}\n" for name, address in wires.addresses.items())
    (folder / "ssh_config").write_text(f"{names}Host *\n  IdentityFile {folder}/own\n  {shared}")
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/own.pub\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PermitRootLogin yes\nSetEnv DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP={TCP_SECONDS}s\n"
    )
    with ExitStack() as stack:
        for name in wires.addresses:
            command = ["ip", "netns", "exec", name, SSHD, "-D", "-e", "-f", folder / "sshd_config"]
            server = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(server.terminate)
        time.sleep(0.5)
        yield f"ssh -F {folder}/ssh_config"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_link_is_cut_during_a_pass(tmp_path: Path) -> None:
    """20 ms and 1 % of the packets lost each way; a host that is cut off for longer than TCP waits comes back."""
    store = two_groups(tmp_path / "rows.zarr", 280_000)  # four partitions
    names = [f"h{os.getpid() % 100_000}{which}" for which in "ab"]
    with Wires(names, delay_seconds=0.02, loss=0.01) as wires, reached(wires, tmp_path) as ssh:
        hosts = Hosts(tmp_path, ssh, names)
        hosts.environment["DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP"] = f"{TCP_SECONDS}s"
        try:
            start = hosts.start("--address", wires.addresses[names[0]])
            assert start.returncode == 0, start.stderr
            log, worker = tmp_path / "fit.log", hosts.folder / names[1] / "worker.log"
            command = ["daskgmm", "fit", store, *FIT, "-o", tmp_path / "m.zarr"]
            command += ["--config", hosts.folder / "cluster.toml"]
            with log.open("w") as stderr:
                fit = subprocess.Popen(
                    [*map(str, command)], env=hosts.environment, stdout=subprocess.PIPE, text=True, stderr=stderr
                )
                until(lambda: passes_done(log) >= 3)
                wires.cut_off(names[1])
                back = time.monotonic() + TCP_SECONDS + 2
                local = hosts.run("daskgmm", "fit", store, *FIT, "-o", tmp_path / "local.zarr", "--workers", 1)
                time.sleep(max(0.0, back - time.monotonic()))
                wires.cut_off()
                result = json.loads(fit.communicate(timeout=60)[0])
                assert fit.returncode == 3, log.read_text()
                assert result["partitions"] == 4
            until(lambda: worker.read_text().count("Registered to") == 2)
            # (It logs its own address, whatever it listens on: without TLS, that must be this host's alone.)
            web = re.findall(r"dashboard at: +[\d.]+:(\d+)", worker.read_text())[-1]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((wires.addresses[names[1]], int(web)), timeout=20)
        finally:
            stop = hosts.stop()
        assert stop.returncode == 0, stop.stderr
        assert hosts.left() == []
    assert wires.n_cut > 0
    assert 0.005 < wires.n_lost / wires.n_packets < 0.02
    assert local.returncode == 3, local.stderr
    assert checksum(tmp_path / "m.zarr") == checksum(tmp_path / "local.zarr")
    assert not re.search(
        r"h\d+[ab]", subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    )
