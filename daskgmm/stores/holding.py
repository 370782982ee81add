"""A folder that one process alone writes to, and holds by a lock that ends with it, however it ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # (Windows)
    fcntl = None  # type: ignore[assignment]

#: Name of the file that is locked. (A folder cannot be locked on NFS.)
LOCK = ".lock"

#: Of each folder that this process holds: the file that is locked, and how many hold it.
_held: dict[str, tuple[int | None, int]] = {}
_lock = threading.Lock()


class HeldError(Exception):
    """Another process holds the folder; the argument says which."""


@contextmanager
def held(folder: str) -> Iterator[None]:
    """Hold a folder while the block runs; it is made, and removed at the end if nothing else is in it.

    A process may hold one again that it holds. Where the file system has no locks, or the folder cannot be made, the
    block runs all the same: of two processes one is then told later, when it writes.

    Raises
    ------
    HeldError
        Another process holds it, also on another machine where the file system passes locks on, as NFS does.
    """
    if fcntl is None:
        yield
        return
    folder = os.path.realpath(folder)
    with _lock:
        locked, holders = _held.get(folder) or (_locked(folder), 0)
        _held[folder] = locked, holders + 1
    try:
        yield
    finally:
        with _lock:
            locked, holders = _held.pop(folder, (None, 1))
            if holders > 1:
                _held[folder] = locked, holders - 1
            else:
                _give_up(folder, locked)


def _give_up(folder: str, locked: int | None) -> None:
    if locked is not None:
        # (Removed while it is held; who opened it before sees that it is another one.)
        with suppress(OSError):
            os.unlink(os.path.join(folder, LOCK))
        os.close(locked)
    with suppress(OSError):
        os.rmdir(folder)


def _forget() -> None:
    """Leave the locks to the parent, in a forked child; they would last as long as it does."""
    global _lock
    _lock = threading.Lock()
    for locked, _ in _held.values():
        if locked is not None:
            os.close(locked)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _locked(folder: str) -> int | None:
    """Return the descriptor of the file that is locked, None where that cannot be."""
    path = os.path.join(folder, LOCK)
    for _ in range(100):  # (each time another process has just ended)
        try:
            with suppress(FileExistsError):
                os.mkdir(folder)
            found = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            if os.path.isdir(os.path.dirname(folder)):
                continue
            return None
        except OSError:
            return None
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(found), os.stat(path)):
                os.ftruncate(found, 0)
                os.write(found, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return found
        except BlockingIOError as error:
            who = os.read(found, 300).decode(errors="replace")
            os.close(found)
            raise HeldError(who) from error
        except FileNotFoundError:
            pass
        except OSError:
            os.close(found)
            return None
        os.close(found)
    return None
