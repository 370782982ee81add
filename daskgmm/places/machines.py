"""What runs the passes of a command while it is open, and how much memory its processes have taken."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskgmm.passes.executor import Executor


#: Seconds that a scheduler may take to say how many workers it has.
_ASKED_FOR = 2.0


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
    client : distributed.Client or None
        Of the scheduler whose workers run them.
    """

    executor: Executor
    n_workers: int
    where: str
    client: Any = None

    def n_present(self) -> int | None:
        """Return the worker processes that there are now; None where that is not known in a moment."""
        if self.client is None:
            return self.n_workers
        try:
            return len(self.client.sync(self.client.scheduler.ncores, workers=None, callback_timeout=_ASKED_FOR))
        except Exception:  # (another thread closes the client, or there is no connection just now)
            return None

    def peak_worker_bytes(self) -> int | None:
        """Return the largest resident memory that any worker has had since it started, bytes; None if unknown."""
        if self.client is None:
            return peak_bytes()
        try:
            peaks = self.client.run(peak_bytes).values()
        except OSError:
            return None
        return max((p for p in peaks if p is not None), default=None)


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
