"""The start of worker processes on this machine, with a deadline: Dask itself waits for one that hangs for ever.

(Measured with distributed 2026.8: it waits without end for a worker that hangs while it starts. Its death_timeout ends
that with an AssertionError, leaves processes behind, and knows nothing of Control-C. At the floor, 2026.1.1, a worker
that dies while it starts is started again without end.)
"""

from __future__ import annotations

import multiprocessing
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from daskgmm.errors import ClusterError, OptionError, causes_of
from daskgmm.places.signals import interrupts

#: Seconds for a start that is under way when a signal comes: an ordinary one takes one or two.
_GRACE = 3.0


@contextmanager
def started_within(timeout: float) -> Iterator[None]:
    """Kill the processes that a block starts where it takes longer, or where a signal has come; end with ClusterError.

    Dask waits for its worker processes for ever, and for those that are starting even to stop them.

    Raises
    ------
    ClusterError
        The processes have not started within so many seconds, or one of them ended before it had.
    OptionError
        They refuse each other's certificates, or Dask's configuration holds what it does not take.
    """
    before, over, late = set(multiprocessing.active_children()), threading.Event(), threading.Event()

    def watch() -> None:
        deadline, hurried = time.monotonic() + timeout, False
        while not over.wait(0.1):
            if interrupts.came and not hurried:
                deadline, hurried = min(deadline, time.monotonic() + _GRACE), True
            if time.monotonic() > deadline:
                late.set()
                for process in set(multiprocessing.active_children()) - before:  # (again: Dask may have started others)
                    process.kill()

    thread = threading.Thread(target=watch, name="daskgmm-start", daemon=True)
    thread.start()
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise _misconfigured(error) from error
    except RuntimeError as error:
        if "failed to start" not in str(error):
            raise
        raise (_late(timeout) if late.is_set() else _ended(error)) from error
    finally:
        over.set()


def _late(timeout: float) -> ClusterError:
    return ClusterError(
        "Worker processes",
        f"start within {timeout:g} s",
        "some that had not",
        "See whether "
        f"{sys.executable} -c 'import daskgmm' hangs or the machine is busy, or wait longer (`workers_timeout`).",
    )


def _ended(error: BaseException) -> ClusterError | OptionError:
    *_, error = causes_of(error)
    if isinstance(error, ssl.SSLError):
        return OptionError(
            "The certificate of `tls_cert`, or of Dask's configuration,",
            "be a valid one of the authority",
            error,
            "Name a certificate and the file of its own authority (`tls_ca_file`).",
        )
    if isinstance(error, LookupError | TypeError | ValueError):
        return _misconfigured(error)
    return ClusterError(
        "Worker processes",
        "start",
        f"one that ended before it had ({error})",
        f"Look at what it wrote above, at Dask's configuration, and whether {sys.executable} -c 'import daskgmm' "
        "works.",
    )


def _misconfigured(error: BaseException) -> OptionError:
    return OptionError(
        "A cluster",
        "start with Dask's configuration as it is",
        f"{type(error).__name__}: {error!s:.80}",
        "Correct it: files such as ~/.config/dask/*.yaml, or variables of the environment that begin with DASK_.",
    )
