"""Clusters of Dask's: one that a command starts and stops, or one that runs already and is joined."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from urllib.request import urlopen

import dask
from distributed import Client, LocalCluster
from distributed.comm.addressing import get_address_host_port
from distributed.security import Security

from daskgmm.errors import ClusterError, OptionError, verbatim
from daskgmm.passes.client_executor import workers_asked_for
from daskgmm.places.log import quiet
from daskgmm.places.lost import watched
from daskgmm.places.signals import interrupts
from daskgmm.places.starting import started_within
from daskgmm.places.tls import check_address, check_files
from daskgmm.places.versions import check_versions

#: A limit is a promise: nothing is spilled to disk or held back below it, and a worker beyond it is killed.
_MEMORY_CONFIG = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 1.0,
}
#: Control-C goes to every process of the terminal; this one then stops its workers in order.
_LEAVE_INTERRUPTS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
#: Workers are called 0, 1, ...; one that is started again keeps its name, and so its card.
_OWN_CARD = "def dask_setup(worker):\n    from daskgmm.passes.card import take_card\n    take_card(int(worker.name))\n"


#: Seconds that a scheduler file may be half written: a network file system shows it a while before what is in it.
_WRITTEN_WITHIN = 5.0


@contextmanager
def started(
    n_workers: int,
    *,
    memory_limit: int | None,
    timeout: float,
    security: Security,
    by_options: bool,
    own_cards: bool = False,
) -> Iterator[tuple[Client, str]]:
    """Provide a client of a cluster that is started, and stopped at the end, and what the log calls it.

    It has processes of one thread, listens on this machine alone, and has no dashboard. With `own_cards` each has a
    card of this machine to itself.

    Raises
    ------
    ClusterError
        There are no workers in time, or none any more.
    """
    check_files(security, "scheduler", "worker", "client", by_options=by_options)
    with quiet(), dask.config.set(_MEMORY_CONFIG), ExitStack() as stack:
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
                    memory_limit=memory_limit,
                    silence_logs=False,
                    protocol="tls://" if security.require_encryption else None,
                    security=security,
                    preload=[_LEAVE_INTERRUPTS, *([_OWN_CARD] if own_cards else [])],
                )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        left = max(1.0, deadline - time.monotonic())
        _wait_for_workers(client, n_workers, left, timeout, "the local cluster")
        with watched(client, timeout):
            yield client, f"{n_workers} worker process{'' if n_workers == 1 else 'es'}"


@contextmanager
def joined(
    address: str | None,
    file: str | None,
    *,
    timeout: float,
    security: Security,
    by_options: bool,
    upload: bool,
    said_by: str = "",
) -> Iterator[tuple[Client, str]]:
    """Provide a client of a scheduler that runs, at an address or at that in its file, and what the log calls it.

    With `upload` this package is sent to its workers where they lack it. `said_by` is where the address comes from, if
    it was not typed.

    Raises
    ------
    ClusterError
        It does not answer, or has no workers, in time; or not any more.
    """
    deadline = time.monotonic() + timeout
    # (Quiet once more: importing distributed has made its loggers.)
    with quiet(), _connected(address, file, deadline, timeout, security, by_options, said_by) as client:
        found = _address_of(client)
        _wait_for_workers(client, 1, max(1.0, deadline - time.monotonic()), timeout, found)
        check_versions(client, found, upload=upload)
        with watched(client, timeout):
            yield client, f"{_workers(len(client.nthreads()))} of {found}{_dashboard(client)}"


def _connected(
    given: str | None,
    file: str | None,
    deadline: float,
    timeout: float,
    security: Security,
    by_options: bool,
    said_by: str,
) -> Client:
    """Return a client of the scheduler that is joined; its file is read again until one answers, as it may be old."""
    check_files(security, "client", by_options=by_options)
    while True:
        address = given if given is not None else _address_in(str(file), deadline, timeout)
        try:
            _, port = get_address_host_port(address)
            if not 0 < port < 65536:
                raise ValueError("ports are 1 to 65535")
        except ValueError as error:
            raise OptionError(
                "`scheduler`", "be an address such as tcp://10.0.0.5:8786", f"{address!r} ({error})"
            ) from error
        check_address(security, address, by_options=by_options)
        left = max(0.1, deadline - time.monotonic())
        try:
            return _client(address, security, left)
        except OSError as error:
            if time.monotonic() < deadline - 0.2:
                time.sleep(0.2)
                continue
            raise ClusterError(
                "The scheduler",
                f"answer within {timeout:g} s",
                f"nothing from {address}{said_by}",
                "Check that it runs, and that its address and port are right and reachable from here; one with "
                "TLS wants `tls_ca_file`, `tls_cert` and `tls_key`.",
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


def _workers(n: int) -> str:
    return f"{n} worker{'' if n == 1 else 's'}"


def _dashboard(client: Client) -> str:
    """Return where the scheduler shows what it does, in brackets; nothing where it does not."""
    if "dashboard" not in client.scheduler_info(n_workers=0).get("services", {}):
        return ""
    # (A scheduler without bokeh, or whose pages are for its own machine, names an address where there are none.)
    with suppress(OSError, HTTPException, ValueError), urlopen(client.dashboard_link, timeout=1.0):  # noqa: S310 (as Dask says it)
        return f" (dashboard: {client.dashboard_link})"
    return ""


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
        f"At least {_workers(n_workers)}",
        f"join within {timeout:.0f} s",
        f"{found} at {address}",
        "Start workers (dask worker ADDRESS), look at their logs, or wait longer (`workers_timeout`).",
    )


def _address_in(path: str, deadline: float, timeout: float) -> str:
    """Return the address in a scheduler file, waiting for a scheduler that is about to write it, or is writing it."""
    half_written = min(deadline, time.monotonic() + _WRITTEN_WITHIN)
    while True:
        if not os.path.exists(path):
            if time.monotonic() > deadline:
                raise ClusterError(
                    "`scheduler_file`",
                    f"appear within {timeout:g} s",
                    f"nothing at {path}",
                    f"Start the scheduler with dask scheduler --scheduler-file {verbatim(path)}, or correct the path.",
                )
            half_written = min(deadline, time.monotonic() + _WRITTEN_WITHIN)
        elif not os.path.isfile(path):  # (a pipe might be waited for, for ever)
            raise OptionError("`scheduler_file`", "be a file", f"{path}, which is none", "Correct the path.")
        else:
            try:
                with open(path, encoding="utf-8") as file:
                    return str(json.load(file)["address"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                if not isinstance(error, OSError | ValueError) or time.monotonic() > half_written:
                    raise OptionError(
                        "`scheduler_file`",
                        "be the JSON that dask scheduler --scheduler-file writes",
                        f"{error!r} for {path}",
                        "Correct the path.",
                    ) from error
        time.sleep(0.1)
