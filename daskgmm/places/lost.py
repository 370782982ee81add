"""Schedulers and workers that are lost while a command runs: how that is noticed, waited for and reported."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Any, TypeVar

from distributed import Client
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.comm.core import CommClosedError

from daskgmm.errors import ClusterError, DaskgmmError, SilentSchedulerError, causes_of
from daskgmm.fitting.option import flags
from daskgmm.places.log import say
from daskgmm.places.place import Place
from daskgmm.places.signals import interrupts

Found = TypeVar("Found")

#: What is raised where there is no connection to the scheduler any more.
_LOST = (FutureCancelledError, FuturesCancelledError, CommClosedError)

#: A connection that holds for less is no good one.
_QUICK_SECONDS = 10.0
#: Seconds between two looks at a cluster.
_ASK_EVERY = 5.0


@contextmanager
def watched(client: Client, patience: float) -> Iterator[None]:
    """End the block with a ClusterError where no worker took tasks, or no scheduler answered, for so many seconds.

    Dask would wait: another worker may join at any time, one that it has paused may find memory, and a scheduler that
    is stopped keeps its connections.
    """
    scheduler: Any = client.scheduler
    over, address, every = threading.Event(), scheduler.address, min(_ASK_EVERY, patience)

    def watch() -> None:
        since, n_wanted = None, 0
        while not over.wait(every):
            try:
                found = client.sync(scheduler.identity, callback_timeout=patience)["workers"].values()
            except TimeoutError:
                interrupts.end_with(
                    SilentSchedulerError(
                        "The scheduler",
                        "answer",
                        f"nothing from {address} for {patience:g} s",
                        "Look at its log, and run the same command again.",
                    )
                )
                return
            except OSError:
                continue  # the connection is lost, and whoever waits is told so
            # (A cluster that adapts stops workers that have nothing to do, and starts some when they have.)
            before = n_wanted
            n_wanted = sum(future.status == "pending" for future in list(client.futures.values()))
            idle = n_wanted > 0 and not any(_works(worker) for worker in found)
            if not idle or n_wanted < before:
                since = None
            if idle and since is None:
                since = time.monotonic()
                who = "All workers are paused, for lack of memory" if found else "There are no workers"
                say(f"{who}. Waiting up to {patience:g} s for one.", level=logging.WARNING)
            if since is not None and time.monotonic() - since >= patience:
                got, remedy = f"none at {address} for {patience:g} s", "Look at their logs, start some"
                if found:
                    got = f"none at {address} that Dask has not paused for {patience:g} s, as their memory is full"
                    remedy = "Give them more memory (dask worker --memory-limit), start them anew"
                remedy += ", and run the same command again; to wait longer: `workers_timeout`."
                interrupts.end_with(ClusterError("Workers", "be there until the end", got, remedy))
                return

    thread = threading.Thread(target=watch, name="daskgmm-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _works(worker: dict[str, Any]) -> bool:
    """Return whether a worker takes tasks, or has some that it ends."""
    return worker["status"] != "paused" or bool(worker["metrics"].get("task_counts", {}).get("executing"))


def carried_on(place: Place, run: Callable[[Place], Found]) -> Found:
    """Return what `run` gives; where the scheduler is lost meanwhile, wait for it to come back and run again.

    One that is lost within seconds, three times in succession, is given up.

    Parameters
    ----------
    run : callable
        Goes on from a checkpoint when it is called again.
    """
    n_quick = 0
    while True:
        began = time.monotonic()
        try:
            return run(place)
        except Exception as error:
            n_quick = n_quick + 1 if time.monotonic() - began < _QUICK_SECONDS else 0
            if not (place.joins and place.scheduler_wait > 0 and _is_lost(error)) or n_quick == 3:
                raise
            say(
                f"The scheduler was lost. Waiting up to {place.scheduler_wait:g} s for it and for a worker, to go on "
                f"from the checkpoint ({flags(type(place)).get('scheduler_wait', 'scheduler_wait')}).",
                level=logging.WARNING,
            )
            place = replace(place, workers_timeout=place.scheduler_wait)  # type: ignore[type-var]


def _is_lost(error: BaseException) -> bool:
    """Return whether an exception means that there is no connection to the scheduler any more."""
    before_ours = takewhile(lambda one: not isinstance(one, DaskgmmError), causes_of(error, contexts=True))
    return any(map(_says_lost, before_ours))  # (errors of ours have said what it means)


def _says_lost(error: BaseException) -> bool:
    # (The last is a plain OSError: from whatever is asked of a scheduler first after it has died.)
    return isinstance(error, _LOST) or (isinstance(error, OSError) and "trying to connect to" in str(error))


def explained(error: BaseException) -> DaskgmmError | None:
    """Return what an exception of distributed means to a user, or None where it is another one."""
    if _says_lost(error):
        return ClusterError(
            text="The scheduler and its workers must stay until the end; the connection to them was lost "
            f"({type(error).__name__}). Look at the scheduler's log, and run the same command again."
        )
    return None
