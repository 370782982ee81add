"""Where the command line runs its passes: a local cluster that it starts and stops, a running one, or this process."""

from __future__ import annotations

import json
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import dask
from distributed import Client, LocalCluster
from distributed.comm.addressing import get_address_host_port
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

import daskgmm
from daskgmm.cli.lost import watched
from daskgmm.cli.starting import started_within
from daskgmm.cli.terminal import interrupts, quiet
from daskgmm.cli.tls import check_address, check_files, security_of
from daskgmm.data.executor import ClientExecutor, Executor, LocalExecutor, workers_asked_for
from daskgmm.errors import ClusterError, OptionError

Found = TypeVar("Found")

#: A limit is a promise: nothing is spilled to disk or held back below it, and a worker beyond it is killed.
_MEMORY_CONFIG = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 1.0,
}
#: Control-C goes to every process of the terminal; this one then stops its workers in order.
_LEAVE_INTERRUPTS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


#: Seconds that a scheduler file may be half written: a network file system shows it a while before what is in it.
_WRITTEN_WITHIN = 5.0


@dataclass(frozen=True)
class ClusterOptions:
    """What the user said of where to run.

    Attributes
    ----------
    scheduler, scheduler_file : str or None
        Address of a running scheduler, or the JSON file that it wrote; without either, a local cluster is started.
    workers : int or None
        Processes of the local cluster; None means one a core, and no more than there are partitions.
    memory_limit : int or None
        Bytes of each of them; None divides the memory of the machine.
    workers_timeout : float
        Seconds to wait for the scheduler and its first worker, also where all are lost later.
    scheduler_wait : float
        Seconds to wait for a scheduler that was lost, and for its first worker.
    tls_ca_file, tls_cert, tls_key : str or None
        Files of an authority, and of the certificate and key by which this side is known: all connections are
        encrypted then, and authenticated on both sides. None leaves it to Dask's own configuration.
    """

    scheduler: str | None = None
    scheduler_file: str | None = None
    workers: int | None = None
    memory_limit: int | None = None
    workers_timeout: float = 60.0
    scheduler_wait: float = 60.0
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        given = [f"--{n.replace('_', '-')}" for n in ("scheduler", "scheduler_file") if getattr(self, n) is not None]
        local = [f"--{n.replace('_', '-')}" for n in ("workers", "memory_limit") if getattr(self, n) is not None]
        if len(given) > 1:
            raise OptionError(f"Only one scheduler can be joined; got {' and '.join(given)}. Leave one of them out.")
        if given and local:
            raise OptionError(
                f"{' and '.join(local)} must be left out with {given[0]}, whose workers run already with limits of "
                "their own. They are for a local cluster."
            )

        files = {f"--{n.replace('_', '-')}": getattr(self, n) for n in ("tls_ca_file", "tls_cert", "tls_key")}
        lacking = [name for name, file in files.items() if file is None]
        if 0 < len(lacking) < len(files):
            raise OptionError(
                f"{' and '.join(lacking)} must be given too; got some of the three files of TLS. Name all of them."
            )
        if self.tls_by_options:
            check_files(self.security, "client", by_options=True)

    @property
    def tls_by_options(self) -> bool:
        """Whether connections are protected by what the options name, and not by Dask's configuration."""
        return self.tls_ca_file is not None

    @property
    def security(self) -> Security:
        """What connections are protected by."""
        return security_of(self.tls_ca_file, self.tls_cert, self.tls_key)

    @property
    def joins(self) -> bool:
        """Whether a running cluster is joined."""
        return self.scheduler is not None or self.scheduler_file is not None

    def n_processes(self, n_partitions: int) -> int:
        """Return the processes of a local cluster for so many partitions."""
        return self.workers or min(dask.system.CPU_COUNT, n_partitions)

    def local_limit(self, n_partitions: int) -> int | None:
        """Return the bytes that a local worker will have; None where a running cluster is joined."""
        if self.joins:
            return None
        return self.memory_limit or MEMORY_LIMIT // (1 if n_partitions == 1 else self.n_processes(n_partitions))


@dataclass(frozen=True)
class Machines:
    """Where passes run.

    Attributes
    ----------
    executor : Executor
    n_workers : int
        Worker processes; 0 where everything runs in this one.
    where : str
        For the log.
    """

    executor: Executor
    n_workers: int
    where: str
    _client: Client | None = None

    def peak_worker_bytes(self) -> int | None:
        """Return the largest resident memory that any worker has had since it started, bytes; None if unknown."""
        if self._client is None:
            return peak_bytes()
        try:
            peaks = self._client.run(peak_bytes).values()
        except OSError:
            return None
        return max((p for p in peaks if p is not None), default=None)


class LimitedExecutor(LocalExecutor):
    """Dask's scheduler in this process, with a limit on the memory that a task may take."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def memory_limit(self) -> int | None:
        return self._limit


@contextmanager
def machines(options: ClusterOptions, *, n_partitions: int) -> Iterator[Machines]:
    """Provide machines for passes over so many partitions, and stop what was started for it.

    Raises
    ------
    ClusterError
        No scheduler, or no workers in time.
    """
    if n_partitions == 1 and not options.joins:
        yield Machines(LimitedExecutor(options.local_limit(1)), 0, "this process")
    elif options.joins:
        # (Once more: importing distributed has made its loggers.)
        with quiet(), _joined(options) as client:
            n_workers, address = len(client.nthreads()), _address_of(client)
            with watched(client, options.workers_timeout):
                yield Machines(ClientExecutor(client), n_workers, f"{n_workers} workers of {address}", client)
    else:
        n_workers = options.n_processes(n_partitions)
        with quiet(), _started(n_workers, options) as client, watched(client, options.workers_timeout):
            yield Machines(ClientExecutor(client), n_workers, f"{n_workers} worker processes", client)


@contextmanager
def _started(n_workers: int, options: ClusterOptions) -> Iterator[Client]:
    """Start a cluster of processes of one thread that listens on this machine alone, without a dashboard."""
    security = options.security
    check_files(security, "scheduler", "worker", "client", by_options=options.tls_by_options)
    with dask.config.set(_MEMORY_CONFIG), ExitStack() as stack:
        timeout = options.workers_timeout
        deadline = time.monotonic() + timeout
        with interrupts.held():
            with started_within(timeout):
                cluster = LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    # Without a dashboard its port is still served, by default 8787, which another cluster may have.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    memory_limit=options.memory_limit or MEMORY_LIMIT // n_workers,
                    silence_logs=False,
                    protocol="tls://" if security.require_encryption else None,
                    security=security,
                    preload=[_LEAVE_INTERRUPTS],
                )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        left = max(1.0, deadline - time.monotonic())
        _wait_for_workers(client, n_workers, left, timeout, "the local cluster")
        yield client


@contextmanager
def _joined(options: ClusterOptions) -> Iterator[Client]:
    timeout = options.workers_timeout
    deadline = time.monotonic() + timeout
    with _connected(options, deadline) as client:
        address = _address_of(client)
        _wait_for_workers(client, 1, max(1.0, deadline - time.monotonic()), timeout, address)
        _check_versions(client, address)
        yield client


def _connected(options: ClusterOptions, deadline: float) -> Client:
    """Return a client of the scheduler that is joined; its file is read again until one answers, as it may be old."""
    timeout, security = options.workers_timeout, options.security
    check_files(security, "client", by_options=options.tls_by_options)
    while True:
        address = options.scheduler
        if address is None:
            address = _address_in(str(options.scheduler_file), deadline, timeout)
        try:
            _, port = get_address_host_port(address)
            if not 0 < port < 65536:
                raise ValueError("ports are 1 to 65535")
        except ValueError as error:
            raise OptionError(
                f"--scheduler must be an address such as tcp://10.0.0.5:8786; got {address!r} ({error})."
            ) from error
        check_address(security, address, by_options=options.tls_by_options)
        left = max(0.1, deadline - time.monotonic())
        try:
            return _client(address, security, left)
        except OSError as error:
            if time.monotonic() < deadline - 0.2:
                time.sleep(0.2)
                continue
            raise ClusterError(
                f"The scheduler must answer within {timeout:g} s; got nothing from {address}. Check that it runs, and "
                "that its address and port are right and reachable from here; one with TLS wants --tls-ca-file, "
                "--tls-cert and --tls-key."
            ) from error


def _client(address: str, security: Security, left: float) -> Client:
    """Return a client; an OSError where there is none in time.

    (Dask itself waits on where something takes the connection and then says nothing.)
    """
    found: list[Client | BaseException] = []

    def connect() -> None:
        try:
            found.append(Client(address, timeout=min(left, 5.0), set_as_default=False, security=security))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=connect, name="daskgmm-connect", daemon=True)
    thread.start()
    thread.join(left)
    if not found:
        raise TimeoutError(f"{address} takes connections and does not answer")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _address_of(client: Client) -> str:
    return str(client.scheduler_info(n_workers=0)["address"])


def _wait_for_workers(client: Client, n_workers: int, left: float, timeout: float, address: str) -> None:
    try:
        if workers_asked_for(client, left):
            client.wait_for_workers(n_workers, timeout=left)
            return
    except TimeoutError:
        pass
    found = len(client.nthreads())
    raise ClusterError(
        f"At least {n_workers} workers must join within {timeout:.0f} s; got {found} at {address}. Start workers "
        "(dask worker ADDRESS), look at their logs, or wait longer (--workers-timeout)."
    )


def _check_versions(client: Client, address: str) -> None:
    """Raise a ClusterError unless every worker has this version of daskgmm, and the packages that its tasks import."""
    # (A function of daskgmm's own could not be asked of a worker that lacks it.)
    found = client.run(pkgutil.resolve_name, "daskgmm:__version__", on_error="return")
    needed = client.run(pkgutil.resolve_name, "daskgmm.data.passes:__name__", on_error="return")
    for worker, version in [*found.items(), *((w, e) for w, e in needed.items() if isinstance(e, BaseException))]:
        if isinstance(version, OSError):
            continue  # (it is just being lost)
        if isinstance(version, BaseException):
            raise ClusterError(
                f"Workers must have daskgmm installed; got {type(version).__name__}: {version} from {worker} of "
                f"{address}. Install daskgmm {daskgmm.__version__}, and what it needs, where they run."
            )
        if version != daskgmm.__version__:
            raise ClusterError(
                f"Workers must run the daskgmm of this process, {daskgmm.__version__}; got {version} from {worker} of "
                f"{address}. Install the same version on both sides."
            )


def _address_in(path: str, deadline: float, timeout: float) -> str:
    """Return the address in a scheduler file, waiting for a scheduler that is about to write it, or is writing it."""
    half_written = min(deadline, time.monotonic() + _WRITTEN_WITHIN)
    while True:
        if not os.path.exists(path):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"--scheduler-file must appear within {timeout:g} s; got nothing at {path}. Start the scheduler "
                    f"with dask scheduler --scheduler-file {path}, or correct the path."
                )
            half_written = min(deadline, time.monotonic() + _WRITTEN_WITHIN)
        elif not os.path.isfile(path):  # (a pipe might be waited for, for ever)
            raise OptionError(f"--scheduler-file must be a file; got {path}, which is none. Correct the path.")
        else:
            try:
                with open(path, encoding="utf-8") as file:
                    return str(json.load(file)["address"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                if not isinstance(error, OSError | ValueError) or time.monotonic() > half_written:
                    raise OptionError(
                        "--scheduler-file must be the JSON that dask scheduler --scheduler-file writes; got "
                        f"{error!r} for {path}. Correct the path."
                    ) from error
        time.sleep(0.1)


def peak_bytes() -> int | None:
    """Return the largest resident memory of this process so far, bytes, or None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    # On Linux getrusage counts the parent's memory at the start too: only the others come here.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
