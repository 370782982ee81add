"""Whether a process lives that noted once which one it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any


def this_process() -> dict[str, Any]:
    """Return what a process is known by: its number, its start, and the machine, or container, where both count."""
    try:
        space = f"{os.readlink('/proc/self/ns/pid')} {_read('/proc/sys/kernel/random/boot_id')}"
    except OSError:  # (no Linux)
        space = ""
    number = os.getpid()
    return {"host": socket.gethostname(), "space": space, "process": number, "process_began": _began(number)}


def is_alive(record: Mapping[str, Any]) -> bool | None:
    """Return whether the process of a record lives; None where it cannot be seen from here."""
    here = this_process()
    if (record["host"], record["space"]) != (here["host"], here["space"]):
        return None
    try:
        os.kill(record["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    # (Another process may have its number by now.)
    return bool(_began(record["process"]) == record["process_began"])


def _began(process: int) -> str:
    """Return when a process of this machine began, as Linux counts; "" of one that has ended, and elsewhere."""
    try:
        state, *others = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else others[18]


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().strip()
