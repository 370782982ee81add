"""Reads that fail: which errors may pass, how often a read is retried, and the error in the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from daskgmm.errors import DaskgmmError, InputMissingError

Found = TypeVar("Found")

logger = logging.getLogger("daskgmm")

# Seconds before each further attempt to read after an error of network or device.
RETRY_SECONDS = (0.2, 1.0, 5.0)

_NETWORK_PACKAGES = frozenset({"aiohttp", "botocore", "aiobotocore", "obstore", "google", "azure"})


class Repeats(threading.local):
    """How many times a read has been tried again in this thread, since it began."""

    n = 0


repeats = Repeats()


class Fallible:
    """What asks a disk or a service, and may be asked again; messages call it by its `str`."""

    def __str__(self) -> str:
        return type(self).__name__

    def may_pass(self, error: Exception) -> bool:
        """Return whether an error may pass, so that it is worth to wait and to ask again."""
        lasting = FileNotFoundError | IsADirectoryError | NotADirectoryError
        return (isinstance(error, OSError) or unreachable(error)) and not (refused(error) or isinstance(error, lasting))

    def explain(self, error: Exception, start: int, stop: int) -> Exception:
        """Return the error that says what it means that these rows cannot be read; `error` where nothing is known."""
        if not (isinstance(error, OSError) or unreachable(error)):
            return error
        return InputMissingError(
            f"Rows {start} to {stop}",
            "be readable",
            f"{type(error).__name__} ({error}) from {self}",
            "Check path, permissions, disk and network, here and on the workers.",
        )


def retried(ask: Callable[[], Found], asked: Fallible, start: int, stop: int) -> Found:
    """Return the answer to a question about rows; errors that may pass are waited for, some times."""
    for attempt, seconds in enumerate((*RETRY_SECONDS, None), 1):
        try:
            return ask()
        except DaskgmmError:
            raise
        except Exception as error:
            # One handler for the exceptions of every codec and storage: their classes have no common root.
            if seconds is None or not asked.may_pass(error):
                explained = asked.explain(error, start, stop)
                if explained is error:
                    error.add_note(f"(while rows {start} to {stop} were read by {asked})")
                    raise
                raise explained from error
            logger.warning(
                "Rows %d to %d of %s could not be read (%s), attempt %d of %d: again in %g s.",
                start, stop, asked, type(error).__name__, attempt, len(RETRY_SECONDS) + 1, seconds,
            )  # fmt: skip
        repeats.n += 1
        time.sleep(seconds)
    raise AssertionError("unreachable: the last attempt returns or raises")


def refused(error: BaseException) -> bool:
    """Return whether an error of a store means that access was refused or that credentials are missing."""
    name, status = type(error).__name__, getattr(error, "status", None)
    return isinstance(error, PermissionError) or "Credential" in name or "Permission" in name or status in (401, 403)


def unreachable(error: BaseException) -> bool:
    """Return whether an error of a store may pass: the network or a device, not the bytes that were read."""
    if isinstance(error, OSError):
        # bz2 and gzip report damaged bytes as an OSError without a number.
        return error.errno is not None or isinstance(error, ConnectionError | TimeoutError)
    return type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES
