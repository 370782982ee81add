"""What is planned of a fit, and for which machines."""

from __future__ import annotations

from dataclasses import dataclass

from daskgmm.fitting.forecast import Forecast
from daskgmm.fitting.trial import Tried
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows

#: Share of its limit that a worker of a cluster may take: beyond, distributed moves results to disk, and holds tasks.
WORKER_SHARE = 0.7


@dataclass(frozen=True)
class Planned:
    """A fit that is planned.

    Attributes
    ----------
    rows, need : Rows, Need
        As tasks, and what these need, as memory allows.
    wanted : Need
        The same if memory were no matter.
    n_workers, n_threads : int
        Workers, and their threads; no workers where this process does all.
    worker_bytes, driver_bytes : int
        What a worker, and the process of the fit, take at peak.
    worker_limit : int or None
        Bytes that a worker may take.
    kept_bytes : int
        Decoded rows that stay in memory.
    tried : Tried
    forecast : Forecast
    startup : float
        Seconds that it took to have machines.
    """

    rows: Rows
    need: Need
    wanted: Need
    n_workers: int
    n_threads: int
    worker_bytes: int
    driver_bytes: int
    worker_limit: int | None
    kept_bytes: int
    tried: Tried
    forecast: Forecast
    startup: float
