"""A folder that one process alone writes to, and holds by a lock that ends with it, however it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # (Windows)
    fcntl = None  # type: ignore[assignment]

#: Name of the file that is locked. (A folder cannot be locked on NFS.)
LOCK = ".lock"

_held: set[str] = set()


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
    if folder in _held or fcntl is None:
        yield
        return
    locked = _locked(folder)
    _held.add(folder)
    try:
        yield
    finally:
        _held.remove(folder)
        if locked is not None:
            # (Removed while it is held; who opened it before sees that it is another one.)
            with suppress(OSError):
                os.unlink(os.path.join(folder, LOCK))
            os.close(locked)
        with suppress(OSError):
            os.rmdir(folder)


def _locked(folder: str) -> int | None:
    """Return the descriptor of the file that is locked, None where that cannot be."""
    path = os.path.join(folder, LOCK)
    for _ in range(100):  # (each time another process has just ended)
        try:
            with suppress(FileExistsError):
                os.mkdir(folder)
            found = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
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
